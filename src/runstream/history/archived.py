"""The history of a run in an archive, which has all of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from runstream.history.base import History
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, RunHeader
from runstream.model.errors import HistoryDiverged
from runstream.model.results import Cursor
from runstream.stores.archive.integrity import pages_of
from runstream.stores.capabilities import Archive

__all__ = ["ArchivedHistory"]


class ArchivedHistory(History):
    """The history of a run in an archive."""

    def __init__(self, archive: Archive, header: RunHeader, last: Cursor) -> None:
        self.archive = archive
        self.header = header
        self.last = last
        self.first = header.before_first.offset + 1

    @classmethod
    def load(cls, archive: Archive, run_id: str) -> ArchivedHistory | None:
        """The history as the archive has it now; None if it has none of that run."""
        header, position = archive.header(run_id), archive.position(run_id)
        return None if header is None or position is None else cls(archive, header, position.cursor)

    @classmethod
    def load_all(cls, archive: Archive) -> Iterator[tuple[str, ArchivedHistory | None]]:
        """The archive's runs, each with its history; None for one that the archive refuses to read."""
        for run_id in archive.run_ids():
            try:
                yield run_id, cls.load(archive, run_id)
            except HistoryDiverged:  # it has two of it; whoever asks for that run is told so
                yield run_id, None

    @property
    def location(self) -> str:
        """The archive's location."""
        return self.archive.location

    def at(self, offset: int) -> Cursor | None:
        """The cursor at an offset."""
        for known in (self.header.start, self.header.before_first):
            if offset == known.offset:
                return known
        entry = next(self.archive.read_back(self.run_id, offset, offset), None)
        return None if entry is None else entry.cursor

    def former(self) -> Iterator[ArchiveEntry]:
        """What is left of entries before the base of a truncated history: callers' keys, and ends of lanes."""
        start, base = self.header.begins_after, self.header.before_first.offset
        return self.archive.read_back(self.run_id, start + 1, base) if start < base else iter(())

    def page(self, first: int, last: int) -> Sequence[ArchiveEntry]:
        """Read the entries at these offsets; the first of them, where all would be too much at once."""
        return next(pages_of(self.archive.read_back(self.run_id, first, last)), [])

    def snapshots(self) -> Sequence[ArchiveSnapshot]:
        """Read the run's snapshots."""
        return self.archive.read_back_snapshots(self.run_id)
