"""Get what was erased out of a SQLite file: out of the free room of its pages, and out of its log.

SQLite leaves what was deleted in free pages, and copies of rows in the free room of pages that were split. With
``secure_delete`` it overwrites the row that is deleted, but not such copies; only to write the file anew leaves
nothing. Then the log, which has pages of before, is emptied. A file that is to be scrubbed is noted in the step
that erases, so that it is done after a crash too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["note_unscrubbed", "overwriting", "scrub"]

_REWRITE, _EMPTY_LOG = "rewrite", "empty log"
_NOTE = "INSERT OR REPLACE INTO unscrubbed (id, step) VALUES (1, ?)"
_GET = "SELECT step FROM unscrubbed"
_FORGET = "DELETE FROM unscrubbed"
_WAIT_MILLISECONDS = 2000
_HINDRANCES = {
    sqlite3.SQLITE_BUSY: "another connection is writing to it",
    sqlite3.SQLITE_LOCKED: "another connection is reading it",
    sqlite3.SQLITE_FULL: "there is no room to write it anew: that takes once more what it takes",
}


def note_unscrubbed(connection: sqlite3.Connection) -> None:
    """Note, in the transaction that erases, that the file has to be scrubbed."""
    connection.execute(_NOTE, (_REWRITE,))


@contextmanager
def overwriting(connection: sqlite3.Connection) -> Iterator[None]:
    """Let SQLite overwrite what is deleted meanwhile."""
    (former,) = connection.execute("PRAGMA secure_delete").fetchone()
    connection.execute("PRAGMA secure_delete = ON").fetchone()
    try:
        yield
    finally:
        connection.execute(f"PRAGMA secure_delete = {('OFF', 'ON', 'FAST')[former]}").fetchone()


def scrub(connection: sqlite3.Connection) -> str:
    """Scrub the file if that is to be done, outside of any transaction.

    Returns:
        Why it could not be finished; '' if nothing is left to do.
    """
    row = connection.execute(_GET).fetchone()
    if row is None:
        return ""
    (former,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute(f"PRAGMA busy_timeout = {min(former, _WAIT_MILLISECONDS)}").fetchone()
    try:
        if row[0] == _REWRITE:
            connection.execute("VACUUM")
            connection.execute(_NOTE, (_EMPTY_LOG,))
        is_busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            return "a reader holds its write-ahead log: it is emptied once that has finished"
        connection.execute(_FORGET)
    except sqlite3.OperationalError as error:
        hindrance = _HINDRANCES.get(error.sqlite_errorcode & 0xFF)
        if hindrance is None:
            raise
        return hindrance
    finally:
        connection.execute(f"PRAGMA busy_timeout = {former}").fetchone()
    return ""
