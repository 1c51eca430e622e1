"""The events that a store object appended last, to be put back where a server has lost them.

It holds so many bytes of them and no more, over all runs, and knows of which runs it has let some go.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from runstream.codec.shapes import EncodedEvent
from runstream.model.values import Cursor

__all__ = ["RecentBook", "Written"]

_MAX_BYTES = 16 * 2**20

Written: TypeAlias = tuple[Cursor, EncodedEvent]
"""An event that was acknowledged, and its place."""


class RecentBook:
    """The events of one store object, by run. Safe between threads; a fork has none: they are the parent's."""

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._start_anew()

    def _start_anew(self) -> None:
        self._process = os.getpid()
        self._runs: dict[str, deque[Written]] = {}
        self._order: deque[str] = deque()  # the run of each event, the oldest first
        self._bytes = 0
        self._incomplete: set[str] = set()
        self._busy: set[str] = set()

    def put(self, run_id: str, written: Iterable[Written]) -> None:
        """Hold these events, which come after all that are held of the run; the oldest of any run go."""
        with self._lock:
            if os.getpid() != self._process:
                self._start_anew()
            events = self._runs.setdefault(run_id, deque())
            for one in written:
                events.append(one)
                self._order.append(run_id)
                self._bytes += len(one[1].record)
            while self._bytes > self._max_bytes:
                self._let_go(self._order.popleft())

    def _let_go(self, run_id: str) -> None:
        events = self._runs.get(run_id)
        if not events:
            return  # its events were forgotten, or replaced
        _, event = events.popleft()
        self._bytes -= len(event.record)
        self._incomplete.add(run_id)

    def get(self, run_id: str) -> Sequence[Written]:
        """The events that are held of a run, in its order: replies to threads may arrive in another."""
        with self._lock:
            if os.getpid() != self._process:
                self._start_anew()
            return sorted(self._runs.get(run_id, ()), key=lambda written: written[0].offset)

    def is_complete(self, run_id: str) -> bool:
        """Whether all that this store appended to the run is held."""
        return run_id not in self._incomplete

    def keep(self, run_id: str, written: Sequence[Written]) -> None:
        """Hold these events of the run and no others."""
        self.forget(run_id)
        self.put(run_id, written)

    def forget(self, run_id: str) -> None:
        """Hold nothing of a run any more."""
        with self._lock:
            for _, event in self._runs.pop(run_id, ()):
                self._bytes -= len(event.record)
            self._incomplete.discard(run_id)

    def begin(self, run_id: str) -> bool:
        """Be the one that puts back what a run has lost; False while another thread or task is."""
        with self._lock:
            is_free = run_id not in self._busy
            self._busy.add(run_id)
            return is_free

    def end(self, run_id: str) -> None:
        """Let others look after the run."""
        with self._lock:
            self._busy.discard(run_id)
