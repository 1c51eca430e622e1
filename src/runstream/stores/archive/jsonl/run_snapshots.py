"""The snapshots of a run that count, the latest ones and their history, as of the last refresh of its log.

In a run that came by a drain, a state that another program has put in the place of ours does not count: the one
that it replaced is in the history.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from runstream.model.archive_records import ArchiveSnapshot
from runstream.model.errors import CorruptRecordError
from runstream.model.protocols import OnCorrupt
from runstream.model.run_head import SnapshotHead
from runstream.stores.archive.jsonl.run_log import RunLog
from runstream.stores.archive.jsonl.snapshot_files import all_snapshots, lanes_in, load_head, load_snapshot
from runstream.stores.archive.snapshot_history import KeptSnapshot, latest_of, sound

__all__ = [
    "has_foreign_state",
    "has_snapshot",
    "kept_snapshots",
    "latest_head",
    "latest_snapshot",
    "latest_snapshots",
]


def latest_snapshot(log: RunLog, lane_id: str | None) -> ArchiveSnapshot | None:
    """The latest snapshot of the run (None) or of a lane. Raises CorruptRecordError for one that does not read."""
    found = load_snapshot(log.run_id, log.directory, lane_id, log.mark)
    if found is None or not _is_foreign(log, SnapshotHead(*found[:4])):
        return found
    replaced = _replaced(log)
    return None if replaced is None else log.history.load(log.run_id, replaced)


def latest_snapshots(
    log: RunLog, *, on_corrupt: OnCorrupt = "raise", lanes: Collection[str | None] | None = None
) -> Iterator[ArchiveSnapshot]:
    """The latest snapshots of the run and of its lanes, or of these ``lanes`` alone (None: the run's own).

    Raises CorruptRecordError for one that does not read, unless ``on_corrupt="skip"``.
    """
    wanted = set(lanes_in(log.directory, log.mark) if lanes is None else lanes)
    if log.index.is_drained and (lanes is None or None in wanted):
        wanted.discard(None)
        try:
            of_run = latest_snapshot(log, None)
        except CorruptRecordError:
            if on_corrupt == "raise":
                raise
            of_run = None
        if of_run is not None:
            yield of_run
    yield from all_snapshots(log.run_id, log.directory, log.mark, wanted, on_corrupt=on_corrupt)


def latest_head(log: RunLog, lane_id: str | None) -> SnapshotHead | None:
    """What is stored beside the latest state of the run or lane, without reading the state."""
    found = load_head(log.directory, lane_id, log.mark)
    if found is None or not _is_foreign(log, found):
        return found
    replaced = _replaced(log)
    return None if replaced is None else replaced.head


def has_foreign_state(log: RunLog) -> bool:
    """Whether another program has put a state in the place of the run's, which came by a drain."""
    found = load_head(log.directory, None, log.mark)
    return found is not None and _is_foreign(log, found)


def kept_snapshots(log: RunLog) -> list[KeptSnapshot]:
    """The history of snapshots; the latest at the end where the history lacks them."""
    kept = _history(log)
    known = {one.head.token for one in kept}
    for one in latest_snapshots(log, on_corrupt="skip"):
        if one.token not in known:
            kept.append(KeptSnapshot(SnapshotHead(*one[:4]), None))
    return latest_of(kept, log.keep_snapshots())


def _history(log: RunLog) -> list[KeptSnapshot]:
    return log.history.kept(log.index.counts)


def _replaced(log: RunLog) -> KeptSnapshot | None:
    """The run's own snapshot that was saved last."""
    of_run = [one for one in sound(_history(log)) if one.head.lane_id is None]
    return of_run[-1] if of_run else None


def _is_foreign(log: RunLog, head: SnapshotHead) -> bool:
    """Whether a snapshot is another program's, in a run that came by a drain."""
    of_run = log.index.is_drained and head.lane_id is None
    return of_run and (head.offset, head.revision) == (0, 1) and head.token not in log.index.tokens


def has_snapshot(log: RunLog, snapshot: ArchiveSnapshot) -> bool:
    """Whether the archive has a snapshot, or a later one."""
    saved = latest_head(log, snapshot.lane_id)
    # one of a lower revision comes from a worker that was paused
    is_same = saved is not None and saved.token == snapshot.token and saved.token in log.index.tokens
    return is_same or (saved is not None and saved.revision > snapshot.revision)
