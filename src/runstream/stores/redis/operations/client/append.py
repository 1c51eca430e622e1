"""Append events and save snapshots: the operations that send the append script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from runstream.codec.encoded_event import EncodedEvent
from runstream.codec.left_out import LeftOut
from runstream.codec.snapshot_fields import PackedState, pack_state
from runstream.model.identifiers import check_name, check_run_id, event_run_id, random_token
from runstream.model.protocols import Leased
from runstream.model.results import E, S, Snapshot
from runstream.model.tags import check_tags
from runstream.operations.arguments import AppendOptions, check_count, grant_of
from runstream.operations.coverage import Covered
from runstream.operations.messages import offset_conflict
from runstream.operations.operation import Exchange, Operation
from runstream.stores.redis.append_batch import Batch, SnapshotWrite
from runstream.stores.redis.append_result import Applied
from runstream.stores.redis.made_change import MadeChange
from runstream.stores.redis.operations.client.append_fast_path import (
    append_event,
    append_saving,
    is_plain_append,
)
from runstream.stores.redis.operations.client.resend_lost import deliver, deliver_one
from runstream.stores.redis.operations.client.revoke import LARGE_BYTES
from runstream.stores.redis.operations.client.run_head import checked_head, head_query
from runstream.stores.redis.operations.client.send import batch_of, resolve_unanswered
from runstream.stores.redis.session.session import Session

__all__ = ["Base", "append", "save_event", "save_events", "save_snapshot", "with_snapshot"]


def save_event(session: Session[E, S], event: E) -> Operation[Applied | list[Applied]]:
    """Append one event to the run that it names."""
    run_id = event_run_id(event)
    encoded = session.codec.encode_event(run_id, event)
    if is_plain_append(session, encoded):
        return append_event(session, run_id, encoded)
    return deliver(session, [batch_of(run_id, (encoded,))])


def save_events(session: Session[E, S], groups: Mapping[str, Sequence[E]]) -> Operation[list[Applied]]:
    """Append the events of each run: each run's in one atomic step, all in one round trip. The result of each."""
    batches = [batch_of(run_id, session.codec.encode_events(run_id, group)) for run_id, group in groups.items()]
    return (yield from deliver(session, batches)) if batches else []


def append(
    session: Session[E, S],
    run_id: str,
    events: Iterable[E],
    options: AppendOptions[S],
) -> Operation[Applied]:
    """Append events, with snapshots and changes of tags if there are any, in one atomic step."""
    expected_offset, keys, lease = options.expected_offset, options.keys, options.lease
    states, ended = options.states, options.ended
    check_count("expected_offset", expected_offset)
    tags = check_tags(options.tags)
    encoded = session.codec.encode_events(run_id, events, keys)
    if len(encoded) == 1 and expected_offset is None and lease is None and not ended and not tags:
        if keys is None and not states and is_plain_append(session, encoded[0]):
            return (yield from append_event(session, run_id, encoded[0], options.sender))
        if (saving := _append_saving(session, run_id, encoded[0], options, states)) is not None:
            return (yield from saving)
    batch = batch_of(
        run_id,
        encoded,
        is_keyed=keys is not None and bool(encoded),
        expected_offset=expected_offset,
        grant=grant_of(run_id, lease),
        sender=options.sender,
    )._replace(tags=tags)
    if states:
        # an unanswered snapshot of its own may be the one that a new one is made from
        yield from resolve_unanswered(session, [run_id])
        for lane_id, state in states.items():
            base = _own_base(session, run_id, lane_id, compare=True)
            batch = with_snapshot(session, batch, state, lane_id, base, options.left_out_of(lane_id))
    elif not encoded and not ended and not tags:
        return (yield from _append_nothing(session, run_id, expected_offset))
    if ended:
        batch = batch._replace(end_lanes=ended)
    if options.status:
        batch = batch._replace(status=options.status)
    return (yield from deliver_one(session, batch))


