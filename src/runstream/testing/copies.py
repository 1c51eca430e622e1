"""What a store or an archive holds of a run, read from its bytes without any of the program's own readers."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["Copy", "Place", "copy_in_archive", "copy_in_jsonl", "copy_in_stream", "is_left", "lacks", "places_of"]

Place: TypeAlias = tuple[int, int]
"""An event's offset and its chain."""

Copy: TypeAlias = Mapping[Place, str]
"""The marks of the events that one place holds, by where they lie in the run."""

_MARK = re.compile(rb"@[a-z.0-9]+/[a-z0-9]+@")

_ERASED = "~"
"""How the mark of what is left of an event begins whose content was erased: its offset follows."""


def is_left(mark: str) -> bool:
    """Whether this is the mark of what is left of an event whose content was erased."""
    return mark.startswith(_ERASED)


def lacks(copy: Copy, place: Place, mark: str) -> bool:
    """Whether a copy has not this event there; one that was erased in either is the same by its place."""
    there = copy.get(place)
    return there is None or not (there == mark or is_left(there) or is_left(mark))


def _mark_in(stored: bytes | str) -> str:
    (mark,) = _MARK.findall(stored.encode() if isinstance(stored, str) else stored)
    return str(mark.decode())


def copy_in_stream(raw: Any, key: str) -> Copy:
    """What a run's stream holds."""
    found = {}
    for entry_id, fields in raw.xrange(key):
        offset, chain = entry_id.split(b"-")
        found[int(offset), int(chain)] = (
            f"{_ERASED}{int(offset)}" if fields[b"e"] == b"\0" else _mark_in(fields[b"e"])
        )
    return found


def copy_in_sqlite(path: Path, run_id: str) -> Copy:
    """What a SQLite archive holds of a run."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT offset, chain, data FROM events WHERE run_id = ?", (run_id,)).fetchall()
    assert len({offset for offset, _, _ in rows}) == len(rows)
    return {(offset, chain): _mark_in(data) if data else f"{_ERASED}{offset}" for offset, chain, data in rows}


def copy_in_jsonl(directory: Path, run_id: str) -> Copy:
    """What a JSONL archive holds of a run, up to its last commit."""
    found: dict[Place, str] = {}
    pending: dict[Place, str] = {}
    path = directory / run_id.replace("~", "%7e") / "events.jsonl"
    # what follows the last line break was torn as its writer was killed, and a blank line is in the place of such
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for line in filter(bytes.strip, lines):
        document = json.loads(line)
        if "$run" in document:
            continue
        if "payload" in document or "$erased" in document:  # else it commits snapshots alone, at the last place
            place = (document["$offset"], document["$chain"])
            assert place not in found, document
            pending[place] = _mark_in(line) if "payload" in document else f"{_ERASED}{place[0]}"
        if "$commit" in document:
            found |= pending
            pending = {}
    return found


def copy_in_archive(path: Path, run_id: str) -> Copy:
    """What an archive holds of a run: a SQLite file, which has a suffix, or a JSONL directory."""
    if not path.exists():
        return {}
    return copy_in_sqlite(path, run_id) if path.suffix else copy_in_jsonl(path, run_id)


def places_of(stream: Copy, copies: Mapping[str, Copy]) -> Copy:
    """The marks of a run's events, by where they lie in Redis or in an archive."""
    places = dict(stream)
    for copy in copies.values():
        places |= copy
    return places
