"""Append events and save snapshots: the operations that send the append script."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from runstream.codec.shapes import EncodedEvent, group_by_run
from runstream.codec.snapshot import PackedState, pack_state
from runstream.model.errors import (
    ConcurrencyConflict,
    ConfigurationError,
    EventsArchived,
    RunstreamError,
    StoreUnavailable,
)
from runstream.model.names import check_name, check_run_id
from runstream.model.state import status_after
from runstream.model.values import Appended, Cursor, E, S
from runstream.stores.coverage import Covered
from runstream.stores.filters import check_attempts, check_count
from runstream.stores.redis.context import Context, Producer, random_chain, random_token
from runstream.stores.redis.exchange import Exchange, Operation, Refusal
from runstream.stores.redis.operations.snapshots import decode_known
from runstream.stores.redis.replies import as_map, place
from runstream.stores.redis.scripts import Batch, Sending, SnapshotWrite, append_call
from runstream.stores.redis.unsettled import PRODUCER_WINDOW_SECONDS, Attempt, Reply
from runstream.stores.refusals import diverged, lost, offset_conflict, snapshot_conflict

__all__ = ["append", "save_event", "save_events", "save_snapshot", "settle", "update_state"]


def save_event(context: Context[E, S], event: E) -> Operation[None]:
    """Append one event to the run that it names."""
    run_id: Any = getattr(event, "run_id", None)
    yield from _send(context, [_batch(run_id, context.codec.encode_events(run_id, (event,)))])


def save_events(context: Context[E, S], events: Iterable[E]) -> Operation[None]:
    """Append events to the runs that they name: each run's in one atomic step, all in one round trip."""
    batches = [
        _batch(run_id, context.codec.encode_events(run_id, group))
        for run_id, group in group_by_run(events).items()
    ]
    if batches:
        yield from _send(context, batches)


def append(
    context: Context[E, S],
    run_id: str,
    events: Iterable[E],
    *,
    expected_offset: int | None = None,
    snapshot: S | None = None,
    lane_id: str | None = None,
) -> Operation[Appended]:
    """Append events, with a snapshot if there is one, in one atomic step."""
    check_count("expected_offset", expected_offset)
    encoded = context.codec.encode_events(run_id, events)
    if snapshot is not None:
        base = _own_base(context, run_id, lane_id, compare=True)
        batch = _with_snapshot(context, run_id, encoded, snapshot, lane_id, expected_offset, base)
    elif encoded:
        batch = _batch(run_id, encoded, expected_offset=expected_offset)
    else:
        return (yield from _append_nothing(context, run_id, expected_offset))
    (appended,) = yield from _send(context, [batch])
    return appended


def save_snapshot(context: Context[E, S], run_id: str, state: S, *, lane_id: str | None = None) -> Operation[None]:
    """Replace the snapshot of the run, or of a lane, whoever saved the one before."""
    check_run_id(run_id)
    base = _own_base(context, run_id, lane_id, compare=False)
    yield from _send(context, [_with_snapshot(context, run_id, [], state, lane_id, None, base)])


def update_state(
    context: Context[E, S], run_id: str, change: Callable[[S], S | None], *, attempts: int = 10
) -> Operation[S]:
    """Load the run's state, change it, and save it if nobody has saved another in between; else again."""
    check_run_id(run_id)
    check_attempts(attempts)
    keys = context.keys.run(run_id)
    queries = [(b"HGETALL", keys.snapshot(None)), (b"HGET", keys.meta, "start")]
    for left in range(attempts - 1, -1, -1):
        saved, start = yield Exchange(queries, atomic=True)
        base = _base(context, run_id, as_map(saved), start)
        state = context.codec.new_state(run_id) if base.state is None else base.state
        changed = change(state)
        state = state if changed is None else changed
        try:
            yield from _send(context, [_with_snapshot(context, run_id, [], state, None, None, base)])
        except ConcurrencyConflict:
            if left == 0:
                raise
        else:
            return state
    raise AssertionError("unreachable: the last attempt returns or raises")


class _Base(NamedTuple):
    """What a snapshot is made from: the one before, by token and content, and what it will cover."""

    token: str
    packed: PackedState | None
    covers: Covered
    compare: bool
    state: Any = None


