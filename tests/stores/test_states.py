"""What every store does with states: snapshots of runs and lanes, what they cover, and recovery."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream.model.errors import ConcurrencyConflict, ConfigurationError, EncodingError, EventRefused
from runstream.model.results import Recovery
from runstream.model.state import NodeState, RunState, RunStatus
from tests.support.backends import Backend, Store, latest
from tests.support.decoding import note_decoded
from tests.support.kinds import SHARED, on_every_backend, on_every_pair_of_stores
from tests.support.samples import make_event, make_events, make_state, same

_numbers = itertools.count()


def covered(store: Store, lane_id: str | None = None) -> int:
    """The offset that the latest snapshot covers."""
    snapshot = store.load_snapshot("r", lane_id=lane_id)
    assert snapshot is not None
    assert (snapshot.offset, snapshot.revision) in store.kept_snapshots("r", lane_id=lane_id)
    return snapshot.offset


# -- what is saved comes back ----------------------------------------------------------------------------


@on_every_backend
def test_a_state_comes_back_whole(store: Store) -> None:
    """All actions and all times of nodes are among it, which purpose-agent's own to_dict drops."""
    state = make_state(
        "r",
        session_id="s",
        purpose="everything",
        data={"z": 1, "a": {"nested": [1, 2]}},
        action_history=[{"action": n} for n in range(120)],
        completed_nodes=["one"],
        tool_results_cache={"key": ("tuple", b"bytes")},
    )
    state.mark_node_started("one")
    state.mark_node_completed("one", {"out": 1})
    state.mark_node_started("two")
    state.mark_node_failed("two", "broke")
    store.save_snapshot("r", state)
    loaded = latest(store, "r")
    assert loaded == state
    assert type(loaded) is RunState
    assert type(loaded.status) is RunStatus
    assert all(type(node) is NodeState for node in loaded.node_states.values())
    assert loaded.node_states["one"].finished_at > 0
    assert len(loaded.action_history) == 120


def test_there_is_no_snapshot_until_one_is_saved(store: Store) -> None:
    store.save_events(make_events("r", 2))
    for run_id in ("r", "nobody"):
        assert store.kept_snapshots(run_id) == []
        assert store.load_latest(run_id) is None
        assert store.load_snapshot(run_id) is None
        assert store.load_snapshot(run_id, lane_id="main") is None


def test_a_loaded_snapshot_is_never_the_object_that_was_saved(store: Store) -> None:
    state = make_state("r", data={"items": [1]})
    store.save_snapshot("r", state)
    state.data["items"].append(2)
    loaded = latest(store, "r")
    assert loaded is not state
    assert loaded.data == {"items": [1]}
    loaded.data["items"].append(3)
    assert latest(store, "r").data == {"items": [1]}


def test_the_latest_snapshot_replaces_the_one_before(store: Store) -> None:
    for step in range(1, 4):
        store.save_snapshot("r", make_state("r", current_step=step, data={str(step): step}))
    snapshot = store.load_snapshot("r")
    assert snapshot is not None
    assert snapshot.revision == 3
    assert snapshot.state.current_step == 3
    assert snapshot.state.data == {"3": 3}


def test_another_store_loads_what_was_saved_and_replaces_it(two_stores: tuple[Store, Store]) -> None:
    """Saving needs no knowledge of who saved before: the last one wins, whole."""
    store, other = two_stores
    store.save_snapshot("r", make_state("r", data={"a": 1, "b": 2}))
    assert latest(other, "r").data == {"a": 1, "b": 2}
    other.save_snapshot("r", make_state("r", data={"b": 3}))
    store.save_snapshot("r", make_state("r", data={"a": 1, "b": 2, "c": 4}))
    for reader in (store, other):
        snapshot = reader.load_snapshot("r")
        assert snapshot is not None
        assert (snapshot.state.data, snapshot.revision) == ({"a": 1, "b": 2, "c": 4}, 3)


