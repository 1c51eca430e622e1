"""A local store behind ``await``: each call runs in a thread, so that the event loop goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from itertools import islice
from typing import Any, Generic

from runstream.model.events import EventKind, Visibility
from runstream.model.protocols import OnCorrupt, RunStore
from runstream.model.values import Appended, E, Recorded, Recovery, RunInfo, S, Snapshot
from runstream.stores.lifecycle import AsyncLifecycle

__all__ = ["ThreadedStore"]

_PAGE = 500


class ThreadedStore(AsyncLifecycle, Generic[E, S]):
    """The methods of a :class:`~runstream.model.protocols.RunStore`, awaited. Closing it closes the store."""

    def __init__(self, store: RunStore[E, S]) -> None:
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
        snapshot: S | None = None,
        lane_id: str | None = None,
    ) -> Appended:
        """Append events to a run, with a snapshot if there is one, in one atomic step."""
        return await asyncio.to_thread(
            self._store.append,
            run_id,
            events,
            expected_offset=expected_offset,
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
        return _in_pages(
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
        return _in_pages(
            lambda: self._store.follow(
                run_id, after, idle_timeout=idle_timeout, lane_id=lane_id, kinds=kinds, visibility=visibility
            ),
            1,
        )

    async def list_events(self, run_id: str, since_seq: int = 0) -> list[E]:
        """The events with ``seq > since_seq`` in log order; all of them for ``since_seq <= 0``."""
        return await asyncio.to_thread(self._store.list_events, run_id, since_seq)

    async def save_snapshot(self, run_id: str, state: S, *, lane_id: str | None = None) -> None:
        """Replace the snapshot of the run, or of one lane of it."""
        await asyncio.to_thread(self._store.save_snapshot, run_id, state, lane_id=lane_id)

    async def load_latest(self, run_id: str) -> S | None:
        """The state of the run's latest snapshot, or None."""
        return await asyncio.to_thread(self._store.load_latest, run_id)

    async def load_snapshot(self, run_id: str, *, lane_id: str | None = None) -> Snapshot[S] | None:
        """The latest snapshot of the run, or of one lane of it."""
        return await asyncio.to_thread(self._store.load_snapshot, run_id, lane_id=lane_id)

    async def update_state(self, run_id: str, change: Callable[[S], S | None], *, attempts: int = 10) -> S:
        """Load the run's state, change it, and save it unless another was saved in between; then again."""
        return await asyncio.to_thread(self._store.update_state, run_id, change, attempts=attempts)

    async def recover(self, run_id: str, *, lane_id: str | None = None) -> Recovery[S, E]:
        """The latest snapshot and the events after it, of the run or of one lane."""
        return await asyncio.to_thread(self._store.recover, run_id, lane_id=lane_id)

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
        return _in_pages(
            lambda: self._store.runs(
                session_id=session_id, status=status, updated_after=updated_after, limit=limit
            ),
            _PAGE,
        )

    async def list_runs(self) -> list[str]:
        """The ids of all runs, the most recently updated first."""
        return await asyncio.to_thread(self._store.list_runs)

    async def delete_run(self, run_id: str) -> bool:
        """Remove all that the store holds of a run; False if there was nothing."""
        return await asyncio.to_thread(self._store.delete_run, run_id)


async def _in_pages(begin: Any, size: int) -> AsyncIterator[Any]:
    """The items of an iterator that is begun and advanced in threads, ``size`` of them at a time."""
    iterator: Iterator[Any] = await asyncio.to_thread(begin)
    while page := await asyncio.to_thread(lambda: list(islice(iterator, size))):
        for item in page:
            yield item
