"""The handle that an agent works with, over every store: how it is opened, and how it is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from runstream import (
    ConcurrencyConflict,
    ConfigurationError,
    EncodingError,
    EventsArchived,
    InMemoryCheckpointer,
    InvalidRunId,
    LeaseLost,
    Recovery,
    RunState,
    RunStatus,
    RunstreamError,
    StoreUnavailable,
)
from runstream.model.protocols import Checkpointer
from tests.run.run_tools import ModelGaveUpError, events_of, kinds, seqs, status_of
from tests.support.backends import Backend, Store, latest
from tests.support.handles import Appends, BlockingRun, leave, open_run
from tests.support.operations import operations_of
from tests.support.samples import make_event, make_events, make_state


def test_a_run_that_is_not_there_opens_with_a_new_state(backend: Backend, store: Store) -> None:
    """And nothing is written by that."""
    store.save_event(make_event("other"))
    before = backend.footprint()
    run = open_run(store, session_id="s")
    assert (run.run_id, run.lane_id, run.session_id, run.lease, run.grant) == ("r", "main", "s", None, None)
    assert run.recovered == Recovery(None, 0, [])
    assert type(run.state) is RunState
    assert (run.state.run_id, run.state.session_id) == ("r", "s")
    run.close()
    assert backend.footprint() == before
    assert store.list_runs() == ["other"]


def test_a_run_that_is_there_opens_with_what_was_recovered(backend: Backend, store: Store) -> None:
    """The state, what it covers, and the events after it, of all lanes; nothing is written by that."""
    state = make_state("r", session_id="s", purpose="p")
    store.append("r", make_events("r", 2), snapshot=state)
    store.save_events([make_event("r", 3), make_event("r", 1, lane_id="a")])
    before = backend.footprint()
    run = open_run(store)
    assert run.state == state
    assert run.state is run.recovered.state
    assert (run.recovered.offset, [item.offset for item in run.recovered.events]) == (2, [3, 4])
    run.close()
    assert backend.footprint() == before


def test_a_session_is_kept_when_a_run_is_opened_again(store: Store) -> None:
    """It need not be given again: it is the recovered state's."""
    with open_run(store, session_id="s") as run:
        run.emit("one")
        run.checkpoint()
    with open_run(store) as run:
        assert run.session_id == "s"
        assert run.emit("two").event.session_id == "s"
    with open_run(store, session_id="other") as run:
        assert run.emit("three").event.session_id == "other"


def test_a_lane_opens_with_what_is_its_own(store: Store) -> None:
    """Its own snapshot and events, and its own numbers; not the run's, nor another lane's."""
    store.append("r", make_events("r", 3), snapshot=make_state("r", purpose="run"))
    store.append("r", [make_event("r", 7, lane_id="a")], snapshot=make_state("r", purpose="a"), lane_id="a")
    store.save_events([make_event("r", 8, lane_id="a"), make_event("r", 4)])
    run = open_run(store, lane_id="a")
    assert run.state.purpose == "a"
    assert [item.event.seq for item in run.recovered.events] == [8]
    assert run.emit("next").event.seq == 9
    assert open_run(store, lane_id="b").emit("first").event.seq == 1


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"run_id": ""}, InvalidRunId),
        ({"lane_id": "x" * 513}, EncodingError),
        ({"session_id": None}, EncodingError),
        ({"owner": "o"}, ConfigurationError),
        ({"wait": 1.0}, ConfigurationError),
    ],
)
def test_what_cannot_be_opened_is_refused(store: Store, bad: dict[str, Any], error: type[RunstreamError]) -> None:
    """A name that cannot be stored; an owner, or a wait, for a lease that was not asked for."""
    with pytest.raises(error):
        open_run(store, **bad)
    assert store.list_runs() == []


