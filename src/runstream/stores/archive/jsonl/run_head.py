"""Where a run stands and what is noted of it, also from no more than the two ends of its log."""

from __future__ import annotations

import io
import os
import stat
from typing import NamedTuple

from runstream.model.results import Cursor
from runstream.stores.archive.jsonl.line_format import Mark, facts_of, is_header, load_header

__all__ = ["Standing", "glance"]

_GLANCE_BYTES = 65536


class Standing(NamedTuple):
    """Where a run stands and what is noted of it; times are Unix time in seconds."""

    start: Cursor
    last: Cursor
    session_id: str
    status: str | None  # None: nothing said so
    created_at: float
    updated_at: float
    is_foreign: bool = False  # only another program has written to it
    parent: tuple[str, int] | None = None


def glance(run_id: str, file: io.BufferedReader) -> Standing | None:
    """Where the run stands, if the first line is its header and the last one has a commit mark."""
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return None
    first = file.readline().removesuffix(b"\n")
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _GLANCE_BYTES))
    end = file.read()
    last = end[end.rfind(b"\n", 0, -1) + 1 :]
    head, facts = facts_of(first), facts_of(last.removesuffix(b"\n"))
    if head is None or not is_header(first) or facts is None or facts[4] is None or not last.endswith(b"\n"):
        return None
    if b"\0" in end:
        return None
    try:
        mark, (named, created_at, parent) = Mark.load(facts[4]), load_header(first)
    except (ValueError, KeyError, TypeError):
        return None
    if named != run_id:
        return None
    start, last_place = Cursor(int(head[1]), int(head[2])), Cursor(int(facts[1]), int(facts[2]))
    told = (mark.session_id, mark.status, created_at, mark.updated_at)
    return Standing(start, last_place, *told, parent=parent)
