"""Repair a run's log: find and readmit records that did not read, cut a branch off.

Either of the last two rewrites the log completely under another name and renames that. The caller holds the run's
lock and has refreshed the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import BinaryIO

from runstream.model.archive_records import ArchiveEntry, Position, RunHeader
from runstream.model.errors import HistoryDiverged
from runstream.model.identifiers import check_run_id
from runstream.model.results import Cursor
from runstream.stores.archive.jsonl.commit_marks import Mark
from runstream.stores.archive.jsonl.growing_files import pieces
from runstream.stores.archive.jsonl.line_format import batch_text, readmitted_line
from runstream.stores.archive.jsonl.run_log import RunLog
from runstream.stores.archive.jsonl.run_logs import RunLogs
from runstream.stores.archive.jsonl.run_snapshots import kept_snapshots, latest_snapshots
from runstream.stores.archive.jsonl.run_tags import tags_of
from runstream.stores.archive.jsonl.spans import entries_in
from runstream.stores.archive.jsonl.tag_notes import TagNote
from runstream.stores.archive.sink_rules import check_cut
from runstream.stores.archive.snapshot_history import tokens_before_cut

__all__ = ["cut_back", "kept_aside", "readmit"]


class _Lines:
    """A file's lines from ``begin`` on, and where the one that was given last begins in it."""

    def __init__(self, file: BinaryIO, begin: int) -> None:
        self._file = file
        self.begin = self.end = begin
        self.line = b""

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(self.begin)
        for line in self._file:
            self.begin, self.end, self.line = self.end, self.end + len(line), line
            yield line


def kept_aside(logs: RunLogs, run_id: str | None) -> Iterator[tuple[str, ArchiveEntry]]:
    """The records in the quarantine, of one run or of all, with their run ids."""
    if run_id is not None:
        check_run_id(run_id)
    with logs.alone():
        run_ids = logs.directory.run_ids() if run_id is None else [run_id]
    for each in run_ids:
        spans = []
        with logs.reading(), suppress(*([HistoryDiverged] if run_id is None else [])):
            log = logs.log(each)
            log.refresh()
            spans = [(offset, log.span(offset - 1, offset)) for offset in log.index.kept_aside]
        for offset, span in spans:
            for entry in log.entries_between([span], offset, offset):
                yield each, entry


def readmit(log: RunLog, entry: ArchiveEntry) -> bool:
    """Replace the line that keeps an event's record aside by the event; False if there is no such line."""
    log.make_ready()
    found = _find(log, entry.offset)
    line = None if found is None else readmitted_line(entry, found.line)
    if found is None or line is None:
        return False
    with log.path.open("rb") as file:
        log.replace(file, chain(pieces(file, 0, found.begin), (line,), pieces(file, found.end, log.index.end)))
    return True


def cut_back(log: RunLog, header: RunHeader, to: Position, expected: Cursor) -> None:
    """Cut the log off after ``to``; a commit mark of its own says so, and which snapshots go with the rest."""
    known, cursor = log.index, to.cursor
    found = _find(log, cursor.offset)
    if not check_cut(header, cursor, expected, log.head(), None if found is None else found.entry.cursor):
        return
    log.make_ready()
    snapshots = list(latest_snapshots(log))
    latest = {one.lane_id: one.token for one in snapshots}
    dropped = tuple(lane_id for lane_id, token in latest.items() if to.snapshots.get(lane_id) != token)
    is_same = (known.start, known.header.identity) == (header.start, header.identity)
    common = cursor.offset if is_same else -1  # of another history nothing stays
    history = [kept.head for kept in kept_snapshots(log)]
    stay = tuple(tokens_before_cut(history, latest, to, common))
    noted = header.status, header.updated_at, header.session_id
    tags = TagNote.of(tags_of(log) if header.tags is None else header.tags)
    erased = tuple(known.telling.erased)
    saved = tuple(one for one in known.latest.items() if one[1] in stay and one[0] not in dropped)
    mark = Mark(*noted, saved, dropped, kept=stay, drained=known.is_drained, tags=tags, erased=erased)
    with log.path.open("rb") as file:
        if cursor == header.start:
            if is_same:  # of the same history it is a branch of the same run
                header = replace(header, parent=known.header.parent)
            log.replace(file, chain((batch_text(header, cursor, (), mark),), _foreign(log, file, 0)))
        elif found is not None:
            end = batch_text(None, cursor, (), mark)
            log.replace(file, chain(pieces(file, 0, found.end), (end,), _foreign(log, file, found.end)))
    log.rename_snapshots()


class _Found:
    """A line of the log, where it is in the file, and the entry in it."""

    def __init__(self, lines: _Lines, entry: ArchiveEntry) -> None:
        self.begin, self.end, self.line = lines.begin, lines.end, lines.line
        self.entry = entry


def _find(log: RunLog, offset: int) -> _Found | None:
    span = log.span(offset - 1, offset)
    if span.begin >= span.end:
        return None
    with log.path.open("rb") as file:
        lines = _Lines(file, span.begin)
        for entry in entries_in(log.run_id, span, lines):
            if entry.offset == offset:
                return _Found(lines, entry)
    return None


def _foreign(log: RunLog, file: BinaryIO, begin: int) -> Iterator[bytes]:
    """The lines of other programs from there on, which are no part of the history: they are not cut off."""
    for first, last in log.index.foreign:
        if first >= begin:
            yield from pieces(file, first, last)
