"""What a namespace holds that is archived, and why it has not left Redis."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from runstream.operations.operation import Exchange, Operation
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.operations.worker.held import Held, find_held
from runstream.stores.redis.operations.worker.sweep import load_sound
from runstream.stores.redis.replies import run_id_of

__all__ = ["HeldRuns", "held_runs", "why_held"]

_CHUNK = 500
_ALL = 2**53


@dataclass(frozen=True, slots=True)
class HeldRuns:
    """The runs of which something is archived and still in Redis, those with the most first.

    ``looked_at``: among how many runs they were looked for.
    """

    runs: Sequence[Held]
    looked_at: int

    @property
    def events(self) -> int:
        """How many events are archived and still in Redis."""
        return sum(held.events for held in self.runs)


def held_runs(keys: Keys, run_ids: Sequence[str] | None = None, *, most: int | None = None) -> Operation[HeldRuns]:
    """Find what is archived and still in Redis.

    Args:
        keys: The namespace's keys.
        run_ids: The runs to look at; None: all.
        most: Of all, only so many, those that were updated last; None: no limit.
    """
    if run_ids is None:
        run_ids = yield from _latest(keys, most)
    held: list[Held] = []
    for at in range(0, len(run_ids), _CHUNK):
        runs, _ = yield from load_sound(keys, run_ids[at : at + _CHUNK])
        held += yield from find_held(keys, runs)
    return HeldRuns(sorted(held, key=lambda one: one.events, reverse=True), len(run_ids))


def _latest(keys: Keys, most: int | None) -> Operation[list[str]]:
    each = _ALL if most is None else max(1, most // len(keys.partitions))
    replies = yield Exchange([(b"ZRANGE", one.runs, 0, each - 1, b"REV") for one in keys.partitions])
    return [run_id for reply in replies for member in reply if (run_id := run_id_of(member))]


def why_held(held: Held, trims: Collection[str]) -> str:
    """Say why what is archived of a run has not left Redis.

    Args:
        held: What has not.
        trims: What the living workers trim.
    """
    if held.trimmable("archived" if "archived" in trims else "covered"):
        if set(trims) - {"never"}:
            return "a worker is about to look at it again, and trims it"
        return "the workers trim nothing (--trim never)" if trims else "no worker reports that would trim it"
    if held.by == "no snapshot":
        return "no snapshot covers it"
    if held.by == "lane":
        return f"lane {held.lane_id!r} never checkpointed"
    whose = "the run's snapshot" if held.lane_id is None else f"the snapshot of lane {held.lane_id!r}"
    return f"{whose} covers it up to {held.covered_to}"
