"""SQLite as a sink: whole batches, once each, with the chain that they came with."""

from __future__ import annotations

from pathlib import Path

import pytest

from runstream.codec.archive_entries import plain_entries
from runstream.codec.record import ERASED
from runstream.model.archive_records import ArchiveSnapshot, Position
from runstream.model.errors import (
    ArchiveGap,
    HistoryDiverged,
)
from runstream.model.events import PAEvent
from runstream.model.results import Cursor
from runstream.model.state import RunState
from runstream.stores.archive.sqlite import SQLiteCheckpointer
from tests.stores.archive.sqlite.database import (
    CODEC,
    START,
    Archive,
    batch_of,
    chained,
    dump,
    history,
    offsets,
    query,
)
from tests.support.operations import last_seq, operations_of
from tests.support.samples import RICH_VALUES, make_event, make_events, same


def test_a_batch_that_is_written_twice_is_kept_once(archive: Archive) -> None:
    entries = history("r", 5)
    batch = batch_of("r", entries)
    archive.write([batch])
    archive.write([batch, batch])
    archive.write([batch_of("r", entries[:2])])
    assert [found[:7] for found in archive.read_back("r", 1, 9)] == [entry[:7] for entry in entries]
    assert archive.position("r") == Position(entries[-1].cursor)


def test_a_batch_of_columns_is_written_as_its_entries_are(archive: Archive, tmp_path: Path) -> None:
    """What a drain hands on, made from the wire records of two lanes, one of them with a key."""
    events = [make_event("r", seq, lane_id=lane, ts=1.5) for seq, lane in enumerate("aabba", 1)]
    records = [event.record for event in CODEC.encode_events("r", events, [None, "k", None, None, None])]
    entries = chained("r", records, START)
    plain = plain_entries("r", [e.offset for e in entries], [e.chain for e in entries], records)
    assert plain is not None
    archive.write([batch_of("r", plain[:3])])
    archive.write([batch_of("r", plain, created_at=5.0)])
    with SQLiteCheckpointer[PAEvent, RunState](tmp_path / "other.db") as other:
        other.write([batch_of("r", entries[:3])])
        other.write([batch_of("r", entries, created_at=5.0)])
        for table in ("events", "lanes"):
            columns = "*" if table == "lanes" else "run_id, seq, ts, kind, lane_id, data, offset, chain, key"
            written = [
                query(Path(operations_of(each)._file.path), f"SELECT {columns} FROM {table}")
                for each in (archive, other)
            ]
            assert written[0] == written[1] != []
        assert [last_seq(archive, "r", lane) for lane in "ab"] == [5, 4]


def test_of_an_overlapping_batch_only_what_is_new_is_added(archive: Archive) -> None:
    entries = history("r", 6)
    archive.write([batch_of("r", entries[:4])])
    archive.write([batch_of("r", entries[2:], after=entries[1].cursor)])
    assert [entry.content for entry in archive.read_back("r", 1, 9)] == [entry.content for entry in entries]
    assert offsets(archive) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("refused", ["gap", "diverged"])
def test_a_batch_that_does_not_fit_writes_nothing_for_any_run(archive: Archive, path: Path, refused: str) -> None:
    entries = history("bad", 4)
    archive.write([batch_of("bad", entries[:2])])
    before = dump(path)
    if refused == "gap":
        bad = batch_of("bad", entries[3:], after=entries[2].cursor)
    else:
        bad = batch_of("bad", history("bad", 4, payload={"another": "history"}))
    with pytest.raises(ArchiveGap if refused == "gap" else HistoryDiverged):
        archive.write([batch_of("good", history("good", 2)), bad])
    assert dump(path) == before
    assert archive.position("good") is None


def test_what_is_read_back_equals_what_was_written(archive: Archive) -> None:
    rich = PAEvent("r", seq=3, payload=RICH_VALUES)
    records = [item.record for item in CODEC.encode_events("r", [*make_events("r", 2), rich])]
    entries = chained("r", [records[0], ERASED, b"\x01\xff\x00", records[2], b"", records[1]], START)
    entries[0] = entries[0]._replace(key="the key \x00 ü")
    archive.write([batch_of("r", entries)])
    assert [entry.content for entry in archive.read_back("r", 1, 6)] == [entry.content for entry in entries]
    assert [entry.offset for entry in archive.read_back("r", 2, 4)] == [2, 3, 4]
    loaded = list(archive.read("r", on_corrupt="skip"))
    assert [item.offset for item in loaded] == [1, 4, 6]
    assert same(loaded[1].event.payload, RICH_VALUES)


