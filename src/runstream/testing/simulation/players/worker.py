"""Drain workers, as players."""

from __future__ import annotations

from runstream.drain.worker import DrainWorker
from runstream.testing.simulation.players.player import Player

__all__ = ["WorkerPlayer"]

_TRIMS = ("archived", "never", "covered")


class WorkerPlayer(Player):
    """A drain worker, with its archives in either order, and either way to trim."""

    kind = "worker"

    def act(self) -> None:
        """Drain until it is enough."""
        world = self.world
        with world.at_work(self.process) as (store, archives):
            if world.choices.below(2):
                archives.reverse()
            trim = _TRIMS[world.choices.below(len(_TRIMS))]
            worker = DrainWorker(
                store,
                archives,
                name=self.process.name,
                trim=trim,  # type: ignore[arg-type] # one of them
                claim_seconds=world.plan.claim_seconds,
                poll_seconds=0.1,
            )
            worker.run(world.is_enough)  # type: ignore[arg-type] # as an Event
