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
_STATE_BYTES = 200  # what Python holds for a state beside what is in it, about
_MOST_KNOWN = 100_000
"""Of how many snapshots to know the token, which takes some 400 bytes each."""


class _Known(NamedTuple):
    """A snapshot whose token is known."""

    token: str
    revision: int


class _Held(NamedTuple):
    """The state of a snapshot, and what Python holds for it in bytes, about."""

    state: PackedState
    size: int


_NOTHING = _Known("", 0)


class SnapshotCache:
    """The last known snapshot of each run and lane, from which the next one is sent as a difference.

    What Python holds for it is bounded. After a snapshot whose state it dropped, the next is sent in full. Its
    token it knows for much longer: without that the next one would seem to be made from none.
    """

    def __init__(self) -> None:
        self._begin_empty()
        starts_anew(self)

    def _begin_empty(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str | None], _Known] = OrderedDict()
        self._held: OrderedDict[tuple[str, str | None], _Held] = OrderedDict()
        self._bytes = 0

    def _start_anew(self) -> None:
        """Go on with what the parent knew, or with nothing if a thread of it was changing that."""
        if was_held(self._lock):
            self._begin_empty()

    def get(self, run_id: str, lane_id: str | None) -> tuple[str, int, PackedState | None]:
        """Token, revision and packed state of the snapshot that is known, or ``("", 0, None)``."""
        with self._lock:
            held = self._held.get((run_id, lane_id))
            return (*self._known.get((run_id, lane_id), _NOTHING), None if held is None else held.state)

    def put(self, run_id: str, lane_id: str | None, token: str, revision: int, state: PackedState | None) -> None:
        """Remember a snapshot; if its state is None, the next is sent in full."""
        with self._lock:
            held = self._held.get((run_id, lane_id))
            if held is not None and held.state is not state and held.state == state:
                state = held.state  # it knows more of itself than what was loaded
            self._drop((run_id, lane_id))
            self._known[run_id, lane_id] = _Known(token, revision)
            if len(self._known) > _MOST_KNOWN:
                self._drop(next(iter(self._known)))
            if state is not None:
                size = _STATE_BYTES + held_bytes(state)
                self._held[run_id, lane_id] = _Held(state, size)
                self._bytes += size
            while self._bytes > _MAX_BYTES:
                self._let_go(next(iter(self._held)))

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
        self._known.pop(key, None)
        self._let_go(key)

    def _let_go(self, key: tuple[str, str | None]) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self._bytes -= held.size
