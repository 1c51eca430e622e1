"""The errors that every store raises in the same words."""

from __future__ import annotations

from runstream.model.errors import (
    AcknowledgedWritesLost,
    ConcurrencyConflict,
    HistoryDiverged,
    LeaseHeld,
    LeaseLost,
    TooManyHotEvents,
)
from runstream.model.results import Cursor, LeaseGrant

__all__ = [
    "diverged",
    "lease_held",
    "lease_lost",
    "lost",
    "offset_conflict",
    "snapshot_conflict",
    "too_many_hot_events",
]


def offset_conflict(run_id: str, expected: int, actual: int) -> ConcurrencyConflict:
    """The run stands elsewhere than the writer expected."""
    return ConcurrencyConflict(
        f"run {run_id!r} stands at offset {actual}, not {expected}; nothing was written:"
        f" read the events after {expected}, decide again, and append with expected_offset={actual}",
        expected=expected,
        actual=actual,
    )


def snapshot_conflict(run_id: str, known: int, actual: int) -> ConcurrencyConflict:
    """Another snapshot was saved since the one with revision ``known`` (0: none) that the writer knows."""
    return ConcurrencyConflict(
        f"run {run_id!r}: snapshot {actual} was saved by another writer; nothing was written:"
        " load it, apply the change to it and save again",
        expected=known,
        actual=actual,
    )


def lost(run_id: str, last_seen: int, last_present: int) -> AcknowledgedWritesLost:
    """Events that were seen are not there any more."""
    return AcknowledgedWritesLost(
        f"run {run_id!r} stands at offset {last_present}, but offset {last_seen} was seen: the server has lost"
        " events that it acknowledged; call forget(run_id) to take the run as it is, read it and decide what to"
        " repeat (a store with resend_lost=True puts its own events back)",
        run_id=run_id,
        last_seen=last_seen,
        last_present=last_present,
    )


def diverged(run_id: str, cursor: Cursor) -> HistoryDiverged:
    """The run has another event at the cursor's offset."""
    return HistoryDiverged(
        f"run {run_id!r} has another history than the one of cursor {cursor}: acknowledged events were lost and"
        " their offsets filled again; call forget(run_id) to take the run as it is, and read it from its"
        " beginning",
        run_id=run_id,
        offset=cursor.offset,
    )


def lease_lost(grant: LeaseGrant) -> LeaseLost:
    """The lease is not the newest any more, or it has run out."""
    return LeaseLost(
        f"the lease of {grant.owner!r} on {_scope(grant.run_id, grant.lane_id)} (epoch {grant.epoch}) has passed"
        " on or run out; nothing was written: take a new one, recover from there, and decide again"
    )


def lease_held(run_id: str, lane_id: str | None, owner: str, expires_in: float) -> LeaseHeld:
    """A lease of somebody else's, on this lane or (None) on the whole run, is in the way."""
    return LeaseHeld(
        f"{_scope(run_id, lane_id)} is leased to {owner!r} for another {expires_in:.3f} seconds, unless it renews;"
        " nothing was written: write with that lease, work in another lane, or wait for it (wait=)",
        owner=owner,
        expires_in=expires_in,
    )


def too_many_hot_events(run_id: str, count: int, hot_events: int, limit: int) -> TooManyHotEvents:
    """An append of ``count`` events to a run that has ``hot_events`` in Redis and may have ``limit``."""
    if count > limit:
        text = f"run {run_id!r}: {count} events in one append are more than max_hot_events={limit}: split it"
    else:
        text = (
            f"run {run_id!r} has {hot_events} events in Redis, and with these {count} it would have more than"
            f" max_hot_events={limit}: see whether a drain worker runs and keeps up (runstream status), save a"
            " snapshot so that what it covers can be trimmed, and append again later"
        )
    return TooManyHotEvents(f"{text}; nothing was written", run_id=run_id, hot_events=hot_events, limit=limit)


def _scope(run_id: str, lane_id: str | None) -> str:
    return f"run {run_id!r}" if lane_id is None else f"lane {lane_id!r} of run {run_id!r}"
