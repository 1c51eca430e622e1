"""Find where two histories of one run diverge."""

from __future__ import annotations

from dataclasses import dataclass

from runstream.history.base import History
from runstream.model.results import Cursor

__all__ = ["Divergence", "find_divergence"]


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where two histories part.

    Attributes:
        cursor: The last cursor that both are known to have.
        exact: Whether they part right after it. False where one of the two has trimmed what comes next.
        differ: Whether they are known to differ, though it is not known where.
    """

    cursor: Cursor
    exact: bool = True
    differ: bool = False


def find_divergence(one: History, other: History) -> Divergence | None:
    """Find the last cursor that both histories have; None if they have nothing in common, not even their start."""
    if one.header.start != other.header.start or one.header.creation != other.header.creation:
        return None
    low, high = one.header.start, min(one.last.offset, other.last.offset)
    differ = False
    first = max(one.first, other.first)
    # what was trimmed is known at single offsets: where it was archived or truncated up to
    bases = {history.header.before_first.offset for history in (one, other)}
    for offset in sorted({one.mark.offset, other.mark.offset, first, *bases}):
        if low.offset < offset <= high:
            cursor, there = one.at(offset), other.at(offset)
            if cursor is None or there is None:
                continue
            if cursor != there:
                high, differ = offset - 1, True
                break
            low = cursor
    if low.offset + 1 < first and low.offset < high:
        return Divergence(low, exact=False, differ=differ)
    while low.offset < high:
        middle = (low.offset + high + 1) // 2
        cursor, there = one.at(middle), other.at(middle)
        if cursor is not None and cursor == there:
            low = cursor
        elif (cursor is None and one.has_trimmed(middle)) or (there is None and other.has_trimmed(middle)):
            return Divergence(low, exact=False, differ=differ)
        else:
            high = middle - 1
    return Divergence(low)
