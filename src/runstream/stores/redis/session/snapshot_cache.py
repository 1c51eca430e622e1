"""The snapshots that a store object saved or loaded last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

from runstream.codec.snapshot_fields import PackedState
from runstream.operations.forks import starts_anew, was_held
from runstream.stores.redis.session.held_bytes import held_bytes

__all__ = ["SnapshotCache"]

_MAX_BYTES = 64 * 2**20
_ENTRY_BYTES = 500  # what Python holds for a snapshot without its state, about


class _Known(NamedTuple):
    """A snapshot, and what Python holds for it in bytes, about."""

    token: str
    revision: int
    state: PackedState | None
    size: int


_NOTHING = _Known("", 0, None, 0)


class SnapshotCache:
    """The last known snapshot of each run and lane, from which the next one is sent as a difference.

    What Python holds for it is bounded; after a snapshot that it dropped, the next is sent in full.
    """

    def __init__(self) -> None:
        self._begin_empty()
        starts_anew(self)

    def _begin_empty(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str | None], _Known] = OrderedDict()
        self._bytes = 0

    def _start_anew(self) -> None:
        """Go on with what the parent knew, or with nothing if a thread of it was changing that."""
        if was_held(self._lock):
            self._begin_empty()

    def get(self, run_id: str, lane_id: str | None) -> tuple[str, int, PackedState | None]:
        """Token, revision and packed state of the snapshot that is known, or ``("", 0, None)``."""
        with self._lock:
            token, revision, state, _ = self._known.get((run_id, lane_id), _NOTHING)
            return token, revision, state

    def put(self, run_id: str, lane_id: str | None, token: str, revision: int, state: PackedState | None) -> None:
        """Remember a snapshot; if its state is None, the next is sent in full."""
        with self._lock:
            self._drop((run_id, lane_id))
            size = _ENTRY_BYTES + (0 if state is None else held_bytes(state))
            self._known[run_id, lane_id] = _Known(token, revision, state, size)
            self._bytes += size
            while self._bytes > _MAX_BYTES:
                self._drop(next(iter(self._known)))

    def drop(self, run_id: str, lane_id: str | None) -> None:
        """Note that a run or lane has no snapshot: the next one has none before it."""
        with self._lock:
            self._drop((run_id, lane_id))

    def forget(self, run_id: str) -> None:
        """Forget all snapshots of a run and its lanes."""
        with self._lock:
            for known in [known for known in self._known if known[0] == run_id]:
                self._drop(known)

    def _drop(self, key: tuple[str, str | None]) -> None:
        known = self._known.pop(key, None)
        if known is not None:
            self._bytes -= known.size
