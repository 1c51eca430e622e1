"""The boundary between Redis and an archive: which has which part of a run, and whether both hold one history.

The boundary is where Redis begins (``first_hot``), and it moves. That both hold one history is proven by the chain
of the last event that the archive has.
"""

from __future__ import annotations

from typing import Generic, NamedTuple

from runstream.model.archive_records import Position
from runstream.model.errors import AcknowledgedWritesLost, ArchiveGap, ConfigurationError
from runstream.model.results import E, S
from runstream.operations.arguments import ReadQuery, parse_position
from runstream.operations.messages import lost
from runstream.operations.operation import Operation, blocking, collect
from runstream.stores.archive.base import ArchiveOperations
from runstream.stores.tiered.hot_operations import HotOperations

__all__ = ["Boundary", "HotAndArchive"]


class Boundary(NamedTuple):
    """Which events of a run Redis has and which the archive has.

    Args:
        is_hot: Whether Redis has the run at all.
        base: The offset after which the archive's part begins; 0 where the archive has the beginning, and knows.
        first_hot: The offset of the first event in Redis; that after the last event if Redis has none.
        last: The offset of the run's last event.
        archived: How far the archive has the run; None if it does not know it.
    """

    is_hot: bool
    base: int
    first_hot: int
    last: int
    archived: Position | None


class HotAndArchive(Generic[E, S]):
    """A hot store and an archive, and the checks that they hold one history.

    Args:
        hot: The operations of the store that is written to.
        archive: The operations of the archive that a drain worker writes from it.

    Raises:
        ConfigurationError: They were opened with different upcasts.
    """

    def __init__(self, hot: HotOperations[E, S], archive: ArchiveOperations[E, S]) -> None:
        if hot.codec.upcasts is not archive.codec.upcasts:
            raise ConfigurationError(
                "open both parts of a tiered store with the same upcasts: one run is read from both"
            )
        self.hot = hot
        self.archive = archive

    def locate(self, run_id: str) -> Operation[Boundary]:
        """Find which part of a run each store has.

        Raises AcknowledgedWritesLost where Redis is behind the archive.

        The archive is asked first: then it cannot be ahead because of what happens in between. Where Redis does
        not have the run, or is behind, it is asked again: a worker may have archived more and then forgotten the
        run, or somebody may have deleted it and created it anew.
        """
        archived = yield from blocking(self.archive.position, run_id)
        while True:
            archived_last = 0 if archived is None else archived.cursor.offset
            info = yield from self.hot.run_info(run_id)
            if info is not None and archived_last <= info.last_offset:
                base = 0
                if archived_last + 1 < info.first_hot:
                    start = yield from self.hot.start_of(run_id)
                    base = 0 if start is None else start.offset
                return Boundary(True, base, info.first_hot, info.last_offset, archived)
            before, archived = archived, (yield from blocking(self.archive.position, run_id))
            if archived == before:
                break
        if info is not None:
            raise lost(run_id, archived_last, info.last_offset)
        # it was forgotten, deleted or never there; if it was lost, this store object would know
        yield from collect(self.hot.read(run_id, ReadQuery(limit=0)))
        return Boundary(False, 0, archived_last + 1, archived_last, archived)

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
            not boundary.is_hot or (offset < boundary.first_hot and offset <= boundary.archived.cursor.offset)
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
        archived = yield from blocking(self.archive.position, run_id)
        last = 0 if archived is None else archived.cursor.offset
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
            yield from collect(self.hot.read(run_id, ReadQuery(str(archived.cursor), limit=0)))
        except AcknowledgedWritesLost:
            if (yield from self.moved_to_archive(run_id)) is None:
                raise
