"""P12: poison of every kind is kept aside with all that is known of it, and goes back when it reads."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
import pytest

from runstream import (
    DrainWorker,
    EncodingError,
    EventKind,
    JSONLCheckpointer,
    PAEvent,
    RedisCheckpointer,
    SQLiteCheckpointer,
    StoreUnavailable,
    create_event,
)
from runstream.codec import record as records
from runstream.codec.archive_entries import archive_entry
from runstream.codec.chain import next_chain
from runstream.codec.event_codec import Codec
from runstream.codec.field_checks import check_stored
from runstream.codec.record import FIELDS, record_crc
from runstream.drain.readback import find_mismatch
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, RunBatch, RunHeader
from runstream.model.results import Cursor
from runstream.repair.quarantine import Retried, retry
from runstream.stores.archive.jsonl import replaced_log
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.worker.load import LoadRequest
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import Backend, RedisBackend
from tests.support.commands import run
from tests.support.drain_tools import put_raw
from tests.support.operations import last_seq, operations_of
from tests.support.samples import sealed

Hot = RedisCheckpointer[Any, Any]
START = Cursor(0, 77)


@pytest.fixture(params=["sqlite", "jsonl"])
def archive(request: pytest.FixtureRequest, archives: list[Archive]) -> Archive:
    """An archive of either kind."""
    return archives[int(request.param == "jsonl")]


def open_again(archive: Archive) -> Archive:
    """As another process opens it."""
    kind, _, path = archive.location.partition(":")
    opened: Archive = SQLiteCheckpointer(path) if kind == "sqlite" else JSONLCheckpointer(path)
    return opened


POISON: dict[str, Callable[[bytes], bytes]] = {
    "a bit flipped in its body": lambda record: record[:-1] + bytes((record[-1] ^ 1,)),
    "a bit flipped in its checksum": lambda record: record[:2] + bytes((record[2] ^ 128,)) + record[3:],
    "a bit flipped in its version": lambda record: bytes((record[0] ^ 4,)) + record[1:],
    "truncated": lambda record: record[: len(record) // 2],
    "truncated to its head": lambda record: record[:5],
    "of another run": lambda record: sealed(1, record[5:], "other"),
    "of another program, JSON": lambda _: b'{"kind": "hello"}',
    "of another program, msgpack": lambda _: sealed(1, msgpack.packb({"kind": "hello"})),
    "of another program, other fields": lambda _: sealed(1, msgpack.packb([1, 2, 3, 4, 5, 6, 7, 8, 9])),
    "of another program, zeros": lambda _: bytes(64),
}


def emit(hot: Hot, run_id: str, count: int, first: int = 1) -> list[PAEvent]:
    events = [create_event(run_id, EventKind.TOOL_RESULT, seq=seq) for seq in range(first, first + count)]
    hot.save_events(events)
    return events


@pytest.fixture
def hot(make_backend: Callable[[str], Backend]) -> Hot:
    """A store on fakeredis."""
    backend = make_backend("fake")
    assert isinstance(backend, RedisBackend)
    store = backend.open()
    assert isinstance(store, RedisCheckpointer)
    return store


@pytest.mark.one_in(4)
@pytest.mark.parametrize("kind", POISON)
def test_poison_is_kept_aside_with_all_that_is_known_of_it(hot: Hot, archives: list[Archive], kind: str) -> None:
    """Run, offset, raw bytes, reason, time; counted; its neighbours are archived and it holds up nothing."""
    began = time.time()
    acknowledged = emit(hot, "r", 3)
    record = put_raw(hot, "r", POISON[kind])
    acknowledged += emit(hot, "r", 3, first=5)
    report = DrainWorker(hot, archives, trim="archived").drain_once()
    assert (report.events, report.quarantined, report.parked, report.trimmed) == (6, 1, 0, 7)
    check_archives(archives, {"r": acknowledged}, kept_aside=1)
    for archive in archives:
        with closing(open_again(archive)) as opened:
            ((run_id, entry),) = opened.quarantine()
            assert (run_id, entry.offset, entry.raw) == ("r", 4, record)
            assert entry.reason
            assert began - 1 <= entry.quarantined_at <= time.time() + 1
            assert next(opened.read_back("r", 4, 4)) == entry
            assert opened.position("r") == archive.position("r")


def test_a_record_of_a_newer_version_is_not_kept_aside_but_parks_its_run(
    hot: Hot, archives: list[Archive]
) -> None:
    """It reads for whoever is new enough: it stays in Redis, and all that comes after it."""
    acknowledged = emit(hot, "r", 2)
    put_raw(hot, "r", lambda record: sealed(2, record[5:]))
    emit(hot, "r", 2, first=4)
    report = DrainWorker(hot, archives, trim="archived").drain_once()
    assert (report.events, report.quarantined, report.parked, report.trimmed) == (2, 0, 1, 2)
    check_archives(archives, {"r": acknowledged})
    found = namespace_of(hot).status()
    assert "upgrade" in found.parked["r"]
    assert "`runstream unpark r`" in found.parked["r"]


def test_a_batch_of_nothing_but_poison_is_archived_and_trimmed(hot: Hot, archives: list[Archive]) -> None:
    records = [put_raw(hot, "r", make) for make in POISON.values()]
    report = DrainWorker(hot, archives, trim="archived", batch=3).drain_once()
    assert (report.events, report.quarantined, report.trimmed) == (0, len(POISON), len(POISON))
    for archive in archives:
        assert [entry.raw for _, entry in archive.quarantine("r")] == records
        assert archive.list_runs() == ["r"]


# -- what reads now goes back --------------------------------------------------------------------------


class Kept:
    """A run in an archive whose third and fifth record a former version could not read, though they are fine."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.events = [
            create_event(
                "r", EventKind.TOOL_RESULT, seq=seq, lane_id="b" if seq == 5 else "a", raw=b"\xff", key=f"k{seq}"
            )
            for seq in range(1, 7)
        ]
        keys = [f"k{seq}" if seq in (3, 4) else None for seq in range(1, 7)]
        codec: Codec[Any, Any] = Codec()
        self.entries: list[ArchiveEntry] = []
        last = START
        for encoded in codec.encode_events("r", self.events, keys):
            last = Cursor(last.offset + 1, next_chain(last.chain, record_crc(encoded.record)))
            self.entries.append(archive_entry("r", *last, encoded.record))
            if last.offset in (3, 5):
                self.entries[-1] = ArchiveEntry(
                    *last, None, None, encoded.record, "an older version did not know it"
                )
        damaged = self.entries[1]
        self.entries[1] = ArchiveEntry(
            *damaged.cursor, None, None, b"\x01\x00\x00\x00\x00 damaged", "its checksum"
        )
        header = RunHeader("r", START, "s", "completed", 5.0, 6.0)
        snapshot = ArchiveSnapshot(None, 6, 1, "t", '{"run_id":"r"}')
        archive.write([RunBatch(header, START, self.entries[:4])])
        archive.write([RunBatch(header, self.entries[3].cursor, self.entries[4:], [snapshot])])

    def offsets(self) -> list[int]:
        """Those of the events that are not kept aside."""
        with closing(open_again(self.archive)) as opened:
            return [entry.offset for entry in opened.read_back("r", 1, 100) if entry.data is not None]


