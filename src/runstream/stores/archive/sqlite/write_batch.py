"""What a transaction adds to a SQLite archive: the appends of its own callers, and a drain's batches.

All of it is gathered first: each run as it will stand, each lane's last event, the events' columns. SQLite gets
it in few calls at the end.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable
from functools import partial
from typing import Any

from runstream.codec.archive_entries import entry_fields
from runstream.codec.lossless_json import dump_json
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, EntryColumns, PlainEntries, RunBatch
from runstream.model.errors import EncodingError
from runstream.model.results import Cursor
from runstream.stores.archive.base import deleted_here, new_entries, planned_entries
from runstream.stores.archive.sqlite.deletion import was_deleted
from runstream.stores.archive.sqlite.lease_table import in_force
from runstream.stores.archive.sqlite.queries import (
    GET_ASIDE,
    GET_EVENTS,
    SET_ASIDE,
    SET_LANE,
    RunRow,
    run_row,
    set_runs,
)
from runstream.stores.archive.sqlite.snapshot_table import keep_replaced, keep_snapshot
from runstream.stores.local.append_plan import (
    AppendPlan,
    AppendRequest,
    RunHead,
    SavedSnapshot,
    new_start,
    plan_append,
)

__all__ = ["Additions", "add_batch", "append", "columns_of"]

_ADD_EVENT = """INSERT INTO events (run_id, seq, ts, kind, lane_id, data, offset, chain, key)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
# many in one statement: it takes half the time of as many statements, each of which lets go of Python's lock
_AND_ANOTHER = ", (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_VALUES = _AND_ANOTHER.count("?")
_VALUES_AT_ONCE = 100 * _VALUES  # every SQLite takes 999
_GET_LANE = "SELECT last_offset FROM lanes WHERE run_id = ? AND lane_id = ?"
_GET_KEY = "SELECT offset, chain FROM events WHERE run_id = ? AND key = ? ORDER BY offset LIMIT 1"
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

# an event with neither kind nor data, see schema
_ERASED_COLUMNS = EntryColumns(0, 0.0, "", "")


class Additions:
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
        found = (self.connection.execute(query, place).fetchone() for query in (GET_EVENTS, GET_ASIDE))
        row = next((row for row in found if row is not None), None)
        return None if row is None else Cursor(row[0], row[1])

    def add_entries(self, run_id: str, entries: Iterable[ArchiveEntry]) -> None:
        """Entries that come after all that the run has."""
        lanes: dict[str, int] = {}
        if isinstance(entries, PlainEntries):
            offsets, chains, keys, texts, seqs, times, kinds, lane_ids = entries.columns
            rows = zip(
                itertools.repeat(run_id), seqs, times, kinds, lane_ids, texts, offsets, chains, keys, strict=False
            )
            self._values += itertools.chain.from_iterable(rows)
            lanes.update(zip(lane_ids, offsets, strict=True))
            entries = ()
        for entry in entries:
            offset, chain, key, data, raw, reason, quarantined_at, seq, ts, kind, lane_id = entry
            if data is not None:
                if kind is None:
                    seq, ts, kind, lane_id = columns_of(run_id, entry)
                self._values += (run_id, seq, ts, kind, lane_id, data, offset, chain, key)
                lanes[lane_id] = offset
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


def append(additions: Additions, request: AppendRequest) -> AppendPlan:
    """Plan an append for where the run stands by now, and add what it writes."""
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


def _head(additions: Additions, request: AppendRequest, run: RunRow) -> RunHead:
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


def add_batch(additions: Additions, batch: RunBatch) -> None:
    """Add what the file lacks of a drain's batch, unless that history was deleted here."""
    header, now = batch.header, additions.now
    run_id = header.run_id
    run = additions.run(run_id)
    if run is None and was_deleted(additions.connection, run_id, header.start):
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


def columns_of(run_id: str, entry: ArchiveEntry) -> EntryColumns:
    """The columns of an event that came without them, from another archive."""
    return EntryColumns.of(entry_fields(run_id, entry) or {})
