"""Drain workers, as players."""

from __future__ import annotations

from runstream.drain.worker import DrainWorker
from runstream.testing.simulation.players.player import Player
from runstream.testing.simulation.world import World

__all__ = ["WorkerPlayer"]

_BATCHES = (1000, 5)


class WorkerPlayer(Player):
    """A drain worker, with its archives in either order, any way to trim, and large or small batches."""

    kind = "worker"

    def act(self) -> None:
        """Drain until it is enough, or is to be done with other archives."""
        world, stop = self.world, _Stop(self.world)
        with world.at_work(self.process) as (store, archives):
            if world.choices.below(2):
                archives.reverse()
            trim = world.plan.trims[world.choices.below(len(world.plan.trims))]
            worker = DrainWorker(
                store,
                archives,
                name=self.process.name,
                batch=_BATCHES[world.choices.below(len(_BATCHES))],
                trim=trim,  # type: ignore[arg-type] # one of them
                claim_seconds=world.plan.claim_seconds,
                poll_seconds=0.1,
                retire_after_seconds=world.plan.retire_after_seconds,
                forget_after_seconds=world.plan.forget_after_seconds,
            )
            worker.run(stop)  # type: ignore[arg-type] # as an Event


class _Stop:
    """Is set once it is enough, or other archives are required than when this was made.

    A worker waits for archives that it was not given, and whoever has added one starts it again with all.
    """

    def __init__(self, world: World) -> None:
        self._world, self._as_of = world, world.archive_set.changes

    def is_set(self) -> bool:
        return self._world.is_enough.is_set() or self._world.archive_set.changes != self._as_of

    def wait(self, timeout: float) -> bool:
        self._world.scheduler.wait(timeout, self.is_set)
        return self.is_set()
