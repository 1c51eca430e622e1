"""Add to a SQLite archive in one transaction: the appends of its own callers, or a drain's batches.

All of it is gathered first: each run's new head, each lane's last event, the events' columns. SQLite gets it
in few calls at the end.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from runstream.codec.archive_entries import entry_fields
from runstream.model.archive_records import (
    ArchiveEntry,
    ArchiveSnapshot,
    EntryColumns,
    PlainEntries,
    RunBatch,
    RunHeader,
    last_cursor,
)
from runstream.model.erasures import ErasureNote
from runstream.model.errors import CorruptRecordError
from runstream.model.results import Cursor
from runstream.model.run_head import UNKNOWN_TOKEN, EndedLane, RunHead, SnapshotHead
from runstream.model.tags import TagSet
from runstream.stores.archive.eraser import erased, without_erased
from runstream.stores.archive.planned import planned_entries, planned_snapshots
from runstream.stores.archive.sink_rules import check_same_fork, deleted_here, new_entries
from runstream.stores.archive.sqlite.caller_keys import cursor_in, load_keys
from runstream.stores.archive.sqlite.deletion import was_deleted
from runstream.stores.archive.sqlite.drained_runs import note_drained
from runstream.stores.archive.sqlite.erasure_table import load_notes
from runstream.stores.archive.sqlite.lane_rows import save_ends
from runstream.stores.archive.sqlite.lease_table import in_force
from runstream.stores.archive.sqlite.queries import (
    GET_ASIDE,
    GET_EVENTS,
    keep_aside,
    load_head,
    load_lane,
    save_heads,
    save_lanes,
)
from runstream.stores.archive.sqlite.row_checksums import (
    entry_checksum,
    entry_checksums,
    run_seed,
    snapshot_checksums,
)
from runstream.stores.archive.sqlite.row_values import is_count, snapshot_head_in
from runstream.stores.archive.sqlite.snapshot_table import keep_replaced, keep_snapshot
from runstream.stores.archive.sqlite.tag_table import load_sound_tags, load_tags, save_tags
from runstream.stores.local.append_plan import AppendPlan, AppendRequest, Details, new_head, plan_append

__all__ = ["PlannedAppend", "WriteBatch", "columns_of"]

_ADD_EVENT = """INSERT INTO events (run_id, seq, ts, kind, lane_id, data, offset, chain, key, checksum)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
# many in one statement: it takes half the time of as many statements, each of which lets go of Python's lock
_AND_ANOTHER = ", (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_VALUES = _AND_ANOTHER.count("?")
_VALUES_AT_ONCE = 99 * _VALUES  # every SQLite takes 999
_SET_RUN_STATE = """INSERT INTO snapshots
    (run_id, state, updated_at, offset, revision, token, checksum, state_checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (run_id) DO UPDATE SET state = excluded.state, updated_at = excluded.updated_at,
    offset = excluded.offset, revision = excluded.revision, token = excluded.token,
    checksum = excluded.checksum, state_checksum = excluded.state_checksum
    WHERE token IS NOT excluded.token
    AND (typeof(revision) <> 'integer' OR revision <= excluded.revision OR revision > (1 << 53) OR token = ?)"""
_SET_LANE_STATE = """INSERT INTO lane_snapshots
    (run_id, state, updated_at, offset, revision, token, checksum, state_checksum, lane_id)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (run_id, lane_id) DO UPDATE SET state = excluded.state, updated_at = excluded.updated_at,
    offset = excluded.offset, revision = excluded.revision, token = excluded.token,
    checksum = excluded.checksum, state_checksum = excluded.state_checksum
    WHERE token IS NOT excluded.token
    AND (typeof(revision) <> 'integer' OR revision <= excluded.revision OR revision > (1 << 53) OR token = ?)"""
_GET_SNAPSHOT = """SELECT offset, revision, token, checksum, state_checksum FROM latest_states
    WHERE run_id = ? AND lane_id IS ?"""


_HAS_ERASURES = "SELECT 1 FROM erasures LIMIT 1"


