"""How many entries to ask for at once: events may have three hundred bytes each, or eight million."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Pace"]

_FIRST = 64
_TARGET_BYTES = 16 * 2**20


class Pace:
    """Begins carefully; then as many as would have some megabytes if they were like the last ones."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.count = min(most, _FIRST)
        """How many entries to ask for next; at least 1."""

    def saw(self, records: Iterable[bytes]) -> None:
        """Note what came."""
        sizes = list(map(len, records))
        if sizes:
            mean = max(1, sum(sizes) // len(sizes))
            self.count = max(1, min(self._most, _TARGET_BYTES // mean))
