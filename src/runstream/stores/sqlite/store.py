"""Runs in one SQLite file: a store in its own right, and an archive that the drain worker writes to.

Promises: what a call has committed survives a crash of the process and of the machine (a write-ahead log,
``synchronous=FULL``); an append or a batch is in the file as a whole or not at all; a reader holds up
nobody, neither between the events that it is given nor while it fetches them. Any number of threads and
processes of one host may share the file. The tables, and how a file of purpose-agent's own becomes one of
ours, are in :mod:`runstream.stores.sqlite.schema`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from runstream.codec.archiving import entry_fields
from runstream.codec.fallback import plain_data
from runstream.codec.lossless_json import dump_json, load_json
from runstream.codec.shapes import DEFAULT_MAX_EVENT_BYTES
from runstream.model.archive import (
    ArchiveEntry,
    ArchiveSnapshot,
    EntryColumns,
    Position,
    RunBatch,
    RunHeader,
)
from runstream.model.errors import CorruptRecordError, EncodingError, StoreUnavailable
from runstream.model.names import check_name, check_run_id
from runstream.model.protocols import Fallback
from runstream.model.values import Cursor, E, LeaseGrant, RunInfo, S
from runstream.stores.archives import DELETED_FOR_SECONDS, ArchiveStore, deleted_here, new_entries, planned_entries
from runstream.stores.filters import RunFilter, check_count
from runstream.stores.planning import AppendPlan, AppendRequest, RunHead, SavedSnapshot, new_start, plan_append
from runstream.stores.snapshot_history import KeptSnapshot, latest_of
from runstream.stores.sqlite.checking import columns_between, noted_lanes, unlisted_runs
from runstream.stores.sqlite.file import ArchiveFile, absolute_path, is_damage
from runstream.stores.sqlite.history import history_of, keep_replaced, keep_snapshot, state_text
from runstream.stores.sqlite.leases import in_force, release, remove_all, renew, take
from runstream.stores.sqlite.mending import cut_back, header_of, readmit
from runstream.stores.sqlite.rows import SET_ASIDE, SET_LANE, RunRow, run_row, set_runs, transaction

__all__ = ["SQLiteCheckpointer"]

_PAGE_ROWS = 1000

_ADD_EVENT = """INSERT INTO events (run_id, seq, ts, kind, lane_id, data, offset, chain, key)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
# many in one statement: it takes half the time of as many statements, each of which lets go of Python's lock
_AND_ANOTHER = ", (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_VALUES = _AND_ANOTHER.count("?")
_VALUES_AT_ONCE = 100 * _VALUES  # every SQLite takes 999
# in the shape of ArchiveEntry. Not a view: SQLite would sort all of a run to give a page of it
_GET_ENTRIES = """SELECT offset, chain, key,
    CASE WHEN kind = '' AND data = '' THEN NULL ELSE data END, NULL, '', NULL, 0.0
    FROM events WHERE run_id = :run_id AND offset > :low AND offset <= :high
    UNION ALL
    SELECT offset, chain, key, NULL, raw, reason, NULL, quarantined_at
    FROM quarantine WHERE run_id = :run_id AND offset > :low AND offset <= :high
    ORDER BY offset LIMIT :rows"""
_GET_ENTRIES_BACK = _GET_ENTRIES.replace("ORDER BY offset", "ORDER BY offset DESC")
_GET_LANE = "SELECT last_offset FROM lanes WHERE run_id = ? AND lane_id = ?"
_GET_KEY = "SELECT offset, chain FROM events WHERE run_id = ? AND key = ? ORDER BY offset LIMIT 1"
_GET_LAST_SEQ = """SELECT seq FROM lanes JOIN events ON events.run_id = lanes.run_id AND offset = last_offset
    WHERE lanes.run_id = ? AND lanes.lane_id = ?"""

