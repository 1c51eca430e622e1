"""The tiered store for asyncio: line for line the sync one, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from typing import Any, Generic

from runstream.codec.event_codec import Codec
from runstream.model.archive_records import Position
from runstream.model.awaitable import Opening
from runstream.model.events import EventKind, Visibility
from runstream.model.protocols import Leased, OnCorrupt
from runstream.model.results import (
    Appended,
    Cursor,
    DeltaBuffer,
    E,
    Placement,
    Recorded,
    Recovery,
    RunInfo,
    S,
    Snapshot,
)
from runstream.operations.filters import seq_of
from runstream.run import AsyncRun
from runstream.run.lease import AsyncLease
from runstream.run.steps import await_calls
from runstream.stores.archive.base import ArchiveStore
from runstream.stores.lifecycle import AsyncLifecycle
from runstream.stores.redis.async_checkpointer import AsyncRedisCheckpointer
from runstream.stores.threaded import ThreadedStore, in_pages
from runstream.stores.tiered.operations import View
from runstream.stores.tiered.pouring import pour_async

__all__ = ["AsyncTieredCheckpointer"]


class _ThreadedArchive(ThreadedStore[E, S]):
    """An archive whose calls run in threads, with what the view needs of it beyond a store's methods."""

    _store: ArchiveStore[E, S]

    async def position(self, run_id: str) -> Position | None:
        """How far the archive has a run; None for one that it does not know."""
        return await asyncio.to_thread(self._store.position, run_id)

    async def snapshot_at(self, run_id: str, offset: int, *, lane_id: str | None = None) -> Snapshot[S] | None:
        """The snapshot that covers most of what lies up to this offset."""
        return await asyncio.to_thread(self._store.snapshot_at, run_id, offset, lane_id=lane_id)

    def snapshot_history(self, run_id: str, *, lane_id: str | None = None) -> AsyncIterator[Snapshot[S]]:
        """The snapshots that are kept."""
        return in_pages(lambda: self._store.snapshot_history(run_id, lane_id=lane_id), 1)

    async def snapshot_lanes(self, run_id: str) -> list[str | None]:
        """The lanes of which snapshots are kept."""
        return await asyncio.to_thread(self._store.snapshot_lanes, run_id)

    async def delete_history(self, run_id: str, start: Cursor | None) -> bool:
        """Remove a run, and take nothing of that history any more."""
        return await asyncio.to_thread(self._store.delete_history, run_id, start)


async def _collected(stream: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in stream]


