"""Readers of runs that lie in Redis and in an archive, as players."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from runstream.model.errors import AcknowledgedWritesLost, ConfigurationError, HistoryDiverged, StoreUnavailable
from runstream.stores.tiered.checkpointer import TieredCheckpointer
from runstream.testing.agent import mark_of
from runstream.testing.simulation.players.player import Player
from runstream.testing.simulation.world import Piece

__all__ = ["ReaderPlayer"]

_PAUSE_SECONDS = (0.0, 0.05, 0.5)
_NOWHERE = 2**53  # no run has so many events

_Way: TypeAlias = Callable[[Any, str, int], Sequence[Piece]]
"""Gives what it got of a run in a store, of which somebody has been told so many events."""


class ReaderPlayer(Player):
    """Reads runs in one way after the other; its role is a number that chooses the archive."""

    kind = "reader"

    def act(self) -> None:
        """Read until it is enough, and note each piece that it got."""
        world, choices = self.world, self.world.choices
        with world.at_work(self.process) as (hot, archives):
            store = TieredCheckpointer(hot, archives[self.role % 2])
            ways: Sequence[_Way] = (_read, _read_on, _list, _recover, _look_up, self._find)
            while not world.is_enough.is_set():
                run_id = choices.one_of(world.runs)
                way = choices.one_of(ways)
                told = self._told_of(run_id)
                try:
                    world.pieces += way(store, run_id, told)
                except StoreUnavailable:
                    pass
                except (AcknowledgedWritesLost, HistoryDiverged, ConfigurationError):
                    if not world.server.losses:
                        raise
                    store.forget(run_id)
                world.sleep(choices.one_of(_PAUSE_SECONDS))

    def _find(self, store: Any, run_id: str, told: int) -> list[Piece]:
        """Look up the keys of events of which their senders have been told, where a key is the event's mark."""
        del told
        marks: list[str] = []
        for diary in self.world.diaries:
            told_of = [line[2] for line in diary.lines if line[:2] == ["told", run_id]]
            sent = [line[2:] for line in diary.lines if line[:2] == ["sends", run_id] and line[2] in told_of]
            marks += [batch[-1] for batch, keys in sent if keys == [mark.strip("@") for mark in batch]][-2:]
        found = store.find(run_id, [mark.strip("@") for mark in marks])
        offsets = [_NOWHERE if offset is None else offset for offset in found]
        return [Piece(run_id, "find", at - 1, 0, [mark]) for at, mark in zip(offsets, marks, strict=True)]

    def _told_of(self, run_id: str) -> int:
        """The highest offset of which anybody has been told by now."""
        lines = (line for diary in self.world.diaries for line in diary.lines)
        return max((line[3] for line in lines if line[:2] == ["told", run_id]), default=0)


def _read(store: Any, run_id: str, told: int) -> list[Piece]:
    return [Piece(run_id, "read", 0, told, _marks(item.event for item in store.read(run_id)))]


def _read_on(store: Any, run_id: str, told: int) -> list[Piece]:
    after = told // 2
    return [Piece(run_id, "read on", after, told, _marks(item.event for item in store.read(run_id, after)))]


def _list(store: Any, run_id: str, told: int) -> list[Piece]:
    return [Piece(run_id, "list_events", 0, told, _marks(store.list_events(run_id)))]


def _recover(store: Any, run_id: str, told: int) -> list[Piece]:
    found = store.recover(run_id)
    assert [item.offset for item in found.events] == [
        found.offset + number for number in range(1, len(found.events) + 1)
    ], f"what was recovered of {run_id} has holes"
    return [Piece(run_id, "recover", found.offset, told, _marks(item.event for item in found.events))]


def _look_up(store: Any, run_id: str, told: int) -> list[Piece]:
    after = max(0, told - 7)
    found = store.read_at(run_id, range(told, after, -1))
    return [Piece(run_id, "read_at", after, told, _marks(item.event for item in reversed(found)))]


def _marks(events: Any) -> list[str]:
    return [mark_of(event) for event in events]
