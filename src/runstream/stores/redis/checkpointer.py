"""The Redis store as a user sees it, sync and async: each method names the operation that it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from runstream.codec.fallback import plain_data
from runstream.codec.shapes import DEFAULT_MAX_EVENT_BYTES, Codec
from runstream.model.errors import ConfigurationError
from runstream.model.events import EventKind, Visibility
from runstream.model.protocols import Fallback, OnCorrupt
from runstream.model.values import Appended, E, Recorded, Recovery, RunInfo, S, Snapshot
from runstream.stores.lifecycle import AsyncLifecycle, Lifecycle
from runstream.stores.redis.context import Context
from runstream.stores.redis.drivers import AsyncDriver, SyncDriver
from runstream.stores.redis.exchange import Operation, Stream
from runstream.stores.redis.operations import appending, opening, reading, runs, snapshots

if TYPE_CHECKING:
    import redis
    import redis.asyncio

__all__ = ["AsyncRedisCheckpointer", "RedisCheckpointer"]

T = TypeVar("T")

DEFAULT_RETRY_SECONDS = 5.0


def _context(
    driver: SyncDriver | AsyncDriver,
    codec: Codec[E, S],
    namespace: str,
    partitions: int | None,
    durability: str,
) -> Context[E, S]:
    if durability != "primary":
        raise ConfigurationError(f"durability={durability!r}: this version gives 'primary' and nothing else")
    return Context(codec, namespace, partitions, max_block_seconds=driver.max_block_seconds)


class RedisCheckpointer(Lifecycle, Generic[E, S]):
    """Runs in Redis, shared by any number of processes.

    ``client`` is a :class:`redis.Redis` without ``decode_responses``; it is never closed or
    reconfigured. ``namespace`` separates what shares a server. ``partitions`` is fixed when a
    namespace is created (16 unless given); None takes what it has. ``event_type`` and ``state_type``
    are what reads give, ``fallback`` what becomes of values that cannot be stored as they are
    (None: an error), ``max_event_bytes`` the largest encoded event. A call that finds no server, or one
    that fails over, is repeated for ``retry_seconds``, with pauses that grow, before it raises
    StoreUnavailable; then too it may be repeated by the caller: an append is applied once.

    Threads may share one object. The methods are those of
    :class:`~runstream.model.protocols.RunStore`.

    Raises ConfigurationError for a server or namespace that does not fit, StoreUnavailable for one
    that cannot be reached.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        namespace: str = "runstream",
        partitions: int | None = None,
        durability: str = "primary",
        event_type: type[E] | None = None,
        state_type: type[S] | None = None,
        fallback: Fallback | None = plain_data,
        max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES,
        retry_seconds: float = DEFAULT_RETRY_SECONDS,
    ) -> None:
        self._driver = SyncDriver(client, retry_seconds)
        codec: Codec[E, S] = Codec(event_type, state_type, fallback, max_event_bytes)
        self.context: Context[E, S] = _context(self._driver, codec, namespace, partitions, durability)
        self._driver.run(opening.open_namespace(self.context), once=True)

    def after_fork(self, rejoin: Callable[[], None]) -> None:
        """Say what a forked process has to do before it uses this store."""
        self._driver.after_fork = rejoin

    def perform(self, operation: Operation[T]) -> T:
        """Run one operation; what the drain worker does to Redis goes through here too."""
        return self._driver.run(operation)

    def save_event(self, event: E) -> None:
        """Append one event to its run. It is kept when this returns."""
        self.perform(appending.save_event(self.context, event))

    def save_events(self, events: Iterable[E]) -> None:
        """Append events to their runs, each run's in one atomic step, all in one round trip."""
        self.perform(appending.save_events(self.context, events))

    def append(
        self,
        run_id: str,
        events: Iterable[E],
        *,
        expected_offset: int | None = None,
        snapshot: S | None = None,
        lane_id: str | None = None,
    ) -> Appended:
        """Append events to a run, with a snapshot if there is one, in one atomic step."""
        return self.perform(
            appending.append(
                self.context,
                run_id,
                events,
                expected_offset=expected_offset,
                snapshot=snapshot,
                lane_id=lane_id,
            )
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
    ) -> Iterator[Recorded[E]]:
        """The events with ``after < offset < before``; raises EventsArchived for those that have moved."""
        return self._driver.iterate(
            reading.read(
                self.context,
                run_id,
                after,
                before=before,
                limit=limit,
                reverse=reverse,
                on_corrupt=on_corrupt,
            )
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
    ) -> Iterator[Recorded[E]]:
        """History, then live, until the run has ended; TimeoutError after ``idle_timeout`` seconds."""
        return self._driver.iterate(
            reading.follow(
                self.context,
                run_id,
                after,
                idle_timeout=idle_timeout,
                lane_id=lane_id,
                kinds=kinds,
                visibility=visibility,
            )
        )

    def list_events(self, run_id: str, since_seq: int = 0) -> list[E]:
        """The events with ``seq > since_seq`` in log order; all of them for ``since_seq <= 0``."""
        return self.perform(reading.list_events(self.context, run_id, since_seq))

    def save_snapshot(self, run_id: str, state: S, *, lane_id: str | None = None) -> None:
        """Replace the snapshot of the run, or of one lane of it."""
        self.perform(appending.save_snapshot(self.context, run_id, state, lane_id=lane_id))

    def update_state(self, run_id: str, change: Callable[[S], S | None], *, attempts: int = 10) -> S:
        """Load the run's state, change it, and save it unless another was saved in between; then again.

        ``change`` gets the state, a new one for a run that has none, and returns what is to be saved, or
        None if it has changed the state itself; it may be called several times. Gives the state that was
        saved. Raises ConcurrencyConflict after so many attempts.
        """
        return self.perform(appending.update_state(self.context, run_id, change, attempts=attempts))

    def load_latest(self, run_id: str) -> S | None:
        """The state of the run's latest snapshot, or None."""
        snapshot = self.load_snapshot(run_id)
        return None if snapshot is None else snapshot.state

    def load_snapshot(self, run_id: str, *, lane_id: str | None = None) -> Snapshot[S] | None:
        """The latest snapshot of the run, or of one lane of it."""
        return self.perform(snapshots.load_snapshot(self.context, run_id, lane_id=lane_id))

    def recover(self, run_id: str, *, lane_id: str | None = None) -> Recovery[S, E]:
        """The latest snapshot and the events after it, of the run or of one lane."""
        return self.perform(reading.recover(self.context, run_id, lane_id=lane_id))

    def run_info(self, run_id: str) -> RunInfo | None:
        """What is known of a run, or None."""
        return self.perform(runs.run_info(self.context, run_id))

    def runs(
        self,
        *,
        session_id: str | None = None,
        status: str | None = None,
        updated_after: float | None = None,
        limit: int | None = None,
    ) -> Iterator[RunInfo]:
        """The runs that match, the most recently updated first."""
        return self._driver.iterate(
            runs.runs(self.context, session_id=session_id, status=status, updated_after=updated_after, limit=limit)
        )

    def list_runs(self) -> list[str]:
        """The ids of all runs, the most recently updated first."""
        return self.perform(runs.list_runs(self.context))

    def delete_run(self, run_id: str) -> bool:
        """Remove all that Redis holds of a run; False if there was nothing."""
        return self.perform(runs.delete_run(self.context, run_id))

    def forget(self, run_id: str) -> None:
        """Take a run's present as it is: the way on after AcknowledgedWritesLost or HistoryDiverged.

        What this store object saw of the run is forgotten; what it knows to be lost is not brought back.
        """
        self.context.forget(run_id)


