"""Runs as JSON lines: ``DIR/RUN/events.jsonl`` and ``snapshot.json``, which purpose-agent's own reader reads."""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from runstream.codec.archive_entries import entry_fields
from runstream.codec.event_codec import DEFAULT_MAX_EVENT_BYTES
from runstream.codec.fallback import plain_data
from runstream.codec.lossless_json import dump_json, dump_plain_json
from runstream.codec.msgpack_values import unpack, unpack_plain
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, Position, RunBatch, RunHeader
from runstream.model.errors import CorruptRecordError, EncodingError
from runstream.model.identifiers import check_name, check_run_id
from runstream.model.protocols import Fallback
from runstream.model.results import Cursor, E, LeaseGrant, RunInfo, S
from runstream.operations.filters import check_count
from runstream.stores.archive.base import DELETED_FOR_SECONDS, deleted_here, new_entries, planned_entries
from runstream.stores.archive.jsonl import file_names
from runstream.stores.archive.jsonl.directory import DELETED
from runstream.stores.archive.jsonl.file_locks import names_in, unavailable
from runstream.stores.archive.jsonl.line_format import NOT_READ
from runstream.stores.archive.jsonl.reading import between, place_of
from runstream.stores.archive.jsonl.repair import cut_back, readmit
from runstream.stores.archive.jsonl.run_head import Standing
from runstream.stores.archive.jsonl.run_log import RunLog, bury
from runstream.stores.archive.jsonl.run_logs import JSONLRuns
from runstream.stores.archive.jsonl.snapshot_files import all_snapshots, load_snapshot, load_state
from runstream.stores.archive.jsonl.snapshot_files import load_header as load_snapshot_header
from runstream.stores.archive.jsonl.write_batch import Addition, write_additions
from runstream.stores.archive.snapshot_history import KeptSnapshot
from runstream.stores.local.append_plan import (
    AppendPlan,
    AppendRequest,
    RunHead,
    SavedSnapshot,
    new_start,
    plan_append,
)

__all__ = ["JSONLCheckpointer"]

_GRAVE = ".deleted-"


