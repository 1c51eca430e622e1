"""The rows of runs and lanes, read and written, and the transaction in which they change.

Each function is one step within a transaction of its caller.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from runstream.model.errors import CorruptRecordError
from runstream.model.run_head import RunHead
from runstream.operations.arguments import RunsQuery
from runstream.operations.filters import RunFilter
from runstream.stores.archive.sqlite.row_checksums import aside_checksum, row_checksum, run_checksum
from runstream.stores.archive.sqlite.row_values import head_in, lane_offset_in, origins_text
from runstream.stores.archive.sqlite.tag_table import load_tags, with_all

__all__ = [
    "ASIDE",
    "EVENT",
    "GET_ASIDE",
    "GET_EVENTS",
    "GET_OFFSET_BEFORE",
    "MOST_ASKED",
    "damaged_heads",
    "entries_with",
    "find_children",
    "find_heads",
    "keep_aside",
    "load_head",
    "load_lane",
    "replace_head",
    "save_heads",
    "save_lanes",
    "take_over_heads",
    "take_over_lanes",
    "transaction",
]

_SET_RUN = """INSERT INTO runs (run_id, start_offset, start_chain, last_offset, last_chain, status, session_id,
    created_at, updated_at, parent_run_id, parent_offset, identity, parent_identity, origins, checksum)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (run_id) DO UPDATE SET session_id = excluded.session_id, status = excluded.status,
    last_offset = excluded.last_offset, last_chain = excluded.last_chain, updated_at = excluded.updated_at,
    checksum = excluded.checksum"""
_FORGET_HEAD = "DELETE FROM runs WHERE run_id = ?"
_SET_BASE = """INSERT INTO bases (run_id, base_offset, base_chain, base_checksum) VALUES (?, ?, ?, ?)
    ON CONFLICT (run_id) DO UPDATE SET base_offset = excluded.base_offset, base_chain = excluded.base_chain,
    base_checksum = excluded.base_checksum"""
_SET_LANE = """INSERT INTO lanes (run_id, lane_id, last_offset, checksum) VALUES (?, ?, ?, ?)
    ON CONFLICT (run_id, lane_id) DO UPDATE SET last_offset = excluded.last_offset, checksum = excluded.checksum"""
_SET_ASIDE = """INSERT INTO quarantine (run_id, offset, chain, key, raw, reason, quarantined_at, checksum)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
# the first fields of an ArchiveEntry, and the checksum. Not one query with NULL for what an event has not: SQLite
# takes as long over each of those as over a number that it reads. Not a view either: it would sort all of a run to
# give a page of it
EVENT = """SELECT offset, chain, key, CASE WHEN kind = '' AND data = '' THEN NULL ELSE data END, checksum
    FROM events"""
GET_EVENTS = (
    f"""{EVENT} WHERE run_id = :run_id AND offset > :low AND offset <= :high ORDER BY offset LIMIT :rows"""
)
ASIDE = "SELECT offset, chain, key, raw, checksum, reason, quarantined_at FROM quarantine"
GET_ASIDE = f"""{ASIDE} WHERE run_id = :run_id AND offset > :low AND offset <= :high ORDER BY offset LIMIT :rows"""
# INDEXED BY: SQLite would rather go through all of the run in the order of its offsets. A row whose offset is not
# the one that leads to it is damaged: then all of the run is to be read
GET_OFFSET_BEFORE = """SELECT CASE WHEN max(is_damaged) THEN 0 ELSE
        coalesce(min(offset) - 1, (SELECT last_offset FROM runs WHERE run_id = :run_id), 0) END
    FROM (SELECT offset, id IS NOT (SELECT id FROM events AS found INDEXED BY events_by_offset
                                    WHERE found.run_id = :run_id AND found.offset = events.offset) AS is_damaged
          FROM events INDEXED BY idx_events_run WHERE run_id = :run_id AND seq > :since_seq
          UNION ALL SELECT offset, 0 FROM quarantine WHERE run_id = :run_id)"""
