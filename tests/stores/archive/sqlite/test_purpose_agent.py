"""One database, two libraries: purpose-agent reads what is written here, and what it writes is adopted."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from purpose_agent.runtime.checkpoint import SQLiteCheckpointer as ForeignCheckpointer
from purpose_agent.runtime.events import EventKind as ForeignKind
from purpose_agent.runtime.events import PAEvent as ForeignEvent
from purpose_agent.runtime.state import RunState as ForeignState
from purpose_agent.runtime.state import RunStatus as ForeignStatus

from runstream.codec.record import ERASED
from runstream.model.errors import (
    ConcurrencyConflict,
    CorruptRecordError,
)
from runstream.model.results import Cursor
from runstream.model.state import RunStatus
from tests.stores.archive.sqlite.database import (
    CODEC,
    START,
    Archive,
    Open,
    batch_of,
    chained,
    foreign_event,
    offsets,
    query,
)
from tests.support.samples import make_events, make_state


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
    assert query(path, "PRAGMA user_version") == [(5,)]


def test_the_chain_of_adopted_events_is_that_of_their_records(open_archive: Open, path: Path) -> None:
    theirs = ForeignCheckpointer(str(path))
    events = [foreign_event(seq, payload={"n": seq}) for seq in range(3)]
    for event in events:
        theirs.save_event(event)
    archive = open_archive()
    ((start,),) = query(path, "SELECT start_chain FROM runs")
    expected = chained("r", [item.record for item in CODEC.encode_events("r", events)], Cursor(0, start))
    assert [entry.cursor for entry in archive.read_back("r", 1, 3)] == [entry.cursor for entry in expected]


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
