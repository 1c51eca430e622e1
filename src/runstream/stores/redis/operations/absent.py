"""Tell a run that is not there from one whose meta was lost: something else of it is there still."""

from __future__ import annotations

from collections.abc import Sequence

from runstream.operations.operation import Command, Exchange, Operation
from runstream.stores.redis.damage import corrupt_key
from runstream.stores.redis.keys import RunKeys

__all__ = ["check_absent"]


def check_absent(runs: Sequence[RunKeys]) -> Operation[None]:
    """Check of runs whose meta names none that nothing else of them is there either.

    Raises:
        CorruptRecordError: A run has events, keys or a snapshot, and no meta.
    """
    commands: list[Command] = []
    for run in runs:
        commands.append((b"HEXISTS", run.meta, "start"))
        commands.append((b"EXISTS", run.events, run.keys, run.run_snapshot))
    replies = yield Exchange(commands, atomic=True)
    for run, is_there, left in zip(runs, replies[::2], replies[1::2], strict=True):
        if left and not is_there:  # it may have been created since
            raise corrupt_key(run.run_id, run.meta, "it was removed, while other keys of the run are there")
