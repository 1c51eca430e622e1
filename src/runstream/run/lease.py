"""The lease: the sole right to write one lane of a run, or the whole run.

A store gives it (:class:`~runstream.model.results.LeaseGrant`) and checks it at every write, by its own
clock: that is what keeps a writer out that was stopped for too long, and this module has no part in it.
Here is what the holder has of it: it is renewed in the background, known to be lost, given back, and
carried by whatever is written through it. The two classes differ only in the waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self

from runstream.model.errors import InvalidRunId, LeaseHeld, LeaseLost, RunstreamError, StoreUnavailable
from runstream.model.identifiers import snapshot_lane
from runstream.model.results import Appended, E, LeaseGrant, S

if TYPE_CHECKING:
    from runstream.model.protocols import AsyncRunStore, RunStore

__all__ = ["AsyncLease", "Lease"]

_LONGEST_POLL_SECONDS = 0.05
_RENEWALS_PER_TTL = 3
_ATTEMPTS_PER_RENEWAL = 4  # while the store cannot be reached


def _pause_for(held: LeaseHeld, deadline: float) -> float:
    """Seconds until a lease that is held is asked for again. Raises LeaseHeld when the deadline has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise held
    return min(left, held.expires_in, _LONGEST_POLL_SECONDS)


class _Tenure:
    """What a holder knows of its lease without asking: it never takes it for longer than the store does."""

    def __init__(self, grant: LeaseGrant, asked_at: float) -> None:
        self.grant = grant
        self._until = asked_at + grant.ttl_seconds
        self._is_over = False
        self._process = os.getpid()

    @property
    def run_id(self) -> str:
        """The run."""
        return self.grant.run_id

    @property
    def lane_id(self) -> str | None:
        """The lane, or None for the whole run."""
        return self.grant.lane_id

    @property
    def owner(self) -> str:
        """Who holds it."""
        return self.grant.owner

    @property
    def epoch(self) -> int:
        """A number that only rises from one lease of a run to the next: a fencing token for other systems."""
        return self.grant.epoch

    @property
    def lost(self) -> bool:
        """Whether it is known to have passed on, been given back, or run out. False is no proof: ask ``check``."""
        return self._is_over or time.monotonic() >= self._until

    @contextlib.contextmanager
    def noting_loss(self) -> Iterator[None]:
        """What is done with the lease: LeaseLost ends it, and a fork has none."""
        if self._forked():
            raise LeaseLost(
                f"the lease of {self.owner!r} on run {self.run_id!r} is the parent process's; nothing was written:"
                " a forked process takes one of its own"
            )
        try:
            yield
        except LeaseLost:
            self._is_over = True
            raise

    @contextlib.contextmanager
    def _renewing(self) -> Iterator[None]:
        """One renewal, counted from before it was asked for."""
        asked_at = time.monotonic()
        if self._is_over:
            raise LeaseLost(
                f"the lease of {self.owner!r} on run {self.run_id!r} was given back or is known to be lost: take a"
                " new one"
            )
        with self.noting_loss():
            yield
        self._until = max(self._until, asked_at + self.grant.ttl_seconds)

    @contextlib.contextmanager
    def _not_hiding(self, error: BaseException | None) -> Iterator[None]:
        """What fails here while an error is in flight is noted on that one."""
        try:
            yield
        except RunstreamError as failure:
            if error is None:
                raise
            error.add_note(f"runstream: the lease could not be given back: {failure}")

    def _pause(self, *, failed: bool) -> float:
        """Seconds until the next renewal; sooner after one that the store did not answer."""
        pause = self.grant.ttl_seconds / _RENEWALS_PER_TTL
        return pause / _ATTEMPTS_PER_RENEWAL if failed else pause

    def _check_run(self, run_id: Any) -> None:
        if run_id != self.run_id:
            raise InvalidRunId(
                f"this lease is on run {self.run_id!r:.80}, not on {run_id!r:.80}: write that through its store"
            )

    def _forked(self) -> bool:
        return os.getpid() != self._process


