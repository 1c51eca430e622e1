"""The errors of what the append script refuses; see its header."""

from __future__ import annotations

from collections.abc import Sequence

from runstream.model.errors import ConfigurationError, EventsArchived, RunstreamError
from runstream.model.results import E, S
from runstream.model.tags import too_many_tags
from runstream.operations.messages import (
    diverged,
    lease_held,
    lease_lost,
    lost,
    not_asked,
    offset_conflict,
    run_cancelled,
    snapshot_conflict,
    too_many_hot_events,
)
from runstream.stores.redis.append_batch import Batch
from runstream.stores.redis.append_result import TooOld
from runstream.stores.redis.scripts.calls import MICROSECONDS, PRODUCER_WINDOW_SECONDS, lane_of_lease
from runstream.stores.redis.session.in_flight import Attempt
from runstream.stores.redis.session.session import Session

__all__ = ["held", "refusal_of"]


def held(run_id: str, facts: Sequence[bytes]) -> RunstreamError:
    """The LeaseHeld error of a script's reply 'held': field, owner, microseconds."""
    field, owner, left = facts
    lane_id = lane_of_lease(field.decode(errors="backslashreplace"))
    return lease_held(run_id, lane_id, owner.decode(errors="backslashreplace"), int(left) / MICROSECONDS)


def refusal_of(attempt: Attempt[Session[E, S]], outcome: bytes, facts: Sequence[bytes]) -> RunstreamError:
    """The error of a reply of the append script that is not 'ok'; see its header."""
    session, batch = attempt.session, attempt.batch
    # what the script has compared: another caller of this store may have forgotten the run since
    run_id, seen = batch.run_id, attempt.sending.seen
    if outcome == b"held":
        return held(run_id, facts)
    if outcome == b"unleased" and batch.grant is not None:
        return lease_lost(batch.grant)
    if outcome in (b"cancelled", b"unasked", b"conflict", b"tags"):
        return _of_batch(batch, outcome, facts)
    if outcome == b"snapshot":
        write = batch.snapshots[int(facts[1]) - 1]
        return snapshot_conflict(run_id, write.lane_id, write.known_revision, int(facts[0]))
    if outcome == b"full":
        return too_many_hot_events(run_id, int(facts[1]), int(facts[0]), session.max_hot_events or 0)
    if outcome in (b"archived", b"retired"):
        return _archived(run_id, outcome, int(facts[0]))
    if outcome == b"lost":
        return lost(run_id, int(facts[0]) if seen is None else seen.cursor.offset, int(facts[0]))
    if outcome == b"diverged" and seen is not None:
        return diverged(run_id, seen.cursor)
    if outcome == b"stale":
        session.server_clock.update(facts[0], reset=True)
        return TooOld(
            f"an append to run {run_id!r} got no reply, and the server has forgotten since who sent it (after"
            f" {PRODUCER_WINDOW_SECONDS} seconds by its clock): whether it was applied can no longer be told, and"
            " it was not applied now; read the end of the run"
        )
    return ConfigurationError(
        f"namespace {session.namespace!r} has {int(facts[0])} partitions, not {len(session.keys.partitions)}:"
        " it was created anew since this store was opened; open the store again"
    )


def _of_batch(batch: Batch, outcome: bytes, facts: Sequence[bytes]) -> RunstreamError:
    if outcome == b"conflict":
        return offset_conflict(batch.run_id, batch.expected_offset or 0, int(facts[0]))
    if outcome == b"cancelled":
        return run_cancelled(batch.run_id, facts[0].decode(errors="replace"))
    if outcome == b"tags":
        return too_many_tags(batch.run_id, int(facts[0]))
    return not_asked(batch.run_id, None, batch.notices[0][1].question_id)


def _archived(run_id: str, outcome: bytes, upto: int) -> EventsArchived:
    if outcome == b"retired":
        text = (
            "was retired, or lanes of it have ended, and the snapshot that this one was to follow has left Redis"
            " for the archive: nothing was written; load it there and go on from it, or replace it by this one"
            " (save_snapshot)"
        )
    else:
        text = (
            f"has events, up to offset {upto}, that have left Redis for the archive and are not covered by this"
            " snapshot: nobody could recover from it, and nothing was written; recover the run or lane first, go"
            " on from what that gives, and save again"
        )
    return EventsArchived(f"run {run_id!r} {text}", run_id=run_id, first_hot=upto + 1)