_SET_RUN_STATE = """INSERT INTO snapshots (run_id, state, updated_at, offset, revision, token)
    VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (run_id) DO UPDATE SET state = excluded.state, updated_at = excluded.updated_at,
    offset = excluded.offset, revision = excluded.revision, token = excluded.token
    WHERE token IS NOT excluded.token AND coalesce(revision, 0) <= excluded.revision"""
_SET_LANE_STATE = """INSERT INTO lane_snapshots (run_id, state, updated_at, offset, revision, token, lane_id)
    VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (run_id, lane_id) DO UPDATE SET state = excluded.state, updated_at = excluded.updated_at,
    offset = excluded.offset, revision = excluded.revision, token = excluded.token
    WHERE token IS NOT excluded.token AND coalesce(revision, 0) <= excluded.revision"""
_GET_SNAPSHOT = "SELECT offset, revision, token FROM states WHERE run_id = ? AND lane_id IS ?"
_GET_STATE = "SELECT offset, revision, token, state, is_foreign FROM states WHERE run_id = ? AND lane_id IS ?"
_GET_TOKENS = "SELECT lane_id, token FROM states WHERE run_id = ?"
_GET_SNAPSHOTS = "SELECT lane_id, offset, revision, token, state FROM states WHERE run_id = ? ORDER BY lane_id"

_GET_QUARANTINE = """SELECT run_id, offset, chain, key, raw, reason, quarantined_at FROM quarantine
    WHERE (run_id, offset) > (:run_id, :offset) AND (:only IS NULL OR run_id = :only)
    ORDER BY run_id, offset LIMIT :rows"""

_GET_INFO = """SELECT run_id, session_id, status, last_offset, start_offset, created_at, updated_at,
    parent_run_id, parent_offset FROM runs WHERE run_id = ?"""
_GET_INFOS = """SELECT run_id, session_id, status, last_offset, start_offset, created_at, updated_at,
    parent_run_id, parent_offset FROM runs
    WHERE (:session_id IS NULL OR session_id = :session_id) AND (:status IS NULL OR status = :status)
    AND (:updated_after IS NULL OR updated_at > :updated_after)
    ORDER BY updated_at DESC LIMIT :limit"""

_COUNT_FOREIGN = """SELECT run_id, count(*) FROM events INDEXED BY foreign_events
    WHERE offset IS NULL GROUP BY run_id"""

_DELETE_RUN = (
    "DELETE FROM events WHERE run_id = ?",
    "DELETE FROM snapshots WHERE run_id = ?",
    "DELETE FROM lane_snapshots WHERE run_id = ?",
    "DELETE FROM snapshot_history WHERE run_id = ?",
    "DELETE FROM lanes WHERE run_id = ?",
    "DELETE FROM quarantine WHERE run_id = ?",
    "DELETE FROM runs WHERE run_id = ?",
)

_NOTE_DELETED = "INSERT OR REPLACE INTO deleted (run_id, start_chain, deleted_at) VALUES (?, ?, ?)"
_FORGET_DELETED = "DELETE FROM deleted WHERE deleted_at < ?"
_WAS_DELETED = "SELECT 1 FROM deleted WHERE run_id = ? AND start_chain = ?"

# an event with neither kind nor data, see schema
_ERASED_COLUMNS = EntryColumns(0, 0.0, "", "")


