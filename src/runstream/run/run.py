"""The handle that an agent author works with: one lane of a run, recovered and gone on with.

:class:`Run` waits, :class:`AsyncRun` is awaited. What they do is written once, as steps, in
:mod:`~runstream.run.lane`; here is only who makes the steps' calls, and when.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from runstream.model.events import EventKind, Visibility
from runstream.model.identifiers import MAIN_LANE
from runstream.model.results import DeltaBuffer, E, Recorded, S
from runstream.model.state import RunStatus
from runstream.run.lane import Emission, LaneWriter, error_payload
from runstream.run.lease import AsyncLease, Lease
from runstream.run.steps import Steps, await_calls, make_calls
from runstream.run.store import AsyncLaneStore, LaneStore

__all__ = ["AsyncRun", "Emission", "Run"]

T = TypeVar("T")


class Run(LaneWriter[E, S]):
    """One lane of a run, for one writer; from a store's ``open_run``.

    ``run_id``, ``lane_id`` and ``session_id`` are what its events carry; a session that is not given is
    taken from the recovered state. ``state`` is never None: the recovered state, or a new one; change it,
    or put another in its place, and ``checkpoint`` saves it. ``recovered`` is what was there: the state
    (the very object that ``state`` begins with), the offset that it covers, and the events after it.
    ``lease`` is the lease on the lane, if one was asked for.

    Its events are numbered (``seq``) from where the lane left off, one by one. A number is used again only
    if the store has refused the event. Threads may share a Run; a forked process opens one of its own.

    It is a context manager. Leaving it sends what is held back and gives the lease back. Leaving it with
    an exception records ``agent.error``, and raises that exception whatever comes of it; KeyboardInterrupt,
    SystemExit, GeneratorExit and cancellation record nothing. None of this ends the run: only ``finish``
    and ``fail`` do.

    With ``deltas`` text is held back for a moment, and appended together: when the buffer is full, when
    its first delta is old enough (a thread sees to that), before anything else that is written through
    this Run, by ``flush`` and on leaving. A crash loses what is held back at that moment, at most what
    :class:`~runstream.model.results.DeltaBuffer` allows, and nothing else: all that is not a delta is kept
    when its call returns. What could not be sent stays held, and goes out again as the same append, which
    is applied once. If that failed in the background, the next call that writes raises it, and has then
    done nothing; the one after that tries again.

    It is a :class:`~runstream.model.protocols.Checkpointer` for its run. All that is written through it
    carries the lease, and raises LeaseLost when that has passed on.
    """

    _store: LaneStore[E, S]
    lease: Lease[E, S] | None

    def __init__(
        self, store: LaneStore[E, S], run_id: str, lane_id: str, session_id: str, deltas: DeltaBuffer | None
    ) -> None:
        super().__init__(store, run_id, lane_id, session_id, deltas)
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    @classmethod
    def open(
        cls,
        store: LaneStore[E, S],
        run_id: str,
        *,
        lane_id: str = MAIN_LANE,
        session_id: str = "",
        lease_ttl: float | None = None,
        owner: str | None = None,
        wait: float = 0.0,
        deltas: DeltaBuffer | None = None,
    ) -> Self:
        """Recover the lane, under a lease if ``lease_ttl`` (seconds) is given; writes no event and no state.

        Without ``owner`` the lease has one of its own, so that a restarted process waits until the lease of
        the former one has run out. Raises LeaseHeld after ``wait`` seconds, and what ``recover`` raises.
        """
        run = cls(store, run_id, lane_id, session_id, deltas)
        make_calls(run._opening(lease_ttl, owner, wait))
        return run

    def emit(
        self,
        kind: EventKind | str,
        payload: Mapping[str, Any] | None = None,
        /,
        *,
        key: str | None = None,
        parent_span_id: str | None = None,
        visibility: Visibility | str = Visibility.PUBLIC,
        **fields: Any,
    ) -> Recorded[E]:
        """Append one event of this lane; its payload is ``payload`` with ``fields`` over it.

        An event whose ``key`` the run knows is not written again: this gives the place and the event of its
        first append. (Where this store no longer has that event, it gives the one just made.)

        After StoreUnavailable it is unknown whether the event was written; it may be yet, before whatever this
        store appends next to the run. To emit it again makes another event, with another ``ts`` and ``seq``;
        with the same ``key`` it is recorded once all the same.
        """
        emission = Emission(kind, {**(payload or {}), **fields}, key, parent_span_id, visibility)
        return self._do(self._emitting_one(emission))

    def emit_many(
        self, items: Iterable[Emission | tuple[Any, ...] | str], *, checkpoint: bool = False
    ) -> list[Recorded[E]]:
        """Append several events of this lane in one atomic step, and the state with them if ``checkpoint``.

        An item is an :class:`~runstream.run.lane.Emission`, a tuple of the first of its fields (``(kind,
        payload)``, ``(kind, payload, key)``), or a mere kind. An event whose key is known leaves a gap in
        ``seq`` if others of its batch come after it. A batch of nothing but such events writes nothing, the
        state included: that was saved when they were. Raises ConcurrencyConflict as ``checkpoint`` does.
        """
        return self._do(self._emitting(items, checkpoint=checkpoint))

    def emit_delta(self, text: str, **fields: Any) -> None:
        """Append a piece of text as ``text.delta``, with ``fields`` beside it; or hold it back for a moment.

        A call that raises has not taken the text. (Without a buffer it is as for ``emit``.)
        """
        self._do(self._emitting_delta(text, fields))

    def flush(self) -> None:
        """Append the text that is held back, now."""
        self._do(self._going_first())

    def checkpoint(self) -> None:
        """Save the state as the snapshot of this lane; the main lane's is the run's.

        Raises ConcurrencyConflict if another was saved since the one that this store knows: open the run
        again, or load that state and go on with it.
        """
        self._do(self._emitting((), checkpoint=True))

    def follow(
        self,
        after: int | str = 0,
        *,
        idle_timeout: float | None = None,
        lane_id: str | None = None,
        kinds: Collection[EventKind | str] | None = None,
        visibility: Visibility | str | None = None,
    ) -> Iterator[Recorded[E]]:
        """The events of the run, of all lanes unless told otherwise, then live: the store's ``follow``."""
        return self._store.follow(
            self.run_id, after, idle_timeout=idle_timeout, lane_id=lane_id, kinds=kinds, visibility=visibility
        )

    def finish(self, payload: Mapping[str, Any] | None = None, /, **fields: Any) -> Recorded[E]:
        """End the run well: ``run.finished`` and the state, its status then ``completed``, in one atomic step.

        The state's ``finished_at`` is set as well; both are as before if this raises. A status that is none
        of a run's is left as it is. Raises ConcurrencyConflict as ``checkpoint`` does, and
        ConfigurationError for a state that would contradict the event.
        """
        payload = {**(payload or {}), **fields}
        return self._do(self._ending(EventKind.RUN_FINISHED, RunStatus.COMPLETED, payload))

    def fail(self, error: BaseException | str, /, **fields: Any) -> Recorded[E]:
        """End the run badly: ``run.error`` and the state, its status then ``failed``, in one atomic step.

        The payload has the error's text as ``error``, and its class as ``type``: None for a mere text. For
        the rest it is as ``finish``.
        """
        payload = {**error_payload(error), **fields}
        return self._do(self._ending(EventKind.RUN_ERROR, RunStatus.FAILED, payload))

    def close(self) -> None:
        """Send what is held back and give the lease back: what leaving the context manager does."""
        self._do(self._leaving(None))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._leaving(error))

    def save_event(self, event: E) -> None:
        """Append an event that was made elsewhere; the numbering of this lane goes on after its ``seq``.

        The same event may be sent again after StoreUnavailable. Raises InvalidRunId for one of another run.
        """
        self._do(self._saving_event(event))

    def save_snapshot(self, run_id: str, state: S) -> None:
        """Replace the snapshot of this lane, whoever saved the one before. It is not taken as ``state``."""
        self._do(self._saving_snapshot(run_id, state))

    def load_latest(self, run_id: str) -> S | None:
        """The state of the latest snapshot of this lane, or None. It is not taken as ``state``."""
        return make_calls(self._loading_latest(run_id))

    def list_events(self, run_id: str, since_seq: int = 0) -> list[E]:
        """The run's events, as the store's ``list_events`` gives them."""
        return make_calls(self._listing_events(run_id, since_seq))

    def _do(self, steps: Steps[T]) -> T:
        """One operation at a time, so that the lane's numbers and its places in the log agree."""
        with self._lock:
            try:
                return make_calls(steps)
            finally:
                self._set_timer()

    def _set_timer(self) -> None:
        seconds = self._seconds_to_flush
        if self._timer is not None and seconds is None:
            self._timer.cancel()
            self._timer = None
        elif self._timer is None and seconds is not None:
            self._timer = threading.Timer(seconds, self._flush_in_time)
            self._timer.daemon = True
            self._timer.start()

    def _flush_in_time(self) -> None:
        with self._lock:
            self._timer = None
            make_calls(self._flushing_quietly())

    def _read_one(self, offset: int) -> Recorded[E] | None:
        found = list(self._store.read(self.run_id, offset - 1, limit=1))
        return found[0] if found else None


