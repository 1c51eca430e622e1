"""The SQLite archive's file: its tables, how it is opened, what becomes of a file that purpose-agent wrote.

``events`` and ``snapshots`` are purpose-agent's own tables with columns added, so that either program
reads and writes the same file. What it leaves NULL marks a row as foreign: ``events.offset`` and
``snapshots.token``. Foreign rows are adopted whenever the file is opened: they get offsets and chains
after what the run has, in the order of their ids; one that does not read goes to the quarantine.

An entry that was erased is an event with neither kind nor data, which purpose-agent's reader passes over.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from runstream.codec.chain import next_chain
from runstream.codec.lossless_json import dump_json
from runstream.codec.record import record_crc
from runstream.codec.shapes import Codec, EventFields
from runstream.model.errors import ConfigurationError, RunstreamError, StoreUnavailable, UnsupportedVersion
from runstream.model.state import status_after
from runstream.model.values import Cursor
from runstream.stores.planning import new_start

__all__ = ["SCHEMA_VERSION", "SET_ASIDE", "SET_LANE", "RunRow", "prepare", "run_row", "set_runs", "transaction"]

SCHEMA_VERSION = 1

_TABLES = (
    # the two of purpose-agent, word for word
    """CREATE TABLE IF NOT EXISTS events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id TEXT NOT NULL,
        seq INTEGER NOT NULL,
        ts REAL NOT NULL,
        kind TEXT NOT NULL,
        lane_id TEXT DEFAULT 'main',
        data TEXT NOT NULL,
        created_at REAL DEFAULT (strftime('%s','now'))
    )""",
    """CREATE TABLE IF NOT EXISTS snapshots (
        run_id TEXT PRIMARY KEY,
        state TEXT NOT NULL,
        updated_at REAL DEFAULT (strftime('%s','now'))
    )""",
    # what it does not know: nullable, as its INSERTs leave them out
    "ALTER TABLE events ADD COLUMN offset INTEGER",
    "ALTER TABLE events ADD COLUMN chain INTEGER",
    "ALTER TABLE events ADD COLUMN key TEXT",
    "ALTER TABLE snapshots ADD COLUMN offset INTEGER",
    "ALTER TABLE snapshots ADD COLUMN revision INTEGER",
    "ALTER TABLE snapshots ADD COLUMN token TEXT",
    "CREATE UNIQUE INDEX events_by_offset ON events (run_id, offset)",
    "CREATE INDEX foreign_events ON events (run_id) WHERE offset IS NULL",
    "CREATE INDEX foreign_snapshots ON snapshots (run_id) WHERE token IS NULL",
    """CREATE TABLE runs (
        run_id TEXT NOT NULL PRIMARY KEY,
        session_id TEXT NOT NULL,
        status TEXT NOT NULL,
        start_offset INTEGER NOT NULL,  -- the place before the first event
        start_chain INTEGER NOT NULL,
        last_offset INTEGER NOT NULL,
        last_chain INTEGER NOT NULL,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        parent_run_id TEXT,
        parent_offset INTEGER
    ) WITHOUT ROWID""",
    "CREATE INDEX runs_by_update ON runs (updated_at)",
    """CREATE TABLE lanes (
        run_id TEXT NOT NULL,
        lane_id TEXT NOT NULL,
        last_offset INTEGER NOT NULL,
        PRIMARY KEY (run_id, lane_id)
    ) WITHOUT ROWID""",
    """CREATE TABLE lane_snapshots (
        run_id TEXT NOT NULL,
        lane_id TEXT NOT NULL,
        state TEXT NOT NULL,
        updated_at REAL NOT NULL,
        offset INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        token TEXT NOT NULL,
        PRIMARY KEY (run_id, lane_id)
    )""",
    """CREATE TABLE quarantine (
        run_id TEXT NOT NULL,
        offset INTEGER NOT NULL,
        chain INTEGER NOT NULL,
        key TEXT,
        raw BLOB NOT NULL,
        reason TEXT NOT NULL,
        quarantined_at REAL NOT NULL,
        PRIMARY KEY (run_id, offset)
    )""",
    "CREATE TABLE archive (id TEXT NOT NULL)",
    # every latest state, the run's own with lane_id NULL. A foreign one is known by when it was saved
    """CREATE VIEW states AS
        SELECT run_id, NULL AS lane_id, state, coalesce(offset, 0) AS offset, coalesce(revision, 1) AS revision,
               coalesce(token, printf('foreign-%.6f', updated_at)) AS token, token IS NULL AS is_foreign
        FROM snapshots
        UNION ALL
        SELECT run_id, lane_id, state, offset, revision, token, 0 FROM lane_snapshots""",
)

# what came later, each by its name: a file that lacks it gets it when it is opened
_LATER = {
    # of the events that carry a caller's key
    "events_by_key": "CREATE INDEX events_by_key ON events (run_id, key, offset) WHERE key IS NOT NULL",
    # the last lease of each lane, and of each whole run, with lane_id NULL, also when it has run out
    "leases": """CREATE TABLE leases (
        run_id TEXT NOT NULL,
        lane_id TEXT,
        owner TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        token TEXT NOT NULL,
        expires_at REAL NOT NULL  -- Unix time in seconds
    )""",
    # histories that were deleted here, so that a drain which had one in hand does not bring it back
    "deleted": """CREATE TABLE deleted (
        run_id TEXT NOT NULL,
        start_chain INTEGER NOT NULL,
        deleted_at REAL NOT NULL,
        PRIMARY KEY (run_id, start_chain)
    ) WITHOUT ROWID""",
    "leases_by_run": "CREATE INDEX leases_by_run ON leases (run_id)",
    # every snapshot that was ever the latest, as long as it is kept; the state comes last: it may be large
    "snapshot_history": """CREATE TABLE snapshot_history (
        id INTEGER PRIMARY KEY,  -- rises from each snapshot of a lane to the next
        run_id TEXT NOT NULL,
        lane_id TEXT,  -- NULL: the run's own
        offset INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        token TEXT NOT NULL,
        archived_at REAL NOT NULL,  -- Unix time in seconds
        state TEXT NOT NULL
    )""",
    "snapshot_history_by_token": """CREATE UNIQUE INDEX snapshot_history_by_token
        ON snapshot_history (run_id, token)""",
    "snapshot_history_by_lane": "CREATE INDEX snapshot_history_by_lane ON snapshot_history (run_id, lane_id)",
}

_SET_RUN = """INSERT INTO runs (run_id, session_id, status, start_offset, start_chain, last_offset, last_chain,
    created_at, updated_at, parent_run_id, parent_offset) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (run_id) DO UPDATE SET session_id = excluded.session_id, status = excluded.status,
    last_offset = excluded.last_offset, last_chain = excluded.last_chain, updated_at = excluded.updated_at"""
SET_LANE = """INSERT INTO lanes (run_id, lane_id, last_offset) VALUES (?, ?, ?)
    ON CONFLICT (run_id, lane_id) DO UPDATE SET last_offset = excluded.last_offset"""
SET_ASIDE = """INSERT INTO quarantine (run_id, offset, chain, key, raw, reason, quarantined_at)
    VALUES (?, ?, ?, ?, ?, ?, ?)"""
_GET_ARCHIVE_ID = "SELECT id FROM archive"
_GET_RUN = """SELECT session_id, status, start_offset, start_chain, last_offset, last_chain, created_at, updated_at
    FROM runs WHERE run_id = ?"""

_PAGE_ROWS = 1000
_GET_FOREIGN_EVENTS = """SELECT run_id, id, CAST(data AS BLOB), coalesce(created_at, 0.0) FROM events
    WHERE offset IS NULL ORDER BY run_id, id LIMIT ?"""
_ADOPT_EVENT = "UPDATE events SET offset = ?, chain = ?, data = ? WHERE id = ?"
_REMOVE_EVENT = "DELETE FROM events WHERE id = ?"
_GET_FOREIGN_SNAPSHOT = """SELECT run_id, CAST(state AS BLOB), coalesce(updated_at, 0.0) FROM snapshots
    WHERE token IS NULL LIMIT 1"""
_ADOPT_SNAPSHOT = """UPDATE snapshots SET offset = 0, revision = 1, state = coalesce(:state, state),
    token = (SELECT token FROM states WHERE run_id = :run_id AND lane_id IS NULL) WHERE run_id = :run_id"""
# INDEXED BY: SQLite would rather go through all the places there are
_HAS_FOREIGN_ROWS = """SELECT EXISTS (SELECT 1 FROM events INDEXED BY foreign_events WHERE offset IS NULL)
    OR EXISTS (SELECT 1 FROM snapshots INDEXED BY foreign_snapshots WHERE token IS NULL)"""

# what a file without a version may have of these names: purpose-agent's tables
_FOREIGN_TABLES = {
    "events": {"id", "run_id", "seq", "ts", "kind", "lane_id", "data", "created_at"},
    "snapshots": {"run_id", "state", "updated_at"},
}
_OUR_NAMES = frozenset({"runs", "lanes", "lane_snapshots", "quarantine", "archive", "states"})

# JSON text with this in it could hold what looks like one of our tags
_TAG_MARK = '"$'


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
    except BaseException:
        if connection.in_transaction:  # some of SQLite's failures have ended it already
            connection.execute("ROLLBACK")
        raise


def prepare(
    connection: sqlite3.Connection, path: str, *, busy_timeout_seconds: float, archive_id: str | None = None
) -> str:
    """Make the file an archive of this version, and adopt what purpose-agent has added to it; give its UUID.

    With ``archive_id`` it must be that archive already: StoreUnavailable is raised for anything else. Raises
    UnsupportedVersion for a newer version and ConfigurationError for another program's file. A file that is
    refused is unchanged.
    """
    connection.execute("PRAGMA synchronous = FULL")
    # macOS: a plain fsync leaves the data in the disk's cache
    connection.execute("PRAGMA fullfsync = ON")
    with transaction(connection, "BEGIN"):  # one view, though another process creates the tables meanwhile
        version = _check_version(connection, path, archive_id)
    _use_write_ahead_log(connection, path, busy_timeout_seconds)
    if version == 0 or _lacking(connection) or connection.execute(_HAS_FOREIGN_ROWS).fetchone()[0]:
        with transaction(connection):
            if _check_version(connection, path) == 0:  # another process may have been here meanwhile
                _create(connection)
            for name in _lacking(connection):
                connection.execute(_LATER[name])
            _adopt_events(connection)
            _adopt_snapshots(connection)
    found: str = connection.execute(_GET_ARCHIVE_ID).fetchone()[0]
    return found


def _names(connection: sqlite3.Connection) -> set[str]:
    """The tables, indexes and views of the file."""
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}


def _lacking(connection: sqlite3.Connection) -> list[str]:
    names = _names(connection)
    return [name for name in _LATER if name not in names]


def _check_version(connection: sqlite3.Connection, path: str, archive_id: str | None = None) -> int:
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > SCHEMA_VERSION:
        raise UnsupportedVersion(
            f"{path} has schema version {found}; this runstream knows up to {SCHEMA_VERSION}: upgrade it",
            found=found,
            supported=SCHEMA_VERSION,
        )
    names = _names(connection)
    if found == 0:
        is_foreign = bool(names & (_OUR_NAMES | _LATER.keys()))
        for table, expected in _FOREIGN_TABLES.items():
            columns = {name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}
            is_foreign |= bool(columns) and not columns >= expected
    else:
        is_foreign = not names >= _OUR_NAMES
    if archive_id is not None:
        row = None if is_foreign or found == 0 else connection.execute(_GET_ARCHIVE_ID).fetchone()
        if row != (archive_id,):
            raise StoreUnavailable(
                f"{path} is not the archive {archive_id} that was in use there: put that back, or drop it from"
                " those that the namespace requires and add another"
            )
    if is_foreign:
        raise ConfigurationError(f"{path} is another program's database: name another file")
    return found


def _use_write_ahead_log(connection: sqlite3.Connection, path: str, busy_timeout_seconds: float) -> None:
    deadline = time.monotonic() + busy_timeout_seconds
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            # several openers of a new file: SQLite does not let these wait for each other by itself
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            break
    if mode != "wal":
        raise ConfigurationError(
            f"{path} cannot have a write-ahead log (its journal mode stays {mode!r}): put it on a local disk"
        )


def _create(connection: sqlite3.Connection) -> None:
    for statement in _TABLES:
        connection.execute(statement)
    connection.execute("INSERT INTO archive (id) VALUES (?)", (str(uuid.uuid4()),))
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


# -- what purpose-agent wrote ------------------------------------------------------------------------


def _load_foreign(data: bytes) -> tuple[dict[str, Any], str]:
    """The fields, and the text that has them in our own JSON: the same unless it could hold a tag of ours.

    Raises ValueError or RecursionError for what does not read.
    """
    text = data.decode()
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("its text is not an object")  # noqa: TRY004 - as for any other broken text
    return fields, dump_json(fields) if _TAG_MARK in text else text


def _adopt_events(connection: sqlite3.Connection) -> None:
    codec: Codec[Any, Any] = Codec(max_event_bytes=2**62)  # it is stored already
    while rows := connection.execute(_GET_FOREIGN_EVENTS, (_PAGE_ROWS,)).fetchall():
        for run_id, group in groupby(rows, key=itemgetter(0)):
            _adopt_run(connection, codec, run_id, [row[1:] for row in group])


def _adopt_run(
    connection: sqlite3.Connection, codec: Codec[Any, Any], run_id: str, rows: list[tuple[int, bytes, float]]
) -> None:
    """Give these rows (id, data, time of writing) of one run their places after what it has."""
    run = run_row(connection, run_id)
    if run is None:
        start = new_start()
        run = RunRow("", "running", start, start, rows[0][2], rows[0][2])
    last, adopted, aside, encoded = run.last, [], [], []
    lanes: dict[str, int] = {}
    for row_id, data, created_at in rows:
        try:
            fields, text = _load_foreign(data)
            (event,) = codec.encode_events(run_id, [EventFields(fields)])
        except (ValueError, RecursionError, RunstreamError) as error:
            # as for a record in Redis that does not read: the chain takes what stands in the checksum's place
            last = Cursor(last.offset + 1, next_chain(last.chain, record_crc(data)))
            aside.append((row_id, (run_id, *last, None, data, str(error), created_at)))
            continue
        last = Cursor(last.offset + 1, next_chain(last.chain, record_crc(event.record)))
        adopted.append((*last, text, row_id))
        encoded.append(event)
        lanes[event.lane_id] = last.offset
    connection.executemany(_ADOPT_EVENT, adopted)
    connection.executemany(SET_ASIDE, [values for _, values in aside])
    connection.executemany(_REMOVE_EVENT, [(row_id,) for row_id, _ in aside])
    connection.executemany(SET_LANE, [(run_id, lane_id, offset) for lane_id, offset in lanes.items()])
    run = run._replace(
        session_id=run.session_id or next((event.session_id for event in encoded if event.session_id), ""),
        status=status_after(event.kind for event in encoded) or run.status,
        last=last,
        updated_at=max(run.updated_at, rows[-1][2]),
    )
    set_runs(connection, {run_id: run})


def _adopt_snapshots(connection: sqlite3.Connection) -> None:
    codec: Codec[Any, Any] = Codec()
    while row := connection.execute(_GET_FOREIGN_SNAPSHOT).fetchone():
        run_id, state, updated_at = row
        fields: dict[str, Any] = {}
        text = None
        with suppress(ValueError, RecursionError):  # left as it is, and reported to whoever loads it
            fields, text = _load_foreign(state)
        connection.execute(_ADOPT_SNAPSHOT, {"run_id": run_id, "state": text})
        run = run_row(connection, run_id)
        if run is None:
            start = new_start()
            run = RunRow("", "running", start, start, updated_at, updated_at)
        session_id = fields.get("session_id")
        if not run.session_id and isinstance(session_id, str):
            run = run._replace(session_id=session_id)
        if updated_at >= run.updated_at:  # no event came after it: it is the run's last word
            run = run._replace(status=codec.status_of(fields) or run.status, updated_at=updated_at)
        set_runs(connection, {run_id: run})
