"""The queue of a StoreBus, and the thread that writes it to the store."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain
from operator import attrgetter
from types import TracebackType
from typing import Any, Generic, NamedTuple, Protocol

from runstream.codec.record import decode_record, fields_of
from runstream.codec.stored_fields import EventFields
from runstream.model.errors import (
    ConfigurationError,
    RunstreamError,
    StoreUnavailable,
    TooManyHotEvents,
    TooManyPending,
)
from runstream.model.results import E
from runstream.stores.facade import Store

__all__ = ["Bounds", "BusWriter", "Pending", "Subscriber"]

_BATCH = 512
_LONGEST_PAUSE_SECONDS = 1.0


class Bounds(NamedTuple):
    """How much may wait to be written, and for how long an outage is waited out.

    Attributes:
        events: How many events may wait.
        size: How many bytes of records may wait. A single event may be larger, where none waits.
        retry_seconds: For how many seconds a batch is sent again while the store is not available, or has no room.
    """

    events: int
    size: int
    retry_seconds: float


class Subscriber(Protocol):
    """Who is given events as they are emitted."""

    def offer(self, pending: Pending[Any]) -> bool | None:
        """Give an event that is not durable yet. False: the store is to give it; None: it is not wanted."""

    def settle(self, run_id: str, offset: int, span_id: Any, *, was_given: bool) -> None:
        """Learn the offset of an event that was offered, by which the store gives it, and its span id."""

    def forget(self, run_id: str, *, was_given: bool) -> None:
        """Learn that an event that was offered is not written: its run was refused."""

    def wake(self) -> None:
        """Learn that something has changed."""


class Pending(Generic[E]):
    """An event that is not known to be durable yet: the caller's object, and what it was when it was emitted."""

    __slots__ = ("event", "number", "offers", "record", "run_id")

    def __init__(self, run_id: str, event: E, record: bytes) -> None:
        self.run_id = run_id
        self.event = event
        self.record = record
        self.number = 0  # how many were emitted, with this one
        self.offers: list[tuple[Subscriber, bool]] = []


class Failure(NamedTuple):
    """An error that is raised again and again, with the trace that it had."""

    error: BaseException
    trace: TracebackType | None