def test_reading_back_reads_the_file_and_not_what_was_kept_of_writing_it(archive: Archive, path: Path) -> None:
    archive.write([batch_of("r", history("r", 1, payload={"text": "what was written"}))])
    log = path.with_name(path.name + "-wal")
    content = log.read_bytes()
    assert b"what was written" in content
    log.write_bytes(content.replace(b"what was written", b"what the disk has"[:16]))
    (entry,) = archive.read_back("r", 1, 1)
    assert entry.is_damaged
    assert entry.raw is not None
    assert b"what the disk ha" in entry.raw


def test_entries_that_come_from_another_archive_are_taken(archive: Archive, tmp_path: Path, path: Path) -> None:
    archive.write([batch_of("r", history("r", 3, lane_id="a"))])
    copied = list(archive.read_back("r", 1, 3))
    with SQLiteCheckpointer(tmp_path / "copy.db") as other:
        other.write([batch_of("r", copied)])
        assert list(other.read_back("r", 1, 3)) == copied
    columns = "SELECT seq, ts, kind, lane_id FROM events"
    assert query(tmp_path / "copy.db", columns) == query(path, columns)


def test_a_run_may_start_after_a_base(archive: Archive) -> None:
    base = Cursor(10, 5)
    archive.write([batch_of("r", history("r", 3, start=base), after=base, start=base)])
    assert offsets(archive) == [11, 12, 13]
    info = archive.run_info("r")
    assert info is not None
    assert (info.first_hot, info.last_offset) == (11, 13)


def test_snapshots_of_run_and_lanes_are_kept_by_their_tokens(archive: Archive) -> None:
    own = ArchiveSnapshot(None, 1, 3, "token", '{"run_id":"r"}')
    lane = ArchiveSnapshot("main", 1, 1, "lane token", '{"run_id":"r","data":{"x":{"$tuple":[1]}}}')
    archive.write([batch_of("r", history("r", 1), snapshots=[lane, own])])
    assert list(archive.read_back_snapshots("r")) == [own, lane]
    position = archive.position("r")
    assert position is not None
    assert position.snapshots == {None: "token", "main": "lane token"}
    newer = own._replace(token="newer", data='{"run_id":"r","purpose":"newer"}')
    archive.write([batch_of("r", history("r", 1), snapshots=[newer, lane._replace(data="not written again")])])
    assert list(archive.read_back_snapshots("r")) == [newer, lane]
    snapshot = archive.load_snapshot("r", lane_id="main")
    assert snapshot is not None
    assert (snapshot.state.data, snapshot.offset) == ({"x": (1,)}, 1)


def test_a_worker_that_was_paused_does_not_turn_the_run_back(archive: Archive) -> None:
    entries = history("r", 3)
    archive.write([batch_of("r", entries, status="completed", session_id="s", created_at=1.0, updated_at=9.0)])
    archive.write([batch_of("r", entries[:2], status="running", updated_at=5.0)])
    info = archive.run_info("r")
    assert info is not None
    assert (info.status, info.session_id, info.created_at, info.updated_at) == ("completed", "s", 1.0, 9.0)


def test_a_run_goes_on_though_the_clock_was_set_back(archive: Archive) -> None:
    """By an event, and by a snapshot alone."""
    entries = history("r", 3)
    archive.write([batch_of("r", entries[:2], status="running", updated_at=9.0)])
    archive.write([batch_of("r", entries, status="completed", updated_at=5.0)])
    info = archive.run_info("r")
    assert info is not None
    assert (info.status, info.updated_at) == ("completed", 5.0)
    saved = ArchiveSnapshot(None, 3, 1, "token", '{"run_id":"r"}')
    archive.write([batch_of("r", entries, snapshots=[saved], status="failed", updated_at=4.0)])
    info = archive.run_info("r")
    assert info is not None
    assert info.status == "failed"


def test_the_quarantine_is_listed_by_run_or_as_a_whole(archive: Archive) -> None:
    for run_id in ("a", "b"):
        entries = chained(run_id, [b"\x01broken%d" % n for n in range(1500)], START)
        archive.write([batch_of(run_id, entries)])
    assert [run_id for run_id, _ in archive.quarantine()] == ["a"] * 1500 + ["b"] * 1500
    of_one = list(archive.quarantine("b"))
    assert [entry.offset for _, entry in of_one] == list(range(1, 1501))
    assert of_one[0][1].raw == b"\x01broken0"
    assert list(archive.quarantine("none")) == []
