"""Recover a run or a lane: load what a writer goes on from."""

from __future__ import annotations

from collections.abc import Sequence

from runstream.model.errors import EventsArchived
from runstream.model.identifiers import check_name, check_run_id
from runstream.model.results import E, Recorded, Recovery, S
from runstream.model.run_head import RunHead
from runstream.operations.operation import Exchange, Operation, Stream, collect
from runstream.stores.redis.append_batch import snapshot_field
from runstream.stores.redis.damage import parsing
from runstream.stores.redis.operations.client.archived_errors import retired_away
from runstream.stores.redis.operations.client.border import Border
from runstream.stores.redis.operations.client.read import read_shared
from runstream.stores.redis.operations.client.reader import Page
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
from runstream.stores.redis.operations.client.span_reader import SpanReader, Spans
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
    keys, beside = session.keys.run(run_id), [snapshot_field(lane_id)]
    if lane_id is not None:
        check_name("lane_id", lane_id)
        beside += [f"since:{lane_id}", f"lane:{lane_id}", f"gaps:{lane_id}"]
    queries = [(b"HGETALL", keys.snapshot(lane_id)), head_query(keys.meta, lane_id, beside)]
    yield from resolve_unanswered(session, [run_id])  # an unanswered append may be part of what is recovered
    revision = -1
    for _ in range(_RECOVER_ATTEMPTS):
        reader = SpanReader(session, run_id, "raise", None, lane_id=lane_id, border=border)
        head, tail, (saved, meta) = yield from reader.open_beside(queries)
        meta, (noted, *of_lane) = meta[: -len(beside)], meta[-len(beside) :]
        snapshot = decode_snapshot(session, run_id, lane_id, parse_map(saved), noted)
        if snapshot is None:
            is_unknown_lane = lane_id is not None and of_lane[0] is None
            yield from _without_snapshot(session, run_id, lane_id, meta, is_unknown_lane=is_unknown_lane)
        covered = (head.base or head.run_start).offset if snapshot is None else snapshot.offset
        spans = [(max(covered, head.before_first.offset), head.last.offset)]
        if lane_id is not None:
            # a lane needs only its own events: those of others may have left Redis
            with parsing(keys):
                since, mark, gaps = of_lane
                spans = _spans(since, mark, gaps, covered, head.last.offset)
        try:
            recorded: list[Recorded[E]] = []
            if covered < head.start.offset:
                recorded += yield from collect(read_shared(session, run_id, head, covered, lane_id))
            recorded += yield from collect(_events(reader, head, tail, spans))
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


def _events(reader: SpanReader, head: RunHead, tail: Page, spans: Spans) -> Stream:
    """The events in spans of a run that was opened with its last few entries."""
    end = tail[0][0].offset - 1 if tail else head.last.offset
    yield from reader.spans(head, [(low, min(high, end)) for low, high in spans if low < end])
    for low, high in spans:
        if wanted := [item for item in tail if low < item[0].offset <= high]:
            reader.note_read(head, wanted[-1][0])
            yield from reader.give(wanted)


def _spans(
    since: bytes | None, mark: bytes | None, gaps: bytes | None, covered: int, last: int
) -> list[tuple[int, int]]:
    """Where the events of a lane lie that no snapshot of it covers, by what meta notes of the lane.

    Args:
        since: Its field ``since``: the first of them.
        mark: Its field ``lane``, with the last of them.
        gaps: Its field ``gaps``: between which of its events there are many of others.
        covered: Up to where its snapshot covers the run.
        last: Where the run ends.

    Returns:
        Spans: all of the events are after the first offset of one, up to its second.
    """
    if since is None:
        return []
    low, high = max(covered, int(since) - 1), int(mark.split()[0]) if mark else last
    spans = []
    for gap in gaps.split() if gaps else ():
        before, after = map(int, gap.split(b"-"))
        if low < before < after <= high:
            spans.append((low, before))
            low = after - 1
    return [*spans, (low, high)] if low < high else spans


def _without_snapshot(
    session: Session[E, S],
    run_id: str,
    lane_id: str | None,
    meta: Sequence[bytes | None],
    *,
    is_unknown_lane: bool,
) -> Operation[None]:
    """Raise EventsArchived if the snapshot was retired; otherwise note that there is none."""
    retired = retired_of(meta)
    if retired is not None and (
        retired.had_snapshot(lane_id)
        or (is_unknown_lane and has_retired_events(parse_head(session.keys.run(run_id), meta), retired))
    ):
        raise (yield from retired_away(session, run_id, lane_id))
    session.snapshots.drop(run_id, lane_id)


def mark_recovered(session: Session[E, S], run_id: str, offset: int, lane_id: str | None) -> Operation[None]:
    """Mark events up to an offset as known to this writer, so that its next snapshot covers them."""
    keys = session.keys.run(run_id)
    queries = [head_query(keys.meta, lane_id), (b"EXISTS", keys.snapshot(lane_id))]
    meta, has_snapshot = yield Exchange(queries, atomic=True)
    session.coverage.recovered(run_id, lane_id, parse_head(keys, meta).run_start, offset)
    retired = retired_of(meta)
    if retired is not None and not has_snapshot:
        session.snapshots.put(run_id, lane_id, retired.token(lane_id), 0, None)


def retired_token(session: Session[E, S], run_id: str, lane_id: str | None) -> Operation[str]:
    """The token that stands for a snapshot that was retired; '' if it is in Redis, or there never was one."""
    keys = session.keys.run(run_id)
    queries = [head_query(keys.meta, lane_id), (b"EXISTS", keys.snapshot(lane_id))]
    meta, has_snapshot = yield Exchange(queries, atomic=True)
    retired = retired_of(meta)
    return "" if retired is None or has_snapshot else retired.token(lane_id)


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
