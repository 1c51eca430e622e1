"""What was asked to be erased, in a SQLite archive: the table ``erasures``.

Each function is one step within a transaction of its caller.
"""

from __future__ import annotations

import sqlite3

from runstream.model.archive_records import RunHeader
from runstream.model.erasures import ErasureNote
from runstream.stores.archive.sqlite.row_checksums import row_checksum
from runstream.stores.archive.sqlite.row_values import damaged_row

__all__ = ["load_notes", "note_erasure"]

_GET = """SELECT creation, requested_at, what, checksum FROM erasures
    WHERE run_id = :run_id AND creation = coalesce(:creation, creation) ORDER BY id"""
_ADD = """INSERT OR IGNORE INTO erasures (run_id, creation, requested_at, what, checksum) VALUES (?, ?, ?, ?, ?)"""


def load_notes(connection: sqlite3.Connection, run_id: str, creation: int | None) -> list[ErasureNote]:
    """The erasures that are noted of a run, or (None) of all runs of that name, in the order in which they came.

    Raises CorruptRecordError for a note that does not read.
    """
    notes = []
    for row in connection.execute(_GET, {"run_id": run_id, "creation": creation}):
        *columns, checksum = row
        if checksum != row_checksum(run_id, *columns):
            raise damaged_row(run_id, f"what was erased of run {run_id!r:.600}")
        _, requested_at, what = columns
        notes.append(ErasureNote.parse(requested_at, what))
    return notes


def note_erasure(connection: sqlite3.Connection, run: RunHeader, note: ErasureNote) -> ErasureNote:
    """Note an erasure, unless the same was noted before; gives what is noted."""
    columns = (run.creation, float(note.requested_at), note.text)
    connection.execute(_ADD, (run.run_id, *columns, row_checksum(run.run_id, *columns)))
    return next(one for one in load_notes(connection, run.run_id, run.creation) if one.text == note.text)
