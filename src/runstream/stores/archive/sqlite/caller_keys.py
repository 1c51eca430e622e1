"""The callers' keys in a SQLite archive: of its events, and of the records in its quarantine."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from runstream.codec.archive_entries import unread
from runstream.model.results import Cursor
from runstream.stores.archive.sqlite.queries import ASIDE, EVENT
from runstream.stores.archive.sqlite.row_values import entries_in

__all__ = ["cursor_in", "load_keys"]

_GET_KEY = tuple(f"{what} WHERE run_id = ? AND key = ? ORDER BY offset LIMIT 1" for what in (EVENT, ASIDE))


def load_keys(connection: sqlite3.Connection, run_id: str, keys: Iterable[str]) -> dict[str, Cursor]:
    """The cursors of a run's entries that have these keys. Raises CorruptRecordError for one that is damaged."""
    found = {}
    for key in keys:
        rows = (connection.execute(query, (run_id, key)).fetchone() for query in _GET_KEY)
        row = next((row for row in rows if row is not None), None)
        if row is not None:
            found[key] = cursor_in(run_id, row)
    return found


def cursor_in(run_id: str, row: Sequence[Any]) -> Cursor:
    """The cursor of the entry in a row. Raises CorruptRecordError where the row is damaged."""
    (entry,) = entries_in(run_id, [row])
    if entry.is_damaged:
        raise unread(run_id, entry, entry.reason)
    return entry.cursor