class SQLiteCheckpointer(ArchiveStore[E, S]):
    """Runs in the SQLite file ``db_path``, which is created if it is not there.

    Threads and processes may share it, and it survives a fork. A writer waits up to
    ``busy_timeout_seconds`` for another one, then raises StoreUnavailable. Raises ConfigurationError for a
    path that cannot be a database of this store, and UnsupportedVersion for one that a newer version wrote.

    Of each run, and of each of its lanes, the latest ``keep_snapshots`` snapshots that are saved through this
    object are kept (None: all of them; 0: none but the latest): a snapshot of 1 MB that is saved 1,000 times
    takes 1 GB.
    """

    def __init__(
        self,
        db_path: str | os.PathLike[str] = "runstream.db",
        *,
        event_type: type[E] | None = None,
        state_type: type[S] | None = None,
        fallback: Fallback | None = plain_data,
        max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES,
        busy_timeout_seconds: float = 30.0,
        require_lease: bool = False,
        keep_snapshots: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_count("keep_snapshots", keep_snapshots)
        options: dict[str, Any] = {
            "event_type": event_type,
            "state_type": state_type,
            "fallback": fallback,
            "max_event_bytes": max_event_bytes,
            "require_lease": require_lease,
            "clock": clock,
        }
        super().__init__(**options)
        options["keep_snapshots"] = self._keep_snapshots = keep_snapshots
        path = absolute_path(db_path)
        self._file = ArchiveFile(path, busy_timeout_seconds)
        # a finalizer: a store that nobody closes gives its file back all the same
        self.owns(weakref.finalize(self, self._file.close))
        self.reopens_with(partial(SQLiteCheckpointer, path, busy_timeout_seconds=busy_timeout_seconds, **options))

    # -- a store of its own ------------------------------------------------------------------------

    def delete_run(self, run_id: str) -> bool:
        """Remove all that the file holds of a run; False if there was nothing.

        Raises LeaseHeld while a lease of it is in force.
        """
        check_run_id(run_id)
        with self._file.write() as connection:
            was_there = _delete(connection, self._clock(), run_id)
        self._forget(run_id)
        return was_there

    def last_seq(self, run_id: str, lane_id: str) -> int:
        """The ``seq`` of the lane's last event; 0 for a lane that has none."""
        check_run_id(run_id)
        check_name("lane_id", lane_id)
        with self._file.use() as connection:
            row = connection.execute(_GET_LAST_SEQ, (run_id, lane_id)).fetchone()
        return 0 if row is None else int(row[0])

    def take_lease(self, run_id: str, *, owner: str, lane_id: str | None, ttl: float) -> LeaseGrant:
        """Give out the lease of one lane, or (None) of the whole run; LeaseHeld where another is in the way."""
        check_run_id(run_id)
        with self._file.write() as connection:
            return take(connection, self._clock(), run_id, owner=owner, lane_id=lane_id, ttl=ttl)

    def renew_lease(self, grant: LeaseGrant) -> None:
        """Let it last for its whole ttl from now on. Raises LeaseLost where it has passed on or run out."""
        with self._file.write() as connection:
            renew(connection, self._clock(), grant)

    def release_lease(self, grant: LeaseGrant) -> None:
        """Take it back, unless it has passed on already."""
        with self._file.write() as connection:
            release(connection, grant)

    def run_info(self, run_id: str) -> RunInfo | None:
        """What is known of a run, or None."""
        check_run_id(run_id)
        with self._file.use() as connection:
            row = connection.execute(_GET_INFO, (run_id,)).fetchone()
        return None if row is None else _run_info(row)

    def runs(
        self,
        *,
        session_id: str | None = None,
        status: str | None = None,
        updated_after: float | None = None,
        limit: int | None = None,
    ) -> Iterator[RunInfo]:
        """The runs that match, the most recently updated first, as they stand when this is called."""
        check_count("limit", limit)
        wanted = RunFilter(session_id, status, updated_after)
        parameters = {
            "session_id": wanted.session_id,
            "status": wanted.status,
            "updated_after": wanted.updated_after,
            "limit": -1 if limit is None else limit,
        }
        with self._file.use() as connection:
            rows = connection.execute(_GET_INFOS, parameters).fetchall()
        return map(_run_info, rows)

    def _infos(self) -> list[RunInfo]:
        return list(self.runs())

    def _commit(self, requests: Sequence[AppendRequest]) -> list[AppendPlan]:
        with self._file.write() as connection:
            # not before: the file may have been locked for a while, and a lease may have run out meanwhile
            additions = _Additions(connection, self._clock(), self._keep_snapshots)
            plans = [_append(additions, request) for request in requests]
            additions.insert()
        return plans

    def _load_snapshot(self, run_id: str, lane_id: str | None) -> tuple[SavedSnapshot, dict[str, Any]] | None:
        with self._file.use() as connection:
            row = connection.execute(_GET_STATE, (run_id, lane_id)).fetchone()
        if row is None:
            return None
        offset, revision, token, text, is_foreign = row
        # what purpose-agent wrote may look like a tag of ours, and is none
        fields = _state_fields(run_id, offset, text, json.loads if is_foreign else load_json)
        return SavedSnapshot(lane_id, offset, revision, token), fields

    def _kept(self, run_id: str) -> list[KeptSnapshot]:
        with self._file.use() as connection, transaction(connection, "BEGIN"):
            return latest_of(history_of(connection, run_id), self._keep_snapshots)

    def _kept_state(self, run_id: str, kept: KeptSnapshot) -> dict[str, Any] | None:
        with self._file.use() as connection:
            text = state_text(connection, run_id, kept.saved.token)
        return None if text is None else _state_fields(run_id, kept.saved.offset, text, load_json)

    def _bounds(self, run_id: str) -> tuple[Cursor, Cursor] | None:
        with self._file.use() as connection:
            run = run_row(connection, run_id)
        return None if run is None else (run.start, run.last)

    def _entries(self, run_id: str, low: int, high: int, *, reverse: bool) -> Iterator[ArchiveEntry]:
        query = _GET_ENTRIES_BACK if reverse else _GET_ENTRIES
        while low < high:
            place = {"run_id": run_id, "low": low, "high": high, "rows": _PAGE_ROWS}
            rows = self._file.rows(query, place)
            for row in rows:
                # bytes: another program has put there what is not text
                yield ArchiveEntry._make(row) if type(row[3]) is not bytes else _damaged(row)
            if len(rows) < _PAGE_ROWS:
                return
            if reverse:
                high = rows[-1][0] - 1
            else:
                low = rows[-1][0]

    # -- a sink ------------------------------------------------------------------------------------

    def delete_history(self, run_id: str, start: Cursor | None) -> bool:
        """Remove a run, and take nothing of that history for a week: a drain in flight may have it in hand."""
        check_run_id(run_id)
        with self._file.write() as connection:
            run, now = run_row(connection, run_id), self._clock()
            starts = [place for place in (start, run and run.start) if place is not None]
            connection.execute(_FORGET_DELETED, (now - DELETED_FOR_SECONDS,))
            connection.executemany(_NOTE_DELETED, [(run_id, place.chain, now) for place in starts])
            was_there = _delete(connection, now, run_id)
        self._forget(run_id)
        return was_there

    @property
    def archive_id(self) -> str:
        """The UUID of this archive."""
        return self._file.archive_id

    @property
    def location(self) -> str:
        """The file, as a URL."""
        return f"sqlite:{self._file.path}"

    def position(self, run_id: str) -> Position | None:
        """How far the archive has a run; None for one that it does not know."""
        with self._file.use() as connection, transaction(connection, "BEGIN"):
            run = run_row(connection, run_id)
            if run is None:
                return None
            return Position(run.last, dict(connection.execute(_GET_TOKENS, (run_id,))))

    def write(self, batches: Sequence[RunBatch]) -> None:
        """Add to many runs in one transaction: durable when it returns, and idempotent.

        Raises ArchiveGap or HistoryDiverged, and then has written nothing for any of them.
        """
        now = self._clock()
        with self._file.write() as connection:
            additions = _Additions(connection, now, self._keep_snapshots)
            for batch in batches:
                _add_batch(additions, batch)
            additions.insert()
        self._file.read_anew()

    def read_back(self, run_id: str, first: int, last: int) -> Iterator[ArchiveEntry]:
        """What the file holds at these offsets, both included, in order."""
        return self._entries(run_id, first - 1, last, reverse=False)

    def read_back_snapshots(self, run_id: str) -> Sequence[ArchiveSnapshot]:
        """The snapshots that the file holds of a run: its own, then those of its lanes."""
        with self._file.use() as connection:
            return [ArchiveSnapshot._make(row) for row in connection.execute(_GET_SNAPSHOTS, (run_id,))]

    def quarantine(self, run_id: str | None = None) -> Iterator[tuple[str, ArchiveEntry]]:
        """The records that were kept aside, of one run or of all, with their run ids."""
        place: dict[str, Any] = {"run_id": "", "offset": 0, "only": run_id, "rows": _PAGE_ROWS}
        while True:
            with self._file.use() as connection:
                rows = connection.execute(_GET_QUARANTINE, place).fetchall()
            for owner, offset, chain, key, raw, reason, at in rows:
                yield owner, ArchiveEntry(offset, chain, key, None, raw, reason, quarantined_at=at)
            if len(rows) < _PAGE_ROWS:
                return
            place.update(run_id=rows[-1][0], offset=rows[-1][1])

    def check_integrity(self) -> list[str]:
        """What is wrong with the file itself, from the medium; nothing if it is sound.

        Looks at every page, holding up this object's other users meanwhile, and at what purpose-agent added
        and the next open is going to adopt. Raises StoreUnavailable where the file cannot be looked at.
        """
        try:
            self._file.read_anew(from_disk=True)
            with self._file.use() as connection:
                found: list[str] = [text for (text,) in connection.execute("PRAGMA integrity_check")]
                foreign = connection.execute(_COUNT_FOREIGN).fetchall()
                unlisted = unlisted_runs(connection)
        except StoreUnavailable as error:
            if not is_damage(error.__cause__):
                raise
            return [str(error)]
        problems = [] if found == ["ok"] else found
        for run_id, count in foreign:
            problems.append(f"run {run_id!r} has {count} events of another program that have no offset yet")
        problems += [f"run {run_id!r} has entries, and is not in the list of runs" for run_id in unlisted]
        return problems

    def columns(self, run_id: str, first: int, last: int) -> dict[int, EntryColumns]:
        """What the columns say of the events at these offsets, both included: what ``read_back`` says in JSON."""
        with self._file.use() as connection:
            return columns_between(connection, run_id, first, last)

    def noted_lanes(self, run_id: str) -> dict[str, int]:
        """The offset of the last event of each lane, as the file has noted it."""
        with self._file.use() as connection:
            return noted_lanes(connection, run_id)

    # -- put right by a person -----------------------------------------------------------------------

    def header(self, run_id: str) -> RunHeader | None:
        """What the archive notes of a run; None for one that it does not know."""
        check_run_id(run_id)
        with self._file.use() as connection:
            return header_of(connection, run_id)

    def readmit(self, run_id: str, entry: ArchiveEntry) -> bool:
        """Put an event that reads by now back in its place in the history, out of the quarantine.

        False, and nothing is changed, if there is no such record in the quarantine (any more).
        """
        check_run_id(run_id)
        columns = entry.columns or _columns_of(run_id, entry)
        with self._file.write() as connection:
            return readmit(connection, run_id, entry, columns)

    def cut_back(self, header: RunHeader, to: Position, expected: Cursor) -> None:
        """Take from a run what comes after ``to``, and the snapshots that ``to`` does not name.

        Durable when it returns, and idempotent. Raises ConcurrencyConflict if the run stands elsewhere than
        at ``expected``, and HistoryDiverged if it never was at ``to``; then nothing is changed.
        """
        with self._file.write() as connection:
            cut_back(connection, header, to, expected)
        self._forget(header.run_id)


# -- inside a transaction ------------------------------------------------------------------------------


def _delete(connection: sqlite3.Connection, now: float, run_id: str) -> bool:
    was_there = sum(connection.execute(statement, (run_id,)).rowcount for statement in _DELETE_RUN) > 0
    if was_there:
        remove_all(connection, now, run_id)  # if it raises, all is undone
    return was_there


def _append(additions: _Additions, request: AppendRequest) -> AppendPlan:
    run_id, now = request.run_id, additions.now
    run = additions.run(run_id)
    if run is None:
        start = new_start()
        run = RunRow("", "running", start, start, created_at=now, updated_at=now)
    plan = plan_append(_head(additions, request, run), request)
    if plan.is_empty:
        return plan
    additions.add_entries(run_id, planned_entries(request, plan))
    if plan.snapshot is not None:
        additions.set_snapshot(run_id, _archive_snapshot(plan.snapshot, request.state))
    head = plan.head
    additions.runs[run_id] = run._replace(
        session_id=head.session_id, status=head.status, last=head.last, updated_at=now
    )
    return plan


def _head(additions: _Additions, request: AppendRequest, run: RunRow) -> RunHead:
    """Where the run stands, with the lanes, the snapshot, the keys and the leases that the request is about."""
    connection, run_id = additions.connection, request.run_id
    found = {lane: connection.execute(_GET_LANE, (run_id, lane)).fetchone() for lane in request.lanes}
    lanes = {lane: row[0] for lane, row in found.items() if row is not None}
    places = {key: connection.execute(_GET_KEY, (run_id, key)).fetchone() for key in request.keys}
    keys = {key: Cursor._make(row) for key, row in places.items() if row is not None}
    saved = None
    if request.state is not None:
        row = connection.execute(_GET_SNAPSHOT, (run_id, request.lane_id)).fetchone()
        saved = None if row is None else SavedSnapshot(request.lane_id, *row)
    leases = in_force(connection, additions.now, run_id)
    return RunHead(run.start, run.last, run.session_id, run.status, lanes, saved, keys, leases)


def _archive_snapshot(saved: SavedSnapshot, state: dict[str, Any] | None) -> ArchiveSnapshot:
    try:
        text = dump_json(state)
    except RecursionError as error:
        raise EncodingError("state: nested too deeply for JSON; store flatter data") from error
    return ArchiveSnapshot(saved.lane_id, saved.offset, saved.revision, saved.token, text)


def _add_batch(additions: _Additions, batch: RunBatch) -> None:
    header, now = batch.header, additions.now
    run_id = header.run_id
    run = additions.run(run_id)
    if run is None and additions.connection.execute(_WAS_DELETED, (run_id, header.start.chain)).fetchone():
        raise deleted_here(run_id)
    entries = new_entries(batch, None if run is None else run.last, partial(additions.place_of, run_id))
    additions.add_entries(run_id, entries)
    for snapshot in batch.snapshots:
        additions.set_snapshot(run_id, snapshot)
    updated_at = header.updated_at or now
    if run is None:
        created_at = header.created_at or now
        start = header.start
        run = RunRow(header.session_id, header.status, start, start, created_at, updated_at, header.parent)
    elif updated_at >= run.updated_at:  # else: of a worker that was paused, and knows less than the archive
        run = run._replace(session_id=header.session_id, status=header.status, updated_at=updated_at)
    additions.runs[run_id] = run._replace(last=entries[-1].cursor) if entries else run


class _Additions:
    """What one transaction adds to any number of runs, gathered so that SQLite gets it in few calls."""

    def __init__(self, connection: sqlite3.Connection, now: float, keep_snapshots: int | None) -> None:
        self.connection = connection
        self.now = now
        self._keep_snapshots = keep_snapshots
        self.runs: dict[str, RunRow] = {}
        self._values: list[Any] = []  # of events, one row's after the other
        self._aside: list[tuple[Any, ...]] = []
        self._lanes: dict[tuple[str, str], int] = {}

    def run(self, run_id: str) -> RunRow | None:
        """The run as it stands within this transaction, or None."""
        return self.runs.get(run_id) or run_row(self.connection, run_id)

    def place_of(self, run_id: str, offset: int) -> Cursor | None:
        """What the file has at an offset of the run, its start included; None for nothing."""
        run = self.run(run_id)
        if run is not None and offset == run.start.offset:
            return run.start
        place = {"run_id": run_id, "low": offset - 1, "high": offset, "rows": 1}
        row = self.connection.execute(_GET_ENTRIES, place).fetchone()
        return None if row is None else Cursor(row[0], row[1])

    def add_entries(self, run_id: str, entries: Iterable[ArchiveEntry]) -> None:
        """Entries that come after all that the run has."""
        lanes: dict[str, int] = {}
        for entry in entries:
            offset, chain, key, data, raw, reason, columns, quarantined_at = entry
            if data is not None:
                if columns is None:
                    columns = _columns_of(run_id, entry)
                self._values += (run_id, *columns, data, offset, chain, key)
                lanes[columns[3]] = offset
            elif raw is not None:
                self._aside.append((run_id, offset, chain, key, raw, reason, quarantined_at or self.now))
            else:
                self._values += (run_id, *_ERASED_COLUMNS, "", offset, chain, key)
        self._lanes.update(((run_id, lane_id), offset) for lane_id, offset in lanes.items())

    def set_snapshot(self, run_id: str, snapshot: ArchiveSnapshot) -> None:
        """Replace the snapshot of the run or lane, unless it is the same one, and keep both in the history."""
        lane_id, offset, revision, token, text = snapshot
        if self._keep_snapshots != 0:
            keep_replaced(self.connection, run_id, lane_id, self.now)
        values = (run_id, text, self.now, offset, revision, token)
        if lane_id is None:
            is_new = self.connection.execute(_SET_RUN_STATE, values).rowcount > 0
        else:
            is_new = self.connection.execute(_SET_LANE_STATE, (*values, lane_id)).rowcount > 0
        if is_new:
            keep_snapshot(self.connection, run_id, snapshot, self.now, self._keep_snapshots)

    def insert(self) -> None:
        """Hand it all to SQLite."""
        for first in range(0, len(self._values), _VALUES_AT_ONCE):
            values = self._values[first : first + _VALUES_AT_ONCE]
            self.connection.execute(_ADD_EVENT + _AND_ANOTHER * (len(values) // _VALUES - 1), values)
        self.connection.executemany(SET_ASIDE, self._aside)
        self.connection.executemany(SET_LANE, [(*place, offset) for place, offset in self._lanes.items()])
        set_runs(self.connection, self.runs)


def _columns_of(run_id: str, entry: ArchiveEntry) -> EntryColumns:
    """The columns of an event that came without them, from another archive."""
    fields = entry_fields(run_id, entry) or {}
    return EntryColumns(fields.get("seq", 0), fields["ts"], fields["kind"], fields.get("lane_id", "main"))


# -- rows to values ------------------------------------------------------------------------------------


def _state_fields(run_id: str, offset: int, text: str | bytes, load: Callable[[Any], Any]) -> dict[str, Any]:
    try:
        fields = load(text)
        if not isinstance(fields, dict):
            raise ValueError("its text is not an object")  # noqa: TRY004 - as for any other broken text
    except (ValueError, RecursionError) as error:
        raise CorruptRecordError(
            f"the snapshot of run {run_id!r} does not read: {error}; save another one",
            run_id=run_id,
            offset=offset,
            raw=text.encode() if isinstance(text, str) else text,
        ) from error
    return fields


def _damaged(row: tuple[Any, ...]) -> ArchiveEntry:
    offset, chain, key, data = row[:4]
    return ArchiveEntry(offset, chain, key, None, data, "its data is not text")


def _run_info(row: tuple[Any, ...]) -> RunInfo:
    run_id, session_id, status, last, start, created_at, updated_at, parent_run_id, parent_offset = row
    parent = None if parent_run_id is None else (parent_run_id, parent_offset)
    # an archive holds all of a run, from its first event on
    return RunInfo(run_id, session_id, status, last, last, start + 1, created_at, updated_at, parent)
