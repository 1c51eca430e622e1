"""Fields of states of any type: a dict's keys, an object's attributes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from enum import Enum
from typing import Any

from runstream.model.state import STATUSES, RunState, RunStatus

__all__ = ["ABSENT", "get_field", "mark_ended", "mark_running", "put_fields"]

ABSENT: Any = object()
"""What a state has in place of a field that it does not have."""


def get_field(state: Any, name: str) -> Any:
    """The field's value, or ABSENT."""
    return state.get(name, ABSENT) if isinstance(state, dict) else getattr(state, name, ABSENT)


def put_fields(state: Any, values: Iterable[tuple[str, Any]]) -> None:
    """Set these fields, as far as the state lets them be set."""
    for name, value in values:
        if isinstance(state, dict):
            state[name] = value
        else:
            # a frozen class, or one that checks what it is given, refuses it with an error of its own
            with contextlib.suppress(Exception):
                setattr(state, name, value)


def mark_ended(state: Any, status: RunStatus, finished_at: float) -> list[tuple[str, Any]]:
    """Give a state the status of a run that has ended, and the time (Unix); returns the fields as they were.

    The status is set where the state has one of a run's, as text or as an Enum that has this member too: a
    status of the author's own is left as it is. The times, where it has such numbers.
    """
    return _put(state, {**_status(state, status), **_times(state, finished_at, "updated_at", "finished_at")})


def mark_running(state: Any, now: float) -> list[tuple[str, Any]]:
    """Give a state that is pending the status of a run at work, and its times; returns the fields as they were.

    ``updated_at`` becomes this time (Unix), and so does a ``started_at`` of 0, where it has such numbers.
    """
    changes = _times(state, now, "updated_at")
    if get_field(state, "started_at") == 0:
        changes |= _times(state, now, "started_at")
    current = get_field(state, "status")
    if getattr(current, "value", current) == RunStatus.PENDING.value:
        changes |= _status(state, RunStatus.RUNNING)
    return _put(state, changes)


def _status(state: Any, status: RunStatus) -> dict[str, Any]:
    current = get_field(state, "status")
    if isinstance(state, RunState):
        return {"status": status}
    if isinstance(current, Enum):
        member = type(current)._value2member_map_.get(status.value)
        return {} if member is None else {"status": member}
    return {"status": status.value} if isinstance(current, str) and current in STATUSES else {}


def _times(state: Any, now: float, *names: str) -> dict[str, Any]:
    return {name: now for name in names if isinstance(get_field(state, name), int | float)}


def _put(state: Any, changes: dict[str, Any]) -> list[tuple[str, Any]]:
    former = [(name, get_field(state, name)) for name in changes]
    put_fields(state, changes.items())
    return former
