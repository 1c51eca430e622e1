"""purpose-agent's own classes: events made and taken by their fields, and states whole.

They are the user's to import, so they are known by their names. The ``from_dict`` of events refuses a kind that it
does not know, and spends most of its time on ids that are thrown away; the ``to_dict`` of states drops the times
of nodes and all actions but the last fifty. A subclass of theirs is the user's own, and asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from enum import Enum
from functools import lru_cache
from typing import Any

from runstream.model.events import PAEvent

__all__ = ["enums_of_event", "is_state", "member_of", "state_fields", "whole_state"]

_MAX_UNKNOWN = 1024


def enums_of_event(event_type: type[Any]) -> tuple[type[Enum], type[Enum]] | None:
    """The enums of kinds and visibilities of purpose-agent's own class of events; None for another class.

    Args:
        event_type: The class.
    """
    fields = getattr(event_type, "__dataclass_fields__", {})
    if not _is_theirs(event_type, "PAEvent") or fields.keys() != PAEvent.__dataclass_fields__.keys():
        return None
    kinds, visibilities = (type(fields[name].default) for name in ("kind", "visibility"))
    return kinds, visibilities


def is_state(state_type: type[Any]) -> bool:
    """Whether this is purpose-agent's own class of states, and no subclass."""
    return _is_theirs(state_type, "RunState") and dataclasses.is_dataclass(state_type)


def _is_theirs(kind: type[Any], name: str) -> bool:
    return kind.__qualname__ == name and kind.__module__.partition(".")[0] == "purpose_agent"


def member_of(members: type[Enum], value: Any) -> Any:
    """The enum's member for a value; for a text that it does not know, one that only looks like a member.

    Args:
        members: An enum whose members are texts.
        value: The value.

    Raises:
        ValueError: It is no text.
    """
    found = members._value2member_map_.get(value)
    return _unknown(members, value) if found is None else found


@lru_cache(_MAX_UNKNOWN)
def _unknown(members: type[Enum], text: str) -> Any:
    """What has the value, name and type of a member, and is none: the enum itself stays as it is."""
    if type(text) is not str:
        return members(text)  # which says what it is not
    found: Any = str.__new__(members, text)  # type: ignore[type-var] # its members are texts
    name = text.upper().replace(".", "_")
    found._value_ = text
    found._name_ = text if name in members._member_map_ else name
    # the enum would look among its members for it
    found.__reduce_ex__ = lambda _: (member_of, (members, text))
    return found


def state_fields(state: Any) -> dict[str, Any]:
    """The fields of a state of purpose-agent's own class, all of them.

    Raises TypeError for a status, or nodes, of which the class makes none again.
    """
    fields = _fields_of(state)
    status = fields["status"]
    fields["status"] = status.value if isinstance(status, Enum) else status
    if not isinstance(fields["status"], str):
        raise TypeError(f"its status is a text or a RunStatus, not {type(status).__qualname__}")
    fields["node_states"] = {name: _node_fields(node) for name, node in fields["node_states"].items()}
    return fields


def _node_fields(node: Any) -> Mapping[str, Any]:
    if hasattr(node, "__dataclass_fields__"):
        return _fields_of(node)
    if not isinstance(node, Mapping):
        raise TypeError(f"a node's state is a NodeState, not {type(node).__qualname__}")
    return node


def _fields_of(instance: Any) -> dict[str, Any]:
    names, own = instance.__dataclass_fields__, getattr(instance, "__dict__", ())
    if len(own) == len(names):  # as nearly always: nothing was added
        return dict(own)
    return {name: getattr(instance, name) for name in names}


def whole_state(from_dict: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """What makes a state of purpose-agent's own class with all of its fields.

    Args:
        from_dict: The class's own.
    """

    def load(fields: dict[str, Any]) -> Any:
        state = from_dict({**fields, "status": "pending"})
        state.status = member_of(type(state.status), fields.get("status", "pending"))
        nodes: Mapping[str, Mapping[str, Any]] = fields.get("node_states", {})
        for name, node in nodes.items():
            loaded = state.node_states[name]
            for field in loaded.__dataclass_fields__:
                if field in node:  # the times, which from_dict passes over
                    setattr(loaded, field, node[field])
        return state

    return load
