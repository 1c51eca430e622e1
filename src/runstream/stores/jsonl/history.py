"""What one pass over a run's lines tells: which are committed, where the run stands, where to find an offset.

A line of ours counts when the commit mark of its batch has come; a plain line counts by itself. What
follows the last line that counts is a batch that is being written, or was torn: readers ignore it.
Reads lines that are handed to it; touches no file.
"""

from __future__ import annotations

import contextlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from runstream.model.archive import ArchiveEntry
from runstream.model.state import status_after
from runstream.model.values import Cursor
from runstream.stores.jsonl.lines import (
    Facts,
    Mark,
    facts_of,
    is_bare_mark,
    is_header,
    lane_of,
    load_header,
    own_entry,
    plain_entry,
)

__all__ = ["History", "Span", "entries_in"]

_INDEX_EVERY = 64  # places between two points of the index


class _Line(NamedTuple):
    """A line that may count: where it begins in the file, and our members of it."""

    begin: int
    line: bytes
    facts: Facts | None


class Span(NamedTuple):
    """A stretch of the file that holds entries: from ``begin`` to ``end`` in bytes, after ``before``.

    ``holes`` are the stretches of lines that never came to count.
    """

    begin: int
    end: int
    before: Cursor
    holes: tuple[tuple[int, int], ...]


