"""What is special to the SQLite store: its file, purpose-agent's, and what it does as an archive."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from purpose_agent.runtime import checkpoint as foreign
from purpose_agent.runtime.checkpoint import SQLiteCheckpointer as ForeignCheckpointer
from purpose_agent.runtime.events import EventKind as ForeignKind
from purpose_agent.runtime.events import PAEvent as ForeignEvent
from purpose_agent.runtime.state import RunState as ForeignState
from purpose_agent.runtime.state import RunStatus as ForeignStatus

from runstream.codec.archive_entries import archive_entry, plain_entries
from runstream.codec.chain import next_chain
from runstream.codec.event_codec import Codec
from runstream.codec.record import ERASED, record_crc
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, Position, RunBatch, RunHeader
from runstream.model.errors import (
    ArchiveGap,
    ConcurrencyConflict,
    ConfigurationError,
    CorruptRecordError,
    EncodingError,
    HistoryDiverged,
    RunstreamError,
    StoreUnavailable,
    UnsupportedVersion,
)
from runstream.model.events import PAEvent
from runstream.model.protocols import RunStore, Sink
from runstream.model.results import Cursor
from runstream.model.state import RunState, RunStatus
from runstream.stores.archive.sqlite import SQLiteCheckpointer
from runstream.stores.archive.sqlite import checkpointer as sqlite_store
from tests.support.samples import RICH_VALUES, make_event, make_events, make_state, same

Archive = SQLiteCheckpointer[PAEvent, RunState]
Open = Callable[..., Archive]
CODEC: Codec[PAEvent, RunState] = Codec()
START = Cursor(0, 99)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def open_archive(path: Path) -> Iterator[Open]:
    """Open the archive, any number of times."""
    opened: list[Archive] = []

    def open_one(**options: Any) -> Archive:
        opened.append(SQLiteCheckpointer(path, **options))
        return opened[-1]

    yield open_one
    for archive in opened:
        archive.close()


@pytest.fixture
def archive(open_archive: Open) -> Archive:
    return open_archive()


def query(path: Path, sql: str, *parameters: Any) -> list[Any]:
    """What SQL of the test's own gives, around the store."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(sql, parameters).fetchall()
        connection.commit()
        return rows


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def offsets(archive: Archive, run_id: str = "r", **options: Any) -> list[int]:
    return [item.offset for item in archive.read(run_id, **options)]


class SelfClosing(sqlite3.Connection):
    """A connection that its ``with`` block closes, not only commits."""

    def __exit__(self, *error: object) -> Literal[False]:
        super().__exit__(*error)  # type: ignore[arg-type]  # handed through
        self.close()
        return False


@pytest.fixture(autouse=True)
def _purpose_agents_store_closes_its_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves them to the collector, which Python 3.13 warns of, in whichever test then runs."""
    closing_sqlite3 = SimpleNamespace(connect=partial(sqlite3.connect, factory=SelfClosing))
    monkeypatch.setattr(foreign, "sqlite3", closing_sqlite3)


def chained(run_id: str, records: Sequence[bytes], start: Cursor) -> list[ArchiveEntry]:
    """The entries that a drain worker would make of these records."""
    entries, last = [], start
    for record in records:
        last = Cursor(last.offset + 1, next_chain(last.chain, record_crc(record)))
        entries.append(archive_entry(run_id, *last, record))
    return entries


def history(run_id: str, count: int, *, start: Cursor = START, **fields: Any) -> list[ArchiveEntry]:
    events = make_events(run_id, count, **{"ts": 1.5, "span_id": "s", **fields})
    return chained(run_id, [event.record for event in CODEC.encode_events(run_id, events)], start)


def batch_of(run_id: str, entries: Sequence[ArchiveEntry], *, after: Cursor = START, **options: Any) -> RunBatch:
    snapshots = options.pop("snapshots", ())
    header = RunHeader(run_id, options.pop("start", START), **options)
    return RunBatch(header, after, entries, snapshots)


def run_script(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, warnings being errors; it must end well."""
    command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done


# -- purpose-agent's reader opens our file -----------------------------------------------------------------


def test_purpose_agent_reads_our_events_and_snapshot(archive: Archive, path: Path) -> None:
    events = make_events("r", 3, session_id="s", lane_id="a", payload={"text": "ünï", "n": [1, None]})
    state = make_state("r", data={"k": 1}, completed_nodes=["n"], status=RunStatus.PAUSED)
    archive.append("r", events, snapshot=state)

    theirs = ForeignCheckpointer(str(path))
    assert [event.to_dict() for event in theirs.list_events("r")] == [event.to_dict() for event in events]
    loaded = theirs.load_latest("r")
    assert (loaded.status, loaded.data, loaded.completed_nodes) == (ForeignStatus.PAUSED, {"k": 1}, ["n"])
    assert theirs.list_runs() == ["r"]


