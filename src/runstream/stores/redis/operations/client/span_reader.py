"""Read spans of a run, many in one round trip: its events at some offsets, or those of a lane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeAlias

from runstream.model.results import Cursor
from runstream.model.run_head import RunHead
from runstream.operations.look_ups import cut
from runstream.operations.operation import Command, Operation, Stream
from runstream.stores.redis.operations.client.reader import PAGE, Page, RunReader
from runstream.stores.redis.operations.client.run_head import head_query, parse_head
from runstream.stores.redis.page_size import PageSize
from runstream.stores.redis.replies import parse_cursor, parse_records

__all__ = ["SpanReader", "Spans"]

_LAST, _LAST_BYTES = 8, 65_536  # of a run's last entries

Spans: TypeAlias = Sequence[tuple[int, int]]
"""Spans of a run, in order: after the first offset of each, up to its second."""


class SpanReader(RunReader):
    """Reads spans of one run, and checks as every reader that nothing is missing and that it is one history."""

    def open_beside(self, queries: Sequence[Command]) -> Operation[tuple[RunHead, Page, Sequence[Any]]]:
        """The same, with the run's last few entries, and the replies to further queries of that moment.

        With none where the run's records are large: they are mostly not wanted.
        """
        few = min(_LAST, _LAST_BYTES // (self.session.largest.get(self.run_id).largest or 1))
        if few == 0:
            head, replies = yield from self.open_with(lambda: queries)
            if head.last.offset > head.start.offset:
                self.remember(head, head.last)
            return head, [], replies
        end = PageSize(PAGE, first=few)
        head, (entries, *replies) = yield from self.open_with(
            lambda: [self._back_query("+", end.count), *queries], end
        )
        page = self._back_page({}, entries, head.last.offset, end.count)
        found = [(parse_cursor(entry_id), record) for entry_id, record in reversed(page.found)]
        if found:  # seen, and not read yet: they may not be wanted
            self.seen = found[-1][0]
            self.remember(head, self.seen)
        return head, found, replies

    def at(self, wanted: Spans, head_of: Callable[[RunHead], object]) -> Stream:
        """Open the run, and read the events in spans of it; nothing for an offset that the run has not.

        As many at once as are one page; a few, if it was not told yet how large the records may be, which comes
        with them.

        Args:
            wanted: Spans: after the first offset of each, up to its second.
            head_of: Gets where the run stands.
        """
        self._presume(max((high for _, high in wanted), default=0), sum(high - low for low, high in wanted))
        asked, rest = cut(wanted, self._pace.count)

        def queries() -> Sequence[Command]:
            nonlocal asked, rest
            asked, rest = cut(wanted, self._pace.count)
            return self._span_queries(asked)

        head, replies = yield from self.open_with(queries, self._pace)
        head_of(head)
        yield from self.give((yield from self._in_spans(head, asked, replies)))
        yield from self.spans(head, rest)

    def spans(self, opened: RunHead, wanted: Spans) -> Stream:
        """The same of a run that was opened: it is the history that was seen so far, as far as that goes."""
        while wanted:
            asked, rest = cut(wanted, self._pace.count)
            seen = [] if self.seen is None else [(self.seen.offset - 1, self.seen.offset)]

            def queries(seen: Spans = seen, wanted: Spans = wanted) -> Sequence[Command]:
                nonlocal asked, rest
                asked, rest = cut(wanted, self._pace.count)
                return [head_query(self._keys.meta), *self._span_queries([*seen, *asked])]

            meta, *replies = yield self._pace.exchange(queries)
            head = parse_head(self._keys, meta)
            self._learn(head)
            if seen:
                again, *replies = replies
                yield from self._check_history(head, [(parse_cursor(entry_id), b"") for entry_id, _ in again])
            if head.start != opened.start:  # deleted since this began
                yield from self.report_lost(opened.last.offset, head.last.offset)
            yield from self.give((yield from self._in_spans(head, asked, replies)))
            wanted = rest

    def _span_queries(self, spans: Spans) -> list[Command]:
        return [(b"XRANGE", self._keys.events, str(low + 1), str(high)) for low, high in spans]

    def _in_spans(self, head: RunHead, spans: Spans, replies: Sequence[Sequence[Any]]) -> Operation[Page]:
        """The entries in the replies to the queries for spans of them, none missing that the run has."""
        entries = list(chain.from_iterable(replies))
        cursors = (parse_cursor(entry_id) for entry_id, _ in entries)
        found = list(zip(cursors, parse_records(entries), strict=True))
        self._pace.adapt([len(record) for _, record in found])
        there = {at.offset for at, _ in found}
        for low, high in spans:
            for offset in range(max(low, head.before_first.offset) + 1, min(high, head.last.offset) + 1):
                if offset not in there:
                    yield from self.report_missing(head, offset)
        # what lies behind the last cursor was left by an append that was refused in its midst
        found = [item for item in found if item[0].offset <= head.last.offset]
        if found:
            self.note_read(head, found[-1][0])
        return found

    def note_read(self, head: RunHead, at: Cursor) -> None:
        """Note how far the run was read, as ``note``; what was seen farther on still counts."""
        seen = self.seen
        self.note(head, at)
        if seen is not None and seen.offset > at.offset:
            self.seen = seen
