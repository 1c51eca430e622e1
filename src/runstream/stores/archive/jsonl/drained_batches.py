"""What the logs of an archive lack of a drain's batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from runstream.model.archive_records import ArchiveEntry, RunBatch
from runstream.model.identifiers import check_run_id
from runstream.model.results import Cursor
from runstream.stores.archive.eraser import erased, without_erased
from runstream.stores.archive.jsonl.lanes import lacking_ends
from runstream.stores.archive.jsonl.noted_runs import notes_of
from runstream.stores.archive.jsonl.run_logs import RunLogs
from runstream.stores.archive.jsonl.run_snapshots import has_snapshot
from runstream.stores.archive.jsonl.run_tags import tags_to_write
from runstream.stores.archive.jsonl.write_batch import LogBatch
from runstream.stores.archive.sink_rules import check_same_fork, deleted_here, new_entries

__all__ = ["lacking_of"]


def lacking_of(logs: RunLogs, batches: Sequence[RunBatch], clock: Callable[[], float]) -> list[LogBatch]:
    """What the logs lack of these batches.

    Raises:
        ArchiveGap: A hole would be left.
        HistoryDiverged: The archive has another history of a run.
    """
    lasts: dict[str, Cursor | None] = {}
    times: dict[str, float] = {}
    found = []
    for batch in batches:
        run_id = batch.header.run_id
        check_run_id(run_id)
        log = logs.log(run_id)
        if run_id not in lasts:
            head = logs.archived_head(log)
            lasts[run_id] = None if head is None else head.last
            times[run_id] = batch.header.updated_at if head is None else head.updated_at
            check_same_fork(batch.header, head)
        last = lasts[run_id]
        if last is None and logs.directory.was_deleted(run_id, batch.header.creation):
            raise deleted_here(run_id)
        notes = notes_of(log, batch.header.creation)
        knows_all = batch.erasures_seen == len(notes)
        lacking = new_entries(batch, last, log.cursor_at)
        entries = [_timed(entry, clock) for entry in (lacking if knows_all else without_erased(lacking, notes))]
        clean = batch.snapshots if knows_all or batch.erasures_seen is None else ()
        seen = batch.snapshots_seen
        snapshots = [one for one in clean if not has_snapshot(log, one, seen.get(one.lane_id))]
        is_new = last is None or (batch.drained and not log.index.is_drained)
        header, ended = replace(batch.header, tags=tags_to_write(log, batch)), lacking_ends(log, batch.ended)
        # an append may have changed nothing of it but when the run was last written to; a worker that has read
        # less of it knows less, whatever its time says: the server's clock may have been set back
        reads_all = last is None or batch.end.offset >= last.offset
        is_later = reads_all and batch.header.updated_at > times[run_id]
        if entries or snapshots or ended or is_new or is_later or header.tags is not None:
            former = [erased(entry) for entry in batch.former] if last is None else []
            found.append(LogBatch(log, header, [*former, *entries], snapshots, batch.drained, ended))
            lasts[run_id] = entries[-1].cursor if entries else last or batch.header.before_first
    return found


def _timed(entry: ArchiveEntry, clock: Callable[[], float]) -> ArchiveEntry:
    """The entry, with the time of its quarantine if it goes there."""
    if entry.raw is None or entry.quarantined_at:
        return entry
    return entry._replace(quarantined_at=clock())
