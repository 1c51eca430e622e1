"""P8: what a worker archives, how much at a time, and what it trims."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    DrainReport,
    DrainWorker,
    EventKind,
    EventsArchived,
    PAEvent,
    RunState,
    RunStatus,
    SQLiteCheckpointer,
    create_event,
)
from runstream.drain.claimed_run import ClaimedRun, Positions
from runstream.model.protocols import Sink
from runstream.stores.redis.operations.worker.hot_run import HotRun
from tests.drain.watched_sink import Watched, emit, hot_from
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import RedisBackend
from tests.support.drain_tools import Hot, due, open_hot
from tests.support.kinds import on_every_server
from tests.support.operations import operations_of
from tests.support.samples import make_event


@pytest.mark.one_in(2)
@on_every_server
def test_both_archives_hold_every_event_once_and_every_snapshot(hot: Hot, archives: list[Archive]) -> None:
    """Several runs, two lanes, snapshots of runs and lanes: all of it is in both archives, and nothing is due."""
    acknowledged = {run_id: emit(hot, run_id, 30) for run_id in ("a", "b:c", "ünï/../x")}
    acknowledged["a"] += emit(hot, "a", 25, lane_id="second")
    hot.save_snapshot("a", RunState(run_id="a", data={"x": (1, 2)}))
    hot.save_snapshot("a", RunState(run_id="a", current_step=7), lane_id="second")

    report = DrainWorker(hot, archives).drain_once()

    assert (report.runs, report.events, report.snapshots) == (3, 115, 2)
    assert (report.quarantined, report.parked) == (0, 0)
    check_archives(archives, acknowledged)
    for archive in archives:
        for lane_id in (None, "second"):
            assert archive.load_snapshot("a", lane_id=lane_id) == hot.load_snapshot("a", lane_id=lane_id)
        for run_id in acknowledged:
            assert [item.cursor for item in archive.read(run_id)] == cursors(hot, archives, run_id)
    assert due(hot) == {}
    assert DrainWorker(hot, archives).drain_once() == DrainReport()


def cursors(hot: Hot, archives: Sequence[Archive], run_id: str) -> list[str]:
    """The cursors of a run: those that have left Redis from the archive, the rest from Redis."""
    info = hot.run_info(run_id)
    assert info is not None
    moved = [item.cursor for item in archives[0].read(run_id, before=info.first_hot)]
    return moved + [item.cursor for item in hot.read(run_id, info.first_hot - 1)]


@pytest.mark.exhaustive
def test_many_runs_go_into_one_transaction_and_a_long_one_into_several(
    fake: RedisBackend, archives: list[Archive]
) -> None:
    """A batch is filled from as many runs as it takes, and never exceeded."""
    hot = open_hot(fake)
    acknowledged = {f"short-{n}": emit(hot, f"short-{n}", 4) for n in range(20)}
    acknowledged["long"] = emit(hot, "long", 170)
    watched = Watched(archives[0])
    report = DrainWorker(hot, [watched], batch=50).drain_once()
    check_archives(archives[:1], acknowledged)
    assert report.events == 250
    assert max(watched.sizes) == 50
    assert len(watched.sizes) <= 7  # 250 events in batches of 50, and what the claims' borders cost


@pytest.mark.exhaustive
def test_a_batch_of_large_events_has_few_of_them(fake: RedisBackend, archives: list[Archive]) -> None:
    """What a worker holds in memory is bounded by bytes, not only by how many events that is."""
    hot = open_hot(fake)
    events = [create_event("r", EventKind.TOOL_RESULT, seq=seq, page="x" * 2**20) for seq in range(1, 101)]
    for event in events:
        hot.save_event(event)
    watched = Watched(archives[0])
    assert DrainWorker(hot, [watched]).drain_once().events == 100
    assert watched.sizes[0] <= 64
    assert max(watched.sizes[1:]) <= 16
    check_archives(archives[:1], {"r": events})
    assert hot.list_events("r") == events
    assert [item.event for item in hot.read("r", reverse=True)] == events[::-1]


def test_events_and_snapshots_that_come_in_between_keep_the_run_due(
    fake: RedisBackend, archives: list[Archive]
) -> None:
    """What is appended while the worker writes is drained by the next drain."""
    hot = open_hot(fake)
    acknowledged = {"r": emit(hot, "r", 5)}

    def append_more() -> None:
        acknowledged["r"] += emit(hot, "r", 3, first=6)
        hot.save_snapshot("r", RunState(run_id="r"))

    worker = DrainWorker(hot, [Watched(archives[0], after_write=append_more)])
    assert worker.drain_once().events == 5
    assert list(due(hot)) == ["r"]
    report = DrainWorker(hot, [archives[0]]).drain_once()
    assert (report.events, report.snapshots) == (3, 1)
    check_archives(archives[:1], acknowledged)
    assert due(hot) == {}


def test_a_status_goes_with_the_snapshot_that_gives_it(
    fake: RedisBackend, archives: list[Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that has ended is opened again by a snapshot that comes after the worker has looked at the run."""
    hot = open_hot(fake)
    emit(hot, "r", 3)
    hot.save_snapshot("r", RunState(run_id="r"))
    hot.append("r", [create_event("r", EventKind.RUN_FINISHED)])
    begin = ClaimedRun.begin

    def save_after(run: HotRun, positions: Positions) -> ClaimedRun:
        hot.save_snapshot("r", RunState(run_id="r", current_step=3))
        return begin(run, positions)

    monkeypatch.setattr(ClaimedRun, "begin", save_after)
    DrainWorker(hot, archives).drain_once()
    monkeypatch.undo()
    DrainWorker(hot, archives).drain_once()  # what may be trimmed by now
    assert due(hot) == {}
    for store in (hot, *archives):
        info = store.run_info("r")
        assert info is not None
        assert info.status == RunStatus.PENDING


