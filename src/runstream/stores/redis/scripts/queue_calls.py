"""The calls of the Lua scripts with which workers share runs: what is due, who has claimed it, what is required.

The header of each script states its keys, arguments and replies, and what holds after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runstream.operations.operation import Command
from runstream.stores.redis.keys import Keys, PartitionKeys
from runstream.stores.redis.scripts.calls import MICROSECONDS, archive_args
from runstream.stores.redis.scripts.library import SCRIPT
from runstream.stores.redis.scripts.script import script_call

__all__ = ["claim_call", "drop_call", "enlist_call", "extend_call", "report_call", "revisit_call"]

WORKER_WINDOW_SECONDS = 24 * 3600
"""For how long the report of a silent worker is kept."""


def enlist_call(partition: PartitionKeys, archives: Mapping[str, str]) -> Command:
    """Require archives (UUID to location) of a partition that requires none. The reply has what it requires."""
    return script_call(SCRIPT["enlist"], (partition.archives,), archive_args(archives)[1:])


def claim_call(
    partition: PartitionKeys, due_until: int | None, count: int, seconds: float, farthest_seconds: float
) -> Command:
    """Claim runs that are due.

    Args:
        partition: Where to claim.
        due_until: Claim only what came due up to this time, in microseconds; None: now.
        count: How many runs at most.
        seconds: For how long.
        farthest_seconds: How far ahead nobody claims or parks for: what would come due later counts as due.
    """
    until = "" if due_until is None else due_until
    times = (int(seconds * MICROSECONDS), int(farthest_seconds * MICROSECONDS))
    return script_call(
        SCRIPT["claim"], (partition.due, partition.parked, partition.config), (until, count, *times)
    )


def extend_call(partition: PartitionKeys, run_ids: Sequence[str], seconds: float) -> Command:
    """Extend the claims on runs of one partition: they last ``seconds`` from now on."""
    return script_call(SCRIPT["extend"], (partition.due,), (int(seconds * MICROSECONDS), *run_ids))


def report_call(workers: str, name: str, report: str) -> Command:
    """Note a worker's report, a JSON object that is not empty, in the hash at the key ``workers``."""
    return script_call(SCRIPT["report"], (workers,), (name, report, WORKER_WINDOW_SECONDS * MICROSECONDS))


def revisit_call(keys: Keys, run_id: str) -> Command:
    """Make a run due, if it is there."""
    run = keys.run(run_id)
    return script_call(SCRIPT["revisit"], (run.partition.due, run.meta), (run_id,))


def drop_call(partition: PartitionKeys, archive_id: str) -> Command:
    """Take an archive off those that a partition requires, unless it is the only one."""
    return script_call(SCRIPT["drop"], (partition.archives,), (archive_id,))
