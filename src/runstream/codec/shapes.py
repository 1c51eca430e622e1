"""The fields of events and states of any class, and events and states made of them.

A class's own ``to_dict`` and ``from_dict`` are used where it has them, with one exception: events and states of
purpose-agent's very classes are taken and made by their fields. Events of the classes that are known here are made
without ``from_dict``, which takes most of the time of reading a log.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any, NamedTuple, cast

from runstream.codec.field_checks import DEFAULTS, FIELDS, values_in
from runstream.codec.purpose_agent_types import enums_of_event, is_state, member_of, state_fields, whole_state
from runstream.codec.pydantic_models import model_fields
from runstream.model.errors import ConfigurationError, EncodingError
from runstream.model.events import EventKind, PAEvent, Visibility, member_or_text
from runstream.model.identifiers import one_of_kind, told

__all__ = [
    "PlainEvents",
    "event_maker",
    "fields_of_state",
    "given_fields",
    "plain_events",
    "state_loader",
    "values_of_event",
]

_LOADERS = (
    "from_dict",
    "model_validate",
    "parse_obj",
)  # the second is pydantic's, the third that of its first version


def given_fields(value: Any, what: str) -> dict[str, Any]:
    """The fields that an event or a state gives of itself.

    Args:
        value: The event or the state.
        what: What it is, for the error.

    Raises:
        EncodingError: It gives none.
    """
    to_dict = _asked(lambda: getattr(value, "to_dict", None), type(value).__qualname__)
    if not callable(to_dict):
        raise EncodingError(f"{what} has to_dict, and this is {one_of_kind(value)}")
    fields = _asked(to_dict, f"{type(value).__qualname__}.to_dict")
    # a defaultdict would make up values for absent fields
    if type(fields) is not dict:
        fields = _asked(lambda: dict(fields.items()), f"{type(value).__qualname__}.to_dict")
    return cast("dict[str, Any]", fields)


_KIND, _VISIBILITY = FIELDS.index("kind"), FIELDS.index("visibility")


class PlainEvents(NamedTuple):
    """A class whose events are their ten fields, which are taken without ``to_dict``, and its two enums."""

    event_type: type[Any]
    kinds: type[Enum]
    visibilities: type[Enum]


_OURS = PlainEvents(PAEvent, EventKind, Visibility)


def plain_events(event_type: type[Any]) -> PlainEvents:
    """The class of plain events that a store mostly gets.

    Args:
        event_type: The class that it reads events as.
    """
    enums = enums_of_event(event_type)
    return _OURS if enums is None else PlainEvents(event_type, *enums)


def values_of_event(fields: Mapping[str, Any], plain: PlainEvents = _OURS) -> list[Any]:
    """An event's values in the order of FIELDS, with the values of enums' members.

    Args:
        fields: Its fields by name; absent ones take their defaults.
        plain: The class that it probably is of.
    """
    try:
        values = [*values_in(fields)]
    except KeyError:
        values = [fields[name] if name in fields else DEFAULTS.get(name) for name in FIELDS]
    kind, visibility = values[_KIND], values[_VISIBILITY]
    if type(kind) is plain.kinds and type(visibility) is plain.visibilities:
        # what the property `value` gives, in a tenth of the time
        values[_KIND], values[_VISIBILITY] = kind._value_, visibility._value_
        return values
    for index in (_KIND, _VISIBILITY):
        if isinstance(values[index], Enum):
            values[index] = _asked(partial(_value_of, values[index]), type(values[index]).__qualname__)
    return values


def _value_of(member: Enum) -> Any:
    return member.value


def event_maker(event_type: type[Any]) -> Callable[[str, Sequence[Any]], Any] | None:
    """What makes an event of its run and its values alone, just as ``from_dict`` would.

    Args:
        event_type: The class of the event.

    Returns:
        A function of the run id and the values in the order of a record, which may raise anything for values that
        ``from_dict`` refuses or takes in another way; None for a class whose ``from_dict`` is its own.
    """
    enums = enums_of_event(event_type)
    if enums is not None:
        return _maker(event_type, *(partial(member_of, members) for members in enums))
    if issubclass(event_type, PAEvent) and type(event_type) is type:
        own = event_type.__mro__[: -len(PAEvent.__mro__)]
        if all(_MAKING.isdisjoint(vars(one)) for one in own):  # it only adds methods
            return _maker(event_type, partial(member_or_text, EventKind), partial(member_or_text, Visibility))
    return None


_MAKING = frozenset(PAEvent.__dataclass_fields__) | {
    "__init__",
    "__new__",
    "__post_init__",
    "__slots__",
    "from_dict",
}
"""What a subclass of PAEvent may not have if its events are to be made like those of PAEvent."""


def _maker(
    event_type: type[Any], to_kind: Callable[[Any], Any], to_visibility: Callable[[Any], Any]
) -> Callable[[str, Sequence[Any]], Any]:
    new = object.__new__

    def make(run_id: str, values: Sequence[Any]) -> Any:
        session_id, lane_id, span_id, parent_span_id, seq, ts, kind, visibility, payload, *_ = values
        event = new(event_type)
        # what from_dict and __init__ do, without ten guarded assignments
        event.__dict__.update(
            run_id=run_id,
            session_id=session_id,
            lane_id=lane_id,
            span_id=span_id,
            parent_span_id=parent_span_id,
            seq=seq,
            ts=ts,
            kind=to_kind(kind),
            visibility=to_visibility(visibility),
            payload=payload,
        )
        return event

    return make


def fields_of_state(state: Any) -> dict[str, Any]:
    """What a state that is no dict is stored as: its fields by name.

    Args:
        state: The state.

    Raises:
        EncodingError: It gives none.
    """
    name = type(state).__qualname__
    if is_state(type(state)):
        own: dict[str, Any] = _asked(lambda: state_fields(state), name)
        return own
    if callable(getattr(state, "to_dict", None)):
        return given_fields(state, "a state")
    fields = _asked(lambda: model_fields(state, round_trip=True), name)
    if type(fields) is not dict:
        raise EncodingError(f"a state is a dict or has to_dict, and this is {one_of_kind(state)}")
    return cast("dict[str, Any]", fields)


def _asked(give: Callable[[], Any], name: str) -> Any:
    try:
        return give()
    except Exception as error:  # it is the user's, and may raise anything
        raise EncodingError(f"{name} gives no fields: {told(error)}") from error


def state_loader(state_type: type[Any]) -> Callable[[dict[str, Any]], Any]:
    """What makes a state of a class from its fields.

    Args:
        state_type: The class.

    Raises:
        ConfigurationError: It has no way to.
    """
    if state_type is dict:
        return dict
    for name in _LOADERS:
        loader = getattr(state_type, name, None)
        if callable(loader):
            if is_state(state_type):
                return whole_state(loader)
            if name == "model_validate" and "by_name" in inspect.signature(loader).parameters:
                return partial(loader, by_name=True, by_alias=True)  # what is stored has names, not aliases
            return cast("Callable[[dict[str, Any]], Any]", loader)
    raise ConfigurationError(
        f"state_type={state_type.__qualname__} has neither from_dict nor model_validate and is not dict"
    )
