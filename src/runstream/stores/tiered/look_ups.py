"""Look up events of a run in Redis and the archive: by the callers' keys, and by their offsets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial

from runstream.model.errors import AcknowledgedWritesLost, EventsArchived
from runstream.model.results import E, Recorded, S
from runstream.operations.interface import RunElsewhere
from runstream.operations.lineage import find_in_segments, read_at_in_segments
from runstream.operations.look_ups import in_order, keys_asked, offsets_asked, spans_of
from runstream.operations.operation import Operation
from runstream.stores.tiered.boundary import Boundary, HotAndArchive
from runstream.stores.tiered.forks import ancestry_in, shared_segments
from runstream.stores.tiered.read import read_own

__all__ = ["find", "read_at"]


def find(tiers: HotAndArchive[E, S], run_id: str, keys: Iterable[str]) -> Operation[list[int | None]]:
    """The offsets of the events that have these keys; None for a key that the run does not know.

    Redis knows all of a run's keys, also of what has left it.
    """
    asked = keys_asked(run_id, keys)
    archived = yield from tiers.archived(run_id)
    try:
        found, is_fork = yield from tiers.continuing(archived).find(run_id, asked)
    except RunElsewhere:
        is_fork = (yield from tiers.locate_after(run_id, archived)).parent is not None
        found = yield from _find_own(tiers, run_id, asked)
    if not is_fork or None not in found:
        return found
    segments = yield from ancestry_in(tiers, run_id)
    lacking = [key for key, offset in zip(asked, found, strict=True) if offset is None]
    shared = yield from find_in_segments(segments, lacking, partial(_find_own, tiers))
    return [shared.get(key) if offset is None else offset for key, offset in zip(asked, found, strict=True)]


def _find_own(tiers: HotAndArchive[E, S], run_id: str, keys: Sequence[str]) -> Operation[list[int | None]]:
    """The offsets of the run's own events that have these keys."""
    while True:
        found = yield from tiers.hot.find_here(run_id, keys)
        if found is not None:
            return found
        if not (yield from tiers.locate(run_id)).is_hot:
            cursors = yield from tiers.archive.find_own(run_id, keys)
            return [None if cursor is None else cursor.offset for cursor in cursors]
        # it has been put back just now


def read_at(tiers: HotAndArchive[E, S], run_id: str, offsets: Iterable[int]) -> Operation[list[Recorded[E]]]:
    """The events at these offsets, in the order in which they are asked for: one question to each store."""
    asked = offsets_asked(run_id, offsets)
    archived = yield from tiers.archived(run_id)
    if archived is None or min(asked, default=0) > archived.offset:
        with suppress(RunElsewhere, EventsArchived, AcknowledgedWritesLost):  # they may have moved since
            return (yield from tiers.continuing(archived).read_at(run_id, asked))
    boundary = yield from tiers.locate_after(run_id, archived)
    segments = yield from shared_segments(tiers, run_id, boundary, min(asked, default=1) - 1)
    if segments:
        first = segments[0].after + 1
        spans = spans_of(offset for offset in asked if first <= offset <= boundary.last)
        found = yield from read_at_in_segments(run_id, segments, spans, partial(read_own, tiers))
        return in_order(run_id, asked, found, first, boundary.last)
    while True:
        first = boundary.base + 1
        wanted = sorted({offset for offset in asked if first <= offset <= boundary.last})
        in_order(run_id, asked, dict.fromkeys(wanted), first, boundary.last)
        hot = [offset for offset in wanted if boundary.is_hot and offset >= boundary.first_hot]
        try:
            recorded = (yield from tiers.hot.read_at(run_id, hot)) if hot else []
        except (EventsArchived, AcknowledgedWritesLost) as error:
            boundary = yield from _moved(tiers, run_id, boundary, error)
            continue
        others = wanted[: len(wanted) - len(hot)]
        if others and boundary.archived_to < others[-1]:  # raises what it is
            yield from tiers.check_archived(run_id, others[-1], boundary.first_hot, is_hot=boundary.is_hot)
        if others:
            recorded = [*(yield from tiers.archive.read_at(run_id, others)), *recorded]
        return in_order(run_id, asked, {item.offset: item for item in recorded}, first, boundary.last)


def _moved(
    tiers: HotAndArchive[E, S], run_id: str, former: Boundary, error: EventsArchived | AcknowledgedWritesLost
) -> Operation[Boundary]:
    """The boundary that has moved since; otherwise raise the error."""
    boundary = yield from tiers.locate(run_id)
    if boundary.is_hot and boundary.first_hot <= former.first_hot:
        raise error
    return boundary
