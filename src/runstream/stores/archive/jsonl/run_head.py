"""Read a run's head from no more than the two ends of its log."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from pathlib import Path

from runstream.model.results import Cursor
from runstream.model.run_head import RunHead
from runstream.model.tags import TagSet
from runstream.stores.archive.jsonl.commit_marks import Mark
from runstream.stores.archive.jsonl.damaged_lines import sound_facts
from runstream.stores.archive.jsonl.line_format import is_header, load_header

__all__ = ["head_from_ends", "head_from_header"]

_END_BYTES = 65536


def head_from_ends(run_id: str, file: io.BufferedReader) -> RunHead | None:
    """The run's head, if the log's first line is its header and the last one has a commit mark."""
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return None
    first = file.readline().removesuffix(b"\n")
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _END_BYTES))
    end = file.read()
    last_begin = end.rfind(b"\n", 0, -1) + 1
    last = end[last_begin:]
    (start_facts, _), (facts, _) = sound_facts(first), sound_facts(last.removesuffix(b"\n"))
    if start_facts is None or not is_header(first) or facts is None or facts[4] is None or last[-1:] != b"\n":
        return None
    if b"\0" in end or (not Mark.is_drained(facts[4]) and _may_be_overtaken(end[:last_begin])):
        return None
    try:
        mark, header = Mark.load(facts[4]), load_header(first)
    except ValueError:
        return None
    if header.run_id != run_id or not mark.status or (mark.tags.version and mark.tags.values is None):
        return None
    return RunHead(
        Cursor(int(start_facts[1]), int(start_facts[2])),
        Cursor(int(facts[1]), int(facts[2])),
        status=mark.status,
        session_id=mark.session_id,
        created_at=header.created_at,
        updated_at=mark.updated_at,
        parent=header.parent,
        base=header.base,
        origins=header.origins,
        tags=TagSet(mark.tags.version, mark.tags.values or {}),
        identity=header.identity,
        parent_identity=header.parent_identity,
    )


def head_from_header(run_id: str, path: Path) -> RunHead | None:
    """Where a run starts and what it comes from, if the first line of its log is its header; no more than that."""
    line = b""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), path.open("rb") as file:
        line = file.readline().removesuffix(b"\n")
    facts, _ = sound_facts(line)
    if facts is None or not is_header(line):
        return None
    try:
        header = load_header(line)
    except ValueError:
        return None
    if header.run_id != run_id:
        return None
    start = Cursor(int(facts[1]), int(facts[2]))
    return RunHead(
        start,
        start,
        created_at=header.created_at,
        parent=header.parent,
        identity=header.identity,
        parent_identity=header.parent_identity,
    )


def _may_be_overtaken(before: bytes) -> bool:
    """Whether another program's line stands right before the batch whose last line follows this text."""
    for line in reversed(before.split(b"\n")[1:-1]):
        facts, _ = sound_facts(line)
        if facts is None or facts[4] is not None:
            return facts is None
    return False
