"""The lines of a run's ``events.jsonl``: dump and load entries. Pure: touches no file.

A line is a JSON object whose last members are ours, made of nothing that needs parsing to find them:

==============================================  ================================================
``{EVENT,"$offset":12,"$chain":345}``           an event; with ``,"$key":"…"`` if it has a key
``{"$quarantined":WHY,"$raw":BASE64,"$at":TIME,"$offset"…``  a record that did not read, kept aside then
``{"$erased":true,"$lane":…,"$seq":…,"$offset"…``  an entry whose content is gone; its lane and seq, if known
``{"$run":{"run_id":…,…},"$offset"…``           the run's header; its cursor is the run's start
``{"$offset"…``                                 nothing but a commit mark
anything else                                   a plain line: an event that another program wrote
==============================================  ================================================

The last line of a batch also has ``,"$commit":{"status":…}``. Each line ends with ``,"$checksum":N``, the crc32 of
all that is before it in the line; but for those of format 1, which have none. Inside a JSON string a quote
follows a backslash, so ``"$offset":`` never stands in one; a payload may have such a key, which is why
the last one in the line is ours.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from runstream.codec.archive_entries import archive_entry
from runstream.codec.chain import next_chain
from runstream.codec.foreign_json import encode_foreign_event, load_foreign_json
from runstream.codec.record import record_crc
from runstream.model.archive_records import DAMAGED_LINE, STRANGE_LINE, ArchiveEntry, RunHeader
from runstream.model.errors import EncodingError, InvalidRunId
from runstream.model.identifiers import is_utf8
from runstream.model.results import Cursor
from runstream.model.run_head import Origin, Origins
from runstream.stores.archive.jsonl.commit_marks import Mark, are_texts, dump, is_time, load

__all__ = [
    "CHECKSUM",
    "OWN_EVENT",
    "Facts",
    "Header",
    "batch_text",
    "erased_line",
    "facts_of",
    "is_bare_mark",
    "is_header",
    "is_json",
    "is_note",
    "is_sound",
    "is_usual",
    "lane_and_seq_of",
    "load_header",
    "own_entry",
    "plain_entry",
    "readmitted_line",
    "text_in",
    "was_ours",
]

Facts = re.Match[bytes]
"""Our members of a line: 1 offset, 2 chain, 3 key and 4 commit mark (JSON, or None), 5 checksum (or None)."""

CHECKSUM = b',"$checksum":'

OWN_EVENT = b'{"run_id":"'
"""How a line with an event of ours begins; other programs leave a space after the colon, as a rule."""

_FACTS_BEGIN = b'"$offset":'
_TEXT = rb'"(?:[^"\\]|\\.)*"'
_FACTS = re.compile(
    rb'"\$offset":(\d{1,16}),"\$chain":(\d{1,16})(?:,"\$key":('
    + _TEXT
    + rb'))?(?:,"\$commit":(\{"status":.*\}))?(?:,"\$checksum":(\d{1,10}))?\}'
)
_TOKEN = re.compile(rb'"[\w.:/-]*"')  # a string that means what it says, as most do
_MARK = re.compile(rb'\{"status":(?:[^"{}]++|' + _TEXT + rb")*+\}")  # nothing in a mark is an object again
_NOTE = b'{"$'
_QUARANTINED, _ERASED, _HEADER = b'{"$quarantined":', b'{"$erased":true,', b'{"$run":'
_LANE_AND_SEQ = re.compile(
    rb'\{"run_id":'
    + _TEXT
    + rb',"session_id":'
    + _TEXT
    + rb',"lane_id":('
    + _TEXT
    + rb'),"span_id":'
    + _TEXT
    + rb',"parent_span_id":(?:null|'
    + _TEXT
    + rb'),"seq":(-?\d{1,19}),'
)


class Header(NamedTuple):
    """A run's first line, its header. ``created_at`` is Unix time in seconds; ``parent`` is run and offset.

    ``identity`` and ``parent_identity`` are those of a fork; ``base`` is where the history begins, if not at its
    start, and ``origins`` are the runs as which its first records were made.
    """

    run_id: str
    created_at: float
    parent: tuple[str, int] | None = None
    identity: int = 0
    parent_identity: int = 0
    base: Cursor | None = None
    origins: Origins = ()


def batch_text(header: RunHeader | None, at: Cursor, entries: Sequence[ArchiveEntry], mark: Mark) -> bytes:
    """The lines of a batch that follows ``at``; with the run's header first, if it is given.

    Raises EncodingError for an entry whose text cannot stand in one line.
    """
    lines = []
    if header is not None:
        facts: dict[str, Any] = {"run_id": header.run_id, "created_at": header.created_at}
        if header.parent is not None:
            facts["parent"] = header.parent
        if header.identity:
            facts |= {"identity": header.identity, "parent_identity": header.parent_identity}
        if header.base is not None:
            facts["base"] = header.base
        if header.origins:
            facts["origins"] = header.origins
        lines.append(f'{{"$run":{dump(facts)},{_cursor_members(header.start)}')
    lines += [f"{_content(entry)}{_cursor_members(entry)}" for entry in entries]
    if not lines:
        lines.append(f"{{{_cursor_members(at)}")
    lines[-1] += f',"$commit":{mark.dump()}'
    return b"".join(map(_checked, lines))


def facts_of(line: bytes) -> Facts | None:
    """Find our members at the end of a line without its line break; None for a plain line."""
    begin = line.rfind(_FACTS_BEGIN)
    facts = _FACTS.fullmatch(line, begin) if begin > 0 else None
    if facts is not None and facts[4] is not None and _MARK.fullmatch(facts[4]) is None and _is_nested(line):
        return None
    return facts


def is_sound(line: bytes, facts: Facts) -> bool:
    """Whether a line of ours is as it was written; one of format 1 does not tell."""
    return facts[5] is None or zlib.crc32(line[: facts.start(5) - len(CHECKSUM)]) == int(facts[5])


def _checked(line: str) -> bytes:
    """The line, which lacks its last brace, with its checksum and its line break."""
    text = line.encode()
    return b"%b%b%d}\n" % (text, CHECKSUM, zlib.crc32(text))


def _is_nested(line: bytes) -> bool:
    """Whether the members that look like ours are of an object within an event of another program."""
    try:
        return "$offset" not in load(line)
    except (ValueError, TypeError):  # a line of ours that was damaged
        return False


def was_ours(line: bytes) -> bool:
    """Whether a line without our members at its end has some of them still: it was damaged."""
    if _FACTS_BEGIN not in line and b'"$chain":' not in line:
        return False
    try:
        return not {"$offset", "$chain"}.isdisjoint(load(line))  # else they are in a value of another program's
    except (ValueError, TypeError):
        return True


def is_json(line: bytes) -> bool:
    """Whether a line reads as JSON."""
    try:
        load(line)
    except ValueError:
        return False
    return True


def is_usual(raw: bytes) -> bool:
    """Whether a line with its line break looks like one that we have written, and was not changed since."""
    return raw.startswith((OWN_EVENT, _NOTE)) and raw.endswith(b"}\n")


def is_note(line: bytes) -> bool:
    """Whether a line of ours has no event: it is a header, a mere commit mark, or of an entry without content."""
    return line.startswith(_NOTE)


def is_header(line: bytes) -> bool:
    """Whether a line of ours is the run's header."""
    return line.startswith(_HEADER)