@pytest.mark.one_in(2)
def test_what_reads_now_goes_back_to_its_place_and_the_rest_stays(archive: Archive) -> None:
    """Events, keys, lanes, status, snapshot are what they would have been; the raw bytes of the rest stay."""
    kept = Kept(archive)
    before = (archive.position("r"), archive.run_info("r"), archive.read_back_snapshots("r"))
    tried = list(retry(archive))
    assert [(one.run_id, one.offset, bool(one.reason)) for one in tried] == [
        ("r", 2, True),
        ("r", 3, False),
        ("r", 5, False),
    ]
    for opened in (archive, open_again(archive)):
        assert [item.event for item in opened.read("r", on_corrupt="skip")] == kept.events[:1] + kept.events[2:]
        assert (opened.position("r"), opened.run_info("r"), opened.read_back_snapshots("r")) == before
        assert opened.append("r", [create_event("r", "x")], keys=["k3"]).first_offset == 3
        assert opened.append("r", [create_event("r", "x")], keys=["k4"]).first_offset == 4
        assert [last_seq(opened, "r", lane) for lane in "ab"] == [6, 5]
        ((_, left),) = opened.quarantine()
        assert (left.offset, left.raw) == (2, kept.entries[1].raw)
        assert len(list(opened.read_back("r", 1, 6))) == 6
    assert list(retry(archive)) == [Retried("r", 2, tried[0].reason)]
    open_again(archive).append("r", [create_event("r", "later")])
    assert kept.offsets() == [1, 3, 4, 5, 6, 7]


