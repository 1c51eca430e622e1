"""One SQLite file, opened: shared by threads, survives a fork, and says what went wrong in our own words.

There is one connection per process and a lock around it: SQLite has one writer at a time anyhow, and
nothing is read or written here that holds the lock for longer than a page or a batch.

A fork is the danger. SQLite keeps the locks of a file in one table per process, and a child inherits that
table but not the locks: if it opens the file beside an inherited connection, it believes that it holds what
only its parent holds, and what it commits is lost when the parent closes the file. So the connection is
closed before a fork, and parent and child each open their own when they next need it.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runstream.model.errors import ConfigurationError, RunstreamError, StoreUnavailable
from runstream.stores.sqlite_schema import prepare, transaction

__all__ = ["ArchiveFile", "absolute_path"]

# SQLite's primary result codes that say more than "try again"
_ERRORS: dict[int, tuple[type[RunstreamError], str]] = {
    sqlite3.SQLITE_NOTADB: (ConfigurationError, "is not a SQLite database: name another file"),
    sqlite3.SQLITE_CANTOPEN: (
        ConfigurationError,
        "cannot be opened: it must be a file that can be written, in a directory that can be written",
    ),
    sqlite3.SQLITE_READONLY: (ConfigurationError, "cannot be written: see the permissions of file and directory"),
    sqlite3.SQLITE_PERM: (ConfigurationError, "cannot be opened: see the permissions of file and directory"),
    sqlite3.SQLITE_ERROR: (
        ConfigurationError,
        "does not have the tables of this version: another program has changed it; restore it from a copy",
    ),
    sqlite3.SQLITE_BUSY: (StoreUnavailable, "is locked by another connection; send the same again"),
    sqlite3.SQLITE_FULL: (StoreUnavailable, "has no room left; make room and send the same again"),
    sqlite3.SQLITE_CORRUPT: (StoreUnavailable, "is damaged; restore it from a copy and send the same again"),
}
_OTHERWISE = (StoreUnavailable, "does not answer; send the same again")


class ArchiveFile:
    """The file at ``path``, which is created if it is not there, and opened at the first use.

    ``busy_timeout_seconds`` is how long a writer waits for another one.
    """

    def __init__(self, path: str, busy_timeout_seconds: float) -> None:
        self.path = path
        self._busy_timeout_seconds = busy_timeout_seconds
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._is_closed = False
        with _files_lock:
            _files.add(self)

    @contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone.

        Raises ConfigurationError or StoreUnavailable in place of what sqlite3 raises.
        """
        with self._lock:
            if self._is_closed:
                raise ConfigurationError(f"the archive {self.path} was closed: open it again")
            try:
                if self._connection is None:
                    self._connection = _connect(self.path, self._busy_timeout_seconds)
                yield self._connection
            except sqlite3.Error as error:
                raise _in_our_words(self.path, error) from error

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """The connection in a transaction, which is durable when this ends and undone when it raises."""
        with self.use() as connection, transaction(connection):
            yield connection

    def close(self) -> None:
        """Close the file for good. Closing twice is fine."""
        with self._lock:
            self._is_closed = True
            self._disconnect()

    def before_fork(self) -> None:
        """Wait until no thread is at work and close the file; no thread gets at it until ``after_fork``."""
        self._lock.acquire()
        self._disconnect()

    def after_fork(self) -> None:
        """Go on, in the parent or in the child."""
        self._lock.release()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):  # all that was committed is in the file; the next opener tidies up
                connection.close()


def absolute_path(db_path: str | os.PathLike[str]) -> str:
    """The file that this names. Raises ConfigurationError for what names none."""
    path = os.fspath(db_path)
    if not isinstance(path, str) or path in ("", ":memory:") or "\0" in path:
        raise ConfigurationError(f"{path!r:.80} does not name a file; for runs in memory use InMemoryCheckpointer")
    return str(Path(path).absolute())


def _connect(path: str, busy_timeout_seconds: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path,
        timeout=busy_timeout_seconds,
        isolation_level=None,  # transactions begin where the code says so
        check_same_thread=False,  # the lock of ArchiveFile does that
    )
    try:
        connection.text_factory = _text_or_bytes
        prepare(connection, path, busy_timeout_seconds=busy_timeout_seconds)
    except BaseException:
        connection.close()
        raise
    return connection


def _text_or_bytes(stored: bytes) -> str | bytes:
    """A column's text; as bytes where it is damaged, so that only its own row is spoilt."""
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return stored


def _in_our_words(path: str, error: sqlite3.Error) -> RunstreamError:
    # extended codes have the primary one in their low byte; errors of the module itself have none
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    kind, what = _ERRORS.get(code, _OTHERWISE)
    return kind(f"the archive {path} {what} ({error})")


_files: weakref.WeakSet[ArchiveFile] = weakref.WeakSet()
_files_lock = threading.Lock()
_files_at_fork: list[ArchiveFile] = []


def _before_fork() -> None:
    _files_lock.acquire()
    _files_at_fork.extend(_files)
    for file in _files_at_fork:
        file.before_fork()


def _after_fork() -> None:
    for file in _files_at_fork:
        file.after_fork()
    _files_at_fork.clear()
    _files_lock.release()


if sys.platform != "win32":
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork, after_in_parent=_after_fork)