def is_bare_mark(facts: Facts) -> bool:
    """Whether a line of ours has nothing but a commit mark."""
    return facts.start() == 1


def load_header(line: bytes) -> Header:
    """Load a header. Raises ValueError for a line that is none."""
    try:
        run = load(line)["$run"]
        parent, base = run.get("parent"), run.get("base")
        header = Header(
            run["run_id"],
            run["created_at"],
            None if parent is None else (str(parent[0]), int(parent[1])),
            int(run.get("identity", 0)),
            int(run.get("parent_identity", 0)),
            None if base is None else Cursor(int(base[0]), int(base[1])),
            tuple(Origin(int(upto), str(name)) for upto, name in run.get("origins", ())),
        )
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"no header: {type(error).__name__}: {error}") from error
    if not are_texts((header.run_id,)) or not is_time(header.created_at):
        raise ValueError("no header: a member is of another type")
    return header


def lane_and_seq_of(line: bytes) -> tuple[bytes, int] | None:
    """The lane of an event's line of ours, as JSON text, and its ``seq``; None for a line that does not read."""
    match = _LANE_AND_SEQ.match(line)
    if match is not None:
        return match[1], int(match[2])
    try:
        fields = load(line)
        return json.dumps(fields["lane_id"]).encode(), int(fields.get("seq", 0))
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def text_in(text: bytes) -> str:
    """A string of JSON that UTF-8 can carry. Raises ValueError for anything else."""
    if _TOKEN.fullmatch(text) is not None:
        return text[1:-1].decode()
    found = load(text)
    if not isinstance(found, str) or not is_utf8(found):
        raise ValueError("it is no string of UTF-8")
    return found


