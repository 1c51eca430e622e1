"""The operations of a SQLite archive, as a store in its own right and as a sink of the drain worker.

Promises: what a call has committed survives a crash of the process and of the machine (a write-ahead log,
``synchronous=FULL``); an append or a batch is in the file completely or not at all; a reader holds up
nobody, neither between the events that it is given nor while it fetches them. Any number of threads and
processes of one host may share the file. The tables are in :mod:`runstream.stores.archive.sqlite.schema`; what
purpose-agent's own writers do beside ours, in :mod:`runstream.stores.archive.sqlite.foreign_rows`.
"""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from runstream.codec.archive_entries import entry_fields
from runstream.codec.event_codec import Codec
from runstream.codec.kept_states import packed_or_text
from runstream.model.archive_records import (
    ArchiveEntry,
    ArchiveSnapshot,
    EntryColumns,
    Position,
    RunBatch,
    RunHeader,
)
from runstream.model.clock import unix_seconds
from runstream.model.errors import CorruptRecordError, StoreUnavailable
from runstream.model.events import HIGHEST_SEQ
from runstream.model.identifiers import check_run_id
from runstream.model.results import Cursor, E, LeaseGrant, S
from runstream.model.run_head import RunHead, SnapshotHead
from runstream.model.tags import TagSet
from runstream.operations.arguments import LeaseRequest, RunsQuery
from runstream.operations.follow_runs import FollowRunsQuery
from runstream.operations.lane_facts import LaneFacts
from runstream.operations.operation import Stream, in_one_call
from runstream.stores.archive.base import ArchiveOperations
from runstream.stores.archive.integrity import pages_of
from runstream.stores.archive.snapshot_history import (
    KEPT_SNAPSHOTS,
    KeepSnapshots,
    KeptSnapshot,
    count_kept,
    latest_of,
)
from runstream.stores.archive.sqlite.caller_keys import load_keys
from runstream.stores.archive.sqlite.common_commits import CommonCommits
from runstream.stores.archive.sqlite.connection import ArchiveFile, is_damage
from runstream.stores.archive.sqlite.deletion import delete, note_deleted
from runstream.stores.archive.sqlite.entry_rows import entries_at, entries_between
from runstream.stores.archive.sqlite.erasing import SQLiteEraser
from runstream.stores.archive.sqlite.integrity import (
    columns_between,
    errors_beside,
    file_problems,
    noted_lanes,
)
from runstream.stores.archive.sqlite.lane_rows import lane_facts, seq_at
from runstream.stores.archive.sqlite.latest_snapshots import load_position, load_state, read_snapshots
from runstream.stores.archive.sqlite.lease_table import release, renew, take
from runstream.stores.archive.sqlite.proofs import (
    fill_entries,
    fill_snapshots,
    has_unproven,
    has_unproven_snapshots,
)
from runstream.stores.archive.sqlite.queries import (
    GET_OFFSET_BEFORE,
    find_children,
    find_heads,
    load_head,
    load_lane,
    replace_head,
)
from runstream.stores.archive.sqlite.repair import cut_back, kept_aside, readmit
from runstream.stores.archive.sqlite.row_values import state_in
from runstream.stores.archive.sqlite.run_list import listed_runs
from runstream.stores.archive.sqlite.snapshot_table import history_of, state_text
from runstream.stores.archive.sqlite.tag_table import load_tags
from runstream.stores.archive.sqlite.write_batch import WriteBatch, columns_of
from runstream.stores.capabilities import HasColumns
from runstream.stores.local.append_plan import AppendPlan, AppendRequest

__all__ = ["SQLiteOperations"]


