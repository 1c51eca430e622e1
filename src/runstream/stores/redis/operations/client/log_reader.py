"""Read a run from one offset to another, forwards or backwards: its first page comes with where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runstream.model.run_head import RunHead
from runstream.operations.arguments import ReadQuery, parse_position
from runstream.operations.operation import Command, Operation, Stream
from runstream.stores.redis.operations.client.reader import Page, RunReader
from runstream.stores.redis.replies import parse_cursor, parse_records

__all__ = ["LogReader"]


class LogReader(RunReader):
    """Reads the own events of a run, page by page, and checks as every reader."""

    _first: tuple[RunHead, Page] | None = None
    """The first page, where it came as the run was opened: where the run stood then, and entries."""

    def open_for(self, query: ReadQuery) -> Operation[RunHead]:
        """The same as ``open``, for what is read by a query: the first few entries of that come with it."""
        low, cursor = parse_position(query.after)
        # backwards without a limit: see ``backward``
        is_asked = query.limit != 0 and not (query.reverse and query.limit is None)
        if not is_asked or (query.before is not None and query.before <= low + 1):
            return (yield from self.open(cursor))
        ends = [] if query.before is None else [query.before - 1]
        ends += [] if query.limit is None or query.reverse else [low + query.limit]
        if ends:
            self._presume(min(ends), min(ends) - low if query.limit is None else query.limit)
        first, last, count = str(low + 1), "+" if query.before is None else str(query.before - 1), 0

        def queries() -> Sequence[Command]:
            nonlocal count
            count = self._next_count()
            if query.reverse:
                return [(b"XREVRANGE", self._keys.events, last, first, b"COUNT", count)]
            return [(b"XRANGE", self._keys.events, first, last, b"COUNT", count)]

        head, (entries,) = yield from self.open_with(queries, self._pace, cursor=cursor)
        if head.fork_of is None or low >= head.start.offset:
            yield from self._take_first(head, query, low, entries, count)
        return head

    def _take_first(
        self, head: RunHead, query: ReadQuery, low: int, entries: Sequence[Any], count: int
    ) -> Operation[None]:
        records = parse_records(entries)
        self._pace.adapt(list(map(len, records)))
        high = head.last.offset if query.before is None else min(query.before - 1, head.last.offset)
        cursors = (parse_cursor(entry_id) for entry_id, _ in entries)
        # what lies behind the last cursor was left by an append that was refused in its midst
        found = [item for item in zip(cursors, records, strict=True) if item[0].offset <= high]
        first = max(low, head.before_first.offset) + 1
        if query.reverse:  # no farther back than is asked for, though there be gaps
            first = max(first, high - count + 1 + len(entries) - len(found))
            found = [item for item in reversed(found) if item[0].offset >= first]
        yield from self.check_dense(head, found, first, high)
        if query.reverse and found and found[-1][0].offset < high:
            yield from self.report_missing(head, found[-1][0].offset + 1)
        if found:
            self._first = head, found

    def forward(self, low: int, high: int) -> Stream:
        """The events from ``low + 1`` to ``high``."""
        while low < high and self.left != 0:
            head, found = self._take() or (yield from self.page(low, high, self._next_count()))
            if not found:  # deleted, or forgotten, since this began
                yield from self.report_lost(high, head.last.offset)
            self.note(head, found[-1][0])
            low = found[-1][0].offset
            yield from self.give(found)

    def backward(self, low: int, high: int) -> Stream:
        """The events from ``high`` down to ``low + 1``."""
        if self.left is None and low < high:
            yield from self.page(low, high, 1)  # raise at once, not after half of it, if the rest has moved
        while low < high and self.left != 0:
            if (opened := self._take()) is not None:
                found = opened[1]
            else:
                count = self._next_count()
                head, found = yield from self.page(max(low, high - count), high, count)
                if not found:  # as above
                    yield from self.report_lost(high, head.last.offset)
                if found[-1][0].offset < high and self._pace.count < count:
                    continue  # the page was too large, and came at half its length
                if found[-1][0].offset < high:
                    yield from self.report_missing(head, found[-1][0].offset + 1)
            high = found[0][0].offset - 1
            yield from self.give(found[::-1])

    def _take(self) -> tuple[RunHead, Page] | None:
        first, self._first = self._first, None
        return first

    def _next_count(self) -> int:
        return self._pace.count if self.left is None else min(self._pace.count, self.left)
