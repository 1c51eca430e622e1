"""The lease: the sole right to write one lane of a run, or the whole run, in its holder's hands.

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
from runstream.run.lease_state import LeaseState, take_lease

__all__ = ["AsyncLease", "Lease"]


class Lease(LeaseState[E, S]):
    """The sole right to write one lane of a run, or the whole run; from a store's ``lease``.

    A context manager that gives the lease back at the end. A thread renews it three times in its ttl, for as long
    as this object lives. It is a Checkpointer: what is written through it is applied only if it is still the
    newest lease, and raises LeaseLost otherwise. In a forked process it is not renewed, and not given back.

    Snapshots are the lane's own, but for the main lane and for a lease on the whole run, where they are the run's.
    (The run's own snapshot is no lane's: a lease on the main lane keeps nobody from replacing it; one on the whole
    run does.)
    """

    def __init__(
        self, operations: StoreOperations[E, S], runner: SyncRunner, grant: LeaseGrant, asked_at: float
    ) -> None:
        super().__init__(operations, grant, asked_at)
        self._runner = runner
        self._ended = threading.Event()
        threading.Thread(
            target=_keep, args=(weakref.ref(self), self._ended, self._pause(failed=False)), daemon=True
        ).start()

    @classmethod
    def take(cls, operations: StoreOperations[E, S], runner: SyncRunner, request: LeaseRequest) -> Lease[E, S]:
        """Take a lease; see :meth:`runstream.stores.facade.Store.lease`."""
        return cls(operations, runner, *runner.run(take_lease(operations, request)))

    def check(self) -> None:
        """Ask the store, and renew the lease.

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
        """Append one event to the run. Raises what the store's ``append`` raises."""
        self.save_events((event,))

    def save_events(self, events: Iterable[E]) -> None:
        """Append events to the run, in one atomic step. Raises what the store's ``append`` raises."""
        self.append(self.run_id, events)

    def append(self, run_id: str, events: Iterable[E], **options: Unpack[LeasedAppend[S]]) -> Appended:
        """Append events to the run under this lease, with a snapshot of its lane if there is one.

        Args:
            run_id: The lease's run.
            events: What to append, in order; may be empty where a snapshot is saved.
            **options: ``expected_offset``, ``keys`` and ``snapshot``, as the store's ``append`` takes them.

        Returns:
            Where the events landed.

        Raises:
            LeaseLost: The lease is not the newest any more; nothing was written.
            InvalidRunId: It is a lease on another run.
        """
        return self._runner.run(self._appending(run_id, events, options))

    def save_snapshot(self, run_id: str, state: S) -> None:
        """Replace the snapshot of the lane or run, whoever saved the one before."""
        self._runner.run(self._saving_snapshot(run_id, state))

    def load_latest(self, run_id: str) -> S | None:
        """The state of the latest snapshot of the lane or run, or None."""
        return self._runner.run(self._loading_latest(run_id))

    def list_events(self, run_id: str, since_seq: int = 0) -> list[E]:
        """The run's events, as the store's ``list_events`` gives them."""
        return self._runner.run(self._listing_events(run_id, since_seq))


def _keep(holder: weakref.ref[Lease[Any, Any]], ended: threading.Event, pause: float) -> None:
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
            return  # lost, or the store is closed: whoever writes next is told
        del lease  # a holder that nobody knows any more does not keep its lease


class AsyncLease(LeaseState[E, S]):
    """The sole right to write one lane of a run, or the whole run; from an async store's ``lease``.

    :class:`Lease`, awaited, and renewed by a task of the event loop that it was taken in.
    """

    def __init__(
        self, operations: StoreOperations[E, S], runner: AsyncRunner, grant: LeaseGrant, asked_at: float
    ) -> None:
        super().__init__(operations, grant, asked_at)
        self._runner = runner
        self._keeper = asyncio.create_task(_keep_async(weakref.ref(self), self._pause(failed=False)))

    @classmethod
    async def take(
        cls, operations: StoreOperations[E, S], runner: AsyncRunner, request: LeaseRequest
    ) -> AsyncLease[E, S]:
        """Take a lease; see :meth:`runstream.stores.async_facade.AsyncStore.lease`."""
        return cls(operations, runner, *(await runner.run(take_lease(operations, request))))

    async def check(self) -> None:
        """Ask the store, and renew the lease.

        Raises:
            LeaseLost: It has passed on, run out, or been given back.
            StoreUnavailable: The store gave no answer.
        """
        await self._runner.run(self._renewing())

    async def release(self) -> None:
        """Give the lease back. Twice is fine; where the store cannot be reached, it runs out by itself."""
        await self._runner.run(self._releasing())

    def _stop_renewing(self) -> None:
        self._keeper.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.run(self._releasing(error))

    async def save_event(self, event: E) -> None:
        """Append one event to the run. Raises what the store's ``append`` raises."""
        await self.save_events((event,))

    async def save_events(self, events: Iterable[E]) -> None:
        """Append events to the run, in one atomic step. Raises what the store's ``append`` raises."""
        await self.append(self.run_id, events)

    async def append(self, run_id: str, events: Iterable[E], **options: Unpack[LeasedAppend[S]]) -> Appended:
        """Append events to the run under this lease, with a snapshot of its lane if there is one.

        Args:
            run_id: The lease's run.
            events: What to append, in order; may be empty where a snapshot is saved.
            **options: ``expected_offset``, ``keys`` and ``snapshot``, as the store's ``append`` takes them.

        Returns:
            Where the events landed.

        Raises:
            LeaseLost: The lease is not the newest any more; nothing was written.
            InvalidRunId: It is a lease on another run.
        """
        return await self._runner.run(self._appending(run_id, events, options))

    async def save_snapshot(self, run_id: str, state: S) -> None:
        """Replace the snapshot of the lane or run, whoever saved the one before."""
        await self._runner.run(self._saving_snapshot(run_id, state))

    async def load_latest(self, run_id: str) -> S | None:
        """The state of the latest snapshot of the lane or run, or None."""
        return await self._runner.run(self._loading_latest(run_id))

    async def list_events(self, run_id: str, since_seq: int = 0) -> list[E]:
        """The run's events, as the store's ``list_events`` gives them."""
        return await self._runner.run(self._listing_events(run_id, since_seq))


async def _keep_async(holder: weakref.ref[AsyncLease[Any, Any]], pause: float) -> None:
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
            return  # lost, or the store is closed: whoever writes next is told
        del lease  # a holder that nobody knows any more does not keep its lease
