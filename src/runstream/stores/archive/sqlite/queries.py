"""The rows of runs and lanes, read and written, and the transaction in which they change.

Each function is one step within a transaction of its caller.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from runstream.model.errors import CorruptRecordError
from runstream.model.run_head import RunHead
from runstream.operations.arguments import RunsQuery
from runstream.operations.filters import RunFilter
from runstream.stores.archive.sqlite.row_values import head_in

__all__ = [
    "GET_ASIDE",
    "GET_EVENTS",
    "GET_OFFSET_BEFORE",
    "SET_ASIDE",
    "SET_LANE",
    "damaged_heads",
    "find_heads",
    "load_head",
    "save_heads",
    "transaction",
]

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
# INDEXED BY: SQLite would rather go through all of the run in the order of its offsets
GET_OFFSET_BEFORE = """SELECT coalesce(min(offset) - 1, (SELECT last_offset FROM runs WHERE run_id = :run_id), 0)
    FROM (SELECT offset FROM events INDEXED BY idx_events_run WHERE run_id = :run_id AND seq > :since_seq
          UNION ALL SELECT offset FROM quarantine WHERE run_id = :run_id)"""
_HEAD = """SELECT run_id, start_offset, start_chain, last_offset, last_chain, status, session_id, created_at,
    updated_at, parent_run_id, parent_offset FROM runs"""
_GET_HEAD = f"{_HEAD} WHERE run_id = ?"
_FIND_HEADS = f"""{_HEAD}
    WHERE (:session_id IS NULL OR session_id = :session_id) AND (:status IS NULL OR status = :status)
    AND (:updated_after IS NULL OR updated_at > :updated_after)
    ORDER BY updated_at DESC LIMIT :limit"""


def load_head(connection: sqlite3.Connection, run_id: str) -> RunHead | None:
    """A run's head without its snapshots; None for a run that is not there."""
    row = connection.execute(_GET_HEAD, (run_id,)).fetchone()
    return None if row is None else head_in(row)[1]


def find_heads(connection: sqlite3.Connection, query: RunsQuery) -> list[tuple[str, RunHead]]:
    """The ids and heads of the runs that match, the most recently updated first, but for one that is damaged."""
    wanted = RunFilter(query)
    parameters = {
        "session_id": wanted.session_id,
        "status": wanted.status,
        "updated_after": wanted.updated_after,
        "limit": -1 if query.limit is None else query.limit,
    }
    found = []
    for row in connection.execute(_FIND_HEADS, parameters):
        with suppress(CorruptRecordError):  # raised to whoever asks for that run, and told by check_integrity
            found.append(head_in(row))
    return found


def damaged_heads(connection: sqlite3.Connection) -> list[str]:
    """What is wrong with the rows of runs that do not read, in words."""
    found = []
    for row in connection.execute(_HEAD):
        try:
            head_in(row)
        except CorruptRecordError as error:
            found.append(str(error))
    return found


def save_heads(connection: sqlite3.Connection, heads: Mapping[str, RunHead]) -> None:
    """Save the heads of runs, by id. A run's start and its parent are saved once and stay."""
    connection.executemany(
        _SET_RUN,
        [
            (
                *(run_id, head.session_id, head.status, *head.start, *head.last, head.created_at, head.updated_at),
                *(head.parent or (None, None)),
            )
            for run_id, head in heads.items()
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
