"""The errors that all stores raise, with their texts: what happened, and what to do next."""

from __future__ import annotations

from runstream.model.errors import (
    AcknowledgedWritesLost,
    ArchiveGap,
    ConcurrencyConflict,
    ConfigurationError,
    HistoryDiverged,
    LeaseHeld,
    LeaseLost,
    RunCancelled,
    TooManyHotEvents,
)
from runstream.model.results import Cursor, LeaseGrant

__all__ = [
    "diverged",
    "lease_held",
    "lease_lost",
    "lost",
    "no_event",
    "not_asked",
    "offset_conflict",
    "parent_lost",
    "run_cancelled",
    "run_ended",
    "snapshot_conflict",
    "too_many_hot_events",
]


def offset_conflict(run_id: str, expected: int, actual: int) -> ConcurrencyConflict:
    """The run ends at another offset than the writer expected.

    Args:
        run_id: The run.
        expected: The offset that the writer expected.
        actual: The offset that the run ends at.
    """
    return ConcurrencyConflict(
        f"run {run_id!r} stands at offset {actual}, not {expected}; nothing was written:"
        f" read the events after {expected}, decide again, and append with expected_offset={actual}",
        expected=expected,
        actual=actual,
    )


def snapshot_conflict(run_id: str, lane_id: str | None, known: int, actual: int) -> ConcurrencyConflict:
    """Another writer saved a snapshot since the one that this writer knows.

    Args:
        run_id: The run.
        lane_id: The lane whose snapshot it is; None: the run's own.
        known: The revision of the snapshot that the writer knows; 0: none.
        actual: The revision of the latest.
    """
    of_lane = "" if lane_id is None else f", lane {lane_id!r}"
    return ConcurrencyConflict(
        f"run {run_id!r}{of_lane}: snapshot {actual} was saved by another writer; nothing was written:"
        " load it, apply the change to it and save again",
        expected=known,
        actual=actual,
    )


def lost(run_id: str, last_seen: int, last_present: int) -> AcknowledgedWritesLost:
    """Events that were seen are gone.

    Args:
        run_id: The run.
        last_seen: The last offset that was seen.
        last_present: The last offset that the run has now.
    """
    return AcknowledgedWritesLost(
        f"run {run_id!r} stands at offset {last_present}, but offset {last_seen} was seen: the server has lost"
        " events that it acknowledged; call forget(run_id) to take the run as it is, read it and decide what to"
        " repeat (a store with resend_lost=True puts its own events back)",
        run_id=run_id,
        last_seen=last_seen,
        last_present=last_present,
    )


def no_event(run_id: str, offset: int) -> ArchiveGap:
    """An archive lacks an event amid others.

    Args:
        run_id: The run.
        offset: The offset that there is no event for.
    """
    return ArchiveGap(
        f"the archive of run {run_id!r} has no event {offset} though it has later ones: the file was"
        " changed by another program; restore it from a copy",
        run_id=run_id,
        expected=offset,
        found=offset + 1,
    )


def diverged(run_id: str, cursor: Cursor) -> HistoryDiverged:
    """The run has another history than a cursor's.

    Args:
        run_id: The run.
        cursor: The cursor.
    """
    return HistoryDiverged(
        f"run {run_id!r} has another history than the one of cursor {cursor}: acknowledged events were lost and"
        " their offsets filled again; call forget(run_id) to take the run as it is, and read it from its"
        " beginning",
        run_id=run_id,
        offset=cursor.offset,
    )


def parent_lost(run_id: str, parent: str, *, is_there: bool) -> HistoryDiverged:
    """The run that a fork shares its history with is gone.

    Args:
        run_id: The fork.
        parent: The run that it was forked from.
        is_there: Whether there is another run of that name.
    """
    what = "was deleted and made anew" if is_there else "is not there"
    return HistoryDiverged(
        f"run {run_id!r} shares its beginning with run {parent!r}, which {what}: restore that from an archive that"
        " has it; what the fork has itself can be read after the offset that run_info(run_id).parent has",
        run_id=run_id,
        offset=0,
    )


def lease_lost(grant: LeaseGrant) -> LeaseLost:
    """A lease is not the newest any more, or it has run out.

    Args:
        grant: The lease.
    """
    return LeaseLost(
        f"the lease of {grant.owner!r} on {_scope(grant.run_id, grant.lane_id)} (epoch {grant.epoch}) has passed"
        " on or run out; nothing was written: take a new one, recover from there, and decide again"
    )


def lease_held(run_id: str, lane_id: str | None, owner: str, expires_in: float) -> LeaseHeld:
    """Somebody else's lease is in the way.

    Args:
        run_id: The run.
        lane_id: The lane that it is on; None: the whole run.
        owner: Who holds it.
        expires_in: In how many seconds it runs out.
    """
    return LeaseHeld(
        f"{_scope(run_id, lane_id)} is leased to {owner!r} for another {expires_in:.3f} seconds, unless it renews;"
        " nothing was written: write with that lease, work in another lane, or wait for it (wait=)",
        owner=owner,
        expires_in=expires_in,
    )


def too_many_hot_events(run_id: str, count: int, hot_events: int, limit: int) -> TooManyHotEvents:
    """With an append the run would have too many events in Redis.

    Args:
        run_id: The run.
        count: How many events were to be appended.
        hot_events: How many events it has in Redis.
        limit: How many it may have.
    """
    if count > limit:
        text = f"run {run_id!r}: {count} events in one append are more than max_hot_events={limit}: split it"
    else:
        text = (
            f"run {run_id!r} has {hot_events} events in Redis, and with these {count} it would have more than"
            f" max_hot_events={limit}: see whether a drain worker runs and keeps up (runstream status), save a"
            " snapshot so that what it covers can be trimmed, and append again later"
        )
    return TooManyHotEvents(f"{text}; nothing was written", run_id=run_id, hot_events=hot_events, limit=limit)


def not_asked(run_id: str, lane_id: str | None = None, question_id: str | None = None) -> ConfigurationError:
    """Nobody waits for an answer to this question.

    Args:
        run_id: The run.
        lane_id: The lane that is meant; None: any.
        question_id: The question that is meant; None: any.
    """
    what = "no question" if question_id is None else f"no question {question_id!r} that waits for an answer"
    return ConfigurationError(
        f"{_scope(run_id, lane_id)} has asked {what}: `runstream runs --status paused` and"
        " run_info(run_id).waiting_for show those that wait"
    )


def run_cancelled(run_id: str, reason: str) -> RunCancelled:
    """Somebody has asked for the run to be cancelled.

    Args:
        run_id: The run.
        reason: Why.
    """
    because = f" ({reason})" if reason else ""
    return RunCancelled(
        f"run {run_id!r} is to be cancelled{because}; nothing was written: undo what is half done, and leave the"
        " Run, which ends it as cancelled (run.started opens it again)",
        run_id=run_id,
        reason=reason,
    )


def run_ended(run_id: str, status: str) -> RunCancelled:
    """The run has ended while one of its lanes waited for an answer.

    Args:
        run_id: The run.
        status: The status that it has.
    """
    return RunCancelled(
        f"run {run_id!r} has ended ({status}) while it waited for an answer: nobody will answer it; open it again"
        " and ask anew if it is to go on",
        run_id=run_id,
        reason=f"it has ended ({status})",
    )


def _scope(run_id: str, lane_id: str | None) -> str:
    return f"run {run_id!r}" if lane_id is None else f"lane {lane_id!r} of run {run_id!r}"