MOST_ASKED = 512
"""Of how many values of a column one statement asks for entries: every SQLite takes 999."""
_COLUMNS = """SELECT run_id, start_offset, start_chain, last_offset, last_chain, status, session_id, created_at,
    updated_at, parent_run_id, parent_offset"""
_HEAD = f"""{_COLUMNS}, identity, parent_identity, origins, base_offset, base_chain, base_checksum, checksum
    FROM runs LEFT JOIN bases USING (run_id)"""
_GET_HEAD = f"{_HEAD} WHERE run_id = ?"
_GET_FORKS = f"{_HEAD} WHERE parent_run_id = ?"
_LANE = "SELECT run_id, lane_id, last_offset"
_GET_LANE = "SELECT last_offset, checksum FROM lanes WHERE run_id = ? AND lane_id = ?"
# of a run that is not in the list: each by an index
_HAS_ENTRIES = """SELECT EXISTS (SELECT 1 FROM events INDEXED BY events_by_offset
                   WHERE run_id = :run_id AND offset IS NOT NULL)
    OR EXISTS (SELECT 1 FROM quarantine WHERE run_id = :run_id)
    OR EXISTS (SELECT 1 FROM snapshots WHERE run_id = :run_id AND token IS NOT NULL)
    OR EXISTS (SELECT 1 FROM lane_snapshots WHERE run_id = :run_id)"""
# where the row of a lane is that is not found by its name, if that is what was damaged
_BESIDE_LANE = (
    """SELECT last_offset, checksum FROM lanes WHERE (run_id, lane_id) > (?, ?)
    ORDER BY run_id, lane_id LIMIT 1""",
    """SELECT last_offset, checksum FROM lanes WHERE (run_id, lane_id) < (?, ?)
    ORDER BY run_id DESC, lane_id DESC LIMIT 1""",
)
_FIND_HEADS = f"""{_HEAD}
    WHERE (:session_id IS NULL OR session_id = :session_id) AND (:status IS NULL OR status = :status)
    AND (:updated_after IS NULL OR updated_at > :updated_after)
    AND (:updated_before IS NULL OR updated_at < :updated_before)
    AND (:created_after IS NULL OR created_at > :created_after)"""
_NEWEST_FIRST = "ORDER BY updated_at DESC LIMIT :limit"
_BY_PAGES = """AND (:created IS NULL OR (created_at, run_id) > (:created, :former))
    ORDER BY created_at, run_id LIMIT :limit"""


def load_head(connection: sqlite3.Connection, run_id: str) -> RunHead | None:
    """A run's head without its snapshots; None for a run that is not there. Raises CorruptRecordError."""
    row = connection.execute(_GET_HEAD, (run_id,)).fetchone()
    if row is None and connection.execute(_HAS_ENTRIES, {"run_id": run_id}).fetchone()[0]:
        row = connection.execute(_GET_HEAD, (run_id,)).fetchone()  # it may have been made between the two
        if row is None:
            raise CorruptRecordError(
                f"run {run_id!r} has entries, and is not in the list of runs: restore the file from a copy; no"
                " other run is affected",
                run_id=run_id,
                offset=0,
            )
    return None if row is None else head_in(row)[1]


def find_heads(connection: sqlite3.Connection, query: RunsQuery) -> list[tuple[str, RunHead]]:
    """The ids and heads of the runs that match, with their tags, in order, but for one that is damaged."""
    wanted = RunFilter(query)
    parameters: dict[str, Any] = {
        "session_id": wanted.session_id,
        "status": wanted.status,
        "updated_after": wanted.updated_after,
        "updated_before": wanted.updated_before,
        "created_after": wanted.created_after,
        "limit": -1 if query.limit is None else query.limit,
    }
    condition, of_tags = with_all(query.tags or {})
    order = _NEWEST_FIRST
    if query.page is not None:
        order = _BY_PAGES
        parameters["created"], parameters["former"] = wanted.former or (None, None)
    found = []
    for row in connection.execute(f"{_FIND_HEADS}{condition} {order}", {**parameters, **of_tags}).fetchall():
        with suppress(CorruptRecordError):  # raised to whoever asks for that run, and told by check_integrity
            run_id, head = head_in(row)
            found.append((run_id, replace(head, tags=load_tags(connection, run_id))))
    return found


