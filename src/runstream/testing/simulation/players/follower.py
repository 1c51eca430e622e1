"""Followers, as players."""

from __future__ import annotations

from typing import Any

from runstream.model.errors import AcknowledgedWritesLost, HistoryDiverged, StoreUnavailable
from runstream.stores.tiered.checkpointer import AsyncTieredCheckpointer, TieredCheckpointer
from runstream.testing.agent import mark_of
from runstream.testing.simulation.calls import Calls, made_in_loop
from runstream.testing.simulation.players.player import Player
from runstream.testing.simulation.world import Followed

__all__ = ["AllFollowerPlayer", "AsyncAllFollowerPlayer", "AsyncFollowerPlayer", "FollowerPlayer"]


class FollowerPlayer(Player):
    """Follows the first run through Redis and one of the archives; its role is a number that chooses which."""

    kind = "follower"

    def prepare(self) -> None:
        """Have seen nothing yet."""
        self.followed = Followed(self.world.runs[0])
        self.world.followed.append(self.followed)

    def act(self) -> None:
        """Follow until it is enough."""
        with self.world.at_work(self.process) as (hot, archives):
            self._follow(TieredCheckpointer(hot, archives[self.role % 2]))

    def _follow(self, store: Any) -> None:
        world, run_id, seen = self.world, self.followed.run_id, self.followed.seen
        self.followed.process = self.process
        after: int | str = 0
        while not world.is_enough.is_set():
            try:
                for item in store.follow(run_id, after, idle_timeout=0.5):
                    seen.append((item.offset, mark_of(item.event)))
                    after = item.cursor
            except (TimeoutError, StoreUnavailable):
                world.sleep(0.01)
            except (AcknowledgedWritesLost, HistoryDiverged):
                seen.clear()
                store.forget(run_id)
                after = 0


class AsyncFollowerPlayer(FollowerPlayer):
    """Does so in an event loop."""

    def act(self) -> None:
        """Follow until it is enough."""
        world = self.world
        with world.archives_opened() as archives, world.loop(self.process) as loop:
            store: Any = AsyncTieredCheckpointer(world.open_async(self.process), archives[self.role % 2])
            self._follow(Calls(store, made_in_loop(world, loop, self.process.name)))


class AllFollowerPlayer(FollowerPlayer):
    """Follows all runs at once."""

    def prepare(self) -> None:
        """Have seen nothing yet of any run."""
        self.seen = {run_id: Followed(run_id) for run_id in self.world.runs}
        self.world.followed += self.seen.values()

    def _follow(self, store: Any) -> None:
        world = self.world
        for followed in self.seen.values():
            followed.process = self.process
        after: dict[str, int | str] = {}
        while not world.is_enough.is_set():
            try:
                for run_id, item in store.follow_runs(after=after, idle_timeout=0.7):
                    if run_id in self.seen:
                        self.seen[run_id].seen.append((item.offset, mark_of(item.event)))
                    after[run_id] = item.cursor
            except (TimeoutError, StoreUnavailable):
                world.sleep(0.01)
            except (AcknowledgedWritesLost, HistoryDiverged) as error:
                if error.run_id in self.seen:
                    self.seen[error.run_id].seen.clear()
                store.forget(error.run_id)
                after.pop(error.run_id, None)


class AsyncAllFollowerPlayer(AllFollowerPlayer, AsyncFollowerPlayer):
    """Does so in an event loop."""
