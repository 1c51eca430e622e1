"""The operations of an archive of JSON lines, as a store in its own right and as a sink of the drain worker.

A write is on the disk when it returns. A disk that fails raises StoreUnavailable; the log is then cut back to what
it was, so that the same call can be sent again. So does an archive that was removed or replaced while it was in
use, until it is back: no new one is made instead. Events of another program's writer, which knows no locks, are
read between ours, in the order of the file. There are no leases.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from runstream.codec.event_codec import Codec
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, Position, RunBatch, RunHeader
from runstream.model.errors import CorruptRecordError, HistoryDiverged
from runstream.model.identifiers import check_run_id
from runstream.model.results import Cursor, E, RunInfo, S
from runstream.model.run_head import RunHead, SnapshotHead
from runstream.model.tags import TagSet
from runstream.operations.follow_runs import FollowRunsQuery
from runstream.operations.lane_facts import LaneFacts
from runstream.operations.operation import in_one_call
from runstream.stores.archive.base import ArchiveOperations
from runstream.stores.archive.jsonl import file_names
from runstream.stores.archive.jsonl.copying import put_in_front
from runstream.stores.archive.jsonl.drained_batches import lacking_of
from runstream.stores.archive.jsonl.drained_runs import DrainedRuns
from runstream.stores.archive.jsonl.erasing import JSONLEraser
from runstream.stores.archive.jsonl.file_locks import names_in
from runstream.stores.archive.jsonl.lanes import lane_facts, seq_at
from runstream.stores.archive.jsonl.repair import cut_back, kept_aside, readmit
from runstream.stores.archive.jsonl.run_head import head_from_header
from runstream.stores.archive.jsonl.run_log import RunLog
from runstream.stores.archive.jsonl.run_logs import RunLogs
from runstream.stores.archive.jsonl.run_snapshots import (
    kept_snapshots,
    latest_head,
    latest_snapshot,
    latest_snapshots,
)
from runstream.stores.archive.jsonl.run_tags import read_tags, sound_tags_of, tags_of
from runstream.stores.archive.jsonl.snapshot_files import load_state, loaded_state
from runstream.stores.archive.jsonl.write_batch import LogBatch, write_planned
from runstream.stores.archive.planned import planned_entries, planned_snapshots
from runstream.stores.archive.sink_rules import DELETED_FOR_SECONDS
from runstream.stores.archive.snapshot_history import KeepSnapshots, KeptSnapshot
from runstream.stores.local.append_plan import AppendPlan, AppendRequest, Details, new_head, plan_append

__all__ = ["JSONLOperations"]


class JSONLOperations(ArchiveOperations[E, S]):
    """The operations of an archive of JSON lines.

    Args:
        codec: Makes events and states of the caller's types, and encodes them.
        path: The archive's directory, absolute.
        busy_timeout_seconds: How long a writer waits for another one of the same run.
        keep_snapshots: How many snapshots of each run and of each lane to keep; None: as many as it keeps.
        mode: The permissions of new files; None: those that the directory suggests.
        plain_names: Name the directory of a new run as its id stands, where that is safe.
    """

    _has_leases = False

    def __init__(
        self,
        codec: Codec[E, S],
        path: Path,
        *,
        busy_timeout_seconds: float,
        keep_snapshots: KeepSnapshots | None,
        mode: int | None = None,
        plain_names: bool = False,
    ) -> None:
        super().__init__(codec)
        self._logs = RunLogs(
            path, busy_timeout_seconds, keep_snapshots, codec.status_of, mode, plain_names=plain_names
        )
        self.eraser = JSONLEraser(self._logs, self._clock, self._children_of)

    def close(self) -> None:
        """Close the archive. Closing twice is fine."""
        self._logs.close()

    @property
    def archive_id(self) -> str:
        """The UUID of this archive; it gets one when it is first asked for or written to."""
        with self._logs.alone():
            return self._logs.directory.archive_id()

    @property
    def location(self) -> str:
        """``jsonl:`` and the directory."""
        return f"jsonl:{self._logs.path}"

    # -- runs ----------------------------------------------------------------------------------------------

    def _load_head(self, run_id: str) -> RunHead | None:
        with self._logs.reading():
            log = self._logs.log(run_id)
            head = self._logs.head(log)
            if head is not None and head.start.offset and head.parent is None:
                log.index.check_head()  # where it was damaged, nobody knows what comes before
            return head

    def _load_tagged(self, run_id: str) -> RunHead | None:
        with self._logs.reading():
            head = self._load_head(run_id)
            return None if head is None else replace(head, tags=tags_of(self._logs.log(run_id)))

    def _load_heads(self, since: float = 0.0) -> Iterator[tuple[str, RunHead]]:
        """The runs' heads by id, but for such of which all was written before ``since``, in Unix seconds."""
        found = []
        with self._logs.reading():
            for run_id in self._logs.directory.run_ids(since):
                # one in two directories, or damaged: raised to who asks for it, and told by check_integrity
                with suppress(HistoryDiverged, CorruptRecordError):
                    log = self._logs.log(run_id)
                    head = self._logs.head_in_brief(log)
                    found.append((run_id, head))
        return ((run_id, head) for run_id, head in found if head is not None)

    def _heads_since(
        self, query: FollowRunsQuery, updated_after: float | None, written_after: float
    ) -> list[tuple[str, RunHead]]:
        heads = self._load_heads(0.0 if updated_after is None else written_after)
        return self._matching(heads, query.runs_query())

    def run_ids(self) -> Iterator[str]:
        """The ids of the runs that the archive holds, also of one in two directories, which is refused."""
        known = [run_id for run_id, _ in self._load_heads()]
        return iter([*known, *DrainedRuns(self._logs).refused()])

    @in_one_call
    def run_info(self, run_id: str) -> RunInfo | None:
        """What is known of a run."""
        check_run_id(run_id)
        with self._logs.reading():
            head = self._logs.head_in_brief(self._logs.log(run_id))
        return None if head is None else self._info(run_id, head)

    def header(self, run_id: str) -> RunHeader | None:
        """The header that the archive stores of a run, all of it on the disk."""
        check_run_id(run_id)
        with self._logs.reading():
            log = self._logs.log(run_id)
            head = self._logs.head(log, durable=True)
            log.index.check_head()
            return None if head is None else RunHeader.of(run_id, replace(head, tags=tags_of(log)))

    @contextmanager
    def _at_once(self, run_ids: Collection[str]) -> Iterator[None]:
        with self._logs.writing(run_ids):
            yield

    def _write_within(self, batches: Sequence[RunBatch]) -> None:
        write_planned(lambda _: lacking_of(self._logs, batches, self._clock))

    def _write_copied(self, run_id: str, head: RunHead, entries: Iterator[ArchiveEntry]) -> None:
        put_in_front(self._logs.log(run_id), RunHeader.of(run_id, head), entries)

    def _children_of(self, run_id: str) -> Iterator[tuple[str, RunHead]]:
        with self._logs.reading():
            for each in self._logs.directory.run_ids():
                with suppress(HistoryDiverged):  # one in two directories, which another program has made
                    head = head_from_header(each, self._logs.log(each).path)
                    if head is not None and head.parent is not None and head.parent[0] == run_id:
                        yield each, head

    @in_one_call
    def delete_run(self, run_id: str) -> bool:
        """Remove all that the archive holds of a run; files of other programs in its directory stay."""
        check_run_id(run_id)
        with self._logs.reading():
            directory = self._logs.directory
            if not directory.directory_of(run_id).exists():
                return False
            with directory.locks.held([run_id]):
                self._check_forks(run_id)
                was_there = self._delete(run_id)
        self._forget(run_id)
        return was_there

    def delete_history(self, run_id: str, creation: int | None) -> bool:
        """Remove a run, and refuse its history for a week: a drain in flight may be about to write it."""
        check_run_id(run_id)
        with self._logs.writing([run_id, file_names.DELETED]):
            self._check_forks(run_id)
            head = self._logs.head(self._logs.log(run_id))
            found = (creation, None if head is None else head.creation)
            creations = {one for one in found if one is not None}
            if creations:
                self._logs.directory.note_deleted(run_id, creations, self._clock(), DELETED_FOR_SECONDS)
            was_there = self._delete(run_id)
        self._forget(run_id)
        return was_there

    def _delete(self, run_id: str) -> bool:
        log = self._logs.log(run_id)
        if not any(map(file_names.is_run_file, names_in(log.directory))):
            return False
        self._logs.remove(log)
        return True

    # -- events --------------------------------------------------------------------------------------------

    def _commit(self, requests: Sequence[AppendRequest]) -> list[AppendPlan]:
        with self._logs.writing([request.run_id for request in requests]):
            plans: dict[str, AppendPlan] = {}
            write_planned(lambda written: self._planned(requests, written, plans))
        return [plans[request.run_id] for request in requests]

    def _planned(
        self, requests: Sequence[AppendRequest], written: Collection[str], plans: dict[str, AppendPlan]
    ) -> list[LogBatch]:
        """Plan the appends, but for those of the runs that are written, and give what they write."""
        now = self._clock()
        batches = []
        for request in requests:
            if request.run_id in written:
                continue
            log = self._logs.log(request.run_id)
            plan = plans[request.run_id] = self._plan(log, request, now)
            if plan.is_empty:
                continue
            header = replace(RunHeader.of(request.run_id, plan.head), tags=plan.tags)
            entries, snapshots = planned_entries(request, plan), planned_snapshots(request, plan)
            batches.append(LogBatch(self._logs.begun(log), header, entries, snapshots, ended=plan.ended))
        return batches

    def _plan(self, log: RunLog, request: AppendRequest, now: float) -> AppendPlan:
        head = self._logs.head(log, durable=True)
        log.index.check_head()
        if head is None:
            return plan_append(new_head(now), Details(), request, now)
        if request.saved_lanes:
            found = (latest_head(log, lane_id) for lane_id in request.saved_lanes)
            head = replace(head, snapshots={saved.lane_id: saved for saved in found if saved is not None})
        if request.tags:
            head = replace(head, tags=tags_of(log))
        known, keys = log.index, log.index.known_keys(request.keys)
        # an event that does not read may be any lane's: nothing is taken for covered that may not be
        lanes = {lane_id: max(offset, known.damage.last) for lane_id, offset in known.lanes.items()}
        inherited = self._inherited_keys(log.run_id, head, [key for key in request.keys if key not in keys])
        return plan_append(head, Details(lanes, {**inherited, **keys}), request, now)

    def write(self, batches: Sequence[RunBatch]) -> None:
        """Add to many runs: each run's batch in one atomic step, and none if any of them is refused.

        Raises:
            ArchiveGap: A hole would be left; nothing was written for any run.
            HistoryDiverged: The archive has another history; nothing was written for any run.
        """
        with self._logs.writing([batch.header.run_id for batch in batches]):
            self._write_within(batches)

    def _own_keys(self, run_id: str, keys: Sequence[str]) -> Mapping[str, Cursor]:
        with self._logs.reading_run(run_id) as log:
            return log.index.known_keys(keys)

    def _own_seq(self, run_id: str, lane_id: str) -> int | None:
        with self._logs.reading_run(run_id) as log:
            offset = log.index.lanes.get(lane_id)
            log.index.damage.check_lane(lane_id, offset or 0)
            return None if offset is None else seq_at(log, offset)

    def _own_lane_facts(self, run_id: str) -> LaneFacts:
        with self._logs.reading_run(run_id) as log:
            return lane_facts(log)

    def lane_facts(self, run_id: str) -> LaneFacts:
        """What is noted of the lanes of a run. Raises CorruptRecordError where a damaged line may be of one."""
        with self._logs.reading_run(run_id) as log:
            for lane_id, offset in log.index.lanes.items():
                log.index.damage.check_lane(lane_id, offset)
        return super().lane_facts(run_id)

    def _own_offset_before(self, run_id: str, since_seq: int) -> int:
        with self._logs.reading():  # its head was loaded just now
            return self._logs.log(run_id).index.offset_before(since_seq)

    def _entries(self, run_id: str, low: int, high: int, *, reverse: bool) -> Iterator[ArchiveEntry]:
        with self._logs.reading():
            log = self._logs.log(run_id)
            spans = log.spans_back(low, high) if reverse else [log.span(low, high)]
        return log.entries_between(spans, low + 1, high, reverse=reverse)

    def position_of_lanes(self, run_id: str, lanes: Collection[str | None] | None) -> Position | None:
        """How far the archive has a run, all on the disk; with the snapshots of these lanes (None: of all)."""
        check_run_id(run_id)
        with self._logs.reading():
            log = self._logs.log(run_id)
            with self._logs.repairing(log):
                head = self._logs.archived_head(log)
            if head is None:
                return None
            # one that does not read is not there: it is archived again, over the damaged one; so is another
            # program's, before a drain came to the run
            found, ours = latest_snapshots(log, on_corrupt="skip", lanes=lanes), log.index.tokens
            tokens = {one.lane_id: one.token for one in found if one.token in ours}
            return Position(head.last, tokens, sound_tags_of(log).version, len(log.index.telling.erased))

    def read_back_tags(self, run_id: str) -> TagSet:
        """The tags that the log holds of a run, from the disk."""
        check_run_id(run_id)
        with self._logs.reading():
            log = self._logs.log(run_id)
            with self._logs.repairing(log):
                log.refresh(durable=True)
            return read_tags(log)

    def read_back(self, run_id: str, first: int, last: int) -> Iterator[ArchiveEntry]:
        """What the log holds at these offsets, both included, in order, from the disk."""
        check_run_id(run_id)
        with self._logs.reading():
            log = self._logs.log(run_id)
            with self._logs.repairing(log):
                log.refresh(durable=True)
            span = log.span(first - 1, last)
        return log.entries_between([span], first, last, from_disk=True)

    def quarantine(self, run_id: str | None = None) -> Iterator[tuple[str, ArchiveEntry]]:
        """The records in the quarantine, of one run or of all, with their run ids."""
        return kept_aside(self._logs, run_id)

    # -- snapshots -----------------------------------------------------------------------------------------

    def _load_snapshot(
        self, run_id: str, lane_id: str | None
    ) -> tuple[RunHead | None, tuple[SnapshotHead, dict[str, Any]] | None]:
        with self._logs.reading():
            log = self._logs.log(run_id)
            head = self._logs.head(log)
            snapshot = latest_snapshot(log, lane_id)
        return head, loaded_state(run_id, snapshot)

    def _kept_snapshots(self, run_id: str) -> list[KeptSnapshot]:
        with self._logs.reading_run(run_id) as log:
            return kept_snapshots(log)

    def _load_kept(self, run_id: str, kept: KeptSnapshot) -> dict[str, Any] | None:
        with self._logs.reading():
            found = self._logs.log(run_id).history.load(run_id, kept)
        return None if found is None else load_state(run_id, found)

    def read_back_lanes(self, run_id: str, lanes: Collection[str | None] | None) -> Sequence[ArchiveSnapshot]:
        """The snapshots that the archive holds of these lanes of a run (None: of all), from their files."""
        check_run_id(run_id)
        with self._logs.reading():
            log = self._logs.log(run_id)
            with self._logs.repairing(log):
                log.refresh(durable=True)
            return list(latest_snapshots(log, lanes=lanes))

    # -- checked and put right by a person -----------------------------------------------------------------

    def check_file(self) -> list[str]:
        """Runs that cannot be read since they are in two directories, or of which the head was damaged."""
        with self._logs.reading():
            run_ids = sorted(self._logs.directory.run_ids())
            problems = []
            for run_id in run_ids:
                try:
                    log = self._logs.log(run_id)
                    log.refresh()
                    log.index.check_head()
                except (HistoryDiverged, CorruptRecordError) as error:
                    problems.append(str(error))
        return problems

    def readmit(self, run_id: str, entry: ArchiveEntry) -> bool:
        """Put an event that reads by now back at its offset in the history, out of the quarantine."""
        check_run_id(run_id)
        with self._logs.writing([run_id]):
            log = self._logs.log(run_id)
            return log.refresh(durable=True) and readmit(log, entry)

    def cut_back(self, header: RunHeader, to: Position, expected: Cursor) -> None:
        """Remove what comes after ``to`` from a run, and the snapshots that ``to`` does not name."""
        check_run_id(header.run_id)
        with self._logs.writing([header.run_id]):
            log = self._logs.log(header.run_id)
            log.refresh(durable=True)
            cut_back(log, header, to, expected)
        self._forget(header.run_id)
