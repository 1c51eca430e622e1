"""Events that are made without ``from_dict`` are those that it makes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from purpose_agent.runtime import EventKind as TheirKind
from purpose_agent.runtime import PAEvent as TheirEvent

from runstream.codec.event_codec import Codec
from runstream.codec.record import decode_record, fields_of
from runstream.codec.shapes import event_maker
from runstream.model.errors import EventRefused
from runstream.model.events import EventKind, PAEvent
from tests.support.samples import RICH_VALUES, make_event, same


class WithMethods(PAEvent):
    """Ours with methods more: made like ours."""

    @property
    def tool(self) -> Any:
        return self.payload.get("tool")


@dataclasses.dataclass(frozen=True)
class WithField(PAEvent):
    cost: float = 0.0


class WithDefault(PAEvent):
    lane_id = "other"


class WithWay(PAEvent):
    @classmethod
    def from_dict(cls, fields: Any) -> WithWay:
        return cls(**{**fields, "span_id": "mine"})


class TheirOwn(TheirEvent):  # type: ignore[misc] # it has no types
    pass


@pytest.mark.parametrize("event_type", [PAEvent, WithMethods, TheirEvent])
def test_an_event_is_made_as_from_dict_makes_it(event_type: type[Any]) -> None:
    """Of every kind, with every type of value, with a key and with further fields."""
    codec: Codec[Any, Any] = Codec(event_type)
    assert event_maker(event_type) is not None
    kinds = [*EventKind] if event_type is TheirEvent else [*EventKind, "my.kind"]
    for kind in kinds:
        for key in (None, "k"):
            event = make_event("r", 3, kind=kind, payload=RICH_VALUES, parent_span_id="p")
            record = codec.encode_event("r", event, key).record
            made = codec.decode_event("r", 1, record)
            whole = event_type.from_dict(fields_of("r", decode_record("r", 1, record)))
            assert type(made) is event_type
            assert made.__dict__.keys() == whole.__dict__.keys()
            assert all(same(value, whole.__dict__[name]) for name, value in made.__dict__.items())
            assert type(made.kind) is type(whole.kind)
            with pytest.raises(dataclasses.FrozenInstanceError):
                made.seq = 4


@pytest.mark.parametrize("event_type", [WithField, WithDefault, WithWay, TheirOwn])
def test_a_class_with_a_way_of_its_own_is_asked(event_type: type[Any]) -> None:
    assert event_maker(event_type) is None
    codec: Codec[Any, Any] = Codec(event_type)
    record = codec.encode_event("r", make_event("r", kind=EventKind.TOOL_ARGS)).record
    made = codec.decode_event("r", 1, record)
    assert made == event_type.from_dict(fields_of("r", decode_record("r", 1, record)))
    assert type(made) is event_type


def test_what_purpose_agents_own_class_refuses_is_refused_as_it_does() -> None:
    codec: Codec[Any, Any] = Codec(TheirEvent)
    for options in ({"kind": "my.kind"}, {"visibility": "nobody"}):
        record = codec.encode_event("r", make_event("r", **options)).record
        with pytest.raises(EventRefused, match="is not a valid") as caught:
            codec.decode_event("r", 7, record)
        assert caught.value.offset == 7
    assert (
        codec.decode_event("r", 1, codec.encode_event("r", TheirEvent("r")).record).kind
        is TheirKind.AGENT_PROGRESS
    )
