"""The lanes of what a fork shares with those that it comes from: where each was when the run was forked."""

from __future__ import annotations

from collections.abc import Collection

from runstream.model.results import E, Recorded, S
from runstream.model.run_head import RunHead
from runstream.operations.arguments import ReadQuery
from runstream.operations.lineage import Segment
from runstream.operations.operation import Exchange, Operation, collect
from runstream.stores.redis.damage import parsing
from runstream.stores.redis.operations.client.archived_errors import retired_away
from runstream.stores.redis.operations.client.lineage import ancestry_here, shared_archived
from runstream.stores.redis.operations.client.read import read
from runstream.stores.redis.operations.client.run_head import (
    has_retired_events,
    head_query,
    parse_head,
    retired_of,
)
from runstream.stores.redis.operations.worker.hot_run import Lasts, lane_marks
from runstream.stores.redis.replies import parse_map
from runstream.stores.redis.session.session import Session

__all__ = ["last_seq_shared", "shared_lanes"]

_FIRST_PAGE, _PAGE = 64, 1000
"""How many events are read at first, as a lane that has gone on is mostly found near, and at most."""


def last_seq_shared(session: Session[E, S], run_id: str, head: RunHead, lane_id: str) -> Operation[int]:
    """The seq of a lane's last event in what a fork shares, 0 for a lane that has none there."""
    for segment in reversed((yield from ancestry_here(session, run_id, head))):
        keys = session.keys.run(segment.run_id)
        queries = [(b"HGET", keys.meta, f"lane:{lane_id}"), head_query(keys.meta)]
        mark, meta = yield Exchange(queries, atomic=True)
        ancestor = parse_head(keys, meta)
        if mark is None and has_retired_events(ancestor, retired_of(meta)):
            error = yield from retired_away(session, segment.run_id, lane_id)
            raise shared_archived(run_id, error, head.start.offset + 1)
        with parsing(keys):
            marks = {} if mark is None else lane_marks({f"lane:{lane_id}".encode(): mark})
        found = yield from _upto(session, segment, marks)
        if lane_id in found:
            return found[lane_id][1]
    return 0


def shared_lanes(
    session: Session[E, S], run_id: str, head: RunHead, known: Collection[str]
) -> Operation[tuple[Lasts, bool]]:
    """The lanes of what a fork shares, but those that are known; and whether these are all of them.

    Where lanes have left Redis, those of what comes before are not told: they may have gone on there.
    """
    lasts = Lasts()
    for segment in reversed((yield from ancestry_here(session, run_id, head))):
        keys = session.keys.run(segment.run_id)
        (reply,) = yield Exchange([(b"HGETALL", keys.meta)])
        meta = parse_map(reply)
        with parsing(keys):
            marks = lane_marks(meta)
        missing = {lane: last for lane, last in marks.items() if lane not in known and lane not in lasts}
        lasts |= yield from _upto(session, segment, missing)
        if {b"retired", b"ended"} & meta.keys():
            return lasts, False
    return lasts, True


def _upto(session: Session[E, S], segment: Segment, marks: Lasts) -> Operation[Lasts]:
    """The last events of lanes as they were where a segment ends; nothing of a lane that had none in it.

    Args:
        session: The session.
        segment: The segment.
        marks: Their last events by now: of a lane that has gone on since, the run is read backwards.
    """
    end = segment.end.offset if segment.end is not None else 0
    found = {lane: last for lane, last in marks.items() if last[0] <= end}
    open_lanes, high, page = marks.keys() - found.keys(), end, _FIRST_PAGE
    while open_lanes and high > segment.after:
        low, page = max(segment.after, high - page), min(2 * page, _PAGE)
        query = ReadQuery(low, before=high + 1, on_corrupt="skip")
        items: list[Recorded[E]] = yield from collect(read(session, segment.run_id, query))
        for item in reversed(items):
            lane = getattr(item.event, "lane_id", "main")
            if lane in open_lanes:
                open_lanes = open_lanes - {lane}
                found[lane] = item.offset, getattr(item.event, "seq", 0)
        high = low
    return found