def _base(context: Context[E, S], run_id: str, saved: dict[bytes, bytes], start: bytes | None) -> _Base:
    """What the saved snapshot is, for a change that is made to it and to nothing else.

    It covers what that one covers, whatever this store knows besides. It is what this call has loaded,
    not what another thread of this store has saved since.
    """
    known = decode_known(context, run_id, None, saved)
    if known is None or start is None:
        return _Base("", None, Covered(), compare=True)
    snapshot, token, packed = known
    return _Base(token, packed, Covered(snapshot.offset, place(start).chain), compare=True, state=snapshot.state)


def _own_base(context: Context[E, S], run_id: str, lane_id: str | None, *, compare: bool) -> _Base:
    """What this store saved or loaded last, for a state that its writer has gone on from."""
    token, packed = context.snapshots.get(run_id, lane_id)
    return _Base(token, packed, context.coverage.covered(run_id, lane_id), compare)


def _batch(run_id: str, events: Sequence[EncodedEvent], *, expected_offset: int | None = None) -> Batch:
    return Batch(
        run_id,
        events,
        session_id=next((event.session_id for event in events if event.session_id), ""),
        status=status_after(event.kind for event in events) or "",
        expected_offset=expected_offset,
    )


def _with_snapshot(
    context: Context[E, S],
    run_id: str,
    events: Sequence[EncodedEvent],
    state: S,
    lane_id: str | None,
    expected_offset: int | None,
    base: _Base,
) -> Batch:
    if lane_id is not None:
        check_name("lane_id", lane_id)
    fields = context.codec.state_fields(state)
    plain = _batch(run_id, events)
    status = plain.status
    if lane_id is None:  # a lane that has finished has not ended the run
        status = context.codec.status_of(fields) or status
    write = SnapshotWrite(
        lane_id,
        pack_state(context.codec.packer, fields, base.packed),
        random_token(),
        covers=base.covers,
        known_token=base.token,
        known_state=base.packed,
        compare=base.compare,
    )
    session_id = plain.session_id or fields.get("session_id", "")
    return Batch(run_id, events, session_id, status, expected_offset, write)


def _append_nothing(context: Context[E, S], run_id: str, expected_offset: int | None) -> Operation[Appended]:
    """Where the run stands: an append of nothing creates nothing."""
    ((start, last),) = yield Exchange([(b"HMGET", context.keys.run(run_id).meta, "start", "last")])
    cursor = place(last or start) if start else Cursor(0, 0)
    if expected_offset is not None and expected_offset != cursor.offset:
        raise offset_conflict(run_id, expected_offset, cursor.offset)
    return Appended(cursor.offset + 1, cursor.offset, str(cursor))


def _send(context: Context[E, S], batches: Sequence[Batch]) -> Operation[list[Appended]]:
    """Send batches of different runs in one round trip; what waits to be settled of these runs goes first."""
    kept: dict[str, Reply] = {}
    if context.unsettled:
        yield from settle(context, [batch.run_id for batch in batches])
        for batch in batches:
            if (reply := context.unsettled.claim(batch)) is not None:
                kept[batch.run_id] = reply
    fresh = [batch for batch in batches if batch.run_id not in kept]
    if fresh:
        producer = context.producers.take()
        replies = yield from _attempt(context, [_begin(context, batch, producer) for batch in fresh])
        context.producers.give_back(producer)
        kept.update(zip((batch.run_id for batch in fresh), replies, strict=True))
    return [_appended(context, batch, kept[batch.run_id]) for batch in batches]


def settle(context: Context[E, S], run_ids: Sequence[str]) -> Operation[None]:
    """Send again what got no reply in these runs, and keep the replies for callers that repeat it."""
    attempts = context.unsettled.take(run_ids)
    if attempts:
        replies = yield from _attempt(context, attempts)
        for attempt, reply in zip(attempts, replies, strict=True):
            context.unsettled.keep(attempt.batch, reply)


def _begin(context: Context[E, S], batch: Batch, producer: Producer) -> Attempt:
    sending = Sending(
        producer.name,
        producer.number,
        context.server_clock.now(),
        PRODUCER_WINDOW_SECONDS,
        random_chain(),
        context.seen.get(batch.run_id),
    )
    return Attempt(batch, append_call(context.keys, batch, sending), sending)


