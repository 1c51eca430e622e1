"""The size of a page of entries: it adapts, as one event may have 300 bytes and another 8 million."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["PageSize"]

_FIRST = 64
_TARGET_BYTES = 16 * 2**20


class PageSize:
    """The size of the next page: a small first one, then as many entries as would have some megabytes.

    Args:
        most: The largest number of entries to ask for.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.count = min(most, _FIRST)
        """How many entries to ask for next; at least 1."""

    def adapt(self, records: Iterable[bytes]) -> None:
        """Adapt to the mean size of the records of the page that came."""
        sizes = list(map(len, records))
        if sizes:
            mean = max(1, sum(sizes) // len(sizes))
            self.count = max(1, min(self._most, _TARGET_BYTES // mean))
