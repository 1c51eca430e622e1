"""Look up events of a run in Redis and the archive: by the callers' keys, and by their offsets."""

from __future__ import annotations

from collections.abc import Iterable

from runstream.model.errors import AcknowledgedWritesLost, EventsArchived
from runstream.model.results import E, Recorded, S
from runstream.operations.look_ups import in_order, keys_asked, offsets_asked
from runstream.operations.operation import Operation
from runstream.stores.tiered.boundary import Boundary, HotAndArchive

__all__ = ["find", "read_at"]


def find(tiers: HotAndArchive[E, S], run_id: str, keys: Iterable[str]) -> Operation[list[int | None]]:
    """The offsets of the events that have these keys; None for a key that the run does not know.

    Redis knows all of a run's keys, also of what has left it. It is asked twice only about a key that it does not
    know: it may have lost what the archive has.
    """
    asked = keys_asked(run_id, keys)
    while True:
        found = yield from tiers.hot.find_here(run_id, asked)
        if found is not None and None not in found:
            return found
        boundary = yield from tiers.locate(run_id)
        if found is not None:
            return found
        if not boundary.is_hot:
            return (yield from tiers.archive.find(run_id, asked))
        # it has been put back just now


def read_at(tiers: HotAndArchive[E, S], run_id: str, offsets: Iterable[int]) -> Operation[list[Recorded[E]]]:
    """The events at these offsets, in the order in which they are asked for: one question to each store."""
    asked = offsets_asked(run_id, offsets)
    boundary = yield from tiers.locate(run_id)
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
        archived = wanted[: len(wanted) - len(hot)]
        has_all = boundary.archived is not None and boundary.archived.cursor.offset >= max(archived, default=0)
        if archived and not has_all:  # raises what it is
            yield from tiers.check_archived(run_id, archived[-1], boundary.first_hot, is_hot=boundary.is_hot)
        if archived:
            recorded = [*(yield from tiers.archive.read_at(run_id, archived)), *recorded]
        return in_order(run_id, asked, {item.offset: item for item in recorded}, first, boundary.last)


def _moved(
    tiers: HotAndArchive[E, S], run_id: str, former: Boundary, error: EventsArchived | AcknowledgedWritesLost
) -> Operation[Boundary]:
    """The boundary that has moved since; otherwise raise the error."""
    boundary = yield from tiers.locate(run_id)
    if boundary.is_hot and boundary.first_hot <= former.first_hot:
        raise error
    return boundary