class Lease(_Tenure, Generic[E, S]):
    """The sole right to write one lane of a run, or the whole run; from a store's ``lease``.

    A context manager that gives the lease back at the end. A thread renews it three times in its ttl,
    for as long as this object lives. It is a Checkpointer: what is written through it is applied only if
    it is still the newest lease, and raises LeaseLost otherwise. Snapshots are the lane's own, but for the
    main lane and for a lease on the whole run, where they are the run's. (The run's own snapshot is no lane's:
    a lease on the main lane keeps nobody from replacing it; one on the whole run does.) In a forked process
    it is not renewed, and not given back.
    """

    def __init__(
        self,
        store: RunStore[E, S],
        grant: LeaseGrant,
        asked_at: float,
        *,
        renew: Callable[[LeaseGrant], None],
        release: Callable[[LeaseGrant], None],
    ) -> None:
        super().__init__(grant, asked_at)
        self._store = store
        self._renew = renew
        self._release = release
        self._ended = threading.Event()
        keeper = threading.Thread(
            target=_keep, args=(weakref.ref(self), self._ended, self._pause(failed=False)), daemon=True
        )
        keeper.start()

    @classmethod
    def taken(
        cls,
        store: RunStore[E, S],
        take: Callable[[], LeaseGrant],
        wait: float,
        *,
        renew: Callable[[LeaseGrant], None],
        release: Callable[[LeaseGrant], None],
    ) -> Lease[E, S]:
        """The lease that ``take`` gives, asked for again for ``wait`` seconds while it raises LeaseHeld."""
        deadline = time.monotonic() + wait
        while True:
            asked_at = time.monotonic()
            try:
                return cls(store, take(), asked_at, renew=renew, release=release)
            except LeaseHeld as held:
                time.sleep(_pause_for(held, deadline))

    def over(self, store: RunStore[E, S]) -> Self:
        """The same lease, which writes and reads through another view of its store."""
        self._store = store
        return self

    def check(self) -> None:
        """Ask the store, and renew the lease. Raises LeaseLost, or StoreUnavailable where there is no answer."""
        with self._renewing():
            self._renew(self.grant)

    def release(self) -> None:
        """Give the lease back. Twice is fine; where the store cannot be reached, it runs out by itself."""
        self._ended.set()
        if not self._is_over and not self._forked():
            self._is_over = True
            with contextlib.suppress(StoreUnavailable):
                self._release(self.grant)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._not_hiding(error):
            self.release()

    def save_event(self, event: E) -> None:
        """Append one event to the run. Raises what the store's ``append`` raises."""
        self.save_events((event,))

    def save_events(self, events: Iterable[E]) -> None:
        """Append events to the run, in one atomic step."""
        self.append(self.run_id, events)

    def append(
        self,
        run_id: str,
        events: Iterable[E],
        *,
        expected_offset: int | None = None,
        keys: Sequence[str | None] | None = None,
        snapshot: S | None = None,
    ) -> Appended:
        """The store's ``append`` to the run, with this lease and for its lane."""
        self._check_run(run_id)
        with self.noting_loss():
            return self._store.append(
                run_id,
                events,
                expected_offset=expected_offset,
                keys=keys,
                lease=self,
                snapshot=snapshot,
                lane_id=snapshot_lane(self.lane_id),
            )

    def save_snapshot(self, run_id: str, state: S) -> None:
        """Replace the snapshot of the lane or run, whoever saved the one before."""
        self._check_run(run_id)
        with self.noting_loss():
            self._store.save_snapshot(run_id, state, lane_id=snapshot_lane(self.lane_id), lease=self)

    def load_latest(self, run_id: str) -> S | None:
        """The state of the latest snapshot of the lane or run, or None."""
        self._check_run(run_id)
        snapshot = self._store.load_snapshot(run_id, lane_id=snapshot_lane(self.lane_id))
        return None if snapshot is None else snapshot.state

    def list_events(self, run_id: str, since_seq: int = 0) -> list[E]:
        """The run's events, as the store's ``list_events`` gives them."""
        self._check_run(run_id)
        return self._store.list_events(run_id, since_seq)


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


