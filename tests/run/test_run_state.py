"""The state of a run: saved whole, never over another's, and with the status that its end gives it."""

from __future__ import annotations

import time
from datetime import datetime
from enum import Enum
from typing import Any

import pydantic
import pytest

from runstream import (
    ConcurrencyConflict,
    ConfigurationError,
    EventKind,
    RunState,
    RunStatus,
    Visibility,
)
from tests.run.run_tools import ModelGaveUpError, kinds, status_of
from tests.support.backends import Backend, Store, latest
from tests.support.handles import Appends, open_run, restarted
from tests.support.samples import make_state


def test_a_checkpoint_saves_the_state(backend: Backend, store: Store) -> None:
    """Changed or replaced: the next process goes on with it, and it covers what was emitted before."""
    run = open_run(store)
    run.emit("one")
    run.state.data["step"] = 1
    run.checkpoint()
    run.emit("two")
    run.state = make_state("r", purpose="another")
    run.checkpoint()
    run.state.purpose = "not saved"
    run = open_run(restarted(backend, store))
    assert run.state == make_state(
        "r", purpose="another", started_at=run.state.started_at, updated_at=run.state.updated_at
    )
    assert (run.recovered.offset, run.recovered.events) == (2, [])


def test_the_main_lane_saves_the_runs_state_and_every_other_lane_its_own(store: Store) -> None:
    for lane_id in ("main", "a"):
        run = open_run(store, lane_id=lane_id)
        run.emit("x")
        run.state.purpose = lane_id
        run.checkpoint()
    assert latest(store, "r").purpose == "main"
    snapshot = store.load_snapshot("r", lane_id="a")
    assert snapshot is not None
    assert (snapshot.state.purpose, snapshot.offset) == ("a", 2)
    assert store.load_snapshot("r", lane_id="main") is None


def test_a_run_at_work_is_running_and_has_its_times(store: Store) -> None:
    """From its first checkpoint on, to its end; when it began stays."""
    before = time.time()
    run = open_run(store)
    assert (run.state.status, run.state.started_at) == (RunStatus.PENDING, 0)
    run.emit("one")
    run.checkpoint()
    first = latest(store, "r")
    assert (status_of(store), first.status) == ("running", RunStatus.RUNNING)
    assert before <= first.started_at == first.updated_at <= time.time()
    run.emit_many(["two"], checkpoint=True)
    assert [info.run_id for info in store.runs(status="running")] == ["r"]
    second = latest(store, "r")
    assert second.started_at == first.started_at < second.updated_at
    run.finish()
    last = latest(store, "r")
    assert last.status is RunStatus.COMPLETED
    assert last.started_at == first.started_at
    assert second.updated_at < last.updated_at == last.finished_at


@pytest.mark.parametrize("at_once", [False, True])
def test_a_run_that_is_started_again_stays_at_work_with_its_checkpoints(store: Store, at_once: bool) -> None:
    """The state that was loaded says that it has ended: the next snapshot would end the run once more."""
    first = open_run(store)
    first.emit("run.started", key="first")
    first.fail("no network")
    run = open_run(store)
    run.emit("run.started", key="first")  # which is there already
    assert (status_of(store), run.state.status) == ("failed", RunStatus.FAILED)
    run.emit_many(["run.started"], checkpoint=at_once)
    run.checkpoint()
    assert (status_of(store), latest(store, "r").status) == ("running", RunStatus.RUNNING)
    assert latest(store, "r").finished_at == 0
    run.finish()
    assert (status_of(store), latest(store, "r").status) == ("completed", RunStatus.COMPLETED)


@pytest.mark.parametrize("status", [RunStatus.PAUSED, RunStatus.COMPLETED, "on hold"])
def test_a_status_that_somebody_has_set_stays(store: Store, status: Any) -> None:
    run = open_run(store)
    run.state.status = status
    run.checkpoint()
    assert latest(store, "r").status == status