class PlannedAppend(NamedTuple):
    """An append that is not refused.

    Attributes:
        request: What is asked for.
        plan: What comes of it.
        entries: The entries that it writes.
        head: The run's head before, with its tags where these may change.
        is_first: Whether the run begins with it.
    """

    request: AppendRequest
    plan: AppendPlan
    entries: Sequence[ArchiveEntry]
    head: RunHead
    is_first: bool


class WriteBatch:
    """What one transaction adds to any number of runs, gathered so that SQLite gets it in few calls.

    Args:
        connection: In the transaction.
        now: Unix time in seconds, read within the transaction where leases count.
        keep_snapshots: How many snapshots of each run and lane to keep; None: all.
        inherited_keys: Gives the cursors of the events with these keys that a fork shares, by key.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        now: float,
        keep_snapshots: int | None,
        inherited_keys: Callable[[str, RunHead, Sequence[str]], Mapping[str, Cursor]],
    ) -> None:
        self._connection = connection
        self._inherited_keys = inherited_keys
        self._now = now
        self._keep_snapshots = keep_snapshots
        self._heads: dict[str, RunHead] = {}
        self._drained: list[str] = []
        self._values: list[Any] = []  # of events, one row's after the other
        self._aside: list[tuple[Any, ...]] = []
        self._lanes: dict[tuple[str, str], int] = {}
        self._ends: list[tuple[str, EndedLane]] = []
        self._tags: dict[str, TagSet] = {}
        self._has_erasures: bool | None = None

    def append(self, request: AppendRequest) -> AppendPlan:
        """Plan an append on the run's head in this transaction, and add what it writes."""
        return self.add_planned(self.plan(request))

    def plan(self, request: AppendRequest) -> PlannedAppend:
        """Plan an append on the run's head in this transaction. Where it is refused, nothing of it is added."""
        run_id = request.run_id
        known = self._head(run_id)
        head = known or new_head(self._now)
        if request.tags:
            head = replace(head, tags=self._tags.get(run_id) or load_tags(self._connection, run_id))
        details = self._details(request, head)
        plan = plan_append(self._with_snapshot(head, request), details, request, self._now)
        return PlannedAppend(request, plan, planned_entries(request, plan), head, known is None)

    def add_planned(self, planned: PlannedAppend) -> AppendPlan:
        """Add what a planned append writes."""
        request, plan, entries, head, is_first = planned
        if plan.is_empty:
            return plan
        run_id = request.run_id
        self._add_entries(run_id, entries)
        for snapshot in planned_snapshots(request, plan):
            self._set_snapshot(run_id, snapshot, is_first=is_first)
        self._ends += [(run_id, end) for end in plan.ended]
        if plan.tags is not None and plan.tags is not head.tags:
            self._tags[run_id] = plan.tags
        self._heads[run_id] = plan.head
        return plan

    def add(self, batch: RunBatch) -> None:
        """Add what the file lacks of a drain's batch, unless that history was deleted here."""
        header, run_id = batch.header, batch.header.run_id
        if batch.drained:
            self._drained.append(run_id)
        head = self._head(run_id)
        if head is None and was_deleted(self._connection, run_id, header.creation):
            raise deleted_here(run_id)
        check_same_fork(header, head)
        notes = self._erasures(header)
        knows_all = batch.erasures_seen == len(notes)
        entries = new_entries(batch, None if head is None else head.last, partial(self._cursor_at, run_id))
        self._add_entries(run_id, [erased(entry) for entry in batch.former] if head is None else ())
        self._add_entries(run_id, entries if knows_all else without_erased(entries, notes))
        snapshots = batch.snapshots if knows_all or batch.erasures_seen is None else ()
        seen = batch.snapshots_seen
        saved = [self._set_snapshot(run_id, one, seen=seen.get(one.lane_id, "")) for one in snapshots]
        self._ends += [(run_id, self._known_end(run_id, end)) for end in batch.ended]
        saved.append(header.tags is not None and self._set_tags(run_id, header.tags, batch.tags_seen))
        updated_at = header.updated_at or self._now
        if head is None:
            head = RunHead(
                header.start,
                header.before_first,
                status=header.status,
                session_id=header.session_id,
                created_at=header.created_at or self._now,
                updated_at=updated_at,
                parent=header.parent,
                identity=header.identity,
                parent_identity=header.parent_identity,
                base=header.base,
                origins=header.origins,
            )
        # else: from a worker that was paused, and knows less than the archive. One that brings something new knows
        # more, and one that has read less of the run knows less, whatever its time says: the server's clock may
        # have been set back
        elif entries or any(saved) or (batch.end.offset >= head.last.offset and updated_at >= head.updated_at):
            head = replace(head, status=header.status, session_id=header.session_id, updated_at=updated_at)
        self._heads[run_id] = replace(head, last=last_cursor(entries)) if entries else head

    def copy(self, run_id: str, entries: Sequence[ArchiveEntry], noted: Collection[str]) -> None:
        """Add entries that come before all that the run has itself: the lanes that are noted end later."""
        self._add_entries(run_id, entries)
        for lane_id in noted:
            self._lanes.pop((run_id, lane_id), None)
        self.insert()

    def insert(self) -> None:
        """Write all that was gathered."""
        for first in range(0, len(self._values), _VALUES_AT_ONCE):
            values = self._values[first : first + _VALUES_AT_ONCE]
            self._connection.execute(_ADD_EVENT + _AND_ANOTHER * (len(values) // _VALUES - 1), values)
        if self._aside:
            keep_aside(self._connection, self._aside)
        save_lanes(self._connection, [(*lane, offset) for lane, offset in self._lanes.items()])
        if self._ends:
            save_ends(self._connection, self._ends)
        if self._drained:
            note_drained(self._connection, self._drained)
        save_heads(self._connection, self._heads)
        for run_id, tags in self._tags.items():
            save_tags(self._connection, run_id, tags)

    # -- inside --------------------------------------------------------------------------------------------

    def _head(self, run_id: str) -> RunHead | None:
        """The run's head within this transaction; None if it is not there."""
        return self._heads.get(run_id) or load_head(self._connection, run_id)

    def _with_snapshot(self, head: RunHead, request: AppendRequest) -> RunHead:
        """The head with the snapshots that the request is to replace, if it saves any."""
        saved = {}
        for lane_id in request.saved_lanes:
            row = self._connection.execute(_GET_SNAPSHOT, (request.run_id, lane_id)).fetchone()
            if row is not None:
                saved[lane_id] = self._saved(request.run_id, lane_id, row)
        return replace(head, snapshots=saved) if request.saved_lanes else head

    def _known_end(self, run_id: str, end: EndedLane) -> EndedLane:
        """The end with the token of the lane's snapshot in the file, where Redis had none any more."""
        if end.token != UNKNOWN_TOKEN:
            return end
        row = self._connection.execute(_GET_SNAPSHOT, (run_id, end.lane_id)).fetchone()
        return end._replace(token="" if row is None else self._saved(run_id, end.lane_id, row).token)

    def _saved(self, run_id: str, lane_id: str | None, row: tuple[Any, ...]) -> SnapshotHead:
        """The head of the snapshot that is to be replaced; one that is damaged counts as one that nobody knows."""
        try:
            return snapshot_head_in(run_id, lane_id, *row)
        except CorruptRecordError:
            return SnapshotHead(lane_id, 0, row[1] if is_count(row[1]) else 0, "")

    def _details(self, request: AppendRequest, head: RunHead) -> Details:
        connection, run_id = self._connection, request.run_id
        lanes = {lane: self._lane_offset(run_id, lane, head) for lane in request.lanes}
        keys = load_keys(connection, run_id, request.keys)
        inherited = self._inherited_keys(run_id, head, [key for key in request.keys if key not in keys])
        return Details(
            {lane: offset for lane, offset in lanes.items() if offset is not None},
            {**inherited, **keys},
            in_force(connection, self._now, run_id),
        )

    def _lane_offset(self, run_id: str, lane: str, head: RunHead) -> int | None:
        """The offset of a lane's last event; None for a lane that is not there."""
        try:
            return load_lane(self._connection, run_id, lane)
        except CorruptRecordError:
            # it may be any of the run's: nothing is taken for covered that may not be
            return head.last.offset

    def _cursor_at(self, run_id: str, offset: int) -> Cursor | None:
        """The cursor of what the file has at an offset of the run, its start included; None for nothing."""
        head = self._head(run_id)
        if head is not None and offset in (head.start.offset, head.before_first.offset):
            return head.start if offset == head.start.offset else head.before_first
        page = {"run_id": run_id, "low": offset - 1, "high": offset, "rows": 1}
        found = (self._connection.execute(query, page).fetchone() for query in (GET_EVENTS, GET_ASIDE))
        row = next((row for row in found if row is not None), None)
        return None if row is None else cursor_in(run_id, row)

    def _add_entries(self, run_id: str, entries: Iterable[ArchiveEntry]) -> None:
        """Add entries that come after all that the run has."""
        lanes: dict[str, int] = {}
        if isinstance(entries, PlainEntries):
            offsets, chains, keys, texts, seqs, times, kinds, lane_ids = entries.columns
            checksums = entry_checksums(run_id, offsets, chains, keys, texts)
            columns = (seqs, times, kinds, lane_ids, texts, offsets, chains, keys, checksums)
            rows = zip(itertools.repeat(run_id), *columns, strict=False)
            self._values += itertools.chain.from_iterable(rows)
            lanes.update(zip(lane_ids, offsets, strict=True))
            entries = ()
        seed = run_seed(run_id)
        for entry in entries:
            offset, chain, key, data, raw, reason, quarantined_at, seq, ts, kind, lane_id = entry
            checksum = entry_checksum(seed, offset, chain, key, data)
            if data is not None:
                if kind is None:
                    seq, ts, kind, lane_id = columns_of(run_id, entry)
                self._values += (run_id, seq, ts, kind, lane_id, data, offset, chain, key, checksum)
                lanes[lane_id] = offset
            elif raw is not None:
                self._aside.append((run_id, offset, chain, key, raw, reason, float(quarantined_at or self._now)))
            else:
                self._values += (run_id, seq, 0.0, "", lane_id, "", offset, chain, key, checksum)
                if lane_id:
                    lanes[lane_id] = offset
        self._lanes.update(((run_id, lane_id), offset) for lane_id, offset in lanes.items())

    def _erasures(self, header: RunHeader) -> list[ErasureNote]:
        """What was asked to be erased of a run; asked once whether of any."""
        if self._has_erasures is None:
            self._has_erasures = self._connection.execute(_HAS_ERASURES).fetchone() is not None
        return load_notes(self._connection, header.run_id, header.creation) if self._has_erasures else []

    def _set_tags(self, run_id: str, tags: TagSet, seen: str | None) -> bool:
        """Replace the tags of a run, unless it has these or later ones. Returns whether it had others."""
        former = self._tags.get(run_id) or load_sound_tags(self._connection, run_id)
        is_new = tags.follows(former, seen)
        if is_new:
            self._tags[run_id] = tags
        return is_new

    def _set_snapshot(
        self, run_id: str, snapshot: ArchiveSnapshot, *, is_first: bool = False, seen: str = ""
    ) -> bool:
        """Replace the snapshot of the run or lane, unless it is the same or later, and keep both in the history.

        One with which a run begins (``is_first``) comes to the history as it is replaced: it may be the only one.
        One of the token ``seen`` is no later one.

        Returns:
            Whether it was another one.
        """
        lane_id, offset, revision, token, text = snapshot
        if self._keep_snapshots != 0:
            keep_replaced(self._connection, run_id, lane_id, self._now)
        values = (run_id, text, self._now, offset, revision, token, *snapshot_checksums(run_id, snapshot))
        if lane_id is None:
            is_new = self._connection.execute(_SET_RUN_STATE, (*values, seen)).rowcount > 0
        else:
            is_new = self._connection.execute(_SET_LANE_STATE, (*values, lane_id, seen)).rowcount > 0
        if is_new and not is_first:
            keep_snapshot(self._connection, lane_id, values, self._keep_snapshots)
        return is_new


def columns_of(run_id: str, entry: ArchiveEntry) -> EntryColumns:
    """The columns of an event that came without them, from another archive."""
    return EntryColumns.of(entry_fields(run_id, entry) or {})