class BusWriter(Generic[E]):
    """Writes what is emitted, in order, in a thread of its own. Threads may share it.

    Args:
        store: Where to write.
        bounds: How much may wait.
        subscribers: Gives those who are to be given an event, under the lock.

    Attributes:
        lock: Guards all of this, and what subscribers know.
        failure: Why nothing is written any more; None while all is well.
        refused: Why nothing is written any more to these runs, while it is to others.
        is_closing: Whether nothing is taken any more.
        is_closed: Whether all that was taken is written, its run was refused, or the writer has failed.
    """

    def __init__(self, store: Store[E, Any], bounds: Bounds, subscribers: Callable[[], list[Subscriber]]) -> None:
        self._store = store
        self._bounds = bounds
        self._subscribers = subscribers
        self.lock = threading.RLock()
        self._has_work = threading.Condition(self.lock)
        self._has_written = threading.Condition(self.lock)
        self._queue: deque[Pending[E]] = deque()
        self._batch: dict[str, list[Pending[E]]] = {}
        self._count = self._size = 0  # of what waits
        self._emitted = self._written = 0  # the numbers of the last events of which that is true, with all before
        self._writing: tuple[str, object] | None = None
        self.is_closing = self.is_closed = False
        self.failure: Failure | None = None
        self.refused: dict[str, Failure] = {}
        self._left: list[Pending[E]] = []  # of the runs that were refused
        self._thread = threading.Thread(target=self._run, name="runstream-bus", daemon=True)
        self._thread.start()

    def put(self, pending: Pending[E]) -> None:
        """Take an event and give it to the subscribers.

        Raises:
            TooManyPending: As much waits as may. Nobody was given the event.
            ConfigurationError: The bus is closed.
            RunstreamError: The writer's failure, or why the run was refused.
        """
        size, bounds = len(pending.record), self._bounds
        with self.lock:
            self.check([pending.run_id])
            if self.is_closing:
                raise ConfigurationError("this bus is closed; the event was not recorded: make another bus")
            count = self._count
            if count and (count >= bounds.events or self._size + size > bounds.size):
                raise TooManyPending(
                    f"{count} events of {self._size} bytes wait to be written, and {bounds.events} events or"
                    f" {bounds.size} bytes may: emit this one again when some are (flush() waits until all are)",
                    events=count,
                    size=self._size,
                )
            self._queue.append(pending)
            self._emitted += 1
            pending.number = self._emitted
            self._count += 1
            self._size += size
            for subscriber in self._subscribers():
                given = subscriber.offer(pending)
                if given is not None:
                    pending.offers.append((subscriber, given))
            self._has_work.notify()

    def check(self, run_ids: Iterable[str]) -> None:
        """Raise the writer's failure, if there is one, or why one of these runs was refused."""
        found = self.failure or next(filter(None, map(self.refused.get, run_ids)), None)
        if found is not None:
            raise found.error.with_traceback(found.trace)

    def flush(self, timeout: float | None, run_id: str | None = None) -> None:
        """Wait until what was put is written, to any run.

        Args:
            timeout: For how many seconds; None: as long as it takes.
            run_id: Raise only why this run was refused; None: why any was.

        Raises:
            TimeoutError: It was not within so many seconds.
            RunstreamError: The writer's failure, or why a run was refused.
        """
        with self.lock:
            wanted = self._emitted
            is_done = self._has_written.wait_for(
                lambda: self._written >= wanted or self.failure is not None, timeout
            )
            self.check(self._refused_of(run_id))
            if not is_done:
                raise TimeoutError(f"{self._count} events wait to be written still, after {timeout} seconds")

    def close(self) -> None:
        """Take no more, write what waits, and end the thread.

        Raises:
            RunstreamError: The writer's failure, or why a run was refused.
        """
        with self.lock:
            self.is_closing = True
            self._has_work.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()
        self.is_closed = True
        self._wake_all()
        self.check(self._refused_of(None))

    def _refused_of(self, run_id: str | None) -> list[str]:
        return [run_id] if run_id else list(self.refused)

    def unwritten(self) -> list[E]:
        """The events that are not known to be durable, in the order in which they were emitted."""
        with self.lock:
            left = [*self._left, *chain.from_iterable(self._batch.values()), *self._queue]
            return [pending.event for pending in sorted(left, key=attrgetter("number"))]

    def emitted(self) -> int:
        """How many events were put."""
        return self._emitted

    def wait_until_known(self, run_id: str) -> None:
        """Wait until the offsets of what is being written to a run just now are known to those it was offered."""
        with self.lock:
            writing = self._writing
            if writing is not None and writing[0] == run_id:
                self._has_written.wait_for(lambda: self._writing is not writing or self.failure is not None)

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while last := self._take():
                for run_id, group in list(self._batch.items()):
                    try:
                        self._write(run_id, group)
                    except RunstreamError as error:
                        if _is_of_all(error):
                            raise
                        self._refuse(run_id, error)
                with self.lock:
                    self._written = last
                    self._has_written.notify_all()
        except BaseException as error:  # noqa: BLE001 - whatever it is: the next call raises it
            with self.lock:
                self.failure = Failure(error, error.__traceback__)
                self._has_written.notify_all()
            self._wake_all()

    def _take(self) -> int:
        """Take the next batch, by runs. Returns the number of its last event; 0: there will be none any more."""
        with self.lock:
            self._has_work.wait_for(lambda: self._queue or self.is_closing)
            last = 0
            for _ in range(min(_BATCH, len(self._queue))):
                pending = self._queue.popleft()
                self._batch.setdefault(pending.run_id, []).append(pending)
                last = pending.number
            for run_id in self.refused.keys() & self._batch.keys():
                self._leave(self._batch.pop(run_id))
            return last

    def _refuse(self, run_id: str, error: RunstreamError) -> None:
        """Write nothing more to a run, and go on with the others."""
        with self.lock:
            self.refused[run_id], self._writing = Failure(error, error.__traceback__), None
            self._leave(self._batch.pop(run_id))
            self._has_written.notify_all()
        self._wake_all()

    def _leave(self, group: list[Pending[E]]) -> None:
        self._left += group
        self._count -= len(group)
        self._size -= sum(len(pending.record) for pending in group)
        for pending in group:
            for subscriber, given in pending.offers:
                subscriber.forget(pending.run_id, was_given=given)

    def _write(self, run_id: str, group: list[Pending[E]]) -> None:
        recorded = [fields_of(run_id, decode_record(run_id, 0, pending.record)) for pending in group]
        while group:
            with self.lock:
                self._writing = (run_id, object())
            events: list[Any] = [EventFields(fields) for fields in recorded]
            first, count = self._append(run_id, events)
            with self.lock:
                for at in range(count):
                    for subscriber, given in group[at].offers:
                        subscriber.settle(run_id, first + at, recorded[at]["span_id"], was_given=given)
                self._count -= count
                self._size -= sum(len(pending.record) for pending in group[:count])
                del group[:count], recorded[:count]
                if not group:
                    del self._batch[run_id]
                self._writing = None
                self._has_written.notify_all()

    def _append(self, run_id: str, events: list[Any]) -> tuple[int, int]:
        """Append events, through an outage. Returns the offset of the first, and how many there was room for."""
        until, pause, count = 0.0, 0.05, len(events)
        while True:
            try:
                return self._store.append(run_id, events[:count]).first_offset, count
            except TooManyHotEvents as error:  # nothing was written
                room = max(error.limit - error.hot_events, 1)
                if room < count:
                    count = room
                    continue
                until = self._wait_until(until, error)
            except StoreUnavailable as error:  # the same events on the same store object are applied once
                if error.is_final:
                    raise
                until = self._wait_until(until, error)
            time.sleep(min(pause, self._bounds.retry_seconds))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _wait_until(self, until: float, error: RunstreamError) -> float:
        """Until when it is waited, from the first such error on. Raises the error if that is over."""
        now = time.monotonic()
        until = until or now + self._bounds.retry_seconds
        if now >= until:
            raise error
        return until

    def _wake_all(self) -> None:
        with self.lock:
            for subscriber in self._subscribers():
                subscriber.wake()


def _is_of_all(error: RunstreamError) -> bool:
    """Whether it would be so with any run. Of one batch alone the outcome may never be known."""
    return isinstance(error, ConfigurationError) or (isinstance(error, StoreUnavailable) and not error.is_final)
