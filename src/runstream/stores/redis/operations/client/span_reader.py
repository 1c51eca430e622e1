"""Read spans of a run, many in one round trip: its events at some offsets, or those of a lane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

from runstream.model.errors import ConfigurationError
from runstream.model.results import Cursor
from runstream.model.run_head import RunHead
from runstream.operations.look_ups import cut
from runstream.operations.operation import Command, Operation, Stream
from runstream.stores.redis.damage import parsing
from runstream.stores.redis.operations.client.reader import Page, RunReader
from runstream.stores.redis.operations.client.run_head import head_query, parse_head
from runstream.stores.redis.replies import parse_cursor, parse_offset, parse_records
from runstream.stores.redis.scripts.calls import uncovered_call

__all__ = ["FirstPage", "SpanReader", "Spans"]

_LAST, _LAST_BYTES = 8, 65_536  # of a run's last entries

Spans: TypeAlias = Sequence[tuple[int, int]]
"""Spans of a run, in order: after the first offset of each, up to its second."""


class FirstPage(NamedTuple):
    """The first page of some spans.

    Attributes:
        spans: The spans that it has.
        rest: Those of what comes after it.
        entries: What came of the spans that it has, and more: ids and wire records.
    """

    spans: Spans
    rest: Spans
    entries: Sequence[tuple[bytes, bytes]]


class SpanReader(RunReader):
    """Reads spans of one run, and checks as every reader that nothing is missing and that it is one history."""

    def open_uncovered(
        self, lane_id: str | None, fields: Sequence[str]
    ) -> Operation[tuple[RunHead, Sequence[Any], FirstPage | None]]:
        """The same as ``open``, with a snapshot, and the first page of the events that it does not cover.

        Args:
            lane_id: Of which lane these are; None: the run's own.
            fields: Further fields of meta, whose values are ``noted``.

        Returns:
            Where the run stands; the hash of the snapshot; and what ``begun`` gives the events from, or None where
            the user may not call the script that finds them.
        """
        told = self.session.largest.get(self.run_id).largest
        most, few = self._pace, min(_LAST, _LAST_BYTES // told) if told else 0  # if unknown, they may be large
        saved = (b"HGETALL", self._keys.snapshot(lane_id))

        def queries() -> Sequence[Command]:
            if not self.session.reads_by_script:
                return [saved]
            last = min(few, most.bounds[0])
            found = uncovered_call(self._keys, lane_id, most.bounds, last)
            # a script's reply takes the server some five times as long: the last few entries come without
            return [saved, found, self._back_query("+", last)] if last else [saved, found]

        opening = partial(self.open_with, queries, most, lane_id=lane_id, fields=fields)
        try:
            head, (snapshot, *found) = yield from opening()
        except ConfigurationError:
            if not self.session.reads_by_script:
                raise
            self.session.reads_by_script = False  # where it was for another reason, that shows again
            head, (snapshot, *found) = yield from opening()
        if head.last.offset > head.start.offset:  # seen, and not read yet
            self.remember(head, head.last)
        return head, snapshot, self._first_page(head, *found) if found else None

    def _first_page(self, head: RunHead, found: Sequence[Any], last: Sequence[Any] = ()) -> FirstPage:
        """The first page of what the script has found, and of the run's last few entries, the newest first."""
        count, spans, *flat = found
        with parsing(self._keys):
            ends = [span.split(b"-") for span in spans.split()]
            wanted = [(int(low), int(high)) for low, high in ends]
        if last and parse_offset(last[0][0]) > head.last.offset:
            # left there by an append that was refused in its midst: they are not all that the script left out
            return FirstPage([], wanted, [])
        return FirstPage(*cut(wanted, count), [*zip(flat[::2], flat[1::2], strict=True), *_entries([last[::-1]])])

    def begun(self, opened: RunHead, first: FirstPage) -> Stream:
        """The events in spans of which the first page came as the run was opened."""
        yield from self.give((yield from self._in_spans(opened, first.spans, first.entries)))
        yield from self.spans(opened, first.rest)

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
        yield from self.give((yield from self._in_spans(head, asked, _entries(replies))))
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
            yield from self.give((yield from self._in_spans(head, asked, _entries(replies))))
            wanted = rest

    def _span_queries(self, spans: Spans) -> list[Command]:
        return [(b"XRANGE", self._keys.events, str(low + 1), str(high)) for low, high in spans]

    def _in_spans(self, head: RunHead, spans: Spans, entries: Sequence[tuple[bytes, bytes]]) -> Operation[Page]:
        """Those among some entries that are in spans of the run, none missing that it has."""
        found = {parse_offset(entry_id): (entry_id, record) for entry_id, record in entries}
        self._pace.adapt([len(record) for _, record in entries])
        page: Page = []
        for low, high in spans:
            # what lies behind the last cursor was left by an append that was refused in its midst
            for offset in range(max(low, head.before_first.offset) + 1, min(high, head.last.offset) + 1):
                if offset not in found:
                    yield from self.report_missing(head, offset)
                entry_id, record = found[offset]
                page.append((parse_cursor(entry_id), record))
        if page:
            self.note_read(head, page[-1][0])
        return page

    def note_read(self, head: RunHead, at: Cursor) -> None:
        """Note how far the run was read, as ``note``; what was seen farther on still counts."""
        seen = self.seen
        self.note(head, at)
        if seen is not None and seen.offset > at.offset:
            self.seen = seen


def _entries(replies: Sequence[Sequence[Any]]) -> list[tuple[bytes, bytes]]:
    """The ids and wire records of the entries in replies to XRANGE."""
    entries = list(chain.from_iterable(replies))
    return [(entry[0], record) for entry, record in zip(entries, parse_records(entries), strict=True)]
