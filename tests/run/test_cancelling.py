"""Runs that a person cancels: their Runs are told once, and the run ends once."""

from __future__ import annotations

import pytest

from runstream import (
    ConfigurationError,
    RunCancelled,
    RunStatus,
    create_event,
)
from tests.run.run_tools import ANSWERED, events_of, kinds, meanwhile, status_of
from tests.support.backends import Store, info_of
from tests.support.handles import leave, open_run
from tests.support.servers import DEADLINE_SECONDS


@pytest.mark.parametrize("lane_id", ["main", "b"])
def test_a_run_is_told_once_and_ends_as_cancelled(live: Store, lane_id: str) -> None:
    """At its next write, which writes nothing; what it writes then, to undo, is kept."""
    run = open_run(live, lane_id=lane_id)
    run.emit("agent.started")
    request = live.request_cancel("r", "too dear")
    assert request.event.payload == {"cancel": True, "reason": "too dear"}
    with pytest.raises(RunCancelled, match="too dear") as caught:
        run.emit("agent.progress")
    assert (caught.value.run_id, caught.value.reason) == ("r", "too dear")
    run.emit("agent.progress", undone=True)
    assert leave(run, caught.value) is caught.value
    assert kinds(live) == ["agent.started", ANSWERED, "agent.progress", "run.error"]
    last = events_of(live, lane_id)[-1]
    assert (last.seq, last.payload) == (3, {"error": "too dear", "type": "RunCancelled"})
    snapshot = live.load_snapshot("r", lane_id=None if lane_id == "main" else lane_id)
    assert snapshot is not None
    assert (status_of(live), snapshot.state.status) == ("cancelled", RunStatus.CANCELLED)
    assert snapshot.state.finished_at > 0
    with pytest.raises(ConfigurationError, match="has ended"):
        live.request_cancel("r")


def test_a_wait_tells_it_also_in_a_lane_that_has_asked_nothing(live: Store) -> None:
    """With the reason that was given first, where the request is repeated without one."""
    run = open_run(live)
    run.emit("agent.started")
    live.request_cancel("r", "too dear")
    live.request_cancel("r")
    with pytest.raises(RunCancelled, match="too dear"):
        run.wait()
    leave(run)
    assert status_of(live) == "cancelled"


@pytest.mark.parametrize("write", ["emit_many", "checkpoint", "pause", "save_event"])
def test_every_write_of_a_run_tells_it(live: Store, write: str) -> None:
    run = open_run(live)
    run.emit("agent.started")
    live.request_cancel("r")
    writes = {
        "emit_many": lambda: run.emit_many(["x", "y"], checkpoint=True),
        "checkpoint": run.checkpoint,
        "pause": lambda: run.pause("Ship it?"),
        "save_event": lambda: run.save_event(create_event("r", "x", seq=2)),
    }
    with pytest.raises(RunCancelled):
        writes[write]()
    assert kinds(live) == ["agent.started", ANSWERED]
    assert live.load_snapshot("r") is None
    leave(run)
    assert status_of(live) == "cancelled"


def test_a_run_that_can_finish_does(live: Store) -> None:
    """Also one that was told of a request to cancel."""
    for run_id, is_told in (("r", False), ("s", True)):
        with open_run(live, run_id) as run:
            run.emit("agent.started")
            live.request_cancel(run_id)
            if is_told:
                with pytest.raises(RunCancelled):
                    run.emit("agent.progress")
            run.finish()
        assert info_of(live, run_id).status == "completed"


def test_a_run_is_told_while_it_waits(live: Store) -> None:
    run = open_run(live)
    run.pause("Ship it?")
    with meanwhile(lambda: live.request_cancel("r", "too dear")), pytest.raises(RunCancelled, match="too dear"):
        run.wait(timeout=DEADLINE_SECONDS)
    leave(run)
    assert (status_of(live), info_of(live).waiting_for) == ("cancelled", ())


def test_every_lane_is_told_and_the_run_ends_once(live: Store) -> None:
    lanes = [open_run(live, lane_id=lane_id) for lane_id in ("main", "a", "b")]
    for lane in lanes:
        lane.emit("agent.started")
    live.request_cancel("r")
    for lane in lanes:
        with pytest.raises(RunCancelled):
            lane.emit("agent.progress")
        leave(lane)
    assert kinds(live).count("run.error") == 1
    assert status_of(live) == "cancelled"


def test_a_cancelled_run_is_opened_again_by_its_start(live: Store) -> None:
    run = open_run(live)
    run.emit("agent.started")
    live.request_cancel("r")
    with pytest.raises(RunCancelled):
        run.emit("x")
    leave(run)
    with pytest.raises(RunCancelled, match=r"run\.started opens it again"):
        open_run(live).emit("x")
    run = open_run(live)
    run.emit("run.started")
    run.emit("x")
    assert status_of(live) == "running"
    live.request_cancel("r", "again")
    with pytest.raises(RunCancelled, match="again"):
        run.emit("x")


def test_nobody_cancels_what_is_not_there(live: Store) -> None:
    with pytest.raises(ConfigurationError, match="there is no run 'r'"):
        live.request_cancel("r")
    assert live.list_runs() == []


def test_whoever_writes_without_a_run_is_not_stopped(live: Store) -> None:
    open_run(live).emit("agent.started")
    live.request_cancel("r")
    live.save_event(create_event("r", "agent.progress", seq=2))
    assert kinds(live)[-1] == "agent.progress"


def test_a_run_learns_of_it_though_its_store_has_seen_more_of_the_run(live: Store) -> None:
    """A cursor that another reader or writer of the same store object has seen does not hide the request."""
    run = open_run(live)
    run.emit("agent.started")
    live.request_cancel("r")
    live.save_event(create_event("r", "agent.progress", lane_id="b", seq=1))
    list(live.read("r"))
    with pytest.raises(RunCancelled):
        run.emit("agent.progress")
