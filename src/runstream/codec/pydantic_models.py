"""The fields of pydantic models, whole. Pydantic is the user's, of whatever version, and not ours to import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["model_fields"]


def model_fields(value: Any, *, round_trip: bool = False) -> Any:
    """The fields of a pydantic model, whole: those too that a subclass adds where the field names its base.

    Args:
        value: Any value.
        round_trip: Give what the model's class makes an equal model of: no computed fields, and of version 1 the
            fields by their aliases.

    Returns:
        The fields by name (of a root model, what it holds); None for what is no instance of a model.
    """
    base = _base_of(value)
    if base is None:
        return None
    if not hasattr(base, "model_dump"):  # version 1, which lives on by itself and within version 2
        fields = value.dict(by_alias=round_trip)
        return fields["__root__"] if not round_trip and fields.keys() == {"__root__"} else fields
    dumped = value.model_dump(round_trip=round_trip)
    decorators = getattr(type(value), "__pydantic_decorators__", None)
    if getattr(decorators, "model_serializers", None):
        return dumped  # as its author wants it
    if _is_root_model(value):
        return _whole(value.root, round_trip) if _holds_models(value.root) else dumped
    own = _serialized_by_their_own(value, decorators)
    extra = getattr(value, "__pydantic_extra__", None) or {}
    for name in dumped:
        held = extra[name] if name in extra else value.__dict__.get(name)
        # model_dump goes by the field's type, and leaves out what a subclass adds
        if name not in own and _holds_models(held):
            dumped[name] = _whole(held, round_trip)
    return dumped


def _base_of(value: Any) -> type[Any] | None:
    for base in type(value).__mro__:
        if base.__name__ == "BaseModel" and base.__module__.partition(".")[0] == "pydantic":
            return base
    return None


def _is_root_model(value: Any) -> bool:
    return any(base.__name__ == "RootModel" for base in type(value).__mro__)


def _serialized_by_their_own(value: Any, decorators: Any) -> set[str]:
    """The names of the fields that have a serializer of their own."""
    names: set[str] = set()
    for decorator in getattr(decorators, "field_serializers", {}).values():
        names.update(decorator.info.fields)
    fields: Mapping[str, Any] = type(value).model_fields
    if "*" in names:
        return set(fields)
    for name, field in fields.items():
        if any(type(part).__name__ in ("PlainSerializer", "WrapSerializer") for part in field.metadata):
            names.add(name)
    return names


def _holds_models(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_models, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(_holds_models, value))
    return _base_of(value) is not None


def _whole(value: Any, round_trip: bool) -> Any:
    """A value with its models' fields in place of them."""
    if isinstance(value, dict):
        return {key: _whole(part, round_trip) for key, part in value.items()}
    if isinstance(value, list):
        return [_whole(part, round_trip) for part in value]
    if isinstance(value, tuple):
        return tuple(_whole(part, round_trip) for part in value)
    fields = model_fields(value, round_trip=round_trip)
    return value if fields is None else fields
