"""The snapshots of a run that count, the latest ones and their history, as of the last refresh of its log.

The latest is the one that the last commit mark with one of that lane names. Where its file does not have it, since
power was lost before that was on the disk, the history has it; and where another program has put a state in its
place, in a run that came by a drain: that does not count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress

from runstream.model.archive_records import ArchiveSnapshot
from runstream.model.errors import CorruptRecordError
from runstream.model.protocols import OnCorrupt
from runstream.model.run_head import SnapshotHead
from runstream.stores.archive.jsonl.file_locks import write_file
from runstream.stores.archive.jsonl.file_names import prepared_name, snapshot_name
from runstream.stores.archive.jsonl.run_log import RunLog
from runstream.stores.archive.jsonl.snapshot_files import lanes_in, load_head, load_snapshot, snapshot_text
from runstream.stores.archive.snapshot_history import KeptSnapshot, latest_of

__all__ = [
    "has_foreign_state",
    "has_snapshot",
    "kept_snapshots",
    "latest_head",
    "latest_snapshot",
    "latest_snapshots",
    "mend_snapshots",
    "saved_lanes",
]


def saved_lanes(log: RunLog) -> set[str | None]:
    """The lanes that may have a snapshot, and None if the run may."""
    return lanes_in(log.directory, log.mark) | log.index.latest.keys()


def latest_snapshot(log: RunLog, lane_id: str | None) -> ArchiveSnapshot | None:
    """The latest snapshot of the run (None) or of a lane. Raises CorruptRecordError for one that does not read."""
    damage = found = head = None
    try:
        found = load_snapshot(log.run_id, log.directory, lane_id, log.mark)
    except CorruptRecordError as error:
        damage = error
    if found is not None:
        head = SnapshotHead(*found[:4])
        if not _is_former(log, head) and not _is_foreign(log, head):
            return found
    kept = _in_history(log, lane_id)
    saved = None if kept is None else log.history.load(log.run_id, kept)
    if damage is not None and (saved is None or not _is_torn(damage.raw or b"", snapshot_text(saved))):
        raise damage
    return found if saved is None and head is not None and not _is_foreign(log, head) else saved


def latest_snapshots(
    log: RunLog, *, on_corrupt: OnCorrupt = "raise", lanes: Collection[str | None] | None = None
) -> Iterator[ArchiveSnapshot]:
    """The latest snapshots of the run and of its lanes, or of these ``lanes`` alone (None: the run's own).

    Raises CorruptRecordError for one that does not read, unless ``on_corrupt="skip"``.
    """
    wanted = saved_lanes(log) if lanes is None else lanes
    for lane_id in sorted(wanted, key=lambda lane_id: (lane_id is not None, lane_id or "")):
        try:
            snapshot = latest_snapshot(log, lane_id)
        except CorruptRecordError:
            if on_corrupt == "skip":
                continue
            raise
        if snapshot is not None:
            yield snapshot


def latest_head(log: RunLog, lane_id: str | None) -> SnapshotHead | None:
    """What is stored beside the latest state of the run or lane, without reading the state."""
    found = load_head(log.directory, lane_id, log.mark)
    is_foreign = found is not None and _is_foreign(log, found)
    if not is_foreign and not _is_lost(log, lane_id, found):
        return found
    try:
        saved = latest_snapshot(log, lane_id)
    except CorruptRecordError:
        if is_foreign:
            raise
        return found
    return None if saved is None else SnapshotHead(*saved[:4])


def mend_snapshots(log: RunLog) -> None:
    """Write the files of snapshots anew that were lost with the power: other programs read them."""
    for lane_id, token in log.index.latest.items():
        if _is_lost(log, lane_id, load_head(log.directory, lane_id, log.mark)):
            saved = None
            with suppress(CorruptRecordError):
                saved = latest_snapshot(log, lane_id)
            if saved is not None and saved.token == token:
                path = log.directory / snapshot_name(lane_id)
                prepared = log.directory / prepared_name(lane_id, token)
                write_file(prepared, snapshot_text(saved), path)
                prepared.replace(path)


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


def _in_history(log: RunLog, lane_id: str | None) -> KeptSnapshot | None:
    """The latest snapshot in the history. Raises CorruptRecordError where one that comes later does not read."""
    token = log.index.latest.get(lane_id)
    if token is None and log.index.counts("") is False:
        return None  # no commit mark names one, and all of them read
    for head, stored_at, damage in reversed(_history(log)):
        if damage is not None:
            raise damage
        if head.token == token:
            return KeptSnapshot(head, stored_at)
    return None


def _is_lost(log: RunLog, lane_id: str | None, head: SnapshotHead | None) -> bool:
    """Whether the file that has this head, or none that reads, was to have another snapshot of ours."""
    return lane_id in log.index.latest and (head is None or not head.token or _is_former(log, head))


def _is_torn(content: bytes, whole: bytes) -> bool:
    """Whether this is the beginning of a file, as much as came to the disk, and zeros in place of the rest."""
    begin = content.rstrip(b"\0")
    return len(begin) < len(whole) and whole.startswith(begin)


def _is_former(log: RunLog, head: SnapshotHead) -> bool:
    """Whether a snapshot was replaced by one that a loss of power took: its file need not be on the disk."""
    known = log.index
    return head.token in known.tokens and head.token != known.latest.get(head.lane_id, head.token)


def _is_foreign(log: RunLog, head: SnapshotHead) -> bool:
    """Whether a snapshot is another program's, in a run that came by a drain."""
    of_run = log.index.is_drained and head.lane_id is None
    return of_run and (head.offset, head.revision) == (0, 1) and head.token not in log.index.tokens


def has_snapshot(log: RunLog, snapshot: ArchiveSnapshot, seen: str | None) -> bool:
    """Whether the archive has a snapshot, or a later one; one of the token ``seen`` is none."""
    saved = latest_head(log, snapshot.lane_id)
    # one of a lower revision comes from a worker that was paused
    is_same = saved is not None and saved.token == snapshot.token and saved.token in log.index.tokens
    return is_same or (saved is not None and saved.revision > snapshot.revision and saved.token != seen)
