"""The tables of a SQLite archive, and how a file that is opened gets them.

``events`` and ``snapshots`` are purpose-agent's own tables with columns added, so that either program
reads and writes the same file. What it leaves NULL marks a row as foreign: ``events.offset`` and
``snapshots.token``. Foreign rows are adopted at every write, and looked for at every read
(:mod:`runstream.stores.archive.sqlite.foreign_rows`), but for those of runs that came by a drain.

A row has a checksum (:mod:`runstream.stores.archive.sqlite.row_checksums`); a file of version 1, which has none,
gets the columns when it is opened, and the checksums as its rows are proven. One of version 2 has no tags, one of
version 3 no identities of forks, and nothing that was erased at anybody's request, one of version 4 no states that
are msgpack: a BLOB in place of the text, for the state of a lane that has what JSON has no type for.

An entry that was erased is an event with neither kind nor data, which purpose-agent's reader passes over; so is
what stays of an event before the base of a truncated history: its key, or its lane and ``seq`` (see `erasing`).
"""

from __future__ import annotations

import sqlite3
import time
import uuid

from runstream.model.errors import ConfigurationError, StoreUnavailable, UnsupportedVersion
from runstream.stores.archive.sqlite.queries import take_over_heads, take_over_lanes, transaction
from runstream.stores.archive.sqlite.row_checksums import row_checksum

__all__ = ["SCHEMA_VERSION", "prepare"]

SCHEMA_VERSION = 5

