"""Followers, as players."""

from __future__ import annotations

from typing import Any

from runstream.model.errors import AcknowledgedWritesLost, HistoryDiverged, StoreUnavailable
from runstream.stores.tiered.checkpointer import TieredCheckpointer
from runstream.testing.simulation.players.player import Player

__all__ = ["FollowerPlayer"]


class FollowerPlayer(Player):
    """Follows the first run through Redis and one of the archives; its role is a number that chooses which."""

    kind = "follower"

    def prepare(self) -> None:
        """Have seen nothing yet."""
        self.seen: list[Any] = []
        self.world.followed.append((self.world.runs[0], self.seen))

    def act(self) -> None:
        """Follow until it is enough."""
        world, run_id = self.world, self.world.runs[0]
        after: int | str = 0
        with world.at_work(self.process) as (hot, archives):
            store = TieredCheckpointer(hot, archives[self.role % 2])
            while not world.is_enough.is_set():
                try:
                    for item in store.follow(run_id, after, idle_timeout=0.5):
                        self.seen.append((item.offset, item.event.payload.get("mark")))
                        after = item.cursor
                except (TimeoutError, StoreUnavailable):
                    world.sleep(0.01)
                except (AcknowledgedWritesLost, HistoryDiverged):
                    self.seen.clear()
                    store.forget(run_id)
                    after = 0
