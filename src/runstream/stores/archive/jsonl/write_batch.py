"""Write what one call adds to any number of runs: all of it, or nothing.

The caller holds the locks of the runs, and has planned and checked it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, RunHeader
from runstream.stores.archive.jsonl.line_format import Mark
from runstream.stores.archive.jsonl.run_log import RunLog

__all__ = ["LogBatch", "write_batches"]


class LogBatch(NamedTuple):
    """What one call adds to one run's log."""

    log: RunLog
    header: RunHeader
    entries: Sequence[ArchiveEntry]
    snapshots: Sequence[ArchiveSnapshot]

    @property
    def mark(self) -> Mark:
        """The commit mark that ends it."""
        tokens = tuple((snapshot.lane_id, snapshot.token) for snapshot in self.snapshots)
        return Mark(self.header.status, self.header.updated_at, self.header.session_id, tokens)


def write_batches(batches: Sequence[LogBatch]) -> None:
    """Write what has been planned and checked. If it fails, nothing of it is left."""
    try:
        for batch in batches:
            batch.log.make_ready()
            batch.log.prepare(batch.snapshots)
    except OSError:
        for batch in batches:
            batch.log.discard(batch.snapshots)
        raise
    done: list[tuple[RunLog, int, bytes]] = []
    try:
        for batch in batches:
            end = batch.log.index.end
            text = batch.log.commit(batch.header, batch.entries, batch.mark)
            done.append((batch.log, end, text))
    except BaseException:  # whatever it is: all of the call has failed, and all of it will be sent again
        for log, end, text in reversed(done):
            log.cut_back(end, text)
        raise
    for batch in batches:
        batch.log.rename_snapshots()
