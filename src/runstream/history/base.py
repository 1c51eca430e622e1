"""The interface of a run's history in one store, by which copies of a run are compared and copied."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, RunHeader
from runstream.model.errors import HistoryDiverged
from runstream.model.results import Cursor

__all__ = ["PAGE", "History"]

PAGE = 200
"""How many entries are held at once, at most."""


class History(ABC):
    """The history of a run in one store.

    Attributes:
        header: The run's header.
        last: The cursor of its last entry.
        first: The offset of the first entry that can be read.
    """

    header: RunHeader
    last: Cursor
    first: int

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.header.run_id

    @property
    def mark(self) -> Cursor:
        """A cursor that is known even if its entry cannot be read: in Redis, the archived mark."""
        return self.header.start

    @property
    @abstractmethod
    def location(self) -> str:
        """Where it is kept, for people."""

    @abstractmethod
    def at(self, offset: int) -> Cursor | None:
        """The cursor at an offset; None where that is not known."""

    def has_trimmed(self, offset: int) -> bool:  # noqa: ARG002 - an archive trims nothing
        """Whether the entry at an offset has left it since this was loaded."""
        return False

    @abstractmethod
    def page(self, first: int, last: int) -> Sequence[ArchiveEntry]:
        """Read the entries at these offsets, both included; the first of them, where all are too much at once."""

    @abstractmethod
    def snapshots(self) -> Sequence[ArchiveSnapshot]:
        """Read the latest snapshots of the run and of its lanes, those that read."""

    def tokens(self) -> Mapping[str | None, str]:
        """The tokens of the snapshots by lane, also of those that do not read."""
        return {one.lane_id: one.token for one in self.snapshots()}

    def entries(self, after: int) -> Iterator[ArchiveEntry]:
        """Read the entries after an offset, in order.

        Raises:
            HistoryDiverged: One is missing.
        """
        first = max(after, self.header.before_first.offset) + 1
        while first <= self.last.offset:
            last = min(first + PAGE - 1, self.last.offset)
            page = self.page(first, last)
            if not page or [entry.offset for entry in page] != list(range(first, first + len(page))):
                raise HistoryDiverged(
                    f"{self.location} does not have all events of run {self.run_id!r} from {first} to {last} any"
                    " more: nothing was deleted; look again",
                    run_id=self.run_id,
                    offset=first,
                )
            yield from page
            first += len(page)
