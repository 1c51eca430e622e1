"""The handle that an agent works with, over every store: opening, events, states, ending, leaving."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

import fakeredis
import purpose_agent.runtime
import pydantic
import pytest

from runstream import (
    AsyncRedisCheckpointer,
    ConcurrencyConflict,
    ConfigurationError,
    DrainWorker,
    EncodingError,
    EventKind,
    EventsArchived,
    InMemoryCheckpointer,
    InvalidRunId,
    LeaseHeld,
    LeaseLost,
    PAEvent,
    Recorded,
    Recovery,
    RunState,
    RunStatus,
    RunstreamError,
    SQLiteCheckpointer,
    StoreUnavailable,
    Visibility,
)
from runstream.model.protocols import Checkpointer
from runstream.run import AsyncRun, Run
from runstream.run.lane import Emission
from runstream.stores.redis.exchange import Exchange, Replies
from tests.support.backends import Backend, RedisBackend, Store, latest
from tests.support.handles import Appends, leave, open_run, restarted
from tests.support.kinds import BACKENDS, SHARED
from tests.support.samples import make_event, make_events, make_state

LEASING = [name for name in BACKENDS if "jsonl" not in name]
SHARED_LEASING = [name for name in SHARED if "jsonl" not in name]


def events_of(store: Store, lane_id: str | None = None) -> list[Any]:
    return [item.event for item in store.read("r") if lane_id in (None, item.event.lane_id)]


def seqs(store: Store, lane_id: str = "main") -> list[int]:
    return [event.seq for event in events_of(store, lane_id)]


def kinds(store: Store) -> list[str]:
    return [str(getattr(event.kind, "value", event.kind)) for event in events_of(store)]


def status_of(store: Store) -> str:
    info = store.run_info("r")
    assert info is not None
    return info.status


@pytest.fixture
def appends(store: Store) -> Appends:
    return Appends(store)


@pytest.fixture(params=LEASING)
def leasing(request: pytest.FixtureRequest, make_backend: Callable[[str], Backend]) -> Store:
    """A store of every kind that gives leases."""
    return make_backend(request.param).open()


@pytest.fixture(params=SHARED_LEASING)
def two_leasing(request: pytest.FixtureRequest, make_backend: Callable[[str], Backend]) -> tuple[Store, Store]:
    """Two processes' stores over one place that gives leases."""
    backend = make_backend(request.param)
    return backend.open(), backend.open()


# -- opening ---------------------------------------------------------------------------------------------


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
    inner: Any = getattr(leasing, "_store", leasing)

    def fail(store: Any, run_id: str, lane_id: str) -> int:
        raise EventsArchived("gone", run_id=run_id, first_hot=2)

    with monkeypatch.context() as patched:
        patched.setattr(type(inner), "last_seq", fail)
        with pytest.raises(EventsArchived):
            open_run(leasing, lease_ttl=30, owner="first")
    open_run(leasing, lease_ttl=30, owner="second").close()


# -- events ----------------------------------------------------------------------------------------------


def test_an_event_is_recorded_as_it_was_emitted(store: Store) -> None:
    """What emit gives is what is read: place, numbers, kind, visibility, parent and payload."""
    run = open_run(store, lane_id="a", session_id="s")
    started = run.emit(EventKind.RUN_STARTED)
    before = time.time()
    recorded = run.emit(
        "tool.result",
        {"tool": "search", "hits": 1, "error": None},
        parent_span_id=started.event.span_id,
        visibility="internal",
        hits=2,
        kind="a field",
    )
    unknown = run.emit("my.kind", visibility="mine")
    assert list(store.read("r")) == [started, recorded, unknown]
    assert (recorded.offset, recorded.event.seq, recorded.event.lane_id) == (2, 2, "a")
    assert (recorded.event.session_id, recorded.event.parent_span_id) == ("s", started.event.span_id)
    assert recorded.event.kind is EventKind.TOOL_RESULT
    assert recorded.event.visibility is Visibility.INTERNAL
    assert recorded.event.payload == {"tool": "search", "hits": 2, "error": None, "kind": "a field"}
    assert before <= recorded.event.ts <= time.time()
    assert len({item.event.span_id for item in (started, recorded, unknown)}) == 3
    assert (unknown.event.kind, unknown.event.visibility, unknown.event.payload) == ("my.kind", "mine", {})
    assert started.event.visibility is Visibility.PUBLIC