@pytest.mark.one_in(2)
def test_a_reader_sees_events_and_a_whole_snapshot_or_neither(two_stores: tuple[Store, Store]) -> None:
    """Not half of a state, no mixture of two, and no state without the event that it was committed with."""
    writer, reader = two_stores
    last = 100

    def write() -> None:
        for number in range(1, last + 1):
            state = make_state("r")
            state.data = {f"key {key}": number for key in range(20)}
            writer.append("r", make_events("r", 1, first=number), snapshot=state)

    thread = threading.Thread(target=write)
    thread.start()
    seen: list[int] = []
    while not seen or seen[-1] < last:
        snapshot = reader.load_snapshot("r")
        if snapshot is None:
            continue
        numbers = set(snapshot.state.data.values())
        assert numbers == {snapshot.offset}, "the state of event n says n in each of its values, and covers n"
        info = reader.run_info("r")
        assert info is not None
        assert info.last_offset >= snapshot.offset
        seen.append(snapshot.offset)
        assert thread.is_alive() or reader.load_snapshot("r") is not None
    thread.join()
    assert seen == sorted(seen)


def test_a_run_and_its_lanes_have_snapshots_of_their_own(store: Store) -> None:
    places = [None, "main", "b", "", "ünï:%{}"]
    for step, lane_id in enumerate(places):
        store.save_snapshot("r", make_state("r", current_step=step), lane_id=lane_id)
    for step, lane_id in enumerate(places):
        snapshot = store.load_snapshot("r", lane_id=lane_id)
        assert snapshot is not None
        assert (snapshot.state.current_step, snapshot.revision) == (step, 1)
    assert latest(store, "r").current_step == 0
    assert store.load_snapshot("r", lane_id="another") is None


# -- differences -----------------------------------------------------------------------------------------

# names that a store's own names might be taken for
_names = st.sampled_from(
    ["a", "b", "c", "", "1:a", "=a", "offset", "token", "revision", "checksum", "ünï", "a:b", "\x00"]
)
_leaves = st.one_of(
    st.integers(0, 3), st.text(max_size=3), st.none(), st.floats(), st.just(()), st.binary(max_size=3)
)
_parts = st.one_of(
    _leaves,
    st.lists(_leaves, max_size=3),
    st.dictionaries(_names, _leaves, max_size=6),
    st.dictionaries(_names, st.dictionaries(_names, _leaves, max_size=2), max_size=3),
    st.dictionaries(st.integers(0, 3), _leaves, max_size=3),
)
_states = st.dictionaries(_names.filter(bool), _parts, max_size=6)


@pytest.fixture
def dict_store(backend: Backend) -> Store:
    return backend.open(state_type=dict)


@pytest.mark.one_in(2)
@settings(max_examples=20)
@given(states=st.lists(_states, min_size=1, max_size=5))
def test_whatever_changes_between_saves_the_last_state_comes_back(dict_store: Store, states: list[Any]) -> None:
    """Dicts that grow, shrink, are replaced, change places or type: content, types and order survive."""
    run_id = f"r{next(_numbers)}"
    for state in states:
        dict_store.save_snapshot(run_id, state)
        assert same(dict_store.load_latest(run_id), state)


def test_the_order_of_dicts_survives_every_save(store: Store) -> None:
    orders = ["abc", "cba", "bac", "b", "", "dbca", "abcd", "xabcd", "dcbax"]
    for order in orders:
        store.save_snapshot(
            "r", make_state("r", data={key: key for key in order}, metadata={"in": dict.fromkeys(order)})
        )
        loaded = latest(store, "r")
        assert "".join(loaded.data) == order
        assert "".join(loaded.metadata["in"]) == order


# -- types of states -------------------------------------------------------------------------------------


class Notes(pydantic.BaseModel):
    run_id: str
    session_id: str = ""
    status: RunStatus = RunStatus.RUNNING
    notes: dict[str, list[int]] = {}