class AsyncLease(_Tenure, Generic[E, S]):
    """:class:`Lease`, awaited, and renewed by a task; from an async store's ``lease``."""

    def __init__(
        self,
        store: AsyncRunStore[E, S],
        grant: LeaseGrant,
        asked_at: float,
        *,
        renew: Callable[[LeaseGrant], Awaitable[None]],
        release: Callable[[LeaseGrant], Awaitable[None]],
    ) -> None:
        super().__init__(grant, asked_at)
        self._store = store
        self._renew = renew
        self._release = release
        self._keeper = asyncio.create_task(_keep_async(weakref.ref(self), self._pause(failed=False)))

    @classmethod
    async def taken(
        cls,
        store: AsyncRunStore[E, S],
        take: Callable[[], Awaitable[LeaseGrant]],
        wait: float,
        *,
        renew: Callable[[LeaseGrant], Awaitable[None]],
        release: Callable[[LeaseGrant], Awaitable[None]],
    ) -> AsyncLease[E, S]:
        """The lease that ``take`` gives, asked for again for ``wait`` seconds while it raises LeaseHeld."""
        deadline = time.monotonic() + wait
        while True:
            asked_at = time.monotonic()
            try:
                return cls(store, await take(), asked_at, renew=renew, release=release)
            except LeaseHeld as held:
                await asyncio.sleep(_pause_for(held, deadline))

    def over(self, store: AsyncRunStore[E, S]) -> Self:
        """The same lease, which writes and reads through another view of its store."""
        self._store = store
        return self

    async def check(self) -> None:
        """Ask the store, and renew the lease. Raises LeaseLost, or StoreUnavailable where there is no answer."""
        with self._renewing():
            await self._renew(self.grant)

    async def release(self) -> None:
        """Give the lease back. Twice is fine; where the store cannot be reached, it runs out by itself."""
        self._keeper.cancel()
        if not self._is_over and not self._forked():
            self._is_over = True
            with contextlib.suppress(StoreUnavailable):
                await self._release(self.grant)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._not_hiding(error):
            await self.release()

    async def save_event(self, event: E) -> None:
        """Append one event to the run. Raises what the store's ``append`` raises."""
        await self.save_events((event,))

    async def save_events(self, events: Iterable[E]) -> None:
        """Append events to the run, in one atomic step."""
        await self.append(self.run_id, events)

    async def append(
        self,
        run_id: str,
        events: Iterable[E],
        *,
        expected_offset: int | None = None,
        keys: Sequence[str | None] | None = None,
        snapshot: S | None = None,
    ) -> Appended:
        """The store's ``append`` to the run, with this lease and for its lane."""
        self._check_run(run_id)
        with self.noting_loss():
            return await self._store.append(
                run_id,
                events,
                expected_offset=expected_offset,
                keys=keys,
                lease=self,
                snapshot=snapshot,
                lane_id=snapshot_lane(self.lane_id),
            )

    async def save_snapshot(self, run_id: str, state: S) -> None:
        """Replace the snapshot of the lane or run, whoever saved the one before."""
        self._check_run(run_id)
        with self.noting_loss():
            await self._store.save_snapshot(run_id, state, lane_id=snapshot_lane(self.lane_id), lease=self)

    async def load_latest(self, run_id: str) -> S | None:
        """The state of the latest snapshot of the lane or run, or None."""
        self._check_run(run_id)
        snapshot = await self._store.load_snapshot(run_id, lane_id=snapshot_lane(self.lane_id))
        return None if snapshot is None else snapshot.state

    async def list_events(self, run_id: str, since_seq: int = 0) -> list[E]:
        """The run's events, as the store's ``list_events`` gives them."""
        self._check_run(run_id)
        return await self._store.list_events(run_id, since_seq)


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
