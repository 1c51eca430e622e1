"""The size of a page of entries: bounded by bytes before it is asked for, though XRANGE counts entries alone.

One event may have 300 bytes and another 8 million, and what came so far tells nothing of what comes next. So a
run's meta has the size of its largest record, and a page is of no more entries than have 16 MiB at that size.
Where 0.1.0 made the run, which does not note it, the first page is of a few entries, and each at most twice as
long as the one before. A page that fails all the same is asked for again at half its length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from runstream.codec.pages import PAGE_BYTES, PART_BYTES, slices
from runstream.operations.operation import Command, Exchange, Operation

__all__ = ["PageSize", "first_entries", "size_bound"]

_FIRST = 8
_LEAST_BOUND = 4096
_SHORT_BYTES = 65_536


def size_bound(size: int) -> int:
    """What meta notes of a largest record of that many bytes: a power of two, so that it seldom grows."""
    return max(_LEAST_BOUND, 1 << (size - 1).bit_length()) if size > 0 else _LEAST_BOUND


class PageSize:
    """The size of the next page of a run's entries.

    Args:
        most: The largest number of entries to ask for.
        largest: No record has more bytes, by the run's meta; None: it does not tell.
        first: How many to ask for at first where it does not.
    """

    def __init__(self, most: int, largest: int | None = None, first: int = _FIRST) -> None:
        self.largest = largest
        self._most = most
        self._untold = first
        self._seen = 1

    @property
    def count(self) -> int:
        """How many entries to ask for next; at least 1."""
        fitting = max(1, PAGE_BYTES // max(self.largest or 1, self._seen))
        return min(self._most, fitting, self._untold if self.largest is None else fitting)

    @property
    def bounds(self) -> tuple[int, int, int]:
        """How large the page may be that a script chooses, which sees what meta tells: see ``uncovered_call``."""
        return self._most, PAGE_BYTES, self._untold

    @property
    def part(self) -> int:
        """How many entries of the page that came are taken apart at once; at least 1."""
        return max(1, PART_BYTES // self._seen)

    def bytes_of(self, count: int) -> int:
        """How much the next page may have, if it is of no more than ``count`` entries."""
        return PAGE_BYTES if self.largest is None else min(count, self.count) * max(self.largest, self._seen)

    def adapt(self, sizes: Sequence[int]) -> None:
        """Adapt to the sizes of the records of the page that came."""
        if sizes:
            self._seen = max(1, *sizes)
            self._untold = 2 * len(sizes)

    def halve(self) -> None:
        """Ask for half as many from now on: the page did not come."""
        self._most = max(1, self.count // 2)

    def exchange(self, commands: Callable[[], Sequence[Command]]) -> Exchange:
        """The exchange that asks for the next page, and for half of it each time that it has failed.

        Args:
            commands: Makes the commands, by ``count``.
        """

        def smaller() -> Exchange:
            self.halve()
            return self.exchange(commands)

        is_long = self._untold > _FIRST if self.largest is None else self.bytes_of(self._most) > _SHORT_BYTES
        return Exchange(commands(), atomic=True, smaller=smaller, is_long=is_long)


def first_entries(streams: Sequence[str], largest: Sequence[int | None]) -> Operation[list[Any]]:
    """Load the first entry of each of many streams, as many at once as are one page together.

    Args:
        streams: Their keys.
        largest: The size of the largest record of each, by the run's meta; None: it does not tell.

    Returns:
        The reply to each XRANGE, in order; a refusal for a key of another type.
    """
    replies: list[Any] = []
    for part in slices([size or PAGE_BYTES // _FIRST for size in largest], len(streams), PAGE_BYTES):
        end = part.stop
        while len(replies) < end:
            replies += yield _first_of(streams[len(replies) : end])
    return replies


def _first_of(streams: Sequence[str]) -> Exchange:
    def smaller() -> Exchange:
        return _first_of(streams[: (len(streams) + 1) // 2])

    commands = [(b"XRANGE", stream, "-", "+", b"COUNT", 1) for stream in streams]
    return Exchange(commands, tolerant=True, smaller=smaller, is_long=True)