class SQLiteOperations(ArchiveOperations[E, S], HasColumns):
    """The operations of a SQLite archive.

    Args:
        codec: Makes events and states of the caller's types, and encodes them.
        path: The file, absolute.
        busy_timeout_seconds: How long a writer waits for another one.
        require_lease: Refuse every write without a lease on what it touches.
        keep_snapshots: How many snapshots of each run and of each lane to keep; None: as many as the file keeps.
        mode: The permissions of a new file; None: those that its directory suggests.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        codec: Codec[E, S],
        path: str,
        *,
        busy_timeout_seconds: float,
        require_lease: bool,
        keep_snapshots: KeepSnapshots | None,
        mode: int | None = None,
        clock: Callable[[], float] = unix_seconds,
    ) -> None:
        super().__init__(codec, require_lease=require_lease, clock=clock)
        kept = count_kept(keep_snapshots, KEPT_SNAPSHOTS)
        self._file = ArchiveFile(path, busy_timeout_seconds, mode, kept)
        self._keep_snapshots = count_kept(keep_snapshots, self._file.keep_snapshots)
        self._commits = CommonCommits(self._file)
        self.eraser = SQLiteEraser(self._file, clock)
        # a store that nobody closes gives its file back all the same
        self._finalizer = weakref.finalize(self, self._file.close)

    def close(self) -> None:
        """Close the file for good. Closing twice is fine."""
        self._finalizer()

    @property
    def archive_id(self) -> str:
        """The UUID of this archive."""
        return self._file.archive_id

    @property
    def location(self) -> str:
        """The file, as a URL."""
        return f"sqlite:{self._file.path}"

    # -- runs ----------------------------------------------------------------------------------------------

    def _load_head(self, run_id: str) -> RunHead | None:
        with self._file.use() as connection:
            return load_head(connection, run_id)

    def _load_tagged(self, run_id: str) -> RunHead | None:
        with self._file.at_one_moment() as connection:
            head = load_head(connection, run_id)
            return None if head is None else replace(head, tags=load_tags(connection, run_id))

    def _load_heads(self) -> list[tuple[str, RunHead]]:
        return self._find_heads(RunsQuery())

    def runs(self, query: RunsQuery) -> Stream:
        """The runs that match, the most recently updated first; the first of them soon, however many there are."""
        return listed_runs(self._find_runs, query)

    def _find_heads(self, query: RunsQuery) -> list[tuple[str, RunHead]]:
        with self._file.use() as connection:
            return find_heads(connection, query)

    def _heads_since(
        self, query: FollowRunsQuery, updated_after: float | None, written_after: float
    ) -> list[tuple[str, RunHead]]:
        del written_after  # the file does not say when
        return self._find_heads(query.runs_query(updated_after))

    def _at_once(self, run_ids: Collection[str]) -> AbstractContextManager[Any]:
        del run_ids  # a transaction is of the whole file
        return self._file.write()

    def _children_of(self, run_id: str) -> list[tuple[str, RunHead]]:
        with self._file.use() as connection:
            return find_children(connection, run_id)

    @in_one_call
    def delete_run(self, run_id: str) -> bool:
        """Remove all that the file holds of a run. Raises LeaseHeld while a lease is in force."""
        check_run_id(run_id)
        with self._file.write() as connection:
            self._check_forks(run_id)
            was_there = delete(connection, self._clock(), run_id)
        self._forget(run_id)
        return was_there

    def delete_history(self, run_id: str, creation: int | None) -> bool:
        """Remove a run, and refuse its history for a week: a drain in flight may be about to write it."""
        check_run_id(run_id)
        with self._file.write() as connection:
            self._check_forks(run_id)
            head, now = load_head(connection, run_id), self._clock()
            creations = (creation, None if head is None else head.creation)
            note_deleted(connection, now, run_id, [one for one in creations if one is not None])
            was_there = delete(connection, now, run_id)
        self._forget(run_id)
        return was_there

    # -- events --------------------------------------------------------------------------------------------

    def _commit(self, requests: Sequence[AppendRequest]) -> list[AppendPlan]:
        if len(requests) == 1:
            return [self._commits.append(requests[0], self._batch)]
        with self._file.write() as connection:
            # not before: the file may have been locked for a while, and a lease may have run out meanwhile
            batch = self._batch(connection)
            plans = [batch.append(request) for request in requests]
            batch.insert()
        return plans

    def write(self, batches: Sequence[RunBatch]) -> None:
        """Add to many runs in one transaction: durable when it returns, and idempotent.

        Raises:
            ArchiveGap: A hole would be left; nothing was written for any run.
            HistoryDiverged: The file has another history; nothing was written for any run.
        """
        with self._file.write():
            self._write_within(batches)
        self._file.read_anew()

    def _write_within(self, batches: Sequence[RunBatch]) -> None:
        with self._file.use() as connection:
            batch = self._batch(connection)
            for of_run in batches:
                batch.add(of_run)
            batch.insert()

    def _write_copied(self, run_id: str, head: RunHead, entries: Iterator[ArchiveEntry]) -> None:
        with self._file.use() as connection:
            noted = noted_lanes(connection, run_id)
            for page in pages_of(entries):
                self._batch(connection).copy(run_id, page, noted)
            replace_head(connection, run_id, head)

    def _batch(self, connection: sqlite3.Connection) -> WriteBatch:
        return WriteBatch(connection, self._clock(), self._keep_snapshots, self._inherited_keys)

    def _own_seq(self, run_id: str, lane_id: str) -> int | None:
        with self._file.at_one_moment() as connection:
            offset = load_lane(connection, run_id, lane_id)
            return None if offset is None else seq_at(connection, run_id, lane_id, offset)

    def _own_keys(self, run_id: str, keys: Sequence[str]) -> Mapping[str, Cursor]:
        with self._file.at_one_moment() as connection:
            return load_keys(connection, run_id, keys)

    def _own_lane_facts(self, run_id: str) -> LaneFacts:
        with self._file.at_one_moment() as connection:
            return lane_facts(connection, self._clock(), run_id)

    def _own_offset_before(self, run_id: str, since_seq: int) -> int:
        asked = {"run_id": run_id, "since_seq": min(since_seq, HIGHEST_SEQ)}
        with self._file.use() as connection:
            return int(connection.execute(GET_OFFSET_BEFORE, asked).fetchone()[0])

    def _entries(self, run_id: str, low: int, high: int, *, reverse: bool) -> Iterator[ArchiveEntry]:
        return entries_between(self._file, run_id, low, high, reverse=reverse)

    def _entries_at(self, run_id: str, offsets: Sequence[int]) -> Iterator[ArchiveEntry]:
        return entries_at(self._file, run_id, offsets)

    def position_of_lanes(self, run_id: str, lanes: Collection[str | None] | None) -> Position | None:
        """How far the archive has a run; with the snapshots of these lanes, None: of all."""
        with self._file.at_one_moment() as connection:
            return load_position(connection, run_id, lanes)

    def end_of(self, run_id: str) -> Cursor | None:
        """The cursor of a run's last event, which takes one look; None for a run that the file does not have."""
        return head.last if (head := self._load_head(run_id)) else None

    def read_back_tags(self, run_id: str) -> TagSet:
        """The tags that the file holds of a run."""
        with self._file.use() as connection:
            return load_tags(connection, run_id)

    def read_back(self, run_id: str, first: int, last: int) -> Iterator[ArchiveEntry]:
        """What the file holds at these offsets, both included, in order."""
        return self._entries(run_id, first - 1, last, reverse=False)

    def quarantine(self, run_id: str | None = None) -> Iterator[tuple[str, ArchiveEntry]]:
        """The records in the quarantine, of one run or of all, with their run ids."""
        return kept_aside(self._file, run_id)

    # -- snapshots -----------------------------------------------------------------------------------------

    def _keep_lane_state(self, fields: Mapping[str, Any]) -> bytes | str:
        return packed_or_text(self.codec.packer, fields)

    def _load_snapshot(
        self, run_id: str, lane_id: str | None
    ) -> tuple[RunHead | None, tuple[SnapshotHead, dict[str, Any]] | None]:
        with self._file.use() as connection:
            return load_head(connection, run_id), load_state(connection, run_id, lane_id)

    def _kept_snapshots(self, run_id: str) -> list[KeptSnapshot]:
        with self._file.at_one_moment() as connection:
            return latest_of(history_of(connection, run_id), self._keep_snapshots)

    def _load_kept(self, run_id: str, kept: KeptSnapshot) -> dict[str, Any] | None:
        with self._file.use() as connection:
            found = state_text(connection, run_id, kept.head.token)
        return None if found is None else state_in(run_id, kept.head.offset, *found)

    def read_back_lanes(self, run_id: str, lanes: Collection[str | None] | None) -> Sequence[ArchiveSnapshot]:
        """The snapshots that the file holds of these lanes of a run; None: its own, then those of its lanes."""
        with self._file.use() as connection:
            found, broken = read_snapshots(connection, run_id, lanes)
        for error in broken.values():
            raise error
        return found

    def sound_snapshots(self, run_id: str) -> tuple[list[ArchiveSnapshot], dict[str | None, CorruptRecordError]]:
        """The latest snapshots of a run that read, and why the others do not, by lane."""
        with self._file.use() as connection:
            return read_snapshots(connection, run_id, None)

    # -- leases --------------------------------------------------------------------------------------------

    @in_one_call
    def take_lease(self, request: LeaseRequest) -> LeaseGrant:
        """Take a lease, without waiting. Raises LeaseHeld where another is in the way."""
        with self._file.write() as connection:
            return take(connection, self._clock(), request)

    @in_one_call
    def renew_lease(self, grant: LeaseGrant) -> None:
        """Extend a lease to its full ttl from now on. Raises LeaseLost where it has passed on or run out."""
        with self._file.write() as connection:
            renew(connection, self._clock(), grant)

    @in_one_call
    def release_lease(self, grant: LeaseGrant) -> None:
        """Give a lease back, unless it has passed on already."""
        with self._file.write() as connection:
            release(connection, grant)

    # -- checked and put right by a person -----------------------------------------------------------------

    def check_file(self) -> list[str]:
        """What is wrong with the file as such, and with the list of its runs; nothing if it is sound.

        It reads every page from the medium, holding up this object's other users meanwhile.

        Raises:
            StoreUnavailable: The file cannot be read.
        """
        try:
            self._file.read_anew(from_disk=True)
            with self._file.use() as connection:
                return file_problems(connection)
        except StoreUnavailable as error:
            if not is_damage(error.__cause__):
                raise
            return [str(error)]

    def check_beside(self, run_id: str) -> list[CorruptRecordError]:
        """What is wrong with the rows of a run but for its entries: its lanes, its snapshots and their history."""
        with self._file.use() as connection:
            found = errors_beside(connection, run_id)
            is_whole = not has_unproven_snapshots(connection, run_id)
        if not is_whole and not found:
            with self._file.write() as connection:
                fill_snapshots(connection, run_id)
        return found

    def note_proven(self, run_id: str, entries: Sequence[ArchiveEntry]) -> None:
        """Give entries that were proven by their chain their checksums, where an earlier version wrote them."""
        with self._file.use() as connection:
            if not entries or not has_unproven(connection, run_id, entries[0].offset, entries[-1].offset):
                return
        with self._file.write() as connection:
            fill_entries(connection, run_id, entries)

    def _are_noted(self, run_id: str, entries: Sequence[ArchiveEntry]) -> Iterator[bool]:
        stored = self.columns(run_id, entries[0].offset, entries[-1].offset)
        for entry in entries:
            fields = None if entry.data is None else entry_fields(run_id, entry)
            yield fields is None or EntryColumns.of(fields) == stored.get(entry.offset)

    def columns(self, run_id: str, first: int, last: int) -> dict[int, EntryColumns]:
        """The columns of the events at these offsets, both included, by offset."""
        with self._file.use() as connection:
            return columns_between(connection, run_id, first, last)

    def noted_lanes(self, run_id: str) -> dict[str, int]:
        """The offset of the last event of each lane, as the file has noted it."""
        with self._file.use() as connection:
            return noted_lanes(connection, run_id)

    def readmit(self, run_id: str, entry: ArchiveEntry) -> bool:
        """Put an event that reads by now back at its offset in the history, out of the quarantine."""
        check_run_id(run_id)
        columns = entry.columns or columns_of(run_id, entry)
        with self._file.write() as connection:
            return readmit(connection, run_id, entry, columns)

    def cut_back(self, header: RunHeader, to: Position, expected: Cursor) -> None:
        """Remove what comes after ``to`` from a run, and the snapshots that ``to`` does not name."""
        with self._file.write() as connection:
            cut_back(connection, header, to, expected)
        self._forget(header.run_id)