class Counter:
    """Any class with to_dict and from_dict."""

    def __init__(self, run_id: str, count: int) -> None:
        self.run_id = run_id
        self.count = count

    def to_dict(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "count": self.count}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Counter:
        if fields["count"] < 0:
            raise ValueError("a count below zero")
        return cls(**fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counter) and other.to_dict() == self.to_dict()

    __hash__ = None  # type: ignore[assignment] # as unhashable classes say it


@pytest.mark.parametrize(
    "state",
    [
        {"run_id": "r", "anything": [1, (2,)]},
        {},
        Notes(run_id="r", notes={"b": [1], "a": []}),
        Counter("r", 3),
    ],
    ids=["dict", "empty dict", "pydantic", "own class"],
)
def test_a_state_of_the_users_own_type_goes_through(backend: Backend, state: Any) -> None:
    store = backend.open(state_type=type(state))
    store.append("r", [make_event("r")], snapshot=state)
    loaded = latest(store, "r")
    assert loaded == state
    assert type(loaded) is type(state)
    assert store.recover("r") == Recovery(state, 1, [])


def test_a_state_that_its_type_refuses_to_read_is_reported(backend: Backend) -> None:
    store = backend.open(state_type=Counter)
    store.save_snapshot("r", Counter("r", -1))
    for load in (store.load_latest, store.load_snapshot, store.recover, partial(store.update_state, change=id)):
        with pytest.raises(EventRefused, match="Counter refuses it: ValueError: a count below zero") as caught:
            load("r")
        assert (caught.value.run_id, caught.value.offset, caught.value.event_type) == ("r", 0, "Counter")
        assert caught.value.fields == {"run_id": "r", "count": -1}
        assert isinstance(caught.value.__cause__, ValueError)


def test_a_class_that_makes_no_state_of_a_run_id_alone_is_told(backend: Backend) -> None:
    """Nothing is stored yet that it could refuse."""

    class Strict(Counter):
        @classmethod
        def from_dict(cls, fields: dict[str, Any]) -> Strict:
            return cls(fields["run_id"], fields["count"])

    store = backend.open(state_type=Strict)
    with pytest.raises(ConfigurationError, match=r"state_type=.*Strict makes no state of a run id alone"):
        store.update_state("r", id)
    assert store.list_runs() == []


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("state", "error", "path"),
    [
        ({"run_id": "r"}, ConfigurationError, None),
        (object(), EncodingError, None),
        (make_state("r", data={"x": [0, object()]}), EncodingError, "data.x[1]"),
        (make_state("r", action_history=[{"a": {"b": object()}}]), EncodingError, "action_history[0].a.b"),
        (make_state("r", session_id=5), EncodingError, "session_id"),
        (make_state("r", session_id="x" * 513), EncodingError, "session_id"),
    ],
    ids=["dict", "object", "value", "deep value", "session", "long session"],
)
@pytest.mark.parametrize("how", ["save_snapshot", "append"])
def test_a_bad_state_is_refused_and_nothing_is_written(
    store: Store, state: Any, error: type[Exception], path: str | None, how: str
) -> None:
    attempts: dict[str, Callable[[], Any]] = {
        "save_snapshot": lambda: store.save_snapshot("r", state),
        "append": lambda: store.append("r", make_events("r", 2), snapshot=state),
    }
    with pytest.raises(error) as caught:
        attempts[how]()
    if path is not None:
        assert isinstance(caught.value, EncodingError)
        assert caught.value.path == path
    assert store.run_info("r") is None
    assert store.list_runs() == []


@pytest.mark.parametrize("state", [{1: "x"}, {"$tag": 1}, {None: 0}], ids=str)
def test_the_top_level_keys_of_a_state_are_names(backend: Backend, state: dict[Any, Any]) -> None:
    store = backend.open(state_type=dict)
    with pytest.raises(EncodingError):
        store.save_snapshot("r", state)
    assert store.list_runs() == []


