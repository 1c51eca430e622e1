"""The types that neither msgpack nor JSON knows, in one table that serves both codecs.

A scalar becomes text, a container a list of what it holds. In msgpack they are extension types, of the codes 0 to
127 that its specification leaves to applications; in JSON they are objects of one key, ``{"$tag": …}``. Codes and
tags are part of the stored formats: never change or reuse one.

Dates and times are text of ISO 8601, a time zone's name follows as in RFC 9557.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

__all__ = ["BY_CODE", "BY_TAG", "BY_TYPE", "CONTAINERS", "SCALARS", "TaggedType"]


_Moment = TypeVar("_Moment", datetime, time)


@dataclass(frozen=True, slots=True)
class TaggedType:
    """One type, and how it is stored.

    Attributes:
        type: The type.
        code: The code of its extension type in msgpack.
        tag: The key of its object in JSON.
        dump: Turns a value into text, or into a list if it is a container.
        load: Turns that back into the value.
    """

    type: type[Any]
    code: int
    tag: str
    dump: Callable[[Any], Any]
    load: Callable[[Any], Any]


def _dump_datetime(moment: datetime) -> str:
    # RFC 9557: the offset in front of the zone's name also distinguishes the two 02:30s of an autumn night
    zone = getattr(moment.tzinfo, "key", None)
    return f"{moment.isoformat()}[{zone}]" if zone else moment.isoformat()


_OFFSET_UNDER_A_SECOND = re.compile(r"([+-])00:00:00(\.\d{6})")


def _with_offset(stamp: str, moment: _Moment) -> _Moment:
    """Give a moment its offset from UTC back if that is under a second: fromisoformat takes such a one for UTC."""
    match = _OFFSET_UNDER_A_SECOND.search(stamp)
    if match is None:
        return moment
    return moment.replace(tzinfo=timezone(timedelta(seconds=float(match[1] + match[2]))))


def _load_time(text: str) -> time:
    return _with_offset(text, time.fromisoformat(text))


def _load_datetime(text: str) -> datetime:
    stamp, _, zone = text.rstrip("]").partition("[")
    moment = _with_offset(stamp, datetime.fromisoformat(stamp))
    if not zone:
        return moment
    try:
        local = moment.replace(tzinfo=ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError):
        return moment  # this machine does not know the zone: the same instant at a fixed offset
    return local if local.utcoffset() == moment.utcoffset() else local.replace(fold=1)


_DURATION = re.compile(r"P(-?\d+)DT(\d+)\.(\d{6})S")


def _dump_timedelta(span: timedelta) -> str:
    return f"P{span.days}DT{span.seconds}.{span.microseconds:06}S"


def _load_timedelta(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"not a duration: {text!r}")
    return timedelta(int(match[1]), int(match[2]), int(match[3]))


# hexadecimal: Python limits how many decimal digits it converts, and JSON readers round large numbers
_INT = TaggedType(int, 10, "$int", lambda n: format(n, "x"), lambda text: int(text, 16))

SCALARS = (
    TaggedType(datetime, 4, "$datetime", _dump_datetime, _load_datetime),  # before date, its base class
    TaggedType(date, 5, "$date", date.isoformat, date.fromisoformat),
    TaggedType(time, 6, "$time", time.isoformat, _load_time),
    TaggedType(timedelta, 7, "$timedelta", _dump_timedelta, _load_timedelta),
    TaggedType(Decimal, 8, "$decimal", str, Decimal),
    TaggedType(UUID, 9, "$uuid", str, UUID),
    _INT,  # only what 64 bits cannot hold
)
CONTAINERS = (
    TaggedType(tuple, 1, "$tuple", list, tuple),
    TaggedType(set, 2, "$set", list, set),
    TaggedType(frozenset, 3, "$frozenset", list, frozenset),
)

BY_TYPE = {kind.type: kind for kind in SCALARS + CONTAINERS}
BY_CODE = {kind.code: kind for kind in SCALARS + CONTAINERS}
BY_TAG = {kind.tag: kind for kind in SCALARS + CONTAINERS}
