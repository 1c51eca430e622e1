"""Let archives have all of runs that were forks, and have copies of their own in Redis of what they had shared."""

from __future__ import annotations

from runstream.drain.parts import WorkerParts
from runstream.model.protocols import Sink
from runstream.stores.capabilities import MakesWhole, part_of
from runstream.stores.redis.operations.worker.hot_run import HotRun

__all__ = ["make_whole"]


def make_whole(parts: WorkerParts, run: HotRun) -> bool:
    """Let every archive have all of such a run's history as the run's own. True if one of them had to copy.

    Raises:
        ArchiveGap: An archive would be left with a hole.
        HistoryDiverged: An archive has another history.
        StoreUnavailable: Redis or an archive cannot be reached; it is safe to repeat.
    """
    copied = [_made_whole(parts, sink, run) for sink in parts.sinks]
    return True in copied


def _made_whole(parts: WorkerParts, sink: Sink, run: HotRun) -> bool:
    archive = part_of(sink, MakesWhole)
    if archive is None:
        return False  # it is told of a gap, or that it is one of another history, when it is written to
    with parts.outages.using(sink.location):
        after = archive.lacks_shared(run.header)
        if after is None:
            return False
        archive.make_whole(run.header, parts.namespace.once_shared(run.header, after))
    return True
