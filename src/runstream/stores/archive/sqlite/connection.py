"""One SQLite file, opened: shared by threads, kept over a fork, with errors of runstream.

There is one connection per process and a lock around it: SQLite has one writer at a time anyhow, and
nothing is read or written here that holds the lock for longer than a page or a batch, a check of the whole
file excepted.

A fork is the danger. SQLite keeps the locks of a file in one table per process, and a child inherits that
table but not the locks: if it opens the file beside an inherited connection, it believes that it holds what
only its parent holds, and what it commits is lost when the parent closes the file. So the connection is
closed before a fork, and parent and child each open their own when they next need it.

So is a person, who removes the file while it is in use, or puts another in its place. Before each use, and
before a commit counts, the files at the archive's path must be those that are open; otherwise the
connection is given up. From then on no file is made, and only the archive that was opened first is opened
again, by its UUID: until it is back, every call raises StoreUnavailable.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from sys import getsizeof
from typing import Any, TypeVar
from urllib.parse import quote

from runstream.codec.pages import PAGE_BYTES
from runstream.model.errors import ConfigurationError, RunstreamError, StoreUnavailable
from runstream.operations.forks import held_over_fork
from runstream.stores.archive.access import make_file
from runstream.stores.archive.snapshot_history import KEPT_SNAPSHOTS
from runstream.stores.archive.sqlite.column_texts import fetched, text_or_bytes
from runstream.stores.archive.sqlite.file_identity import (
    FileIdentity,
    drop_log_from_cache,
    in_use_by_others,
    sync_log,
    sync_names,
)
from runstream.stores.archive.sqlite.foreign_rows import adopt_all, is_behind
from runstream.stores.archive.sqlite.queries import transaction
from runstream.stores.archive.sqlite.row_values import LARGE_COLUMN
from runstream.stores.archive.sqlite.schema import prepare

__all__ = ["ArchiveFile", "absolute_path", "is_damage"]

T = TypeVar("T")

_WAY_BACK = (
    "put the file back together with its -wal, or drop this archive from those that the namespace requires"
    " and add another"
)

# What SQLite's primary result codes mean. The first kind is raised by the first open: another path, or other
# rights, must be given. A file that was an archive before may become one again: the second kind, for all.
_ERRORS: dict[int, tuple[type[RunstreamError], str]] = {
    sqlite3.SQLITE_NOTADB: (
        ConfigurationError,
        "is not a SQLite database: name another file",
    ),
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
    sqlite3.SQLITE_IOERR: (
        StoreUnavailable,
        "cannot be read or written: see the disk, its room and the limits on files; send the same again",
    ),
}
# after which the same connection goes on. On a full disk another might not find the room for its files
_PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL)
_OTHERWISE = (StoreUnavailable, "does not answer; send the same again")


class ArchiveFile:
    """The file at ``path``, which is created if it is not there when this is made, and never later.

    Args:
        path: The file, absolute.
        busy_timeout_seconds: How long a writer waits for another one.
        mode: The permissions of a new file, which SQLite gives to its log and its index too; None: those that its
            directory suggests.
        keep_snapshots: How many snapshots of each run and of each lane a new file keeps; None: all.

    Attributes:
        archive_id: The archive's UUID.
        keep_snapshots: How many snapshots of each run and of each lane it keeps; None: all.

    Raises:
        ConfigurationError: The path cannot be an archive.
    """

    def __init__(
        self,
        path: str,
        busy_timeout_seconds: float,
        mode: int | None = None,
        keep_snapshots: int | None = KEPT_SNAPSHOTS,
    ) -> None:
        self.path = path
        self.archive_id = ""
        self.keep_snapshots = keep_snapshots
        self._busy_timeout_seconds = busy_timeout_seconds
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._seen_version = -1  # SQLite's number for what others have committed, when they were last looked after
        make_file(Path(os.path.realpath(path)), mode)
        self._identity = FileIdentity.of(path)
        self._is_closed = False
        held_over_fork(self)
        with self.use():
            pass

    @contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone. What purpose-agent wrote before is adopted by then.

        Raises ConfigurationError or StoreUnavailable in place of what sqlite3 and the system raise.
        """
        with self._opened() as connection:
            self._adopt(connection)
            yield connection

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone."""
        with self._lock:
            if self._is_closed:
                raise ConfigurationError(f"the archive {self.path} was closed: open it again")
            if self._connection is not None and self._connection.in_transaction:
                yield self._connection  # whoever began the transaction ends it, and says what went wrong
                return
            try:
                if self._connection is not None:
                    self._check_identity()
                yield self._connection or self._connect()
            except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
                if _code_of(error) not in _PASSING:
                    # it may be out of date: opened on a read-only file, or with pages that were never written
                    self._disconnect()
                raise self._translate(error) from error

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """The connection in a transaction, which is durable when this ends and undone when it raises.

        Where the files were removed or replaced meanwhile, StoreUnavailable is raised though it was committed.
        """
        with self._opened() as connection:
            with transaction(connection):
                version = _version_of(connection)
                if version != self._seen_version and is_behind(connection):
                    adopt_all(connection)  # what came before: its offsets are before this one's
                yield connection
            self._seen_version = version
            if connection.in_transaction:  # what this connection reads of it would be seen by nobody else
                self._disconnect()
                raise StoreUnavailable(f"the archive {self.path} did not commit; send the same again")
            self._check_identity()

    @contextmanager
    def at_one_moment(self) -> Iterator[sqlite3.Connection]:
        """The connection; what it reads is of one moment, that of the caller's transaction if there is one."""
        with self.use() as connection, ExitStack() as transactions:
            if not connection.in_transaction:
                transactions.enter_context(transaction(connection, "BEGIN"))
            yield connection

    @contextmanager
    def one_look(self) -> Iterator[None]:
        """Whatever this thread reads meanwhile is of one moment, in files that are the archive's at its end, too.

        Raises StoreUnavailable where they were removed or replaced meanwhile: what was read does not count.
        """
        with self.at_one_moment():
            yield
        with self._opened():
            pass

    def rows(self, queries: Sequence[str], parameters: Mapping[str, object] | Sequence[Any]) -> list[list[Any]]:
        """All rows of each query, as they were at one moment; see ``pages``."""
        return self._read(queries, parameters, sqlite3.Cursor.fetchall)

    def pages(self, queries: Sequence[str], parameters: dict[str, object]) -> list[tuple[list[Any], bool]]:
        """The first rows of each query, as they were at one moment, and whether they are all that there are.

        A page ends with the row with which it is ``PAGE_BYTES`` or more, or after ``rows`` of the parameters. A
        text that is damaged comes as bytes, so that only its own row is spoilt.
        """
        return self._read(queries, parameters, partial(_page, most=parameters["rows"]))

    def _read(
        self,
        queries: Sequence[str],
        parameters: Mapping[str, object] | Sequence[Any],
        fetch: Callable[[sqlite3.Cursor], T],
    ) -> list[T]:
        with self.at_one_moment() as connection:
            return fetched(connection, lambda: [fetch(connection.execute(query, parameters)) for query in queries])

    def read_anew(self, *, from_disk: bool = False) -> None:
        """Drop what SQLite remembers of the file, so that the next read comes from the file itself.

        With ``from_disk``, the system's memory of it too. That takes as long again as to read it, and shows only a
        disk that lied about its fsync.
        """
        with self.use() as connection:
            connection.execute("PRAGMA shrink_memory")
            if from_disk:
                drop_log_from_cache(self.path)

    def close(self) -> None:
        """Close the file for good. Closing twice is fine."""
        with self._lock:
            self._is_closed = True
            self._disconnect()

    def before_fork(self) -> None:
        """Wait until no thread uses the file, and close it; none may use it until ``after_fork``."""
        self._lock.acquire()
        self._disconnect()

    def after_fork(self) -> None:
        """Let threads use the file again, in the parent or in the child."""
        self._lock.release()

    # -- inside ------------------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        """Open the file: any, if it is the first time, and the same archive from then on."""
        before = FileIdentity.of(self.path)
        if self.archive_id and before.database is None:
            raise StoreUnavailable(f"{self.path} was removed while it was in use: {_WAY_BACK}")
        sync_log(self.path)
        connection = sqlite3.connect(
            f"file:{quote(os.fsencode(self.path))}?mode={'rw' if self.archive_id else 'rwc'}",
            uri=True,
            timeout=self._busy_timeout_seconds,
            isolation_level=None,  # transactions begin where the code says so
            check_same_thread=False,  # the lock of this object does that
        )
        try:
            connection.text_factory = text_or_bytes
            archive_id, kept = prepare(
                connection,
                self.path,
                busy_timeout_seconds=self._busy_timeout_seconds,
                keep_snapshots=self.keep_snapshots,
                archive_id=self.archive_id or None,
            )
            identity = FileIdentity.of(self.path)
            if None in identity.files or before.database not in (None, identity.database):
                raise StoreUnavailable(f"{self.path} was removed or replaced while it was opened: {_WAY_BACK}")
            sync_names(self.path)
        except BaseException:  # an interrupt too: nobody else would close it
            connection.close()
            raise
        self._connection, self._identity = connection, identity
        self.archive_id, self.keep_snapshots = archive_id, kept
        self._seen_version = -1
        return connection

    def _adopt(self, connection: sqlite3.Connection) -> None:
        """Adopt what another program has changed since the last look."""
        if connection.in_transaction:  # the caller's own, who has looked
            return
        version = _version_of(connection)
        if version != self._seen_version:
            if is_behind(connection):
                with transaction(connection):
                    adopt_all(connection)
            self._seen_version = version  # of before: what came meanwhile is looked for again

    def _check_identity(self) -> None:
        """Raise StoreUnavailable, and give the connection up, unless its files are still at the archive's path."""
        if (what := self._identity.changed()) is None:
            return
        connection, self._connection = self._connection, None
        if connection is not None:
            _leave(connection, self._identity)
        raise StoreUnavailable(f"{what}; nothing counts that was written since: {_WAY_BACK}")

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            _close(connection)

    def _translate(self, error: sqlite3.Error | OSError | UnicodeDecodeError) -> RunstreamError:
        """The error of runstream for one of sqlite3 or the operating system."""
        if isinstance(error, OSError):
            return StoreUnavailable(
                f"the archive {self.path}: {error.strerror or error}; see its disk, then send the same again"
            )
        kind, what = _ERRORS.get(_code_of(error), _OTHERWISE)
        if self.archive_id:
            kind = StoreUnavailable
        return kind(f"the archive {self.path} {what} ({error})")


