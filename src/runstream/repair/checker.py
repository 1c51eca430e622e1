"""Verify one copy of a run while reading it.

Each entry's checksum, made anew from what is held, must give the chain that the entry has: that proves the
text, the order, and that nothing is missing. What is noted beside the history must agree with it.

The copy in an archive is verified by :mod:`runstream.repair.archive_checker`, that in Redis by
:mod:`runstream.repair.redis_checker`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from runstream.codec.chain import next_chain
from runstream.codec.lossless_json import load_object
from runstream.history.base import History
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, EntryColumns
from runstream.model.results import Cursor

__all__ = [
    "ATTEMPTS",
    "Difference",
    "DifferenceFound",
    "HistoryChecker",
    "describe_entry",
    "describe_snapshot",
    "of_lane",
]

ATTEMPTS = 100  # at a run that is written to all the while: to load it takes a few round trips
_SHOWN = 200  # characters of an event


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between two things that must agree: where, and what each is.

    Attributes:
        offset: The offset at which they differ.
        what: What is wrong.
        sides: The two sides, and what each has.
    """

    offset: int
    what: str
    sides: Sequence[tuple[str, str]]

    def __str__(self) -> str:
        sides = "; ".join(f"{who}: {has}" for who, has in self.sides)
        return f"at offset {self.offset}, {self.what} ({sides})"


class DifferenceFound(Exception):
    """Ends the verification of a copy at its first difference."""

    def __init__(self, offset: int, what: str, *sides: tuple[str, str]) -> None:
        super().__init__(what)
        self.difference = Difference(offset, what, sides)


class HistoryChecker(ABC):
    """Verifies one copy of a run while reading it, page by page, in order.

    Attributes:
        history: The copy.
        snapshots: Its snapshots.
        first: The offset of the first entry that is read.
        previous: The cursor before the next entry; None while it is not known.
        events: How many entries were read.
        quarantined: How many of them do not read.
    """

    def __init__(self, history: History, previous: Cursor | None, snapshots: Sequence[ArchiveSnapshot]) -> None:
        self.history = history
        self.snapshots = snapshots
        self.first = history.first
        self.previous = previous
        self.events = 0
        self.quarantined = 0
        self._lanes: dict[str, tuple[int, int]] = {}  # offset and seq of each lane's last event, as it was read
        self._noted_lasts: Mapping[str, int] = {}  # offset of each lane's last event, as it is noted
        self._unread: set[int] = set()  # those of the noted ones whose lane is no longer known

    @property
    def location(self) -> str:
        """Where the copy is, for people."""
        return self.history.location

    @property
    def last(self) -> Cursor:
        """The cursor at which it ends, as is noted there."""
        return self.history.last

    @abstractmethod
    def page(self, first: int, last: int, *, whole: bool) -> list[ArchiveEntry]:
        """Read and verify the entries at these offsets.

        Args:
            first: The first offset.
            last: The last one.
            whole: All of them; otherwise the first of them, where all are too much at once.

        Raises:
            DifferenceFound: Something is wrong.
        """

    @abstractmethod
    def check_end(self) -> None:
        """Compare what is noted beside the history with the history, once all of that was read.

        Raises:
            DifferenceFound: Something is wrong.
        """

    def _check_cursor(self, cursor: Cursor, crc: int | None, describe: Callable[[], str]) -> None:
        """Check that an entry is the next one, and has the chain that its checksum gives (None: not known)."""
        expected = self._next_offset()
        if expected is not None and cursor.offset != expected:
            what = (
                "an event is missing" if cursor.offset > expected else "an event is there twice, or out of order"
            )
            has = str(cursor) if cursor.offset > expected else describe()
            raise DifferenceFound(
                min(expected, cursor.offset),
                what,
                (self.location, f"{has} after {expected - 1}"),
                ("the order", str(expected)),
            )
        if self.previous is not None and crc is not None:
            chain = next_chain(self.previous.chain, crc)
            if chain != cursor.chain:
                by_content = ("what it holds gives", str(Cursor(cursor.offset, chain)))
                raise DifferenceFound(
                    cursor.offset,
                    "the event is not the one that its chain is of",
                    (self.location, f"{cursor} {describe()}"),
                    by_content,
                )
        self.previous = cursor

    def _next_offset(self) -> int | None:
        return None if self.previous is None else self.previous.offset + 1

    def _check_count(self, found: int, first: int, last: int) -> None:
        """Check that all entries from ``first`` to ``last`` were found."""
        if found <= last - first:
            raise DifferenceFound(
                first + found,
                "an event is missing",
                (self.location, "nothing"),
                ("the history", f"goes on to {self.last}"),
            )

    def _check_snapshots(self) -> None:
        """Check that every snapshot reads, and covers what the history has."""
        start, last = self.history.header.begins_after, self.last.offset
        for one in self.snapshots:
            whose, here = f"snapshot{of_lane(one.lane_id)}", (self.location, describe_snapshot(one))
            if not start <= one.offset <= last:
                bounds = ("the history", f"from {start} to {last}")
                raise DifferenceFound(one.offset, f"{whose} covers what is not there", here, bounds)
            try:
                load_object(one.data)
            except ValueError as error:
                raise DifferenceFound(one.offset, f"{whose} does not read", here) from error

    def _count(self, entry: ArchiveEntry, columns: EntryColumns | None) -> None:
        """Count an entry that was read, and note its lane."""
        self.events += 1
        self.quarantined += entry.raw is not None
        if columns is not None:
            self._lanes[columns.lane_id] = (entry.offset, columns.seq)
        elif entry.offset in self._noted_lasts.values():
            self._unread.add(entry.offset)


def of_lane(lane_id: str | None) -> str:
    """The run or the lane that a snapshot belongs to, as text."""
    return " of the run" if lane_id is None else f" of lane {lane_id!r}"


def describe_snapshot(one: ArchiveSnapshot | None) -> str:
    """A snapshot as text."""
    if one is None:
        return "nothing"
    return f"covers {one.offset}, revision {one.revision}, token {one.token}: {one.data[:_SHOWN]}"


def describe_entry(entry: ArchiveEntry) -> str:
    """An entry as text."""
    if entry.raw is not None:
        return f"{len(entry.raw)} bytes that do not read: {entry.reason}"[:_SHOWN]
    return "an erased event" if entry.data is None else entry.data[:_SHOWN]