def test_the_payload_that_was_passed_stays_the_callers(store: Store) -> None:
    """It is not changed by emitting it, nor is the event by changing it."""
    payload, run = {"a": 1}, open_run(store)
    recorded = [run.emit("x", payload, b=2), *run.emit_many([("x", payload)])]
    assert payload == {"a": 1}
    payload["a"] = 3
    assert [item.event.payload for item in recorded] == [{"a": 1, "b": 2}, {"a": 1}]


def test_numbering_goes_on_after_a_crash(backend: Backend, store: Store) -> None:
    """Where the lane left off, whether its events came after the last snapshot or are all covered by it."""
    run = open_run(store)
    run.emit("one")
    run.checkpoint()
    run.emit("two")
    store = restarted(backend, store)
    run = open_run(store)
    assert [item.event.seq for item in run.recovered.events] == [2]
    assert run.emit("three").event.seq == 3
    run.checkpoint()
    store = restarted(backend, store)
    run = open_run(store)
    assert run.recovered.events == []
    assert run.emit("four").event.seq == 4
    assert seqs(store) == [1, 2, 3, 4]


def test_a_refused_event_takes_no_number(store: Store) -> None:
    """The numbers of a lane rise one by one."""
    run = open_run(store)
    run.emit("one")
    with pytest.raises(EncodingError):
        run.emit("bad", value=object())
    with pytest.raises(EncodingError):
        run.emit("bad", key="k" * 513)
    with pytest.raises(EncodingError):
        run.emit_many([("fine", {}), ("bad", {"value": object()})])
    run.emit("two")
    assert seqs(store) == [1, 2]
    assert kinds(store) == ["one", "two"]


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("failure", [StoreUnavailable("no reply"), MemoryError()])
def test_a_number_whose_outcome_is_unknown_is_not_used_again(
    store: Store, appends: Appends, failure: BaseException, applied: bool
) -> None:
    """Whether the append was applied or not: no two events have the same."""
    run = open_run(store)
    run.emit("one")
    appends.fail(failure, applied=applied)
    with pytest.raises(type(failure)):
        run.emit_many(["two", "three"])
    run.emit("four")
    assert seqs(store) == ([1, 2, 3, 4] if applied else [1, 4])


def test_a_number_that_was_interrupted_on_its_way_is_not_used_again() -> None:
    """As for one whose outcome is unknown for another reason."""
    store = InMemoryCheckpointer()
    appends = Appends(store)
    run = store.open_run("r")
    appends.fail(KeyboardInterrupt(), applied=True)
    with pytest.raises(KeyboardInterrupt):
        run.emit("one")
    run.emit("two")
    assert seqs(store) == [1, 2]


def test_an_event_type_of_ones_own_is_emitted(backend: Backend) -> None:
    """It is what emit gives and what is read."""
    store = backend.open(event_type=MyEvent)
    run = open_run(store)
    recorded = run.emit("mine", n=1)
    assert type(recorded.event) is MyEvent
    assert list(store.read("r")) == [recorded]
    assert (recorded.event.seq, recorded.event.payload, recorded.event.mark) == (1, {"n": 1}, "made")


@dataclass(frozen=True)
class MyEvent:
    run_id: str
    kind: str
    seq: int
    span_id: str
    ts: float
    lane_id: str
    payload: dict[str, Any]
    rest: dict[str, Any]
    mark: str = "made"

    def to_dict(self) -> dict[str, Any]:
        return {**{name: value for name, value in vars(self).items() if name != "rest"}, **self.rest}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> MyEvent:
        own = {name: value for name, value in fields.items() if name in cls.__dataclass_fields__}
        return cls(**own, rest={name: value for name, value in fields.items() if name not in own})