def test_a_checkpoint_that_is_refused_leaves_the_state_as_it_was(two_stores: tuple[Store, Store]) -> None:
    ours, theirs = two_stores
    run, other = open_run(ours), open_run(theirs)
    other.checkpoint()
    with pytest.raises(ConcurrencyConflict):
        run.checkpoint()
    assert (run.state.status, run.state.started_at, run.state.updated_at) == (RunStatus.PENDING, 0, 0)


def test_a_checkpoint_does_not_overwrite_another_writers(two_stores: tuple[Store, Store]) -> None:
    """Whoever comes second is told, and can open the run again."""
    ours, theirs = two_stores
    run, other = open_run(ours), open_run(theirs)
    other.state.purpose = "theirs"
    other.checkpoint()
    with pytest.raises(ConcurrencyConflict):
        run.checkpoint()
    assert latest(ours, "r").purpose == "theirs"
    run = open_run(ours)
    assert run.state.purpose == "theirs"
    run.checkpoint()


class Phase(str, Enum):
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class Model(pydantic.BaseModel):
    run_id: str
    session_id: str = ""
    status: str = "running"
    finished_at: datetime | None = None


class Phased(pydantic.BaseModel):
    run_id: str
    status: Phase = Phase.RUNNING
    finished_at: float = 0.0


class Frozen(pydantic.BaseModel, frozen=True):
    run_id: str
    session_id: str = ""
    status: str = "running"


class OwnWords(pydantic.BaseModel):
    run_id: str
    status: str = "thinking"


class OwnPhase(Enum):
    BUSY = "busy"


class OwnPhased(pydantic.BaseModel):
    run_id: str
    status: OwnPhase = OwnPhase.BUSY


@pytest.mark.parametrize(
    ("state_type", "status", "failed_status"),
    [
        (RunState, RunStatus.COMPLETED, RunStatus.FAILED),
        (Model, "completed", "failed"),
        (Phased, Phase.COMPLETED, Phase.FAILED),
        (OwnWords, "thinking", "thinking"),
        (OwnPhased, OwnPhase.BUSY, OwnPhase.BUSY),
    ],
)
def test_a_state_of_any_type_is_given_its_last_status(
    backend: Backend, state_type: type[Any], status: Any, failed_status: Any
) -> None:
    """If that is a status of a run's, in the type that it has; a status of the author's own is left alone."""
    store = backend.open(state_type=state_type)
    run = open_run(store)
    assert type(run.state) is state_type
    run.finish()
    assert run.state.status == status
    assert type(run.state.status) is type(status)
    assert latest(store, "r") == run.state
    assert status_of(store) == "completed"
    run.fail("no")
    assert run.state.status == failed_status
    assert latest(store, "r") == run.state
    assert status_of(store) == "failed"


def test_a_run_state_ends_with_a_status_that_this_version_knows(store: Store) -> None:
    """Whatever it said before."""
    run = open_run(store)
    run.state.status = "of a later version"
    run.finish()
    assert run.state.status is RunStatus.COMPLETED


def test_a_dict_is_a_state(backend: Backend) -> None:
    """It is given a status and a time if it has them, and nothing that it does not have."""
    store = backend.open(state_type=dict)
    run = open_run(store, session_id="s")
    assert run.state == {"run_id": "r"}
    run.finish()
    assert latest(store, "r") == {"run_id": "r"}
    run.state = {"run_id": "r", "status": "running", "finished_at": 0, "step": 1}
    run.finish()
    saved = latest(store, "r")
    assert (saved["status"], saved["step"]) == ("completed", 1)
    assert saved["finished_at"] > 0
    assert status_of(store) == "completed"


def test_a_session_is_put_into_a_new_state_that_has_one(backend: Backend) -> None:
    """Also into one that cannot be changed; not into one that knows no session."""
    assert open_run(backend.open(state_type=Frozen), session_id="s").state.session_id == "s"
    assert open_run(backend.open(state_type=Model), session_id="s").state.session_id == "s"
    assert open_run(backend.open(state_type=Phased), session_id="s").state == Phased(run_id="r")


