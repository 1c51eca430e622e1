"""Give the rows of a SQLite archive that came without a checksum one, once what they hold was proven.

They are of a file of version 1. The chain proves an event: its record, made again, gives the chain that it has. A
snapshot has no other proof than that it reads. Each function is one step within a connection of its caller.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from runstream.model.archive_records import ArchiveEntry
from runstream.stores.archive.sqlite.row_checksums import (
    aside_checksum,
    entry_checksum,
    run_seed,
    snapshot_checksums,
)

__all__ = ["fill_entries", "fill_snapshots", "has_unproven", "has_unproven_snapshots"]

_GET_UNPROVEN = """SELECT 1 FROM events WHERE run_id = :run_id AND offset BETWEEN :first AND :last
    AND checksum IS NULL
    UNION ALL SELECT 1 FROM quarantine WHERE run_id = :run_id AND offset BETWEEN :first AND :last
    AND checksum IS NULL LIMIT 1"""
# only what still is as it was proven
_FILL_EVENT = """UPDATE events SET checksum = ?
    WHERE run_id = ? AND offset = ? AND chain = ? AND key IS ? AND data = ? AND checksum IS NULL"""
_FILL_ASIDE = """UPDATE quarantine SET checksum = ?
    WHERE run_id = ? AND offset = ? AND chain = ? AND key IS ? AND raw = ? AND reason = ? AND quarantined_at = ?
    AND checksum IS NULL"""
_GET_SNAPSHOTS = (
    """SELECT run_id, NULL, offset, revision, token, state FROM snapshots
    WHERE run_id = ? AND checksum IS NULL AND token NOT NULL""",
    """SELECT rowid, lane_id, offset, revision, token, state FROM lane_snapshots
    WHERE run_id = ? AND checksum IS NULL""",
    """SELECT id, lane_id, offset, revision, token, state FROM snapshot_history
    WHERE run_id = ? AND checksum IS NULL""",
)
_FILL_SNAPSHOT = (
    "UPDATE snapshots SET checksum = ?, state_checksum = ? WHERE run_id = ?",
    "UPDATE lane_snapshots SET checksum = ?, state_checksum = ? WHERE rowid = ?",
    "UPDATE snapshot_history SET checksum = ?, state_checksum = ? WHERE id = ?",
)


def has_unproven(connection: sqlite3.Connection, run_id: str, first: int, last: int) -> bool:
    """Whether an entry at one of these offsets has no checksum yet."""
    page = {"run_id": run_id, "first": first, "last": last}
    return connection.execute(_GET_UNPROVEN, page).fetchone() is not None


def fill_entries(connection: sqlite3.Connection, run_id: str, entries: Iterable[ArchiveEntry]) -> None:
    """Give entries that were proven their checksums, where they have none."""
    seed, events, aside = run_seed(run_id), [], []
    for entry in entries:
        if entry.raw is None:
            checksum = entry_checksum(seed, *entry.cursor, entry.key, entry.data)
            events.append((checksum, run_id, *entry.cursor, entry.key, entry.data or ""))
        else:
            row = (run_id, *entry.cursor, entry.key, entry.raw, entry.reason, entry.quarantined_at)
            aside.append((aside_checksum(*row), *row))
    connection.executemany(_FILL_EVENT, events)
    connection.executemany(_FILL_ASIDE, aside)


def has_unproven_snapshots(connection: sqlite3.Connection, run_id: str) -> bool:
    """Whether a snapshot of a run has no checksum yet."""
    return any(connection.execute(query, (run_id,)).fetchone() for query in _GET_SNAPSHOTS)


def fill_snapshots(connection: sqlite3.Connection, run_id: str) -> None:
    """Give the snapshots of a run that read their checksums, where they have none."""
    for query, fill in zip(_GET_SNAPSHOTS, _FILL_SNAPSHOT, strict=True):
        for row_id, *snapshot in connection.execute(query, (run_id,)).fetchall():
            connection.execute(fill, (*snapshot_checksums(run_id, snapshot), row_id))
