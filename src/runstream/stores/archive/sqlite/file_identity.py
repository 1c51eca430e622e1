"""The files of a SQLite archive: whether they are still those that are open, and whether they are on the disk.

SQLite goes on writing to files that were removed or replaced, and what it commits there is lost. An archive
has three: the database, its log (``-wal``), and the log's index (``-shm``), in which connections keep their
locks. Two connections that have not all three in common do not see each other, and destroy the database.

Only the log is opened here, and not the other two unless their locks are void: closing any handle of a file
gives up every lock that the process has on it, and SQLite's are on the database and on the index.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from runstream.stores.archive.durable_files import drop_from_cache, sync, sync_directory

__all__ = ["FileIdentity", "drop_log_from_cache", "in_use_by_others", "sync_log", "sync_names"]

_Identity: TypeAlias = tuple[int, int]
_Identities: TypeAlias = tuple[_Identity | None, _Identity | None, _Identity | None]
# where SQLite's readers lock a database: begin and length, of its file format
_SHARED = (0x40000002, 510)
_SUFFIXES = ("", "-wal", "-shm")


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """The files at an archive's path: device and inode of each, None for one that is not there.

    ``real`` is where a symbolic link leads to: SQLite keeps log and index there, beside the database.
    """

    path: str
    real: str
    database: _Identity | None
    log: _Identity | None
    index: _Identity | None

    @classmethod
    def of(cls, path: str) -> FileIdentity:
        """Inspect the files at a path."""
        real = os.path.realpath(path)
        return cls(path, real, *_inspect(path, real))

    @property
    def files(self) -> _Identities:
        """Database, log and index."""
        return self.database, self.log, self.index

    def changed(self) -> str | None:
        """Say which file was removed or replaced since; None if all are the same."""
        now = _inspect(self.path, self.real)
        if now == self.files:
            return None
        for before, found, suffix in zip(self.files, now, _SUFFIXES, strict=True):
            if found != before:
                return f"{self.path}{suffix} was {'removed' if found is None else 'replaced'} while it was in use"
        return None

    def is_taken(self) -> bool:
        """Whether somebody else may have begun to write to this database, past this log or index."""
        database, log, index = _inspect(self.path, self.real)
        if database != self.database:
            return False
        if index not in (None, self.index):
            return True
        return log not in (None, self.log) and _size(f"{self.real}-wal") > 0


def sync_log(path: str) -> None:
    """Make the log on the disk equal to the log that the next opener reads.

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
    """Drop the log from the system's memory, so that it is read from the disk again."""
    handle = _open_log(path)
    if handle is not None:
        try:
            drop_from_cache(handle)
        finally:
            os.close(handle)


def sync_names(path: str) -> None:
    """Sync the names of the archive's files, so that they are found after a crash of the machine."""
    sync_directory(Path(path).resolve().parent)


@contextmanager
def in_use_by_others(database: str) -> Iterator[None]:
    """Hold a lock as if others had the database open, so that SQLite does not tidy up when a connection closes.

    For Python 3.11, whose sqlite3 has no setting for that. This process's connections to it are to be given up.
    """
    handle = os.open(database, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if sys.platform == "linux":
            # a lock of this handle, not of the process
            fcntl.fcntl(handle, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, *_SHARED, 0))
        yield
    finally:
        os.close(handle)


def _open_log(path: str) -> int | None:
    try:
        return os.open(f"{os.path.realpath(path)}-wal", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _inspect(path: str, real: str) -> _Identities:
    return _identity(path), _identity(f"{real}-wal"), _identity(f"{real}-shm")


def _identity(path: str) -> _Identity | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - three times at each call of a store: a Path takes twice as long
    except OSError:  # it cannot be reached: as good as not there
        return None
    return found.st_dev, found.st_ino


def _size(path: str) -> int:
    with suppress(FileNotFoundError):
        return Path(path).stat().st_size
    return 0
