"""The fields of events and states of any class, and states made of them.

A class's own ``to_dict`` and ``from_dict`` are used where it has them, with one exception: those of
purpose-agent's own ``RunState`` drop the times of nodes and all actions but the last fifty, so a state of that
very class is taken by its fields.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, cast

from runstream.codec.fallback import model_fields
from runstream.model.errors import ConfigurationError, EncodingError
from runstream.model.identifiers import told

__all__ = ["fields_of_state", "given_fields", "state_loader"]

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
    to_dict = getattr(value, "to_dict", None)
    if not callable(to_dict):
        raise EncodingError(f"{what} has to_dict; {type(value).__qualname__} has not")
    fields = _asked(to_dict, f"{type(value).__qualname__}.to_dict")
    # a defaultdict would make up values for absent fields
    if type(fields) is not dict:
        fields = _asked(lambda: dict(fields.items()), f"{type(value).__qualname__}.to_dict")
    return cast("dict[str, Any]", fields)


def fields_of_state(state: Any) -> dict[str, Any]:
    """What a state that is no dict is stored as: its fields by name.

    Args:
        state: The state.

    Raises:
        EncodingError: It gives none.
    """
    name = type(state).__qualname__
    if _is_purpose_agents(type(state)):
        own: dict[str, Any] = _asked(lambda: _own_fields(state), name)
        return own
    if callable(getattr(state, "to_dict", None)):
        return given_fields(state, "a state")
    fields = _asked(lambda: model_fields(state), name)
    if type(fields) is not dict:
        raise EncodingError(f"a state is a dict or has to_dict; {name} is and has neither")
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
            if _is_purpose_agents(state_type):
                return _whole(loader)
            return cast("Callable[[dict[str, Any]], Any]", loader)
    raise ConfigurationError(
        f"state_type={state_type.__qualname__} has neither from_dict nor model_validate and is not dict"
    )


def _is_purpose_agents(state_type: type[Any]) -> bool:
    """Whether this is purpose-agent's own class, and no subclass: it is the user's to import, not ours."""
    is_theirs = state_type.__module__.partition(".")[0] == "purpose_agent"
    return is_theirs and state_type.__qualname__ == "RunState" and dataclasses.is_dataclass(state_type)


def _own_fields(state: Any) -> dict[str, Any]:
    fields = _fields_of(state)
    status = fields["status"]
    fields["status"] = status.value if isinstance(status, Enum) else status
    fields["node_states"] = {
        name: _fields_of(node) if dataclasses.is_dataclass(node) else node
        for name, node in fields["node_states"].items()
    }
    return fields


def _fields_of(instance: Any) -> dict[str, Any]:
    return {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}


def _whole(from_dict: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    def load(fields: dict[str, Any]) -> Any:
        state = from_dict(fields)
        nodes: Mapping[str, Mapping[str, Any]] = fields.get("node_states", {})
        for name, node in nodes.items():
            loaded = state.node_states[name]
            for field in dataclasses.fields(loaded):
                if field.name in node:  # the times, which from_dict passes over
                    setattr(loaded, field.name, node[field.name])
        return state

    return load
