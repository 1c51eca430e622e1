"""Deliver batches: send them, and, in a store that resends what is lost, put that back first.

After a failover a server can lack what it acknowledged. A store with ``resend_lost`` holds the events that it
appended last (:mod:`~runstream.stores.redis.recent`). Where an append finds the history behind them or
another one, those that are not there any more are appended again: once, in order, as new offsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runstream.codec.shapes import EncodedEvent
from runstream.model.errors import AcknowledgedWritesLost, HistoryDiverged, RunstreamError
from runstream.model.values import E, S
from runstream.stores.coverage import Covered
from runstream.stores.filters import check_leased
from runstream.stores.redis.context import Context
from runstream.stores.redis.exchange import Exchange, Operation
from runstream.stores.redis.operations.reading import standing_of, standing_query
from runstream.stores.redis.operations.sending import batch_of, send
from runstream.stores.redis.outcomes import Applied, Outcome
from runstream.stores.redis.recent import RecentBook, Written
from runstream.stores.redis.replies import place
from runstream.stores.redis.scripts import Batch

__all__ = ["deliver"]


def deliver(context: Context[E, S], batches: Sequence[Batch]) -> Operation[list[Applied]]:
    """Send batches of different runs in one round trip. Raises what the first refused one was refused for."""
    if context.require_lease:
        for batch in batches:
            lane_id = None if batch.snapshot is None else batch.snapshot.lane_id
            check_leased(batch.run_id, batch.lanes if lane_id is None else (*batch.lanes, lane_id), batch.grant)
    outcomes = yield from send(context, batches)
    applied = []
    for index, batch in enumerate(batches):
        outcome, recent = outcomes[index], context.recent
        if recent is not None and isinstance(outcome, AcknowledgedWritesLost | HistoryDiverged):
            outcome = yield from _resend(context, recent, batch, outcome)
        if isinstance(outcome, RunstreamError):
            raise outcome
        if recent is not None and batch.events:
            recent.put(batch.run_id, _written(batch.events, outcome))
        applied.append(outcome)
    return applied


def _written(events: Sequence[EncodedEvent], applied: Applied) -> list[Written]:
    _, cursors, known = applied.placement
    return [pair for index, pair in enumerate(zip(cursors, events, strict=True)) if index not in known]


def _resend(
    context: Context[E, S], recent: RecentBook, batch: Batch, loss: AcknowledgedWritesLost | HistoryDiverged
) -> Operation[Outcome]:
    """Put back what this store appended and the server lost; then send the batch that found out.

    Gives the loss itself where that does not make up for it: where this store has seen events of others
    that are lost, or appended more than it holds.
    """
    run_id = batch.run_id
    while not recent.begin(run_id):
        yield Exchange([standing_query(context.keys.run(run_id).meta)])  # another thread or task is at it
    try:
        seen, held = context.seen.get(run_id), recent.get(run_id)
        present = yield from _count_present(context, run_id, held)
        if seen is None or not held or present is None:
            return loss
        if present < len(held):
            lost_events = [event for _, event in held[present:]]
            (outcome,) = yield from send(
                context, [batch_of(run_id, lost_events, grant=batch.grant)], checked=False
            )
            if isinstance(outcome, RunstreamError):
                return outcome
            is_complete = present > 0 or recent.is_complete(run_id)
            # what is known of the history that is gone says nothing of this one
            context.forget(run_id)
            context.seen.note(run_id, outcome.start, outcome.last)
            recent.keep(run_id, [*held[:present], *_written(lost_events, outcome)])
            if not is_complete:
                return loss
        if seen.cursor != held[-1][0]:
            return loss
    finally:
        recent.end(run_id)
    if batch.snapshot is not None:
        batch = batch._replace(snapshot=replace(batch.snapshot, covers=Covered()))
    (outcome,) = yield from send(context, [batch])
    return outcome


def _count_present(context: Context[E, S], run_id: str, held: Sequence[Written]) -> Operation[int | None]:
    """How many of these events the run still has, the first ones; None if that cannot be told any more.

    One event that is there proves all before it: its place has their chain. What has been trimmed, and has
    none after it, can only be told from the archived mark.
    """
    keys = context.keys.run(run_id)
    queries = [standing_query(keys.meta), (b"XRANGE", keys.events, "-", "+", b"COUNT", 1)]
    meta, first = yield Exchange(queries, atomic=True)
    standing = standing_of(meta)
    first_hot = place(first[0][0]).offset if first else standing.last.offset + 1
    trimmed = sum(cursor.offset < first_hot for cursor, _ in held)
    low, high = trimmed, len(held)
    while low < high:
        middle = (low + high) // 2
        cursor = held[middle][0]
        (found,) = yield Exchange([(b"XRANGE", keys.events, str(cursor.offset), str(cursor.offset))])
        if found and place(found[0][0]) == cursor:
            low = middle + 1
        else:
            high = middle
    if low > trimmed or trimmed == 0 or not standing.exists:
        return low if standing.exists else 0
    return trimmed if standing.mark == held[trimmed - 1][0] else None