def _attempt(context: Context[E, S], attempts: Sequence[Attempt]) -> Operation[list[Reply]]:
    """One round trip, and another for what has to be put otherwise. What gets no reply waits to be settled."""
    waiting = list(attempts)
    try:
        replies: list[Any] = yield Exchange([attempt.call for attempt in attempts], tolerant=True)
        waiting.clear()
        for index, attempt in enumerate(attempts):
            if not _put_otherwise(context, attempt, replies[index]):
                continue
            waiting.append(attempt)
            (replies[index],) = yield Exchange([attempt.call], tolerant=True)
            waiting.clear()
    finally:
        # without a reply, be it for an error or because the caller was cancelled
        context.unsettled.put(waiting)
    return replies


def _put_otherwise(context: Context[E, S], attempt: Attempt, reply: Reply) -> bool:
    """Whether the script refused for what can be put otherwise; then the attempt's call is the other one."""
    if isinstance(reply, Refusal):
        return False
    if reply[0] == b"whole" and attempt.batch.snapshot is not None:
        # somebody else saved a snapshot since: there is nothing to make a difference from
        attempt.batch.snapshot.known_state = None
    elif reply[0] == b"stale" and not attempt.is_old:
        # the clocks differ, not the ages: what was refused was not applied, so it is as good as new
        context.server_clock.heard(int(reply[1]), reset=True)
        attempt.sending = attempt.sending._replace(sent_at=context.server_clock.now())
    else:
        return False
    attempt.call = append_call(context.keys, attempt.batch, attempt.sending)
    return True


def _refusal(context: Context[E, S], batch: Batch, outcome: bytes, facts: Sequence[bytes]) -> RunstreamError:
    """What the append script's reply says that is not 'ok'; see its header."""
    run_id, seen = batch.run_id, context.seen.get(batch.run_id)
    if outcome == b"conflict":
        return offset_conflict(run_id, batch.expected_offset or 0, int(facts[0]))
    if outcome == b"snapshot":
        lane_id = batch.snapshot.lane_id if batch.snapshot is not None else None
        return snapshot_conflict(run_id, context.snapshots.revision(run_id, lane_id), int(facts[0]))
    if outcome == b"archived":
        first_hot = int(facts[0]) + 1
        return EventsArchived(
            f"run {run_id!r}: this snapshot does not cover events that have left Redis for the archive (up to"
            f" offset {first_hot - 1}): nobody could recover from it, and nothing was written; recover the run or"
            " lane first, go on from what that gives, and save again",
            run_id=run_id,
            first_hot=first_hot,
        )
    if outcome == b"lost":
        return lost(run_id, int(facts[0]) if seen is None else seen.cursor.offset, int(facts[0]))
    if outcome == b"diverged" and seen is not None:
        return diverged(run_id, seen.cursor)
    if outcome == b"stale":
        return StoreUnavailable(
            f"an append to run {run_id!r} got no reply and is older than {PRODUCER_WINDOW_SECONDS} seconds:"
            " whether it was applied can no longer be told, and it was not sent again; read the end of the run"
        )
    return ConfigurationError(
        f"namespace {context.namespace!r} has {int(facts[0])} partitions, not {len(context.keys.partitions)}:"
        " it was created anew since this store was opened; open the store again"
    )


def _appended(context: Context[E, S], batch: Batch, reply: Reply) -> Appended:
    """What the append script's reply says; see its header."""
    if isinstance(reply, Refusal):
        raise reply.error
    outcome, *facts = reply
    if outcome != b"ok":
        raise _refusal(context, batch, outcome, facts)
    first, last = int(facts[0]), place(facts[1])
    start = place(facts[4])
    context.server_clock.heard(int(facts[5]))
    befores = [int(before) for before in facts[6:]]
    lanes = {
        lane: (before, first - 1 + index)
        for (lane, (_, index)), before in zip(batch.lanes().items(), befores, strict=True)
    }
    context.seen.note(batch.run_id, start, last)
    context.coverage.appended(batch.run_id, start, first - 1, last.offset, lanes)
    if batch.snapshot is not None:
        write = batch.snapshot
        context.snapshots.put(batch.run_id, write.lane_id, write.token, int(facts[2]), write.state)
    return Appended(first, last.offset, facts[1].decode())
