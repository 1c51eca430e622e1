"""Recover a run or a lane: load what a writer goes on from."""

from __future__ import annotations

from runstream.model.errors import EventsArchived
from runstream.model.identifiers import check_name, check_run_id
from runstream.model.results import E, Recorded, Recovery, S
from runstream.model.run_head import RunHead, RunStart
from runstream.operations.operation import Exchange, Operation, collect
from runstream.stores.redis.append_batch import snapshot_field
from runstream.stores.redis.damage import parsing
from runstream.stores.redis.operations.client.archived_errors import retired_away
from runstream.stores.redis.operations.client.border import Border
from runstream.stores.redis.operations.client.read import read_shared
from runstream.stores.redis.operations.client.run_head import (
    checked_head,
    has_retired_events,
    head_query,
    is_there,
    parse_head,
    retired_of,
)
from runstream.stores.redis.operations.client.send import resolve_unanswered
from runstream.stores.redis.operations.client.shared_lanes import last_seq_shared
from runstream.stores.redis.operations.client.snapshots import decode_snapshot
from runstream.stores.redis.operations.client.span_reader import FirstPage, SpanReader, Spans
from runstream.stores.redis.replies import parse_map
from runstream.stores.redis.session.session import Session

__all__ = ["head_of", "last_seq", "mark_recovered", "recover", "retired_token"]

_RECOVER_ATTEMPTS = 10


def recover(
    session: Session[E, S], run_id: str, lane_id: str | None, border: Border | None = None
) -> Operation[Recovery[S, E]]:
    """The latest snapshot and the events after it, of the run or of one lane.

    Args:
        session: The writer's.
        run_id: The run.
        lane_id: The lane; None: the run itself.
        border: Where an archive ends that has what came before.

    Raises:
        RunElsewhere: The run does not pass that border.
    """
    check_run_id(run_id)
    fields = [snapshot_field(lane_id)]
    if lane_id is not None:
        check_name("lane_id", lane_id)
        fields.append(f"since:{lane_id}")
    yield from resolve_unanswered(session, [run_id])  # an unanswered append may be part of what is recovered
    revision = -1
    for _ in range(_RECOVER_ATTEMPTS):
        reader = SpanReader(session, run_id, "raise", None, lane_id=lane_id, border=border)
        head, saved, first = yield from reader.open_uncovered(lane_id, fields)
        noted, *since = reader.noted
        snapshot = decode_snapshot(session, run_id, lane_id, parse_map(saved), noted)
        if snapshot is None:
            if reader.retired is not None and (
                reader.retired.had_snapshot(lane_id)
                or (since == [None] and has_retired_events(head, reader.retired))
            ):
                raise (yield from retired_away(session, run_id, lane_id))
            session.snapshots.drop(run_id, lane_id)
        covered = (head.base or head.run_start).offset if snapshot is None else snapshot.offset
        try:
            recorded: list[Recorded[E]] = []
            if covered < head.start.offset:
                recorded += yield from collect(read_shared(session, run_id, head, covered, lane_id))
            if first is None:
                with parsing(session.keys.run(run_id)):
                    first = FirstPage([], _all_after(head, covered, *since), [])
            recorded += yield from collect(reader.begun(head, first))
        except EventsArchived:
            # trimmed between the two steps: that takes a newer snapshot, so start again from that one
            if snapshot is None or snapshot.revision == revision:
                raise
            revision = snapshot.revision
            continue
        session.coverage.recovered(run_id, lane_id, head.run_start, head.last.offset)
        if snapshot is None:
            return Recovery(None, covered, recorded)
        return Recovery(snapshot.state, covered, recorded, snapshot.stored)
    raise EventsArchived(
        f"run {run_id!r} is trimmed faster than it can be recovered from Redis; read its archive",
        run_id=run_id,
        first_hot=head.last.offset + 1,
    )


def _all_after(head: RunHead, covered: int, since: bytes | None = b"0") -> Spans:
    """Where the events lie that a snapshot does not cover, be they many of other lanes.

    Args:
        head: Where the run stands.
        covered: Up to where the snapshot covers it.
        since: Of a lane, meta's field ``since``: the first of its events that no snapshot of it covers.
    """
    low = max(covered, head.before_first.offset, int(since) - 1 if since else head.last.offset)
    return [(low, head.last.offset)] if low < head.last.offset else []


def mark_recovered(session: Session[E, S], run_id: str, offset: int, lane_id: str | None) -> Operation[None]:
    """Mark events up to an offset as known to this writer, so that its next snapshot covers them."""
    keys = session.keys.run(run_id)
    queries = [head_query(keys.meta, lane_id), (b"EXISTS", keys.snapshot(lane_id))]
    meta, has_snapshot = yield Exchange(queries, atomic=True)
    session.coverage.recovered(run_id, lane_id, parse_head(keys, meta).run_start, offset)
    retired = retired_of(meta)
    if retired is not None and not has_snapshot:
        session.snapshots.put(run_id, lane_id, retired.token(lane_id), 0, None)


def retired_token(session: Session[E, S], run_id: str, lane_id: str | None) -> Operation[tuple[str, RunStart]]:
    """The token that stands for a snapshot that was retired, and where the run begins.

    The token is '' if the snapshot is in Redis, or there never was one.
    """
    keys = session.keys.run(run_id)
    queries = [head_query(keys.meta, lane_id), (b"EXISTS", keys.snapshot(lane_id))]
    meta, has_snapshot = yield Exchange(queries, atomic=True)
    retired = retired_of(meta)
    token = "" if retired is None or has_snapshot else retired.token(lane_id)
    return token, parse_head(keys, meta).run_start


def head_of(session: Session[E, S], run_id: str) -> Operation[RunHead | None]:
    """Where the run stands, and what it comes from; None for a run that is not there."""
    check_run_id(run_id)
    keys = session.keys.run(run_id)
    (meta,) = yield Exchange([head_query(keys.meta)])
    head = yield from checked_head(keys, meta)
    return head if is_there(meta) else None


def last_seq(session: Session[E, S], run_id: str, lane_id: str) -> Operation[int]:
    """The seq of the lane's last event, 0 for a lane that has none."""
    check_run_id(run_id)
    check_name("lane_id", lane_id)
    yield from resolve_unanswered(session, [run_id])  # an unanswered append may have used a number
    keys = session.keys.run(run_id)
    queries = [(b"HGET", keys.meta, f"lane:{lane_id}"), head_query(keys.meta)]
    lane, meta = yield Exchange(queries, atomic=True)
    head = yield from checked_head(keys, meta)
    if not lane and has_retired_events(head, retired_of(meta)):
        raise (yield from retired_away(session, run_id, lane_id))  # a number that was used is not given again
    if not lane and head.fork_of is not None:
        return (yield from last_seq_shared(session, run_id, head, lane_id))
    with parsing(keys):
        return int(lane.partition(b" ")[2]) if lane else 0