def test_an_event_that_has_no_number_is_saved(backend: Backend) -> None:
    """Its class may know of none; the lane goes on with its own."""
    store = backend.open(event_type=Unnumbered)
    run = open_run(store)
    run.save_event(Unnumbered("r", {"kind": "x", "ts": 0.0}))
    run.emit("y")
    assert [item.event.rest["seq"] for item in store.read("r")] == [0, 1]


@dataclass(frozen=True)
class Unnumbered:
    run_id: str
    rest: dict[str, Any]
    lane_id: str = "main"

    def to_dict(self) -> dict[str, Any]:
        return {"run_id": self.run_id, **self.rest}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Unnumbered:
        return cls(fields["run_id"], {name: value for name, value in fields.items() if name != "run_id"})


def test_an_event_that_the_event_type_refuses_is_an_encoding_error(backend: Backend) -> None:
    """It takes no number, and writes nothing."""
    store = backend.open(event_type=purpose_agent.runtime.PAEvent)
    run = open_run(store)
    with pytest.raises(EncodingError) as caught:
        run.emit("no.such.kind")
    assert caught.value.path == "kind"
    assert run.emit("run.started").event.seq == 1


# -- keys ------------------------------------------------------------------------------------------------


def test_a_step_that_is_repeated_after_a_crash_is_recorded_once(backend: Backend, store: Store) -> None:
    """The repeated emit gives the place and the event of the first, and takes no number."""
    run = open_run(store)
    run.emit("tool.started")
    first = run.emit("tool.result", key="step-1", answer="then")
    store = restarted(backend, store)
    run = open_run(store)
    assert run.emit("tool.result", key="step-1", answer="now") == first
    assert run.emit("next").event.seq == 3
    assert seqs(store) == [1, 2, 3]
    assert run.emit("tool.result", key="step-2", answer="now").event.payload == {"answer": "now"}


def test_a_key_is_known_whichever_lane_it_was_used_in(store: Store) -> None:
    """What is given then is that lane's event."""
    first = open_run(store, lane_id="a").emit("x", key="k")
    run = open_run(store, lane_id="b")
    assert run.emit("x", key="k") == first
    assert run.emit("y").event.seq == 1


def test_of_a_known_event_that_has_left_the_store_the_place_is_given(
    redis_backend: RedisBackend, tmp_path: Any
) -> None:
    """With the event as it would have been recorded now; archived and trimmed, its key is known still."""
    store: Any = redis_backend.open()
    first = open_run(store).emit("x", key="k", answer="then")
    with SQLiteCheckpointer[Any, Any](tmp_path / "archive.db") as archive:
        DrainWorker(store, [archive], trim="archived").drain_once()
    with pytest.raises(EventsArchived):
        store.list_events("r")
    store.save_snapshot("r", make_state("r"))
    run = open_run(store, lane_id="other")
    repeated = run.emit("x", key="k", answer="now")
    assert (repeated.offset, repeated.cursor) == (first.offset, first.cursor)
    assert repeated.event.payload == {"answer": "now"}