class AsyncRun(LaneWriter[E, S]):
    """:class:`Run`, awaited; from an async store's ``open_run``. Tasks of one event loop may share it.

    Of a call that is cancelled the outcome is as unknown as after StoreUnavailable.
    """

    _store: AsyncLaneStore[E, S]
    lease: AsyncLease[E, S] | None

    def __init__(
        self, store: AsyncLaneStore[E, S], run_id: str, lane_id: str, session_id: str, deltas: DeltaBuffer | None
    ) -> None:
        super().__init__(store, run_id, lane_id, session_id, deltas)
        self._lock = asyncio.Lock()
        self._timer: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        store: AsyncLaneStore[E, S],
        run_id: str,
        *,
        lane_id: str = MAIN_LANE,
        session_id: str = "",
        lease_ttl: float | None = None,
        owner: str | None = None,
        wait: float = 0.0,
        deltas: DeltaBuffer | None = None,
    ) -> Self:
        """:meth:`Run.open`, awaited."""
        run = cls(store, run_id, lane_id, session_id, deltas)
        await await_calls(run._opening(lease_ttl, owner, wait))
        return run

    async def emit(
        self,
        kind: EventKind | str,
        payload: Mapping[str, Any] | None = None,
        /,
        *,
        key: str | None = None,
        parent_span_id: str | None = None,
        visibility: Visibility | str = Visibility.PUBLIC,
        **fields: Any,
    ) -> Recorded[E]:
        """:meth:`Run.emit`, awaited."""
        emission = Emission(kind, {**(payload or {}), **fields}, key, parent_span_id, visibility)
        return await self._do(self._emitting_one(emission))

    async def emit_many(
        self, items: Iterable[Emission | tuple[Any, ...] | str], *, checkpoint: bool = False
    ) -> list[Recorded[E]]:
        """:meth:`Run.emit_many`, awaited."""
        return await self._do(self._emitting(items, checkpoint=checkpoint))

    async def emit_delta(self, text: str, **fields: Any) -> None:
        """:meth:`Run.emit_delta`, awaited."""
        await self._do(self._emitting_delta(text, fields))

    async def flush(self) -> None:
        """:meth:`Run.flush`, awaited."""
        await self._do(self._going_first())

    async def checkpoint(self) -> None:
        """:meth:`Run.checkpoint`, awaited."""
        await self._do(self._emitting((), checkpoint=True))

    def follow(
        self,
        after: int | str = 0,
        *,
        idle_timeout: float | None = None,
        lane_id: str | None = None,
        kinds: Collection[EventKind | str] | None = None,
        visibility: Visibility | str | None = None,
    ) -> AsyncIterator[Recorded[E]]:
        """:meth:`Run.follow`, as an async iterator."""
        return self._store.follow(
            self.run_id, after, idle_timeout=idle_timeout, lane_id=lane_id, kinds=kinds, visibility=visibility
        )

    async def finish(self, payload: Mapping[str, Any] | None = None, /, **fields: Any) -> Recorded[E]:
        """:meth:`Run.finish`, awaited."""
        payload = {**(payload or {}), **fields}
        return await self._do(self._ending(EventKind.RUN_FINISHED, RunStatus.COMPLETED, payload))

    async def fail(self, error: BaseException | str, /, **fields: Any) -> Recorded[E]:
        """:meth:`Run.fail`, awaited."""
        payload = {**error_payload(error), **fields}
        return await self._do(self._ending(EventKind.RUN_ERROR, RunStatus.FAILED, payload))

    async def close(self) -> None:
        """:meth:`Run.close`, awaited."""
        await self._do(self._leaving(None))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._do(self._leaving(error))

    async def save_event(self, event: E) -> None:
        """:meth:`Run.save_event`, awaited."""
        await self._do(self._saving_event(event))

    async def save_snapshot(self, run_id: str, state: S) -> None:
        """:meth:`Run.save_snapshot`, awaited."""
        await self._do(self._saving_snapshot(run_id, state))

    async def load_latest(self, run_id: str) -> S | None:
        """:meth:`Run.load_latest`, awaited."""
        return await await_calls(self._loading_latest(run_id))

    async def list_events(self, run_id: str, since_seq: int = 0) -> list[E]:
        """:meth:`Run.list_events`, awaited."""
        return await await_calls(self._listing_events(run_id, since_seq))

    async def _do(self, steps: Steps[T]) -> T:
        """One operation at a time, so that the lane's numbers and its places in the log agree."""
        async with self._lock:
            try:
                return await await_calls(steps)
            finally:
                self._set_timer()

    def _set_timer(self) -> None:
        seconds = self._seconds_to_flush
        if self._timer is not None and seconds is None:
            self._timer.cancel()
            self._timer = None
        elif self._timer is None and seconds is not None:
            self._timer = asyncio.create_task(self._flush_in_time(seconds))

    async def _flush_in_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        async with self._lock:
            self._timer = None
            await await_calls(self._flushing_quietly())

    async def _read_one(self, offset: int) -> Recorded[E] | None:
        found = [item async for item in self._store.read(self.run_id, offset - 1, limit=1)]
        return found[0] if found else None
