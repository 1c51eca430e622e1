"""Fields of states of any type: a dict's keys, an object's attributes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from enum import Enum
from typing import Any

from runstream.model.state import ENDED_STATUSES, STATUSES, RunState, RunStatus

__all__ = ["ABSENT", "at_work", "ended", "get_field", "open_again", "paused", "resume"]

ABSENT: Any = object()
"""What a state has in place of a field that it does not have."""


def get_field(state: Any, name: str) -> Any:
    """The field's value, or ABSENT."""
    return state.get(name, ABSENT) if isinstance(state, dict) else getattr(state, name, ABSENT)


def _put(state: Any, values: Iterable[tuple[str, Any]]) -> None:
    """Set these fields, as far as the state lets them be set."""
    for name, value in values:
        if isinstance(state, dict):
            state[name] = value
        else:
            # a frozen class, or one that checks what it is given, refuses it with an error of its own
            with suppress(Exception):
                setattr(state, name, value)


def ended(state: Any, status: RunStatus, finished_at: float) -> AbstractContextManager[None]:
    """Within this context a state has the status of a run that has ended, and the time (Unix); after it too.

    If it is left with an error, the state is as before. The status is set where the state has one of a run's, as
    text or as an Enum that has this member too: a status of the author's own is left as it is. The times, where it
    has such numbers.
    """
    return _with(state, {**_status(state, status), **_times(state, finished_at, "updated_at", "finished_at")})


def at_work(state: Any, now: float, *, opens: bool = False) -> AbstractContextManager[None]:
    """As ``ended``, for a run at work: one that is pending becomes a running one.

    ``updated_at`` becomes this time (Unix), and so does a ``started_at`` of 0. With ``opens``, one that has ended
    becomes a running one too, as with ``open_again``.
    """
    changes = _work_times(state, now)
    if _plain_status(state) == RunStatus.PENDING.value:
        changes |= _status(state, RunStatus.RUNNING)
    return _with(state, {**changes, **(_opened(state) if opens else {})})


def open_again(state: Any) -> None:
    """Let a state that has ended be one of a run at work, which has not finished."""
    _put(state, _opened(state).items())


def paused(state: Any, now: float) -> AbstractContextManager[None]:
    """As ``ended``, for a run that waits for a person from this time (Unix) on."""
    return _with(state, {**_status(state, RunStatus.PAUSED), **_work_times(state, now)})


def resume(state: Any) -> None:
    """Let a state that is paused be one of a run at work."""
    if _plain_status(state) == RunStatus.PAUSED.value:
        _put(state, _status(state, RunStatus.RUNNING).items())


def _plain_status(state: Any) -> Any:
    current = get_field(state, "status")
    return getattr(current, "value", current)


def _opened(state: Any) -> dict[str, Any]:
    """What changes in a state whose run is opened again; nothing where it has not ended."""
    current = _plain_status(state)
    if not isinstance(current, str) or current not in ENDED_STATUSES:
        return {}
    return {**_status(state, RunStatus.RUNNING), **_times(state, 0.0, "finished_at")}


def _status(state: Any, status: RunStatus) -> dict[str, Any]:
    current = get_field(state, "status")
    if isinstance(state, RunState):
        return {"status": status}
    if isinstance(current, Enum):
        member = type(current)._value2member_map_.get(status.value)
        return {} if member is None else {"status": member}
    return {"status": status.value} if isinstance(current, str) and current in STATUSES else {}


def _work_times(state: Any, now: float) -> dict[str, Any]:
    names = ["updated_at"] + ["started_at"] * (get_field(state, "started_at") == 0)
    return _times(state, now, *names)


def _times(state: Any, now: float, *names: str) -> dict[str, Any]:
    return {name: now for name in names if isinstance(get_field(state, name), int | float)}


@contextmanager
def _with(state: Any, changes: dict[str, Any]) -> Iterator[None]:
    former = [(name, get_field(state, name)) for name in changes]
    _put(state, changes.items())
    try:
        yield
    except BaseException:  # an interrupt too: as far as is known, it has not been saved
        _put(state, former)
        raise