def test_an_opening_that_fails_gives_its_lease_back(leasing: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it was that failed, somebody else can have the lane at once."""
    leasing.save_event(make_event("r"))

    def fail(operations: Any, run_id: str, lane_id: str) -> int:
        raise EventsArchived("gone", run_id=run_id, first_hot=2)

    with monkeypatch.context() as patched:
        patched.setattr(type(operations_of(leasing)), "last_seq", fail)
        with pytest.raises(EventsArchived):
            open_run(leasing, lease_ttl=30, owner="first")
    open_run(leasing, lease_ttl=30, owner="second").close()


# -- leaving ---------------------------------------------------------------------------------------------


def test_leaving_writes_nothing(backend: Backend, store: Store) -> None:
    """The run goes on elsewhere, or later: it has not ended."""
    with open_run(store) as run:
        run.emit("one")
        before = backend.footprint()
    assert backend.footprint() == before


def test_leaving_with_an_exception_records_it_and_raises_it(store: Store) -> None:
    """The run has not ended by that: only finish and fail end it."""
    failure = ModelGaveUpError("no more tokens")
    run = open_run(store)
    run.emit("run.started")
    assert leave(run, failure) is failure
    assert not hasattr(failure, "__notes__")
    assert kinds(store) == ["run.started", "agent.error"]
    assert events_of(store)[-1].payload == {"error": "no more tokens", "type": "ModelGaveUpError"}
    assert seqs(store) == [1, 2]
    assert status_of(store) == "running"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_being_interrupted_is_no_error_of_the_agent(store: Store, kind: type[BaseException]) -> None:
    run, interruption = open_run(store), kind()
    run.emit("one")
    assert leave(run, interruption) is interruption
    assert kinds(store) == ["one"]


def test_an_error_after_the_end_is_recorded_and_does_not_undo_it(store: Store) -> None:
    """agent.error neither ends a run nor opens it again."""
    run, failure = open_run(store), ModelGaveUpError("after all")
    run.finish()
    assert leave(run, failure) is failure
    assert kinds(store) == ["run.finished", "agent.error"]
    assert status_of(store) == "completed"
    assert latest(store, "r").status is RunStatus.COMPLETED


@pytest.mark.parametrize(
    "refusal", [StoreUnavailable("no reply"), LeaseLost("passed on"), ZeroDivisionError("bug")]
)
def test_an_error_that_cannot_be_recorded_is_raised_all_the_same(
    store: Store, appends: Appends, refusal: Exception
) -> None:
    """The author's own exception, with a note that says what went wrong with recording it."""
    failure = ModelGaveUpError("first")
    run = open_run(store)
    appends.fail(refusal)
    assert leave(run, failure) is failure
    (note,) = failure.__notes__
    assert "agent.error" in note
    assert type(refusal).__name__ in note
    assert str(refusal) in note
    assert store.list_runs() == []


def test_an_error_that_has_no_text_is_raised_all_the_same(store: Store) -> None:
    """Even if to ask for its text is an error."""

    class Speechless(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError("no words")

    failure = Speechless()
    assert leave(open_run(store), failure) is failure
    (note,) = failure.__notes__
    assert "no words" in note


# -- a Checkpointer --------------------------------------------------------------------------------------


def test_a_run_is_a_checkpointer_of_its_lane(store: Store) -> None:
    """What is saved through it is the run's, and comes back; its own state is not touched by that."""
    run = open_run(store, lane_id="a")
    checkpointer: object = vars(run)["_store"] if isinstance(run, BlockingRun) else run
    assert isinstance(checkpointer, Checkpointer)
    assert run.load_latest("r") is None
    event, state = make_event("r", 4, lane_id="a"), make_state("r", purpose="saved")
    run.save_event(event)
    run.save_snapshot("r", state)
    assert run.list_events("r") == [event]
    assert run.list_events("r", 4) == []
    assert run.load_latest("r") == state
    snapshot = store.load_snapshot("r", lane_id="a")
    assert snapshot is not None
    assert (snapshot.state, snapshot.offset) == (state, 1)
    assert run.state.purpose == ""


def test_a_run_is_a_checkpointer_of_no_other_run(store: Store) -> None:
    run = open_run(store)
    calls: list[Callable[[], Any]] = [
        lambda: run.save_event(make_event("other")),
        lambda: run.save_event(object()),
        lambda: run.save_snapshot("other", make_state("other")),
        lambda: run.load_latest("other"),
        lambda: run.list_events("other"),
    ]
    for call in calls:
        with pytest.raises(InvalidRunId):
            call()
    assert store.list_runs() == []


# -- several at once -------------------------------------------------------------------------------------


def test_two_lanes_go_on_at_once(store: Store) -> None:
    """Each with numbers and a state of its own."""

    def work(lane_id: str) -> None:
        with open_run(store, lane_id=lane_id) as run:
            for step in range(1, 21):
                run.state.current_step = step
                run.emit_many([("step", {"n": step})], checkpoint=True)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work, lane_id) for lane_id in ("a", "b")]:
            done.result(60)
    for lane_id in ("a", "b"):
        assert seqs(store, lane_id) == list(range(1, 21))
        run = open_run(store, lane_id=lane_id)
        assert (run.state.current_step, run.recovered.events) == (20, [])


def test_threads_share_a_run(store: Store) -> None:
    """The numbers of the lane are those of the log."""
    run = open_run(store)

    def work() -> None:
        for _ in range(10):
            run.emit("x")
            run.emit_many(["y", "z"])

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _ in range(4)]:
            done.result(60)
    assert seqs(store) == list(range(1, 121))


def test_agent_code_is_tested_without_a_server() -> None:
    """In memory, with nothing but the store and the Run."""
    with InMemoryCheckpointer() as store:
        with store.open_run("r", lease_ttl=30, owner="test") as run:
            run.emit("tool.result", key="step-1", answer=42)
            run.finish()
        assert [event.payload for event in store.list_events("r")] == [{"answer": 42}, {}]


# -- two Runs on one store object ------------------------------------------------------------------------


def test_two_runs_on_one_store_object_do_not_overwrite_each_other(store: Store) -> None:
    """Each knows of snapshots what it did itself: a checkpoint over the other's is a conflict."""
    first, second = open_run(store), open_run(store)
    first.checkpoint()
    with pytest.raises(ConcurrencyConflict):
        second.checkpoint()
    first.checkpoint()


def test_a_runs_snapshot_does_not_cover_what_another_run_of_the_store_appended(store: Store) -> None:
    """Its state does not hold that: a recovery gives it."""
    first, second = open_run(store), open_run(store, lane_id="other")
    first.emit("one")
    second.emit("two")
    first.emit("three")
    first.checkpoint()
    recovery = store.recover("r")
    assert recovery.offset == 1
    assert [item.event.kind for item in recovery.events] == ["two", "three"]
