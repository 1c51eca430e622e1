"""Make a run's log anew without what is erased or truncated. Reads the log and touches nothing.

A line whose content goes is replaced by one that has its offset, chain, key, lane and ``seq``, and its commit
mark. One that another program wrote, or that was damaged, gets a commit mark of its own, as it counted by itself.
A mark at the end says what counts from then on. Of what is before the base of a history, such lines stay, behind
the header, where there is a key, or a lane's last event.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import BinaryIO

from runstream.model.archive_records import ArchiveEntry, RunHeader
from runstream.model.results import Cursor
from runstream.stores.archive.eraser import erased
from runstream.stores.archive.jsonl.commit_marks import Mark
from runstream.stores.archive.jsonl.damaged_lines import sound_facts
from runstream.stores.archive.jsonl.growing_files import until_cut
from runstream.stores.archive.jsonl.line_format import batch_text, erased_line, lane_and_seq_of, text_in
from runstream.stores.archive.jsonl.run_log import RunLog
from runstream.stores.archive.jsonl.spans import Span, lines_in

__all__ = ["rewritten"]


def rewritten(
    log: RunLog,
    file: BinaryIO,
    goes: Callable[[int], bool],
    header: RunHeader,
    base: Cursor | None,
    mark: Mark,
    former: Sequence[ArchiveEntry] = (),
) -> Iterator[bytes]:
    """The content of the log, as of its last refresh, without what goes.

    Args:
        log: The log.
        file: Its file, open.
        goes: Whether the content at an offset goes.
        header: The run's header, as it is from then on.
        base: The cursor before the first entry that stays; None: all stay.
        mark: The commit mark at the end.
        former: What is left of entries up to the base that the log has not got.
    """
    bare = Mark(mark.status, mark.updated_at, mark.session_id).dump()
    lasts = frozenset({**log.index.lanes, **{one.lane_id: one.offset for one in former}}.values())
    imported: set[str] = set()
    if base is not None:
        left = [*_left_before(log, file, base, lasts), *former]
        yield batch_text(header, base, left, Mark.load(bare.encode()))
    for raw, entry in _lines(log, file):
        if base is not None and (entry is None or entry.offset <= base.offset):
            continue  # the mark at the end says what a mark among them said
        if entry is None or not goes(entry.offset):
            yield raw if raw.endswith(b"\n") else raw + b"\n"
            continue
        imported.update(_imported(entry))
        facts, _ = sound_facts(raw.rstrip(b"\r\n"))
        commit = bare if facts is None else (facts[4] or b"").decode()
        yield erased_line(_left_of(entry, raw), commit)
    yield batch_text(None, log.index.last if base is None else max(log.index.last, base), (), mark)
    yield from _foreign(log, file, imported)


def _lines(log: RunLog, file: BinaryIO) -> Iterator[tuple[bytes, ArchiveEntry | None]]:
    """All lines that count, each with its entry."""
    known = log.index
    file.seek(0)
    before = known.header.base or known.start or Cursor(0, 0)
    span = Span(0, known.end, before, tuple(known.holes))
    return lines_in(log.run_id, span, until_cut(file))


def _left_before(log: RunLog, file: BinaryIO, base: Cursor, lasts: Collection[int]) -> Iterator[ArchiveEntry]:
    """What stays of the log's entries up to the base."""
    for raw, entry in _lines(log, file):
        if entry is not None and entry.offset <= base.offset and (entry.key is not None or entry.offset in lasts):
            yield _left_of(entry, raw)


def _left_of(entry: ArchiveEntry, raw: bytes) -> ArchiveEntry:
    """What is left of the entry in a line."""
    if entry.data is not None and entry.kind is None:
        found = lane_and_seq_of(raw)
        if found is not None:
            entry = entry._replace(lane_id=text_in(found[0]), seq=found[1])
    return erased(entry)


def _imported(entry: ArchiveEntry) -> Sequence[str]:
    """The digest of the other program's line that an entry was appended from, if it was."""
    origin = (entry.key or "").split(":")
    return origin[2:3] if origin[0] == "foreign" and len(origin) == 4 else ()


def _foreign(log: RunLog, file: BinaryIO, without: Collection[str]) -> Iterator[bytes]:
    """The lines of other programs that are no part of the history, but for copies of what is erased."""
    for begin, end in log.index.foreign:
        file.seek(begin)
        raw = file.read(end - begin)
        if hashlib.sha256(raw.strip()).hexdigest()[:32] not in without:
            yield raw