def test_purpose_agent_passes_over_what_was_erased_or_set_aside(archive: Archive, path: Path) -> None:
    events = CODEC.encode_events("r", make_events("r", 2))
    records = [events[0].record, ERASED, b"\x01junk", events[1].record]
    archive.write([batch_of("r", chained("r", records, START))])
    assert [event.seq for event in ForeignCheckpointer(str(path)).list_events("r")] == [1, 2]


# -- a file of purpose-agent's own -------------------------------------------------------------------------


def foreign_event(seq: int, **fields: Any) -> Any:
    return ForeignEvent("r", **{"seq": seq, "session_id": "s", "kind": ForeignKind.TOOL_RESULT, **fields})


def test_a_database_of_purpose_agent_is_upgraded_with_all_that_it_holds(open_archive: Open, path: Path) -> None:
    """Order of writing, seq 0, payloads that look like our tags, and not-a-number: all come back."""
    theirs = ForeignCheckpointer(str(path))
    payloads: list[dict[str, Any]] = [
        {"n": 1},
        {"$set": [1]},
        {"p": {"$dict": [["a", 1]]}, "q": 'say "$x"'},
        {"f": float("inf"), "i": 2**70, "t": "日本"},
    ]
    events = [
        foreign_event(seq, lane_id=lane, payload=payload)
        for seq, lane, payload in zip([0, 5, 0, 1], ["a", "a", "b", "b"], payloads, strict=True)
    ]
    for event in events:
        theirs.save_event(event)
    theirs.save_event(ForeignEvent("q", kind=ForeignKind.RUN_FINISHED))
    theirs.save_snapshot("r", ForeignState("r", data={"$set": [1]}, status=ForeignStatus.COMPLETED))

    archive = open_archive()
    loaded = list(archive.read("r"))
    assert [item.event.to_dict() for item in loaded] == [event.to_dict() for event in events]
    assert [item.offset for item in loaded] == [1, 2, 3, 4]
    assert archive.list_events("r", since_seq=0)[0].seq == 0
    snapshot = archive.load_snapshot("r")
    assert snapshot is not None
    assert (snapshot.offset, snapshot.revision, snapshot.state.data) == (0, 1, {"$set": [1]})
    info = archive.run_info("r")
    assert info is not None
    assert (info.session_id, info.status, info.last_offset) == ("s", "completed", 4)
    assert {run.run_id: run.status for run in archive.runs()} == {"r": "completed", "q": "completed"}
    assert query(path, "SELECT lane_id, last_offset FROM lanes WHERE run_id = 'r'") == [("a", 2), ("b", 4)]
    assert query(path, "PRAGMA user_version") == [(1,)]


def test_the_chain_of_adopted_events_is_that_of_their_records(open_archive: Open, path: Path) -> None:
    theirs = ForeignCheckpointer(str(path))
    events = [foreign_event(seq, payload={"n": seq}) for seq in range(3)]
    for event in events:
        theirs.save_event(event)
    archive = open_archive()
    ((start,),) = query(path, "SELECT start_chain FROM runs")
    expected = chained("r", [item.record for item in CODEC.encode_events("r", events)], Cursor(0, start))
    assert [entry.cursor for entry in archive.read_back("r", 1, 3)] == [entry.cursor for entry in expected]


def test_what_purpose_agent_adds_later_is_adopted_at_the_next_open(open_archive: Open, path: Path) -> None:
    archive = open_archive()
    archive.save_events(make_events("r", 2))
    theirs = ForeignCheckpointer(str(path))
    theirs.save_event(foreign_event(3))
    theirs.save_event(ForeignEvent("new", kind=ForeignKind.RUN_STARTED))
    archive.save_event(make_event("r", 9))  # a writer that was open all the while
    assert offsets(archive) == [1, 2, 3]

    reopened = open_archive()
    assert [event.seq for event in reopened.list_events("r")] == [1, 2, 9, 3]
    assert offsets(reopened, "new") == [1]
    before = dump(path)
    open_archive()
    assert dump(path) == before


def test_more_foreign_rows_than_a_page_are_adopted_in_order(open_archive: Open, path: Path) -> None:
    ForeignCheckpointer(str(path))
    with closing(sqlite3.connect(path)) as connection:
        rows = ((f"r{n % 2}", n, f'{{"run_id":"r{n % 2}","seq":{n},"ts":1.0,"kind":"x"}}') for n in range(2500))
        connection.executemany("INSERT INTO events (run_id, seq, ts, kind, data) VALUES (?, ?, 1.0, 'x', ?)", rows)
        connection.commit()
    archive = open_archive()
    for parity in (0, 1):
        assert [event.seq for event in archive.list_events(f"r{parity}")] == list(range(parity, 2500, 2))


