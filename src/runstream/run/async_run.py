"""The handle that an agent author works with under asyncio; see :mod:`runstream.run.run`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from runstream.model.events import EventKind, Visibility
from runstream.model.results import E, LeaseGrant, Recorded, S
from runstream.model.state import RunStatus
from runstream.operations.arguments import FollowFilters, FollowQuery, RunRequest
from runstream.operations.interface import StoreOperations
from runstream.operations.operation import Operation
from runstream.operations.runners import AsyncRunner
from runstream.run.lane import Emission, LaneWriter, error_payload
from runstream.run.lease import AsyncLease

__all__ = ["AsyncRun"]

T = TypeVar("T")


class AsyncRun(LaneWriter[E, S]):
    """:class:`Run`, awaited; from an async store's ``open_run``. Tasks of one event loop may share it.

    Of a call that is cancelled the outcome is as unknown as after StoreUnavailable.
    """

    lease: AsyncLease[E, S] | None

    def __init__(self, operations: StoreOperations[E, S], runner: AsyncRunner, request: RunRequest) -> None:
        super().__init__(operations, request)
        self._runner = runner
        self._lock = asyncio.Lock()
        self._timer: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, operations: StoreOperations[E, S], runner: AsyncRunner, request: RunRequest) -> Self:
        """Recover the lane and go on with it; see :meth:`runstream.stores.async_facade.AsyncStore.open_run`."""
        run = cls(operations, runner, request)
        await runner.run(run._opening(request))
        return run

    def _hold_lease(self, grant: LeaseGrant, asked_at: float) -> None:
        self.lease = AsyncLease(self._operations, self._runner, grant, asked_at)

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
        """Append one event of this lane; its payload is ``payload`` with ``fields`` over it.

        An event whose ``key`` the run knows is not written again: this gives the place and the event of its
        first append. (Where this store no longer has that event, it gives the one just made.)

        After StoreUnavailable it is unknown whether the event was written; it may be yet, before whatever this
        store appends next to the run. To emit it again makes another event, with another ``ts`` and ``seq``;
        with the same ``key`` it is recorded once all the same.
        """
        emission = Emission(kind, {**(payload or {}), **fields}, key, parent_span_id, visibility)
        return await self._do(self._emitting_one(emission))

    async def emit_many(
        self, items: Iterable[Emission | tuple[Any, ...] | str], *, checkpoint: bool = False
    ) -> list[Recorded[E]]:
        """Append several events of this lane in one atomic step, and the state with them if ``checkpoint``.

        An item is an :class:`~runstream.run.lane.Emission`, a tuple of the first of its fields (``(kind,
        payload)``, ``(kind, payload, key)``), or a mere kind. An event whose key is known leaves a gap in
        ``seq`` if others of its batch come after it. A batch of nothing but such events writes nothing, the
        state included: that was saved when they were. Raises ConcurrencyConflict as ``checkpoint`` does.
        """
        return await self._do(self._emitting(items, checkpoint=checkpoint))

    async def emit_delta(self, text: str, **fields: Any) -> None:
        """Append a piece of text as ``text.delta``, with ``fields`` beside it; or hold it back for a moment.

        A call that raises has not taken the text. (Without a buffer it is as for ``emit``.)
        """
        await self._do(self._emitting_delta(text, fields))

    async def flush(self) -> None:
        """Append the text that is held back, now."""
        await self._do(self._going_first())

    async def checkpoint(self) -> None:
        """Save the state as the snapshot of this lane; the main lane's is the run's.

        Raises ConcurrencyConflict if another was saved since the one that this store knows: open the run
        again, or load that state and go on with it.
        """
        await self._do(self._emitting((), checkpoint=True))

    def follow(self, after: int | str = 0, **filters: Unpack[FollowFilters]) -> AsyncIterator[Recorded[E]]:
        """The events of the run, of all lanes unless told otherwise, then live.

        Args:
            after: An offset, or a cursor, after which to begin.
            **filters: ``idle_timeout``, ``lane_id``, ``kinds`` and ``visibility``, as the store's ``follow`` takes
                them.

        Returns:
            The events as they come; it ends when the run has ended and all was given.
        """
        return self._runner.iterate(self._operations.follow(self.run_id, FollowQuery(after, **filters)))

    async def finish(self, payload: Mapping[str, Any] | None = None, /, **fields: Any) -> Recorded[E]:
        """End the run well: ``run.finished`` and the state, its status then ``completed``, in one atomic step.

        The state's ``finished_at`` is set as well; both are as before if this raises. A status that is none
        of a run's is left as it is. Raises ConcurrencyConflict as ``checkpoint`` does, and
        ConfigurationError for a state that would contradict the event.
        """
        payload = {**(payload or {}), **fields}
        return await self._do(self._ending(EventKind.RUN_FINISHED, RunStatus.COMPLETED, payload))

    async def fail(self, error: BaseException | str, /, **fields: Any) -> Recorded[E]:
        """End the run badly: ``run.error`` and the state, its status then ``failed``, in one atomic step.

        The payload has the error's text as ``error``, and its class as ``type``: None for a mere text. For
        the rest it is as ``finish``.
        """
        payload = {**error_payload(error), **fields}
        return await self._do(self._ending(EventKind.RUN_ERROR, RunStatus.FAILED, payload))

    async def close(self) -> None:
        """Send what is held back and give the lease back: what leaving the context manager does."""
        await self._do(self._leaving(None))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._do(self._leaving(error))

    async def save_event(self, event: E) -> None:
        """Append an event that was made elsewhere; the numbering of this lane goes on after its ``seq``.

        The same event may be sent again after StoreUnavailable. Raises InvalidRunId for one of another run.
        """
        await self._do(self._saving_event(event))

    async def save_snapshot(self, run_id: str, state: S) -> None:
        """Replace the snapshot of this lane, whoever saved the one before. It is not taken as ``state``."""
        await self._do(self._saving_snapshot(run_id, state))

    async def load_latest(self, run_id: str) -> S | None:
        """The state of the latest snapshot of this lane, or None. It is not taken as ``state``."""
        return await self._runner.run(self._loading_latest(run_id))

    async def list_events(self, run_id: str, since_seq: int = 0) -> list[E]:
        """The run's events, as the store's ``list_events`` gives them."""
        return await self._runner.run(self._listing_events(run_id, since_seq))

    async def _do(self, operation: Operation[T]) -> T:
        """One operation at a time, so that the lane's numbers and its places in the log agree."""
        async with self._lock:
            try:
                return await self._runner.run(operation)
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
            await self._runner.run(self._flushing_quietly())