@on_every_server
def test_covered_trims_what_every_snapshot_covers_and_recover_works_from_redis_alone(
    hot: Hot, archives: list[Archive]
) -> None:
    """Without a snapshot nothing is trimmed; then what the snapshots cover, and no more."""
    worker = DrainWorker(hot, archives)
    emit(hot, "r", 10)
    worker.drain_once()
    assert hot_from(hot, "r") == 1

    hot.save_snapshot("r", RunState(run_id="r", current_step=10))
    later = emit(hot, "r", 4, first=11)
    assert worker.drain_once().trimmed == 10
    assert hot_from(hot, "r") == 11
    recovery = hot.recover("r")
    assert recovery.state is not None
    assert (recovery.state.current_step, recovery.offset) == (10, 10)
    assert [item.event for item in recovery.events] == later
    with pytest.raises(EventsArchived) as moved:
        hot.list_events("r")
    assert moved.value.first_hot == 11


def test_a_lane_without_a_snapshot_holds_its_events_in_redis(hot: Hot, archives: list[Archive]) -> None:
    """A lane that could not recover without its events keeps them; one that has finished holds up nothing."""
    worker = DrainWorker(hot, archives)
    emit(hot, "r", 5, lane_id="a")
    emit(hot, "r", 5, lane_id="b")
    hot.save_snapshot("r", RunState(run_id="r"), lane_id="a")
    worker.drain_once()
    assert hot_from(hot, "r") == 6
    assert len(hot.recover("r", lane_id="b").events) == 5

    hot.save_snapshot("r", RunState(run_id="r"), lane_id="b")
    emit(hot, "r", 2, lane_id="b", first=6)
    worker.drain_once()
    assert hot_from(hot, "r") == 11
    assert hot.recover("r", lane_id="a").events == []
    assert [item.offset for item in hot.recover("r", lane_id="b").events] == [11, 12]


def test_a_lane_that_was_idle_while_others_went_on_is_recovered_from_redis(
    redis_backend: RedisBackend, archives: list[Archive]
) -> None:
    """What lies between its snapshot and its next event was others', and may have been trimmed."""
    a, b = open_hot(redis_backend), open_hot(redis_backend)
    a.append("r", emit_events("r", "a", 1), snapshot=RunState(run_id="r"), lane_id="a")
    b.append("r", emit_events("r", "b", 4), snapshot=RunState(run_id="r"), lane_id="b")
    worker = DrainWorker(b, archives)
    assert worker.drain_once().trimmed == 5
    (later,) = emit_events("r", "a", 1)
    a.save_event(later)
    b.append("r", emit_events("r", "b", 3), snapshot=RunState(run_id="r"), lane_id="b")
    worker.drain_once()
    recovery = open_hot(redis_backend).recover("r", lane_id="a")
    assert [item.event for item in recovery.events] == [later]
    assert hot_from(b, "r") == 6