@pytest.mark.parametrize(
    "broken",
    [
        '{"run_id":',
        "[1]",
        '{"run_id": "other", "kind": "x", "ts": 1}',
        '{"run_id": "r", "ts": 1}',
        "[" * 100_000,
        b"\xff\x00",
    ],
)
def test_a_foreign_row_that_does_not_read_is_set_aside_and_keeps_its_place(
    open_archive: Open, path: Path, broken: str | bytes
) -> None:
    theirs = ForeignCheckpointer(str(path))
    theirs.save_event(foreign_event(1))
    query(path, "INSERT INTO events (run_id, seq, ts, kind, data) VALUES ('r', 2, 1.0, 'x', ?)", broken)
    theirs.save_event(foreign_event(3))

    archive = open_archive()
    assert offsets(archive, on_corrupt="skip") == [1, 3]
    ((run_id, entry),) = archive.quarantine()
    raw = broken.encode() if isinstance(broken, str) else broken
    assert (run_id, entry.offset, entry.raw, entry.data) == ("r", 2, raw, None)
    assert entry.reason
    with pytest.raises(CorruptRecordError) as caught:
        list(archive.read("r"))
    assert (caught.value.run_id, caught.value.offset, caught.value.raw) == ("r", 2, raw)


def test_a_snapshot_that_purpose_agent_puts_in_place_of_ours_is_read_at_once(archive: Archive, path: Path) -> None:
    archive.append("r", make_events("r", 2), snapshot=make_state("r", data={"by": "us"}))
    theirs = ForeignCheckpointer(str(path))
    theirs.save_snapshot("r", ForeignState("r", data={"$tuple": ["them"]}))
    # it is another one than this store knows
    with pytest.raises(ConcurrencyConflict):
        archive.append("r", [], snapshot=make_state("r"))
    state = archive.load_latest("r")
    assert state is not None
    assert state.data == {"$tuple": ["them"]}
    archive.append("r", [], snapshot=make_state("r", data={"by": "us again"}))
    assert theirs.load_latest("r").data == {"by": "us again"}


def test_a_foreign_snapshot_is_the_same_one_before_and_after_it_is_adopted(open_archive: Open, path: Path) -> None:
    archive = open_archive()
    ForeignCheckpointer(str(path)).save_snapshot("r", ForeignState("r"))
    archive.load_latest("r")
    open_archive()
    archive.append("r", [], snapshot=make_state("r"))


def test_a_foreign_snapshot_that_does_not_read_is_reported(open_archive: Open, path: Path) -> None:
    ForeignCheckpointer(str(path))
    query(path, "INSERT INTO snapshots (run_id, state) VALUES ('r', '{')")
    archive = open_archive()
    with pytest.raises(CorruptRecordError):
        archive.load_latest("r")
    archive.save_snapshot("r", make_state("r"))
    assert archive.load_latest("r") is not None


# -- a store of its own ------------------------------------------------------------------------------------


def test_it_is_a_store_and_a_sink(archive: Archive, path: Path) -> None:
    assert isinstance(archive, RunStore)
    assert isinstance(archive, Sink)
    assert archive.location == f"sqlite:{path}"


def test_the_archive_keeps_its_id_and_no_other_archive_has_it(open_archive: Open, tmp_path: Path) -> None:
    with SQLiteCheckpointer(tmp_path / "other.db") as other:
        assert open_archive().archive_id == open_archive().archive_id != other.archive_id


def test_writes_are_synced_and_readers_do_not_block(archive: Archive) -> None:
    with archive._file.use() as connection:
        in_force = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
        }
    assert in_force == {"journal_mode": "wal", "synchronous": 2}


def test_the_chain_of_an_append_is_that_of_its_records(archive: Archive, path: Path) -> None:
    events = make_events("r", 3)
    archive.append("r", events[:1])
    cursor = archive.append("r", events[1:]).cursor
    ((start,),) = query(path, "SELECT start_chain FROM runs")
    expected = chained("r", [item.record for item in CODEC.encode_events("r", events)], Cursor(0, start))
    stored = query(path, "SELECT offset, chain, data FROM events ORDER BY id")
    assert stored == [(entry.offset, entry.chain, entry.data) for entry in expected]
    assert cursor == str(expected[-1].cursor)


