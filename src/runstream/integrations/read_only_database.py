"""Read SQLite files that other programs write: nothing is changed in them, and nothing is left beside them."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from runstream.model.errors import ConfigurationError, StoreUnavailable

__all__ = ["ReadOnlyDatabase", "is_database"]


_HEADER = b"SQLite format 3\0"


def is_database(path: Path) -> bool:
    """Whether a file begins as those of SQLite do. Raises ConfigurationError for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(_HEADER)) == _HEADER
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path}: there is nothing at that path") from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}") from error


class ReadOnlyDatabase:
    """A SQLite file that is only read. Each query is a read of its own, so that no writer waits for long.

    Args:
        path: The file.

    Raises:
        StoreUnavailable: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._log = Path(f"{path}-wal")
        self._had_log = self._log.exists()
        with _reading(path):
            self._connection = _open_read_only(path)

    def rows(self, query: str, parameters: Any = ()) -> list[Any]:
        """The rows that a query finds. Raises StoreUnavailable where the database does not answer."""
        with _reading(self.path):
            return self._connection.execute(query, parameters).fetchall()

    def columns(self, table: str) -> set[str]:
        """The names of a table's columns; none of one that is not there."""
        return {name for (name,) in self.rows("SELECT name FROM pragma_table_info(?)", (table,))}

    def close(self) -> None:
        """Close the file, and leave nothing beside it that was not there."""
        self._connection.close()
        if not self._had_log and self._log.exists() and self._log.stat().st_size == 0:
            # who may only read leaves them where they are; the last one who may write does not
            with contextlib.suppress(sqlite3.Error), contextlib.closing(_open(self.path, "mode=rw")) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _open_read_only(path: Path) -> sqlite3.Connection:
    for how in ("mode=ro", "mode=ro&immutable=1"):
        connection = _open(path, how)
        connection.text_factory = lambda stored: stored.decode(errors="surrogateescape")
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            connection.close()
            # a write-ahead log in a directory that cannot be written: if there is none, nobody has it open
            is_refused = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CANTOPEN
            if not is_refused or "immutable" in how or Path(f"{path}-wal").exists():
                raise
        else:
            break
    return connection


def _open(path: Path, how: str) -> sqlite3.Connection:
    url = f"file:{quote(os.fsencode(path.absolute()))}?{how}"
    return sqlite3.connect(url, uri=True, timeout=30.0, isolation_level=None)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise StoreUnavailable in place of what sqlite3 raises."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreUnavailable(
            f"{path} cannot be read ({error}); see the file, then send the same again"
        ) from error
