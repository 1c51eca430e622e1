"""``snapshots.jsonl``: the history of a run's snapshots, each a line as its own file would be.

A line is on the disk before its batch is committed. It counts if a commit mark of the run's log names its token,
and not by itself: what a batch left here that was torn, taken back or cut off is passed over. So the log alone
decides, and this file may be appended to and rewritten without it.

The caller holds the run's lock while it writes.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from runstream.model.archive_records import ArchiveSnapshot
from runstream.model.errors import CorruptRecordError
from runstream.stores.archive.access import open_file
from runstream.stores.archive.durable_files import sync, sync_directory
from runstream.stores.archive.jsonl import file_names
from runstream.stores.archive.jsonl.damaged_lines import came_whole
from runstream.stores.archive.jsonl.file_locks import write_all
from runstream.stores.archive.jsonl.growing_files import until_cut
from runstream.stores.archive.jsonl.snapshot_files import (
    facts_of_snapshot,
    parse_snapshot,
    snapshot_text,
)
from runstream.stores.archive.snapshot_history import UNKNOWN, KeptSnapshot, latest_of

__all__ = ["SnapshotHistoryFile"]

_END = re.compile(rb'"\$checksum":\d{1,10}\}')
_CHUNK_BYTES = 1 << 16
_FLAGS = os.O_RDWR | os.O_CREAT


class SnapshotHistoryFile:
    """The file in a run's directory, which has ``snapshots.jsonl`` from its first snapshot on."""

    def __init__(self, directory: Path, run_id: str) -> None:
        self._run_id = run_id
        self._path = directory / file_names.SNAPSHOTS
        self._lines: int | None = None  # None: not counted yet

    def append(self, lines: Sequence[bytes], former: Callable[[], Iterable[ArchiveSnapshot]]) -> int:
        """Add contents of snapshots; where they begin. They are on the disk then; a new name may not be yet.

        A new file begins with the ``former`` snapshots, of a version that kept none.
        """
        if not self.exists():
            lines = [*map(snapshot_text, former()), *lines]
        handle = open_file(self._path, _FLAGS)
        end = os.lseek(handle, 0, os.SEEK_END)
        try:
            if end and os.pread(handle, 1, end - 1) != b"\n":
                end = _end_line(handle, end)
            for line in lines:
                write_all(handle, line)
            sync(handle)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, end)
            raise
        finally:
            os.close(handle)
        before = self._lines if end else 0
        self._lines = None if before is None else before + len(lines)
        return end

    def cut(self, end: int) -> None:
        """Take back what was appended there, of a batch that was not committed, where that can be done."""
        self._lines = None
        with contextlib.suppress(OSError):
            if self._path.stat().st_size > end:
                os.truncate(self._path, end)

    def exists(self) -> bool:
        """Whether there is one."""
        return self._path.exists()

    def kept(self, counts: Callable[[str], bool | None]) -> list[KeptSnapshot]:
        """The snapshots whose token counts (None: nobody knows), in the order in which they were saved.

        One of which the line was damaged, or of which nobody knows, has its damage in place of its facts.
        """
        found: dict[Any, KeptSnapshot] = {}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), self._path.open("rb") as file:
            for one in _lines_of(file, self._run_id):
                name = one.head.token if one.damage is None else one.stored_at
                if one.damage is None and (is_known := counts(one.head.token)) is not True:
                    if is_known is None:
                        found[name] = one._replace(head=UNKNOWN, damage=_damaged(self._run_id, one.stored_at[0]))
                    continue
                found.pop(name, None)  # a batch that was sent again has it twice
                found[name] = one
        return list(found.values())

    def load(self, run_id: str, kept: KeptSnapshot) -> ArchiveSnapshot | None:
        """The snapshot, also if it has moved since; None if it has been dropped.

        Raises CorruptRecordError where its text does not read.
        """
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), self._path.open("rb") as file:
            if kept.stored_at is not None:
                file.seek(kept.stored_at[0])
                line = file.read(kept.stored_at[1])
                if _token_in(line) == kept.head.token:
                    return parse_snapshot(run_id, kept.head.lane_id, line)
                file.seek(0)
            for line in until_cut(file):
                if _token_in(line) == kept.head.token:
                    return parse_snapshot(run_id, kept.head.lane_id, line)
        return None

    def drop_old(self, keep: int, counts: Callable[[str], bool | None]) -> None:
        """Leave no more than the latest ``keep`` of each lane, and do it seldom: up to twice as many may stay.

        The latest one of each stays: its own file may not be on the disk.
        """
        keep = max(keep, 1)
        if not self.exists():
            return
        if self._lines is None:
            self._lines = self._count()
        kept = None
        if self._lines > 2 * keep:
            kept = latest_of(self.kept(counts), keep)
        if kept is None or self._lines <= 2 * len(kept):
            return
        self.rewrite(kept)

    def rewrite(self, kept: Sequence[KeptSnapshot]) -> None:
        """Leave these and nothing else."""
        rewritten = self._path.with_name(file_names.SNAPSHOTS_REWRITTEN)
        with self._path.open("rb") as file:
            handle = open_file(rewritten, _FLAGS | os.O_TRUNC, self._path)
            try:
                for one in kept:
                    file.seek(one.stored_at[0])
                    write_all(handle, file.read(one.stored_at[1]))
                sync(handle)
            finally:
                os.close(handle)
        rewritten.replace(self._path)
        sync_directory(self._path.parent)
        self._lines = len(kept)

    def _count(self) -> int:
        with self._path.open("rb") as file:
            return sum(1 for _ in file)