def test_an_event_that_json_cannot_hold_is_refused_and_nothing_is_written(archive: Archive) -> None:
    """Msgpack holds 500 levels; JSON with tags does not below a deep stack."""
    deep: Any = ()
    for _ in range(250):
        deep = [{"a": deep}]

    def below(levels: int) -> None:
        if levels:
            below(levels - 1)
        else:
            archive.save_events([make_event("r", payload={"x": deep})])

    with pytest.raises(EncodingError):
        below(300)
    assert archive.run_info("r") is None


def test_an_archive_holds_all_of_its_runs(archive: Archive) -> None:
    archive.save_events(make_events("r", 2, session_id="s"))
    info = archive.run_info("r")
    assert info is not None
    assert (info.last_offset, info.archived_offset, info.first_hot) == (2, 2, 1)
    assert archive.run_info("none") is None


def test_runs_are_filtered_and_limited_newest_first(open_archive: Open) -> None:
    now = iter(range(100))
    archive = open_archive(clock=lambda: float(next(now)))
    for number in range(4):
        archive.save_event(make_event(f"r{number}", session_id="even" if number % 2 == 0 else "odd"))
    archive.save_snapshot("r1", make_state("r1", status=RunStatus.FAILED))
    assert archive.list_runs() == ["r1", "r3", "r2", "r0"]
    assert [info.run_id for info in archive.runs(limit=2)] == ["r1", "r3"]
    assert [info.run_id for info in archive.runs(session_id="even")] == ["r2", "r0"]
    assert [info.run_id for info in archive.runs(status=RunStatus.FAILED)] == ["r1"]
    assert [info.run_id for info in archive.runs(updated_after=2.0)] == ["r1", "r3"]


def test_deleting_a_run_leaves_nothing_of_it_in_any_table(archive: Archive, path: Path) -> None:
    empty = dump(path)
    snapshots = [ArchiveSnapshot(lane, 2, 1, "t", '{"run_id":"r"}') for lane in (None, "main")]
    archive.write([batch_of("r", [*history("r", 1), ArchiveEntry(2, 5, None, None, b"raw")], snapshots=snapshots)])
    assert archive.delete_run("r")
    assert not archive.delete_run("r")
    without_counter = [line for line in dump(path) if "sqlite_sequence" not in line]
    assert without_counter == [line for line in empty if "sqlite_sequence" not in line]


@pytest.mark.parametrize("damage", ["{", "[1]", b"\x00\xff", '{"$set": 1}', ""])
def test_a_damaged_event_is_reported_and_its_neighbours_are_read(
    archive: Archive, path: Path, damage: str | bytes
) -> None:
    archive.save_events(make_events("r", 3))
    query(path, "UPDATE events SET data = ? WHERE offset = 2", damage)
    assert offsets(archive, on_corrupt="skip") == [1, 3]
    with pytest.raises(CorruptRecordError) as caught:
        list(archive.read("r"))
    assert (caught.value.run_id, caught.value.offset) == ("r", 2)


def test_a_text_that_is_not_utf8_is_damage_too(archive: Archive, path: Path) -> None:
    archive.save_events(make_events("r", 3))
    query(path, "UPDATE events SET data = CAST(x'22ff22' AS TEXT) WHERE offset = 2")
    assert offsets(archive, on_corrupt="skip", reverse=True) == [3, 1]
    assert next(archive.read_back("r", 2, 2)).raw == b'"\xff"'


def test_a_reader_holds_up_no_writer_between_items(open_archive: Open) -> None:
    reader, writer = open_archive(), open_archive(busy_timeout_seconds=0.0)
    writer.save_events(make_events("r", 2500))
    found = reader.read("r")
    first = next(found)
    writer.save_event(make_event("r", 2501))
    assert query(Path(writer._file.path), "PRAGMA wal_checkpoint(TRUNCATE)") == [(0, 0, 0)]
    assert [first.offset, *(item.offset for item in found)] == list(range(1, 2501))
    assert offsets(reader, reverse=True) == list(range(2501, 0, -1))


def test_pages_are_found_by_index_and_not_by_sorting_or_scanning(archive: Archive) -> None:
    place = {"run_id": "r", "low": 0, "high": 9, "rows": 5}
    plans = []
    with archive._file.use() as connection:
        for sql in sqlite_store._GET_ENTRIES + sqlite_store._GET_ENTRIES_BACK:
            plans += connection.execute(f"EXPLAIN QUERY PLAN {sql}", place).fetchall()
        plans += connection.execute(f"EXPLAIN QUERY PLAN {sqlite_store._GET_STATE}", ("r", None)).fetchall()
    steps = [step for *_, step in plans]
    assert not [step for step in steps if "TEMP B-TREE" in step or step.startswith(("SCAN events", "SCAN snap"))]


