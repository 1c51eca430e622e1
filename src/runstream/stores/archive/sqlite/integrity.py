"""Read the facts that a SQLite archive keeps beside its histories, to compare the two.

Each function reads within a connection of its caller.
"""

from __future__ import annotations

import sqlite3

from runstream.model.archive_records import EntryColumns
from runstream.model.errors import CorruptRecordError
from runstream.stores.archive.sqlite.lane_rows import load_ends
from runstream.stores.archive.sqlite.queries import damaged_heads
from runstream.stores.archive.sqlite.row_values import lane_offset_in, snapshot_head_in, state_in
from runstream.stores.archive.sqlite.tag_table import load_tags

__all__ = ["columns_between", "errors_beside", "file_problems", "noted_lanes"]

_GET_COLUMNS = """SELECT offset, seq, ts, kind, lane_id FROM events
    WHERE run_id = ? AND offset >= ? AND offset <= ? ORDER BY offset"""
_GET_LANES = "SELECT lane_id, last_offset FROM lanes WHERE run_id = ?"
_GET_ALL_LANES = "SELECT lane_id, last_offset, checksum FROM lanes WHERE run_id = ?"
_GET_SNAPSHOTS = (
    """SELECT lane_id, offset, revision, token, checksum, state_checksum, state FROM latest_states
    WHERE run_id = ?""",
    """SELECT lane_id, offset, revision, token, checksum, state_checksum, state FROM snapshot_history
    WHERE run_id = ?""",
)
_COUNT_FOREIGN = """SELECT run_id, count(*) FROM events INDEXED BY foreign_events
    WHERE offset IS NULL AND run_id NOT IN (SELECT run_id FROM drained) GROUP BY run_id"""
# by the index that begins with the run, and so by leaps from one run to the next
_GET_UNLISTED = """WITH RECURSIVE owners (run_id) AS (
        SELECT min(run_id) FROM {table} WHERE offset IS NOT NULL
        UNION ALL
        SELECT (SELECT min(run_id) FROM {table} WHERE run_id > owners.run_id AND offset IS NOT NULL) FROM owners
        WHERE owners.run_id IS NOT NULL
    ) SELECT run_id FROM owners WHERE run_id IS NOT NULL AND run_id NOT IN (SELECT run_id FROM runs)"""


def file_problems(connection: sqlite3.Connection) -> list[str]:
    """What is wrong with the file as such, and with the list of its runs; nothing if it is sound."""
    found: list[str] = [text for (text,) in connection.execute("PRAGMA integrity_check")]
    problems = ([] if found == ["ok"] else found) + damaged_heads(connection)
    for run_id, count in _foreign_counts(connection):
        problems.append(f"run {run_id!r} has {count} events of another program that cannot be adopted")
    unlisted = _unlisted_runs(connection)
    return problems + [f"run {run_id!r} has entries, and is not in the list of runs" for run_id in unlisted]


def columns_between(connection: sqlite3.Connection, run_id: str, first: int, last: int) -> dict[int, EntryColumns]:
    """The columns of the events at these offsets, by offset."""
    rows = connection.execute(_GET_COLUMNS, (run_id, first, last))
    return {offset: EntryColumns(*columns) for offset, *columns in rows}


def noted_lanes(connection: sqlite3.Connection, run_id: str) -> dict[str, int]:
    """The offset of the last event of each of a run's lanes, as the file notes it."""
    return dict(connection.execute(_GET_LANES, (run_id,)))


def errors_beside(connection: sqlite3.Connection, run_id: str) -> list[CorruptRecordError]:
    """What is wrong with the lanes of a run, with its tags, its snapshots, and with their history."""
    found = []
    for lane in connection.execute(_GET_ALL_LANES, (run_id,)):
        try:
            lane_offset_in(run_id, *lane)
        except CorruptRecordError as error:
            found.append(error)
    try:
        list(load_ends(connection, run_id))
    except CorruptRecordError as error:
        found.append(error)
    for query in _GET_SNAPSHOTS:
        for *columns, text in connection.execute(query, (run_id,)):
            try:
                head = snapshot_head_in(run_id, *columns)
                state_in(run_id, head.offset, text, columns[-1])
            except CorruptRecordError as error:
                found.append(error)
    try:
        load_tags(connection, run_id)
    except CorruptRecordError as error:
        found.append(error)
    return found


def _foreign_counts(connection: sqlite3.Connection) -> list[tuple[str, int]]:
    """The runs that have events of another program which cannot be adopted, and how many."""
    return connection.execute(_COUNT_FOREIGN).fetchall()


def _unlisted_runs(connection: sqlite3.Connection) -> list[str]:
    """The runs of which there are entries, and that are not in the list of runs."""
    found = {
        run_id
        for table in ("events", "quarantine")
        for (run_id,) in connection.execute(_GET_UNLISTED.format(table=table))
    }
    return sorted(found)