def test_a_known_event_that_cannot_be_read_for_now_is_not_made_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent would go on with another result than the one that is recorded."""
    run = open_run(store)
    first = run.emit("x", key="k")
    inner: Any = getattr(store, "_store", store)

    def fail(*args: Any, **options: Any) -> Any:
        raise StoreUnavailable("not now")

    with monkeypatch.context() as patched:
        patched.setattr(type(inner), "read", fail)  # a Run has an object of its own
        with pytest.raises(StoreUnavailable):
            run.emit("x", key="k")
    assert run.emit("x", key="k") == first
    assert run.emit("y").event.seq == 2


# -- several events at once ------------------------------------------------------------------------------


def test_several_events_are_one_append(store: Store, appends: Appends) -> None:
    """As emissions, tuples or mere kinds; given back in order, as they are read."""
    run = open_run(store)
    recorded = run.emit_many(
        [
            Emission("one", {"n": 1}, parent_span_id="p", visibility=Visibility.DEBUG),
            ("two", {"n": 2}, "key-2"),
            ("three", {"n": 3}),
            EventKind.TEXT_DONE,
        ]
    )
    assert list(store.read("r")) == recorded
    assert [len(batch) for batch in appends.batches] == [4]
    assert seqs(store) == [1, 2, 3, 4]
    assert kinds(store) == ["one", "two", "three", "text.done"]
    assert (recorded[0].event.parent_span_id, recorded[0].event.visibility) == ("p", Visibility.DEBUG)
    assert run.emit("two", key="key-2") == recorded[1]


def test_of_several_events_those_whose_key_is_known_are_not_written(store: Store) -> None:
    """Each gives the place of its first append; the numbers of the others rise, and go on after the last."""
    run = open_run(store)
    first = run.emit("a", key="a")
    recorded = run.emit_many([("b", {}, "b"), ("a", {}, "a"), ("c", {}), ("b", {}, "b")])
    assert [item.offset for item in recorded] == [2, 1, 3, 2]
    assert recorded[1] == first
    assert recorded[3] == recorded[0]
    assert kinds(store) == ["a", "b", "c"]
    assert seqs(store) == [1, 2, 4]
    assert run.emit_many([("d", {}), ("a", {}, "a")])[0].event.seq == 5
    assert run.emit("e").event.seq == 6


def test_no_events_are_no_append(store: Store, appends: Appends) -> None:
    assert open_run(store).emit_many([]) == []
    assert appends.batches == []
    assert store.list_runs() == []


def test_events_and_state_are_one_step(backend: Backend, store: Store, appends: Appends) -> None:
    """The snapshot covers the events that it came with."""
    run = open_run(store)
    run.state.purpose = "both"
    run.emit_many(["one", "two"], checkpoint=True)
    assert len(appends.batches) == 1
    run = open_run(restarted(backend, store))
    assert (run.state.purpose, run.recovered.offset, run.recovered.events) == ("both", 2, [])


def test_events_do_not_go_without_their_state(two_stores: tuple[Store, Store]) -> None:
    """Where another snapshot was saved in between, neither is written, and no number is taken."""
    ours, theirs = two_stores
    run = open_run(ours)
    open_run(theirs).checkpoint()
    with pytest.raises(ConcurrencyConflict):
        run.emit_many(["one"], checkpoint=True)
    assert kinds(ours) == []
    assert run.emit("one").event.seq == 1


def test_a_step_that_is_known_saves_no_state_again(store: Store) -> None:
    """Its state was saved when it was recorded, in one step."""
    run = open_run(store)
    run.emit_many([("a", {}, "a")], checkpoint=True)
    run.state.purpose = "later"
    run.emit_many([("a", {}, "a")], checkpoint=True)
    assert latest(store, "r").purpose == ""


# -- states ----------------------------------------------------------------------------------------------


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


class ModelGaveUpError(Exception):
    pass


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


def test_what_is_emitted_is_followed_until_the_run_ends(live: Store) -> None:
    """All lanes, or what is asked for."""
    with open_run(live) as run, open_run(live, lane_id="a") as other:
        first = run.emit("one")
        other.emit("two", visibility=Visibility.DEBUG)
        run.finish()
        assert [item.event.kind for item in run.follow()] == ["one", "two", EventKind.RUN_FINISHED]
        assert [item.offset for item in run.follow(first.cursor, idle_timeout=5)] == [2, 3]
        assert [item.offset for item in run.follow(lane_id="a")] == [2]
        assert [item.offset for item in run.follow(kinds=["one"])] == [1]
        assert [item.offset for item in run.follow(visibility="debug")] == [2]


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
    checkpointer: object = run
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


def test_the_numbering_goes_on_after_an_event_that_was_made_elsewhere(store: Store, appends: Appends) -> None:
    """If it is of this lane and was written, or may have been; it is never taken back."""
    run = open_run(store)
    run.save_event(make_event("r", 5))
    assert run.emit("x").event.seq == 6
    run.save_event(make_event("r", 2))
    run.save_event(make_event("r", 50, lane_id="a"))
    with pytest.raises(EncodingError):
        run.save_event(make_event("r", 60, payload={"bad": object()}))
    with pytest.raises(EncodingError):
        run.save_event(make_event("r", "70"))
    assert run.emit("x").event.seq == 7
    appends.fail(StoreUnavailable("no reply"))
    with pytest.raises(StoreUnavailable):
        run.save_event(make_event("r", 80))
    assert run.emit("x").event.seq == 81


# -- a lease ---------------------------------------------------------------------------------------------


def test_nobody_else_writes_the_lane_of_a_run_that_holds_a_lease(two_leasing: tuple[Store, Store]) -> None:
    """Neither by opening it nor without a lease; other lanes go on, and leaving gives the lane free."""
    ours, theirs = two_leasing
    with open_run(ours, lease_ttl=30, owner="us") as run:
        assert run.grant == run.lease.grant
        assert (run.grant.owner, run.grant.lane_id, run.grant.ttl_seconds) == ("us", "main", 30)
        run.emit("one")
        with pytest.raises(LeaseHeld) as caught:
            open_run(theirs, lease_ttl=30, owner="them")
        assert caught.value.owner == "us"
        with pytest.raises(LeaseHeld):
            theirs.save_event(make_event("r", 9))
        other = open_run(theirs, lane_id="a", lease_ttl=30, owner="them")
        other.emit("two")
        other.checkpoint()
        run.emit("three")
    assert run.lease.lost
    assert kinds(ours) == ["one", "two", "three"]
    with open_run(theirs, lease_ttl=30, owner="them") as run:
        run.emit("four")


WRITES: dict[str, Callable[[Any], Any]] = {
    "emit": lambda run: run.emit("x"),
    "emit_many": lambda run: run.emit_many(["x", "y"]),
    "emit_delta": lambda run: run.emit_delta("x"),
    "checkpoint": lambda run: run.checkpoint(),
    "finish": lambda run: run.finish(),
    "fail": lambda run: run.fail("x"),
    "save_event": lambda run: run.save_event(make_event("r", 1, lane_id=run.lane_id)),
    "save_snapshot": lambda run: run.save_snapshot("r", make_state("r")),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("lane_id", ["main", "a"])
@pytest.mark.parametrize("place", ["memory", "fake", "async-fake"])
def test_all_that_a_run_writes_carries_its_lease(
    make_backend: Callable[[str], Backend], place: str, lane_id: str, write: str
) -> None:
    """A store that requires one takes it; when the same owner has opened the lane again, it does not."""
    store = make_backend(place).open(require_lease=True)
    with pytest.raises(ConfigurationError):
        WRITES[write](open_run(store, lane_id=lane_id))
    run = open_run(store, lane_id=lane_id, lease_ttl=30, owner="us")
    WRITES[write](run)
    again = open_run(store, lane_id=lane_id, lease_ttl=30, owner="us")
    before = (events_of(store), store.load_snapshot("r"), store.load_snapshot("r", lane_id=lane_id))
    with pytest.raises(LeaseLost):
        WRITES[write](run)
    assert run.lease.lost
    assert (events_of(store), store.load_snapshot("r"), store.load_snapshot("r", lane_id=lane_id)) == before
    run.close()
    WRITES[write](again)


def test_an_error_under_a_lease_that_has_passed_on_is_raised_with_a_note(leasing: Store) -> None:
    """It is not recorded: the lane is another's."""
    failure = ModelGaveUpError("late")
    run = open_run(leasing, lease_ttl=30, owner="us")
    taken = open_run(leasing, lease_ttl=30, owner="us")
    assert leave(run, failure) is failure
    assert "LeaseLost" in failure.__notes__[0]
    assert taken.emit("one").event.seq == 1