_ADD_CHECKSUMS = (
    "ALTER TABLE events ADD COLUMN checksum INTEGER",
    "ALTER TABLE snapshots ADD COLUMN checksum INTEGER",
    "ALTER TABLE snapshots ADD COLUMN state_checksum INTEGER",
)
# columns of runs that came later: NULL in rows of before
_LATER_COLUMNS = {
    "identity": "INTEGER",
    "parent_identity": "INTEGER",  # of forks; NULL in all other runs
    "origins": "TEXT",  # JSON: the last offset and the run of each origin; NULL where there is none
}
# their checksums are never NULL: a process of an earlier version that still has the file open cannot write to it
_RUNS_AND_LANES = (
    """CREATE TABLE runs (
        run_id TEXT NOT NULL PRIMARY KEY,
        session_id TEXT NOT NULL,
        status TEXT NOT NULL,
        start_offset INTEGER NOT NULL,  -- the cursor before the first event
        start_chain INTEGER NOT NULL,
        last_offset INTEGER NOT NULL,
        last_chain INTEGER NOT NULL,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        parent_run_id TEXT,
        parent_offset INTEGER,
        checksum INTEGER NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX runs_by_update ON runs (updated_at)",
    """CREATE TABLE lanes (
        run_id TEXT NOT NULL,
        lane_id TEXT NOT NULL,
        last_offset INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        PRIMARY KEY (run_id, lane_id)
    ) WITHOUT ROWID""",
)

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
    *_ADD_CHECKSUMS,
    "CREATE UNIQUE INDEX events_by_offset ON events (run_id, offset)",
    "CREATE INDEX foreign_events ON events (run_id) WHERE offset IS NULL",
    "CREATE INDEX foreign_snapshots ON snapshots (run_id) WHERE token IS NULL",
    *_RUNS_AND_LANES,
    """CREATE TABLE lane_snapshots (
        run_id TEXT NOT NULL,
        lane_id TEXT NOT NULL,
        state TEXT NOT NULL,
        updated_at REAL NOT NULL,
        offset INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        token TEXT NOT NULL,
        checksum INTEGER,
        state_checksum INTEGER,
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
        checksum INTEGER,
        PRIMARY KEY (run_id, offset)
    )""",
    # NULL, or no such column in a file of before: all of them
    "CREATE TABLE archive (id TEXT NOT NULL, keep_snapshots INTEGER, checksum INTEGER)",
)

# what came later, each by its name: a file that lacks it gets it when it is opened
_LATER = {
    # purpose-agent's own, which its reader needs too, and gives to the files that it opens
    "idx_events_run": "CREATE INDEX idx_events_run ON events (run_id, seq)",
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
        start_chain INTEGER NOT NULL,  -- or the identity of a fork
        deleted_at REAL NOT NULL,
        PRIMARY KEY (run_id, start_chain)
    ) WITHOUT ROWID""",
    "leases_by_run": "CREATE INDEX leases_by_run ON leases (run_id)",
    # the last end of each lane that was ever ended: what has come to it since has opened it again
    "ended_lanes": """CREATE TABLE ended_lanes (
        run_id TEXT NOT NULL,
        lane_id TEXT NOT NULL,
        offset INTEGER NOT NULL,  -- where the run ended then
        token TEXT NOT NULL,  -- that of the lane's snapshot then; '' for none
        checksum INTEGER NOT NULL,
        PRIMARY KEY (run_id, lane_id)
    ) WITHOUT ROWID""",
    # every snapshot that was ever the latest, as long as it is kept; the state comes last: it may be large
    "snapshot_history": """CREATE TABLE snapshot_history (
        id INTEGER PRIMARY KEY,  -- rises from each snapshot of a lane to the next
        run_id TEXT NOT NULL,
        lane_id TEXT,  -- NULL: the run's own
        offset INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        token TEXT NOT NULL,
        archived_at REAL NOT NULL,  -- Unix time in seconds
        checksum INTEGER,
        state_checksum INTEGER,
        state TEXT NOT NULL
    )""",
    "snapshot_history_by_token": """CREATE UNIQUE INDEX snapshot_history_by_token
        ON snapshot_history (run_id, token)""",
    "snapshot_history_by_lane": "CREATE INDEX snapshot_history_by_lane ON snapshot_history (run_id, lane_id)",
    # every latest state, the run's own with lane_id NULL. What another program has put in its place is not read
    "latest_states": """CREATE VIEW latest_states AS
        SELECT run_id, NULL AS lane_id, state, offset, revision, token, checksum, state_checksum
        FROM snapshots WHERE token IS NOT NULL
        UNION ALL
        SELECT snapshots.run_id, NULL, kept.state, kept.offset, kept.revision, kept.token, kept.checksum,
               kept.state_checksum
        FROM snapshots CROSS JOIN snapshot_history AS kept
        WHERE snapshots.token IS NULL AND kept.id = (SELECT max(id) FROM snapshot_history
            WHERE run_id = snapshots.run_id AND lane_id IS NULL)
        UNION ALL
        SELECT run_id, lane_id, state, offset, revision, token, checksum, state_checksum
        FROM lane_snapshots""",
    # runs that a drain has written to: whatever another program adds to them is not adopted
    "drained": "CREATE TABLE drained (run_id TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID",
    # the tags of runs, and with an empty name the version of a run's tags
    "tags": """CREATE TABLE tags (
        run_id TEXT NOT NULL,
        name TEXT NOT NULL,
        value TEXT NOT NULL,
        checksum INTEGER NOT NULL,  -- in the row without a name, over all; in the others 0
        PRIMARY KEY (run_id, name)
    ) WITHOUT ROWID""",
    "runs_by_tag": "CREATE INDEX runs_by_tag ON tags (name, value)",
    "runs_by_creation": "CREATE INDEX runs_by_creation ON runs (created_at)",
    "runs_by_parent": "CREATE INDEX runs_by_parent ON runs (parent_run_id) WHERE parent_run_id IS NOT NULL",
    # what was asked to be erased of runs, also of offsets that are yet to come
    "erasures": """CREATE TABLE erasures (
        id INTEGER PRIMARY KEY,
        run_id TEXT NOT NULL,
        creation INTEGER NOT NULL,  -- which run of that name: its identity, or the chain that it starts with
        requested_at REAL NOT NULL,  -- Unix time in seconds
        what TEXT NOT NULL,  -- offsets: 3,5-8; or all before one: <9
        checksum INTEGER NOT NULL,
        UNIQUE (run_id, creation, what)
    )""",
    # the cursors before the first events of truncated histories
    "bases": """CREATE TABLE bases (
        run_id TEXT NOT NULL PRIMARY KEY,
        base_offset INTEGER NOT NULL,
        base_chain INTEGER NOT NULL,
        base_checksum INTEGER NOT NULL
    ) WITHOUT ROWID""",
    # whether the file still has what was erased in free pages, or in its log; one row or none
    "unscrubbed": "CREATE TABLE unscrubbed (id INTEGER PRIMARY KEY, step TEXT NOT NULL)",
    # runs of which events or the state were deleted by another program. The triggers are at work there too
    "losses": "CREATE TABLE losses (run_id TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID",
    "note_lost_event": """CREATE TRIGGER note_lost_event AFTER DELETE ON events WHEN OLD.offset IS NOT NULL
        BEGIN INSERT OR IGNORE INTO losses (run_id) VALUES (OLD.run_id); END""",
    "note_lost_state": """CREATE TRIGGER note_lost_state AFTER DELETE ON snapshots
        WHEN EXISTS (SELECT 1 FROM runs WHERE run_id = OLD.run_id)  -- also of a state of theirs, in place of ours
        BEGIN INSERT OR IGNORE INTO losses (run_id) VALUES (OLD.run_id); END""",
}