def test_a_state_that_would_contradict_the_end_is_refused(backend: Backend) -> None:
    """It would open the run again; nothing is written. One that agrees is put in its place."""
    store = backend.open(state_type=Frozen)
    run = open_run(store)
    with pytest.raises(ConfigurationError):
        run.finish()
    assert store.list_runs() == []
    run.state = Frozen(run_id="r", status="completed")
    assert run.finish().event.seq == 1
    assert status_of(store) == "completed"


# -- ending ----------------------------------------------------------------------------------------------


def test_finishing_ends_the_run_well(store: Store, appends: Appends) -> None:
    """Event and state in one step, which also holds what was done before."""
    run = open_run(store)
    run.emit("one")
    before = time.time()
    recorded = run.finish({"answer": 1, "cost": 2}, cost=3)
    assert list(store.read("r"))[-1] == recorded
    assert (recorded.event.kind, recorded.event.seq) == (EventKind.RUN_FINISHED, 2)
    assert recorded.event.payload == {"answer": 1, "cost": 3}
    assert [len(batch) for batch in appends.batches] == [1, 1]
    assert run.state.status is RunStatus.COMPLETED
    assert before <= run.state.finished_at <= time.time()
    assert latest(store, "r") == run.state
    assert status_of(store) == "completed"
    assert store.recover("r").events == []


@pytest.mark.parametrize(
    ("error", "payload"),
    [
        (ModelGaveUpError("no more tokens"), {"error": "no more tokens", "type": "ModelGaveUpError", "step": 3}),
        ("no more time", {"error": "no more time", "type": None, "step": 3}),
    ],
)
def test_failing_ends_the_run_badly(store: Store, error: Any, payload: dict[str, Any]) -> None:
    """It says why: for an exception, or in words."""
    run = open_run(store)
    recorded = run.fail(error, step=3)
    assert list(store.read("r")) == [recorded]
    assert (recorded.event.kind, recorded.event.payload) == (EventKind.RUN_ERROR, payload)
    assert latest(store, "r") == run.state
    assert (run.state.status, status_of(store)) == (RunStatus.FAILED, "failed")
    assert run.state.finished_at > 0


def test_an_end_that_is_refused_leaves_the_state_as_it_was(two_stores: tuple[Store, Store]) -> None:
    """It has not ended, and does not say so."""
    ours, theirs = two_stores
    run = open_run(ours)
    open_run(theirs).checkpoint()
    for end in (run.finish, lambda: run.fail("no")):
        with pytest.raises(ConcurrencyConflict):
            end()
        assert (run.state.status, run.state.finished_at) == (RunStatus.PENDING, 0.0)
    assert kinds(ours) == []


def test_a_lane_that_finishes_saves_its_own_state(store: Store) -> None:
    run = open_run(store, lane_id="a")
    run.finish()
    snapshot = store.load_snapshot("r", lane_id="a")
    assert snapshot is not None
    assert snapshot.state.status is RunStatus.COMPLETED
    assert store.load_latest("r") is None


def test_what_is_emitted_is_followed_until_the_run_ends(store: Store) -> None:
    """All lanes, or what is asked for."""
    with open_run(store) as run, open_run(store, lane_id="a") as other:
        first = run.emit("one")
        other.emit("two", visibility=Visibility.DEBUG)
        run.finish()
        assert [item.event.kind for item in run.follow()] == ["one", "two", EventKind.RUN_FINISHED]
        assert [item.offset for item in run.follow(first.cursor, idle_timeout=5)] == [2, 3]
        assert [item.offset for item in run.follow(lane_id="a")] == [2]
        assert [item.offset for item in run.follow(kinds=["one"])] == [1]
        assert [item.offset for item in run.follow(visibility="public")] == [1, 3]
