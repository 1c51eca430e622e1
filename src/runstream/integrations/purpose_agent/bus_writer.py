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
    DurabilityNotReached,
    RunstreamError,
    StoreUnavailable,
    TooManyHotEvents,
    TooManyPending,
)
from runstream.model.results import E
from runstream.operations.operation import carried_result
from runstream.stores.facade import Store

__all__ = ["Bounds", "BusWriter", "Pending", "Subscriber"]

_BATCH = 512
_FIRST_PAUSE_SECONDS = 0.05
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


class _Full(NamedTuple):
    """A run that had no room: what was emitted to it waits, while other runs are written.

    Attributes:
        until: Until when it is tried again (``time.monotonic()``).
        pause: For how many seconds it waits, this time.
        again_at: When it is tried again.
    """

    until: float
    pause: float
    again_at: float


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
        self._batch: dict[str, list[Pending[E]]] = {}  # taken out of the queue and not written, by runs
        self._full: dict[str, _Full] = {}
        self._count = self._size = 0  # of what waits
        self._emitted = self._taken = 0  # the numbers of the last events of which that is true, with all before
        self._writing: tuple[str, object] | None = None
        self.is_closing = self.is_closed = False
        self.failure: Failure | None = None
        self.refused: dict[str, Failure] = {}
        self._left: list[Pending[E]] = []  # of the runs that were refused
        # by runs, of what was written last and is not as durable as was asked for, until that is told
        self._shortfalls: dict[str, DurabilityNotReached] = {}
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
        """Wait until what was put is written.

        Args:
            timeout: For how many seconds; None: as long as it takes.
            run_id: Only what was put to this run; None: to any.

        Raises:
            TimeoutError: It was not within so many seconds.
            RunstreamError: The writer's failure, or why the run was refused, or any was.
        """
        with self.lock:
            wanted = self._emitted
            is_done = self._has_written.wait_for(
                lambda: self._is_written(wanted, run_id) or self.failure is not None, timeout
            )
            self.check(self._refused_of(run_id))
            if not is_done:
                raise TimeoutError(f"{self._count} events wait to be written still, after {timeout} seconds")

    def close(self) -> None:
        """Take no more, write what waits, and end the thread.

        Raises:
            DurabilityNotReached: All is written, and some of it is not as durable as was asked for.
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
        self.tell_shortfall()

    def tell_shortfall(self) -> None:
        """Raise what tells that a run is not as durable as was asked for, once for each."""
        with self.lock:
            if self._shortfalls:
                raise self._shortfalls.pop(next(iter(self._shortfalls)))

    def _is_written(self, number: int, run_id: str | None) -> bool:
        """Whether nothing waits that was emitted up to this number, to a run or (None) to any."""
        groups = self._batch.values() if run_id is None else [self._batch.get(run_id, [])]
        return self._taken >= number and all(not group or group[0].number > number for group in groups)

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
            while self._take():
                for run_id, group in list(self._batch.items()):
                    if run_id in self._full and time.monotonic() < self._full[run_id].again_at:
                        continue
                    try:
                        self._write(run_id, group)
                    except TooManyHotEvents as error:  # nothing was written
                        self._put_off(run_id, error)
                    except RunstreamError as error:
                        if _is_of_all(error):
                            raise
                        self._refuse(run_id, error)
        except BaseException as error:  # noqa: BLE001 - whatever it is: the next call raises it
            with self.lock:
                self.failure = Failure(error, error.__traceback__)
                self._has_written.notify_all()
            self._wake_all()

    def _take(self) -> bool:
        """Take the next batch, by runs, when there is one, or a full run is to be tried again.

        Returns whether anything waits, or may come.
        """
        with self.lock:
            again_at = min((full.again_at for full in self._full.values()), default=None)
            seconds = None if again_at is None else max(again_at - time.monotonic(), 0.0)
            self._has_work.wait_for(lambda: self._queue or (self.is_closing and not self._full), seconds)
            for _ in range(min(_BATCH, len(self._queue))):
                pending = self._queue.popleft()
                self._batch.setdefault(pending.run_id, []).append(pending)
                self._taken = pending.number
            for run_id in self.refused.keys() & self._batch.keys():
                self._leave(self._batch.pop(run_id))
            self._has_written.notify_all()
            return bool(self._batch or self._queue or not self.is_closing)

    def _put_off(self, run_id: str, error: TooManyHotEvents) -> None:
        """Try a full run again later, or refuse it if it has been full for too long."""
        now, longest = time.monotonic(), self._bounds.retry_seconds
        until, pause, _ = self._full.get(run_id) or _Full(now + longest, _FIRST_PAUSE_SECONDS, now)
        if now >= until:
            self._refuse(run_id, error)
            return
        with self.lock:
            self._writing = None
            self._has_written.notify_all()
        self._full[run_id] = _Full(until, min(2 * pause, _LONGEST_PAUSE_SECONDS), now + min(pause, longest))

    def _refuse(self, run_id: str, error: RunstreamError) -> None:
        """Write nothing more to a run, and go on with the others."""
        with self.lock:
            self.refused[run_id], self._writing = Failure(error, error.__traceback__), None
            self._full.pop(run_id, None)
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
        while group:
            with self.lock:
                self._writing = (run_id, object())
            recorded = [fields_of(run_id, decode_record(run_id, 0, one.record)) for one in group[:_BATCH]]
            first, count = self._append(run_id, list(map(EventFields, recorded)))
            self._full.pop(run_id, None)
            with self.lock:
                for at in range(count):
                    for subscriber, given in group[at].offers:
                        subscriber.settle(run_id, first + at, recorded[at]["span_id"], was_given=given)
                self._count -= count
                self._size -= sum(len(pending.record) for pending in group[:count])
                del group[:count]
                if not group:
                    del self._batch[run_id]
                self._writing = None
                self._has_written.notify_all()

    def _append(self, run_id: str, events: list[Any]) -> tuple[int, int]:
        """Append events, through an outage. Returns the offset of the first, and how many there was room for.

        Raises TooManyHotEvents if there is room for none.
        """
        until, pause, count = 0.0, _FIRST_PAUSE_SECONDS, len(events)
        while True:
            try:
                return self._append_once(run_id, events[:count]), count
            except TooManyHotEvents as error:  # nothing was written
                room = error.limit - error.hot_events
                if not 0 < room < count:
                    raise
                count = room
            except StoreUnavailable as error:  # the same events on the same store object are applied once
                now = time.monotonic()
                until = until or now + self._bounds.retry_seconds
                if error.is_final or now >= until:
                    raise
                time.sleep(min(pause, self._bounds.retry_seconds))
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _append_once(self, run_id: str, events: list[Any]) -> int:
        """Append events, be they as durable as was asked for or not. Returns the offset of the first."""
        shortfall = None
        try:
            first_offset = self._store.append(run_id, events).first_offset
        except DurabilityNotReached as error:  # all was written
            shortfall, first_offset = error, carried_result(error).appended.first_offset
        with self.lock:
            self._shortfalls.pop(run_id, None)  # what is durable shows that all before it is
            if shortfall is not None:
                self._shortfalls[run_id] = shortfall
        return first_offset

    def _wake_all(self) -> None:
        with self.lock:
            for subscriber in self._subscribers():
                subscriber.wake()


def _is_of_all(error: RunstreamError) -> bool:
    """Whether it would be so with any run. Of one batch alone the outcome may never be known."""
    return isinstance(error, ConfigurationError) or (isinstance(error, StoreUnavailable) and not error.is_final)