def own_entry(line: bytes, facts: Facts) -> ArchiveEntry:
    """The entry in a line of ours that is neither header nor bare mark."""
    offset, chain, begin = int(facts[1]), int(facts[2]), facts.start()
    key = None
    try:
        key = None if facts[3] is None else load(facts[3])
        if not is_note(line):
            return ArchiveEntry(offset, chain, key, line[: begin - 1].decode() + "}")
        if line.startswith(_ERASED):
            left = load(line)
            lane_id, seq = left.get("$lane", ""), left.get("$seq", 0)
            if not are_texts((lane_id,)) or type(seq) is not int:
                raise ValueError("a member is of another type")
            return ArchiveEntry(offset, chain, key, None, seq=seq, lane_id=lane_id)
        if line.startswith(_QUARANTINED):
            kept = load(line)
            raw = base64.b64decode(kept["$raw"], validate=True)
            at, reason = kept.get("$at", 0.0), kept["$quarantined"]
            if not is_time(at) or not are_texts((reason,)):
                raise ValueError("a member is of another type")
            return ArchiveEntry(offset, chain, key, None, raw, reason, quarantined_at=float(at))
        return ArchiveEntry(offset, chain, key, line[: begin - 1].decode() + "}")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        # the line was damaged; its offset and chain were not
        return ArchiveEntry(offset, chain, key, None, line, f"{DAMAGED_LINE}: {error}")


def readmitted_line(entry: ArchiveEntry, line: bytes) -> bytes | None:
    """The line that replaces one that is kept aside, once its record reads: with its line break.

    None for a line that does not keep aside what has the entry's cursor.
    """
    facts = facts_of(text := line.rstrip(b"\r\n"))
    if facts is None or not is_sound(text, facts) or not text.startswith(_QUARANTINED):
        return None
    if own_entry(text, facts).cursor != entry.cursor:
        return None
    try:
        mark = "" if facts[4] is None else f',"$commit":{facts[4].decode()}'
    except UnicodeDecodeError:  # a line of format 1 whose mark was damaged
        return None
    return _checked(f"{_content(entry)}{_cursor_members(entry)}{mark}")


def erased_line(entry: ArchiveEntry, mark: str = "") -> bytes:
    """The line that takes the place of one whose content goes; ``mark`` is the JSON of the commit mark it has."""
    commit = f',"$commit":{mark}' if mark else ""
    return _checked(f"{_content(entry)}{_cursor_members(entry)}{commit}")


def plain_entry(run_id: str, before: Cursor, line: bytes) -> ArchiveEntry:
    """The entry in a line that another program wrote, which follows ``before``.

    Its JSON means just what it says: ``{"$set": [1]}`` is that dict. One that is no event of this run
    is kept aside as it stands.
    """
    offset = before.offset + 1
    try:
        event = encode_foreign_event(run_id, {"ts": 0.0, **load_foreign_json(line)})
    except (ValueError, TypeError, EncodingError, InvalidRunId) as error:
        chain = next_chain(before.chain, zlib.crc32(line))
        return ArchiveEntry(offset, chain, None, None, line, f"{STRANGE_LINE}: {error}")
    return archive_entry(run_id, offset, next_chain(before.chain, record_crc(event.record)), event.record)


def _content(entry: ArchiveEntry) -> str:
    """A line of this entry up to where its offset follows."""
    if entry.data is not None:
        if entry.data[-1:] != "}" or "\n" in entry.data:
            raise EncodingError(f"the text of event {entry.offset} is not a JSON object in one line")
        return f"{entry.data[:-1]},"
    if entry.raw is None:
        lane = f'"$lane":{dump(entry.lane_id)},"$seq":{entry.seq},' if entry.lane_id else ""
        return f"{_ERASED.decode()}{lane}"
    kept = f'"$raw":"{base64.b64encode(entry.raw).decode()}","$at":{dump(entry.quarantined_at)}'
    return f'{{"$quarantined":{dump(entry.reason)},{kept},'


def _cursor_members(entry: ArchiveEntry | Cursor) -> str:
    members = f'"$offset":{entry.offset},"$chain":{entry.chain}'
    if isinstance(entry, ArchiveEntry) and entry.key is not None:
        members += f',"$key":{dump(entry.key)}'
    return members
