"""Where the parts of a run lie, and the proof that they are one history.

The boundary is where Redis begins (``first_hot``), and it moves. That both tiers hold one history is proven by the
chain at the place up to which the archive has it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from runstream.model.archive_records import Position
from runstream.model.errors import AcknowledgedWritesLost, ArchiveGap
from runstream.model.results import Cursor, RunInfo
from runstream.operations.filters import origin
from runstream.operations.messages import lost
from runstream.run.steps import Steps
from runstream.stores.tiered.pouring import Pouring

__all__ = ["Tiered", "Tiers", "offset_of"]


class Tiers(NamedTuple):
    """Where the parts of a run lie: Redis has ``first_hot`` to ``last``, the archive all up to ``archived``.

    It begins after ``base``; 0 where the archive has the beginning, and knows.
    """

    is_hot: bool
    base: int
    first_hot: int
    last: int
    archived: Position | None


class Tiered:
    """A Redis store and an archive, both sync or both async.

    ``collect`` makes a list of a stream, ``pouring`` a stream of steps, in the way of the two.
    """

    def __init__(
        self, hot: Any, archive: Any, collect: Callable[[Any], Any], pouring: Callable[[Pouring], Any]
    ) -> None:
        self.hot = hot
        self.archive = archive
        self.collect = collect
        self.pouring = pouring

    def check_cursor(self, run_id: str, after: int | str, tiers: Tiers, *, is_read: bool = True) -> Steps[None]:
        """Check a cursor in the archive, where Redis cannot: it has trimmed the event, and its place with it."""
        offset, cursor = origin(after)
        if cursor is None:
            return
        if tiers.archived is not None and (
            not tiers.is_hot or (offset < tiers.first_hot and offset <= tiers.archived.cursor.offset)
        ):
            yield partial(self.collect, self.archive.read(run_id, after, limit=0))
        elif not is_read:
            yield partial(self.collect, self.hot.read(run_id, after, limit=0))

    def tiers(self, run_id: str) -> Steps[Tiers]:
        """How the run lies. Raises AcknowledgedWritesLost where Redis is behind the archive.

        The archive is asked first: then it cannot be ahead because of what happens in between. Where Redis does
        not have the run, or is behind, it is asked again: a worker may have archived more and then forgotten the
        run, or somebody may have deleted it and made it anew.
        """
        archived: Position | None = yield partial(self.archive.position, run_id)
        while True:
            archived_last = 0 if archived is None else archived.cursor.offset
            info: RunInfo | None = yield partial(self.hot.run_info, run_id)
            if info is not None and archived_last <= info.last_offset:
                base = 0
                if archived_last + 1 < info.first_hot:
                    start: Cursor | None = yield partial(self.hot.start_of, run_id)
                    base = 0 if start is None else start.offset
                return Tiers(True, base, info.first_hot, info.last_offset, archived)
            before, archived = archived, (yield partial(self.archive.position, run_id))
            if archived == before:
                break
        if info is not None:
            raise lost(run_id, archived_last, info.last_offset)
        # it was forgotten, or deleted, or never there; or lost, which this store object would know
        yield partial(self.collect, self.hot.read(run_id, limit=0))
        return Tiers(False, 0, archived_last + 1, archived_last, archived)

    def left(self, run_id: str) -> Steps[Tiers | None]:
        """How a run lies that Redis had a moment ago, if it has gone from there and the archive has it."""
        tiers = yield from self.tiers(run_id)
        return None if tiers.is_hot or tiers.archived is None else tiers

    def check(self, run_id: str, end: int, first_hot: int, *, is_hot: bool) -> Steps[None]:
        """Raise ArchiveGap unless the archive has all up to ``end``, HistoryDiverged if it is another history."""
        archived: Position | None = yield partial(self.archive.position, run_id)
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
            yield partial(self.collect, self.hot.read(run_id, str(archived.cursor), limit=0))
        except AcknowledgedWritesLost:
            if (yield from self.left(run_id)) is None:
                raise


def offset_of(place: int | str) -> int:
    """The offset of a place, which is that or a cursor."""
    return origin(place)[0]
