"""The events that a store object appended last, to be put back where a server has lost them.

It holds so many bytes of them and no more, over all runs, and knows of which runs it has let some go.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

from runstream.codec.event_codec import EncodedEvent
from runstream.stores.redis.append_result import Written

__all__ = ["RecentBook"]

_MAX_BYTES = 16 * 2**20
_MAX_INCOMPLETE = 16_384


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
        self._knows_incomplete = True
        self._busy: set[str] = set()
        self._histories: dict[str, int] = {}
        self._read: dict[str, int] = {}
        self._owed: dict[str, list[EncodedEvent]] = {}

    @contextmanager
    def _own(self) -> Iterator[None]:
        """What this process holds: a fork begins with nothing."""
        with self._lock:
            if os.getpid() != self._process:
                self._start_anew()
            yield

    def put(self, run_id: str, history: int, written: Iterable[Written]) -> None:
        """Hold these events of this history (its first chain); the oldest of any run go.

        What is held of a former run of that name, which was deleted since, goes at once.
        """
        with self._own():
            if self._histories.get(run_id, history) != history:
                self._hold_nothing(run_id)
            self._histories[run_id] = history
            for one in written:
                self._runs.setdefault(run_id, deque()).append(one)
                self._order.append(run_id)
                self._bytes += len(one[1].record)
            while self._bytes > self._max_bytes:
                self._let_go(self._order.popleft())

    def _let_go(self, run_id: str) -> None:
        events = self._runs[run_id]
        _, event = events.popleft()
        self._bytes -= len(event.record)
        if not events:
            del self._runs[run_id]
            self._histories.pop(run_id, None)
        self._incomplete.add(run_id)
        if len(self._incomplete) > _MAX_INCOMPLETE:
            self._incomplete.clear()
            self._knows_incomplete = False

    def get(self, run_id: str) -> Sequence[Written]:
        """The events that are held of a run, in its order: replies to threads may arrive in another."""
        with self._own():
            return sorted(self._runs.get(run_id, ()), key=lambda written: written[0].offset)

    def is_complete(self, run_id: str) -> bool:
        """Whether all that this store appended to the run is held."""
        with self._own():
            return self._knows_incomplete and run_id not in self._incomplete

    def keep(self, run_id: str, written: Sequence[Written]) -> None:
        """Hold these events of the run and no others."""
        with self._own():
            history = self._histories.get(run_id, 0)
            self._hold_nothing(run_id)
        self.put(run_id, history, written)

    def forget(self, run_id: str) -> None:
        """Hold nothing of a run any more, nor owe it anything."""
        with self._own():
            self._owed.pop(run_id, None)
            self._hold_nothing(run_id)

    def _hold_nothing(self, run_id: str) -> None:
        if events := self._runs.pop(run_id, None):
            self._bytes -= sum(len(event.record) for _, event in events)
            self._order = deque(other for other in self._order if other != run_id)
        self._histories.pop(run_id, None)
        self._incomplete.discard(run_id)
        self._read.pop(run_id, None)

    def has_read(self, run_id: str, offset: int) -> None:
        """Note how far this store has read a run that it writes to: events of others among it."""
        with self._own():
            if run_id in self._runs:
                self._read[run_id] = max(offset, self._read.get(run_id, 0))

    def knows_others(self, run_id: str, after: int, own: Iterable[int]) -> bool:
        """Whether this store has read events after that offset that are none of these, its own."""
        with self._own():
            upto = self._read.get(run_id, 0)
        return upto - after > sum(after < offset <= upto for offset in own)

    def owe(self, run_id: str, events: Sequence[EncodedEvent]) -> None:
        """Hold events that the server has lost until they are put back."""
        with self._own():
            self._owed.setdefault(run_id, []).extend(events)
            self._read.pop(run_id, None)

    def owed(self, run_id: str) -> Sequence[EncodedEvent]:
        """The events that are to be put back, in order."""
        with self._own():
            return tuple(self._owed.get(run_id, ()))

    def paid(self, run_id: str, lanes: Collection[str]) -> None:
        """Note that those of these lanes are there again."""
        with self._own():
            left = [event for event in self._owed.pop(run_id, ()) if event.lane_id not in lanes]
            if left:
                self._owed[run_id] = left

    def begin(self, run_id: str) -> bool:
        """Be the one that puts back what a run has lost; False while another thread or task is."""
        with self._own():
            is_free = run_id not in self._busy
            self._busy.add(run_id)
            return is_free

    def end(self, run_id: str) -> None:
        """Let others look after the run."""
        with self._own():
            self._busy.discard(run_id)