def test_threads_share_one_store(archive: Archive) -> None:
    def work(lane: str) -> None:
        for seq in range(50):
            archive.save_event(make_event("r", seq, lane_id=lane))
            assert archive.run_info("r") is not None

    threads = [threading.Thread(target=work, args=(f"lane{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert offsets(archive) == list(range(1, 201))


# -- a sink ------------------------------------------------------------------------------------------------


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
            written = [query(Path(each._file.path), f"SELECT {columns} FROM {table}") for each in (archive, other)]
            assert written[0] == written[1] != []
        assert [archive.last_seq("r", lane) for lane in "ab"] == [5, 4]


def test_a_page_shows_one_moment(archive: Archive, path: Path) -> None:
    """A record that is readmitted while the page is read is in one of its two tables."""
    entries = history("r", 3)
    archive.write([batch_of("r", [entries[0], entries[1]._replace(data=None, raw=b"raw"), entries[2]])])
    with SQLiteCheckpointer[PAEvent, RunState](path) as other, archive._file.use() as connection:

        def readmit(statement: str) -> None:
            if "FROM quarantine" in statement:
                connection.set_trace_callback(None)
                assert other.readmit("r", entries[1])

        connection.set_trace_callback(readmit)
        assert [entry.raw for entry in archive.read_back("r", 1, 3)] == [None, b"raw", None]
        assert [entry.raw for entry in archive.read_back("r", 1, 3)] == [None, None, None]


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
    assert entry.data is not None
    assert "what the disk ha" in entry.data


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


def test_the_quarantine_is_listed_by_run_or_as_a_whole(archive: Archive) -> None:
    for run_id in ("a", "b"):
        entries = chained(run_id, [b"\x01broken%d" % n for n in range(1500)], START)
        archive.write([batch_of(run_id, entries)])
    assert [run_id for run_id, _ in archive.quarantine()] == ["a"] * 1500 + ["b"] * 1500
    of_one = list(archive.quarantine("b"))
    assert [entry.offset for _, entry in of_one] == list(range(1, 1501))
    assert of_one[0][1].raw == b"\x01broken0"
    assert list(archive.quarantine("none")) == []


# -- what cannot be opened, or not written -----------------------------------------------------------------


def test_a_newer_schema_is_refused_and_left_alone(open_archive: Open, path: Path) -> None:
    open_archive().close()
    query(path, "PRAGMA user_version = 2")
    with pytest.raises(UnsupportedVersion) as caught:
        open_archive()
    assert (caught.value.found, caught.value.supported) == (2, 1)


def test_a_file_that_is_no_database_is_refused_by_name(open_archive: Open, path: Path) -> None:
    path.write_bytes(b"a letter, not a database" * 100)
    with pytest.raises(ConfigurationError, match=r"runs\.db is not a SQLite database") as caught:
        open_archive()
    assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)
    assert path.read_bytes() == b"a letter, not a database" * 100


@pytest.mark.parametrize("table", ["runs (id)", "events (id, what)", "archive (id, run_id)"])
def test_another_programs_database_is_refused_and_left_alone(open_archive: Open, path: Path, table: str) -> None:
    query(path, f"CREATE TABLE {table}")
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="another program"):
        open_archive()
    assert path.read_bytes() == before


def test_a_path_that_cannot_be_a_file_is_refused(tmp_path: Path) -> None:
    for wrong in (tmp_path, tmp_path / "missing" / "runs.db", "", ":memory:", "a\0b"):
        with pytest.raises(ConfigurationError):
            SQLiteCheckpointer(wrong)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def test_a_file_that_stays_locked_is_unavailable_and_the_same_call_can_be_repeated(
    open_archive: Open, path: Path
) -> None:
    archive = open_archive(busy_timeout_seconds=0.05)
    with locked(path):
        with pytest.raises(StoreUnavailable) as caught:
            archive.save_event(make_event("r"))
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        with pytest.raises(StoreUnavailable):
            archive.delete_run("r")
        assert archive.run_info("r") is None  # readers go on
    archive.save_event(make_event("r"))
    assert offsets(archive) == [1]


def test_a_foreign_file_that_stays_locked_cannot_be_upgraded_now(open_archive: Open, path: Path) -> None:
    query(path, "CREATE TABLE notes (x)")
    with locked(path), pytest.raises(StoreUnavailable):
        open_archive(busy_timeout_seconds=0.05)
    open_archive()


def test_a_full_disk_is_unavailable_and_nothing_of_the_batch_is_kept(archive: Archive, path: Path) -> None:
    archive.write([batch_of("r", history("r", 2))])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))  # the files of this process cannot grow beyond
    try:
        with pytest.raises(StoreUnavailable):
            archive.write([batch_of("big", history("big", 3000, payload={"text": "x" * 300}))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert archive.position("big") is None
    assert offsets(archive) == [1, 2]
    archive.write([batch_of("big", history("big", 3000, payload={"text": "x" * 300}))])
    assert len(offsets(archive, "big")) == 3000
    assert query(path, "PRAGMA integrity_check") == [("ok",)]


# -- durable ------------------------------------------------------------------------------------------------


def settings(archive: Archive) -> dict[str, Any]:
    """How the connection of now commits: 2 is FULL."""
    names = ("journal_mode", "synchronous", "fullfsync")
    with archive._file.use() as connection:
        return {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names}


def test_every_connection_syncs_what_it_commits(open_archive: Open, path: Path) -> None:
    """The first, on a file that another program made in another mode; one after a fork; one after a failure."""
    ForeignCheckpointer(str(path)).save_event(foreign_event(1))
    query(path, "PRAGMA journal_mode = DELETE")
    archive = open_archive()
    durable = {"journal_mode": "wal", "synchronous": 2, "fullfsync": 1}
    assert settings(archive) == durable
    archive._file.before_fork()
    query(path, "PRAGMA journal_mode = TRUNCATE")  # nobody has it open: it can be changed
    archive._file.after_fork()
    assert settings(archive) == durable
    with archive._file.use() as connection:
        connection.execute("PRAGMA synchronous = OFF")
    with pytest.raises(StoreUnavailable), archive._file.use() as connection:
        connection.execute("SELECT * FROM what_is_not_there")
    assert settings(archive) == durable


def test_the_log_is_on_the_disk_before_the_file_is_opened_and_its_name_too(
    open_archive: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite takes for committed what it finds in a log, also if its writer never came to sync it."""
    open_archive().save_event(make_event("r"))
    log, order = path.with_name(path.name + "-wal").stat().st_ino, []
    fsync, advise, connect = os.fsync, os.posix_fadvise, sqlite3.connect

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noting(first: Any, *rest: Any, **options: Any) -> Any:
            order.append((name, os.fstat(first).st_ino if isinstance(first, int) else 0))
            return call(first, *rest, **options)

        return noting

    for module, name, call in ((os, "fsync", fsync), (os, "posix_fadvise", advise), (sqlite3, "connect", connect)):
        monkeypatch.setattr(module, name, noted(name, call))
    open_archive()
    expected = [("fsync", log), ("posix_fadvise", log), ("connect", 0), ("fsync", path.parent.stat().st_ino)]
    assert order == expected


def test_the_integrity_is_checked_from_the_disk(
    archive: Archive, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda handle, *_: dropped.append(os.fstat(handle).st_ino))
    archive.write([batch_of("r", history("r", 3))])
    assert dropped == []
    archive.check_integrity()
    assert dropped == [path.with_name(path.name + "-wal").stat().st_ino]


def test_an_archive_that_a_link_leads_to_is_watched_where_it_lies(open_archive: Open, path: Path) -> None:
    place = path.parent / "elsewhere"
    place.mkdir()
    path.symlink_to(place / "real.db")
    archive = open_archive()
    archive.save_event(make_event("r"))
    (place / "real.db-wal").unlink()
    with pytest.raises(StoreUnavailable, match="-wal was removed"):
        archive.position("r")
    assert offsets(archive) == [1]
    SQLiteCheckpointer(place / "other.db").close()
    path.unlink()
    path.symlink_to(place / "other.db")
    with pytest.raises(StoreUnavailable, match="was replaced"):
        archive.position("r")
    with pytest.raises(StoreUnavailable, match="is not the archive"):
        archive.position("r")
    path.unlink()
    path.symlink_to(place / "real.db")
    assert offsets(archive) == [1]


# -- its integrity, its older versions ----------------------------------------------------------------------


def test_the_integrity_of_the_file_is_checked(open_archive: Open, path: Path) -> None:
    archive = open_archive()
    archive.write([batch_of("r", history("r", 200, payload={"text": "x" * 200}))])
    assert archive.check_integrity() == []
    theirs = ForeignCheckpointer(str(path))
    theirs.save_event(foreign_event(1))
    theirs.save_event(foreign_event(2))
    (found,) = archive.check_integrity()
    assert found == "run 'r' has 2 events of another program that have no offset yet"
    archive.close()
    archive = open_archive()  # which adopts them
    assert archive.check_integrity() == []
    ((page,),) = query(path, "SELECT rootpage FROM sqlite_master WHERE name = 'events_by_offset'")
    archive.close()
    with path.open("rb+") as file:
        file.seek((page - 1) * 4096)
        file.write(bytes(4096))
    found = " ".join(open_archive().check_integrity())
    assert "malformed" in found or "events_by_offset" in found or "page" in found


def test_a_file_of_an_earlier_version_gets_in_place_what_came_later(open_archive: Open, path: Path) -> None:
    """Before there were leases and an index of keys; what it holds stays."""
    archive = open_archive()
    archive.append("r", make_events("r", 3), keys=["a", None, "b"])
    names, before = query(path, "SELECT name FROM sqlite_master ORDER BY name"), list(archive.read("r"))
    uuid = archive.archive_id
    archive.close()
    query(path, "DROP TABLE leases")
    query(path, "DROP INDEX events_by_key")
    archive = open_archive()
    assert query(path, "SELECT name FROM sqlite_master ORDER BY name") == names
    assert (archive.archive_id, list(archive.read("r"))) == (uuid, before)
    assert archive.append("r", make_events("r", 1), keys=["b"]).last_offset == 3
    with archive.lease("r", owner="me"):
        pass
    assert archive.check_integrity() == []


def test_many_writers_of_one_file_all_get_their_turn(path: Path, open_archive: Open) -> None:
    """Processes with threads, each as fast as it can: no one waits so long that it gives up."""
    script = """
import sys, threading
from runstream.model.events import PAEvent
from runstream.stores.archive.sqlite import SQLiteCheckpointer
store = SQLiteCheckpointer(sys.argv[1], busy_timeout_seconds=20)
failed = []

def work(run_id):
    try:
        for turn in range(10):
            store.save_events([PAEvent(run_id, seq=100 * turn + n) for n in range(100)])
    except BaseException as error:  # in a thread, where it would be printed and forgotten
        failed.append(error)

threads = [threading.Thread(target=work, args=(f"{sys.argv[2]}-{n}",)) for n in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failed, failed
"""
    writers = [subprocess.Popen([sys.executable, "-c", script, str(path), str(n)]) for n in range(3)]
    for writer in writers:
        assert writer.wait(100) == 0
    archive = open_archive()
    assert sorted(archive.list_runs()) == sorted(
        f"{process}-{thread}" for process in range(3) for thread in range(2)
    )
    for run_id in archive.list_runs():
        assert [event.seq for event in archive.list_events(run_id)] == list(range(1000))
    assert archive.check_integrity() == []


# -- closing, pickling, forking, being killed --------------------------------------------------------------


def test_a_closed_store_says_so(archive: Archive) -> None:
    archive.save_event(make_event("r"))
    archive.close()
    archive.close()
    with pytest.raises(ConfigurationError, match="closed"):
        archive.save_event(make_event("r"))
    with pytest.raises(ConfigurationError, match="closed"):
        archive.run_info("r")


def test_it_pickles_by_its_arguments(open_archive: Open, path: Path) -> None:
    archive = open_archive(fallback=str, max_event_bytes=200)
    archive.save_event(make_event("r", payload={"x": Path("p")}))
    with pickle.loads(pickle.dumps(archive)) as copy:
        assert copy.location == archive.location
        assert copy.list_events("r") == archive.list_events("r")
        with pytest.raises(EncodingError):
            copy.save_event(make_event("r", payload={"x": "x" * 200}))


def test_a_store_that_nobody_closes_warns_of_nothing_and_gives_its_file_back(path: Path) -> None:
    run_script(
        """
import gc, os, sys
from runstream.stores.archive.sqlite import SQLiteCheckpointer
store = SQLiteCheckpointer(sys.argv[1])
assert os.path.exists(sys.argv[1] + "-wal")
del store
assert not os.path.exists(sys.argv[1] + "-wal")
store = SQLiteCheckpointer(sys.argv[1])
""",
        path,
    )
    assert not path.with_name(path.name + "-wal").exists()


def test_what_a_forked_child_commits_survives_its_parents_closing(path: Path) -> None:
    """SQLite keeps locks by process: a child beside an inherited connection would lose what it commits."""
    run_script(
        """
import os, sys
from runstream.model.events import PAEvent
from runstream.stores.archive.sqlite import SQLiteCheckpointer

store = SQLiteCheckpointer(sys.argv[1])
store.save_events([PAEvent("r", seq=seq) for seq in range(1500)])
found = store.read("r")
next(found)
from_child, to_parent = os.pipe()
from_parent, to_child = os.pipe()
child = os.fork()
if child == 0:
    store.save_event(PAEvent("r", seq=1500))
    os.write(to_parent, b"1")
    os.read(from_parent, 1)
    store.save_event(PAEvent("r", seq=1501))
    os._exit(0)
assert len(list(found)) == 1499
os.read(from_child, 1)
store.save_event(PAEvent("s"))
store.close()
os.write(to_child, b"2")
assert os.waitpid(child, 0)[1] == 0
with SQLiteCheckpointer(sys.argv[1]) as store:
    assert [event.seq for event in store.list_events("r")] == list(range(1502))
""",
        path,
    )


def test_a_fork_waits_for_other_threads_and_leaves_the_child_no_lock(path: Path) -> None:
    run_script(
        """
import os, sys, threading, warnings
from runstream.model.events import PAEvent
from runstream.stores.archive.sqlite import SQLiteCheckpointer

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
store = SQLiteCheckpointer(sys.argv[1])
stop = threading.Event()

def work():
    while not stop.is_set():
        store.save_event(PAEvent("r"))

thread = threading.Thread(target=work)
thread.start()
for _ in range(5):
    child = os.fork()
    if child == 0:
        store.save_event(PAEvent("children"))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
thread.join()
assert len(store.list_events("children")) == 5
assert [item.offset for item in store.read("r")] == list(range(1, store.run_info("r").last_offset + 1))
""",
        path,
    )


def test_all_who_open_a_new_file_at_once_open_the_same_archive(tmp_path: Path) -> None:
    ids: list[str] = []

    def open_one(path: Path, start: threading.Barrier) -> None:
        start.wait(20)
        with SQLiteCheckpointer(path) as archive:
            ids.append(archive.archive_id)

    for attempt in range(20):
        start = threading.Barrier(8)
        place = (tmp_path / f"{attempt}.db", start)
        threads = [threading.Thread(target=open_one, args=place) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(ids) == 160
    assert len(set(ids)) == 20


def test_processes_open_one_new_file_at_once_and_append_to_one_run(path: Path, open_archive: Open) -> None:
    script = """
import sys
from runstream.model.events import PAEvent
from runstream.stores.archive.sqlite import SQLiteCheckpointer
print("ready", flush=True)
sys.stdin.read()
with SQLiteCheckpointer(sys.argv[1]) as store:
    for seq in range(100):
        store.save_events([PAEvent("r", lane_id=sys.argv[2], seq=2 * seq + n) for n in range(2)])
"""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(path), f"lane{n}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(3)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:  # they set out together
        assert writer.stdin is not None
        writer.stdin.close()
        writer.stdin = None
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    archive = open_archive()
    assert offsets(archive) == list(range(1, 601))
    for n in range(3):
        assert [event.seq for event in archive.list_events("r") if event.lane_id == f"lane{n}"] == list(range(200))
    ((start,),) = query(path, "SELECT start_chain FROM runs")
    records = [item.record for item in CODEC.encode_events("r", archive.list_events("r"))]
    expected = chained("r", records, Cursor(0, start))
    assert [entry.content for entry in archive.read_back("r", 1, 600)] == [entry.content for entry in expected]


def test_nothing_is_left_of_a_transaction_whose_process_was_killed(archive: Archive, path: Path) -> None:
    archive.save_events(make_events("r", 2))
    script = """
import sys
from runstream.stores.archive.sqlite import SQLiteCheckpointer

store = SQLiteCheckpointer(sys.argv[1])
with store._file.write() as connection:
    connection.execute("INSERT INTO runs VALUES ('k', '', '', 0, 0, 1, 1, 0, 0, NULL, NULL)")
    # more than SQLite keeps in memory, so that part of it is in the log already
    rows = (("k", n, "x" * 5000) for n in range(5000))
    connection.executemany("INSERT INTO events (run_id, seq, ts, kind, data) VALUES (?, ?, 1.0, 'x', ?)", rows)
    print("in the transaction", flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in the transaction\n"
        assert path.with_name(path.name + "-wal").stat().st_size > 5_000_000
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert archive.list_runs() == ["r"]
    archive.append("r", make_events("r", 1), expected_offset=2)
    assert query(path, "SELECT run_id, offset FROM events") == [("r", 1), ("r", 2), ("r", 3)]
    assert query(path, "PRAGMA integrity_check") == [("ok",)]


def test_every_error_of_sqlite3_is_one_of_ours(archive: Archive, path: Path) -> None:
    query(path, "DROP TABLE lanes")
    with pytest.raises(RunstreamError) as caught:
        archive.save_event(make_event("r"))
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    assert os.fspath(path) in str(caught.value)
    assert query(path, "SELECT count(*) FROM events") == [(0,)]