# from version 1, in which no row has a checksum. Those of runs and lanes are made at once, of rows as they are:
# nothing else tells what they were. Those of events are made when their chain has proven them
_UPGRADE = (
    *_ADD_CHECKSUMS,
    "ALTER TABLE lane_snapshots ADD COLUMN checksum INTEGER",
    "ALTER TABLE lane_snapshots ADD COLUMN state_checksum INTEGER",
    "ALTER TABLE quarantine ADD COLUMN checksum INTEGER",
    "DROP VIEW IF EXISTS states",
    "DROP VIEW IF EXISTS latest_states",
    "DROP INDEX runs_by_update",
    "ALTER TABLE runs RENAME TO former_runs",
    "ALTER TABLE lanes RENAME TO former_lanes",
    *_RUNS_AND_LANES,
)

_UPGRADE_HISTORY = (  # where there is one
    "ALTER TABLE snapshot_history ADD COLUMN checksum INTEGER",
    "ALTER TABLE snapshot_history ADD COLUMN state_checksum INTEGER",
)

_GET_ARCHIVE_ID = "SELECT id FROM archive"

# what a file without a version may have of these names: purpose-agent's tables
_FOREIGN_TABLES = {
    "events": {"id", "run_id", "seq", "ts", "kind", "lane_id", "data", "created_at"},
    "snapshots": {"run_id", "state", "updated_at"},
}
_FOREIGN_NAMES = frozenset({*_FOREIGN_TABLES, "idx_events_run"})
_OUR_NAMES = frozenset({"runs", "lanes", "lane_snapshots", "quarantine", "archive"})


def prepare(
    connection: sqlite3.Connection,
    path: str,
    *,
    busy_timeout_seconds: float,
    keep_snapshots: int | None,
    archive_id: str | None = None,
) -> tuple[str, int | None]:
    """Make the file an archive of this version. Returns its UUID, and how many snapshots it keeps (None: all).

    A file that is new keeps ``keep_snapshots``; what is there keeps as many as it did.

    With ``archive_id`` it must be that archive already: StoreUnavailable is raised for anything else. Raises
    UnsupportedVersion for a newer version and ConfigurationError for another program's file. A file that is
    refused is unchanged.
    """
    connection.execute("PRAGMA synchronous = FULL")
    # a large state is changed within the cache (in KiB), together with its copy in the history. A page that is
    # written again and again comes from the log into the file once per so many pages of the log, which are 16 MB
    connection.execute("PRAGMA cache_size = -8000")
    connection.execute("PRAGMA wal_autocheckpoint = 4000")
    # pages that become free are not written: an append that saves a state would write as many again. What is to be
    # gone is overwritten where it is deleted (`scrubbing`)
    connection.execute("PRAGMA secure_delete = FAST").fetchone()
    # macOS: a plain fsync leaves the data in the disk's cache
    connection.execute("PRAGMA fullfsync = ON")
    with transaction(connection, "BEGIN"):  # one view, though another process creates the tables meanwhile
        version = _check_version(connection, path, archive_id)
    _use_write_ahead_log(connection, path, busy_timeout_seconds)
    if version < SCHEMA_VERSION or _lacking(connection):
        with transaction(connection):
            version = _check_version(connection, path)  # another process may have been here meanwhile
            if version == 0:
                _create(connection, keep_snapshots)
            elif version == 1:
                _upgrade(connection)
            _add_columns(connection)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            for name in _lacking(connection):
                connection.execute(_LATER[name])
    found, *facts = connection.execute("SELECT * FROM archive").fetchone()
    is_sound = facts and facts[1] == row_checksum(found, facts[0])
    return found, (facts[0] if is_sound else None)


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
        is_foreign = bool(names & (_OUR_NAMES | _LATER.keys() - _FOREIGN_NAMES))
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


def _create(connection: sqlite3.Connection, keep_snapshots: int | None) -> None:
    for statement in _TABLES:
        connection.execute(statement)
    facts = str(uuid.uuid4()), keep_snapshots
    connection.execute("INSERT INTO archive VALUES (?, ?, ?)", (*facts, row_checksum(*facts)))


def _add_columns(connection: sqlite3.Connection) -> None:
    """Give the table of runs those columns that a file of before lacks."""
    known = {name for (name,) in connection.execute("SELECT name FROM pragma_table_info('runs')")}
    for name, kind in _LATER_COLUMNS.items():
        if name not in known:
            connection.execute(f"ALTER TABLE runs ADD COLUMN {name} {kind}")


def _upgrade(connection: sqlite3.Connection) -> None:
    for statement in (*_UPGRADE, *(_UPGRADE_HISTORY if "snapshot_history" in _names(connection) else ())):
        connection.execute(statement)
    _add_columns(connection)
    take_over_heads(connection, "former_runs")
    take_over_lanes(connection, "former_lanes")
    for table in ("former_runs", "former_lanes"):
        connection.execute(f"DROP TABLE {table}")
