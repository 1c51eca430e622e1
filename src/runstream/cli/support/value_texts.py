"""Payloads and states as people write them: exact numbers as numbers, moments as dates, one value on one line."""

from __future__ import annotations

import json
from datetime import date, datetime, time
from typing import Any

from runstream.codec.json_facts import iso_time
from runstream.codec.own_stack import with_room

__all__ = ["cut", "is_moment_name", "payload_text", "value_text"]

_WIDTH = 100  # characters of a payload or state on one line
_FIRST_MOMENT, _LAST_MOMENT = 10**9, 10**10  # what is taken for Unix time in seconds: the years 2001 to 2286


def payload_text(payload: Any, *, local: bool = False) -> str:
    """A payload on one line: ``key=value`` pairs.

    One that is no mapping, as older versions took them, is its value.
    """
    if not isinstance(payload, dict):
        return value_text(payload, local=local)
    return " ".join(f"{key}={value_text(value, key, local=local)}" for key, value in payload.items())


def cut(text: str) -> str:
    """The text, cut off where it gets long."""
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


def value_text(value: Any, name: object = None, *, local: bool = False) -> str:
    """A value on one line: as JSON, but that what JSON has no type for stands as people write it.

    Args:
        value: A value that a store gave.
        name: The key that it stands under: under ``ts`` and ``…_at``, a number of seconds is a moment.
        local: Give the moments that are such numbers in this machine's time zone instead of UTC.
    """
    return with_room(_text, value, name, local)


def _text(value: Any, name: object, local: bool) -> str:
    if isinstance(value, dict):
        pairs = (f"{_text(key, None, local)}: {_text(each, key, local)}" for key, each in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{', '.join(_text(each, None, local) for each in value)}]"
    if isinstance(value, float | int) and is_moment_name(name) and _FIRST_MOMENT <= value < _LAST_MOMENT:
        return iso_time(value, local=local)
    if isinstance(value, datetime | date | time):
        return value.isoformat().replace("+00:00", "Z")
    if value is None or isinstance(value, str | bool | int | float):
        return json.dumps(value, ensure_ascii=False)
    return repr(value) if isinstance(value, bytes) else str(value)


def is_moment_name(name: object) -> bool:
    """Whether a number under this key is a moment, by what programs call them."""
    return isinstance(name, str) and (name == "ts" or name.endswith("_at"))