class AsyncRedisCheckpointer(AsyncLifecycle, Generic[E, S]):
    """:class:`RedisCheckpointer` over a :class:`redis.asyncio.Redis`: the same methods, awaited.

    The server is checked at the first call, or by ``async with``, and raises there what the sync store
    raises when it is made.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        *,
        namespace: str = "runstream",
        partitions: int | None = None,
        durability: str = "primary",
        event_type: type[E] | None = None,
        state_type: type[S] | None = None,
        fallback: Fallback | None = plain_data,
        max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES,
        retry_seconds: float = DEFAULT_RETRY_SECONDS,
    ) -> None:
        self._driver = AsyncDriver(client, retry_seconds)
        codec: Codec[E, S] = Codec(event_type, state_type, fallback, max_event_bytes)
        self.context: Context[E, S] = _context(self._driver, codec, namespace, partitions, durability)
        self._opening = asyncio.Lock()

    async def open(self) -> Self:
        """Check the server and the namespace, once."""
        async with self._opening:
            if self.context.opened is None:
                await self._driver.run(opening.open_namespace(self.context), once=True)
        return self

    async def __aenter__(self) -> Self:
        return await self.open()

    async def perform(self, operation: Operation[T]) -> T:
        """Run one operation."""
        if self.context.opened is None:
            await self.open()
        return await self._driver.run(operation)

    async def _iterate(self, stream: Stream) -> AsyncIterator[Any]:
        if self.context.opened is None:
            await self.open()
        async for item in self._driver.iterate(stream):
            yield item

    async def save_event(self, event: E) -> None:
        """Append one event to its run. It is kept when this returns."""
        await self.perform(appending.save_event(self.context, event))

    async def save_events(self, events: Iterable[E]) -> None:
        """Append events to their runs, each run's in one atomic step, all in one round trip."""
        await self.perform(appending.save_events(self.context, events))

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
        return await self.perform(
            appending.append(
                self.context,
                run_id,
                events,
                expected_offset=expected_offset,
                snapshot=snapshot,
                lane_id=lane_id,
            )
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
        """The events with ``after < offset < before``; raises EventsArchived for those that have moved."""
        return self._iterate(
            reading.read(
                self.context,
                run_id,
                after,
                before=before,
                limit=limit,
                reverse=reverse,
                on_corrupt=on_corrupt,
            )
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
        """History, then live, until the run has ended; TimeoutError after ``idle_timeout`` seconds."""
        return self._iterate(
            reading.follow(
                self.context,
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
        return await self.perform(reading.list_events(self.context, run_id, since_seq))

    async def save_snapshot(self, run_id: str, state: S, *, lane_id: str | None = None) -> None:
        """Replace the snapshot of the run, or of one lane of it."""
        await self.perform(appending.save_snapshot(self.context, run_id, state, lane_id=lane_id))

    async def update_state(self, run_id: str, change: Callable[[S], S | None], *, attempts: int = 10) -> S:
        """Load the run's state, change it, and save it unless another was saved in between; then again.

        ``change`` gets the state, a new one for a run that has none, and returns what is to be saved, or
        None if it has changed the state itself; it may be called several times. Gives the state that was
        saved. Raises ConcurrencyConflict after so many attempts.
        """
        return await self.perform(appending.update_state(self.context, run_id, change, attempts=attempts))

    async def load_latest(self, run_id: str) -> S | None:
        """The state of the run's latest snapshot, or None."""
        snapshot = await self.load_snapshot(run_id)
        return None if snapshot is None else snapshot.state

    async def load_snapshot(self, run_id: str, *, lane_id: str | None = None) -> Snapshot[S] | None:
        """The latest snapshot of the run, or of one lane of it."""
        return await self.perform(snapshots.load_snapshot(self.context, run_id, lane_id=lane_id))

    async def recover(self, run_id: str, *, lane_id: str | None = None) -> Recovery[S, E]:
        """The latest snapshot and the events after it, of the run or of one lane."""
        return await self.perform(reading.recover(self.context, run_id, lane_id=lane_id))

    async def run_info(self, run_id: str) -> RunInfo | None:
        """What is known of a run, or None."""
        return await self.perform(runs.run_info(self.context, run_id))

    def runs(
        self,
        *,
        session_id: str | None = None,
        status: str | None = None,
        updated_after: float | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[RunInfo]:
        """The runs that match, the most recently updated first."""
        return self._iterate(
            runs.runs(self.context, session_id=session_id, status=status, updated_after=updated_after, limit=limit)
        )

    async def list_runs(self) -> list[str]:
        """The ids of all runs, the most recently updated first."""
        return await self.perform(runs.list_runs(self.context))

    async def delete_run(self, run_id: str) -> bool:
        """Remove all that Redis holds of a run; False if there was nothing."""
        return await self.perform(runs.delete_run(self.context, run_id))

    async def forget(self, run_id: str) -> None:
        """Take a run's present as it is: the way on after AcknowledgedWritesLost or HistoryDiverged.

        What this store object saw of the run is forgotten; what it knows to be lost is not brought back.
        """
        self.context.forget(run_id)
