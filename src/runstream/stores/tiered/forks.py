"""Forks in Redis and an archive: what a fork shares is read wherever the runs lie that it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from runstream.model.archive_records import ArchiveSnapshot
from runstream.model.errors import EventsArchived
from runstream.model.results import Cursor, E, RunInfo, S
from runstream.model.run_head import EndedLane, RunHead
from runstream.operations.arguments import parse_position
from runstream.operations.lineage import Segment, ancestry_of, segments_of
from runstream.operations.operation import Operation, blocking
from runstream.operations.run_forks import Brought, BroughtTooLittle, ForkOptions
from runstream.stores.tiered.boundary import Boundary, HotAndArchive

__all__ = ["ancestry_in", "detach", "fork", "head_in", "segments_in", "shared_segments"]


def segments_in(tiers: HotAndArchive[E, S], run_id: str) -> Operation[list[Segment]]:
    """The segments of the history of a run that is there, the oldest first; of one that is no fork, itself."""
    head = yield from head_in(tiers, run_id)
    return (yield from segments_of(run_id, head or RunHead(), partial(head_in, tiers)))


def ancestry_in(tiers: HotAndArchive[E, S], run_id: str) -> Operation[list[Segment]]:
    """The segments that a fork has from others, also where its history begins with its own events by now."""
    head = yield from head_in(tiers, run_id)
    return (yield from ancestry_of(run_id, head or RunHead(), partial(head_in, tiers)))


def head_in(tiers: HotAndArchive[E, S], run_id: str) -> Operation[RunHead | None]:
    """The head of a run: Redis's, or, where that does not know the run, the archive's."""
    head = yield from tiers.hot.head_of(run_id)
    return head or (yield from blocking(tiers.archive.head_of, run_id))


def shared_segments(
    tiers: HotAndArchive[E, S], run_id: str, boundary: Boundary, after: int | str
) -> Operation[list[Segment]]:
    """The segments of a fork's history, where it is asked for what it shares; none for any other run.

    Args:
        tiers: Where to look.
        run_id: The run.
        boundary: Which part of it each store has.
        after: The offset or the cursor after which it is read.
    """
    if boundary.parent is None:
        return []
    offset, cursor = parse_position(after)
    if offset > boundary.parent[1] or (cursor is None and offset == boundary.parent[1]):
        return []
    segments = yield from segments_in(tiers, run_id)
    return segments if len(segments) > 1 else []


def fork(tiers: HotAndArchive[E, S], run_id: str, new_run_id: str, options: ForkOptions) -> Operation[RunInfo]:
    """Make a run in Redis that shares this one's history up to an offset, wherever that lies."""
    options.check(run_id, new_run_id)
    while True:
        boundary = yield from tiers.locate(run_id)
        if not boundary.is_hot and boundary.archived is not None:
            raise tiers.only_archived(run_id, boundary.last)
        at = boundary.last if options.at is None else options.at
        brought = (yield from _brought(tiers, run_id, at)) if boundary.is_hot else None
        if boundary.is_hot and brought is None:
            continue  # it has left Redis since
        try:
            return (yield from tiers.hot.fork_brought(run_id, new_run_id, options, brought))
        except BroughtTooLittle:
            continue
        except EventsArchived:
            if (yield from tiers.locate(run_id)) == boundary:
                raise  # else it has left Redis since the archive was asked


def _brought(tiers: HotAndArchive[E, S], run_id: str, at: int) -> Operation[Brought | None]:
    """What the archive has of the history of a run that is to be forked at an offset; None for nothing.

    That is the cursor there, and the newest snapshots: of each segment of the history, from the last one on.
    """
    head = yield from tiers.hot.head_with_snapshots(run_id)
    if head is None:
        return None
    cursor: Cursor | None = None
    snapshots: dict[str | None, ArchiveSnapshot] = {}
    ends: Sequence[EndedLane] = ()
    for segment in reversed((yield from segments_of(run_id, head, partial(head_in, tiers)))):
        end = segment.end
        cursor = end if cursor is None and end is not None and end.offset == at else cursor
        there = yield from head_in(tiers, segment.run_id)
        part = yield from blocking(tiers.archive.brought, segment.run_id, segment.upto(at))
        if part is None or there is None or part.head.creation != there.creation:
            continue
        cursor = part.at if cursor is None and part.at.offset == at else cursor
        if segment.end is None:
            ends = part.ends  # a fork has had those of what it shares from the beginning
        for one in part.snapshots:
            snapshots.setdefault(one.lane_id, one)
        if segment.after <= at:  # it began with those that were held there; what was saved since is not of it
            break
    return Brought(head, cursor or head.start, [*snapshots.values()], ends)


def detach(tiers: HotAndArchive[E, S], run_id: str, of: str) -> Operation[None]:
    """Give a fork of a run a copy of its own of all that it shares, in Redis and in the archive.

    The run counts it as its fork until both have that: who dies in between leaves it to whoever deletes the run.
    """
    archive_id: str = yield from blocking(getattr, tiers.archive, "archive_id")  # it may get one now
    header = yield from tiers.hot.detach_brought(run_id, of, archive_id)
    if header is None:
        yield from tiers.archive.detach(run_id, of)
    else:
        shared = [*(yield from ancestry_in(tiers, of)), Segment(of, 0)]
        after = yield from blocking(tiers.archive.lacks_shared, header, shared)
        if after is not None:
            rest = yield from tiers.hot.once_shared(header, after)
            yield from blocking(tiers.archive.make_whole, header, rest, shared)
    yield from tiers.hot.let_go(run_id, of)
