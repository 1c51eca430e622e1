"""purpose-agent's own store at work on a file that is open here: its events, its states, its deletions."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from purpose_agent.runtime.checkpoint import SQLiteCheckpointer as ForeignCheckpointer
from purpose_agent.runtime.events import EventKind as ForeignKind
from purpose_agent.runtime.events import PAEvent as ForeignEvent
from purpose_agent.runtime.state import RunState as ForeignState

import runstream
from runstream.model.archive_records import ArchiveSnapshot
from runstream.model.errors import (
    ArchiveGap,
    ConcurrencyConflict,
    CorruptRecordError,
    HistoryDiverged,
    StoreUnavailable,
)
from tests.stores.archive.sqlite.database import (
    Archive,
    Open,
    batch_of,
    foreign_event,
    history,
    offsets,
    query,
)
from tests.support.operations import operations_of
from tests.support.samples import make_event, make_events, make_state


@pytest.fixture
def theirs(archive: Archive, path: Path) -> ForeignCheckpointer:
    """A store of theirs, over a file that is open here."""
    del archive
    return ForeignCheckpointer(str(path))


def seqs(archive: Archive, run_id: str = "r") -> list[int]:
    return [event.seq for event in archive.list_events(run_id)]


def test_their_events_are_read_at_once_and_in_the_order_of_writing(
    archive: Archive, theirs: ForeignCheckpointer
) -> None:
    archive.save_event(make_event("r", 1))
    theirs.save_event(foreign_event(2))
    assert seqs(archive) == [1, 2]
    theirs.save_event(foreign_event(3))
    theirs.save_event(foreign_event(4))
    assert archive.append("r", [make_event("r", 5)], expected_offset=4).first_offset == 5
    theirs.save_event(foreign_event(6, kind=ForeignKind.RUN_FINISHED))
    info = archive.run_info("r")
    assert info is not None
    assert (info.last_offset, info.status) == (6, "completed")
    assert (seqs(archive), offsets(archive)) == ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6])
    assert [event.seq for event in theirs.list_events("r")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "look",
    [
        lambda archive: archive.list_runs() == ["new"],
        lambda archive: archive.run_info("new").last_offset == 1,
        lambda archive: archive.load_latest("new").data == {"by": "them"},
        lambda archive: archive.recover("new").state.data == {"by": "them"},
        lambda archive: archive.position("new").cursor.offset == 1,
        lambda archive: [entry.offset for entry in archive.read_back("new", 1, 9)] == [1],
        lambda archive: operations_of(archive).header("new").session_id == "theirs",
        lambda archive: archive.append("new", make_events("new", 1, first=2)).last_offset == 2,
        lambda archive: archive.delete_run("new"),
    ],
)
def test_whatever_is_asked_first_knows_their_run(archive: Archive, theirs: ForeignCheckpointer, look) -> None:  # type: ignore[no-untyped-def]
    archive.list_runs()
    theirs.save_event(ForeignEvent("new", kind=ForeignKind.RUN_STARTED, session_id="theirs"))
    theirs.save_snapshot("new", ForeignState("new", data={"by": "them"}))
    assert look(archive)


async def test_an_async_store_sees_it_as_a_sync_one_does(path: Path) -> None:
    async with runstream.connect_async(f"sqlite:{path}") as store:
        await store.save_event(make_event("r", 1))
        theirs = ForeignCheckpointer(str(path))
        theirs.save_event(foreign_event(2))
        assert [event.seq for event in await store.list_events("r")] == [1, 2]
        theirs.delete_run("r")
        assert await store.list_events("r") == []
        assert await store.list_runs() == []
        theirs.save_event(foreign_event(3))
        await store.save_event(make_event("r", 4))
        assert [item.offset async for item in store.read("r")] == [1, 2]


def test_what_comes_just_before_a_write_is_before_it(
    archive: Archive, theirs: ForeignCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = operations_of(archive)._file
    check = file._check_identity

    def check_and_let_them_write() -> None:
        check()
        if not written:
            written.append(1)
            theirs.save_event(foreign_event(1))

    written: list[int] = []
    monkeypatch.setattr(file, "_check_identity", check_and_let_them_write)
    archive.save_event(make_event("r", 2))
    assert seqs(archive) == [1, 2]


def test_what_a_refused_append_would_have_adopted_is_adopted_later(
    archive: Archive, theirs: ForeignCheckpointer
) -> None:
    theirs.save_event(foreign_event(1))
    with pytest.raises(ConcurrencyConflict):
        archive.append("r", [make_event("r", 2)], expected_offset=0)
    assert seqs(archive) == [1]


def test_a_read_waits_for_their_transaction_when_there_is_something_to_adopt(
    open_archive: Open, path: Path, theirs: ForeignCheckpointer
) -> None:
    archive = open_archive(busy_timeout_seconds=0.05)
    theirs.save_event(foreign_event(1))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="is locked"):
            archive.list_events("r")
    assert seqs(archive) == [1]


# -- their deletions ----------------------------------------------------------------------------------------


def test_a_run_that_they_delete_is_gone_and_may_begin_anew(archive: Archive, theirs: ForeignCheckpointer) -> None:
    archive.append("r", make_events("r", 3, lane_id="a"), keys=["k", None, None], snapshot=make_state("r"))
    archive.append("r", [], snapshot=make_state("r"), lane_id="a")
    archive.save_event(make_event("other"))
    cursor = list(archive.read("r"))[1].cursor
    theirs.delete_run("r")
    assert (archive.list_runs(), archive.run_info("r"), archive.list_events("r")) == (["other"], None, [])
    assert (archive.load_latest("r"), archive.load_snapshot("r", lane_id="a")) == (None, None)
    assert archive.snapshot_lanes("r") == []
    assert archive.check_integrity() == []

    theirs.save_event(foreign_event(7))
    assert archive.append("r", [make_event("r", 8), make_event("r", 9)], keys=["k", None]).last_offset == 3
    assert (seqs(archive), offsets(archive)) == ([7, 8, 9], [1, 2, 3])
    with pytest.raises(HistoryDiverged):
        list(archive.read("r", after=cursor))
    assert archive.check_integrity() == []


@pytest.mark.parametrize("is_seen", [False, True])
def test_a_run_that_was_only_a_state_is_gone_when_they_delete_it(
    archive: Archive, theirs: ForeignCheckpointer, is_seen: bool
) -> None:
    archive.save_snapshot("r", make_state("r"))
    theirs.save_snapshot("r", ForeignState("r"))  # which replaces a row, and deletes none
    if is_seen:
        assert archive.list_runs() == ["r"]
    theirs.delete_run("r")
    assert archive.list_runs() == []


def test_what_they_delete_and_write_again_between_two_looks_is_a_new_run(
    archive: Archive, theirs: ForeignCheckpointer
) -> None:
    archive.append("r", make_events("r", 3), snapshot=make_state("r"))
    theirs.save_event(foreign_event(4))
    theirs.delete_run("r")
    theirs.save_event(foreign_event(1))
    theirs.save_snapshot("r", ForeignState("r", data={"n": 1}))
    assert (seqs(archive), offsets(archive)) == ([1], [1])
    recovered = archive.recover("r")
    assert (recovered.state and recovered.state.data, recovered.offset) == ({"n": 1}, 0)


def test_a_lease_outlives_their_deletion(archive: Archive, theirs: ForeignCheckpointer) -> None:
    with archive.lease("r", owner="me") as lease:
        archive.append("r", [make_event("r", 1)], lease=lease)
        theirs.delete_run("r")
        assert archive.run_info("r") is None
        with pytest.raises(runstream.LeaseHeld):
            archive.save_event(make_event("r", 1))
        assert archive.append("r", [make_event("r", 2)], lease=lease).last_offset == 1


def test_events_that_somebody_deletes_one_by_one_are_missed(
    archive: Archive, theirs: ForeignCheckpointer, path: Path
) -> None:
    """That is damage, until the last one is gone: then nobody can tell it from a deletion."""
    archive.save_events(make_events("r", 3))
    query(path, "DELETE FROM events WHERE offset = 2")
    theirs.save_event(foreign_event(4))
    with pytest.raises(ArchiveGap):
        archive.list_events("r")
    query(path, "DELETE FROM events WHERE offset IS NOT NULL")
    assert archive.list_runs() == []


def test_our_own_cut_and_our_own_deletion_leave_no_note_of_a_loss(archive: Archive, path: Path) -> None:
    archive.save_events(make_events("r", 3))
    header, position = operations_of(archive).header("r"), archive.position("r")
    assert header is not None
    assert position is not None
    operations_of(archive).cut_back(header, type(position)(header.start), position.cursor)
    assert archive.list_runs() == ["r"]
    archive.save_events(make_events("s", 3))
    archive.delete_run("s")
    assert query(path, "SELECT * FROM losses") == []


# -- runs that came by a drain --------------------------------------------------------------------------------


def test_a_run_of_a_drain_is_left_alone(open_archive: Open, archive: Archive, path: Path) -> None:
    entries = history("r", 5)
    archive.write([batch_of("r", entries[:3])])
    theirs = ForeignCheckpointer(str(path))
    theirs.save_event(foreign_event(9, lane_id="theirs"))
    for each in (archive, open_archive()):
        assert offsets(each) == [1, 2, 3]
        assert each.position("r") == type(each.position("r"))(entries[2].cursor)  # type: ignore[misc]
    assert archive.check_integrity() == []
    archive.write([batch_of("r", entries[3:], after=entries[2].cursor)])
    assert offsets(archive) == [1, 2, 3, 4, 5]
    assert [event.seq for event in theirs.list_events("r")] == [1, 2, 3, 4, 5, 9]
    header, position = operations_of(archive).header("r"), archive.position("r")
    assert header is not None
    assert position is not None
    operations_of(archive).cut_back(header, type(position)(entries[1].cursor), position.cursor)
    assert [event.seq for event in theirs.list_events("r")] == [1, 2, 9]
    assert offsets(archive) == [1, 2]


def test_a_state_that_they_put_in_place_of_a_drains_is_not_read_here(archive: Archive, path: Path) -> None:
    ours = ArchiveSnapshot(None, 2, 7, "ours", '{"run_id":"r","data":{"by":"us"}}')
    archive.write([batch_of("r", history("r", 3), snapshots=[ours])])
    before = archive.position("r")
    theirs = ForeignCheckpointer(str(path))
    theirs.save_snapshot("r", ForeignState("r", data={"by": "them"}))
    snapshot = archive.load_snapshot("r")
    assert snapshot is not None
    assert (snapshot.state.data, snapshot.offset, snapshot.revision) == ({"by": "us"}, 2, 7)
    assert (archive.position("r"), list(archive.read_back_snapshots("r"))) == (before, [ours])
    assert theirs.load_latest("r").data == {"by": "them"}
    later = ArchiveSnapshot(None, 3, 8, "later", '{"run_id":"r","data":{"by":"us again"}}')
    archive.write([batch_of("r", [], after=history("r", 3)[-1].cursor, snapshots=[later])])
    assert theirs.load_latest("r").data == {"by": "us again"}
    assert [kept.revision for kept in archive.snapshot_history("r")] == [7, 8]


def test_a_run_of_a_drain_that_they_delete_is_a_loss(archive: Archive, path: Path) -> None:
    archive.write([batch_of("r", history("r", 3))])
    theirs = ForeignCheckpointer(str(path))
    theirs.delete_run("r")
    theirs.save_event(foreign_event(1))
    with pytest.raises(ArchiveGap):
        archive.list_events("r")
    assert archive.list_runs() == ["r"]
    assert [event.seq for event in theirs.list_events("r")] == [1]


# -- isolated, and together -----------------------------------------------------------------------------------


def test_a_damaged_run_keeps_nobody_elses_rows_from_being_adopted(
    archive: Archive, theirs: ForeignCheckpointer, path: Path
) -> None:
    archive.save_event(make_event("r", 1))
    query(path, "UPDATE runs SET last_chain = 'x' WHERE run_id = 'r'")
    theirs.save_event(foreign_event(2))
    theirs.save_event(ForeignEvent("sound", kind=ForeignKind.RUN_STARTED))
    theirs.save_snapshot("sound", ForeignState("sound"))
    assert len(archive.list_events("sound")) == 1
    assert archive.list_runs() == ["sound"]
    with pytest.raises(CorruptRecordError):
        archive.list_events("r")
    damage, left = archive.check_integrity()
    assert "last_chain was damaged" in damage
    assert left == "run 'r' has 1 events of another program that cannot be adopted"


_THEIR_PROCESS = """
import sys
from purpose_agent.runtime.checkpoint import SQLiteCheckpointer
from purpose_agent.runtime.events import EventKind, PAEvent
store = SQLiteCheckpointer(sys.argv[1])
for n in range(int(sys.argv[2])):
    store.save_event(PAEvent("r", seq=n, kind=EventKind.TOOL_RESULT, payload={"by": "them"}))
"""


@pytest.mark.exhaustive
def test_writers_of_both_kinds_and_a_reader_at_once(open_archive: Open, archive: Archive, path: Path) -> None:
    """Every event once, each writer's in its order, all in the order of the rows; nothing read is taken back."""
    count = 150
    process = subprocess.Popen([sys.executable, "-c", _THEIR_PROCESS, str(path), str(count)])
    reader, stop = open_archive(), threading.Event()
    seen: list[str] = []

    def read() -> None:
        while not stop.is_set():
            found = [item.cursor for item in reader.read("r")]
            assert found[: len(seen)] == seen
            seen[:] = found

    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(read)
        try:
            for n in range(count):
                archive.save_event(make_event("r", n, payload={"by": "us"}))
            assert process.wait(60) == 0
        finally:
            stop.set()
        reading.result()
    events = archive.list_events("r")
    for by in ("us", "them"):
        assert [event.seq for event in events if event.payload["by"] == by] == list(range(count))
    assert query(path, "SELECT offset FROM events WHERE run_id = 'r' ORDER BY id") == [
        (n,) for n in range(1, 2 * count + 1)
    ]
