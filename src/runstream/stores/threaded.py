"""A local store behind ``await``: each call runs in a thread, so that the event loop goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Generic

from runstream.codec.event_codec import Codec
from runstream.model.awaitable import Opening
from runstream.model.events import EventKind, Visibility
from runstream.model.protocols import Leased, OnCorrupt
from runstream.model.results import (
    Appended,
    DeltaBuffer,
    E,
    Placement,
    Recorded,
    Recovery,
    RunInfo,
    S,
    Snapshot,
)
from runstream.operations.filters import check_lease
from runstream.run import AsyncRun
from runstream.run.lease import AsyncLease
from runstream.stores.lifecycle import AsyncLifecycle
from runstream.stores.local.operations import LocalStore

__all__ = ["ThreadedStore", "in_pages"]

_PAGE = 500


class ThreadedStore(AsyncLifecycle, Generic[E, S]):
    """The methods of a :class:`~runstream.model.protocols.RunStore`, awaited. Closing it closes the store."""

    def __init__(self, store: LocalStore[E, S]) -> None:
        self._store = store
        self.owns(self._close_store)

    async def _close_store(self) -> None:
        await asyncio.to_thread(self._store.close)

    async def save_event(self, event: E) -> None:
        """Append one event to its run. It is kept when this returns."""
        await asyncio.to_thread(self._store.save_event, event)

    async def save_events(self, events: Iterable[E]) -> None:
        """Append events to their runs, each run's in one atomic step, in order."""
        await asyncio.to_thread(self._store.save_events, events)

    async def append(
        self,
        run_id: str,
        events: Iterable[E],
        *,
        expected_offset: int | None = None,
        keys: Sequence[str | None] | None = None,
        lease: Leased | None = None,
        snapshot: S | None = None,
        lane_id: str | None = None,
    ) -> Appended:
        """Append events to a run, with a snapshot if there is one, in one atomic step; nothing of it, or all.

        See :meth:`~runstream.stores.local.operations.LocalStore.append`.
        """
        placement = await self.append_each(
            run_id,
            events,
            expected_offset=expected_offset,
            keys=keys,
            lease=lease,
            snapshot=snapshot,
            lane_id=lane_id,
        )
        return placement.appended

    async def append_each(
        self,
        run_id: str,
        events: Iterable[E],
        *,
        expected_offset: int | None = None,
        keys: Sequence[str | None] | None = None,
        lease: Leased | None = None,
        snapshot: S | None = None,
        lane_id: str | None = None,
    ) -> Placement:
        """As ``append``, telling where each of the events lies."""
        return await asyncio.to_thread(
            self._store.append_each,
            run_id,
            events,
            expected_offset=expected_offset,
            keys=keys,
            lease=lease,
            snapshot=snapshot,
            lane_id=lane_id,
        )

    def read(
        self,
        run_id: str,
        after: int | str = 0,
        *,
        before: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        on_corrupt: OnCorrupt = "raise",
    ) -> AsyncIterator[Recorded[E]]:
        """The events with ``after < offset < before``."""
        return in_pages(
            lambda: self._store.read(
                run_id, after, before=before, limit=limit, reverse=reverse, on_corrupt=on_corrupt
            ),
            _PAGE,
        )

    def follow(
        self,
        run_id: str,
        after: int | str = 0,
        *,
        idle_timeout: float | None = None,
        lane_id: str | None = None,
        kinds: Collection[EventKind | str] | None = None,
        visibility: Visibility | str | None = None,
    ) -> AsyncIterator[Recorded[E]]:
        """History, then live, until the run has ended; TimeoutError after ``idle_timeout`` seconds.

        A follower that is cancelled while it waits leaves its thread waiting until the next event.
        """
        return in_pages(
            lambda: self._store.follow(
                run_id, after, idle_timeout=idle_timeout, lane_id=lane_id, kinds=kinds, visibility=visibility
            ),
            1,
        )

    async def list_events(self, run_id: str, since_seq: int = 0) -> list[E]:
        """The events with ``seq > since_seq`` in log order; all of them for ``since_seq <= 0``."""
        return await asyncio.to_thread(self._store.list_events, run_id, since_seq)

    async def save_snapshot(
        self, run_id: str, state: S, *, lane_id: str | None = None, lease: Leased | None = None
    ) -> None:
        """Replace the snapshot of the run, or of one lane of it, whoever saved the one before."""
        await asyncio.to_thread(self._store.save_snapshot, run_id, state, lane_id=lane_id, lease=lease)

    async def load_latest(self, run_id: str) -> S | None:
        """The state of the run's latest snapshot, or None."""
        return await asyncio.to_thread(self._store.load_latest, run_id)

    async def load_snapshot(self, run_id: str, *, lane_id: str | None = None) -> Snapshot[S] | None:
        """The latest snapshot of the run, or of one lane of it."""
        return await asyncio.to_thread(self._store.load_snapshot, run_id, lane_id=lane_id)

    async def update_state(
        self,
        run_id: str,
        change: Callable[[S], S | None],
        *,
        attempts: int = 10,
        lease: Leased | None = None,
    ) -> S:
        """Load the run's state, change it, and save it unless another was saved in between; then again."""
        return await asyncio.to_thread(self._store.update_state, run_id, change, attempts=attempts, lease=lease)

    async def recover(self, run_id: str, *, lane_id: str | None = None) -> Recovery[S, E]:
        """The latest snapshot and the events after it, of the run or of one lane."""
        return await asyncio.to_thread(self._store.recover, run_id, lane_id=lane_id)

    def lease(
        self,
        run_id: str,
        *,
        owner: str,
        lane_id: str | None = None,
        ttl: float = 30.0,
        wait: float = 0.0,
    ) -> Opening[AsyncLease[E, S]]:
        """Take the sole right to write one lane of a run, or, without ``lane_id``, the whole run.

        Await it, or enter it with ``async with``, which gives it back at the end. A task renews it; see
        :meth:`~runstream.stores.local.operations.LocalStore.lease`. One that is cancelled while it is asked for
        may have been given out, and runs out then.
        """
        check_lease(owner, lane_id, ttl, wait)
        store = self._store
        return Opening(
            lambda: AsyncLease.taken(
                self,
                lambda: asyncio.to_thread(store.take_lease, run_id, owner=owner, lane_id=lane_id, ttl=ttl),
                wait,
                renew=lambda grant: asyncio.to_thread(store.renew_lease, grant),
                release=lambda grant: asyncio.to_thread(store.release_lease, grant),
            )
        )

    def open_run(
        self,
        run_id: str,
        *,
        lane_id: str = "main",
        session_id: str = "",
        lease_ttl: float | None = None,
        owner: str | None = None,
        wait: float = 0.0,
        deltas: DeltaBuffer | None = None,
    ) -> Opening[AsyncRun[E, S]]:
        """Recover one lane of a run, new or not, and go on with it: await it, or enter it with ``async with``.

        See :class:`~runstream.run.AsyncRun`. With ``lease_ttl`` it holds a lease on the lane, for ``owner``.
        Raises what ``recover`` and ``lease`` raise.
        """
        return Opening(
            lambda: AsyncRun.open(
                type(self)(self._store.for_one_writer()),
                run_id,
                lane_id=lane_id,
                session_id=session_id,
                lease_ttl=lease_ttl,
                owner=owner,
                wait=wait,
                deltas=deltas,
            )
        )

    async def last_seq(self, run_id: str, lane_id: str) -> int:
        """The ``seq`` of the lane's last event; 0 for a lane that has none."""
        return await asyncio.to_thread(self._store.last_seq, run_id, lane_id)

    @property
    def codec(self) -> Codec[E, S]:
        """How the store encodes events and states."""
        return self._store.codec

    async def run_info(self, run_id: str) -> RunInfo | None:
        """What is known of a run, or None."""
        return await asyncio.to_thread(self._store.run_info, run_id)

    def runs(
        self,
        *,
        session_id: str | None = None,
        status: str | None = None,
        updated_after: float | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[RunInfo]:
        """The runs that match, the most recently updated first."""
        return in_pages(
            lambda: self._store.runs(
                session_id=session_id, status=status, updated_after=updated_after, limit=limit
            ),
            _PAGE,
        )

    async def list_runs(self) -> list[str]:
        """The ids of all runs, the most recently updated first."""
        return await asyncio.to_thread(self._store.list_runs)

    async def forget(self, run_id: str) -> None:
        """Know nothing of a run any more."""
        await asyncio.to_thread(self._store.forget, run_id)

    async def delete_run(self, run_id: str) -> bool:
        """Remove all that the store holds of a run; False if there was nothing."""
        return await asyncio.to_thread(self._store.delete_run, run_id)


async def in_pages(begin: Callable[[], Iterator[Any]], size: int) -> AsyncIterator[Any]:
    """The items of an iterator that is begun and advanced in a thread, ``size`` of them at a time.

    The thread is its own: followers wait, and asyncio has only a few for all else.
    """
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(1, thread_name_prefix="runstream-pages")
    try:
        iterator = await loop.run_in_executor(thread, begin)
        while page := await loop.run_in_executor(thread, lambda: list(islice(iterator, size))):
            for item in page:
                yield item
    finally:
        thread.shutdown(wait=False)
