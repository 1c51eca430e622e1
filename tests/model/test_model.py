"""The model is equal in shape to purpose-agent's own, and loses nothing."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
from typing import Any

import purpose_agent.runtime as theirs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import runstream as ours
from runstream.model import errors

PAIRS = [
    (getattr(ours, name), getattr(theirs, name))
    for name in ("EventKind", "Visibility", "RunStatus", "PAEvent", "RunState", "NodeState")
]


@pytest.mark.parametrize(("mine", "other"), PAIRS[:3])
def test_the_enums_have_all_members_of_purpose_agents(mine: Any, other: Any) -> None:
    """Same names, same values, and strings both."""
    assert {member.name: member.value for member in mine} == {member.name: member.value for member in other}
    assert issubclass(mine, str)


@pytest.mark.parametrize(("mine", "other"), PAIRS[3:])
def test_the_classes_have_the_fields_defaults_and_methods_of_purpose_agents(mine: Any, other: Any) -> None:
    """Same fields in the same order, same defaults, and each public method takes the same arguments."""
    for a, b in zip(dataclasses.fields(mine), dataclasses.fields(other), strict=True):
        assert a.name == b.name
        assert a.default == b.default
        assert (a.default_factory is dataclasses.MISSING) == (b.default_factory is dataclasses.MISSING)
    assert mine.__dataclass_params__.frozen == other.__dataclass_params__.frozen
    for name, method in inspect.getmembers(other, inspect.isfunction):
        if not name.startswith("_"):
            assert list(inspect.signature(getattr(mine, name)).parameters) == list(
                inspect.signature(method).parameters
            )


def test_terminal_kinds_and_create_event_are_purpose_agents() -> None:
    """The same kinds close a run or an agent; an event is made with the same arguments."""
    assert {kind.value for kind in ours.TERMINAL_KINDS} == {kind.value for kind in theirs.TERMINAL_KINDS}
    assert list(inspect.signature(ours.create_event).parameters) == list(
        inspect.signature(theirs.create_event).parameters
    )
    event = ours.create_event("r", ours.EventKind.TOOL_ERROR, "lane", 3, "parent", tool="x")
    made = theirs.create_event("r", theirs.EventKind.TOOL_ERROR, "lane", 3, "parent", tool="x")
    same = {"span_id": event.span_id, "ts": event.ts}
    assert event.to_dict() == {**made.to_dict(), **same}
    assert (event.is_error, event.is_terminal, event.has_hidden_cot()) == (True, False, False)


def test_each_librarys_events_and_states_read_as_the_others() -> None:
    """from_dict of the one takes to_dict of the other."""
    event = ours.create_event("r", ours.EventKind.MODEL_RESPONSE, text="x")
    assert theirs.PAEvent.from_dict(event.to_dict()).to_dict() == event.to_dict()
    state = theirs.RunState(run_id="r", data={"x": 1})
    state.mark_node_started("n")
    assert ours.RunState.from_dict(state.to_dict()).data == {"x": 1}
    assert theirs.RunState.from_dict(ours.RunState(run_id="r").to_dict()).run_id == "r"


_TEXT = st.text(max_size=10)
_EVENTS = st.builds(
    ours.PAEvent,
    run_id=_TEXT,
    session_id=_TEXT,
    lane_id=_TEXT,
    parent_span_id=st.none() | _TEXT,
    seq=st.integers(),
    ts=st.floats(allow_nan=False),
    kind=st.sampled_from(ours.EventKind) | st.sampled_from(["x.y", "custom"]),
    visibility=st.sampled_from(ours.Visibility) | st.just("team"),
    payload=st.dictionaries(_TEXT, st.integers()),
)


@given(_EVENTS)
def test_an_event_loses_nothing_on_a_round_trip(event: ours.PAEvent) -> None:
    """Kinds and visibilities that this version does not know stay plain strings."""
    back = ours.PAEvent.from_dict(event.to_dict())
    assert back == event
    assert type(back.kind) is type(event.kind)


@given(
    st.builds(
        ours.RunState,
        status=st.sampled_from(ours.RunStatus),
        node_states=st.dictionaries(
            _TEXT, st.builds(ours.NodeState, node_id=_TEXT, started_at=st.just(1.5)), max_size=3
        ),
        action_history=st.lists(st.just({"a": 1}), min_size=60, max_size=70),
    )
)
def test_a_state_loses_nothing_on_a_round_trip(state: ours.RunState) -> None:
    """Neither the times of nodes nor old actions, which purpose-agent's own to_dict drops."""
    assert ours.RunState.from_dict(state.to_dict()) == state


def test_nodes_move_as_purpose_agents_do() -> None:
    """Attempts are counted, the current node is set, a failure has its error, a result is remembered."""
    state = ours.RunState(run_id="r")
    state.mark_node_started("n")
    state.mark_node_failed("n", "boom")
    state.mark_node_started("n")
    state.mark_node_completed("n", {"out": 1})
    node = state.node_states["n"]
    assert (node.attempts, node.status, node.output_data, node.error) == (2, "completed", {"out": 1}, "boom")
    assert (state.current_node, state.completed_nodes) == ("n", ["n"])
    key = state.get_idempotency_key("search", "h")
    state.cache_result(key, 5)
    assert (state.has_cached_result(key), state.get_cached_result(key), state.get_cached_result("no")) == (
        True,
        5,
        None,
    )


@pytest.mark.parametrize(
    "error",
    [
        errors.EncodingError("m", path="payload.x"),
        errors.PayloadTooLarge("m", size=2, limit=1),
        errors.CorruptRecordError("m", run_id="r", offset=3, raw=b"x"),
        errors.EventRefused("m", run_id="r", offset=3, event_type="Mine", fields={"run_id": "r", "seq": 1}),
        errors.ConcurrencyConflict("m", expected=1, actual=2),
        errors.LeaseHeld("m", owner="o", expires_in=1.5),
        errors.AcknowledgedWritesLost("m", run_id="r", last_seen=5, last_present=2),
        errors.EventsArchived("m", run_id="r", first_hot=9),
        errors.StoreUnavailable("m"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_keeps_its_facts_between_processes(error: errors.RunstreamError) -> None:
    """It is pickled with its attributes; all of them are RunstreamErrors."""
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), vars(back)) == (type(error), "m", vars(error))
    assert isinstance(back, errors.RunstreamError)


@pytest.mark.parametrize("member", [*ours.EventKind, *ours.Visibility, *ours.RunStatus])
def test_a_member_reads_as_its_value(member: Any) -> None:
    """However it is made text."""
    assert {str(member), f"{member}", f"{member:s}", "%s" % member, "{}".format(member)} == {member.value}  # noqa: UP031, UP032 - each way
