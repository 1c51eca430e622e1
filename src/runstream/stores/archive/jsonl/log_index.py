"""Index a run's lines in one pass: which are committed, where the run stands, where each offset is.

A line of ours counts when the commit mark of its batch has come; a plain line counts by itself. What
follows the last line that counts is a batch that is being written, or was torn: readers ignore it. In a run that
came by a drain a plain line does not count; nor does, in any other, a batch of ours that a plain line overtook
as it was written: its offsets are that line's, and its writer makes it again.
Reads lines that are handed to it; touches no file.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from runstream.codec.lossless_json import load_object
from runstream.codec.pages import PART_BYTES
from runstream.model.archive_records import ArchiveEntry
from runstream.model.events import HIGHEST_SEQ
from runstream.model.results import Cursor
from runstream.model.run_head import EndedLane
from runstream.model.state import status_after
from runstream.stores.archive.jsonl.commit_marks import Mark, TellingMarks
from runstream.stores.archive.jsonl.damaged_lines import (
    came_whole,
    has_lost_its_break,
    is_blanked,
    is_damaged_note,
    other_entry,
    sound_facts,
)
from runstream.stores.archive.jsonl.growing_files import until_cut
from runstream.stores.archive.jsonl.line_format import (
    Facts,
    Header,
    facts_of,
    is_bare_mark,
    is_header,
    lane_and_seq_of,
    load_header,
    own_entry,
    plain_entry,
    text_in,
    was_ours,
)
from runstream.stores.archive.jsonl.log_damage import LogDamage
from runstream.stores.archive.jsonl.spans import Span
from runstream.stores.archive.jsonl.tag_notes import TagNotes

__all__ = ["LogIndex"]

_INDEX_EVERY = 64  # offsets between two points of the index, at most
_INDEX_BYTES = PART_BYTES  # and no more than that, unless of a single line: what is between two is read at once


class _Line(NamedTuple):
    """A line that may count: where it begins in the file, without and with its line break, our members of it."""

    begin: int
    line: bytes
    raw: bytes
    facts: Facts | None  # None: it does not read


class _Point(NamedTuple):
    """A point of the index: an offset, where its line begins, and the chain and the highest seq before it."""

    offset: int
    begin: int
    chain: int
    peak: int


class LogIndex:
    """The index of a run's lines up to ``end``, the size in bytes of the lines that count."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.end = 0
        self.tail = b""  # the last line that counts, as it stands in the file
        self.start: Cursor | None = None  # None: nothing counts yet
        self.last = Cursor(0, 0)
        self.has_header = False
        self.header = Header(run_id, 0.0)
        self.mark: Mark | None = None
        self.plain_status: str | None = None  # what plain lines since the last mark say
        self.plain_session = ""
        self.ends_plain = False
        self.is_drained = False  # a drain has written to it
        self.foreign: list[tuple[int, int]] = []  # where lines of other programs begin and end that do not count
        self.kept_aside: list[int] = []
        self.lanes: dict[str, int] = {}  # the offset of each lane's last event
        self.damage = LogDamage(run_id)
        self.tag_notes = TagNotes(run_id)
        self.keys: dict[str, Cursor] = {}  # where the event with each of the callers' keys is
        self._lane_names: dict[bytes, str] = {}  # from JSON text
        self._mark_text: bytes | None = None
        self.telling = TellingMarks()
        self._former: int | None = None  # where the first line begins of what is left of events before the base
        self._peak = 0  # the highest seq so far
        self._index: list[_Point] = []
        self._holes: list[tuple[int, int]] = []
        self._pending: list[_Line] = []

    @property
    def holes(self) -> Sequence[tuple[int, int]]:
        """The stretches of lines that do not count, in order."""
        return self._holes

    @property
    def is_cut(self) -> bool:
        """Whether the last line that counts lacks its line break."""
        return self.end > 0 and not self.tail.endswith(b"\n")

    @property
    def tokens(self) -> AbstractSet[str]:
        """The tokens of all snapshots that were committed with this history, the latest and those before."""
        return self.telling.tokens

    @property
    def latest(self) -> Mapping[str | None, str]:
        """The token of the last snapshot that was committed of each lane (None: of the run)."""
        return self.telling.latest

    @property
    def ends(self) -> Mapping[str, EndedLane]:
        """The last end of each lane that was ever ended."""
        return self.telling.ends

    def counts(self, token: str) -> bool | None:
        """Whether a snapshot with this token was committed; None: nobody knows, as a commit mark was damaged."""
        return token in self.tokens or token in self.damage.tokens or (None if self.damage.has_marks else False)

    def known_keys(self, keys: Collection[str]) -> dict[str, Cursor]:
        """The cursors of the events that have these keys. Raises CorruptRecordError where that is in doubt."""
        known = {key: self.keys[key] for key in keys if key in self.keys}
        self.damage.check_keys(key for key in keys if key not in known)
        return known

    def check_head(self) -> None:
        """Raise CorruptRecordError where the run's header or its last commit mark was damaged."""
        self.damage.check_head(self.last.offset)

    def scan(self, lines: Iterable[bytes]) -> None:
        """Index the lines that follow ``end``."""
        self._pending.clear()
        position, committed, mark = self.end, True, self._mark_text
        for raw in until_cut(lines):
            begin, position = position, position + len(raw)
            if not committed:
                # something was written after a batch with zeros in it: it was complete, and damaged later
                committed = self._commit(begin)
            facts, found = sound_facts(line := raw.rstrip(b"\r\n"))
            if not raw.endswith(b"\n") and found is not None:
                break  # the very last byte of a batch is missing
            if facts is None and is_blanked(line):
                if not self._pending:
                    self.end, self.tail = position, raw
            elif found is not None or has_lost_its_break(raw):
                self._pending.append(_Line(begin, line, raw, facts))
                if facts is not None and facts[4] is not None:
                    # blocks of a torn write that were never written read as zeros
                    committed = not any(b"\0" in pending.line for pending in self._pending)
                    if committed:
                        self._commit(position)
            else:
                self._take_foreign(_Line(begin, line, raw, None))
        self._commit_damaged()
        self._pending.clear()
        if self._mark_text is not None and self._mark_text is not mark:
            self._note_mark(self._mark_text)

    def span(self, low: int, high: int) -> Span:
        """A span that holds the offsets after ``low`` up to ``high``, or a little more."""
        if low >= high:
            return Span(0, 0, self.last, ())
        point = bisect_right(self._index, low + 1, key=_offset) - 1
        after = bisect_right(self._index, high, key=_offset)
        end = self._index[after].begin if after < len(self._index) else self.end
        if point < 0 and self._former is not None:
            return Span(self._former, end, self.header.base or self.last, tuple(self._holes))
        if not self._index:
            return Span(0, 0, self.last, ())
        offset, begin, chain, _ = self._index[max(0, point)]
        return Span(begin, end, Cursor(offset - 1, chain), tuple(self._holes))

    def spans_back(self, low: int, high: int) -> Iterator[Span]:
        """The same as several spans, the last one first."""
        while low < high:
            point = max(0, bisect_right(self._index, high, key=_offset) - 1)
            middle = max(low, self._index[point].offset - 1) if self._index else low
            middle = middle if middle < high else low
            yield self.span(middle, high)
            high = middle

    def offset_before(self, since_seq: int) -> int:
        """An offset up to which no event's ``seq`` is over ``since_seq``; less than 64 offsets before the last."""
        if self._peak <= since_seq:
            return self.last.offset
        point = bisect_right(self._index, since_seq, key=_peak) - 1
        return self._index[point].offset - 1 if point >= 0 else 0

    # -- inside ------------------------------------------------------------------------------------

    def _take_foreign(self, line: _Line) -> None:
        """Take a line that is not ours: another program's event, or a line that was damaged."""
        entry = plain_entry(self.run_id, self.last, line.line)
        if self.is_drained and not was_ours(line.line) and (entry.data is not None or line.raw.endswith(b"\n")):
            self._commit_damaged()
            self._pass_over(line)
            return
        if entry.data is None:
            if line.raw.endswith(b"\n"):  # else it is cut
                self._pending.append(line)  # what follows shows what it was
            return
        last = self.last
        self._commit_damaged()
        self._drop_pending(line.begin)
        self._take_plain(line, entry if self.last == last else None)

    def _drop_pending(self, position: int) -> None:
        """Let no pending line count: they are of a batch that was torn, or overtaken."""
        if self._pending:
            self._holes.append((self._pending[0].begin, position))
            self._pending.clear()

    def _pass_over(self, line: _Line) -> None:
        """Pass over a line of another program in a run that came by a drain."""
        self._drop_pending(line.begin)
        self.end, self.tail = line.begin + len(line.raw), line.raw
        self.foreign.append((line.begin, self.end))
        self._holes.append((line.begin, self.end))

    def _was_overtaken(self) -> bool:
        """Whether the pending batch was made when the last plain lines were not there yet."""
        if not self.ends_plain:
            return False
        after = _offset_before(self._pending)
        return after is not None and after < self.last.offset

    def _commit(self, position: int) -> bool:
        """Let all pending lines count: the last of them has a commit mark."""
        if self._was_overtaken():
            self.end, self.tail = position, self._pending[-1].raw
            self._drop_pending(position)
            return True
        headers = [line for line in self._pending if line.facts is not None and is_header(line.line)]
        for line in headers:
            self._take_header(line)
        for number, line in enumerate(self._pending):
            if line.facts is None:
                self._take_damaged(line, self._pending[number:])
            elif is_bare_mark(line.facts):
                if self.start is None:
                    self.start = self.last = _cursor_in(line.facts)
            elif not is_header(line.line):
                self._take_own(line, line.facts)
        last = self._pending[-1]
        self.end, self.tail = position, last.raw
        if last.facts is not None and last.facts[4] is not None:
            self._mark_text, self.damage.is_mark = last.facts[4], False
            self.is_drained = self.is_drained or Mark.is_drained(self._mark_text)
            self.tag_notes.take(self._mark_text, last.begin, last.begin + len(last.raw))
            self.telling.take(self._mark_text)
        self.plain_status, self.ends_plain = None, False
        self._pending.clear()
        return True

    def _commit_damaged(self) -> None:
        """Let lines count that do not read, unless zeros show that they are of a torn batch.

        With one of ours that was damaged after it had come whole, its batch counts: it may have had the mark.
        """
        whole = [n for n, line in enumerate(self._pending) if line.facts is None and came_whole(line.line)]
        if whole and not any(b"\0" in line.line for line in self._pending[: whole[-1] + 1]):
            following = self._pending[whole[-1] + 1 :]
            del self._pending[whole[-1] + 1 :]
            self._commit(self._pending[-1].begin + len(self._pending[-1].raw))
            self._pending += following
        while self._pending and self._pending[0].facts is None and b"\0" not in self._pending[0].line:
            line = self._pending[0]
            self._take_damaged(line, self._pending)
            self.end, self.tail = line.begin + len(line.raw), line.raw
            del self._pending[0]

    def _take_damaged(self, line: _Line, following: list[_Line]) -> None:
        """Take a line that does not read: it is an entry, if the next offset that is known leaves room for one.

        If not, it was the run's header or a mere commit mark.
        """
        before_next = _offset_before(following)
        has_room = not is_damaged_note(line.line)
        self.damage.note(line.line)
        if has_room and before_next is not None:
            has_room = self.start is not None and before_next > self.last.offset
        if has_room:
            self._take_plain(line)
        else:
            self._holes.append((line.begin, line.begin + len(line.raw)))

    def _take_own(self, line: _Line, facts: Facts) -> None:
        offset, chain = _cursor_in(facts)
        if self.header.base is None or offset > self.header.base.offset:
            self._take_offset(line.begin, offset, chain)
        elif self._former is None:
            self._former = line.begin
        if facts[3] is not None:
            with contextlib.suppress(ValueError):  # the line was damaged; its offset and chain were not
                self.keys.setdefault(text_in(facts[3]), Cursor(offset, chain))
        if line.line.startswith(b'{"$'):
            if line.line.startswith(b'{"$quarantined":'):
                self.kept_aside.append(offset)
                self._peak = HIGHEST_SEQ
            left = own_entry(line.line, facts) if line.line.startswith(b'{"$erased":') else None
            if left is not None and left.raw is None and left.lane_id:
                self.lanes[left.lane_id] = offset
                self._peak = max(self._peak, left.seq)
            return
        found = lane_and_seq_of(line.line)
        if found is not None:
            self._note_lane(found[0], offset)
        self._peak = max(self._peak, HIGHEST_SEQ if found is None else found[1])

    def _take_header(self, line: _Line) -> None:
        if self.has_header or line.facts is None:
            return
        self.has_header = True
        if self.start is None:
            self.start = self.last = _cursor_in(line.facts)
        if self.header.created_at == 0.0:
            # where it does not read, the line was damaged; where the run starts was not
            with contextlib.suppress(ValueError):
                self.header = load_header(line.line)
                self.last = self.header.base or self.last

    def _take_offset(self, begin: int, offset: int, chain: int) -> None:
        if self.start is None:  # the header is damaged: a run starts before its first event
            self.start = self.last = Cursor(offset - 1, 0)
        former = self._index[-1] if self._index else None
        if former is None or offset - former.offset >= _INDEX_EVERY or begin - former.begin >= _INDEX_BYTES:
            self._index.append(_Point(offset, begin, self.last.chain, self._peak))
        self.last = Cursor(offset, chain)

    def _take_plain(self, line: _Line, entry: ArchiveEntry | None = None) -> None:
        """Take a line that counts by itself; ``entry`` is what it holds, if that was read as the next entry."""
        entry = entry or other_entry(self.run_id, self.last, line.line, facts_of(line.line))
        if entry.is_damaged:
            self.damage.lines[entry.offset] = line.line
        if self.start is None:
            self.start = Cursor(0, 0)
            created_at = entry.columns.ts if entry.columns is not None else 0.0
            self.header = self.header._replace(created_at=created_at)
        self._take_offset(line.begin, entry.offset, entry.chain)
        self.ends_plain = True
        self.end, self.tail = line.begin + len(line.raw), line.raw
        if entry.columns is None:
            self.kept_aside.append(entry.offset)
            self._peak = HIGHEST_SEQ
            return
        self._peak = max(self._peak, entry.columns.seq)
        self.lanes[entry.columns.lane_id] = entry.offset
        self.plain_status = status_after([entry.columns.kind]) or self.plain_status
        if not self.plain_session and entry.data is not None:
            self.plain_session = load_object(entry.data)["session_id"]

    def _note_lane(self, text: bytes, offset: int) -> None:
        name = self._lane_names.get(text)
        if name is None:
            try:
                name = self._lane_names[text] = text_in(text)
            except ValueError:  # the line was damaged; its offset and chain were not
                return
        self.lanes[name] = offset

    def _note_mark(self, text: bytes) -> None:
        # where it does not read, the mark was damaged; that it was there was not
        with contextlib.suppress(ValueError):
            self.mark = Mark.load(text)


def _cursor_in(facts: Facts) -> Cursor:
    return Cursor(int(facts[1]), int(facts[2]))


def _offset(point: _Point) -> int:
    return point.offset


def _peak(point: _Point) -> int:
    return point.peak


def _offset_before(lines: Iterable[_Line]) -> int | None:
    """The offset that the first of these lines that is ours follows, as it says; None where none says it."""
    for line in lines:
        if line.facts is not None and not is_header(line.line):
            return int(line.facts[1]) - (0 if is_bare_mark(line.facts) else 1)
    return None
