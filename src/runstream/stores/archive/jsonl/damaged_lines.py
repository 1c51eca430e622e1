"""What is left of a line that was damaged after it was written: what it was, and what may have been in it. Pure.

A line that was torn while it was written ends somewhere, and has no line break. One of ours that has come whole
ends with its checksum: if that is of another content, or one byte at the end is another, the line was damaged.
"""

from __future__ import annotations

import json
import zlib
from contextlib import suppress

from runstream.codec.chain import next_chain
from runstream.model.archive_records import DAMAGED_LINE, ArchiveEntry
from runstream.model.results import Cursor
from runstream.stores.archive.jsonl.commit_marks import Mark
from runstream.stores.archive.jsonl.line_format import (
    CHECKSUM,
    OWN_EVENT,
    Facts,
    facts_of,
    is_json,
    is_sound,
    plain_entry,
)

__all__ = [
    "came_whole",
    "has_lost_its_break",
    "is_blanked",
    "is_damaged_header",
    "is_damaged_note",
    "may_have_key",
    "other_entry",
    "sound_facts",
    "tokens_in",
]

_BEGINNINGS = (b'{"run_id', b'{"$erase', b'{"$quara', b'{"$offse', b'{"$run":')
_NOTES, _HEADER = _BEGINNINGS[3:], _BEGINNINGS[4]
_MOST_DIGITS = 10
_LONGEST_END = len(CHECKSUM) + _MOST_DIGITS + 1


def came_whole(line: bytes) -> bool:
    """Whether a line that does not read was written by us to its end; one byte at its end may be another.

    Also if that is the line break.
    """
    return _ends_with_checksum(line) or _ends_with_checksum(line[:-1])


def has_lost_its_break(raw: bytes) -> bool:
    """Whether another byte is where the line break of a sound line of ours was."""
    return not raw.endswith(b"\n") and sound_facts(raw[:-1])[0] is not None


def is_blanked(line: bytes) -> bool:
    """Whether a line is blank, or one of ours whose writer was stopped while it blanked it.

    No flipped bit makes a brace a space.
    """
    if not line.strip():
        return True
    if line[:1] == b" ":
        return came_whole(line) and not is_json(line)
    return line[-1:] == b" " and line.startswith(OWN_EVENT) and not is_json(line)


def _ends_with_checksum(line: bytes) -> bool:
    if not any(half in line[-_LONGEST_END:] for half in (CHECKSUM[:6], CHECKSUM[6:])):
        return False  # as nearly all lines of other programs
    for digits in range(1, _MOST_DIGITS + 1):
        end = line[-(len(CHECKSUM) + digits + 1) :]
        number = end[len(CHECKSUM) : -1]
        others = _differ(end[: len(CHECKSUM)], CHECKSUM) + _differ(end[-1:], b"}")
        if len(number) == digits and others + sum(not 48 <= digit <= 57 for digit in number) <= 1:
            return True
    return False


def is_damaged_note(line: bytes) -> bool:
    """Whether a line that does not read was no entry: the run's header, or a mere commit mark."""
    return _beginning(line) in _NOTES


def is_damaged_header(line: bytes) -> bool:
    """Whether a line that does not read was the run's header."""
    return _beginning(line) == _HEADER


def other_entry(run_id: str, before: Cursor, line: bytes, facts: Facts | None) -> ArchiveEntry:
    """The entry in a line that is no sound one of ours: another program's event, or what is left of one of ours.

    Args:
        run_id: The run.
        before: The cursor of the entry before it.
        line: The line.
        facts: Our members of it, if they are found.
    """
    if facts is None and not came_whole(line):
        return plain_entry(run_id, before, line)
    offset = before.offset + 1
    if facts is not None and int(facts[1]) == offset:
        chain = int(facts[2])
    else:
        chain = next_chain(before.chain, zlib.crc32(line))
    return ArchiveEntry(offset, chain, None, None, line, f"{DAMAGED_LINE}: its checksum is of another content")


def may_have_key(line: bytes, key: str) -> bool:
    """Whether the event in a damaged line may have this key of a caller's: it is there, but for one byte."""
    text = json.dumps(key).encode()
    ends = (line[at : at + len(text)] for at in range(len(line) - len(text) + 1))
    return any(_differ(part, text) <= 1 for part in ends)


def tokens_in(line: bytes) -> frozenset[str]:
    """The tokens that the commit mark in a damaged line names, as far as it reads."""
    facts = facts_of(line)
    if facts is not None and facts[4] is not None:
        with suppress(ValueError):
            mark = Mark.load(facts[4])
            return frozenset(token for _, token in mark.snapshots) | frozenset(mark.kept or ())
    return frozenset()


def sound_facts(line: bytes) -> tuple[Facts | None, Facts | None]:
    """Our members of a line: as they count, and as they are found; where the line was damaged, None counts."""
    facts = facts_of(line)
    return (facts if facts is not None and is_sound(line, facts) else None), facts


def _beginning(line: bytes) -> bytes | None:
    return next((text for text in _BEGINNINGS if _differ(line[: len(text)], text) <= 1), None)


def _differ(one: bytes, other: bytes) -> int:
    """In how many bytes two texts differ."""
    return sum(a != b for a, b in zip(one, other, strict=False)) + abs(len(one) - len(other))