def test_a_snapshot_that_needs_what_was_trimmed_is_refused_and_recovering_first_is_the_way_on(
    redis_backend: RedisBackend, archives: list[Archive]
) -> None:
    """A writer that has not recovered covers too little: nothing is written, and recover still works."""
    first, second = open_hot(redis_backend), open_hot(redis_backend)
    first.append("r", emit_events("r", "main", 5), snapshot=RunState(run_id="r", current_step=5))
    DrainWorker(first, archives).drain_once()
    second.save_event(create_event("r", EventKind.AGENT_PROGRESS))
    with pytest.raises(EventsArchived) as refused:
        second.save_snapshot("r", RunState(run_id="r", current_step=1))
    assert refused.value.first_hot == 6
    recovery = second.recover("r")
    assert recovery.state is not None
    assert (recovery.state.current_step, len(recovery.events)) == (5, 1)
    second.save_snapshot("r", recovery.state)
    assert first.recover("r").offset == 6


def emit_events(run_id: str, lane_id: str, count: int) -> list[PAEvent]:
    return [create_event(run_id, EventKind.TOOL_RESULT, lane_id=lane_id, seq=seq) for seq in range(1, count + 1)]


@pytest.mark.parametrize(("trim", "first_hot"), [("archived", 11), ("never", 1)])
def test_archived_trims_all_and_never_trims_nothing(
    hot: Hot, archives: list[Archive], trim: Any, first_hot: int
) -> None:
    """The two other habits; either way appends go on at the right offset."""
    emit(hot, "r", 10)
    DrainWorker(hot, archives, trim=trim).drain_once()
    assert hot_from(hot, "r") == first_hot
    assert hot.append("r", emit_one("r")).first_offset == 11


def emit_one(run_id: str) -> list[PAEvent]:
    return [create_event(run_id, EventKind.AGENT_PROGRESS)]


def test_both_archives_are_sinks(archives: list[Archive]) -> None:
    """The Protocol is what the stores have."""
    assert all(isinstance(archive, Sink) for archive in archives)


def test_a_key_is_known_after_its_event_has_been_archived_and_trimmed(hot: Hot, archives: list[Archive]) -> None:
    """An agent that repeats a step long after is told where it was recorded first; the archive has the key too."""
    first = hot.append("r", emit_one("r"), keys=["book-hotel"])
    DrainWorker(hot, archives, trim="archived").drain_once()
    assert hot.append("r", emit_one("r"), keys=["book-hotel"]) == first
    for archive in archives:
        assert [entry.key for entry in archive.read_back("r", 1, 1)] == ["book-hotel"]
        assert archive.append("r", emit_one("r"), keys=["book-hotel"]).first_offset == 1


def test_a_limit_holds_for_a_cursor_whose_entry_has_been_trimmed(hot: Hot, archives: list[Archive]) -> None:
    emit(hot, "r", 5)
    fifth = list(hot.read("r"))[-1].cursor
    DrainWorker(hot, archives, trim="archived").drain_once()
    emit(hot, "r", 4, first=6)
    assert [item.offset for item in hot.read("r", fifth, limit=2)] == [6, 7]


def test_a_worker_looks_at_a_file_once_for_many_runs(hot: Hot, tmp_path: Path) -> None:
    """To ask for positions, to write and to read back takes one transaction each for all runs of a batch."""
    hot.save_events([make_event(f"r{number}", seq) for number in range(60) for seq in (1, 2)])
    with SQLiteCheckpointer(tmp_path / "a.db") as archive:
        statements: list[str] = []
        worker = DrainWorker(hot, [archive])
        with operations_of(archive)._file.use() as connection:
            connection.set_trace_callback(statements.append)
        assert worker.drain_runs([f"r{number}" for number in range(60)]).runs == 60
        assert sum(statement.startswith("BEGIN") for statement in statements) <= 6
