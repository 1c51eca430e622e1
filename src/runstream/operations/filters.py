"""What callers ask for: from where to read, which events to follow, which runs to list."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum
from typing import Any

from runstream.model.errors import ConfigurationError, InvalidRunId
from runstream.model.events import EventKind, Visibility
from runstream.model.identifiers import check_name
from runstream.model.protocols import Leased
from runstream.model.results import Cursor, LeaseGrant, RunInfo

__all__ = [
    "EventFilter",
    "RunFilter",
    "check_attempts",
    "check_count",
    "check_lease",
    "check_leased",
    "check_read",
    "grant_of",
    "lane_of",
    "origin",
    "seq_of",
]


_SHORTEST_TTL_SECONDS = 0.05
_LONGEST_SECONDS = 30 * 86_400.0  # whoever dies with a lease keeps all others out for as long


def lane_of(event: Any) -> Any:
    """The lane of an event of whatever type: it has the ten fields of a PAEvent."""
    return event.lane_id


def seq_of(event: Any) -> Any:
    """The ``seq`` of an event of whatever type."""
    return event.seq


def origin(after: int | str) -> tuple[int, Cursor | None]:
    """The offset to go on from, and the cursor to check, if it is one."""
    if isinstance(after, str):
        cursor = Cursor.parse(after)
        return cursor.offset, cursor
    if isinstance(after, bool) or not isinstance(after, int) or after < 0:
        raise ConfigurationError(f"after={after!r}: pass an offset (0 or more), or a cursor as text")
    return after, None


def check_read(before: int | None, limit: int | None, on_corrupt: str) -> None:
    """Raise ConfigurationError for a bound, limit or habit that ``read`` does not have."""
    if before is not None and (isinstance(before, bool) or not isinstance(before, int)):
        raise ConfigurationError(f"before={before!r:.80}: pass an offset, or None")
    check_count("limit", limit)
    if on_corrupt not in ("raise", "skip"):
        raise ConfigurationError(f"on_corrupt={on_corrupt!r}: use 'raise' or 'skip'")


def check_count(name: str, value: int | None) -> None:
    """Raise ConfigurationError, naming the argument, unless it is None or a whole number from 0 on."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ConfigurationError(f"{name}={value!r:.80}: pass a whole number, 0 or more, or None")


def _text(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def check_attempts(attempts: int) -> None:
    """Raise ConfigurationError unless something is to be attempted at least once."""
    check_count("attempts", attempts)
    if attempts < 1:
        raise ConfigurationError(f"attempts={attempts}: attempt it at least once")


def check_lease(owner: str, lane_id: str | None, ttl: float, wait: float) -> None:
    """Raise ConfigurationError, naming the argument, for a lease that cannot be asked for like that."""
    if not isinstance(owner, str) or not owner:
        raise ConfigurationError(f"owner={owner!r:.80}: name who holds the lease, the same after a restart")
    check_name("owner", owner)
    if lane_id is not None:
        check_name("lane_id", lane_id)
    for name, seconds, least in (("ttl", ttl, _SHORTEST_TTL_SECONDS), ("wait", wait, 0.0)):
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not is_number or not least <= seconds <= _LONGEST_SECONDS:
            raise ConfigurationError(f"{name}={seconds!r:.80}: pass seconds, {least:g} to {_LONGEST_SECONDS:g}")


def grant_of(run_id: str, lease: Leased | None) -> LeaseGrant | None:
    """The lease that a write to this run carries. Raises InvalidRunId for one on another run."""
    grant = None if lease is None else lease.grant
    if grant is not None and grant.run_id != run_id:
        raise InvalidRunId(
            f"a lease on run {grant.run_id!r:.80} says nothing of run {run_id!r:.80}: take one on that run"
        )
    return grant


def check_leased(run_id: str, lanes: Collection[str], grant: LeaseGrant | None) -> None:
    """Raise ConfigurationError for a write to a store that requires a lease, without one on all it touches."""
    if grant is None:
        raise ConfigurationError(
            f"this store requires a lease (require_lease) and run {run_id!r} was to be written without one: write"
            " through what lease() or open_run(lease_ttl=...) gives, or pass it as lease="
        )
    others = [lane for lane in lanes if grant.lane_id not in (None, lane)]
    if others:
        raise ConfigurationError(
            f"this store requires a lease (require_lease); the one on lane {grant.lane_id!r} of run {run_id!r}"
            f" does not cover lane {others[0]!r}: take that one too, or one on the whole run"
        )


class EventFilter:
    """True for the events of one lane, of some kinds, of one visibility; None asks nothing."""

    def __init__(
        self,
        lane_id: str | None,
        kinds: Collection[EventKind | str] | None,
        visibility: Visibility | str | None,
    ) -> None:
        self.lane_id = lane_id
        self.kinds = None if kinds is None else frozenset(map(_text, kinds))
        self.visibility = _text(visibility)

    def __call__(self, event: Any) -> bool:
        """Whether the event is wanted."""
        return (
            (self.lane_id is None or event.lane_id == self.lane_id)
            and (self.kinds is None or _text(event.kind) in self.kinds)
            and (self.visibility is None or _text(event.visibility) == self.visibility)
        )


class RunFilter:
    """True for the runs of one session, in one status, updated after a time; None asks nothing."""

    def __init__(self, session_id: str | None, status: str | None, updated_after: float | None) -> None:
        self.session_id = session_id
        self.status = _text(status)
        self.updated_after = updated_after

    def __call__(self, info: RunInfo) -> bool:
        """Whether the run is wanted."""
        return (
            (self.session_id is None or info.session_id == self.session_id)
            and (self.status is None or info.status == self.status)
            and (self.updated_after is None or info.updated_at > self.updated_after)
        )