def _end_line(handle: int, end: int) -> int:
    """End the last line, or cut it off if it was torn as its writer was killed; where the file ends then."""
    begin, tail = end, b""
    while begin > 0 and b"\n" not in tail:
        begin = max(0, begin - _CHUNK_BYTES)
        tail = os.pread(handle, end - begin, begin)
    line = tail[tail.rfind(b"\n") + 1 :]
    if facts_of_snapshot(line) is not None or _has_lost_its_break(line):
        write_all(handle, b"\n")
        return end + 1
    os.ftruncate(handle, end - len(line))
    return os.lseek(handle, 0, os.SEEK_END)


def _has_lost_its_break(line: bytes) -> bool:
    """Whether another byte is where the line break was: it came whole, and was damaged later."""
    return not line.endswith(b"\n") and facts_of_snapshot(line[:-1]) is not None


def _token_in(line: bytes) -> str | None:
    facts = facts_of_snapshot(line)
    return None if facts is None else facts.head.token


def _lines_of(file: BinaryIO, run_id: str) -> Iterator[KeptSnapshot]:
    """The lines that came whole, with where each begins in the file and its length in bytes."""
    begin = file.tell()
    for line in until_cut(file):
        stored_at = (begin, len(line))
        begin += len(line)
        facts = facts_of_snapshot(line)
        if facts is not None and line.endswith(b"\n"):
            if _END.search(line, 0, facts.begin) is not None and not facts.is_of(line):
                # a line break was damaged: there is another one in front of it
                yield KeptSnapshot(UNKNOWN, stored_at, _damaged(run_id, stored_at[0]))
            yield KeptSnapshot(facts.head, stored_at)
        elif (line.endswith(b"\n") and came_whole(line[:-1])) or _has_lost_its_break(line):
            yield KeptSnapshot(UNKNOWN, stored_at, _damaged(run_id, stored_at[0]))


def _damaged(run_id: str, begin: int) -> CorruptRecordError:
    return CorruptRecordError(
        f"a snapshot of run {run_id!r}, at byte {begin} of its snapshots.jsonl, does not read, or nobody knows"
        " whether it was committed: restore the directory from a copy",
        run_id=run_id,
        offset=0,
    )
