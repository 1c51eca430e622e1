"""List the lanes of a run, by what its meta notes of them."""

from __future__ import annotations

from collections.abc import Mapping

from runstream.model.clock import unix_seconds
from runstream.model.errors import EventsArchived
from runstream.model.identifiers import check_run_id
from runstream.model.results import E, LaneInfo, S
from runstream.operations.lane_facts import HotLanes, LaneFacts
from runstream.operations.operation import Exchange, Operation
from runstream.stores.redis.damage import parsing
from runstream.stores.redis.operations.client.archived_errors import lanes_away
from runstream.stores.redis.operations.client.run_head import retired_in
from runstream.stores.redis.operations.client.send import resolve_unanswered
from runstream.stores.redis.operations.client.shared_lanes import shared_lanes
from runstream.stores.redis.operations.worker.hot_run import lane_marks, run_of
from runstream.stores.redis.replies import parse_map
from runstream.stores.redis.scripts.calls import MICROSECONDS
from runstream.stores.redis.session.session import Session

__all__ = ["hot_lanes", "lanes"]


def lanes(session: Session[E, S], run_id: str) -> Operation[list[LaneInfo]]:
    """The lanes of a run, by name. Raises EventsArchived if some have left Redis."""
    hot = yield from hot_lanes(session, run_id)
    if not hot.are_all:
        raise (yield from lanes_away(session, run_id))
    return hot.facts.infos()


def hot_lanes(session: Session[E, S], run_id: str) -> Operation[HotLanes]:
    """What Redis tells of the lanes of a run."""
    check_run_id(run_id)
    yield from resolve_unanswered(session, [run_id])
    keys = session.keys.run(run_id)
    (reply,) = yield Exchange([(b"HGETALL", keys.meta)])
    meta = parse_map(reply)
    with parsing(keys):
        run = run_of(run_id, meta, is_partial=False)
        if run is None:
            return HotLanes(LaneFacts(), True)
        fields = {name.decode(): value for name, value in meta.items() if b":" in name}
        lasts, are_all = lane_marks(meta), not {b"retired", b"ended"} & meta.keys()
        now = session.server_clock.now() or round(unix_seconds() * MICROSECONDS)
        leases = _leases(fields, now)
        gone = {lane: retired_in(meta, lane) for lane in lasts if lane not in run.head.snapshots}
        bare = [lane for lane, left in gone.items() if left is None or not left.had_snapshot(lane)]
    if run.head.fork_of is not None and are_all:  # a lane that left had gone on since
        try:
            shared, are_known = yield from shared_lanes(session, run_id, run.head, lasts)
        except EventsArchived:  # of a lane that has gone on in the parent, only its events tell where it was
            shared, are_known = {}, False
        lasts, are_all = shared | lasts, are_all and are_known
    return HotLanes(LaneFacts(lasts, run.head.snapshots, run.ends, leases, bare), are_all)


def _leases(fields: Mapping[str, bytes], now: int) -> dict[str | None, str]:
    """Who holds which lane, as far as the deadlines say at this time, in microseconds."""
    found: dict[str | None, str] = {}
    for name, value in fields.items():
        if name.startswith("lease:"):
            _, expires, _, _, owner = value.decode(errors="backslashreplace").split(" ", 4)
            if int(expires) > now:
                found[name[6:]] = owner
    return found
