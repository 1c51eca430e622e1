"""What one keeper has of a run, checked against itself while it is read.

Each entry's checksum, made anew from what is held, must give the chain that the entry has: that proves the
text, the order, and that nothing is missing. What stands beside the history must agree with it.

An archive is one, in :mod:`runstream.repair.archive_checker`, and Redis, in :mod:`runstream.repair.redis_checker`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runstream.codec.chain import next_chain
from runstream.codec.lossless_json import load_json
from runstream.history.hot import History
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, EntryColumns
from runstream.model.results import Cursor

__all__ = ["ATTEMPTS", "Difference", "DifferenceFound", "Keeper", "of_lane", "of_snapshot", "shown"]

ATTEMPTS = 100  # at a run that is written to all the while: a look takes a few round trips
_SHOWN = 200  # characters of an event


@dataclass(frozen=True, slots=True)
class Difference:
    """What does not agree, at which offset, and what each side has: (who or what says it, what it says)."""

    offset: int
    what: str
    sides: Sequence[tuple[str, str]]

    def __str__(self) -> str:
        sides = "; ".join(f"{who}: {has}" for who, has in self.sides)
        return f"at offset {self.offset}, {self.what} ({sides})"


class DifferenceFound(Exception):
    """Ends the look at a run."""

    def __init__(self, offset: int, what: str, *sides: tuple[str, str]) -> None:
        super().__init__(what)
        self.difference = Difference(offset, what, sides)


class Keeper(ABC):
    """One keeper while it is read from ``first`` on; ``former`` is the place before the next, if it is known."""

    def __init__(self, history: History, former: Cursor | None, snapshots: Sequence[ArchiveSnapshot]) -> None:
        self.history = history
        self.snapshots = snapshots
        self.first = history.first
        self.former = former
        self.events = 0
        self.quarantined = 0
        self._lanes: dict[str, tuple[int, int]] = {}  # of each lane that was seen the last event's offset and seq
        self._noted_lasts: dict[str, int] = {}  # of each lane that is noted the last event's offset
        self._unread: set[int] = set()  # those of them of which nobody can tell the lane any more

    @property
    def location(self) -> str:
        """Who keeps it, for people."""
        return self.history.location

    @property
    def last(self) -> Cursor:
        """Where it ends, as it says."""
        return self.history.last

    @abstractmethod
    def page(self, first: int, last: int) -> list[ArchiveEntry]:
        """The entries at these offsets, checked: what it has of them. Raises DifferenceFound."""

    @abstractmethod
    def check_end(self) -> None:
        """Compare what stands beside the history with what was read of it. Raises DifferenceFound."""

    def _check_place(self, cursor: Cursor, crc: int | None, describe: Callable[[], str]) -> None:
        """The entry is the next one, and has the chain that it must have; ``crc`` None: nobody can tell."""
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
        if self.former is not None and crc is not None:
            chain = next_chain(self.former.chain, crc)
            if chain != cursor.chain:
                by_content = ("what it holds gives", str(Cursor(cursor.offset, chain)))
                raise DifferenceFound(
                    cursor.offset,
                    "the event is not the one that its chain is of",
                    (self.location, f"{cursor} {describe()}"),
                    by_content,
                )
        self.former = cursor

    def _next_offset(self) -> int | None:
        return None if self.former is None else self.former.offset + 1

    def _check_whole(self, found: int, first: int, last: int) -> None:
        """All from ``first`` to ``last`` were found."""
        if found <= last - first:
            raise DifferenceFound(
                first + found,
                "an event is missing",
                (self.location, "nothing"),
                ("the history", f"goes on to {self.last}"),
            )

    def _check_snapshots(self) -> None:
        """Every snapshot reads, and covers what the history has."""
        start, last = self.history.header.start.offset, self.last.offset
        for one in self.snapshots:
            whose, here = f"snapshot{of_lane(one.lane_id)}", (self.location, of_snapshot(one))
            if not start <= one.offset <= last:
                bounds = ("the history", f"from {start} to {last}")
                raise DifferenceFound(one.offset, f"{whose} covers what is not there", here, bounds)
            try:
                is_state = isinstance(load_json(one.data), dict)
            except (ValueError, RecursionError):
                is_state = False
            if not is_state:
                raise DifferenceFound(one.offset, f"{whose} does not read", here)

    def _saw(self, entry: ArchiveEntry, columns: EntryColumns | None) -> None:
        self.events += 1
        self.quarantined += entry.raw is not None
        if columns is not None:
            self._lanes[columns.lane_id] = (entry.offset, columns.seq)
        elif entry.offset in self._noted_lasts.values():
            self._unread.add(entry.offset)


def of_lane(lane_id: str | None) -> str:
    """Whose it is, after its noun."""
    return " of the run" if lane_id is None else f" of lane {lane_id!r}"


def of_snapshot(one: ArchiveSnapshot | None) -> str:
    """A snapshot for people."""
    if one is None:
        return "nothing"
    return f"covers {one.offset}, revision {one.revision}, token {one.token}: {one.data[:_SHOWN]}"


def shown(entry: ArchiveEntry) -> str:
    """An entry for people."""
    if entry.raw is not None:
        return f"{len(entry.raw)} bytes that do not read: {entry.reason}"[:_SHOWN]
    return "an erased event" if entry.data is None else entry.data[:_SHOWN]
