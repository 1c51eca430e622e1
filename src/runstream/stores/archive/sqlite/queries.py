"""The rows that tell where a run and its lanes stand, and the transaction that they change in.

Each function is one step within a transaction of its caller.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from runstream.model.results import Cursor

__all__ = ["GET_ASIDE", "GET_EVENTS", "SET_ASIDE", "SET_LANE", "RunRow", "run_row", "set_runs", "transaction"]

_SET_RUN = """INSERT INTO runs (run_id, session_id, status, start_offset, start_chain, last_offset, last_chain,
    created_at, updated_at, parent_run_id, parent_offset) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (run_id) DO UPDATE SET session_id = excluded.session_id, status = excluded.status,
    last_offset = excluded.last_offset, last_chain = excluded.last_chain, updated_at = excluded.updated_at"""
SET_LANE = """INSERT INTO lanes (run_id, lane_id, last_offset) VALUES (?, ?, ?)
    ON CONFLICT (run_id, lane_id) DO UPDATE SET last_offset = excluded.last_offset"""
SET_ASIDE = """INSERT INTO quarantine (run_id, offset, chain, key, raw, reason, quarantined_at)
    VALUES (?, ?, ?, ?, ?, ?, ?)"""
# the first fields of an ArchiveEntry. Not one query with NULL for what an event has not: SQLite takes as long over
# each of those as over a number that it reads. Not a view either: it would sort all of a run to give a page of it
GET_EVENTS = """SELECT offset, chain, key, CASE WHEN kind = '' AND data = '' THEN NULL ELSE data END
    FROM events WHERE run_id = :run_id AND offset > :low AND offset <= :high ORDER BY offset LIMIT :rows"""
GET_ASIDE = """SELECT offset, chain, key, NULL, raw, reason, quarantined_at
    FROM quarantine WHERE run_id = :run_id AND offset > :low AND offset <= :high ORDER BY offset LIMIT :rows"""
_GET_RUN = """SELECT session_id, status, start_offset, start_chain, last_offset, last_chain, created_at, updated_at
    FROM runs WHERE run_id = ?"""


class RunRow(NamedTuple):
    """What the table of runs holds of one. ``parent`` is noted with the run, and not read back here."""

    session_id: str
    status: str
    start: Cursor
    last: Cursor
    created_at: float
    updated_at: float
    parent: tuple[str, int] | None = None


def run_row(connection: sqlite3.Connection, run_id: str) -> RunRow | None:
    """What is known of a run, or None."""
    row = connection.execute(_GET_RUN, (run_id,)).fetchone()
    if row is None:
        return None
    session_id, status, start_offset, start_chain, last_offset, last_chain, created_at, updated_at = row
    start, last = Cursor(start_offset, start_chain), Cursor(last_offset, last_chain)
    return RunRow(session_id, status, start, last, created_at, updated_at)


def set_runs(connection: sqlite3.Connection, runs: Mapping[str, RunRow]) -> None:
    """Note runs, by their ids, as they stand now. Where one started, and its parent, is noted once and stays."""
    connection.executemany(
        _SET_RUN,
        [
            (
                *(run_id, run.session_id, run.status, *run.start, *run.last, run.created_at, run.updated_at),
                *(run.parent or (None, None)),
            )
            for run_id, run in runs.items()
        ],
    )


@contextmanager
def transaction(connection: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """All or nothing: committed when the body ends, rolled back when it raises.

    IMMEDIATE: what is read inside cannot have changed when it is written.
    """
    try:
        connection.execute(begin)
        yield
        connection.execute("COMMIT")
    except BaseException:  # an interrupt too: no half of it stays open for the next to commit
        if connection.in_transaction:  # some of SQLite's failures have ended it already
            connection.execute("ROLLBACK")
        raise
