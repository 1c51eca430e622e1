"""Drain workers, as players."""

from __future__ import annotations

from runstream.drain.stats import ARCHIVES
from runstream.drain.worker import DrainWorker
from runstream.testing.simulation.players.player import Player
from runstream.testing.simulation.world import World

__all__ = ["WorkerPlayer"]

_BATCHES = (1000, 5)


class WorkerPlayer(Player):
    """A drain worker, with its archives in either order, any way to trim, and large or small batches.

    It is stopped once others are required than it has, and it waits.
    """

    kind = "worker"

    def act(self) -> None:
        """Drain until it is enough."""
        world, as_of = self.world, self.world.archive_set.changes
        with world.at_work(self.process) as (store, archives):
            if world.choices.below(2):
                archives.reverse()
            trim = world.choices.one_of(world.plan.trims)
            worker = DrainWorker(
                store,
                archives,
                name=self.process.name,
                batch=world.choices.one_of(_BATCHES),
                trim=trim,  # type: ignore[arg-type] # one of them
                claim_seconds=world.plan.claim_seconds,
                poll_seconds=0.1,
                retire_after_seconds=world.plan.retire_after_seconds,
                retire_idle_seconds=world.plan.retire_idle_seconds,
                forget_after_seconds=world.plan.forget_after_seconds,
            )
            worker.run(_Stop(world, worker, as_of))  # type: ignore[arg-type] # as an Event


class _Stop:
    """What stops a worker that has the archives as of this number of changes, as an event."""

    def __init__(self, world: World, worker: DrainWorker, as_of: int) -> None:
        self._world, self._worker, self._as_of = world, worker, as_of

    def is_set(self) -> bool:
        """Whether it is enough, or it waits for archives in vain: others have been opened since it began."""
        archives = self._world.archive_set
        is_former = archives.changing is None and archives.changes != self._as_of
        return self._world.is_enough.is_set() or (is_former and ARCHIVES in self._worker.progress.failing)

    def wait(self, seconds: float) -> bool:
        """Wait for so long at most."""
        return self._world.is_enough.wait(seconds)
