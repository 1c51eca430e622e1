"""The lease as its holder has it: the sole right to write one lane of a run, or the whole run.

It is renewed in the background, known to be lost, given back, and carried by whatever is written through it. What
it does is in :mod:`~runstream.run.lease_state`; :class:`Lease` and :class:`AsyncLease` differ only in the waiting.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self, Unpack

from runstream.model.errors import RunstreamError, StoreUnavailable
from runstream.model.results import Appended, E, LeaseGrant, S
from runstream.operations.arguments import LeasedAppend, LeaseRequest
from runstream.operations.interface import StoreOperations
from runstream.operations.runners import AsyncRunner, SyncRunner
from runstream.operations.tasks import cancel
from runstream.run.lease_state import LeaseState, take_lease

__all__ = ["AsyncLease", "Lease"]


class Lease(LeaseState[E, S]):
    """The sole right to write one lane of a run, or the whole run; a store's ``lease`` gives it.

    A context manager that gives the lease back at the end. A thread renews it three times in its ttl, for as long
    as this object lives. It is a Checkpointer: what is written through it is applied only if it is still the
    newest lease, and raises LeaseLost otherwise. In a forked process it is not renewed, and not given back.

    Snapshots are the lane's own, but for the main lane and for a lease on the whole run, where they are the run's.
    (The run's own snapshot is no lane's: a lease on the main lane keeps nobody from replacing it; one on the whole
    run does.)

    Args:
        operations: The store's operations.
        runner: Runs them.
        grant: The lease as the store gave it.
        asked_at: ``time.monotonic()`` from before it was asked for.
    """

    def __init__(
        self, operations: StoreOperations[E, S], runner: SyncRunner, grant: LeaseGrant, asked_at: float
    ) -> None:
        super().__init__(operations, grant, asked_at)
        self._runner = runner
        self._ended = threading.Event()
        threading.Thread(
            target=_renew, args=(weakref.ref(self), self._ended, self._pause(failed=False)), daemon=True
        ).start()

    @classmethod
    def take(cls, operations: StoreOperations[E, S], runner: SyncRunner, request: LeaseRequest) -> Lease[E, S]:
        """Take a lease; a store's ``lease`` calls this.

        Args:
            operations: The store's operations.
            runner: Runs them.
            request: The arguments of ``lease``.

        Returns:
            The lease, which renews itself from now on.

        Raises:
            LeaseHeld: Another one was in the way for as long as was to be waited.
            RunstreamError: What else the store's ``lease`` raises.
        """
        return cls(operations, runner, *runner.run(take_lease(operations, request)))

    def check(self) -> None:
        """Renew the lease, and learn from the store whether it is still in force.

        Raises:
            LeaseLost: It has passed on, run out, or been given back.
            StoreUnavailable: The store gave no answer.
        """
        self._runner.run(self._renewing())

    def release(self) -> None:
        """Give the lease back. Twice is fine; where the store cannot be reached, it runs out by itself."""
        self._runner.run(self._releasing())

    def _stop_renewing(self) -> None:
        self._ended.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._releasing(error))

    def save_event(self, event: E) -> None:
        """Append one event to the run under this lease.

        Args:
            event: The event, of the lease's run.

        Raises:
            LeaseLost: The lease is not the newest any more; nothing was written.
            StoreUnavailable: There was no answer: the same event may be sent again and is applied once.
            RunstreamError: What the store's ``append`` raises.
        """
        self.save_events((event,))

    def save_events(self, events: Iterable[E]) -> None:
        """Append events to the run under this lease, in one atomic step.

        Args:
            events: The events, of the lease's run, in order.

        Raises:
            LeaseLost: The lease is not the newest any more; nothing was written.
            StoreUnavailable: There was no answer: the same events may be sent again and are applied once.
            RunstreamError: What the store's ``append`` raises.
        """
        self.append(self.run_id, events)

    def append(self, run_id: str, events: Iterable[E], **options: Unpack[LeasedAppend[S]]) -> Appended:
        """Append events to the run under this lease, with a snapshot of its lane, or several, if there are any.

        Args:
            run_id: The lease's run.
            events: What to append, in order; may be empty where a snapshot is saved or tags are set.
            **options: ``expected_offset``, ``keys``, ``snapshot``, ``snapshots``, ``end_lanes`` and ``tags``, as
                the store's ``append`` takes them; lanes that another holds are refused.

        Returns:
            The offsets of the first and the last event, and the cursor of the last.

        Raises:
            LeaseLost: The lease is not the newest any more; nothing was written.
            InvalidRunId: It is a lease on another run.
            RunstreamError: What the store's ``append`` raises.
        """
        return self._runner.run(self._appending(run_id, events, options))

    def save_snapshot(self, run_id: str, state: S) -> None:
        """Replace the snapshot of the lane or run, whoever saved the one before.

        Args:
            run_id: The lease's run.
            state: The state to save; it is taken as it is now.

        Raises:
            LeaseLost: The lease is not the newest any more; nothing was written.
            InvalidRunId: It is a lease on another run.
            RunstreamError: What the store's ``save_snapshot`` raises.
        """
        self._runner.run(self._saving_snapshot(run_id, state))

    def load_latest(self, run_id: str) -> S | None:
        """The state of the latest snapshot of the lane or run, or None.

        Args:
            run_id: The lease's run.

        Raises:
            InvalidRunId: It is a lease on another run.
            RunstreamError: What the store's ``load_snapshot`` raises.
        """
        return self._runner.run(self._loading_latest(run_id))

    def list_events(self, run_id: str, since_seq: int = 0) -> list[E]:
        """The run's events with ``seq > since_seq``, of all lanes, in log order.

        Args:
            run_id: The lease's run.
            since_seq: The producer's number after which to begin; 0 or less gives all events.

        Raises:
            InvalidRunId: It is a lease on another run.
            RunstreamError: What the store's ``list_events`` raises.
        """
        return self._runner.run(self._listing_events(run_id, since_seq))


def _renew(holder: weakref.ref[Lease[Any, Any]], ended: threading.Event, pause: float) -> None:
    while not ended.wait(pause):
        lease = holder()
        if lease is None or lease.lost:
            return
        try:
            lease.check()
            pause = lease._pause(failed=False)
        except StoreUnavailable:
            pause = lease._pause(failed=True)
        except RunstreamError:
            return  # lost, or the store is closed: the next write raises it
        del lease  # a lease object that nothing refers to any more is not renewed


class AsyncLease(LeaseState[E, S]):
    """The sole right to write one lane of a run, or the whole run; an async store's ``lease`` gives it.

    An async context manager that gives the lease back at the end. A task of the event loop that it was taken in
    renews it three times in its ttl, for as long as this object lives. It has the four methods of a Checkpointer,
    as coroutines: what is written through it is applied only if it is still the newest lease, and raises LeaseLost
    otherwise. In a forked process it is not renewed, and not given back.

    Snapshots are the lane's own, but for the main lane and for a lease on the whole run, where they are the run's.
    (The run's own snapshot is no lane's: a lease on the main lane keeps nobody from replacing it; one on the whole
    run does.)

    Args:
        operations: The store's operations.
        runner: Runs them.
        grant: The lease as the store gave it.
        asked_at: ``time.monotonic()`` from before it was asked for.
    """

    def __init__(
        self, operations: StoreOperations[E, S], runner: AsyncRunner, grant: LeaseGrant, asked_at: float
    ) -> None:
        super().__init__(operations, grant, asked_at)
        self._runner = runner
        self._begin_renewing()

    def _begin_renewing(self) -> None:
        self._renewal = asyncio.create_task(_renew_async(weakref.ref(self), self._pause(failed=False)))

    def _keep_renewing(self) -> None:
        if self._renewal.get_loop().is_closed() and not self.lost:
            self._begin_renewing()  # in the event loop that runs

    @classmethod
    async def take(
        cls, operations: StoreOperations[E, S], runner: AsyncRunner, request: LeaseRequest
    ) -> AsyncLease[E, S]:
        """Take a lease; an async store's ``lease`` calls this.

        Args:
            operations: The store's operations.
            runner: Runs them.
            request: The arguments of ``lease``.

        Returns:
            The lease, which renews itself from now on.

        Raises:
            LeaseHeld: Another one was in the way for as long as was to be waited.
            RunstreamError: What else the store's ``lease`` raises.
        """
        return cls(operations, runner, *(await runner.run(take_lease(operations, request))))

    async def check(self) -> None:
        """Renew the lease, and learn from the store whether it is still in force.

        Raises:
            LeaseLost: It has passed on, run out, or been given back.
            StoreUnavailable: The store gave no answer.
        """
        await self._runner.run(self._renewing())

    async def release(self) -> None:
        """Give the lease back. Twice is fine; where the store cannot be reached, it runs out by itself."""
        await self._runner.run(self._releasing())

    def _stop_renewing(self) -> None:
        cancel(self._renewal)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.run(self._releasing(error))

    async def save_event(self, event: E) -> None:
        """Append one event to the run under this lease.

        Args:
            event: The event, of the lease's run.

        Raises:
            LeaseLost: The lease is not the newest any more; nothing was written.
            StoreUnavailable: There was no answer: the same event may be sent again and is applied once.
            RunstreamError: What the store's ``append`` raises.
        """
        await self.save_events((event,))

    async def save_events(self, events: Iterable[E]) -> None:
        """Append events to the run under this lease, in one atomic step.

        Args:
            events: The events, of the lease's run, in order.

        Raises:
            LeaseLost: The lease is not the newest any more; nothing was written.
            StoreUnavailable: There was no answer: the same events may be sent again and are applied once.
            RunstreamError: What the store's ``append`` raises.
        """
        await self.append(self.run_id, events)

    async def append(self, run_id: str, events: Iterable[E], **options: Unpack[LeasedAppend[S]]) -> Appended:
        """Append events to the run under this lease, with a snapshot of its lane, or several, if there are any.

        Args:
            run_id: The lease's run.
            events: What to append, in order; may be empty where a snapshot is saved or tags are set.
            **options: ``expected_offset``, ``keys``, ``snapshot``, ``snapshots``, ``end_lanes`` and ``tags``, as
                the store's ``append`` takes them; lanes that another holds are refused.

        Returns:
            The offsets of the first and the last event, and the cursor of the last.

        Raises:
            LeaseLost: The lease is not the newest any more; nothing was written.
            InvalidRunId: It is a lease on another run.
            RunstreamError: What the store's ``append`` raises.
        """
        return await self._runner.run(self._appending(run_id, events, options))

    async def save_snapshot(self, run_id: str, state: S) -> None:
        """Replace the snapshot of the lane or run, whoever saved the one before.

        Args:
            run_id: The lease's run.
            state: The state to save; it is taken as it is now.

        Raises:
            LeaseLost: The lease is not the newest any more; nothing was written.
            InvalidRunId: It is a lease on another run.
            RunstreamError: What the store's ``save_snapshot`` raises.
        """
        await self._runner.run(self._saving_snapshot(run_id, state))

    async def load_latest(self, run_id: str) -> S | None:
        """The state of the latest snapshot of the lane or run, or None.

        Args:
            run_id: The lease's run.

        Raises:
            InvalidRunId: It is a lease on another run.
            RunstreamError: What the store's ``load_snapshot`` raises.
        """
        return await self._runner.run(self._loading_latest(run_id))

    async def list_events(self, run_id: str, since_seq: int = 0) -> list[E]:
        """The run's events with ``seq > since_seq``, of all lanes, in log order.

        Args:
            run_id: The lease's run.
            since_seq: The producer's number after which to begin; 0 or less gives all events.

        Raises:
            InvalidRunId: It is a lease on another run.
            RunstreamError: What the store's ``list_events`` raises.
        """
        return await self._runner.run(self._listing_events(run_id, since_seq))


async def _renew_async(holder: weakref.ref[AsyncLease[Any, Any]], pause: float) -> None:
    while True:
        await asyncio.sleep(pause)
        lease = holder()
        if lease is None or lease.lost:
            return
        try:
            await lease.check()
            pause = lease._pause(failed=False)
        except StoreUnavailable:
            pause = lease._pause(failed=True)
        except RunstreamError:
            return  # lost, or the store is closed: the next write raises it
        del lease  # a lease object that nothing refers to any more is not renewed