@pytest.mark.parametrize("lane_id", [5, "x" * 513, "\ud800"], ids=["number", "long", "surrogate"])
def test_a_bad_lane_of_a_snapshot_is_refused(store: Store, lane_id: Any) -> None:
    attempts: list[Callable[[], Any]] = [
        lambda: store.save_snapshot("r", make_state("r"), lane_id=lane_id),
        lambda: store.append("r", [], snapshot=make_state("r"), lane_id=lane_id),
        lambda: store.load_snapshot("r", lane_id=lane_id),
        lambda: store.recover("r", lane_id=lane_id),
    ]
    for attempt in attempts:
        with pytest.raises(EncodingError) as caught:
            attempt()
        assert caught.value.path == "lane_id"
    assert store.list_runs() == []


# -- what a snapshot covers ------------------------------------------------------------------------------


def test_a_snapshot_covers_what_its_writer_appended(store: Store) -> None:
    store.save_events(make_events("r", 3))
    state = make_state("r")
    store.save_snapshot("r", state)
    assert covered(store) == 3
    store.save_events(make_events("r", 2, first=4))
    recovery = store.recover("r")
    assert (recovery.state, recovery.offset) == (state, 3)
    assert [item.offset for item in recovery.events] == [4, 5]
    store.append("r", [make_event("r", 6)], snapshot=state)
    assert covered(store) == 6


@on_every_pair_of_stores
def test_a_snapshot_does_not_cover_what_another_writer_put_in_between(two_stores: tuple[Store, Store]) -> None:
    ours, theirs = two_stores
    ours.save_events(make_events("r", 2))
    theirs.save_event(make_event("r", 3))
    ours.save_event(make_event("r", 4))
    ours.save_snapshot("r", make_state("r"))
    assert covered(theirs) == 2
    assert [item.offset for item in theirs.recover("r").events] == [3, 4]


def test_a_snapshot_that_travels_with_events_does_not_cover_another_writers_before(
    two_stores: tuple[Store, Store],
) -> None:
    ours, theirs = two_stores
    ours.save_event(make_event("r", 1))
    theirs.save_event(make_event("r", 2))
    ours.append("r", make_events("r", 2, first=3), snapshot=make_state("r"))
    assert covered(theirs) == 1


def test_a_snapshot_covers_what_its_writer_recovered(two_stores: tuple[Store, Store]) -> None:
    ours, theirs = two_stores
    theirs.save_events(make_events("r", 3))
    assert [item.offset for item in ours.recover("r").events] == [1, 2, 3]
    ours.save_event(make_event("r", 4))
    ours.save_snapshot("r", make_state("r"))
    assert covered(ours) == 4


def test_a_snapshot_does_not_cover_what_its_writer_merely_read(two_stores: tuple[Store, Store]) -> None:
    ours, theirs = two_stores
    theirs.save_events(make_events("r", 3))
    assert len(ours.list_events("r")) == len(list(ours.read("r"))) == 3
    ours.save_snapshot("r", make_state("r"))
    assert covered(ours) == 0
    assert len(ours.recover("r").events) == 3


def test_a_writer_that_loaded_a_snapshot_goes_on_from_what_it_covers(two_stores: tuple[Store, Store]) -> None:
    theirs, ours = two_stores
    theirs.append("r", make_events("r", 3), snapshot=make_state("r"))
    assert ours.load_latest("r") is not None
    ours.append("r", [make_event("r", 4)], snapshot=make_state("r"))
    assert covered(ours) == 4


def test_a_writer_at_work_learns_nothing_from_a_snapshot_that_it_loads(two_stores: tuple[Store, Store]) -> None:
    """Its own state does not hold what the loaded one holds, though it was loaded."""
    ours, theirs = two_stores
    ours.save_event(make_event("r", 1))
    theirs.recover("r")
    theirs.append("r", [make_event("r", 2)], snapshot=make_state("r"))
    assert ours.load_latest("r") is not None
    ours.save_snapshot("r", make_state("r"))
    assert covered(ours) == 1


