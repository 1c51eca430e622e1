"""Stretches of a run's log that hold entries, and the entries in them. Pure: reads lines that are handed to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from runstream.model.archive_records import ArchiveEntry
from runstream.model.results import Cursor
from runstream.stores.archive.jsonl.damaged_lines import is_blanked, other_entry, sound_facts
from runstream.stores.archive.jsonl.line_format import is_bare_mark, is_header, is_note, own_entry

__all__ = ["Span", "entries_in", "lines_in", "outside"]


class Span(NamedTuple):
    """A stretch of the file that holds entries: from ``begin`` to ``end`` in bytes, after ``before``.

    ``holes`` are the stretches of lines that do not count, in order; ``file`` names the file by device and inode.
    """

    begin: int
    end: int
    before: Cursor
    holes: tuple[tuple[int, int], ...]
    file: tuple[int, int] | None = None


def outside(holes: Sequence[tuple[int, int]]) -> Callable[[int], bool]:
    """Make the test of whether a line that begins there is outside these stretches, which are in order.

    It is to be asked about one line after the other.
    """
    left = deque(holes)

    def is_outside(begin: int) -> bool:
        while left and left[0][1] <= begin:
            left.popleft()
        return not left or begin < left[0][0]

    return is_outside


def entries_in(run_id: str, span: Span, lines: Iterable[bytes]) -> Iterator[ArchiveEntry]:
    """The entries of a stretch, whose lines are given from its beginning."""
    return (entry for _, entry in lines_in(run_id, span, lines) if entry is not None)


def lines_in(run_id: str, span: Span, lines: Iterable[bytes]) -> Iterator[tuple[bytes, ArchiveEntry | None]]:
    """The lines of a stretch that count, each with its entry; None for a header or a mere commit mark."""
    position, counts = span.begin, outside(span.holes) if span.holes else None
    last: ArchiveEntry | None = None
    for raw in lines:
        begin, position = position, position + len(raw)
        if begin >= span.end:
            return
        line = raw.rstrip(b"\r\n")
        facts, found = sound_facts(line)
        if counts is not None and not counts(begin):
            continue
        if facts is None:
            if is_blanked(line):
                continue
            entry = other_entry(run_id, span.before if last is None else last.cursor, line, found)
        elif is_note(line) and (is_bare_mark(facts) or is_header(line)):
            yield raw, None
            continue
        else:
            entry = own_entry(line, facts)
        if entry.offset > span.before.offset:  # else it is what is left of one before the history's base
            last = entry
        yield raw, entry
