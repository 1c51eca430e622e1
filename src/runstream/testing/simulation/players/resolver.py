"""Operators who resolve the runs that were parked, as players."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import fakeredis

from runstream.model.errors import (
    ArchiveGap,
    ConcurrencyConflict,
    ConfigurationError,
    HistoryDiverged,
    LeaseHeld,
    StoreUnavailable,
)
from runstream.repair.resolve import load_histories, resolve
from runstream.stores.redis.namespace import namespace_of
from runstream.testing.copies import copy_in_stream
from runstream.testing.simulation.players.player import Player

__all__ = ["ResolverPlayer"]

_PAUSE_SECONDS = (0.05, 0.5, 5.0)
_KEEPS = ("redis", "archive", "both")


class ResolverPlayer(Player):
    """Lets each run that is parked have one history again, in any way, and looks whether nothing is gone then."""

    kind = "resolver"

    def act(self) -> None:
        """Do so until it is enough."""
        world = self.world
        with world.at_work(self.process) as (self._hot, self._archives):
            namespace = namespace_of(self._hot)
            while not world.is_enough.is_set():
                with suppress(StoreUnavailable):
                    for run_id in sorted(namespace.status().parked):
                        self._resolve(run_id)
                world.sleep(world.choices.one_of(_PAUSE_SECONDS))

    def _resolve(self, run_id: str) -> None:
        world = self.world
        keep: Any = world.choices.one_of(_KEEPS)
        before, losses = self._marks([run_id]), world.server.losses
        # it has changed since, or is leased, or cannot be resolved in this way: another time, or in another way
        with suppress(ConcurrencyConflict, ConfigurationError, HistoryDiverged, ArchiveGap, LeaseHeld):
            seen = load_histories(self._hot, self._archives, run_id)
            if seen is None:
                return
            world.scheduler.note(f"resolves {run_id}: {keep}")
            world.resolved[run_id].add(keep)
            done = resolve(self._hot, self._archives, seen, keep)
            gone = before - self._marks([run_id, *done.branches])
            world.scheduler.note(f"has resolved {run_id}; kept {done.branches}")
            assert not gone or world.server.losses > losses, f"{gone} were gone as {run_id} was resolved: {keep}"

    def _marks(self, run_ids: list[str]) -> set[str]:
        """The marks of the events of these runs, in Redis or in any archive."""
        raw, keys = fakeredis.FakeRedis(server=self.world.server.fake), namespace_of(self._hot).keys
        streams = [copy_in_stream(raw, keys.run(run_id).events) for run_id in run_ids]
        copies = [copy for run_id in run_ids for copy in self.world.archive_set.copies(run_id).values()]
        return {mark for copy in (*streams, *copies) for mark in copy.values()}