def test_a_run_without_an_owner_shares_its_lane_with_nobody(leasing: Store) -> None:
    """Its owner is a name of its own, and tells where it is."""
    with open_run(leasing, lease_ttl=30):
        with pytest.raises(LeaseHeld) as caught:
            open_run(leasing, lease_ttl=30)
        assert len(caught.value.owner.split(":")) == 3


def test_a_lane_is_waited_for(leasing: Store) -> None:
    """Until the one before has left it."""
    run = open_run(leasing, lease_ttl=30)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(open_run, leasing, lease_ttl=30, wait=20)
        run.emit("one")
        run.close()
        assert waiting.result(20).emit("two").event.seq == 2


@pytest.mark.parametrize(
    "failure", [None, ModelGaveUpError("agent"), KeyboardInterrupt(), asyncio.CancelledError()]
)
def test_the_lease_is_given_back_however_a_run_is_left(leasing: Store, failure: BaseException | None) -> None:
    """Also if the error could not be recorded."""
    appends = Appends(leasing)
    run = open_run(leasing, lease_ttl=30)
    appends.fail(StoreUnavailable("no reply"))
    assert leave(run, failure) is failure
    open_run(leasing, lease_ttl=30).close()


def test_a_lease_that_cannot_be_given_back_hides_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noted on it; without an error it is raised."""
    store, failure = InMemoryCheckpointer(), ModelGaveUpError("first")
    for lane_id, error in (("a", failure), ("b", None)):
        run = store.open_run("r", lane_id=lane_id, lease_ttl=30)
        assert run.lease is not None
        release = run.lease.release

        def fail(release: Callable[[], None] = release) -> None:
            release()
            raise ConfigurationError("the store is closed")

        monkeypatch.setattr(run.lease, "release", fail)
        raised = leave(run, error)
        assert raised is failure if error else isinstance(raised, ConfigurationError)
    (note,) = failure.__notes__
    assert "the store is closed" in note


def test_a_store_without_leases_opens_runs_without(make_backend: Callable[[str], Backend]) -> None:
    store = make_backend("jsonl").open()
    with pytest.raises(ConfigurationError):
        open_run(store, lease_ttl=30)
    open_run(store).emit("one")


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


# -- over a line that breaks -----------------------------------------------------------------------------


class Line:
    """The line between a store and its server, which a test cuts."""

    def __init__(self, store: Any) -> None:
        driver: Any = store._driver
        self._exchange = driver._exchange_once
        self.cut = ""
        driver._exchange_once = self._pass_on

    def _pass_on(self, exchange: Exchange) -> Replies:
        cut, self.cut = self.cut, ""
        if cut == "request":
            raise StoreUnavailable("the request was lost")
        replies: Replies = self._exchange(exchange)
        if cut == "reply":
            raise StoreUnavailable("the reply was lost")
        return replies


@pytest.mark.parametrize("lost", ["request", "reply"])
def test_what_is_sent_again_after_a_lost_reply_is_there_once(redis_backend: RedisBackend, lost: str) -> None:
    """An emit that is repeated with its key, and the same event that is saved again."""
    store = redis_backend.open(retry_seconds=0)
    run, line = open_run(store), Line(store)
    run.emit("one")
    line.cut = lost
    with pytest.raises(StoreUnavailable):
        run.emit("two", key="k", n=1)
    repeated = run.emit("two", key="k", n=2)
    # the store has settled the first before it sent the second
    assert (repeated.offset, repeated.event.seq, repeated.event.payload) == (2, 2, {"n": 1})
    event = make_event("r", 9)
    line.cut = lost
    with pytest.raises(StoreUnavailable):
        run.save_event(event)
    run.save_event(event)
    assert run.emit("four").event.seq == 10
    assert seqs(store) == [1, 2, 9, 10]


@pytest.mark.parametrize("lost", ["request", "reply"])
def test_an_end_whose_outcome_is_unknown_is_an_end(redis_backend: RedisBackend, lost: str) -> None:
    """To end it again is no conflict; the state says so when it is known."""
    store = redis_backend.open(retry_seconds=0)
    run, line = open_run(store), Line(store)
    line.cut = lost
    with pytest.raises(StoreUnavailable):
        run.finish()
    assert run.state.status is RunStatus.PENDING
    run.finish()
    assert (status_of(store), latest(store, "r").status) == ("completed", RunStatus.COMPLETED)
    assert seqs(store) == [1, 2]


# -- awaited ---------------------------------------------------------------------------------------------


@pytest.fixture
def hot() -> AsyncRedisCheckpointer[Any, Any]:
    return AsyncRedisCheckpointer(fakeredis.FakeAsyncRedis())


async def recorded_of(hot: AsyncRedisCheckpointer[Any, Any]) -> list[Recorded[PAEvent]]:
    return [item async for item in hot.read("r")]


async def test_an_async_run_is_entered_or_awaited(hot: AsyncRedisCheckpointer[Any, Any]) -> None:
    async with hot.open_run("r", lease_ttl=30, owner="us") as run:
        recorded = await run.emit("one", n=1)
        assert isinstance(run, AsyncRun)
        assert await recorded_of(hot) == [recorded]
    assert run.lease is not None
    assert run.lease.lost
    run = await hot.open_run("r")
    await run.finish()
    await run.close()
    assert [item.event.seq async for item in run.follow()] == [1, 2]


async def test_tasks_share_an_async_run(hot: AsyncRedisCheckpointer[Any, Any]) -> None:
    """The numbers of the lane are those of the log."""
    run = await hot.open_run("r")

    async def work() -> None:
        for _ in range(10):
            await run.emit("x")
            await run.emit_many(["y", "z"])

    await asyncio.gather(*(work() for _ in range(4)))
    assert [item.event.seq for item in await recorded_of(hot)] == list(range(1, 121))


async def test_a_number_that_was_cancelled_on_its_way_is_not_used_again(
    hot: AsyncRedisCheckpointer[Any, Any],
) -> None:
    """Cancelled before its reply came, it is there; nobody else has its number, and cancelling records nothing."""
    applied = asyncio.Event()
    run = await hot.open_run("r")
    writer: Any = run._store
    append_each = writer.append_each

    async def hold_reply(*args: Any, **options: Any) -> Any:
        placement = await append_each(*args, **options)
        applied.set()
        await asyncio.Event().wait()
        return placement

    async def work(run: AsyncRun[Any, Any]) -> None:
        async with run:
            await run.emit("one")

    writer.append_each = hold_reply  # the reply that is on its way
    task = asyncio.create_task(work(run))
    await applied.wait()
    writer.append_each = append_each
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await run.emit("two")).event.seq == 2
    assert [item.event.kind for item in await recorded_of(hot)] == ["one", "two"]


async def test_a_run_that_runs_out_of_time_records_nothing(hot: AsyncRedisCheckpointer[Any, Any]) -> None:
    """A time limit is a cancellation inside, and gives the lease back."""
    applied = asyncio.Event()

    async def work() -> None:
        async with asyncio.timeout(None) as limit, hot.open_run("r", lease_ttl=30) as run:
            await run.emit("one")
            applied.set()
            limit.reschedule(0)  # which was long ago
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await work()
    assert applied.is_set()
    assert [item.event.kind for item in await recorded_of(hot)] == ["one"]
    await (await hot.open_run("r", lease_ttl=30)).close()


async def test_an_async_run_that_is_left_with_an_exception_records_it(
    hot: AsyncRedisCheckpointer[Any, Any],
) -> None:

    async def work() -> None:
        async with hot.open_run("r"):
            raise ModelGaveUpError("no")

    with pytest.raises(ModelGaveUpError):
        await work()
    (recorded,) = await recorded_of(hot)
    assert (recorded.event.kind, recorded.event.payload["error"]) == (EventKind.AGENT_ERROR, "no")


# -- the public face -------------------------------------------------------------------------------------


def methods(kind: type[Any]) -> dict[str, Any]:
    return {name: value for name, value in vars(kind).items() if callable(value) and not name.startswith("_")}


def test_run_and_async_run_differ_only_in_the_waiting() -> None:
    """The same methods with the same parameters, each with a docstring."""
    mine, theirs = methods(Run), methods(AsyncRun)
    assert list(mine) == list(theirs)
    for name, method in mine.items():
        awaited = theirs[name]
        assert [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()] == [
            (p.name, p.kind, p.default) for p in inspect.signature(awaited).parameters.values()
        ]
        assert method.__doc__
        assert awaited.__doc__
        assert inspect.iscoroutinefunction(awaited) == (name != "follow")


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
