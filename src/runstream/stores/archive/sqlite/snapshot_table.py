"""The history of snapshots in a SQLite archive: the table ``snapshot_history``, beside the latest ones.

Each function is one step within a transaction of its caller. A row is never rewritten; rows of one lane are in
the order of their ids.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

from runstream.model.errors import CorruptRecordError
from runstream.model.run_head import SnapshotHead
from runstream.stores.archive.snapshot_history import UNKNOWN, KeptSnapshot
from runstream.stores.archive.sqlite.latest_snapshots import load_state
from runstream.stores.archive.sqlite.row_values import snapshot_head_in

__all__ = ["history_of", "keep_only", "keep_replaced", "keep_snapshot", "state_text"]

# one that is the latest again, since the server has lost the one after it, comes last
_KEEP = """INSERT OR REPLACE INTO snapshot_history
    (lane_id, run_id, state, archived_at, offset, revision, token, checksum, state_checksum)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
# one that was saved before there was a history, or by another program; asked without reading the state
_IS_UNKNOWN = """SELECT 1 FROM latest_states WHERE run_id = :run_id AND lane_id IS :lane_id
    AND NOT EXISTS (SELECT 1 FROM snapshot_history AS known
        WHERE known.run_id = latest_states.run_id AND known.token = latest_states.token)"""
_KEEP_REPLACED = """INSERT INTO snapshot_history
    (run_id, lane_id, offset, revision, token, archived_at, checksum, state_checksum, state)
    SELECT run_id, lane_id, offset, revision, token, :now, checksum, state_checksum, state FROM latest_states
    WHERE run_id = :run_id AND lane_id IS :lane_id"""
_DROP_OLD = """DELETE FROM snapshot_history WHERE run_id = :run_id AND lane_id IS :lane_id AND id <= (
    SELECT id FROM snapshot_history WHERE run_id = :run_id AND lane_id IS :lane_id
    ORDER BY id DESC LIMIT 1 OFFSET :keep)"""
_GET_HISTORY = """SELECT lane_id, offset, revision, token, checksum, state_checksum, id FROM snapshot_history
    WHERE run_id = ? ORDER BY id"""
_GET_LATEST = """SELECT lane_id, offset, revision, token, checksum, state_checksum, NULL FROM latest_states
    WHERE run_id = ? ORDER BY lane_id"""
_GET_STATE = "SELECT state, state_checksum FROM snapshot_history WHERE run_id = ? AND token = ?"
_DROP = "DELETE FROM snapshot_history WHERE run_id = ? AND token = ?"


def keep_replaced(connection: sqlite3.Connection, run_id: str, lane_id: str | None, now: float) -> None:
    """Keep the latest snapshot of the run or lane, which is about to be replaced, if the history lacks it."""
    parameters = {"run_id": run_id, "lane_id": lane_id, "now": now}
    if connection.execute(_IS_UNKNOWN, parameters).fetchone() is None:
        return
    with suppress(CorruptRecordError):  # one that was damaged is not kept
        load_state(connection, run_id, lane_id)
        connection.execute(_KEEP_REPLACED, parameters)


def keep_snapshot(
    connection: sqlite3.Connection, lane_id: str | None, columns: Sequence[Any], keep: int | None
) -> None:
    """Add a snapshot to the history, and drop all but the latest ``keep`` of its lane.

    Args:
        connection: In the transaction.
        lane_id: The lane; None: the run's own snapshot.
        columns: Run, state, time, offset, revision, token and the two checksums.
        keep: How many snapshots of the lane to keep; None: all.
    """
    if keep != 0:
        connection.execute(_KEEP, (lane_id, *columns))
    if keep is not None:
        connection.execute(_DROP_OLD, {"run_id": columns[0], "lane_id": lane_id, "keep": keep})


def history_of(connection: sqlite3.Connection, run_id: str) -> list[KeptSnapshot]:
    """The run's snapshots of all lanes in order; the latest comes last where the history lacks it."""
    rows = connection.execute(_GET_HISTORY, (run_id,)).fetchall()
    known = {row[3] for row in rows}
    rows += [row for row in connection.execute(_GET_LATEST, (run_id,)) if row[3] not in known]
    kept = []
    for *columns, stored_at in rows:
        try:
            kept.append(KeptSnapshot(snapshot_head_in(run_id, *columns), stored_at))
        except CorruptRecordError as error:
            kept.append(KeptSnapshot(UNKNOWN, stored_at, error))
    return kept


def state_text(connection: sqlite3.Connection, run_id: str, token: str) -> tuple[Any, Any] | None:
    """The state's JSON text, and its checksum; None if the history does not have it (any more)."""
    found: tuple[Any, Any] | None = connection.execute(_GET_STATE, (run_id, token)).fetchone()
    return found


def keep_only(
    connection: sqlite3.Connection, run_id: str, history: Sequence[SnapshotHead], tokens: Collection[str]
) -> None:
    """Drop all of the run's history but these."""
    stay = set(tokens)
    gone = [(run_id, head.token) for head in history if head.token not in stay]
    connection.executemany(_DROP, gone)