def test_a_writer_does_not_take_a_run_of_the_same_name_for_the_one_it_knew(
    two_stores: tuple[Store, Store],
) -> None:
    """Deleted and created anew by others, with more events than before: none of them is covered."""
    ours, theirs = two_stores
    ours.save_events(make_events("r", 3))
    assert theirs.delete_run("r")
    theirs.save_events(make_events("r", 5))
    ours.save_snapshot("r", make_state("r"))
    assert covered(theirs) == 0


def test_a_snapshot_of_a_lane_covers_that_lane(two_stores: tuple[Store, Store]) -> None:
    """What others write to other lanes in between does not matter to it."""
    ours, theirs = two_stores
    ours.save_event(make_event("r", 1, lane_id="a"))
    theirs.save_event(make_event("r", 1, lane_id="b"))
    ours.save_event(make_event("r", 2, lane_id="a"))
    ours.save_snapshot("r", make_state("r"), lane_id="a")
    theirs.save_event(make_event("r", 2, lane_id="b"))
    ours.save_event(make_event("r", 3, lane_id="a"))
    assert covered(ours, "a") == 3
    recovery = theirs.recover("r", lane_id="a")
    assert [item.offset for item in recovery.events] == [5]
    assert {item.event.lane_id for item in recovery.events} == {"a"}
    whole = theirs.recover("r")
    assert (whole.state, whole.offset, len(whole.events)) == (None, 0, 5)


@pytest.mark.parametrize("lane_id", ["a", 'a"\\é', "main"])
@pytest.mark.one_in(3)
def test_a_lane_is_recovered_without_making_the_events_of_others(
    store: Store, monkeypatch: pytest.MonkeyPatch, lane_id: str
) -> None:
    """Whatever their payloads say of lanes. Also of a fork, from the beginning of what it shares."""
    said = {"lane_id": lane_id, "text": f'"lane_id":"{lane_id}"'}
    for seq in range(1, 4):
        store.save_event(make_event("r", seq, lane_id=lane_id))
        store.save_events(make_event("r", 100 + seq, lane_id="b", payload=said) for _ in range(5))
    store.fork("r", "fork")
    store.save_event(make_event("fork", 4, lane_id=lane_id))
    decoded = note_decoded(monkeypatch)
    for run_id, seqs in (("r", [1, 2, 3]), ("fork", [1, 2, 3, 4])):
        assert [item.event.seq for item in store.recover(run_id, lane_id=lane_id).events] == seqs
    assert set(decoded) == {1, 2, 3, 4}


def test_a_snapshot_of_a_lane_does_not_cover_another_writers_events_in_it(two_stores: tuple[Store, Store]) -> None:
    ours, theirs = two_stores
    ours.save_event(make_event("r", 1, lane_id="a"))
    theirs.save_event(make_event("r", 2, lane_id="a"))
    ours.save_event(make_event("r", 3, lane_id="a"))
    ours.save_snapshot("r", make_state("r"), lane_id="a")
    assert covered(ours, "a") == 1
    assert [item.offset for item in ours.recover("r", lane_id="a").events] == [2, 3]


def test_a_run_that_is_not_there_recovers_to_nothing(store: Store) -> None:
    assert store.recover("nobody") == Recovery(None, 0, [])
    assert store.recover("nobody", lane_id="a") == Recovery(None, 0, [])


@on_every_backend
def test_a_lane_with_nothing_after_its_snapshot_recovers_to_its_state(store: Store) -> None:
    store.append("r", [make_event("r", 1, lane_id="a")], snapshot=make_state("r", purpose="a"), lane_id="a")
    store.save_events(make_events("r", 3, lane_id="b"))
    recovery = store.recover("r", lane_id="a")
    assert (recovery.offset, recovery.events) == (1, [])
    assert recovery.state is not None
    assert recovery.state.purpose == "a"
    assert len(store.recover("r", lane_id="b").events) == 3


# -- changing a state --------------------------------------------------------------------------------