class History:
    """What is known of a run's lines up to ``end``, the size in bytes of what counts."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.end = 0
        self.tail = b""  # the last line that counts, as it stands in the file
        self.start: Cursor | None = None  # None: nothing counts yet
        self.last = Cursor(0, 0)
        self.has_header = False
        self.created_at = 0.0
        self.mark: Mark | None = None
        self.plain_status: str | None = None  # what plain lines since the last mark say
        self.plain_session = ""
        self.ends_plain = False
        self.kept_aside: list[int] = []
        self.lanes: dict[str, int] = {}  # the offset of each lane's last event
        self._lane_names: dict[bytes, str] = {}  # from JSON text
        self._mark_text: bytes | None = None
        self._index: list[tuple[int, int, int]] = []  # offset, where its line begins, the chain before
        self._holes: list[tuple[int, int]] = []
        self._pending: list[_Line] = []

    @property
    def is_cut(self) -> bool:
        """Whether the last line that counts lacks its line break."""
        return self.end > 0 and not self.tail.endswith(b"\n")

    def scan(self, lines: Iterable[bytes]) -> None:
        """Take note of the lines that follow ``end``."""
        self._pending.clear()
        position, committed, mark = self.end, True, self._mark_text
        for raw in lines:
            begin, position = position, position + len(raw)
            if not committed:
                # something was written after a batch with zeros in it: so that was whole, and was damaged later
                committed = self._commit(begin)
            facts = facts_of(line := raw.rstrip(b"\r\n"))
            if not raw.endswith(b"\n") and facts is not None:
                break  # the very last byte of a batch is missing
            if facts is not None:
                self._pending.append(_Line(begin, line, facts))
                if facts[4] is not None:
                    # blocks of a torn write that never reached the disk read as zeros
                    committed = not any(b"\0" in pending.line for pending in self._pending)
                    if committed:
                        self._commit(position)
                        self.tail = raw
            elif line.strip():
                self._take_foreign(_Line(begin, line, None), raw, position)
            elif not self._pending:
                self.end, self.tail = position, raw
        if self._mark_text is not None and self._mark_text is not mark:
            self._note_mark(self._mark_text)
        self._pending.clear()

    def span(self, low: int, high: int) -> Span:
        """Where to find the offsets after ``low`` up to ``high``, or a little more."""
        if not self._index or low >= high:
            return Span(0, 0, self.last, ())
        point = max(0, bisect_right(self._index, low + 1, key=_offset) - 1)
        after = bisect_right(self._index, high, key=_offset)
        end = self._index[after][1] if after < len(self._index) else self.end
        offset, begin, chain = self._index[point]
        return Span(begin, end, Cursor(offset - 1, chain), tuple(self._holes))

    def spans_back(self, low: int, high: int) -> Iterator[Span]:
        """The same stretch in pieces, the last first."""
        while low < high:
            point = max(0, bisect_right(self._index, high, key=_offset) - 1)
            middle = max(low, self._index[point][0] - 1) if self._index else low
            middle = middle if middle < high else low
            yield self.span(middle, high)
            high = middle

    # -- inside ------------------------------------------------------------------------------------

    def _take_foreign(self, line: _Line, raw: bytes, position: int) -> None:
        """A line that is not ours: another program's event, or one of ours that was damaged."""
        entry = plain_entry(self.run_id, self.last, line.line)
        if entry.data is None:
            if not raw.endswith(b"\n"):
                return  # cut
            if self._pending or b"\0" in line.line:
                self._pending.append(line)  # if the batch's mark follows, it is one of that batch
                return
        if self._pending:  # another program went on after a batch that was torn
            self._holes.append((self._pending[0].begin, line.begin))
            self._pending.clear()
        self._take_plain(line.begin, entry)
        self.end, self.tail = position, raw

    def _commit(self, position: int) -> bool:
        """All that is pending counts."""
        for begin, line, facts in self._pending:
            if facts is None:
                self._take_plain(begin, plain_entry(self.run_id, self.last, line))
                continue
            offset, chain = int(facts[1]), int(facts[2])
            if is_header(line):
                self._take_header(line, Cursor(offset, chain))
            elif not is_bare_mark(facts):
                self._take_place(begin, offset, chain)
                if line.startswith(b'{"$'):
                    if line.startswith(b'{"$quarantined":'):
                        self.kept_aside.append(offset)
                elif (lane := lane_of(line)) is not None:
                    self._note_lane(lane, offset)
            elif self.start is None:
                self.start = self.last = Cursor(offset, chain)
        last = self._pending[-1]
        self.tail = last.line + b"\n"
        self._mark_text = last.facts[4] if last.facts is not None else None
        self._pending.clear()
        self.end = position
        self.plain_status, self.ends_plain = None, False
        return True

    def _take_header(self, line: bytes, start: Cursor) -> None:
        if self.has_header:
            return
        self.has_header = True
        if self.start is None:
            self.start = self.last = start
        if self.created_at == 0.0:
            # where it does not read, the line was damaged; where the run starts was not
            with contextlib.suppress(ValueError, KeyError, TypeError):
                self.created_at = load_header(line)[1]

    def _take_place(self, begin: int, offset: int, chain: int) -> None:
        if self.start is None:  # the header is damaged: a run starts before its first event
            self.start = self.last = Cursor(offset - 1, 0)
        if not self._index or offset - self._index[-1][0] >= _INDEX_EVERY:
            self._index.append((offset, begin, self.last.chain))
        self.last = Cursor(offset, chain)

    def _take_plain(self, begin: int, entry: ArchiveEntry) -> None:
        if self.start is None:
            self.start = Cursor(0, 0)
            self.created_at = entry.columns.ts if entry.columns is not None else 0.0
        self._take_place(begin, entry.offset, entry.chain)
        self.ends_plain = True
        if entry.columns is None:
            self.kept_aside.append(entry.offset)
            return
        self.lanes[entry.columns.lane_id] = entry.offset
        self.plain_status = status_after([entry.columns.kind]) or self.plain_status
        if not self.plain_session and entry.data is not None:
            self.plain_session = json.loads(entry.data)["session_id"]

    def _note_lane(self, text: bytes, offset: int) -> None:
        name = self._lane_names.get(text)
        if name is None:
            name = self._lane_names[text] = json.loads(text)
        self.lanes[name] = offset

    def _note_mark(self, text: bytes) -> None:
        # where it does not read, the mark was damaged; that it was there was not
        with contextlib.suppress(ValueError, KeyError, TypeError):
            self.mark = Mark.load(text)


def _offset(point: tuple[int, int, int]) -> int:
    return point[0]


def entries_in(run_id: str, span: Span, lines: Iterable[bytes]) -> Iterator[ArchiveEntry]:
    """The entries of a stretch, whose lines are given from its beginning."""
    position, cursor = span.begin, span.before
    for raw in lines:
        begin, position = position, position + len(raw)
        if begin >= span.end:
            return
        line = raw.rstrip(b"\r\n")
        facts = facts_of(line)
        if span.holes and any(first <= begin < last for first, last in span.holes):
            continue
        if facts is None:
            if not line.strip():
                continue
            entry = plain_entry(run_id, cursor, line)
        elif is_bare_mark(facts) or is_header(line):
            continue
        else:
            entry = own_entry(line, facts)
        cursor = entry.cursor
        yield entry
