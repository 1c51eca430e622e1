"""What becomes of values of types that stores do not keep: the ``fallback`` of a store.

It goes one way: what is stored, and comes back, is plain data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from enum import Enum
from pathlib import PurePath
from typing import Any

from runstream.codec.pydantic_models import model_fields
from runstream.model.identifiers import kind_of

__all__ = ["as_text", "plain_data"]

# how an instance of a subclass becomes its base, without asking methods that the subclass may override
_BASES: tuple[tuple[type[Any], Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (list, list.copy),
    (tuple, lambda value: tuple(tuple.__iter__(value))),
    (dict, lambda value: dict(dict.items(value))),
    (bytes, lambda value: bytes(memoryview(value))),
    (set, lambda value: set(set.__iter__(value))),
    (frozenset, lambda value: frozenset(frozenset.__iter__(value))),
)
_JSON_BASES = _BASES[:6]


def plain_data(value: Any) -> Any:
    """Turn a value into plain data; what is within it is asked about in turn.

    An enum becomes its value; a pydantic model or a dataclass a dict of its fields; a numpy scalar the Python
    number; a path its text; an exception ``{"type": …, "message": …}``; an instance of a subclass of str, bytes,
    int, float, list, tuple, dict, set or frozenset the same value of that type.

    Args:
        value: A value of a type that stores do not keep.

    Returns:
        What to store instead.

    Raises:
        TypeError: It is none of these.
    """
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, BaseException):
        return {"type": type(value).__qualname__, "message": str(value)}
    if isinstance(value, type):  # a class is none of these, though it has their methods
        raise TypeError(f"cannot store the class {value.__qualname__}")
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    fields = model_fields(value)
    if fields is not None:
        return fields
    # numpy is the user's, not ours to import
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return _number(value)
    return _as_base(value, _BASES)


def as_text(value: Any) -> Any:
    """Turn a value into its text, as ``json.dumps(value, default=str)`` does: the habit of purpose-agent.

    An instance of a subclass of one of JSON's types becomes that type, as there.

    Args:
        value: A value of a type that stores do not keep.
    """
    try:
        return _as_base(value, _JSON_BASES)
    except TypeError:
        return str(value)


def _number(scalar: Any) -> Any:
    item = scalar.item()
    # of a datetime64 it is a number where Python's types are too coarse, and None where it is no time
    if scalar.dtype.kind in "mM" and (item is None or isinstance(item, int)):
        raise TypeError(f"cannot store {scalar!r}: no datetime or timedelta of Python is equal to it")
    return item


def _as_base(value: Any, bases: tuple[tuple[type[Any], Callable[[Any], Any]], ...]) -> Any:
    for base, convert in bases:
        if isinstance(value, base):
            return convert(value)
    raise TypeError(f"cannot store a value of type {type(value).__module__}.{kind_of(value)}")