def _append_saving(
    session: Session[E, S],
    run_id: str,
    event: EncodedEvent,
    options: AppendOptions[S],
    states: Mapping[str | None, S],
) -> Operation[Applied] | None:
    """Append an event with a key, and save a state of its lane, the fast way; None where that does not fit."""
    lane_id = event.lane_id
    if event.key is None or options.status or list(states) != [lane_id] or not is_plain_append(session, event):
        return None
    base = _own_base(session, run_id, lane_id, compare=True)
    write, fields = _write_of(session, run_id, states[lane_id], lane_id, base, options.left_out_of(lane_id))
    if len(event.record) + sum(map(len, write.state.fields.values())) >= LARGE_BYTES:
        return None
    session_id = event.session_id or fields.get("session_id", "")
    return append_saving(session, run_id, event, write, session_id, options.sender)


def save_snapshot(
    session: Session[E, S], run_id: str, state: S, lane_id: str | None, lease: Leased | None
) -> Operation[None]:
    """Replace the snapshot of the run, or of a lane, whoever saved the one before."""
    check_run_id(run_id)
    base = _own_base(session, run_id, lane_id, compare=False)
    batch = batch_of(run_id, (), grant=grant_of(run_id, lease))
    yield from deliver_one(session, with_snapshot(session, batch, state, lane_id, base))


class Base(NamedTuple):
    """The snapshot that a new one is made from, by token and content, and what the new one will cover."""

    token: str
    revision: int
    packed: PackedState | None
    covers: Covered
    compare: bool
    snapshot: Snapshot[Any] | None = None
    changes: bool = False
    made: MadeChange | None = None


def _own_base(session: Session[E, S], run_id: str, lane_id: str | None, *, compare: bool) -> Base:
    """The snapshot that this store saved or loaded last, as the base of a state that its writer made from it."""
    token, revision, packed = session.snapshots.get(run_id, lane_id)
    return Base(token, revision, packed, session.coverage.covered(run_id, lane_id), compare)


def with_snapshot(
    session: Session[E, S],
    batch: Batch,
    state: S,
    lane_id: str | None,
    base: Base,
    left_out: LeftOut | None = None,
) -> Batch:
    """The batch with one more state to be saved in the same step."""
    write, fields = _write_of(session, batch.run_id, state, lane_id, base, left_out)
    status = batch.status
    if lane_id is None:  # a lane that has finished has not ended the run
        status = session.codec.status_of(fields) or status
    session_id = batch.session_id or fields.get("session_id", "")
    return batch._replace(session_id=session_id, status=status, snapshots=(*batch.snapshots, write))


def _write_of(
    session: Session[E, S], run_id: str, state: S, lane_id: str | None, base: Base, left_out: LeftOut | None
) -> tuple[SnapshotWrite, dict[str, Any]]:
    """A state to save, and its fields."""
    if lane_id is not None:
        check_name("lane_id", lane_id)
    fields = session.codec.snapshot_fields(run_id, state, left_out)
    write = SnapshotWrite(
        lane_id,
        pack_state(session.codec.packer, fields, base.packed),
        random_token(),
        covers=base.covers,
        known_token=base.token,
        known_revision=base.revision,
        known_state=base.packed,
        compare=base.compare,
        changes=base.changes,
        made=base.made,
    )
    return write, fields


def _append_nothing(session: Session[E, S], run_id: str, expected_offset: int | None) -> Operation[Applied]:
    """Check where the run ends, and write nothing: an append of no events creates no run."""
    keys = session.keys.run(run_id)
    (meta,) = yield Exchange([head_query(keys.meta)])
    last = (yield from checked_head(keys, meta)).last
    offset = last.offset
    if expected_offset is not None and expected_offset != offset:
        raise offset_conflict(run_id, expected_offset, offset)
    encoded = str(last).encode()
    return Applied((), encoded, encoded)
