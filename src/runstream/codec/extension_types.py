"""The types that neither msgpack nor JSON knows, in one table that serves both codecs.

A scalar becomes text, a container a list of what it holds. In msgpack they are extension types, of the codes 0 to
127 that its specification leaves to applications; in JSON they are objects of one key, ``{"$tag": …}``. Codes and
tags are part of the stored formats: never change or reuse one. A type may have several forms: the first one holds
what it always held, and a further one what the first would lose.

Dates and times are text of ISO 8601, a time zone's name follows as in RFC 9557. Both the name and the offset are
data: a machine that does not know the zone, or knows another rule of it, reads the same instant and writes the
same text (:class:`NamedOffset`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

__all__ = ["BY_CODE", "BY_TAG", "CONTAINERS", "SCALARS", "NamedOffset", "TaggedType", "form_of", "is_twofold"]


_Moment = TypeVar("_Moment", datetime, time)


@dataclass(frozen=True, slots=True)
class TaggedType:
    """One form of a type, and how it is stored.

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


class NamedOffset(tzinfo):
    """The time zone of a moment that was stored where this machine's rules do not give the offset that it had.

    Either the machine does not know the zone, or the zone's rule was changed since. The moment keeps its offset,
    and so its instant, and the zone's name.

    Args:
        key: The zone's name, as in :class:`zoneinfo.ZoneInfo`.
        offset: The moment's offset from UTC; None for a time of day, whose zone tells none without a date.
    """

    def __init__(self, key: str, offset: timedelta | None) -> None:
        self.key = key
        self._offset = offset

    def utcoffset(self, dt: datetime | None, /) -> timedelta | None:
        """The offset from UTC.

        Args:
            dt: A moment; the offset is the same at each.
        """
        del dt
        return self._offset

    def dst(self, dt: datetime | None, /) -> timedelta | None:
        """None: how much of the offset is daylight saving is not known.

        Args:
            dt: A moment.
        """
        del dt
        return None

    def tzname(self, dt: datetime | None, /) -> str:
        """The zone's name.

        Args:
            dt: A moment; the name is the same at each.
        """
        del dt
        return self.key

    def __eq__(self, other: object) -> bool:
        """Whether it is the same name and offset."""
        return isinstance(other, NamedOffset) and (self.key, self._offset) == (other.key, other._offset)

    def __hash__(self) -> int:
        """The hash of name and offset."""
        return hash((self.key, self._offset))

    def __repr__(self) -> str:
        """The name and the offset."""
        return f"NamedOffset({self.key!r}, {self._offset!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """For copies and pickles: tzinfo itself expects a class that takes no arguments."""
        return NamedOffset, (self.key, self._offset)


# -- zones ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=512)  # a machine without any looks in many places for each
def _is_known(key: str) -> bool:
    try:
        ZoneInfo(key)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # also a directory, or a name that no file can have
        return False
    return True


def _zone(key: str) -> ZoneInfo | None:
    """The zone of this name; None where this machine does not know it."""
    return ZoneInfo(key) if _is_known(key) else None


def is_twofold(moment: datetime) -> bool:
    """Whether a zone's clocks show a moment twice, or skip it: it is equal to none in any other zone (PEP 495).

    Args:
        moment: The moment.
    """
    zone = moment.tzinfo
    if zone is None or type(zone) is timezone or type(zone) is NamedOffset:
        return False
    return moment.replace(fold=1 - moment.fold).utcoffset() != moment.utcoffset()


def _zone_name(zone: tzinfo | None) -> str:
    """The name by which a zone is stored; '' for one that is stored by its offset alone."""
    if isinstance(zone, ZoneInfo | NamedOffset):
        key: Any = zone.key
        if type(key) is str and key and "[" not in key and "]" not in key:
            return key
    return ""


def _check_zone(moment: datetime | time) -> None:
    """Refuse a moment that its offset alone would not give back equal, and that has no zone with a name."""
    zone = moment.tzinfo
    if zone is None or type(zone) is timezone:
        return
    name = _zone_name(zone)
    if name and (type(zone) is NamedOffset or _zone(name) is zone):
        return
    kind = f"{type(zone).__module__}.{type(zone).__qualname__}"
    if not name and moment.utcoffset() is None:
        raise ValueError(f"the time zone of {moment!r:.80} ({kind}) tells no offset: take one of zoneinfo")
    if isinstance(moment, datetime) and is_twofold(moment):
        raise ValueError(
            f"the clocks show {moment!r:.80} twice, or skip it, and its time zone ({kind}) would not be the same"
            " one when it is read: take ZoneInfo(name), or UTC"
        )


_OFFSET_UNDER_A_SECOND = re.compile(r"([+-])00:00:00(\.\d{6})")


def _from_iso(kind: type[_Moment], text: str) -> _Moment:
    moment = kind.fromisoformat(text)
    # an offset from UTC of less than a second: fromisoformat takes it for UTC
    match = _OFFSET_UNDER_A_SECOND.search(text)
    if match is None:
        return moment
    return moment.replace(tzinfo=timezone(timedelta(seconds=float(match[1] + match[2]))))


def _split_zone(text: str) -> tuple[str, str]:
    stamp, _, zone = text.rstrip("]").partition("[")
    return stamp, zone


# -- datetimes -----------------------------------------------------------------------------------------------


def _dump_datetime(moment: datetime) -> str:
    _check_zone(moment)
    # RFC 9557: the offset in front of the zone's name also distinguishes the two 02:30s of an autumn night
    zone = _zone_name(moment.tzinfo)
    return f"{moment.isoformat()}[{zone}]" if zone else moment.isoformat()


def _offset_tells_fold(moment: datetime) -> bool:
    """Whether the offset alone tells which of two equal clock times it is."""
    return bool(_zone_name(moment.tzinfo)) and moment.replace(fold=0).utcoffset() != moment.utcoffset()


def _load_datetime(text: str) -> datetime:
    return _in_zone(text, fold=0)


def _load_datetime_with_fold(text: str) -> datetime:
    return _in_zone(text, fold=1)


def _in_zone(text: str, fold: int) -> datetime:
    stamp, name = _split_zone(text)
    moment = _from_iso(datetime, stamp).replace(fold=fold)
    if not name:
        return moment
    offset, zone = moment.utcoffset(), _zone(name)
    if zone is not None:
        local = moment.replace(tzinfo=zone)
        other = local.replace(fold=1)
        if fold == 0 and local.utcoffset() == offset:
            return local
        if other.utcoffset() == offset and _offset_tells_fold(other) == (fold == 0):
            return other
    return moment.replace(tzinfo=NamedOffset(name, offset))


# -- times ---------------------------------------------------------------------------------------------------


def _dump_time(moment: time) -> str:
    _check_zone(moment)
    return moment.isoformat()


def _load_time(text: str) -> time:
    return _from_iso(time, text)


def _dump_zoned_time(moment: time) -> str:
    _check_zone(moment)
    zone = _zone_name(moment.tzinfo)
    return f"{moment.fold} {moment.isoformat()}{f'[{zone}]' if zone else ''}"


def _load_zoned_time(text: str) -> time:
    fold, _, rest = text.partition(" ")
    stamp, name = _split_zone(rest)
    moment = _from_iso(time, stamp).replace(fold=int(fold))
    if not name:
        return moment
    zone, offset = _zone(name), moment.utcoffset()
    if zone is not None and (local := moment.replace(tzinfo=zone)).utcoffset() == offset:
        return local
    return moment.replace(tzinfo=NamedOffset(name, offset))


# -- other scalars -------------------------------------------------------------------------------------------

_DURATION = re.compile(r"P(-?\d+)DT(\d+)\.(\d{6})S")


def _dump_timedelta(span: timedelta) -> str:
    return f"P{span.days}DT{span.seconds}.{span.microseconds:06}S"


def _load_timedelta(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"not a duration: {text!r:.80}")
    return timedelta(int(match[1]), int(match[2]), int(match[3]))


# hexadecimal: Python limits how many decimal digits it converts, and JSON readers round large numbers
_INT = TaggedType(int, 10, "$int", lambda n: format(n, "x"), lambda text: int(text, 16))
_DATETIME = TaggedType(datetime, 4, "$datetime", _dump_datetime, _load_datetime)
_DATETIME_FOLD = TaggedType(datetime, 11, "$datetime_fold", _dump_datetime, _load_datetime_with_fold)
_TIME = TaggedType(time, 6, "$time", _dump_time, _load_time)
_ZONED_TIME = TaggedType(time, 12, "$zoned_time", _dump_zoned_time, _load_zoned_time)

SCALARS = (
    _DATETIME,
    _DATETIME_FOLD,  # whose fold is 1, and whose offset alone does not tell so
    TaggedType(date, 5, "$date", date.isoformat, date.fromisoformat),
    _TIME,
    _ZONED_TIME,  # in a zone that has a name, or with a fold
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

BY_CODE = {kind.code: kind for kind in SCALARS + CONTAINERS}
BY_TAG = {kind.tag: kind for kind in SCALARS + CONTAINERS}
_FIRST_FORMS = {kind.type: kind for kind in reversed(SCALARS + CONTAINERS)}


def form_of(value: Any) -> TaggedType | None:
    """The form in which a value is stored.

    Args:
        value: The value.

    Returns:
        The form; None if its exact type is none of these.
    """
    kind = _FIRST_FORMS.get(type(value))
    if kind is _DATETIME and value.fold and not _offset_tells_fold(value):
        return _DATETIME_FOLD
    if kind is _TIME and (value.fold or _zone_name(value.tzinfo)):
        return _ZONED_TIME
    return kind
