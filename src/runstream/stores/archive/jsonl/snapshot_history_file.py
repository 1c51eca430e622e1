"""``snapshots.jsonl``: the history of a run's snapshots, each a line as its own file would be.

A line is on the disk before its batch is committed. It counts if a commit mark of the run's log names its token,
and not by itself: what a batch left here that was torn, taken back or cut off is passed over. So the log alone
decides, and this file may be appended to and rewritten without it.

The caller holds the run's lock while it writes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from runstream.model.archive_records import ArchiveSnapshot
from runstream.stores.archive.access import open_file
from runstream.stores.archive.durable_files import sync, sync_directory
from runstream.stores.archive.jsonl import file_names
from runstream.stores.archive.jsonl.file_locks import write_all
from runstream.stores.archive.jsonl.snapshot_files import facts_of_snapshot, parse_snapshot, snapshot_text
from runstream.stores.archive.snapshot_history import KeptSnapshot, latest_of

__all__ = ["SnapshotHistoryFile"]

_FLAGS = os.O_RDWR | os.O_CREAT


class SnapshotHistoryFile:
    """The file in a run's directory, which has ``snapshots.jsonl`` from its first snapshot on."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / file_names.SNAPSHOTS
        self._lines: int | None = None  # None: not counted yet

    def append(self, snapshots: Sequence[ArchiveSnapshot]) -> int:
        """Add lines; where they begin. They are on the disk then; the name of a new file may not be yet."""
        handle = open_file(self._path, _FLAGS)
        end = os.lseek(handle, 0, os.SEEK_END)
        try:
            if end and os.pread(handle, 1, end - 1) != b"\n":
                write_all(handle, b"\n")  # after the torn line of somebody who was killed
            for snapshot in snapshots:
                write_all(handle, snapshot_text(snapshot))
            sync(handle)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, end)
            raise
        finally:
            os.close(handle)
        if self._lines is not None:
            self._lines += len(snapshots)
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

    def kept(self, counts: Callable[[str], bool]) -> list[KeptSnapshot]:
        """The snapshots whose token counts, in the order in which they were saved."""
        found: dict[str, KeptSnapshot] = {}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), self._path.open("rb") as file:
            for one in _lines_of(file):
                if counts(one.head.token):
                    found.pop(one.head.token, None)  # a batch that was sent again has it twice
                    found[one.head.token] = one
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
            for line in file:
                if _token_in(line) == kept.head.token:
                    return parse_snapshot(run_id, kept.head.lane_id, line)
        return None

    def drop_old(self, keep: int, counts: Callable[[str], bool]) -> None:
        """Leave no more than the latest ``keep`` of each lane, and do it seldom: up to twice as many may stay."""
        if not self.exists():
            return
        if self._lines is None:
            self._lines = self._count()
        kept = None
        if self._lines > 2 * max(keep, 1):
            kept = latest_of(self.kept(counts), keep)
        if kept is None or self._lines <= 2 * len(kept):
            return
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


def _token_in(line: bytes) -> str | None:
    facts = facts_of_snapshot(line)
    return None if facts is None else facts.head.token


def _lines_of(file: BinaryIO) -> Iterator[KeptSnapshot]:
    """The lines that read, with where each begins in the file and its length in bytes."""
    begin = file.tell()
    for line in file:
        stored_at = (begin, len(line))
        begin += len(line)
        facts = facts_of_snapshot(line)
        if facts is not None and line.endswith(b"\n"):
            yield KeptSnapshot(facts.head, stored_at)
