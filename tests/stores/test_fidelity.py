"""P11 in every store: values of every type, and events and states of any class, read back equal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from purpose_agent.runtime import EventKind as TheirKind
from purpose_agent.runtime import PAEvent as TheirEvent
from purpose_agent.runtime import RunState as TheirState
from purpose_agent.runtime import RunStatus as TheirStatus

from runstream.model.errors import EncodingError, EventRefused
from runstream.model.events import EventKind, PAEvent, Visibility
from tests.support.backends import Backend, Store, info_of, latest
from tests.support.kinds import on_every_pair_of_stores
from tests.support.samples import RICH_VALUES, make_event, make_state, same


@pytest.mark.parametrize("name", RICH_VALUES)
def test_every_type_of_value_comes_back_in_payloads_and_states(store: Store, name: str) -> None:
    value = RICH_VALUES[name]
    payload = {name: value, "in a list": [value], "in a tuple": (value,)}
    state = make_state("r", data=payload, metadata={"deep": {"deeper": value}})
    store.append("r", [make_event("r", payload=payload)], snapshot=state)
    ((recorded,), loaded) = list(store.read("r")), latest(store, "r")
    assert same(recorded.event.payload, payload)
    assert same(loaded.data, payload)
    assert same(loaded.metadata, state.metadata)


@on_every_pair_of_stores
def test_all_types_of_values_come_back_from_another_store(two_stores: tuple[Store, Store]) -> None:
    store, other = two_stores
    store.append("r", [make_event("r", payload=RICH_VALUES)], snapshot=make_state("r", data=RICH_VALUES))
    assert same(other.list_events("r")[0].payload, RICH_VALUES)
    assert same(latest(other, "r").data, RICH_VALUES)


def test_a_value_that_is_not_listed_becomes_plain_data(store: Store) -> None:
    store.save_event(
        make_event("r", payload={"kind": EventKind.TOOL_ARGS, "path": Path("/x"), "error": ValueError("no")})
    )
    (loaded,) = store.list_events("r")
    assert same(
        loaded.payload, {"kind": "tool.args", "path": "/x", "error": {"type": "ValueError", "message": "no"}}
    )


def test_a_strict_store_refuses_what_is_not_listed(backend: Backend) -> None:
    store = backend.open(fallback=None)
    for value in (Path("/x"), ValueError("no"), object(), Visibility):
        with pytest.raises(EncodingError) as caught:
            store.save_event(make_event("r", payload={"deep": [value]}))
        assert caught.value.path == "payload.deep[0]"
    assert store.list_runs() == []


def test_a_store_may_keep_the_text_of_what_it_does_not_know(backend: Backend) -> None:
    store = backend.open(fallback=str)
    store.save_event(make_event("r", payload={"what": complex(1, 2)}))
    assert store.list_events("r")[0].payload == {"what": "(1+2j)"}


# -- events of other classes -----------------------------------------------------------------------------


class TheirOwnEvent:
    """An event class of somebody else's, with fields that a PAEvent has not."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = dict(fields)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.fields[name]
        except KeyError:
            raise AttributeError(name) from None

    def to_dict(self) -> dict[str, Any]:
        return self.fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> TheirOwnEvent:
        return cls(fields)


def test_further_fields_of_an_event_survive(backend: Backend) -> None:
    fields = {**make_event("r", 3).to_dict(), "cost": 0.25, "tags": ("a", b"b"), "none": None}
    store = backend.open(event_type=TheirOwnEvent)
    store.save_events([TheirOwnEvent(fields)])
    (loaded,) = store.list_events("r")
    assert type(loaded) is TheirOwnEvent
    assert loaded.fields.keys() == fields.keys()
    assert all(same(loaded.fields[name], fields[name]) for name in fields)
    assert store.list_events("r", 2) != []
    assert store.list_events("r", 3) == []
    assert [item.event.cost for item in store.read("r")] == [0.25]


