"""The callers' keys in a SQLite archive: of its events, and of the records in its quarantine."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from runstream.codec.archive_entries import unread
from runstream.model.results import Cursor
from runstream.stores.archive.sqlite.queries import MOST_ASKED, entries_with
from runstream.stores.archive.sqlite.row_values import entries_in

__all__ = ["cursor_in", "load_keys"]

_KEY = 2  # the column


def load_keys(connection: sqlite3.Connection, run_id: str, keys: Iterable[str]) -> dict[str, Cursor]:
    """The cursors of a run's entries that have these keys. Raises CorruptRecordError for one that is damaged."""
    asked = list(keys)
    rows: dict[str, Any] = {}
    for begin in range(0, len(asked), MOST_ASKED):
        queries, parameters = entries_with("key", run_id, asked[begin : begin + MOST_ASKED])
        for query in queries:
            for row in connection.execute(query, parameters):
                rows.setdefault(row[_KEY], row)
    return {key: cursor_in(run_id, row) for key, row in rows.items()}


def cursor_in(run_id: str, row: Sequence[Any]) -> Cursor:
    """The cursor of the entry in a row. Raises CorruptRecordError where the row is damaged."""
    (entry,) = entries_in(run_id, [row])
    if entry.is_damaged:
        raise unread(run_id, entry, entry.reason)
    return entry.cursor