def absolute_path(db_path: str | os.PathLike[str]) -> str:
    """The file that this names. Raises ConfigurationError for what names none."""
    path = os.fspath(db_path)
    if not isinstance(path, str) or path in ("", ":memory:") or "\0" in path:
        raise ConfigurationError(f"{path!r:.80} does not name a file; for runs in memory use InMemoryCheckpointer")
    return str(Path(path).absolute())


def _page(rows: sqlite3.Cursor, *, most: object) -> tuple[list[Any], bool]:
    page: list[Any] = []
    room = PAGE_BYTES
    for row in rows:
        page.append(row)
        room -= getsizeof(row[LARGE_COLUMN])
        if room <= 0:
            rows.close()
            return page, False
    return page, len(page) != most


def _close(connection: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):  # all that was committed is in the file; the next opener tidies up
        connection.close()


def _leave(connection: sqlite3.Connection, identity: FileIdentity) -> None:
    """Close the connection to files of which one was removed or replaced.

    What is only in the log goes into the database first: nobody else finds a log that was removed, and one
    that is still beside a database put there later must not be taken for that one's. But where others may have
    begun a log of their own, the last to close would write an older state over theirs, and remove it.
    """
    if not identity.is_taken():
        with suppress(sqlite3.Error):
            connection.execute("PRAGMA busy_timeout = 0")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        _close(connection)
    elif sys.version_info >= (3, 12):
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE)
        _close(connection)
    else:
        with in_use_by_others(identity.real):
            _close(connection)


def _version_of(connection: sqlite3.Connection) -> int:
    """A number that is another one once another connection has committed anything."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def is_damage(error: BaseException | None) -> bool:
    """Whether this is sqlite3's error for a file whose content is damaged."""
    return _code_of(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _code_of(error: BaseException | None) -> int:
    if isinstance(error, UnicodeDecodeError):
        return sqlite3.SQLITE_CORRUPT  # of a message of SQLite's own, about a name in a schema that is damaged
    # extended codes have the primary one in their low byte; errors of the module itself have none
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
