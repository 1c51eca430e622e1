"""Deliver batches: send them; a store with ``resend_lost`` first puts back what the server lost.

After a failover a server can lack what it acknowledged. A store with ``resend_lost`` holds the events that it
appended last (:mod:`~runstream.stores.redis.session.recent_appends`). Where an append finds that the history ends
before them, or is another one, those that are missing are appended again: once, in order, as new offsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from runstream.codec.encoded_event import EncodedEvent
from runstream.model.durability import PRIMARY
from runstream.model.errors import (
    AcknowledgedWritesLost,
    HistoryDiverged,
    LeaseHeld,
    RunstreamError,
    StoreUnavailable,
)
from runstream.model.results import Cursor, E, S
from runstream.operations.arguments import check_leased
from runstream.operations.coverage import Covered
from runstream.operations.operation import Command, Exchange, Operation, Pause, carry_resolution
from runstream.stores.redis.append_batch import Batch
from runstream.stores.redis.append_result import Applied, Outcome, TooOld, Written
from runstream.stores.redis.keys import RunKeys
from runstream.stores.redis.operations.client.durability import durably
from runstream.stores.redis.operations.client.run_head import head_query, is_there, parse_head
from runstream.stores.redis.operations.client.send import (
    batch_of,
    outcome_of,
    resolve_unanswered,
    send,
    waiting_seconds,
)
from runstream.stores.redis.replies import parse_cursor
from runstream.stores.redis.scripts.calls import revoke_call
from runstream.stores.redis.session.in_flight import Attempt, unanswered_of
from runstream.stores.redis.session.recent_appends import RecentAppends
from runstream.stores.redis.session.session import Session

__all__ = ["carry_resolve", "deliver", "deliver_one"]


def deliver(session: Session[E, S], batches: Sequence[Batch]) -> Operation[list[Applied]]:
    """Send batches of different runs in one round trip.

    Raises the error of the first that was refused.
    """
    if session.require_lease:
        for batch in (batch for batch in batches if batch.sender != "person"):
            of_snapshots = [write.lane_id for write in batch.snapshots if write.lane_id is not None]
            check_leased(batch.run_id, (*batch.lanes, *of_snapshots, *batch.end_lanes), batch.grant)
    recent = session.recent
    if recent is not None:
        for batch in batches:
            if recent.lost(batch.run_id):
                yield from _put_back(session, recent, batch)
    outcomes = yield from send(session, batches)
    try:
        return (yield from _applied(session, batches, outcomes))
    except BaseException:
        # when a call that failed or was broken off is repeated, what was applied must not be applied anew
        for batch, outcome in zip(batches, outcomes, strict=True):
            if isinstance(outcome, Applied):
                session.in_flight.keep_outcome(batch, outcome)
        raise


def deliver_one(session: Session[E, S], batch: Batch) -> Operation[Applied]:
    """Send one batch; an error that leaves its outcome unknown carries the operation that resolves it."""
    try:
        (applied,) = yield from deliver(session, [batch])
    except BaseException as error:  # a cancellation too
        carry_resolve(session, batch, error)
        raise
    return applied


def carry_resolve(session: Session[E, S], batch: Batch, error: BaseException) -> None:
    """Let an error carry the operation that resolves this batch, if the error leaves that without a reply.

    Unlike a caller who sends the events again, that compares nothing: it knows the attempt itself. It waits for
    the durability of the store, as the first did.
    """
    for attempt in unanswered_of(error):
        if attempt.batch is batch:
            carry_resolution(error, partial(_resolve_durably, session, attempt))


def _resolve_durably(session: Session[E, S], attempt: Attempt[Session[E, S]]) -> Operation[Applied]:
    operation = _resolve(session, attempt)
    if session.durability == PRIMARY:
        return operation
    return durably(session, operation, session.durability, [attempt.batch.run_id])


def _resolve(session: Session[E, S], attempt: Attempt[Session[E, S]]) -> Operation[Applied]:
    """What became of an attempt, which is sent again unless that is known; it raises what refuses it."""
    batch = attempt.batch
    if attempt.outcome is None:
        yield from resolve_unanswered(session, [batch.run_id])
    outcome = attempt.outcome
    if outcome is None:
        raise TooOld(
            f"an append to run {batch.run_id!r} got no reply, and the run was forgotten or deleted since, or this"
            " is a forked process: whether it was applied can no longer be told; read the end of the run"
        )
    session.in_flight.take_outcome(batch)
    if session.recent is not None and isinstance(outcome, AcknowledgedWritesLost | HistoryDiverged):
        return (yield from deliver_one(session, batch))  # which puts back what was lost
    if isinstance(outcome, StoreUnavailable) and not outcome.is_final:
        return (yield from deliver_one(session, batch))  # the server was full then: it was not applied
    if isinstance(outcome, RunstreamError):
        raise outcome
    return outcome


def _applied(
    session: Session[E, S], batches: Sequence[Batch], outcomes: list[Outcome]
) -> Operation[list[Applied]]:
    applied = []
    for index, batch in enumerate(batches):
        outcome, recent = outcomes[index], session.recent
        if recent is not None and isinstance(outcome, AcknowledgedWritesLost | HistoryDiverged):
            outcome = outcomes[index] = yield from _resend(session, recent, batch, outcome)
        if isinstance(outcome, RunstreamError):
            raise outcome
        applied.append(outcome)
    return applied


def _resend(
    session: Session[E, S], recent: RecentAppends, batch: Batch, loss: AcknowledgedWritesLost | HistoryDiverged
) -> Operation[Outcome]:
    """Put back what this store appended and the server lost; then send the batch that found the loss.

    Gives the loss itself where that does not restore everything: where this store has seen events of others
    that are lost, or appended more than it holds.
    """
    run_id = batch.run_id
    yield from _begin(recent, run_id)
    try:
        yield from _resolve_resent(session, recent, run_id)
        seen, held = session.seen.get(run_id), recent.get(run_id)
        present = yield from _count_present(session, run_id, held)
        if seen is None or not held or present is None:
            return loss
        is_complete = seen.cursor == held[-1][0]
        if present < len(held):
            after = held[present - 1][0].offset if present else 0
            is_complete = (
                is_complete
                and (present > 0 or recent.is_complete(run_id))
                and not recent.has_read_others(run_id, after, (cursor.offset for cursor, _ in held[present:]))
            )
            recent.keep_only(run_id, held[:present])
            recent.mark_lost(run_id, held[present:], loss)
            # coverage of the history that is gone does not hold for this one
            session.forget_history(run_id)
    finally:
        recent.end_resend(run_id)
    yield from _put_back(session, recent, batch, known_lost=present < len(held))
    if not is_complete:
        return loss
    if batch.snapshots:
        batch = batch._replace(snapshots=[replace(write, covers=Covered()) for write in batch.snapshots])
    (outcome,) = yield from send(session, [batch])
    return outcome


def _put_back(
    session: Session[E, S], recent: RecentAppends, batch: Batch, *, known_lost: bool = False
) -> Operation[None]:
    """Append the lost events of the batch's run again, except those that another's lease keeps out for now.

    Where it can no longer be told whether they are there again, the loss is raised, until the run is forgotten.

    Args:
        session: The session.
        recent: Its last appends.
        batch: The batch.
        known_lost: What was lost last was just found not to be there.
    """
    run_id, grant = batch.run_id, batch.grant
    yield from _begin(recent, run_id)
    try:
        yield from _resolve_resent(session, recent, run_id)
        lost = recent.lost(run_id)
        if not lost:
            return
        former = recent.former(run_id)
        yield from _take_up_again(session, recent, run_id, former[:-1] if known_lost else former)
        yield from _withdraw_late(session, recent, run_id)
        lost = recent.lost(run_id)
        portions = [lost] if lost else []
        if grant is not None and grant.lane_id is not None:
            portions = _by_lane(lost)
        while portions:
            portion = portions.pop(0)
            lanes = {event.lane_id for event in portion}
            carried = grant if grant is not None and (grant.lane_id is None or {grant.lane_id} == lanes) else None
            is_keyed = any(event.key is not None for event in portion)
            again = batch_of(run_id, portion, is_keyed=is_keyed, grant=carried)
            recent.mark_sent(run_id, again)
            (outcome,) = yield from send(session, [again], checked=False)
            _note_resent(recent, again, outcome)
            if isinstance(outcome, RunstreamError) and not isinstance(outcome, LeaseHeld):
                raise outcome
            if isinstance(outcome, LeaseHeld) and len(lanes) > 1:
                portions += _by_lane(portion)
    finally:
        recent.end_resend(run_id)


def _take_up_again(
    session: Session[E, S], recent: RecentAppends, run_id: str, losses: Sequence[Sequence[Written]]
) -> Operation[None]:
    """Find which of the lost events are where they once were, as a person has let the run have that history again.

    Raises what says that they were lost where that cannot be told.
    """
    for loss in losses:
        lost = set(map(id, recent.lost(run_id)))  # less those that were found where they were before another loss
        former = [one for one in loss if id(one[1]) in lost]
        if not former:
            continue
        count = yield from _count_present(session, run_id, former)
        if count is None and not (yield from _is_there_still(session, run_id, recent.last_since_loss(run_id))):
            raise recent.loss_of(run_id)
        if count:
            keys = session.keys.run(run_id)
            (meta,) = yield Exchange([head_query(keys.meta)])
            recent.add(run_id, parse_head(keys, meta).creation, former[:count])
            recent.mark_answered(run_id, [event for _, event in former[:count]])


def _withdraw_late(session: Session[E, S], recent: RecentAppends, run_id: str) -> Operation[None]:
    """See to it that no late request brings lost events back, too; one that has come by now has put back its own.

    The server has lost that it had applied their batches.
    """
    late = recent.late(run_id)
    if not late:
        return
    calls = [revoke_call(session.keys, run_id, attempt.sending) for attempt in late]
    replies = yield Exchange(calls, permissive=True)
    recent.drop_late(run_id, late)
    for attempt, reply in zip(late, replies, strict=True):
        if isinstance(reply, bytes):
            yield from outcome_of(attempt, reply)
            recent.mark_answered(run_id, attempt.batch.events)


def _is_there_still(session: Session[E, S], run_id: str, cursor: Cursor | None) -> Operation[bool]:
    """Whether the run has this cursor for certain."""
    if cursor is None:
        return False
    keys = session.keys.run(run_id)
    meta, entry = yield Exchange([head_query(keys.meta), _entry_at(keys, cursor)], atomic=True)
    return _is_at(cursor, entry) or parse_head(keys, meta).mark == cursor


def _resolve_resent(session: Session[E, S], recent: RecentAppends, run_id: str) -> Operation[None]:
    """Find out what became of lost events that were sent again without a reply.

    The next ones may be sent in other batches: by lane or at once, or with more that was lost. As such, what is
    there by now would be appended another time.
    """
    again = recent.unanswered(run_id)
    if again is not None:
        yield from resolve_unanswered(session, [run_id])
        _note_resent(recent, again, session.in_flight.take_outcome(again))


def _note_resent(recent: RecentAppends, again: Batch, outcome: Outcome | None) -> None:
    """Note what became of lost events that were sent again; None: they were not applied."""
    if isinstance(outcome, TooOld):
        raise recent.loss_of(again.run_id)
    recent.mark_answered(again.run_id, again.events if isinstance(outcome, Applied) else ())


def _by_lane(events: Sequence[EncodedEvent]) -> list[Sequence[EncodedEvent]]:
    lanes: dict[str, list[EncodedEvent]] = {}
    for event in events:
        lanes.setdefault(event.lane_id, []).append(event)
    return list(lanes.values())


def _begin(recent: RecentAppends, run_id: str) -> Operation[None]:
    while not recent.begin_resend(run_id):
        yield Pause(waiting_seconds())  # another thread or task resends


def _count_present(session: Session[E, S], run_id: str, held: Sequence[Written]) -> Operation[int | None]:
    """How many of these events the run still has, counted from the first; None if that cannot be known any more.

    The chain at an event's offset proves all before it, so one event that is there proves the others. What has
    been trimmed, and has none after it, can only be proven by the archived mark.
    """
    keys = session.keys.run(run_id)
    queries = [head_query(keys.meta), (b"XRANGE", keys.events, "-", "+", b"COUNT", 1)]
    count = 0
    while True:
        asked = range(max(count - 1, 0), min(count + 1, len(held)))
        entries = [_entry_at(keys, held[index][0]) for index in asked]
        meta, first, *found = yield Exchange([*queries, *entries], atomic=True)
        head = parse_head(keys, meta)
        first_hot = parse_cursor(first[0][0]).offset if first else head.last.offset + 1
        trimmed = sum(cursor.offset < first_hot for cursor, _ in held)
        # what a worker trims in the midst of a search looks lost to it, so its result is asked for at one moment
        if count >= trimmed and all(
            _is_at(held[index][0], entry) == (index < count)
            for index, entry in zip(asked, found, strict=True)
            if index >= trimmed
        ):
            break
        count = yield from _search(keys, held, trimmed)
    if count > trimmed or trimmed == 0 or not is_there(meta):
        return count if is_there(meta) else 0
    return trimmed if head.mark == held[trimmed - 1][0] else None


def _search(keys: RunKeys, held: Sequence[Written], trimmed: int) -> Operation[int]:
    """How many of these events seem to be there, if so many have been trimmed."""
    low, high = trimmed, len(held)
    while low < high:
        middle = (low + high) // 2
        cursor = held[middle][0]
        (entry,) = yield Exchange([_entry_at(keys, cursor)])
        if _is_at(cursor, entry):
            low = middle + 1
        else:
            high = middle
    return low


def _entry_at(keys: RunKeys, cursor: Cursor) -> Command:
    return (b"XRANGE", keys.events, str(cursor.offset), str(cursor.offset))


def _is_at(cursor: Cursor, found: Sequence[Sequence[Any]]) -> bool:
    return bool(found) and parse_cursor(found[0][0]) == cursor
