"""Erase content of a run in Redis and an archive: Redis notes what is asked for, and a worker erases in both.

A run that Redis does not have any more is erased in the archive itself.
"""

from __future__ import annotations

from runstream.model.erasures import Erasure, Spans, may_hold
from runstream.model.errors import EventsArchived
from runstream.model.identifiers import check_run_id
from runstream.model.results import Cursor, E, S
from runstream.model.run_head import SnapshotHead
from runstream.operations.erase_arguments import (
    MAY_HOLD_SHARED,
    Beside,
    EraseOptions,
    MayNeedEvents,
    SnapshotsAway,
    TruncateOptions,
    begins_elsewhere,
    check_before,
    may_hold_erased,
)
from runstream.operations.operation import Operation, blocking
from runstream.operations.run_forks import has_forks
from runstream.stores.local.erase_plan import sharing
from runstream.stores.tiered.boundary import HotAndArchive
from runstream.stores.tiered.forks import head_in

__all__ = ["erase", "erasures", "truncate"]


def erase(tiers: HotAndArchive[E, S], run_id: str, spans: Spans, options: EraseOptions) -> Operation[Erasure]:
    """Erase the content at these offsets for good; offsets, chains and callers' keys stay."""
    check_run_id(run_id)
    if (yield from tiers.moved_to_archive(run_id)) is not None:
        return (yield from tiers.archive.erase(run_id, spans, options))
    beside = Beside()
    if spans and not options.drop_snapshots:
        first = spans[0][0]
        for fork in (yield from blocking(sharing, run_id, first, tiers.archive.forks_of)):
            if holding := (yield from _away_holding(tiers, fork, first)):
                raise may_hold_erased(fork, holding, MAY_HOLD_SHARED)
    while True:
        try:
            return (yield from tiers.hot.erase_beside(run_id, spans, options, beside))
        except SnapshotsAway as error:
            # what leaves Redis after that is noted, too, and looked at the next time
            beside = Beside(error.noted)
            if holding := (yield from _away_holding(tiers, run_id, spans[0][0])):
                raise may_hold_erased(run_id, holding) from None


def _away_holding(tiers: HotAndArchive[E, S], run_id: str, first: int) -> Operation[list[SnapshotHead]]:
    """The latest snapshots of a run that the archive alone has, and that may hold what is erased from there on.

    Those that go already, as soon as a worker comes by, are none of them.
    """
    head = yield from head_in(tiers, run_id)
    going = yield from tiers.hot.to_be_erased(run_id)
    start = 0 if head is None else head.begin
    return [
        saved
        for saved in (yield from _away(tiers, run_id))
        if may_hold(saved.offset, start, first) and not (going and may_hold(saved.offset, start, going[0][0]))
    ]


def truncate(tiers: HotAndArchive[E, S], run_id: str, before: int, options: TruncateOptions) -> Operation[Erasure]:
    """Remove the events before an offset: the history begins with it from then on."""
    check_run_id(run_id)
    check_before(before)
    boundary = yield from tiers.locate(run_id)
    if not boundary.is_hot and boundary.archived is not None:
        return (yield from tiers.archive.truncate(run_id, before, options))
    archived = yield from blocking(tiers.archive.forks_of, run_id)
    heads = (yield from tiers.hot.head_of(run_id)), (yield from blocking(tiers.archive.head_of, run_id))
    cut = [head.begin for head in heads if head is not None and begins_elsewhere(head, before - 1)]
    if cut and (forks := [fork for fork in archived if fork.at > min(cut)]):
        hot = yield from tiers.hot.living_forks(run_id)
        raise has_forks(run_id, [*forks, *(fork for fork in hot if fork.at > min(cut))], "truncated")
    beside = Beside()
    while True:
        try:
            return (yield from tiers.hot.truncate_beside(run_id, before, options, beside))
        except EventsArchived:
            # of the same history, as was checked above
            at = None if beside.at else (yield from blocking(_cursor_at, tiers, run_id, before - 1))
            if at is None:
                raise
            beside = beside._replace(at=at)
        except SnapshotsAway as error:
            # what leaves Redis after that is noted, too, and looked at the next time
            beside = beside._replace(away=error.noted)
            away = yield from _away(tiers, run_id, but_ended=True)
            if needing := [one for one in away if one.offset < before - 1 and one.token not in options.clean]:
                raise MayNeedEvents(needing) from None


def _away(tiers: HotAndArchive[E, S], run_id: str, *, but_ended: bool = False) -> Operation[list[SnapshotHead]]:
    """The latest snapshots of a run and its lanes, or of those that are not ended, that the archive alone has."""
    hot = (yield from tiers.hot.hot_lanes(run_id)).facts
    facts = hot.beside((yield from tiers.archive.own_lane_facts(run_id)))
    ended = {end.lane_id for end in facts.ended()} if but_ended else set()
    return [facts.snapshots[lane_id] for lane_id in facts.snapshots.keys() - hot.snapshots.keys() - ended]


def _cursor_at(tiers: HotAndArchive[E, S], run_id: str, offset: int) -> Cursor | None:
    """The cursor that the archive has at an offset."""
    entry = next(iter(tiers.archive.read_back(run_id, offset, offset)), None)
    return None if entry is None else entry.cursor


def erasures(tiers: HotAndArchive[E, S], run_id: str) -> Operation[list[Erasure]]:
    """What was asked to be erased of a run; what the archive alone knows of comes first."""
    hot = yield from tiers.hot.erasures(run_id)
    archived = yield from tiers.archive.erasures(run_id)
    known = {(one.spans, one.before) for one in hot}
    return [*(one for one in archived if (one.spans, one.before) not in known), *hot]
