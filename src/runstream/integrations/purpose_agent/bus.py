"""purpose-agent's EventBus over a store."""

from __future__ import annotations

import atexit
import heapq
import logging
import os
import threading
import weakref
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.util import Finalize
from types import TracebackType
from typing import Any, Generic, Self

from runstream.integrations.purpose_agent.bus_writer import Bounds, BusWriter, Pending
from runstream.integrations.purpose_agent.checks import check_store
from runstream.integrations.purpose_agent.subscriptions import Deliveries, Scope, Subscription
from runstream.model.errors import ConfigurationError
from runstream.model.events import EventKind, Visibility
from runstream.model.identifiers import event_run_id, shown
from runstream.model.results import E
from runstream.operations.arguments import FollowQuery, parse_position
from runstream.operations.filters import EventFilter, field_of
from runstream.stores.facade import Store

__all__ = ["StoreBus"]

logger = logging.getLogger(__name__)

_READERS = 4  # threads for all subscriptions of a bus


class StoreBus(Generic[E]):
    """purpose-agent's EventBus, over a store: for subscribers in other processes, and after a restart.

    ``emit`` may be called in any thread and on event loops: it encodes the event, queues it and gives it to the
    subscribers here; a thread writes the queue. What it takes is written in order, each event once, through an
    outage of ``retry_seconds``. If that fails, the writer's failure is raised by every ``emit``, ``flush`` and
    subscription from then on, and by ``close``. A run that is refused alone, since another process has leased it,
    say, raises that at its own ``emit`` and subscription, and at ``flush`` and ``close``; the others go on.
    ``unwritten`` has what is not known to be written. Nothing else is dropped: what a slow subscriber has no room
    for, he gets from the store.

    A context manager that closes it; the end of the process closes it too. Processes that are forked make one of
    their own. The lanes that it writes must not be leased.

    Args:
        store: Where the events go. It stays the caller's to close, after the bus.
        max_queue_size: How many events may wait for one subscriber, before he gets the next ones from the store.
        run_id: The run that ``next_seq`` numbers if none is named.
        max_pending_events: How many events may wait to be written.
        max_pending_bytes: How many bytes, as records, may wait to be written.
        retry_seconds: For how many seconds an outage of the store is waited out, and a run that has
            ``max_hot_events``, while other runs are written.

    Raises:
        ConfigurationError: The store is none, or an async one; or a bound or ``retry_seconds`` is no such number.
    """

    def __init__(
        self,
        store: Store[E, Any],
        max_queue_size: int = 1000,
        *,
        run_id: str | None = None,
        max_pending_events: int = 10_000,
        max_pending_bytes: int = 64 * 2**20,
        retry_seconds: float = 30.0,
    ) -> None:
        check_store(store)
        sizes = {
            "max_queue_size": max_queue_size,
            "max_pending_events": max_pending_events,
            "max_pending_bytes": max_pending_bytes,
        }
        for name, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ConfigurationError(f"{name}={shown(size)}: pass a whole number from 1 on")
        if not isinstance(retry_seconds, int | float) or not retry_seconds >= 0:
            raise ConfigurationError(f"retry_seconds={shown(retry_seconds)}: pass seconds, 0 or more")
        self._store = store
        self._run_id = run_id
        self._max_queue_size = max_queue_size
        self._subscriptions: weakref.WeakSet[Deliveries[E]] = weakref.WeakSet()
        bounds = Bounds(max_pending_events, max_pending_bytes, retry_seconds)
        self._writer: BusWriter[E] = BusWriter(store, bounds, lambda: list(self._subscriptions))
        self._readers = ThreadPoolExecutor(_READERS, "runstream-bus-reader")
        self._seqs: dict[tuple[str | None, str], int] = {}
        self._numbering = threading.Lock()
        self._process = os.getpid()
        atexit.register(self.close)
        # a child process of multiprocessing ends without atexit
        self._at_end = Finalize(None, self.close, exitpriority=100)

    def __repr__(self) -> str:
        """The store that it is over, and whether it takes no more events."""
        closed = ", closed" if self._writer.is_closing else ""
        return f"<StoreBus over {self._store!r}{closed}>"

    # -- emitting ----------------------------------------------------------------------------------

    def emit(self, event: E) -> None:
        """Queue an event to be written, and give it to the subscribers here at once.

        It is recorded as it is now. An event with hidden chain of thought is neither recorded nor given to
        anybody, and a warning is logged, as by an EventBus.

        Args:
            event: The event; its ``run_id`` says which run it belongs to.

        Raises:
            TooManyPending: As much waits to be written as may. Nobody was given the event.
            EncodingError: It is no event, or cannot be stored; PayloadTooLarge where it is over the store's limit.
            InvalidRunId: Its ``run_id`` cannot name a run.
            ConfigurationError: The bus is closed, or another process's.
            RunstreamError: The writer has failed, or the run was refused, now or before.
        """
        self._check_process()
        has_hidden = getattr(event, "has_hidden_cot", None)
        if callable(has_hidden) and has_hidden():
            logger.warning(
                "event %s was not recorded: its payload has hidden chain of thought; emit a reasoning.summary",
                field_of(event, "span_id"),
            )
            return
        run_id = event_run_id(event)
        (encoded,) = self._store._operations.codec.encode_events(run_id, [event])
        self._writer.put(Pending(run_id, event, encoded.record))

    emit_sync = emit

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was emitted is durable; on an event loop, ``await asyncio.to_thread(bus.flush)``.

        Args:
            timeout: For how many seconds; None: as long as it takes.

        Raises:
            TimeoutError: Some is not durable yet.
            ConfigurationError: The bus is another process's.
            DurabilityNotReached: All is written, and a run is not as durable as the store is asked for. It is
                raised once for each run, and the bus goes on.
            RunstreamError: The writer has failed, or a run was refused: what was emitted to others is durable.
        """
        self._flush(timeout, None)
        self._writer.tell_shortfall()

    def _flush(self, timeout: float | None, run_id: str | None) -> None:
        self._check_process()
        self._writer.flush(timeout, run_id)

    def close(self) -> None:
        """Take no more events, write those that wait, and end the subscriptions when they have given all of them.

        Closing twice is fine.

        Raises:
            DurabilityNotReached: All is written, and a run is not as durable as the store is asked for.
            RunstreamError: The writer has failed, or a run was refused; ``unwritten`` has what is not known to be
                written.
        """
        atexit.unregister(self.close)
        self._at_end.cancel()
        if os.getpid() != self._process or self._writer.is_closed:
            return
        try:
            self._writer.close()
        finally:
            with self._writer.lock:
                self._readers.shutdown(wait=False)

    def _check_process(self) -> None:
        """A process that was forked has no thread that writes, and perhaps a lock that nobody opens."""
        if os.getpid() != self._process:
            raise ConfigurationError("this bus was made before a fork: make one in each process")

    @property
    def unwritten(self) -> list[E]:
        """The events that are not known to be written, in the order in which they were emitted."""
        return self._writer.unwritten()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- subscribing -------------------------------------------------------------------------------

    def subscribe(
        self,
        visibility: Visibility | str | None = None,
        lane_id: str | None = None,
        kinds: Collection[EventKind | str] | None = None,
        run_id: str | None = None,
        *,
        session_id: str | None = None,
        after: int | str | None = None,
    ) -> Subscription[E]:
        """The events that match, of this bus and of all other processes, as they come.

        Args:
            visibility: Who looks: ``"public"`` is given what is public, ``"internal"`` that and what is internal,
                ``"debug"`` all.
            lane_id: Only events of this lane.
            kinds: Only events of these kinds.
            run_id: Only events of this run. It ends with the run.
            session_id: Only events of the runs of this session.
            after: Replay a run after this offset or cursor, then go on live; 0 without a run: all runs from their
                beginning. None: begin now; in a run that nothing is emitted to here, when the first
                event is asked for.

        Returns:
            An async iterator. Without run and session it ends with the first run that ends on this bus.

        Raises:
            ConfigurationError: ``after`` is no position, or one without a run; no event could fit a filter; or the
                bus is another process's.
        """
        return Subscription(
            self.deliveries(visibility, lane_id, kinds, run_id, session_id=session_id, after=after)
        )

    def deliveries(
        self,
        visibility: Visibility | str | None = None,
        lane_id: str | None = None,
        kinds: Collection[EventKind | str] | None = None,
        run_id: str | None = None,
        *,
        session_id: str | None = None,
        after: int | str | None = None,
        durable: bool = False,
    ) -> Deliveries[E]:
        """What ``subscribe`` gives, each with its offset and cursor: None where it is not durable yet.

        Args:
            visibility: As in ``subscribe``.
            lane_id: As in ``subscribe``.
            kinds: As in ``subscribe``.
            run_id: As in ``subscribe``.
            session_id: As in ``subscribe``.
            after: As in ``subscribe``.
            durable: Give also what is emitted on this bus only when it is in the store, in the order of its run.

        Raises:
            ConfigurationError: ``after`` is no position, or one without a run; no event could fit a filter; or the
                bus is another process's.
        """
        self._check_process()
        if after is not None:
            parse_position(after)
            if not run_id and after != 0:
                raise ConfigurationError(f"after={shown(after)} is a position in one run: name it with run_id=")
        scope = Scope(run_id or None, session_id or None, after, durable)
        wanted = _filter(visibility, lane_id, kinds)
        readers, capacity = self._readers, self._max_queue_size
        deliveries = Deliveries(self._store, self._writer, readers, scope, wanted, capacity)
        with self._writer.lock:
            self._subscriptions.add(deliveries)
        return deliveries

    def replay(
        self,
        run_id: str | None = None,
        lane_id: str | None = None,
        since_seq: int = 0,
        *,
        session_id: str | None = None,
        kinds: Collection[EventKind | str] | None = None,
        visibility: Visibility | str | None = None,
    ) -> list[E]:
        """The events that are recorded, those emitted before included. It flushes and reads: it blocks.

        Args:
            run_id: Only events of this run; None: of all, each run's in its order, merged by their times.
            lane_id: Only events of this lane.
            since_seq: Only events whose ``seq`` is over this; 0 or less gives all.
            session_id: Only events of the runs of this session.
            kinds: Only events of these kinds.
            visibility: Who looks, as in ``subscribe``.

        Raises:
            RunstreamError: The writer has failed, or what ``list_events`` raises.
        """
        self._flush(None, run_id)
        if run_id:
            info = self._store.run_info(run_id) if session_id else None
            run_ids = [run_id] if not session_id or (info is not None and info.session_id == session_id) else []
        else:
            run_ids = [info.run_id for info in self._store.runs(session_id=session_id or None)]
        wanted = _filter(visibility, lane_id, kinds)
        runs = [self._store.list_events(each, since_seq) for each in reversed(run_ids)]
        merged = heapq.merge(*runs, key=lambda event: float(field_of(event, "ts")))
        return [event for event in merged if wanted(event)]

    # -- numbers -----------------------------------------------------------------------------------

    def next_seq(self, lane_id: str = "main", run_id: str | None = None) -> int:
        """The next number in a lane: after the last one that is recorded, whichever process did.

        The first call for a lane flushes and asks the store, and blocks meanwhile. A lane has one writer at a
        time.

        Args:
            lane_id: The lane.
            run_id: The run; None: the run of the bus. If it has none, the number is over all of the lane in any
                run of the store, which takes an exchange for each of them, once.

        Raises:
            RunstreamError: The writer has failed, or the store does not tell.
        """
        at = run_id or self._run_id, lane_id
        with self._numbering:
            is_known = at in self._seqs
        last = 0 if is_known else self._last_written(*at)  # other lanes do not wait for that
        with self._numbering:
            number = self._seqs[at] = self._seqs.get(at, last) + 1  # another thread may have asked meanwhile
            return number

    def _last_written(self, run_id: str | None, lane_id: str) -> int:
        self._flush(None, run_id)
        runs = [run_id] if run_id else self._store.list_runs()
        return max((self._last_seq(run, lane_id) for run in runs), default=0)

    def _last_seq(self, run_id: str, lane_id: str) -> int:
        return self._store._runner.run(self._store._operations.last_seq(run_id, lane_id))

    @property
    def history_size(self) -> int:
        """How many events were emitted on this bus; the store may have more."""
        return self._writer.emitted()

    @property
    def subscriber_count(self) -> int:
        """How many subscriptions there are on this bus that have not ended."""
        return sum(not each.is_over for each in list(self._subscriptions))


def _filter(
    visibility: Visibility | str | None, lane_id: str | None, kinds: Collection[EventKind | str] | None
) -> EventFilter:
    # nothing asks nothing, as in an EventBus: an empty set of kinds, too
    return EventFilter(FollowQuery(lane_id=lane_id or None, kinds=kinds or None, visibility=visibility or None))
