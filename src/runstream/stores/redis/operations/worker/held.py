"""What of runs is archived and still in Redis, and why: what trimming has left there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from runstream.model.run_head import recovery_bounds
from runstream.operations.operation import Command, Exchange, Operation
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.operations.worker.hot_run import HotRun

__all__ = ["Held", "HeldBy", "find_held"]

HeldBy: TypeAlias = Literal["trim", "no snapshot", "lane", "snapshot"]


class Held(NamedTuple):
    """What of a run is archived and still in Redis.

    Attributes:
        run_id: The run.
        events: How many events.
        covered: How many of them all snapshots cover: nobody needs them from Redis, unless they are not trimmed.
        by: What holds the others: no snapshot of the run, a lane that has none, or a snapshot that does not cover
            them; ``"trim"``: there are no others.
        lane_id: The lane that holds them; None: the run itself.
        covered_to: Up to which offset they are covered.
        is_due: The run is due, claimed or parked.
    """

    run_id: str
    events: int
    covered: int
    by: HeldBy
    lane_id: str | None
    covered_to: int
    is_due: bool

    def trimmable(self, trim: str) -> int:
        """How many of them ``trim`` would let leave Redis."""
        return {"covered": self.covered, "archived": self.events}.get(trim, 0)


def find_held(keys: Keys, runs: Sequence[HotRun]) -> Operation[list[Held]]:
    """What is archived of these runs and still in Redis, of those of which something is."""
    some = [run for run in runs if run.head.mark.offset > run.head.start.offset and not run.is_tombstone]
    commands: list[Command] = []
    for run in some:
        of_run = keys.run(run.run_id)
        commands += [(b"XLEN", of_run.events), (b"ZSCORE", of_run.partition.due, run.run_id)]
    if not commands:
        return []
    replies = yield Exchange(commands, tolerant=True)
    counts, scores = replies[::2], replies[1::2]  # of a key of another type there is no count
    found = [
        _held(run, count, is_due=score is not None)
        for run, count, score in zip(some, counts, scores, strict=True)
        if isinstance(count, int)
    ]
    return [held for held in found if held.events]


def _held(run: HotRun, count: int, *, is_due: bool) -> Held:
    head = run.head
    mark, first = head.mark.offset, head.last.offset - count + 1
    covered = {lane_id: snapshot.offset for lane_id, snapshot in head.snapshots.items()}
    covered_to, lane_id = min(
        recovery_bounds(covered, run.since), key=lambda bound: bound[0], default=(mark, None)
    )
    by: HeldBy = "trim"
    if covered_to < mark:
        by = "snapshot" if lane_id in covered else "lane" if covered else "no snapshot"
    in_all, of_covered = (max(0, last - first + 1) for last in (mark, min(mark, covered_to)))
    return Held(run.run_id, in_all, of_covered, by, lane_id, covered_to, is_due)
