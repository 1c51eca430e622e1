"""The lanes of a run in Redis and an archive: also those that have left Redis, and those of what a fork shares."""

from __future__ import annotations

from collections.abc import Collection

from runstream.model.results import E, LaneInfo, Recorded, S
from runstream.operations.arguments import ReadQuery
from runstream.operations.filters import lane_of, seq_of
from runstream.operations.lane_facts import LaneFacts
from runstream.operations.lineage import Segment
from runstream.operations.operation import Operation, collect
from runstream.stores.tiered.boundary import HotAndArchive
from runstream.stores.tiered.forks import ancestry_in

__all__ = ["lanes"]

_PAGE = 500


def lanes(tiers: HotAndArchive[E, S], run_id: str) -> Operation[list[LaneInfo]]:
    """The lanes of a run, by name: of those that have left Redis, what the archive knows."""
    while True:
        hot = yield from tiers.hot.hot_lanes(run_id)
        if hot.are_all and (hot.facts.names or (yield from tiers.hot.run_info(run_id)) is not None):
            return hot.facts.infos()
        archived = yield from tiers.archive.own_lane_facts(run_id)
        again = yield from tiers.hot.hot_lanes(run_id)
        if again.facts.names == hot.facts.names:  # else one has left meanwhile
            facts = again.facts.beside(archived)
            if (yield from tiers.locate(run_id)).parent is not None:
                facts = yield from _with_shared(tiers, run_id, facts)
            return facts.infos()


def _with_shared(tiers: HotAndArchive[E, S], run_id: str, facts: LaneFacts) -> Operation[LaneFacts]:
    """What is noted of the lanes of a fork, given that of its own events and snapshots."""
    lasts = {lane: last for lane, last in facts.lasts.items() if last[0]}
    for segment in reversed((yield from ancestry_in(tiers, run_id))):
        yield from tiers.locate(segment.run_id)  # both have one history of it
        hot = yield from tiers.hot.hot_lanes(segment.run_id)
        archived = yield from tiers.archive.own_lane_facts(segment.run_id)  # after that: what left Redis is in it
        there = hot.facts.beside(archived).lasts.items()
        wanted = {lane: last for lane, last in there if lane not in lasts and last[0]}
        # also an event that was truncated: a number that was used is not given again
        lasts |= {lane: last for lane, last in wanted.items() if segment.upto(last[0]) == last[0]}
        # of the others it has more: their last event before the fork is further back
        lasts |= yield from _lasts_back(tiers, segment, wanted.keys() - lasts.keys())
    return facts._replace(lasts=lasts)


def _lasts_back(
    tiers: HotAndArchive[E, S], segment: Segment, wanted: Collection[str]
) -> Operation[dict[str, tuple[int, int]]]:
    """Offset and ``seq`` of the last event of each of these lanes in a segment, found by reading it backwards."""
    found: dict[str, tuple[int, int]] = {}
    before = None if segment.end is None else segment.end.offset + 1
    while len(found) < len(wanted):
        query = ReadQuery(segment.after, before=before, limit=_PAGE, reverse=True, on_corrupt="skip")
        recorded: list[Recorded[E]] = yield from collect(tiers.read(segment.run_id, query))
        for item in recorded:
            lane = lane_of(item.event)
            if lane in wanted and lane not in found:
                found[lane] = item.offset, seq_of(item.event)
        if not recorded:
            break
        before = recorded[-1].offset
    return found
