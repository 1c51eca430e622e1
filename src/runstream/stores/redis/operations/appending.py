"""Append events and save snapshots: the operations that send the append script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from runstream.codec.shapes import EncodedEvent, group_by_run
from runstream.codec.snapshot import pack_state
from runstream.model.errors import ConfigurationError
from runstream.model.names import check_name, check_run_id
from runstream.model.state import status_after
from runstream.model.values import Appended, Cursor, E, S
from runstream.stores.filters import check_count
from runstream.stores.redis.context import Context, random_chain, random_token
from runstream.stores.redis.exchange import Exchange, Operation
from runstream.stores.redis.replies import place
from runstream.stores.redis.scripts import Batch, SnapshotWrite, append_call
from runstream.stores.refusals import offset_conflict, snapshot_conflict

__all__ = ["append", "save_event", "save_events", "save_snapshot"]


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
        batch = _with_snapshot(context, run_id, encoded, snapshot, lane_id, expected_offset, compare=True)
    elif encoded:
        batch = _batch(run_id, encoded, expected_offset=expected_offset)
    else:
        return (yield from _append_nothing(context, run_id, expected_offset))
    (appended,) = yield from _send(context, [batch])
    return appended


def save_snapshot(context: Context[E, S], run_id: str, state: S, *, lane_id: str | None = None) -> Operation[None]:
    """Replace the snapshot of the run, or of a lane, whoever saved the one before."""
    check_run_id(run_id)
    yield from _send(context, [_with_snapshot(context, run_id, [], state, lane_id, None, compare=False)])


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
    *,
    compare: bool,
) -> Batch:
    if lane_id is not None:
        check_name("lane_id", lane_id)
    fields = context.codec.state_fields(state)
    known_token, known_state = context.snapshots.get(run_id, lane_id)
    plain = _batch(run_id, events)
    status = plain.status
    if lane_id is None:  # a lane that has finished has not ended the run
        status = context.codec.status_of(fields) or status
    write = SnapshotWrite(
        lane_id,
        pack_state(context.codec.packer, fields, known_state),
        random_token(),
        covers=context.coverage.covered(run_id, lane_id),
        known_token=known_token,
        known_state=known_state,
        compare=compare,
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
    """Send batches of different runs in one round trip; all of them under one producer's number."""
    keys = context.keys
    producer = context.producers.take()
    first_chain = random_chain()
    replies = yield Exchange([append_call(keys, batch, producer, first_chain) for batch in batches])
    for index, batch in enumerate(batches):
        if replies[index][0] == b"whole" and batch.snapshot is not None:
            # somebody else saved a snapshot since: there is nothing to make a difference from
            batch.snapshot.known_state = None
            (replies[index],) = yield Exchange([append_call(keys, batch, producer, first_chain)])
    context.producers.give_back(producer)
    return [_appended(context, batch, reply) for batch, reply in zip(batches, replies, strict=True)]


def _appended(context: Context[E, S], batch: Batch, reply: Sequence[bytes]) -> Appended:
    """What the append script's reply says; see its header."""
    outcome, *facts = reply
    if outcome == b"partitions":
        raise ConfigurationError(
            f"namespace {context.namespace!r} has {int(facts[0])} partitions, not {len(context.keys.partitions)}:"
            " it was created anew since this store was opened; open the store again"
        )
    if outcome == b"conflict":
        raise offset_conflict(batch.run_id, batch.expected_offset or 0, int(facts[0]))
    if outcome == b"snapshot":
        lane_id = batch.snapshot.lane_id if batch.snapshot is not None else None
        raise snapshot_conflict(batch.run_id, context.snapshots.revision(batch.run_id, lane_id), int(facts[0]))
    first, last = int(facts[0]), place(facts[1])
    start = place(facts[4])
    befores = [int(before) for before in facts[5:]]
    lanes = {
        lane: (before, first - 1 + index)
        for (lane, index), before in zip(batch.lanes().items(), befores, strict=True)
    }
    context.coverage.appended(batch.run_id, start, first - 1, last.offset, lanes)
    if batch.snapshot is not None:
        write = batch.snapshot
        context.snapshots.put(batch.run_id, write.lane_id, write.token, int(facts[2]), write.state)
    return Appended(first, last.offset, facts[1].decode())
