"""Write what one call adds to any number of runs: all of it, or nothing.

The caller holds the locks of the runs, and plans and checks it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import NamedTuple

from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, RunHeader
from runstream.model.errors import StoreUnavailable
from runstream.model.run_head import EndedLane
from runstream.stores.archive.jsonl.commit_marks import Mark
from runstream.stores.archive.jsonl.noted_runs import begin_noted
from runstream.stores.archive.jsonl.overtaking import Overtaken
from runstream.stores.archive.jsonl.run_log import RunLog
from runstream.stores.archive.jsonl.run_snapshots import latest_snapshots, mend_snapshots
from runstream.stores.archive.jsonl.run_tags import note_of

__all__ = ["LogBatch", "write_planned"]

_ATTEMPTS = 1000


class LogBatch(NamedTuple):
    """What one call adds to one run's log."""

    log: RunLog
    header: RunHeader
    entries: Sequence[ArchiveEntry]
    snapshots: Sequence[ArchiveSnapshot]
    drained: bool = False
    ended: Sequence[EndedLane] = ()

    @property
    def mark(self) -> Mark:
        """The commit mark that ends it."""
        tokens = tuple((snapshot.lane_id, snapshot.token) for snapshot in self.snapshots)
        header, ended = self.header, tuple(self.ended)
        noted = header.status, header.updated_at, header.session_id
        return Mark(*noted, tokens, drained=self.drained, ended=ended, tags=note_of(self.log, header))


def write_planned(plan: Callable[[Collection[str]], Sequence[LogBatch]]) -> None:
    """Plan and write. If it fails, nothing of what was planned last is left.

    Args:
        plan: Makes the batches, but for those of the runs that are written already. Where another program was
            faster at one of them, it and those after it are planned again.

    Raises:
        StoreUnavailable: Other programs were faster too often.
    """
    written: set[str] = set()
    for _ in range(_ATTEMPTS):
        batches = plan(written)
        done = _write(batches)
        if done == len(batches):
            return
        written.update(batch.log.run_id for batch in batches[:done])
    path = batches[done].log.path
    raise StoreUnavailable(f"other programs write to {path} all the while; send the same call again")


def _prepare(batches: Sequence[LogBatch]) -> None:
    """Make everything ready. If it fails, or one was overtaken since it was planned, nothing of it is left."""
    try:
        for batch in batches:
            planned_after = batch.log.index.last
            if batch.log.make_ready():
                mend_snapshots(batch.log)
            if batch.log.index.last != planned_after:
                raise Overtaken
            begin_noted(batch.log, batch.header, drained=batch.drained)
            batch.log.prepare(batch.snapshots, partial(latest_snapshots, batch.log, on_corrupt="skip"))
    except (OSError, Overtaken):
        for batch in batches:
            batch.log.discard(batch.snapshots)
        raise


def _write(batches: Sequence[LogBatch]) -> int:
    """Write the batches up to one that is overtaken, and give their number. If it fails, nothing of it is left."""
    try:
        _prepare(batches)
    except Overtaken:
        return 0
    done: list[tuple[RunLog, int, bytes]] = []
    try:
        for batch in batches:
            end = batch.log.index.end
            text = batch.log.commit(batch.header, batch.entries, batch.mark)
            done.append((batch.log, end, text))
    except Overtaken:
        for batch in batches[len(done) :]:
            batch.log.discard(batch.snapshots)
    except BaseException:  # whatever it is: all of the call has failed, and all of it will be sent again
        for log, end, text in reversed(done):
            log.cut_back(end, text)
        raise
    for batch in batches[: len(done)]:
        batch.log.rename_snapshots()
    return len(done)
