"""The boundary between Redis and an archive: which has which part of a run, and whether both hold one history.

The boundary is where Redis begins (``first_hot``), and it moves. That both hold one history is proven by the chain
of the last event that the archive has.
"""

from __future__ import annotations

from collections.abc import Iterable
from shlex import quote
from typing import Generic, NamedTuple, Self

from runstream.model.errors import (
    AcknowledgedWritesLost,
    ArchiveGap,
    ConfigurationError,
    EventsArchived,
    HistoryDiverged,
)
from runstream.model.results import Cursor, E, S
from runstream.operations.arguments import ReadQuery, parse_position
from runstream.operations.messages import lost
from runstream.operations.operation import Operation, Stream, blocking, collect
from runstream.stores.archive.base import ArchiveOperations
from runstream.stores.tiered.hot_operations import Continuing, HotOperations
from runstream.stores.tiered.late_archive import LateArchive
from runstream.stores.tiered.recent_runs import RecentRuns

__all__ = ["Boundary", "HotAndArchive"]


class Boundary(NamedTuple):
    """Which events of a run Redis has and which the archive has.

    Args:
        is_hot: Whether Redis has the run at all.
        base: The offset after which the run begins; 0 where the archive alone knows.
        first_hot: The offset of the first event in Redis; that after the last event if Redis has none.
        last: The offset of the run's last event.
        archived: The cursor of the last event that the archive has; None if it does not know the run.
        parent: The run that it comes from, and at which offset; None for none.
    """

    is_hot: bool
    base: int
    first_hot: int
    last: int
    archived: Cursor | None
    parent: tuple[str, int] | None = None

    @property
    def archived_to(self) -> int:
        """The offset up to which the archive has the run, and of the same history; 0 for nothing."""
        return 0 if self.archived is None else self.archived.offset


