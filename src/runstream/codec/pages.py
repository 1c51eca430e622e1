"""Pages of records: so few at a time that memory stays bounded, whatever the sizes of a run's events are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["PAGE_BYTES", "PART_BYTES", "TOGETHER", "TOGETHER_BYTES", "slices"]

PAGE_BYTES = 16 * 2**20
"""How many bytes of records are fetched at once at most, unless a single one has more."""

PART_BYTES = 2**20
"""How many bytes of records are taken apart at once, unless a single one has more: values take many times that."""

TOGETHER, TOGETHER_BYTES = 100, 2**16
"""How many records, and bytes of them, become events in one go: so few that what lies between is soon freed."""


def slices(sizes: Iterable[int], most: int, most_bytes: int = PART_BYTES) -> Iterator[slice]:
    """Cut a sequence into parts, each of at most so many items and bytes, or of a single item.

    Args:
        sizes: The size of each item in bytes.
        most: The largest number of items in a part.
        most_bytes: How many bytes the items of a part have together at most.

    Returns:
        The slices of the parts, in order.
    """
    first = end = held = 0
    for size in sizes:
        if end > first and (end - first == most or held + size > most_bytes):
            yield slice(first, end)
            first, held = end, 0
        end += 1
        held += size
    if end > first:
        yield slice(first, end)