@pytest.mark.parametrize("name", ["$mark", 5], ids=str)
def test_a_further_field_with_a_reserved_or_no_name_is_refused(backend: Backend, name: Any) -> None:
    store = backend.open(event_type=TheirOwnEvent)
    with pytest.raises(EncodingError):
        store.save_event(TheirOwnEvent({**make_event("r").to_dict(), name: 1}))
    assert store.list_runs() == []


def test_purpose_agents_own_events_and_states_go_through(backend: Backend) -> None:
    store = backend.open(event_type=TheirEvent, state_type=TheirState)
    events = [
        TheirEvent("r", seq=n, kind=kind, payload={"n": n})
        for n, kind in enumerate((TheirKind.RUN_STARTED, TheirKind.TOOL_RESULT, TheirKind.RUN_FINISHED))
    ]
    state = TheirState("r", session_id="s", status=TheirStatus.COMPLETED, data={"a": [1]})
    state.mark_node_started("node")
    store.append("r", events, snapshot=state)
    loaded = latest(store, "r")
    assert store.list_events("r") == events
    assert type(store.list_events("r")[0]) is TheirEvent
    assert loaded.to_dict() == state.to_dict()
    assert type(loaded) is TheirState
    assert info_of(store).status == "completed"


def test_either_librarys_events_are_read_as_the_others(two_stores: tuple[Store, Store]) -> None:
    store, _ = two_stores
    theirs = TheirEvent("r", seq=1, kind=TheirKind.TOOL_RESULT, payload={"n": 1})
    store.save_event(theirs)
    (ours,) = store.list_events("r")
    assert type(ours) is PAEvent
    assert ours.to_dict() == theirs.to_dict()


class OnlyKnown(TheirEvent):  # type: ignore[misc] # it has no types
    """A class of the user's own, whose from_dict knows no other kinds than its own."""


def test_an_event_that_its_class_refuses_is_reported_and_its_neighbours_are_not(backend: Backend) -> None:
    store = backend.open(event_type=OnlyKnown)
    events = [make_event("r", 1), make_event("r", 2, kind="my.kind"), make_event("r", 3)]
    store.save_events(events)
    for read in (store.list_events, store.recover, lambda run_id: list(store.read(run_id))):
        with pytest.raises(EventRefused, match="OnlyKnown refuses it: ValueError") as caught:
            read("r")
        assert (caught.value.run_id, caught.value.offset, caught.value.event_type) == ("r", 2, "OnlyKnown")
        assert isinstance(caught.value.__cause__, ValueError)
        assert caught.value.fields["kind"] == "my.kind"
    given: list[Any] = list(store.read("r", on_corrupt="raw"))
    first, fields, last = given
    assert (first.event.seq, last.event.seq) == (1, 3)
    assert (fields.offset, fields.event) == (2, PAEvent.to_dict(events[1]))
    assert [item.offset for item in store.read("r", fields.cursor, on_corrupt="raw")] == [3]
    assert [item.event for item in store.read("r", 1, before=3, on_corrupt="raw")] == [fields.event]
    assert [item.offset for item in store.read("r", on_corrupt="raw", reverse=True, limit=2)] == [3, 2]
    assert [item.offset for item in store.read("r", on_corrupt="skip")] == [1, 3]
    assert [item.offset for item in store.read("r", on_corrupt="skip", limit=2)] == [1, 3]
    assert [item.offset for item in store.read("r", on_corrupt="skip", reverse=True)] == [3, 1]


class TakesApart(PAEvent):
    """It takes what it gets apart before it refuses it."""

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> PAEvent:
        fields["payload"].clear()
        raise ValueError("no")


def test_what_a_class_has_taken_apart_is_given_as_it_is_stored(backend: Backend) -> None:
    store = backend.open(event_type=TakesApart)
    event = make_event("r", 1, payload={"a": [1]})
    store.save_event(event)
    ((_, _, given),) = list(store.read("r", on_corrupt="raw"))
    assert given == PAEvent.to_dict(event)
    with pytest.raises(EventRefused) as caught:
        store.list_events("r")
    assert caught.value.fields == given
