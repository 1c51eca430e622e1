"""Runs in one SQLite file: a store in its own right, and an archive that the drain worker writes to.

Promises: what a call has committed survives a crash of the process and of the machine (a write-ahead log,
``synchronous=FULL``); an append or a batch is in the file as a whole or not at all; a reader holds up
nobody, neither between the events that it is given nor while it fetches them. Any number of threads and
processes of one host may share the file. The tables are in :mod:`runstream.stores.archive.sqlite.schema`; how a
file of purpose-agent's own becomes one of ours, in :mod:`runstream.stores.archive.sqlite.foreign_rows`.
"""

from __future__ import annotations

import json
import os
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

from runstream.codec.event_codec import DEFAULT_MAX_EVENT_BYTES
from runstream.codec.fallback import plain_data
from runstream.codec.lossless_json import load_json
from runstream.model.archive_records import (
    ArchiveEntry,
    ArchiveSnapshot,
    EntryColumns,
    Position,
    RunBatch,
    RunHeader,
)
from runstream.model.errors import CorruptRecordError, StoreUnavailable
from runstream.model.identifiers import check_name, check_run_id
from runstream.model.protocols import Fallback
from runstream.model.results import Cursor, E, LeaseGrant, RunInfo, S
from runstream.operations.filters import RunFilter, check_count
from runstream.stores.archive.base import ArchiveStore
from runstream.stores.archive.snapshot_history import KeptSnapshot, latest_of
from runstream.stores.archive.sqlite.connection import ArchiveFile, absolute_path, is_damage
from runstream.stores.archive.sqlite.deletion import delete, note_deleted
from runstream.stores.archive.sqlite.integrity import columns_between, noted_lanes, unlisted_runs
from runstream.stores.archive.sqlite.lease_table import release, renew, take
from runstream.stores.archive.sqlite.queries import GET_ASIDE, GET_EVENTS, run_row, transaction
from runstream.stores.archive.sqlite.repair import cut_back, header_of, readmit
from runstream.stores.archive.sqlite.snapshot_table import history_of, state_text
from runstream.stores.archive.sqlite.write_batch import Additions, add_batch, append, columns_of
from runstream.stores.local.append_plan import AppendPlan, AppendRequest, SavedSnapshot

__all__ = ["SQLiteCheckpointer"]

_PAGE_ROWS = 1000

_GET_ENTRIES = (GET_EVENTS, GET_ASIDE)
_GET_ENTRIES_BACK = tuple(query.replace("ORDER BY offset", "ORDER BY offset DESC") for query in _GET_ENTRIES)
_GET_LAST_SEQ = """SELECT seq FROM lanes JOIN events ON events.run_id = lanes.run_id AND offset = last_offset
    WHERE lanes.run_id = ? AND lanes.lane_id = ?"""

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
            was_there = delete(connection, self._clock(), run_id)
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
            additions = Additions(connection, self._clock(), self._keep_snapshots)
            plans = [append(additions, request) for request in requests]
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
        queries = _GET_ENTRIES_BACK if reverse else _GET_ENTRIES
        while low < high:
            place = {"run_id": run_id, "low": low, "high": high, "rows": _PAGE_ROWS}
            rows, aside = self._file.rows(queries, place)
            if aside:
                rows = sorted(rows + aside, key=itemgetter(0), reverse=reverse)[:_PAGE_ROWS]
            for row in rows:
                # bytes: another program has put there what is not text
                yield ArchiveEntry(*row) if type(row[3]) is not bytes else _damaged(row)
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
            note_deleted(connection, now, run_id, starts)
            was_there = delete(connection, now, run_id)
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
            additions = Additions(connection, now, self._keep_snapshots)
            for batch in batches:
                add_batch(additions, batch)
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
        columns = entry.columns or columns_of(run_id, entry)
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
