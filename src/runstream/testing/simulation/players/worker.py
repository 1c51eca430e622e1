"""Drain workers, as players."""

from __future__ import annotations

from runstream.drain.worker import DrainWorker
from runstream.testing.simulation.players.player import Player

__all__ = ["WorkerPlayer"]

_BATCHES = (1000, 5)


class WorkerPlayer(Player):
    """A drain worker, with its archives in either order, any way to trim, and large or small batches."""

    kind = "worker"

    def act(self) -> None:
        """Drain until it is enough."""
        world = self.world
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
            worker.run(world.is_enough)  # type: ignore[arg-type] # as an Event