class JSONLCheckpointer(JSONLRuns[E, S]):
    """Runs in a directory of JSON lines. Threads and processes may share it; it survives a fork.

    ``base_dir`` is made if it is not there, and nothing else until the first write; a read makes
    nothing. A writer waits up to ``busy_timeout_seconds`` for another one of the same run. Of each run, and of
    each of its lanes, the latest ``keep_snapshots`` snapshots are kept in ``snapshots.jsonl`` (None: all of them;
    0: none but the latest; up to twice as many take up room): a snapshot of 1 MB that is saved 1,000 times takes
    1 GB. The other options are those of every store. Raises ConfigurationError where ``base_dir`` is not a
    directory and cannot be made one, and UnsupportedVersion where a newer runstream wrote it.

    A write is on the disk when it returns. A disk that fails raises StoreUnavailable; the log is then
    cut back to what it was, so that the same call can be sent again. So does an archive that was removed
    or replaced while it was in use, until it is back: none is made in its place. Events of another program's
    writer, which knows no locks, are read where they stand between ours. There are no leases.
    """

    _has_leases = False

    def __init__(
        self,
        base_dir: str | os.PathLike[str],
        *,
        event_type: type[E] | None = None,
        state_type: type[S] | None = None,
        fallback: Fallback | None = plain_data,
        max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES,
        busy_timeout_seconds: float = 30.0,
        keep_snapshots: int | None = None,
    ) -> None:
        check_count("keep_snapshots", keep_snapshots)
        super().__init__(
            Path(base_dir).absolute(),
            event_type=event_type,
            state_type=state_type,
            fallback=fallback,
            max_event_bytes=max_event_bytes,
            busy_timeout_seconds=busy_timeout_seconds,
            keep_snapshots=keep_snapshots,
        )
        reopen = functools.partial(
            type(self),
            event_type=event_type,
            state_type=state_type,
            fallback=fallback,
            max_event_bytes=max_event_bytes,
            busy_timeout_seconds=busy_timeout_seconds,
            keep_snapshots=keep_snapshots,
        )
        self.reopens_with(reopen, str(self.base_dir))

    @property
    def archive_id(self) -> str:
        """The UUID of this archive; it gets one when it is first asked for or written to."""
        with self._using():
            return self._home.archive_id()

    @property
    def location(self) -> str:
        """``jsonl:`` and the directory."""
        return f"jsonl:{self.base_dir}"

    # -- as a sink -------------------------------------------------------------------------------------

    def position(self, run_id: str) -> Position | None:
        """How far the archive has a run, all of it on the disk; None for a run that it does not know."""
        check_run_id(run_id)
        with self._using(), unavailable(self.base_dir):
            log = self._log(run_id)
            with self._repairing(log):
                standing = self._history(log)
            if standing is None:
                return None
            # one that does not read is not there: it is archived again, over the damaged one
            found = all_snapshots(run_id, log.directory, log.mark, on_corrupt="skip")
            return Position(standing.last, {snapshot.lane_id: snapshot.token for snapshot in found})

    def write(self, batches: Sequence[RunBatch]) -> None:
        """Add to many runs: each run's batch in one atomic step, and none if any of them is refused.

        Raises ArchiveGap, HistoryDiverged, or StoreUnavailable.
        """
        with self._writing([batch.header.run_id for batch in batches]):
            places: dict[str, Cursor | None] = {}
            additions = []
            for batch in batches:
                run_id = batch.header.run_id
                check_run_id(run_id)
                log = self._log(run_id)
                if run_id not in places:
                    standing = self._history(log)
                    places[run_id] = None if standing is None else standing.last
                place = places[run_id]
                if place is None and self._home.was_deleted(run_id, batch.header.start.chain):
                    raise deleted_here(run_id)
                lacking = new_entries(batch, place, functools.partial(place_of, log))
                entries = [self._timed(entry) for entry in lacking]
                snapshots = [new for new in batch.snapshots if not self._has(log, new)]
                if entries or snapshots or place is None:
                    additions.append(Addition(log, batch.header, entries, snapshots))
                    places[run_id] = entries[-1].cursor if entries else place or batch.header.start
            write_additions(additions)

    def read_back(self, run_id: str, first: int, last: int) -> Iterator[ArchiveEntry]:
        """What the log holds at these offsets, both included, in order, from the disk."""
        check_run_id(run_id)
        with self._using(), unavailable(self.base_dir):
            log = self._log(run_id)
            with self._repairing(log):
                log.look(durable=True)
            span = log.span(first - 1, last)
        return between(log, [span], first, last, from_disk=True)

    def read_back_snapshots(self, run_id: str) -> Sequence[ArchiveSnapshot]:
        """The snapshots that the archive holds of a run, from their files."""
        check_run_id(run_id)
        with self._using(), unavailable(self.base_dir):
            log = self._log(run_id)
            with self._repairing(log):
                log.look(durable=True)
            return list(all_snapshots(run_id, log.directory, log.mark))

    def quarantine(self, run_id: str | None = None) -> Iterator[tuple[str, ArchiveEntry]]:
        """The records that were kept aside, of one run or of all, with their run ids."""
        if run_id is not None:
            check_run_id(run_id)
        with self._using():
            run_ids = self._home.run_ids() if run_id is None else [run_id]
        for each in run_ids:
            with self._using(), unavailable(self.base_dir):
                log = self._log(each)
                log.look()
                spans = [(offset, log.span(offset - 1, offset)) for offset in log.history.kept_aside]
            for offset, span in spans:
                for entry in between(log, [span], offset, offset):
                    yield each, entry

    def check_integrity(self) -> list[str]:
        """What is wrong with the files themselves, from the medium: lines and snapshots that do not read.

        Empty if they are sound. A record that was kept aside when it was archived is no such line. Raises
        StoreUnavailable where the files cannot be looked at.
        """
        with self._using(), unavailable(self.base_dir):
            run_ids = sorted(self._home.run_ids())
        problems = []
        for run_id in run_ids:
            start, last = self._bounds(run_id) or (Cursor(0, 0), Cursor(0, 0))
            problems += [
                f"run {run_id!r}, event {entry.offset}: {entry.reason}"
                for entry in self.read_back(run_id, start.offset + 1, last.offset)
                if entry.reason.startswith(NOT_READ)
            ]
            try:
                self.read_back_snapshots(run_id)
            except CorruptRecordError as error:
                problems.append(str(error))
        return problems

    # -- put right by a person -------------------------------------------------------------------------

    def header(self, run_id: str) -> RunHeader | None:
        """What the archive notes of a run; None for one that it does not know."""
        check_run_id(run_id)
        with self._using(), unavailable(self.base_dir):
            standing = self._standing(self._log(run_id), durable=True)
        if standing is None:
            return None
        noted = (standing.session_id, standing.status or "running", standing.created_at, standing.updated_at)
        return RunHeader(run_id, standing.start, *noted, standing.parent)

    def readmit(self, run_id: str, entry: ArchiveEntry) -> bool:
        """Put an event that reads by now back in its place in the history, out of the quarantine.

        False, and nothing is changed, if there is no such record in the quarantine (any more).
        """
        check_run_id(run_id)
        with self._writing([run_id]):
            log = self._log(run_id)
            return log.look(durable=True) and readmit(log, entry)

    def cut_back(self, header: RunHeader, to: Position, expected: Cursor) -> None:
        """Take from a run what comes after ``to``, and the snapshots that ``to`` does not name.

        Durable when it returns, and idempotent. Raises ConcurrencyConflict if the run stands elsewhere than
        at ``expected``, and HistoryDiverged if it never was at ``to``; then nothing is changed.
        """
        check_run_id(header.run_id)
        with self._writing([header.run_id]):
            log = self._log(header.run_id)
            log.look(durable=True)
            cut_back(log, header, to, expected)
        self._forget(header.run_id)

    def delete_history(self, run_id: str, start: Cursor | None) -> bool:
        """Remove a run, and take nothing of that history for a week: a drain in flight may have it in hand."""
        check_run_id(run_id)
        with self._writing([run_id, DELETED]):
            standing = self._standing(self._log(run_id))
            chains = {place.chain for place in (start, standing and standing.start) if place is not None}
            if chains:
                self._home.note_deleted(run_id, chains, self._clock(), DELETED_FOR_SECONDS)
            was_there = self._delete(run_id)
        self._forget(run_id)
        return was_there

    # -- as a store --------------------------------------------------------------------------------

    def run_info(self, run_id: str) -> RunInfo | None:
        """What is known of a run, or None."""
        check_run_id(run_id)
        with self._using(), unavailable(self.base_dir):
            return self._info(run_id)

    def delete_run(self, run_id: str) -> bool:
        """Remove all that this store holds of a run; files of other programs in its directory stay."""
        check_run_id(run_id)
        with self._using():
            if not self._home.directory_of(run_id).exists():
                return False
            with self._home.locks.held([run_id]), unavailable(self.base_dir):
                was_there = self._delete(run_id)
        self._forget(run_id)
        return was_there

    def _delete(self, run_id: str) -> bool:
        log = self._log(run_id)
        if not any(map(file_names.is_run_file, names_in(log.directory))):
            return False
        for name in names_in(self.base_dir):
            if name.startswith(_GRAVE):  # of somebody who was killed in the middle of this
                bury(self.base_dir / name)
        log.remove(self.base_dir / f"{_GRAVE}{secrets.token_hex(8)}")
        self._logs.pop(run_id, None)
        return True

    def last_seq(self, run_id: str, lane_id: str) -> int:
        """The ``seq`` of the lane's last event; 0 for a lane that has none."""
        check_run_id(run_id)
        check_name("lane_id", lane_id)
        with self._using(), unavailable(self.base_dir):
            log = self._log(run_id)
            log.look()
            offset = log.history.lanes.get(lane_id)
            if offset is None:
                return 0
            (entry,) = between(log, [log.span(offset - 1, offset)], offset, offset)
        return int((entry_fields(run_id, entry) or {}).get("seq", 0))

    def take_lease(self, run_id: str, *, owner: str, lane_id: str | None, ttl: float) -> LeaseGrant:
        """Raise ConfigurationError: there are no leases here."""
        del run_id, owner, lane_id, ttl
        raise self._no_leases()

    def renew_lease(self, grant: LeaseGrant) -> None:
        """Raise ConfigurationError: there are no leases here."""
        del grant
        raise self._no_leases()

    def release_lease(self, grant: LeaseGrant) -> None:
        """Raise ConfigurationError: there are no leases here."""
        del grant
        raise self._no_leases()

    def _commit(self, requests: Sequence[AppendRequest]) -> list[AppendPlan]:
        with self._writing([request.run_id for request in requests]):
            now = self._clock()
            plans, additions = [], []
            for request in requests:
                log = self._log(request.run_id)
                standing = self._standing(log, durable=True)
                plan = plan_append(self._head(log, standing, request), request)
                plans.append(plan)
                if plan.is_empty:
                    continue
                head = plan.head
                created_at = now if standing is None else standing.created_at
                header = RunHeader(request.run_id, head.start, head.session_id, head.status, created_at, now)
                snapshots = self._snapshots(request, plan)
                additions.append(Addition(log, header, planned_entries(request, plan), snapshots))
            write_additions(additions)
        return plans

    def _load_snapshot(self, run_id: str, lane_id: str | None) -> tuple[SavedSnapshot, dict[str, Any]] | None:
        with self._using(), unavailable(self.base_dir):
            log = self._log(run_id)
            log.look()
            snapshot = load_snapshot(run_id, log.directory, lane_id, log.mark)
        if snapshot is None:
            return None
        saved = SavedSnapshot(lane_id, snapshot.offset, snapshot.revision, snapshot.token)
        return saved, load_state(run_id, snapshot)

    def _kept(self, run_id: str) -> list[KeptSnapshot]:
        with self._using(), unavailable(self.base_dir):
            log = self._log(run_id)
            log.look()
            return log.kept_snapshots()

    def _kept_state(self, run_id: str, kept: KeptSnapshot) -> dict[str, Any] | None:
        with self._using(), unavailable(self.base_dir):
            found = self._log(run_id).load_kept(kept)
        return None if found is None else load_state(run_id, found)

    def _entries(self, run_id: str, low: int, high: int, *, reverse: bool) -> Iterator[ArchiveEntry]:
        with self._using(), unavailable(self.base_dir):
            log = self._log(run_id)
            spans = log.spans_back(low, high) if reverse else [log.span(low, high)]
        return between(log, spans, low + 1, high, reverse=reverse)

    # -- inside ------------------------------------------------------------------------------------

    def _head(self, log: RunLog, standing: Standing | None, request: AppendRequest) -> RunHead:
        if standing is None:
            start = new_start()
            return RunHead(start, start)
        saved = None
        if request.state is not None:
            saved = load_snapshot_header(log.directory, request.lane_id, log.mark)
        status = standing.status or "running"
        known = log.history
        keys = {key: known.keys[key] for key in request.keys if key in known.keys}
        return RunHead(standing.start, standing.last, standing.session_id, status, known.lanes, saved, keys)

    def _snapshots(self, request: AppendRequest, plan: AppendPlan) -> list[ArchiveSnapshot]:
        if plan.snapshot is None or request.state is None:
            return []
        saved = plan.snapshot
        try:
            packed = self.codec.packer.pack(request.state)
            texts = dump_plain_json(unpack_plain([packed]))
            data = dump_json(unpack(packed)) if texts is None else texts[0]
        except (ValueError, TypeError, RecursionError) as error:
            raise EncodingError(f"the state of run {request.run_id!r} cannot be JSON: {error}") from error
        return [ArchiveSnapshot(saved.lane_id, saved.offset, saved.revision, saved.token, data)]

    def _timed(self, entry: ArchiveEntry) -> ArchiveEntry:
        """The entry, with the time at which it is kept aside if it is."""
        if entry.raw is None or entry.quarantined_at:
            return entry
        return entry._replace(quarantined_at=self._clock())

    def _has(self, log: RunLog, snapshot: ArchiveSnapshot) -> bool:
        saved = load_snapshot_header(log.directory, snapshot.lane_id, log.mark)
        # one of a lower revision comes from a worker that was paused
        return saved is not None and (saved.token == snapshot.token or saved.revision > snapshot.revision)