def test_a_worker_proves_what_was_readmitted_against_what_redis_still_has(
    hot: Hot, archives: list[Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept aside by a version that could not read it, readmitted by this one: the same content as from Redis."""
    acknowledged = emit(hot, "r", 2)
    original = check_stored

    def older(values: Sequence[Any]) -> None:
        original(values)
        if values[FIELDS.index("seq")] == 3:
            raise EncodingError("this version does not know it")

    monkeypatch.setattr(records, "check_stored", older)
    monkeypatch.setattr(records, "check_all_stored", lambda events: list(map(older, events)))
    acknowledged += emit(hot, "r", 3, first=3)
    assert DrainWorker(hot, archives, trim="never").drain_once().quarantined == 1
    monkeypatch.undo()
    for archive in archives:
        assert [one.reason for one in retry(archive, "r", 3)] == [""]
    ((loaded),) = namespace_of(hot).load_entries([LoadRequest("r", 1, 5)])
    entries = [archive_entry("r", *cursor, record) for cursor, record in loaded.entries]
    assert [find_mismatch(archive, "r", entries, ()) for archive in archives] == [None, None]
    acknowledged += emit(hot, "r", 1, first=6)
    assert DrainWorker(hot, archives, trim="archived").drain_once().parked == 0
    check_archives(archives, {"r": acknowledged})


def test_only_what_was_asked_for_is_tried(archive: Archive) -> None:
    kept = Kept(archive)
    assert list(retry(archive, "nobody")) == []
    assert list(retry(archive, "r", 4)) == []
    assert list(retry(archive, "r", 5)) == [Retried("r", 5, "")]
    assert kept.offsets() == [1, 4, 5, 6]


def test_an_entry_of_another_history_is_not_readmitted(archive: Archive) -> None:
    """The run was made anew meanwhile, or another process has readmitted it."""
    kept = Kept(archive)
    entry = archive_entry("r", *kept.entries[2].cursor, kept.entries[2].raw or b"")
    assert not operations_of(archive).readmit("r", entry._replace(chain=entry.chain + 1))
    assert not operations_of(archive).readmit("r", entry._replace(offset=4))
    assert not operations_of(archive).readmit("nobody", entry)
    assert operations_of(archive).readmit("r", entry)
    assert not operations_of(archive).readmit("r", entry)


def test_of_a_branch_the_record_is_its_parents(archive: Archive) -> None:
    """Its checksum has the name that it was written under; the event gets the branch's."""
    kept = Kept(archive)
    header = RunHeader("r~6-1", START, "s", "running", 5.0, 6.0, parent=("r", 0))
    archive.write([RunBatch(header, START, kept.entries[1:2] and kept.entries[:3])])
    assert [one.reason == "" for one in retry(archive, "r~6-1")] == [False, True]
    (event,) = [item.event for item in archive.read("r~6-1", 2)]
    assert (event.run_id, event.span_id) == ("r~6-1", kept.events[2].span_id)


def test_a_disk_that_is_full_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSONL writes the log anew beside the old one: that fails at any step, and then it goes on."""
    with closing(JSONLCheckpointer[Any, Any](tmp_path)) as archive:
        kept = Kept(archive)
        log = tmp_path / "r" / "events.jsonl"
        before = log.read_bytes()
        for step in ("write_all", "sync", "sync_directory"):
            original = getattr(replaced_log, step)
            calls: list[int] = []

            def fail(*args: Any, original: Any = original, calls: list[int] = calls) -> Any:
                calls.append(1)
                raise OSError(28, "No space left on device")

            with monkeypatch.context() as patched:
                patched.setattr(replaced_log, step, fail)
                with pytest.raises(StoreUnavailable):
                    list(retry(archive, "r", 3))
                assert calls
            if step != "sync_directory":  # which comes after the renaming: it is there as a whole, or is not
                assert log.read_bytes() == before
        assert list(retry(archive, "r", 3)) in ([], [Retried("r", 3, "")])
        assert kept.offsets() == [1, 3, 4, 6]
        assert archive.delete_run("r")
        assert not log.parent.exists()


def test_a_reader_in_the_middle_of_a_log_that_is_rewritten_is_told(tmp_path: Path) -> None:
    """It never takes a piece of the one for a line of the other."""
    with closing(JSONLCheckpointer[Any, Any](tmp_path)) as archive:
        Kept(archive)
        reading = archive.read_back("r", 1, 6)
        assert list(retry(archive, "r", 3)) == [Retried("r", 3, "")]
        with pytest.raises(StoreUnavailable, match="rewritten"):
            list(reading)


def test_sqlite_moves_the_record_in_one_transaction(tmp_path: Path) -> None:
    """What fails in the middle changes nothing: the record is in the quarantine, or in the run, never in both."""
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "a.db")) as archive:
        kept = Kept(archive)
        with closing(sqlite3.connect(tmp_path / "a.db")) as file, file:
            file.execute("CREATE TRIGGER no BEFORE DELETE ON quarantine BEGIN SELECT RAISE(ABORT, 'no'); END")
        with pytest.raises(StoreUnavailable):
            list(retry(archive, "r", 3))
        assert kept.offsets() == [1, 4, 6]
        with closing(sqlite3.connect(tmp_path / "a.db")) as file, file:
            file.execute("DROP TRIGGER no")
        assert list(retry(archive, "r", 3)) == [Retried("r", 3, "")]


# -- the command line ----------------------------------------------------------------------------------


@pytest.mark.one_in(2)
def test_the_command_lists_shows_and_retries(archive: Archive) -> None:
    """Tables for people, JSON for programs; exit code 1 while something does not read."""
    kept = Kept(archive)
    url = archive.location
    said = run("quarantine", "--url", url, "--json")
    assert said.code == 0
    assert [(one["run_id"], one["offset"]) for one in said.document["records"]] == [("r", 2), ("r", 3), ("r", 5)]
    assert said.document["records"][1]["reason"] == "an older version did not know it"
    assert said.document["records"][1]["size"] == len(kept.entries[2].raw or b"")
    assert said.document["records"][1]["quarantined_at"].endswith("Z")
    table = run("quarantine", "list", "r", "--url", url, "--limit", "2")
    assert [line.split()[:2] for line in table.out.splitlines()[1:3]] == [["r", "2"], ["r", "3"]]
    assert "more than 2" in table.err

    said = run("quarantine", "show", "r", "3", "--url", url, "--json")
    assert (said.document["reads_now"], said.document["record_version"]) == (True, 1)
    assert "'tool.result'" in said.document["body"]
    shown = run("quarantine", "show", "r", "2", "--url", url).out
    assert "00000000  01 00 00 00 00 20 64 61  6d 61 67 65 64" in shown or "01 00 00 00 00 20 64" in shown
    assert "damaged|" in shown

    said = run("quarantine", "retry", "--url", url, "--json")
    assert (said.code, said.document["readmitted"], said.document["kept_aside"]) == (1, 2, 1)
    said = run("quarantine", "retry", "r", "5", "--url", url)
    assert (said.code, said.err) == (0, "")
    assert "checksum" in run("quarantine", "retry", "--url", url).out
    assert kept.offsets() == [1, 3, 4, 5, 6]
    assert json.loads(run("status", "--url", url, "--json").out)["quarantined"] == 1


def test_the_command_says_what_it_cannot_do(archive: Archive) -> None:
    Kept(archive)
    assert run("quarantine", "show", "r", "--url", archive.location).code == 2
    assert run("quarantine", "show", "r", "4", "--url", archive.location).code == 4
    assert run("quarantine", "--url", "fake:x").code == 2
    assert run("quarantine").code == 2
    assert run("quarantine", "--url", "sqlite:/nowhere/at/all.db").code == 2
