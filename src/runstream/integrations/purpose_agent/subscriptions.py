"""Subscriptions of a StoreBus: what is emitted here at once, and what others record as the store has it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from concurrent.futures import Executor
from contextlib import closing, suppress
from typing import Any, Generic, NamedTuple, Self

from runstream.integrations.purpose_agent.bus_writer import BusWriter, Pending
from runstream.integrations.purpose_agent.known_run import KnownRun
from runstream.model.awaitable import AsyncOnly
from runstream.model.errors import RunstreamError
from runstream.model.results import E, Recorded, RunInfo
from runstream.model.state import ENDED_STATUSES
from runstream.operations.filters import EventFilter, field_of, text_of
from runstream.stores.facade import Store

__all__ = ["Deliveries", "Delivery", "Scope", "Subscription"]

_PAUSE_SECONDS = 0.05
_PAGE = 256
_CLOCKS_DIFFER_SECONDS = 2.0
_RUN_ENDS = frozenset({"run.finished", "run.error"})


class Delivery(NamedTuple, Generic[E]):
    """An event as a subscriber is given it.

    Attributes:
        event: The event.
        offset: Its position in its run; None: it was emitted on this bus just now and is not durable yet.
        cursor: Its position in this history, as text; None where there is no offset.
    """

    event: E
    offset: int | None
    cursor: str | None


class Scope(NamedTuple):
    """Which runs a subscription is about: one, those of a session, or all; and after which position of it.

    With ``durable`` nothing is given before it is in the store.
    """

    run_id: str | None = None
    session_id: str | None = None
    after: int | str | None = None
    durable: bool = False

    def has(self, event: Any) -> bool:
        """Whether an event that is emitted here is of one of its runs, as far as the event tells."""
        return (self.run_id is None or field_of(event, "run_id") == self.run_id) and (
            self.session_id is None or field_of(event, "session_id") == self.session_id
        )


class Deliveries(AsyncOnly, Generic[E]):
    """The events of some runs that match, with their offsets: an async iterator for one task at a time.

    What is emitted on this bus comes at once, all else, and what did not fit, in the order of the store. After an
    error it may be asked again, and goes on where it was.

    Args:
        store: Where the events are.
        writer: What writes those of this bus.
        readers: The threads that read until the bus is closed. They may wait for an append: those of the loop
            are the program's.
        scope: Which runs.
        wanted: Which events of them.
        capacity: How many events may wait here.
    """

    def __init__(
        self,
        store: Store[E, Any],
        writer: BusWriter[E],
        readers: Executor,
        scope: Scope,
        wanted: EventFilter,
        capacity: int,
    ) -> None:
        self._store = store
        self._writer = writer
        self._readers = readers
        self._scope = scope
        self._wanted = wanted
        self._capacity = capacity
        self._ready: deque[Delivery[E]] = deque()
        self._runs: dict[str, KnownRun] = {}
        self._catches_up = scope.after is not None
        self._has_begun = False
        self._updated_at = self._newest_at = 0.0
        self._to_read: deque[RunInfo] = deque()
        self._owed: dict[str, tuple[int, set[tuple[int, Any]]]] = {}
        self._listed: set[str] = set()
        self._fetching = threading.Lock()
        self._fetched_at = 0.0
        self._fetch: asyncio.Future[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.is_over = self._has_ended = False

    # -- from the writer, under its lock -----------------------------------------------------------

    def offer(self, pending: Pending[E]) -> bool | None:
        """Give an event that is not durable yet. False: the store is to give it; None: it is not wanted."""
        event = pending.event
        if self.is_over or self._has_ended or not self._scope.has(event) or not self._wanted(event):
            return None
        known = self._runs.setdefault(pending.run_id, KnownRun())
        known.offered += 1
        is_stores_turn = self._scope.durable or self._catches_up or known.is_behind
        if is_stores_turn or len(self._ready) >= self._capacity:
            known.unsettled += 1
            return False
        self._ready.append(Delivery(event, None, None))
        self._note_end(event)
        self.wake()
        return True

    def settle(self, run_id: str, offset: int, span_id: Any, *, was_given: bool) -> None:
        """Learn the offset of an event that was offered."""
        known = self._runs.get(run_id)
        if known is None:  # it has ended
            return
        known.settle(offset, span_id, was_given=was_given)
        if known.position is None and self._scope.after is None and not self._has_begun:
            known.begin(offset - 1)  # what others record after it is not passed over

    def forget(self, run_id: str, *, was_given: bool) -> None:
        """Learn that an event that was offered is not written: its run was refused."""
        if (known := self._runs.get(run_id)) is not None:
            known.forget(was_given=was_given)

    def wake(self) -> None:
        """Let the task that waits look again."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            with suppress(RuntimeError):  # its loop has ended
                waiter.get_loop().call_soon_threadsafe(_release, waiter)

    def _note_end(self, event: E) -> None:
        """As in an EventBus, a subscription to everything ends with the first run that ends here."""
        scope = self._scope
        if scope.run_id is None and scope.session_id is None and text_of(field_of(event, "kind")) in _RUN_ENDS:
            self._has_ended = True

    # -- the iterator ------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery[E]:
        """The next event.

        Raises:
            StopAsyncIteration: The bus is closed, or the run has ended, and all was given.
            RunstreamError: The store's, or the writer's failure.
        """
        loop = asyncio.get_running_loop()
        while True:
            fetch = self._fetch if self._fetch is not None and self._fetch.get_loop() is loop else None
            if fetch is not None and fetch.done():
                self._fetch = None
                fetch.result()
                fetch = None
            due = self._fetched_at + _PAUSE_SECONDS - time.monotonic()
            with self._writer.lock:
                room = len(self._ready) < self._capacity and not self._has_ended and not self.is_over
                delivery = self._ready.popleft() if self._ready and not self.is_over else None
                if delivery is None:
                    self._check_end()
                    self._waiter = waiter = loop.create_future()
            if fetch is None and room and due <= 0:
                with self._writer.lock:  # once it is closed, there is no append that one could wait for
                    readers = None if self._writer.is_closed else self._readers
                    self._fetch = fetch = loop.run_in_executor(readers, self._read)
                fetch.add_done_callback(_take_error)
            if delivery is not None:
                return delivery
            await asyncio.wait(
                {waiter} if fetch is None else {waiter, fetch},
                timeout=max(due, 0.001) if fetch is None else None,
                return_when=asyncio.FIRST_COMPLETED,
            )

    async def aclose(self) -> None:
        """End it. What waits is not given any more."""
        with self._writer.lock:
            self.is_over = True
            self._ready.clear()
            self._runs.clear()
            self.wake()

    def _check_end(self) -> None:
        if self.is_over or self._has_ended:
            self.is_over = True
            raise StopAsyncIteration
        self._writer.check([self._scope.run_id or ""])
        if self._writer.is_closed and not any(known.is_behind for known in self._runs.values()):
            self.is_over = True
            raise StopAsyncIteration

    # -- reading, in a thread ----------------------------------------------------------------------

    def _read(self) -> None:
        """Read a page of each run with something new, while there is room; look for such runs if all are read."""
        with self._fetching:
            if not self._to_read:
                self._look()
            try:
                for _ in range(len(self._to_read)):
                    if len(self._ready) >= self._capacity:
                        return
                    info = self._to_read[0]
                    known = self._known(info)
                    was_all = self._read_run(info, known)
                    self._to_read.popleft()
                    if not was_all and known.offset < info.last_offset:
                        self._to_read.append(info)
            except BaseException:
                self._to_read.clear()
                raise
            if not self._to_read:
                self._end_round()

    def _look(self) -> None:
        """Find the runs that have something new."""
        with self._writer.lock:
            self._owed = {
                run_id: (known.settles, {*known.given})
                for run_id, known in self._runs.items()
                if known.given or known.is_behind
            }
        infos = self._updated()
        self._listed = {info.run_id for info in infos}
        for info in infos:
            known = self._known(info)
            # what was read was lost since: reading on says so
            is_shorter = isinstance(known.position, str) and info.last_offset < known.offset
            if info.last_offset > known.offset or is_shorter:
                self._to_read.append(info)
            elif self._scope.run_id is not None and info.status in ENDED_STATUSES and known.is_whole:
                self._has_ended = True
        self._has_begun = True
        self._newest_at = max([self._updated_at, *(info.updated_at for info in infos)])

    def _end_round(self) -> None:
        """All is read that was there when it was looked for."""
        self._updated_at = self._newest_at
        with self._writer.lock:
            for run_id, (settles, given) in self._owed.items():
                known = self._runs.get(run_id, KnownRun())
                # what is not found now is there no more: the run was deleted, or is one of another session
                if known.settles == settles:
                    known.left_to, known.is_another = min(known.left_to, known.offset), False
                if run_id in self._listed:
                    known.given -= given
            if not any(known.is_behind for known in self._runs.values()):
                self._catches_up = False
        self._fetched_at = time.monotonic()

    def _updated(self) -> list[RunInfo]:
        """The runs in which there may be something new."""
        run_id = self._scope.run_id
        if run_id is not None:
            info = self._store.run_info(run_id)
            return [] if info is None or self._scope.session_id not in (None, info.session_id) else [info]
        since = self._updated_at - _CLOCKS_DIFFER_SECONDS if self._has_begun else None
        return list(self._store.runs(session_id=self._scope.session_id, updated_after=since))

    def _known(self, info: RunInfo) -> KnownRun:
        """Where to read on in a run: at first, after its end, or where the subscriber wants it."""
        with self._writer.lock:
            known = self._runs.setdefault(info.run_id, KnownRun())
            created_at, known.created_at = known.created_at, info.created_at
            if created_at is not None and info.created_at > created_at:
                known.begin_anew()
            if known.position is not None:
                return known
        self._writer.wait_until_known(info.run_id)
        with self._writer.lock:
            if known.position is None:  # it may have been set meanwhile
                after = self._scope.after
                if after is not None:
                    known.begin(after)
                else:
                    known.begin(0 if self._has_begun else info.last_offset)
        return known

    def _read_run(self, info: RunInfo, known: KnownRun) -> bool:
        """Read a page of a run. Returns whether that was all."""
        run_id = info.run_id
        events: Any = self._store.read(run_id, known.position or 0, limit=_PAGE)
        try:
            with closing(events):
                page: list[Recorded[E]] = list(events)
        except RunstreamError:
            if self._is_still(info):
                raise
            return True
        if isinstance(known.position, int) and not self._is_still(info):
            return True  # a cursor would have proven that it is the same run
        self._writer.wait_until_known(run_id)
        with self._writer.lock:
            for item in page:
                if known.given and (given := (item.offset, field_of(item.event, "span_id"))) in known.given:
                    known.given.remove(given)
                elif self._wanted(item.event) and not self.is_over:
                    self._ready.append(Delivery(item.event, item.offset, item.cursor))
                    if item.offset <= known.left_to:
                        self._note_end(item.event)
                known.position, known.offset = item.cursor, item.offset
            self.wake()
        return len(page) < _PAGE

    def _is_still(self, info: RunInfo) -> bool:
        """Whether this is the run that was found, and none that was begun since under its name."""
        now = self._store.run_info(info.run_id)
        return now is not None and now.created_at == info.created_at


class Subscription(AsyncOnly, Generic[E]):
    """The events of :class:`Deliveries` alone: an async iterator, as an EventBus has it."""

    def __init__(self, deliveries: Deliveries[E]) -> None:
        self._deliveries = deliveries

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        """The next event. Raises what :class:`Deliveries` raises."""
        return (await self._deliveries.__anext__()).event

    async def aclose(self) -> None:
        """End it."""
        await self._deliveries.aclose()


def _take_error(fetch: asyncio.Future[None]) -> None:
    """Where nobody asks for an error any more, asyncio would log it."""
    if not fetch.cancelled():
        fetch.exception()


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
