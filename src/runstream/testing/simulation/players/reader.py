"""Readers of runs that lie in Redis and in an archive, as players."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from runstream.model.errors import AcknowledgedWritesLost, HistoryDiverged, StoreUnavailable
from runstream.stores.tiered.checkpointer import TieredCheckpointer
from runstream.testing.agent import mark_of
from runstream.testing.simulation.players.player import Player
from runstream.testing.simulation.world import Piece

__all__ = ["ReaderPlayer"]

_PAUSE_SECONDS = (0.0, 0.05, 0.5)


class ReaderPlayer(Player):
    """Reads runs in one way after the other; its role is a number that chooses the archive."""

    kind = "reader"

    def act(self) -> None:
        """Read until it is enough, and note each piece that it got."""
        world, choices = self.world, self.world.choices
        with world.at_work(self.process) as (hot, archives):
            store = TieredCheckpointer(hot, archives[self.role % 2])
            ways: Sequence[Callable[[Any, str, int], Piece]] = (_read, _read_on, _list, _recover)
            while not world.is_enough.is_set():
                run_id = choices.one_of(world.runs)
                way = choices.one_of(ways)
                told = self._told_of(run_id)
                try:
                    world.pieces.append(way(store, run_id, told))
                except StoreUnavailable:
                    pass
                except (AcknowledgedWritesLost, HistoryDiverged):
                    if not world.server.losses:
                        raise
                    store.forget(run_id)
                world.sleep(choices.one_of(_PAUSE_SECONDS))

    def _told_of(self, run_id: str) -> int:
        """The highest offset of which anybody has been told by now."""
        lines = (line for diary in self.world.diaries for line in diary.lines)
        return max((line[3] for line in lines if line[:2] == ["told", run_id]), default=0)


def _read(store: Any, run_id: str, told: int) -> Piece:
    return Piece(run_id, "read", 0, told, _marks(item.event for item in store.read(run_id)))


def _read_on(store: Any, run_id: str, told: int) -> Piece:
    after = told // 2
    return Piece(run_id, "read on", after, told, _marks(item.event for item in store.read(run_id, after)))


def _list(store: Any, run_id: str, told: int) -> Piece:
    return Piece(run_id, "list_events", 0, told, _marks(store.list_events(run_id)))


def _recover(store: Any, run_id: str, told: int) -> Piece:
    found = store.recover(run_id)
    assert [item.offset for item in found.events] == [
        found.offset + number for number in range(1, len(found.events) + 1)
    ], f"what was recovered of {run_id} has holes"
    return Piece(run_id, "recover", found.offset, told, _marks(item.event for item in found.events))


def _marks(events: Any) -> list[str]:
    return [mark_of(event) for event in events]
