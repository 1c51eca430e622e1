"""What one call adds to any number of runs: all of it is written, or nothing.

The caller holds the locks of the runs, and has planned and checked it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, RunHeader
from runstream.stores.archive.jsonl.line_format import Mark
from runstream.stores.archive.jsonl.run_log import RunLog

__all__ = ["Addition", "write_additions"]


class Addition(NamedTuple):
    """What one batch adds to one run."""

    log: RunLog
    header: RunHeader
    entries: Sequence[ArchiveEntry]
    snapshots: Sequence[ArchiveSnapshot]

    @property
    def mark(self) -> Mark:
        """The commit mark that ends it."""
        tokens = tuple((snapshot.lane_id, snapshot.token) for snapshot in self.snapshots)
        return Mark(self.header.status, self.header.updated_at, self.header.session_id, tokens)


def write_additions(additions: Sequence[Addition]) -> None:
    """Write what has been planned and checked. If it fails, nothing of it is left."""
    try:
        for addition in additions:
            addition.log.make_ready()
            addition.log.prepare(addition.snapshots)
    except OSError:
        for addition in additions:
            addition.log.discard(addition.snapshots)
        raise
    done: list[tuple[RunLog, int, bytes]] = []
    try:
        for addition in additions:
            end = addition.log.history.end
            text = addition.log.commit(addition.header, addition.entries, addition.mark)
            done.append((addition.log, end, text))
    except BaseException:  # whatever it is: the call has failed as a whole, and will be sent again as a whole
        for log, end, text in reversed(done):
            log.cut_back(end, text)
        raise
    for addition in additions:
        addition.log.place_snapshots()
