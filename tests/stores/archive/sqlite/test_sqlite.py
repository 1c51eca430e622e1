"""SQLite as a store: what it keeps of runs, in which tables, and what it makes of damage."""

from __future__ import annotations

import os
import pickle
import sqlite3
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot
from runstream.model.errors import (
    ConfigurationError,
    CorruptRecordError,
    EncodingError,
    RunstreamError,
)
from runstream.model.events import PAEvent
from runstream.model.protocols import Sink
from runstream.model.results import Cursor
from runstream.model.state import RunState, RunStatus
from runstream.stores.archive.sqlite import SQLiteCheckpointer, entry_rows, latest_snapshots
from runstream.stores.protocol import RunStore
from tests.stores.archive.sqlite.database import (
    CODEC,
    Archive,
    Open,
    batch_of,
    chained,
    dump,
    history,
    offsets,
    query,
)
from tests.support.operations import operations_of
from tests.support.samples import make_event, make_events, make_state


def test_it_is_a_store_and_a_sink(archive: Archive, path: Path) -> None:
    assert isinstance(archive, RunStore)
    assert isinstance(archive, Sink)
    assert archive.location == f"sqlite:{path}"


def test_the_archive_keeps_its_id_and_no_other_archive_has_it(open_archive: Open, tmp_path: Path) -> None:
    with SQLiteCheckpointer(tmp_path / "other.db") as other:
        assert open_archive().archive_id == open_archive().archive_id != other.archive_id


def test_writes_are_synced_and_readers_do_not_block(archive: Archive) -> None:
    with operations_of(archive)._file.use() as connection:
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
    assert query(Path(operations_of(writer)._file.path), "PRAGMA wal_checkpoint(TRUNCATE)") == [(0, 0, 0)]
    assert [first.offset, *(item.offset for item in found)] == list(range(1, 2501))
    assert offsets(reader, reverse=True) == list(range(2501, 0, -1))


def test_pages_are_found_by_index_and_not_by_sorting_or_scanning(archive: Archive) -> None:
    place = {"run_id": "r", "low": 0, "high": 9, "rows": 5}
    plans = []
    with operations_of(archive)._file.use() as connection:
        for sql in entry_rows._GET_ENTRIES + entry_rows._GET_ENTRIES_BACK:
            plans += connection.execute(f"EXPLAIN QUERY PLAN {sql}", place).fetchall()
        plans += connection.execute(f"EXPLAIN QUERY PLAN {latest_snapshots._GET_STATE}", ("r", None)).fetchall()
    steps = [step for *_, step in plans]
    assert not [step for step in steps if "TEMP B-TREE" in step or step.startswith(("SCAN events", "SCAN snap"))]


def test_a_read_of_few_events_fetches_no_more(archive: Archive) -> None:
    archive.append(
        "r", [make_event("r", seq, payload={"x": "x" * size}) for seq, size in enumerate([100_000, 1] * 15, 1)]
    )
    for reverse, expected in ((False, [1, 2]), (True, [30, 29])):
        tracemalloc.start()
        try:
            assert offsets(archive, limit=2, reverse=reverse) == expected
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
        finally:
            tracemalloc.stop()
    archive.erase("r", offsets=[1, 2, 29, 30])
    assert offsets(archive, limit=2) == [3, 4]
    assert offsets(archive, limit=2, reverse=True) == [28, 27]


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


def test_a_page_shows_one_moment(archive: Archive, path: Path) -> None:
    """A record that is readmitted while the page is read is in one of its two tables."""
    entries = history("r", 3)
    archive.write([batch_of("r", [entries[0], entries[1]._replace(data=None, raw=b"raw"), entries[2]])])
    with SQLiteCheckpointer[PAEvent, RunState](path) as other, operations_of(archive)._file.use() as connection:

        def readmit(statement: str) -> None:
            if "FROM quarantine" in statement:
                connection.set_trace_callback(None)
                assert operations_of(other).readmit("r", entries[1])

        connection.set_trace_callback(readmit)
        assert [entry.raw for entry in archive.read_back("r", 1, 3)] == [None, b"raw", None]
        assert [entry.raw for entry in archive.read_back("r", 1, 3)] == [None, None, None]


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


def test_every_error_of_sqlite3_is_one_of_ours(archive: Archive, path: Path) -> None:
    query(path, "DROP TABLE lanes")
    with pytest.raises(RunstreamError) as caught:
        archive.save_event(make_event("r"))
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    assert os.fspath(path) in str(caught.value)
    assert query(path, "SELECT count(*) FROM events") == [(0,)]
