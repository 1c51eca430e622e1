"""Where a SQLite archive lies: whether its files are still those that are open, and what of them is on the disk.

SQLite goes on writing to files that were removed or replaced, and what it commits there is lost. An archive
has three: the database, its log (``-wal``), and the log's index (``-shm``), in which connections keep their
locks. Two connections that have not all three in common do not see each other, and destroy the database.

Only the log is opened here, never the other two: closing any handle of a file gives up every lock that the
process has on it, and SQLite's are on the database and on the index.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple, TypeAlias

from runstream.stores.disk import drop_from_cache, sync, sync_directory

__all__ = ["Place", "drop_log_from_cache", "sync_log", "sync_names"]

_Identity: TypeAlias = tuple[int, int]


class Place(NamedTuple):
    """The device and inode of each file of an archive; None for one that is not there."""

    database: _Identity | None
    log: _Identity | None
    index: _Identity | None

    @classmethod
    def of(cls, path: str) -> Place:
        """What lies at this path now."""
        # as SQLite does: the log lies beside the file that a link leads to
        real = os.path.realpath(path)
        return cls(*(_identity(f"{real}{suffix}") for suffix in ("", "-wal", "-shm")))

    def changed(self, path: str) -> str | None:
        """What is not as it was when this was the place: that, with its file's name; or None."""
        now = Place.of(path)
        if now == self:
            return None
        for before, found, suffix in zip(self, now, ("", "-wal", "-shm"), strict=True):
            if found != before:
                return f"{path}{suffix} was {'removed' if found is None else 'replaced'} while it was in use"
        raise AssertionError("two places that differ differ in one of their files")

    def is_taken(self, path: str) -> bool:
        """Whether somebody else may have begun to write to the database of this place, past our log or index."""
        now = Place.of(path)
        if now.database != self.database:
            return False
        if now.index not in (None, self.index):
            return True
        return now.log not in (None, self.log) and os.path.getsize(f"{os.path.realpath(path)}-wal") > 0


def sync_log(path: str) -> None:
    """Let the log on the disk be the log that the next opener reads.

    A process may have been killed between its last write and its fsync, or its fsync may have failed: SQLite
    would take for committed what it finds in the system's memory.
    """
    handle = _open_log(path)
    if handle is not None:
        try:
            sync(handle)
            drop_from_cache(handle)
        finally:
            os.close(handle)


def drop_log_from_cache(path: str) -> None:
    """Let the log be read from the disk again."""
    handle = _open_log(path)
    if handle is not None:
        try:
            drop_from_cache(handle)
        finally:
            os.close(handle)


def sync_names(path: str) -> None:
    """Let the archive's files be found after a crash of the machine."""
    sync_directory(Path(path).resolve().parent)


def _open_log(path: str) -> int | None:
    try:
        return os.open(f"{os.path.realpath(path)}-wal", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _identity(path: str) -> _Identity | None:
    try:
        found = os.stat(path)
    except OSError:  # it cannot be reached: as good as not there
        return None
    return found.st_dev, found.st_ino
