"""The default ``fallback``: plain data for values of types that stores do not keep.

It goes one way: enums, pydantic models, dataclasses, numpy scalars, paths and exceptions are stored as plain data
and come back as that plain data.
"""

from __future__ import annotations

import dataclasses
from enum import Enum
from pathlib import PurePath
from typing import Any

__all__ = ["plain_data"]


def plain_data(value: Any) -> Any:
    """Turn a value into plain data; what is within it is asked about in turn.

    An enum becomes its value, a pydantic model or a dataclass a dict of its fields, a numpy scalar the Python
    number, a path its text, an exception ``{"type": …, "message": …}``.

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
    # pydantic and numpy are the user's, not ours to import
    if hasattr(value, "__pydantic_fields__"):
        return value.model_dump()
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return value.item()
    raise TypeError(f"cannot store a value of type {type(value).__module__}.{type(value).__qualname__}")