class AsyncTieredCheckpointer(AsyncLifecycle, Generic[E, S]):
    """:class:`~runstream.stores.tiered.TieredCheckpointer`, awaited. The archive's calls run in threads."""

    def __init__(self, hot: AsyncRedisCheckpointer[E, S], archive: ArchiveStore[E, S]) -> None:
        self._hot = hot
        self._archive = archive
        self._view: View[E, S] = View(hot, _ThreadedArchive(archive), _collected, pour_async)

    async def open(self) -> None:
        """Check server and namespace; every other call does so too."""
        await self._hot.open()

    @property
    def codec(self) -> Codec[E, S]:
        """How events and states are encoded."""
        return self._hot.codec

    # -- written to Redis ------------------------------------------------------------------------------

    async def save_event(self, event: E) -> None:
        """Append one event to its run. It is kept when this returns."""
        await self._hot.save_event(event)

    async def save_events(self, events: Iterable[E]) -> None:
        """Append events to their runs, each run's in one atomic step, all in one round trip."""
        await self._hot.save_events(events)

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
        """Append events to a run, with a snapshot if there is one, in one atomic step; nothing of it, or all."""
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
        steps = self._view.append_each(
            run_id,
            events,
            expected_offset=expected_offset,
            keys=keys,
            lease=lease,
            snapshot=snapshot,
            lane_id=lane_id,
        )
        return await await_calls(steps)

    async def save_snapshot(
        self, run_id: str, state: S, *, lane_id: str | None = None, lease: Leased | None = None
    ) -> None:
        """Replace the snapshot of the run, or of one lane of it, whoever saved the one before."""
        await self._hot.save_snapshot(run_id, state, lane_id=lane_id, lease=lease)

    async def update_state(
        self,
        run_id: str,
        change: Callable[[S], S | None],
        *,
        attempts: int = 10,
        lease: Leased | None = None,
    ) -> S:
        """Load the run's state, change it, and save it unless another was saved in between; then again."""
        return await await_calls(self._view.update_state(run_id, change, attempts=attempts, lease=lease))

    def lease(
        self,
        run_id: str,
        *,
        owner: str,
        lane_id: str | None = None,
        ttl: float = 30.0,
        wait: float = 0.0,
    ) -> Opening[AsyncLease[E, S]]:
        """Take the sole right to write one lane of a run, or, without ``lane_id``, the whole run."""

        async def take() -> AsyncLease[E, S]:
            return (await self._hot.lease(run_id, owner=owner, lane_id=lane_id, ttl=ttl, wait=wait)).over(self)

        return Opening(take)

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
        """Recover one lane of a run, wherever it lies, and go on with it: the handle that an agent works with."""
        return Opening(
            lambda: AsyncRun.open(
                AsyncTieredCheckpointer(self._hot.for_one_writer(), self._archive),
                run_id,
                lane_id=lane_id,
                session_id=session_id,
                lease_ttl=lease_ttl,
                owner=owner,
                wait=wait,
                deltas=deltas,
            )
        )

    async def forget(self, run_id: str) -> None:
        """Take what Redis has of a run as it is: the way on after AcknowledgedWritesLost or HistoryDiverged."""
        await self._hot.forget(run_id)

    # -- read from both --------------------------------------------------------------------------------

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
        """The events with ``after < offset < before``, as they stand when the first of them is taken."""
        return pour_async(
            self._view.read(run_id, after, before=before, limit=limit, reverse=reverse, on_corrupt=on_corrupt)
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
        """History, then live; ends when the run has ended and all was given."""
        return pour_async(
            self._view.follow(
                run_id,
                after,
                idle_timeout=idle_timeout,
                lane_id=lane_id,
                kinds=kinds,
                visibility=visibility,
            )
        )

    async def list_events(self, run_id: str, since_seq: int = 0) -> list[E]:
        """The events with ``seq > since_seq`` in log order; all of them for ``since_seq <= 0``."""
        events = [item.event async for item in self.read(run_id)]
        return events if since_seq <= 0 else [event for event in events if seq_of(event) > since_seq]

    async def load_latest(self, run_id: str) -> S | None:
        """The state of the run's latest snapshot, or None."""
        snapshot = await self.load_snapshot(run_id)
        return None if snapshot is None else snapshot.state

    async def load_snapshot(self, run_id: str, *, lane_id: str | None = None) -> Snapshot[S] | None:
        """The latest snapshot of the run, or of one lane of it, or None."""
        return await await_calls(self._view.load_snapshot(run_id, lane_id))

    async def snapshot_at(self, run_id: str, offset: int, *, lane_id: str | None = None) -> Snapshot[S] | None:
        """The snapshot of the run, or of one lane of it, that covers most of what lies up to this offset."""
        return await await_calls(self._view.snapshot_at(run_id, offset, lane_id))

    async def snapshot_history(self, run_id: str, *, lane_id: str | None = None) -> AsyncIterator[Snapshot[S]]:
        """The snapshots that the archive has seen of the run or a lane, in order, and then the latest one."""
        last = None
        async for last in self._view.archive.snapshot_history(run_id, lane_id=lane_id):
            yield last
        latest = await await_calls(self._view.unseen_snapshot(run_id, lane_id, last))
        if latest is not None:
            yield latest

    async def snapshot_lanes(self, run_id: str) -> list[str | None]:
        """The lanes of which there are snapshots, with None first where there are some of the run's own."""
        return await await_calls(self._view.snapshot_lanes(run_id))

    async def recover(self, run_id: str, *, lane_id: str | None = None) -> Recovery[S, E]:
        """The latest snapshot and the events after it, of the run or of one lane."""
        return await await_calls(self._view.recover(run_id, lane_id))

    async def last_seq(self, run_id: str, lane_id: str) -> int:
        """The ``seq`` of the lane's last event, wherever that lies by now; 0 for a lane that has none."""
        return await await_calls(self._view.last_seq(run_id, lane_id))

    async def run_info(self, run_id: str) -> RunInfo | None:
        """What is known of a run, or None. ``first_hot`` is where Redis begins."""
        return await await_calls(self._view.run_info(run_id))

    async def runs(
        self,
        *,
        session_id: str | None = None,
        status: str | None = None,
        updated_after: float | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[RunInfo]:
        """The runs that match, the most recently updated first."""
        wanted: dict[str, Any] = {"session_id": session_id, "status": status, "updated_after": updated_after}
        for info in await await_calls(self._view.runs(**wanted, limit=limit)):
            yield info

    async def list_runs(self) -> list[str]:
        """The ids of all runs, the most recently updated first."""
        return [info.run_id async for info in self.runs()]

    async def delete_run(self, run_id: str) -> bool:
        """Remove a run from both; False if neither had it. A drain in flight does not bring it back.

        Raises LeaseHeld while a lease of it is in force.
        """
        return await await_calls(self._view.delete_run(run_id))