class HotAndArchive(Generic[E, S]):
    """A hot store and an archive, and the checks that they hold one history.

    Args:
        hot: The operations of the store that is written to.
        archive: The operations of the archive that a drain worker writes from it.

    Raises:
        ConfigurationError: They were opened with different upcasts.
    """

    def __init__(self, hot: HotOperations[E, S], archive: ArchiveOperations[E, S] | LateArchive[E, S]) -> None:
        if hot.codec.upcasts is not archive.codec.upcasts:
            raise ConfigurationError(
                "open both parts of a tiered store with the same upcasts: one run is read from both"
            )
        self.hot = hot
        self.archive = archive
        self.writable = RecentRuns()
        """The runs of which this store object knows that an append goes on where they end."""

    def for_one_writer(self) -> Self:
        """The same store for one more writer, with its own coverage and snapshots."""
        twin = type(self)(self.hot.for_one_writer(), self.archive.for_one_writer())
        twin.writable = self.writable
        return twin

    def read(self, run_id: str, query: ReadQuery) -> Stream:
        """The events between two offsets, as they are at the first step, from wherever they are."""
        raise NotImplementedError

    def check_writable(self, run_ids: Iterable[str]) -> Operation[None]:
        """Check that an append to these runs begins none anew that the archive has and Redis has not.

        Redis is asked once, and again after a while, since a worker may forget what has been quiet for long; the
        archive only about a run that is not there.

        Raises:
            EventsArchived: A run is in the archive alone.
        """
        for run_id in run_ids:
            if run_id in self.writable:
                continue
            if (yield from self.hot.head_of(run_id)) is None and (yield from self.archived(run_id)) is not None:
                boundary = yield from self.moved_to_archive(run_id)
                if boundary is not None:
                    raise self.only_archived(run_id, boundary.last)
            self.writable.add(run_id)

    def only_archived(self, run_id: str, last: int) -> EventsArchived:
        """The error for a run that the archive alone has, up to that offset, and that was to be gone on with."""
        location = self.archive.location
        return EventsArchived(
            f"run {run_id!r} is in {location} alone, up to offset {last}: it was forgotten or deleted in Redis, or"
            " lost with it, and nothing was written; put it back and go on:"
            f" `runstream restore {quote(run_id)} --from {quote(location)} --to URL`, or delete it here",
            run_id=run_id,
            first_hot=last + 1,
            archives=(location,),
        )

    def archived(self, run_id: str) -> Operation[Cursor | None]:
        """The cursor of the last event that the archive has of a run; None where it does not know it."""
        return blocking(self.archive.end_of, run_id)

    def continuing(self, archived: Cursor | None) -> Continuing[E, S]:
        """Reads of a run that goes on in Redis from there."""
        return self.hot.continuing(archived)

    def locate(self, run_id: str) -> Operation[Boundary]:
        """Find which part of a run each store has: as ``locate_after``, of which the archive is asked first."""
        archived = yield from self.archived(run_id)
        return (yield from self.locate_after(run_id, archived))

    def locate_after(self, run_id: str, archived: Cursor | None) -> Operation[Boundary]:
        """Find which part of a run each store has, once their chains have shown that both hold one history.

        The archive is asked first: then it cannot be ahead because of what happens in between. Where Redis does
        not have the run, is behind or has another history, it is asked again: a worker may have archived more and
        then forgotten the run, or somebody may have deleted it and created it anew.

        Args:
            run_id: The run.
            archived: How far the archive has it, as it was asked first.

        Raises:
            AcknowledgedWritesLost: Redis is behind the archive.
            HistoryDiverged: Redis does not go on from where the archive ends.
        """
        while True:
            archived_last = 0 if archived is None else archived.offset
            info, goes_on, base = yield from self.hot.run_info_after(run_id, archived)
            if info is not None and archived_last <= info.last_offset and goes_on:
                return Boundary(True, base, info.first_hot, info.last_offset, archived, info.parent)
            before, archived = archived, (yield from self.archived(run_id))
            if archived == before:
                break
        if info is not None and archived_last > info.last_offset:
            raise lost(run_id, archived_last, info.last_offset)
        if info is not None:
            raise HistoryDiverged(
                f"{self.archive.location} has run {run_id!r} up to {archived}, of another history than Redis:"
                " events were lost in Redis and their offsets filled again, or the run was deleted there and made"
                f" anew; decide which is to be the run's: `runstream resolve {quote(run_id)}`",
                run_id=run_id,
                offset=archived_last,
            )
        # it was forgotten, deleted or never there; if it was lost, this store object would know
        yield from collect(self.hot.read(run_id, ReadQuery(limit=0)))
        head = yield from blocking(self.archive.head_of, run_id)
        parent = None if head is None else head.parent
        return Boundary(False, 0, archived_last + 1, archived_last, archived, parent)

    def moved_to_archive(self, run_id: str) -> Operation[Boundary | None]:
        """The boundary of a run that has just left Redis; None if Redis has it, or the archive does not."""
        boundary = yield from self.locate(run_id)
        return None if boundary.is_hot or boundary.archived is None else boundary

    def check_cursor(
        self, run_id: str, after: int | str, boundary: Boundary, *, is_read: bool = True
    ) -> Operation[None]:
        """Check a cursor in the archive where Redis cannot: it has trimmed the event, and its chain with it.

        Args:
            run_id: The run.
            after: A cursor, or an offset, of which there is nothing to check.
            boundary: Which part of the run each store has.
            is_read: Whether Redis is read from there on, which checks the cursor too.

        Raises:
            HistoryDiverged: The cursor is of another history.
        """
        offset, cursor = parse_position(after)
        if cursor is None:
            return
        if boundary.archived is not None and (
            not boundary.is_hot or (offset < boundary.first_hot and offset <= boundary.archived.offset)
        ):
            yield from collect(self.archive.read(run_id, ReadQuery(after, limit=0)))
        elif not is_read:
            yield from collect(self.hot.read(run_id, ReadQuery(after, limit=0)))

    def check_archived(self, run_id: str, end: int, first_hot: int, *, is_hot: bool) -> Operation[None]:
        """Check that the archive has all events up to an offset, of the history that Redis goes on with.

        Args:
            run_id: The run.
            end: The offset.
            first_hot: The offset of the first event in Redis.
            is_hot: Whether Redis has the run at all.

        Raises:
            ArchiveGap: The archive has fewer.
            HistoryDiverged: It has another history.
        """
        archived = yield from self.archived(run_id)
        last = 0 if archived is None else archived.offset
        if archived is None or last < end:
            raise ArchiveGap(
                f"events {last + 1} to {end} of run {run_id!r} are in neither tier: Redis begins with"
                f" {first_hot}, the archive that was asked ends with {last}; ask the archive that the drain"
                " worker writes",
                run_id=run_id,
                expected=last + 1,
                found=first_hot,
            )
        if not is_hot:
            return
        try:
            yield from collect(self.hot.read(run_id, ReadQuery(str(archived), limit=0)))
        except AcknowledgedWritesLost:
            if (yield from self.moved_to_archive(run_id)) is None:
                raise
