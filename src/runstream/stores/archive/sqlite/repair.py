"""Repair a SQLite archive: find and readmit records that did not read, cut a branch off.

Each of the last two is one step within a transaction of its caller.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from runstream.model.archive_records import ArchiveEntry, EntryColumns, Position, RunHeader
from runstream.model.results import Cursor
from runstream.model.run_head import RunHead
from runstream.stores.archive.sink_rules import check_cut, is_same_run
from runstream.stores.archive.snapshot_history import tokens_before_cut
from runstream.stores.archive.sqlite.connection import ArchiveFile
from runstream.stores.archive.sqlite.queries import load_head, load_lane, replace_head, save_lanes
from runstream.stores.archive.sqlite.row_checksums import entry_checksum, run_seed
from runstream.stores.archive.sqlite.row_values import aside_in
from runstream.stores.archive.sqlite.snapshot_table import history_of, keep_only
from runstream.stores.archive.sqlite.tag_table import save_tags

__all__ = ["cut_back", "kept_aside", "readmit"]

_PAGE_ROWS = 1000

_GET_CHAIN = """SELECT chain FROM events WHERE run_id = :run_id AND offset = :offset
    UNION ALL SELECT chain FROM quarantine WHERE run_id = :run_id AND offset = :offset"""

# the record is still there, and is of this very history: or nothing is inserted
_READMIT = """INSERT INTO events (run_id, seq, ts, kind, lane_id, data, offset, chain, key, checksum)
    SELECT run_id, ?, ?, ?, ?, ?, offset, chain, ?, ? FROM quarantine
    WHERE run_id = ? AND offset = ? AND chain = ?"""
_RELEASE = "DELETE FROM quarantine WHERE run_id = ? AND offset = ?"

_GET_QUARANTINE = """SELECT run_id, offset, chain, key, raw, checksum, reason, quarantined_at FROM quarantine
    WHERE (run_id, offset) > (:run_id, :offset) AND (:only IS NULL OR run_id = :only)
    ORDER BY run_id, offset LIMIT :rows"""
_CUT = (
    "DELETE FROM events WHERE run_id = ? AND offset > ?",
    "DELETE FROM quarantine WHERE run_id = ? AND offset > ?",
    "DELETE FROM ended_lanes WHERE run_id = ? AND offset > ?",
)
_FORGET_BASE = "DELETE FROM bases WHERE run_id = ?"
_FORGET_LANES = "DELETE FROM lanes WHERE run_id = ?"
_COUNT_LANES = """SELECT run_id, lane_id, max(offset) FROM events
    WHERE run_id = ? AND offset IS NOT NULL AND lane_id <> '' GROUP BY lane_id"""
_GET_TOKENS = "SELECT lane_id, token FROM latest_states WHERE run_id = ?"
_CUT_RUN_STATE = "DELETE FROM snapshots WHERE run_id = ?"
_CUT_LANE_STATE = "DELETE FROM lane_snapshots WHERE run_id = ? AND lane_id = ?"
_FORGET_LOSS = "DELETE FROM losses WHERE run_id = ?"


def kept_aside(file: ArchiveFile, run_id: str | None) -> Iterator[tuple[str, ArchiveEntry]]:
    """The records in the quarantine, of one run or of all, with their run ids."""
    page: dict[str, Any] = {"run_id": "", "offset": 0, "only": run_id, "rows": _PAGE_ROWS}
    while True:
        with file.use() as connection:
            rows = connection.execute(_GET_QUARANTINE, page).fetchall()
        for row in rows:
            yield row[0], aside_in(*row)
        if len(rows) < _PAGE_ROWS:
            return
        page.update(run_id=rows[-1][0], offset=rows[-1][1])


def readmit(connection: sqlite3.Connection, run_id: str, entry: ArchiveEntry, columns: EntryColumns) -> bool:
    """Move a record from the quarantine to the events; False if it is not there."""
    checksum = entry_checksum(run_seed(run_id), *entry.cursor, entry.key, entry.data)
    values = (*columns, entry.data, entry.key, checksum, run_id, *entry.cursor)
    if connection.execute(_READMIT, values).rowcount == 0:
        return False
    connection.execute(_RELEASE, (run_id, entry.offset))
    last = load_lane(connection, run_id, columns.lane_id) or 0
    save_lanes(connection, [(run_id, columns.lane_id, max(last, entry.offset))])
    return True


def cut_back(connection: sqlite3.Connection, header: RunHeader, to: Position, expected: Cursor) -> None:
    """Remove what comes after ``to`` from a run; ``header`` is what the file notes of it from then on."""
    run_id, cursor = header.run_id, to.cursor
    head = load_head(connection, run_id)
    row = connection.execute(_GET_CHAIN, {"run_id": run_id, "offset": cursor.offset}).fetchone()
    found = None if row is None else Cursor(cursor.offset, row[0])
    if not check_cut(header, cursor, expected, head, found):
        return
    # of another history nothing stays, wherever that one starts
    keep = cursor.offset if head is not None and is_same_run(header, head) else -1
    for statement in _CUT:
        connection.execute(statement, (run_id, keep))
    connection.execute(_FORGET_LANES, (run_id,))
    save_lanes(connection, connection.execute(_COUNT_LANES, (run_id,)).fetchall())
    tokens = dict(connection.execute(_GET_TOKENS, (run_id,)))
    history = [kept.head for kept in history_of(connection, run_id) if kept.damage is None]
    keep_only(connection, run_id, history, tokens_before_cut(history, tokens, to, keep))
    for lane_id, token in tokens.items():
        if to.snapshots.get(lane_id) == token:
            continue
        if lane_id is None:
            connection.execute(_CUT_RUN_STATE, (run_id,))
        else:
            connection.execute(_CUT_LANE_STATE, (run_id, lane_id))
    connection.execute(_FORGET_LOSS, (run_id,))  # this one is wanted
    connection.execute(_FORGET_BASE, (run_id,))
    noted = RunHead(
        header.start,
        cursor,
        status=header.status,
        session_id=header.session_id,
        created_at=header.created_at,
        updated_at=header.updated_at,
        parent=header.parent or (None if head is None else head.parent),
        identity=header.identity,
        parent_identity=header.parent_identity,
        origins=header.origins,
        base=header.base if head is None or keep < head.before_first.offset else head.base,
    )
    replace_head(connection, run_id, noted)
    if header.tags is not None:
        save_tags(connection, run_id, header.tags)
