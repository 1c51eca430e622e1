"""Mend a run in Redis from what its stream holds, where what is noted beside it lags behind, or was lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

from runstream.history.archived import ArchivedHistory
from runstream.model.identifiers import random_token
from runstream.model.protocols import Sink
from runstream.model.results import Cursor
from runstream.repair.branches import origins_of
from runstream.repair.restore import Lanes
from runstream.stores.capabilities import Archive, archive_of
from runstream.stores.protocol import RunStore
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.admin.restore import Replacement
from runstream.stores.redis.operations.unfinished import Beginning

__all__ = ["mend_run"]


def mend_run(hot: RunStore[Any, Any], run_id: str, sinks: Sequence[Sink] = ()) -> list[str]:
    """Make a run whole whose entries are all there.

    An append that was refused in its midst is finished. A meta that was removed is made anew, where all of the run
    is in Redis still, or what has left it in one of these archives. A run that misses from the sets of its
    partition is put back into them, and comes due if it was parked. Nothing is taken away.

    Args:
        hot: The Redis store.
        run_id: The run.
        sinks: The archives, where its beginning may be.

    Returns:
        What was done, for people; empty where there was nothing to do.

    Raises:
        CorruptRecordError: The stream does not prove what it holds, or lacks events that the run once had: nothing
            was changed.
        UnsupportedVersion: A newer runstream wrote to it; nothing was changed.
        ConcurrencyConflict: The run goes on all the while.
    """
    namespace = namespace_of(hot)
    done = []
    adopted = namespace.adopt(run_id, partial(_beginning, run_id, [archive_of(sink) for sink in sinks]))
    if adopted is not None:
        done.append(f"took offsets {adopted.first} to {adopted.last.offset} from its stream into its history")
    (run,) = namespace.load_runs([run_id])
    if run is not None and [*namespace.relist([run]), *namespace.index_again([run], random_token())]:
        done.append("put it back into the sets that it belongs to")
    if done:
        namespace.unpark([run_id])
    return done


def _beginning(
    run_id: str, archives: Sequence[Archive], before: Cursor, covered: Mapping[str | None, int], base: int
) -> Beginning | None:
    """What an archive has of the run up to that cursor, which proves that it is the same history.

    One that has been truncated there up to ``base`` since is as good; one that is to be is told where.
    """
    for archive in archives:
        source = ArchivedHistory.load(archive, run_id)
        if source is None or source.last.offset < before.offset or source.at(before.offset) != before:
            continue
        lanes, keys = Lanes(covered, None), dict[str, Cursor]()
        for entry in chain(source.former(), source.entries(source.header.before_first.offset)):
            if entry.offset > before.offset:
                break
            lanes.add(run_id, entry)
            if entry.key is not None:
                keys.setdefault(entry.key, entry.cursor)
        header = replace(source.header, tags=None, origins=origins_of(source))  # Redis has its tags still
        if header.before_first.offset < base <= before.offset:
            header = replace(header, base=source.at(base))
        replacement = Replacement(
            header, before, before, lanes.last, lanes.since, lanes.peak, lanes.rising, 0, unread=lanes.unread
        )
        return Beginning({name: value for name, value in replacement.meta().items() if name != "updated"}, keys)
    return None
