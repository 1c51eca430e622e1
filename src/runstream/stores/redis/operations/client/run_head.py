"""Where a run stands in Redis, from its meta."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from runstream.model.results import Cursor
from runstream.stores.redis.replies import Retired, parse_cursor, parse_retired

__all__ = ["Standing", "standing_of", "standing_query"]


class Standing(NamedTuple):
    """Where a run stands, as its meta has it; a run that is not there stands at 0.

    Of a tombstone the mark is the last place: all was archived before it was retired.
    """

    exists: bool
    start: Cursor
    last: Cursor
    mark: Cursor
    status: str
    retired: Retired | None = None

    @property
    def has_retired_events(self) -> bool:
        """Whether events left Redis with all that was known of their lanes."""
        if self.retired is None:
            return False
        upto = self.last.offset if self.retired.offset is None else self.retired.offset
        return upto > self.start.offset


def standing_query(meta_key: str) -> tuple[Any, ...]:
    """The command whose reply :func:`standing_of` reads."""
    return (b"HMGET", meta_key, "start", "last", "mark", "status", "retired")


def standing_of(reply: Sequence[bytes | None]) -> Standing:
    """Where the run stands."""
    start, last, mark, status, left = reply
    at_start = parse_cursor(start) if start else Cursor(0, 0)
    at_last = parse_cursor(last) if last else at_start
    retired = parse_retired(left)
    unmarked = at_start if retired is None else at_last
    return Standing(
        start is not None,
        at_start,
        at_last,
        parse_cursor(mark) if mark else unmarked,
        status.decode() if status else "",
        retired,
    )
