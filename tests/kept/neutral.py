"""A notation of values as plain JSON that has nothing to do with the codec whose work it is to judge.

None, bool, int, str and list stand for themselves; whatever else there is, is an object that names its type.
Two values are the same if their texts are: types at every depth and the order of dicts count, that of sets does
not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

__all__ = ["fields_of", "neutral", "text"]


def text(notation: Any) -> str:
    """The one text of a notation."""
    return json.dumps(notation, ensure_ascii=True, separators=(",", ":"))


def fields_of(values: Mapping[str, Any]) -> dict[str, str]:
    """The text of each field of an event or a state."""
    return {name: text(neutral(value)) for name, value in values.items()}


def neutral(value: Any) -> Any:
    """The notation of a value. Raises TypeError for a type that it does not know, subclasses included."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is list:
        return [neutral(one) for one in value]
    if kind is tuple:
        return {"tuple": [neutral(one) for one in value]}
    if kind is dict:
        return {"dict": [[neutral(key), neutral(one)] for key, one in value.items()]}
    if kind in (set, frozenset):
        return {kind.__name__: sorted((neutral(one) for one in value), key=text)}
    if kind is datetime:
        return {"datetime": value.isoformat(), "zone": getattr(value.tzinfo, "key", None), **_fold(value)}
    if kind is time:
        zone = getattr(value.tzinfo, "key", None)
        return {"time": value.isoformat(), **({"zone": zone} if zone else {}), **_fold(value)}
    return {kind.__name__: _scalar(value)}


def _fold(value: datetime | time) -> dict[str, int]:
    """The fold, where the offset in the text does not tell it."""
    return {"fold": 1} if value.fold and value.replace(fold=0).utcoffset() == value.utcoffset() else {}


def _scalar(value: Any) -> str:
    kind = type(value)
    if kind is float:
        return repr(value)
    if kind is bytes:
        return str(value.hex())
    if kind is date:
        return str(value.isoformat())
    if kind is timedelta:
        return f"{value.days} {value.seconds} {value.microseconds}"
    if kind in (Decimal, UUID):
        return str(value)
    raise TypeError(f"there is no notation for {kind.__qualname__}")
