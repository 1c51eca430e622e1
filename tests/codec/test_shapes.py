"""Events that are made without ``from_dict`` are those that it makes."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest
from purpose_agent.runtime import EventKind as TheirKind
from purpose_agent.runtime import PAEvent as TheirEvent

from runstream.codec.event_codec import Codec
from runstream.codec.purpose_agent_types import member_of
from runstream.codec.record import decode_record, fields_of
from runstream.codec.shapes import event_maker
from runstream.model.errors import EncodingError
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


def test_a_kind_that_purpose_agent_does_not_know_reads_as_one_that_it_knows() -> None:
    """With value, name and type, however it is read, copied and sent on; its enums stay as they are."""
    codec: Codec[Any, Any] = Codec(TheirEvent)
    record = codec.encode_event("r", make_event("r", kind="my.kind", visibility="nobody")).record
    again = codec.make_event(1, fields_of("r", decode_record("r", 1, record)))
    for made in (codec.decode_event("r", 1, record), again, codec.as_own(PAEvent.from_dict(again.to_dict()))):
        assert type(made) is TheirEvent
        assert (type(made.kind), made.kind.value, made.kind.name) == (TheirKind, "my.kind", "MY_KIND")
        assert (made.visibility.value, made.visibility.name) == ("nobody", "NOBODY")
        assert made.kind == "my.kind"
        assert not made.is_terminal
        assert made.to_dict()["kind"] == "my.kind"
        assert codec.encode_event("r", made).record == codec.encode_event("r", again).record
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(made, protocol)).kind is made.kind
        assert copy.deepcopy(made).kind is copy.copy(made.kind) is made.kind
    assert "my.kind" not in TheirKind._value2member_map_
    assert "MY_KIND" not in TheirKind.__members__


def test_an_unknown_kind_has_no_known_ones_name() -> None:
    for text in ("tool_result", "TOOL.RESULT", "Tool.Result"):
        assert member_of(TheirKind, text).name == text
    for known in TheirKind:  # the rule by which the others get theirs
        assert known.name == known.value.upper().replace(".", "_")
        assert member_of(TheirKind, known.value) is known


def test_what_no_kind_can_be_is_refused_by_purpose_agents_own_class() -> None:
    codec: Codec[Any, Any] = Codec(TheirEvent)
    for value in (5, ["my.kind"]):
        with pytest.raises(EncodingError, match="PAEvent refuses"):
            codec.as_own(make_event("r", kind=value))


def test_an_event_of_purpose_agent_may_have_a_kind_of_its_authors_own() -> None:
    """Its own to_dict takes members alone."""
    codec: Codec[Any, Any] = Codec(TheirEvent)
    theirs, ours = TheirEvent("r", "s", span_id="i", ts=1.5, kind="my.kind"), make_event("r", 0, kind="my.kind")
    made = codec.decode_event("r", 1, codec.encode_event("r", theirs).record)
    assert made == theirs
    assert Codec(TheirEvent).encode_event("r", ours) == Codec[Any, Any]().encode_event("r", ours)


def test_no_uuid_is_made_for_an_event_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a record or from an archive's fields: it has its ids."""
    codec: Codec[Any, Any] = Codec(TheirEvent)
    event = TheirEvent("r", kind=TheirKind.TOOL_RESULT)
    record = codec.encode_event("r", event).record
    monkeypatch.delattr("os.urandom")
    monkeypatch.delattr("uuid.uuid4")
    assert codec.decode_event("r", 1, record) == event
    assert codec.make_event(1, fields_of("r", decode_record("r", 1, record))) == event
