"""The history of a run in Redis: what has not been trimmed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from runstream.codec.archive_entries import archive_entries
from runstream.codec.chain import former_chain
from runstream.codec.record import record_crc
from runstream.history.base import History
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot
from runstream.model.results import Cursor
from runstream.stores.redis.namespace import Namespace
from runstream.stores.redis.operations.worker.hot_run import HotRun
from runstream.stores.redis.operations.worker.load import LoadedEntries, LoadRequest

__all__ = ["HotHistory"]


class HotHistory(History):
    """The history of a run in Redis."""

    def __init__(self, namespace: Namespace, run: HotRun, first: int) -> None:
        self.run = run
        self.header = run.header
        self.last = run.head.last
        self.first = first
        self._namespace = namespace

    @classmethod
    def load(cls, namespace: Namespace, run_id: str) -> HotHistory | None:
        """The history as Redis has it now; None if it has none of that run."""
        (run,) = namespace.load_runs([run_id])
        if run is None:
            return None
        first = namespace.first_hot(run_id)
        history = cls(namespace, run, run.head.last.offset + 1 if first is None else first)
        if run.head.tags.version:
            beyond = history.last.offset + 1
            (loaded,) = namespace.load_entries([LoadRequest(run_id, beyond, beyond, tags=True)])
            history.header = replace(run.header, tags=loaded.tags)
        return history

    @property
    def mark(self) -> Cursor:
        """The archived mark."""
        return self.run.head.mark

    @property
    def location(self) -> str:
        """Always ``Redis``."""
        return "Redis"

    def at(self, offset: int) -> Cursor | None:
        """The cursor at an offset: an entry's, the start, the mark or the last one."""
        for known in (self.header.start, self.header.before_first, self.mark, self.last):
            if known.offset == offset:
                return known
        return self._namespace.cursor_at(self.run_id, offset)

    def has_trimmed(self, offset: int) -> bool:
        """Whether a worker has trimmed the entry at an offset since this was loaded."""
        first = self._namespace.first_hot(self.run_id)
        return offset >= self.first and (first is None or first > offset)

    def page(self, first: int, last: int) -> Sequence[ArchiveEntry]:
        """Read the entries at these offsets; the first of them, where all would be too much at once.

        Raises:
            UnsupportedVersion: A record is of a newer version.
        """
        return list(archive_entries(self.run_id, self.records(first, last), self.header.origins))

    def records(self, first: int, last: int) -> Sequence[tuple[Cursor, bytes]]:
        """Read the cursors and wire records at these offsets, as ``page`` does."""
        return self.load_entries(first, last).entries

    def load_entries(self, first: int, last: int, lanes: Sequence[str | None] = ()) -> LoadedEntries:
        """Load the entries at these offsets, and the snapshots of these lanes, as Redis has them now.

        Where that would be too much at once, it is only the first of them; see :class:`LoadedEntries`.
        """
        largest = self.run.head.largest
        (loaded,) = self._namespace.load_entries([LoadRequest(self.run_id, first, last, lanes, largest)])
        return loaded

    def load_snapshots(self) -> LoadedEntries:
        """Load the snapshots, and why one that is damaged does not read; no entries."""
        beyond = self.last.offset + 1
        return self.load_entries(beyond, beyond, list(self.tokens()))

    def cursor_before_first(self) -> Cursor:
        """The cursor before the first entry that is still there: of a trimmed one, by its successor's checksum."""
        if self.first == self.header.before_first.offset + 1:
            return self.header.before_first
        found = self.records(self.first, self.first)
        if not found:
            return self.last
        ((cursor, record),) = found
        return Cursor(cursor.offset - 1, former_chain(cursor.chain, record_crc(record)))

    def snapshots(self) -> Sequence[ArchiveSnapshot]:
        """Read the run's snapshots; one that is damaged is no snapshot."""
        return self.load_snapshots().snapshots

    def tokens(self) -> Mapping[str | None, str]:
        """The tokens of the snapshots, as the run's meta has them."""
        return self.run.head.tokens
