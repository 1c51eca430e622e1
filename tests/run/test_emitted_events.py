"""What a run emits: numbered within its lane, recorded once, several in one step with the state."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from runstream import (
    ConcurrencyConflict,
    DrainWorker,
    EncodingError,
    EventKind,
    EventsArchived,
    InMemoryCheckpointer,
    PAEvent,
    RunStatus,
    SQLiteCheckpointer,
    StoreUnavailable,
    Visibility,
)
from runstream.run.emission import Emission
from tests.run.run_tools import Line, kinds, seqs, status_of
from tests.support.backends import Backend, RedisBackend, Store, latest
from tests.support.handles import Appends, open_run, restarted
from tests.support.operations import operations_of
from tests.support.samples import make_event, make_state


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
    store = backend.open(event_type=Strict)
    run = open_run(store)
    with pytest.raises(EncodingError) as caught:
        run.emit("no.such.kind")
    assert caught.value.path == "kind"
    assert run.emit("run.started").event.seq == 1


class Strict(PAEvent):
    """An event of few kinds."""

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> PAEvent:
        event = super().from_dict(fields)
        if event.kind != "run.started":
            raise ValueError(f"{event.kind} is no kind")
        return event


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

    def fail(*args: Any, **options: Any) -> Any:
        raise StoreUnavailable("not now")

    with monkeypatch.context() as patched:
        patched.setattr(type(operations_of(store)), "read", fail)  # a Run has an object of its own
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
    """To end it again is no conflict and no second end; the state says so when it is known."""
    store = redis_backend.open(retry_seconds=0)
    run, line = open_run(store), Line(store)
    line.cut = lost
    with pytest.raises(StoreUnavailable):
        run.finish()
    assert run.state.status is RunStatus.PENDING
    run.finish()
    assert (status_of(store), latest(store, "r").status) == ("completed", RunStatus.COMPLETED)
    assert seqs(store) == [1]
