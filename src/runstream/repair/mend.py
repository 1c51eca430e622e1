"""Mend a run in Redis from what its stream holds, where what is noted beside it lags behind, or was lost."""

from __future__ import annotations

from typing import Any

from runstream.stores.protocol import RunStore
from runstream.stores.redis.namespace import namespace_of

__all__ = ["mend_run"]


def mend_run(hot: RunStore[Any, Any], run_id: str) -> list[str]:
    """Make a run whole whose entries are all there.

    An append that was refused in its midst is finished. A meta that was removed is made anew, where all of the run
    is in Redis still. A run that misses from the sets of its partition is put back into them, and comes due if it
    was parked. Nothing is taken away.

    Args:
        hot: The Redis store.
        run_id: The run.

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
    adopted = namespace.adopt(run_id, rebuild=True)
    if adopted is not None:
        done.append(f"took offsets {adopted.first} to {adopted.last.offset} from its stream into its history")
    (run,) = namespace.load_runs([run_id])
    if run is not None and namespace.relist([run]):
        done.append("put it back into the sets that it belongs to")
    if done:
        namespace.unpark([run_id])
    return done