def find_children(connection: sqlite3.Connection, run_id: str) -> list[tuple[str, RunHead]]:
    """The ids and heads of the runs that name a run as their parent: forks and branches of it."""
    return [head_in(row) for row in connection.execute(_GET_FORKS, (run_id,)).fetchall()]


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
    rows = (_columns(run_id, head) for run_id, head in heads.items())
    connection.executemany(_SET_RUN, [(*row, run_checksum(*row)) for row in rows])
    bases = [(run_id, *head.base) for run_id, head in heads.items() if head.base is not None]
    if bases:
        connection.executemany(_SET_BASE, [(*row, row_checksum(*row)) for row in bases])


def replace_head(connection: sqlite3.Connection, run_id: str, head: RunHead) -> None:
    """Save the head of a run that is there already, with all that ``save_heads`` lets stay."""
    connection.execute(_FORGET_HEAD, (run_id,))
    save_heads(connection, {run_id: head})


def take_over_heads(connection: sqlite3.Connection, table: str) -> None:
    """Add the rows of a table of runs that has no checksums."""
    rows = connection.execute(f"{_COLUMNS} FROM {table}").fetchall()
    for (*columns,) in rows:
        row = (*columns, None, None, None)
        connection.execute(_SET_RUN, (*row, run_checksum(*row)))


def take_over_lanes(connection: sqlite3.Connection, table: str) -> None:
    """Add the rows of a table of lanes that has no checksums."""
    save_lanes(connection, connection.execute(f"{_LANE} FROM {table}").fetchall())


def load_lane(connection: sqlite3.Connection, run_id: str, lane_id: str) -> int | None:
    """The offset of a lane's last event; None for a lane that is not there. Raises CorruptRecordError."""
    row = connection.execute(_GET_LANE, (run_id, lane_id)).fetchone()
    if row is not None:
        return lane_offset_in(run_id, lane_id, *row)
    for query in _BESIDE_LANE:
        row = connection.execute(query, (run_id, lane_id)).fetchone()
        if row is not None and row[-1] == row_checksum(run_id, lane_id, row[0]):
            lane_offset_in(run_id, lane_id, row[0], None)  # raises what it is
    return None


def save_lanes(connection: sqlite3.Connection, lanes: Iterable[tuple[str, str, int]]) -> None:
    """Note the offset of the last event of lanes: run, lane and offset of each."""
    connection.executemany(_SET_LANE, [(*lane, row_checksum(*lane)) for lane in lanes])


def entries_with(column: str, run_id: str, values: Sequence[Any]) -> tuple[list[str], list[Any]]:
    """What asks for those entries of a run that have one of some values in a column, by that and their offsets.

    Args:
        column: The column.
        run_id: The run.
        values: At least one, and at most ``MOST_ASKED``.

    Returns:
        The query for its events and that for its quarantine, and their parameters. There are few such queries:
        SQLite takes each apart once.
    """
    count = 1 << (len(values) - 1).bit_length()
    wanted = f"WHERE run_id = ? AND {column} IN ({', '.join('?' * count)}) ORDER BY {column}, offset"
    return [f"{EVENT} {wanted}", f"{ASIDE} {wanted}"], [run_id, *values, *[values[-1]] * (count - len(values))]


def keep_aside(connection: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    """Add records to the quarantine: run, offset, chain, key, bytes, reason and time of each."""
    connection.executemany(_SET_ASIDE, [(*row, aside_checksum(*row)) for row in rows])


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


def _columns(run_id: str, head: RunHead) -> tuple[Any, ...]:
    """What the row of a run has: all columns but the checksum over them."""
    times = float(head.created_at), float(head.updated_at)
    identities = head.identity or None, head.parent_identity or None
    parent = head.parent or (None, None)
    return (
        *(run_id, *head.start, *head.last, head.status, head.session_id, *times, *parent, *identities),
        origins_text(head.origins),
    )
