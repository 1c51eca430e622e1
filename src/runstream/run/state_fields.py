"""Fields of states of any type: a dict's keys, an object's attributes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from enum import Enum
from typing import Any

from runstream.model.state import STATUSES, RunState, RunStatus

__all__ = ["ABSENT", "get_field", "mark_ended", "put_fields"]

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
    status of the author's own is left as it is. The time, where it has such a number.
    """
    changes: dict[str, Any] = {}
    current = get_field(state, "status")
    if isinstance(state, RunState):
        changes["status"] = status
    elif isinstance(current, Enum):
        if (member := type(current)._value2member_map_.get(status.value)) is not None:
            changes["status"] = member
    elif isinstance(current, str) and current in STATUSES:
        changes["status"] = status.value
    if isinstance(get_field(state, "finished_at"), int | float):
        changes["finished_at"] = finished_at
    former = [(name, get_field(state, name)) for name in changes]
    put_fields(state, changes.items())
    return former
