"""Recover a run or a lane from Redis, or, where it has left that, from the archive."""

from __future__ import annotations

from contextlib import suppress

from runstream.model.errors import EventsArchived, HistoryDiverged
from runstream.model.results import E, LaneInfo, Recorded, Recovery, S
from runstream.operations.arguments import ReadQuery
from runstream.operations.filters import lane_of
from runstream.operations.interface import RunElsewhere
from runstream.operations.operation import Operation, blocking, collect
from runstream.stores.tiered.forks import head_in
from runstream.stores.tiered.snapshots import TieredSnapshots

__all__ = ["STANDS_FOR_ARCHIVED", "archived_lane", "recover"]

STANDS_FOR_ARCHIVED = "retired-"
"""How the tokens begin that stand for snapshots which have left Redis; see ``retired_token``."""


def recover(tiers: TieredSnapshots[E, S], run_id: str, lane_id: str | None) -> Operation[Recovery[S, E]]:
    """The latest snapshot and the events after it; of a run that the archive alone has, from there."""
    while True:
        archived = yield from tiers.archived(run_id)
        try:
            recovery = yield from tiers.continuing(archived).recover(run_id, lane_id)
        except (RunElsewhere, EventsArchived):
            return (yield from _recover_archived(tiers, run_id, lane_id))
        # where there is nothing, it may have left for the archive since that was asked
        if recovery != Recovery(None, 0, []) or (yield from tiers.archived(run_id)) == archived:
            tiers.writable.add(run_id)  # it goes on in Redis, or begins there
            return recovery


def _recover_archived(tiers: TieredSnapshots[E, S], run_id: str, lane_id: str | None) -> Operation[Recovery[S, E]]:
    again = yield from tiers.load_snapshot(run_id, lane_id)
    while True:
        snapshot = again
        boundary = yield from tiers.locate(run_id)
        covered = (yield from _begin(tiers, run_id)) if snapshot is None else snapshot.offset
        after = covered
        is_known = lane_id is None or boundary.parent is not None
        if not is_known and (yield from archived_lane(tiers, run_id, lane_id or "")) is None:
            after = max(covered, boundary.first_hot - 1)
        query = ReadQuery(after, before=boundary.last + 1, lane_id=lane_id)
        recorded: list[Recorded[E]] = yield from collect(tiers.read(run_id, query))
        # before the snapshot is loaded again: one that is retired after this is known to be another
        yield from tiers.hot.mark_recovered(run_id, boundary.last, lane_id)
        again = yield from tiers.load_snapshot(run_id, lane_id)
        if (again and again.revision) == (snapshot and snapshot.revision):
            break
    token, _ = tiers.hot.known_snapshot(run_id, lane_id)
    if token.startswith(STANDS_FOR_ARCHIVED):
        tiers.hot.note_snapshot(run_id, lane_id, token, 0 if snapshot is None else snapshot.revision)
    if lane_id is not None:
        recorded = [item for item in recorded if lane_of(item.event) == lane_id]
    if snapshot is None:
        return Recovery(None, covered, recorded)
    return Recovery(snapshot.state, covered, recorded, snapshot.stored)


def _begin(tiers: TieredSnapshots[E, S], run_id: str) -> Operation[int]:
    """The offset before the first event of a run, or of what it shares."""
    head = yield from head_in(tiers, run_id)
    return 0 if head is None or head.base is None else head.base.offset


def archived_lane(tiers: TieredSnapshots[E, S], run_id: str, lane_id: str) -> Operation[LaneInfo | None]:
    """What the archive knows of a lane; None for nothing.

    A run that was detached it may have as a fork still, until a worker has made the copy there: then also what it
    shares.
    """
    infos = (yield from tiers.archive.own_lane_facts(run_id)).infos()
    if all(one.lane_id != lane_id for one in infos):
        head = yield from blocking(tiers.archive.head_of, run_id)
        if head is None or head.fork_of is None:
            return None
        with suppress(HistoryDiverged):  # it has not got what that comes from
            infos = yield from tiers.archive.lanes(run_id)
    return next((one for one in infos if one.lane_id == lane_id), None)