@on_every_backend
def test_a_state_is_changed_where_it_is_saved(store: Store) -> None:
    """A run without a state gets one; what the change returns is saved, or what it did to the state itself."""

    def count(state: Any) -> None:
        state.data["n"] = state.data.get("n", 0) + 1

    assert store.update_state("r", count).data == {"n": 1}
    store.update_state("r", lambda state: make_state("r", data={"n": state.data["n"] * 10}))
    store.update_state("r", count)
    state = store.load_latest("r")
    assert state is not None
    assert state.data == {"n": 11}
    assert state.run_id == "r"


@pytest.mark.parametrize("place", [name for name in SHARED if not name.startswith(("async", "threaded"))])
def test_a_change_that_another_came_before_is_made_again(
    make_backend: Callable[[str], Backend], place: str
) -> None:
    """Nobody's change is lost; after so many attempts the conflict is raised."""
    backend = make_backend(place)
    store, other = backend.open(), backend.open()
    store.save_snapshot("r", make_state("r", data={"by": []}))
    tried: list[int] = []

    def change(state: Any) -> None:
        tried.append(len(tried))
        if len(tried) < 3:
            other.update_state("r", lambda theirs: theirs.data["by"].append("other"))
        state.data["by"].append("us")

    store.update_state("r", change)
    state = other.load_latest("r")
    assert state is not None
    assert state.data["by"] == ["other", "other", "us"]
    tried.clear()
    with pytest.raises(ConcurrencyConflict):
        store.update_state("r", change, attempts=2)


def test_a_changed_state_covers_what_the_one_before_covered(two_stores: tuple[Store, Store]) -> None:
    """Neither less, though its writer has appended nothing, nor more, though it has."""
    store, other = two_stores
    store.append("r", make_events("r", 3), snapshot=make_state("r"))
    store.save_events(make_events("r", 2))
    for writer in (other, store):
        writer.update_state("r", lambda state: state.data.update(paused=True))
        snapshot = store.load_snapshot("r")
        assert snapshot is not None
        assert (snapshot.offset, snapshot.state.data) == (3, {"paused": True})


@pytest.mark.one_in(2)
def test_threads_that_share_a_store_lose_no_change(store: Store) -> None:
    """Eight threads add ten each; the sum is right."""

    def add() -> None:
        for _ in range(10):
            store.update_state("r", lambda state: state.data.update(n=state.data.get("n", 0) + 1), attempts=1000)

    with ThreadPoolExecutor(8) as pool:
        for added in [pool.submit(add) for _ in range(8)]:
            added.result(60)
    state = store.load_latest("r")
    assert state is not None
    assert state.data == {"n": 80}


def test_a_lane_is_recovered_whole_after_a_writer_who_knew_less_has_saved_it(
    two_stores: tuple[Store, Store],
) -> None:
    """What the former snapshot covered and the new one does not is not forgotten."""
    knows, knows_less = two_stores
    knows.append("r", make_events("r", 4, lane_id="a"), snapshot=make_state("r"), lane_id="a")
    knows.save_events(make_events("r", 2, first=5, lane_id="a"))
    knows_less.save_snapshot("r", make_state("r", purpose="less"), lane_id="a")
    recovery = knows_less.recover("r", lane_id="a")
    assert recovery.offset == 0
    assert [item.event.seq for item in recovery.events] == [1, 2, 3, 4, 5, 6]


def test_a_writer_that_finds_no_snapshot_any_more_saves_the_first(two_stores: tuple[Store, Store]) -> None:
    """The run was deleted by somebody else, and made anew: what this one has loaded now is that there is none."""
    one, other = two_stores
    one.append("r", make_events("r", 1), snapshot=make_state("r"))
    for load in (one.recover, one.load_latest):
        other.delete_run("r")
        other.append("r", make_events("r", 2))
        with pytest.raises(ConcurrencyConflict):
            one.append("r", (), snapshot=make_state("r"))
        load("r")
        one.append("r", (), snapshot=make_state("r", purpose="new"))
        assert latest(one, "r").purpose == "new"
