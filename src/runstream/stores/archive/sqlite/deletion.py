"""Delete a run from a SQLite archive, and keep a deleted history from coming back.

Each function is one step within a transaction of its caller; ``now`` is Unix time in seconds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from runstream.stores.archive.sink_rules import DELETED_FOR_SECONDS
from runstream.stores.archive.sqlite.lease_table import in_force, remove_all
from runstream.stores.archive.sqlite.scrubbing import overwriting

__all__ = ["delete", "delete_rest", "note_deleted", "was_deleted"]

_DELETE_ROWS = (
    "DELETE FROM events WHERE run_id = ?",
    "DELETE FROM snapshots WHERE run_id = ?",
)
_DELETE_REST = (
    "DELETE FROM lane_snapshots WHERE run_id = ?",
    "DELETE FROM snapshot_history WHERE run_id = ?",
    "DELETE FROM lanes WHERE run_id = ?",
    "DELETE FROM ended_lanes WHERE run_id = ?",
    "DELETE FROM tags WHERE run_id = ?",
    "DELETE FROM quarantine WHERE run_id = ?",
    "DELETE FROM erasures WHERE run_id = ?",
    "DELETE FROM bases WHERE run_id = ?",
    "DELETE FROM runs WHERE run_id = ?",
)
_FORGET_RUN = (
    "DELETE FROM drained WHERE run_id = ?",
    "DELETE FROM losses WHERE run_id = ?",  # which the deletion of its rows has noted
)

_NOTE_DELETED = "INSERT OR REPLACE INTO deleted (run_id, start_chain, deleted_at) VALUES (?, ?, ?)"
_FORGET_DELETED = "DELETE FROM deleted WHERE deleted_at < ?"
_WAS_DELETED = "SELECT 1 FROM deleted WHERE run_id = ? AND start_chain = ?"


def delete(connection: sqlite3.Connection, now: float, run_id: str) -> bool:
    """Remove all that the file holds of a run. Raises LeaseHeld while a lease of it is in force."""
    statements = (*_DELETE_ROWS, *_DELETE_REST)
    with overwriting(connection):
        was_there = sum(connection.execute(statement, (run_id,)).rowcount for statement in statements) > 0
        for statement in _FORGET_RUN:
            connection.execute(statement, (run_id,))
    if was_there:
        remove_all(connection, now, run_id)  # if it raises, all is undone
    return was_there


def delete_rest(connection: sqlite3.Connection, now: float, run_id: str) -> None:
    """Remove what is left of a run whose events and state another program has deleted; leases in force stay."""
    with overwriting(connection):
        for statement in (*_DELETE_REST, *_FORGET_RUN):
            connection.execute(statement, (run_id,))
    if not in_force(connection, now, run_id):
        remove_all(connection, now, run_id)


def note_deleted(connection: sqlite3.Connection, now: float, run_id: str, creations: Iterable[int]) -> None:
    """Refuse these creations of a run for a week, and drop the notes that are older."""
    connection.execute(_FORGET_DELETED, (now - DELETED_FOR_SECONDS,))
    connection.executemany(_NOTE_DELETED, [(run_id, creation, now) for creation in creations])


def was_deleted(connection: sqlite3.Connection, run_id: str, creation: int) -> bool:
    """Whether this creation of a run was deleted here."""
    return connection.execute(_WAS_DELETED, (run_id, creation)).fetchone() is not None
