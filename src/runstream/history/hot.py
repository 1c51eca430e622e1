"""The histories of one run, in Redis and in the archives, and where they part.

Chains that are equal at a place prove all that comes before it equal. So the place where two histories part is
found by bisection, with one entry of each per step, however long they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runstream.codec.archive_entries import archive_entries
from runstream.codec.chain import former_chain
from runstream.codec.record import record_crc
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, RunHeader
from runstream.model.errors import HistoryDiverged
from runstream.model.protocols import MendableSink
from runstream.model.results import Cursor
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.operations.admin import restore
from runstream.stores.redis.operations.worker import drain
from runstream.stores.redis.operations.worker.drain import Loaded, Wanted

__all__ = ["ArchivedHistory", "History", "HotHistory", "Parting", "parting"]

PAGE = 200  # entries that are held at once


class History(ABC):
    """What one keeper has of a run: from ``first`` on it can be read, up to ``last``."""

    header: RunHeader
    last: Cursor
    first: int

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.header.run_id

    @property
    @abstractmethod
    def location(self) -> str:
        """Who keeps it, for people."""

    @abstractmethod
    def at(self, offset: int) -> Cursor | None:
        """The place at that offset, None where the keeper cannot tell."""

    @abstractmethod
    def page(self, first: int, last: int) -> Sequence[ArchiveEntry]:
        """The entries at these offsets, both included."""

    @abstractmethod
    def snapshots(self) -> Sequence[ArchiveSnapshot]:
        """The latest snapshots of the run and of its lanes, those that read."""

    def tokens(self) -> Mapping[str | None, str]:
        """The tokens of the snapshots by lane, of those that do not read too."""
        return {one.lane_id: one.token for one in self.snapshots()}

    def entries(self, after: int) -> Iterator[ArchiveEntry]:
        """The entries after an offset, in order. Raises HistoryDiverged where one is missing."""
        for first in range(after + 1, self.last.offset + 1, PAGE):
            last = min(first + PAGE - 1, self.last.offset)
            page = self.page(first, last)
            if [entry.offset for entry in page] != list(range(first, last + 1)):
                raise HistoryDiverged(
                    f"{self.location} does not have all events of run {self.run_id!r} from {first} to {last} any"
                    " more: nothing was deleted; look again",
                    run_id=self.run_id,
                    offset=first,
                )
            yield from page


class ArchivedHistory(History):
    """What an archive has of a run: all of it."""

    def __init__(self, sink: MendableSink, header: RunHeader, last: Cursor) -> None:
        self.sink = sink
        self.header = header
        self.last = last
        self.first = header.start.offset + 1

    @classmethod
    def look(cls, sink: MendableSink, run_id: str) -> ArchivedHistory | None:
        """What the archive has of a run now, or None."""
        header, position = sink.header(run_id), sink.position(run_id)
        return None if header is None or position is None else cls(sink, header, position.cursor)

    @property
    def location(self) -> str:
        """The archive."""
        return self.sink.location

    def at(self, offset: int) -> Cursor | None:
        """The place at that offset."""
        if offset == self.header.start.offset:
            return self.header.start
        entry = next(self.sink.read_back(self.run_id, offset, offset), None)
        return None if entry is None else entry.cursor

    def page(self, first: int, last: int) -> Sequence[ArchiveEntry]:
        """The entries at these offsets."""
        return list(self.sink.read_back(self.run_id, first, last))

    def snapshots(self) -> Sequence[ArchiveSnapshot]:
        """The run's snapshots."""
        return self.sink.read_back_snapshots(self.run_id)


class HotHistory(History):
    """What Redis has of a run: what has not been trimmed."""

    def __init__(self, hot: RedisCheckpointer[Any, Any], found: restore.HotRun) -> None:
        self.found = found
        self.header = found.run.header
        self.last = found.run.last
        self.first = found.first_hot
        self._hot = hot

    @classmethod
    def look(cls, hot: RedisCheckpointer[Any, Any], run_id: str) -> HotHistory | None:
        """What Redis has of a run now, or None."""
        found = hot.perform(restore.hot_run(hot.context.keys, run_id))
        return None if found is None else cls(hot, found)

    @property
    def location(self) -> str:
        """Redis."""
        return "Redis"

    def at(self, offset: int) -> Cursor | None:
        """The place at that offset: an entry's, the start, the mark or the last one."""
        for known in (self.header.start, self.found.run.mark, self.last):
            if known.offset == offset:
                return known
        (cursor,) = self._hot.perform(restore.places(self._hot.context.keys, self.run_id, [offset]))
        return cursor

    def page(self, first: int, last: int) -> Sequence[ArchiveEntry]:
        """The entries at these offsets. Raises UnsupportedVersion for a record of a newer version."""
        return list(archive_entries(self.run_id, self.records(first, last)))

    def records(self, first: int, last: int) -> Sequence[tuple[Cursor, bytes]]:
        """The places and wire records at these offsets."""
        return self.load(first, last).entries

    def load(self, first: int, last: int, lanes: Sequence[str | None] = ()) -> Loaded:
        """The entries at these offsets, and the snapshots of these lanes, as Redis has them now."""
        wanted = Wanted(self.run_id, first, last, lanes)
        (loaded,) = self._hot.perform(drain.load_entries(self._hot.context.keys, [wanted]))
        return loaded

    def load_snapshots(self) -> Loaded:
        """The snapshots, and why one that is damaged does not read; no entries."""
        beyond = self.last.offset + 1
        return self.load(beyond, beyond, list(self.tokens()))

    def place_before_first(self) -> Cursor:
        """The place before the first entry that is still there: of a trimmed one, by its successor's checksum."""
        if self.first == self.header.start.offset + 1:
            return self.header.start
        found = self.records(self.first, self.first)
        if not found:
            return self.last
        ((cursor, record),) = found
        return Cursor(cursor.offset - 1, former_chain(cursor.chain, record_crc(record)))

    def snapshots(self) -> Sequence[ArchiveSnapshot]:
        """The run's snapshots; one that is damaged is no snapshot."""
        return self.load_snapshots().snapshots

    def tokens(self) -> Mapping[str | None, str]:
        """The tokens of the snapshots, as the run's meta has them."""
        return self.found.run.tokens


@dataclass(frozen=True, slots=True)
class Parting:
    """Where two histories part: the last place that both have.

    ``exact`` is False where one of the two has trimmed what comes after this place, and cannot tell; if they are
    known to ``differ`` all the same, they part somewhere between here and what is still there.
    """

    place: Cursor
    exact: bool = True
    differ: bool = False


def parting(one: History, other: History) -> Parting | None:
    """The last place that both histories have; None if they have nothing in common, not even their start."""
    if one.header.start != other.header.start:
        return None
    low, high = one.header.start, min(one.last.offset, other.last.offset)
    differ = False
    first = max(one.first, other.first)
    # what was trimmed is known at single places: where it was archived up to
    for offset in sorted({_mark(one), _mark(other), first}):
        if low.offset < offset <= high:
            cursor, there = one.at(offset), other.at(offset)
            if cursor is None or there is None:
                continue
            if cursor != there:
                high, differ = offset - 1, True
                break
            low = cursor
    if low.offset + 1 < first and low.offset < high:
        return Parting(low, exact=False, differ=differ)
    while low.offset < high:
        middle = (low.offset + high + 1) // 2
        cursor = one.at(middle)
        if cursor is not None and cursor == other.at(middle):
            low = cursor
        else:
            high = middle - 1
    return Parting(low)


def _mark(history: History) -> int:
    return history.found.run.mark.offset if isinstance(history, HotHistory) else history.header.start.offset
