"""The Redis store for asyncio: :mod:`~runstream.stores.redis.checkpointer`, method by method, awaited."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from runstream.codec.event_codec import DEFAULT_MAX_EVENT_BYTES, Codec
from runstream.codec.fallback import plain_data
from runstream.model.awaitable import Opening
from runstream.model.errors import RunstreamError
from runstream.model.events import EventKind, Visibility
from runstream.model.protocols import Fallback, Leased, OnCorrupt
from runstream.model.results import (
    Appended,
    Cursor,
    DeltaBuffer,
    E,
    LeaseGrant,
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
from runstream.stores.redis.connection.driver import AsyncDriver
from runstream.stores.redis.exchange import Operation, Stream
from runstream.stores.redis.operations.client import append, leases, open_namespace, read, runs, snapshots
from runstream.stores.redis.session.session import DEFAULT_RETRY_SECONDS, Context

if TYPE_CHECKING:
    import redis.asyncio

__all__ = ["AsyncRedisCheckpointer"]

T = TypeVar("T")


class AsyncRedisCheckpointer(AsyncLifecycle, Generic[E, S]):
    """Runs in Redis, over a :class:`redis.asyncio.Redis`: the sync store's methods and options, awaited.

    See :class:`~runstream.stores.redis.checkpointer.RedisCheckpointer` for what the options mean.
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
        require_lease: bool = False,
        resend_lost: bool = False,
        max_hot_events: int | None = None,
    ) -> None:
        self._driver = AsyncDriver(client, retry_seconds)
        codec: Codec[E, S] = Codec(event_type, state_type, fallback, max_event_bytes)
        self.context: Context[E, S] = Context.make(
            codec,
            namespace,
            partitions,
            durability,
            self._driver.max_block_seconds,
            require_lease=require_lease,
            resend_lost=resend_lost,
            max_hot_events=max_hot_events,
        )
        self._opening = asyncio.Lock()

    async def open(self) -> Self:
        """Check the server and the namespace, once."""
        async with self._opening:
            if self.context.opened is None:
                await self._driver.run(open_namespace.open_namespace(self.context), once=True)
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
        """Append one event to its run. It is kept when this returns.

        Raises EncodingError for what cannot be stored (PayloadTooLarge for what is over the limit),
        InvalidRunId, AcknowledgedWritesLost or HistoryDiverged if the server lost what this store saw,
        TooManyHotEvents over this store's ``max_hot_events``, and StoreUnavailable; after that, the same event
        may be sent again and is applied once.
        """
        await self.perform(append.save_event(self.context, event))

    async def save_events(self, events: Iterable[E]) -> None:
        """Append events to their runs, each run's in one atomic step, all in one round trip.

        All are checked and encoded before the first is sent. Raises what ``save_event`` raises.
        """
        await self.perform(append.save_events(self.context, events))

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

        With ``expected_offset`` the events land right after that offset, or ConcurrencyConflict is
        raised, as it is if another snapshot was saved since this store's. ``keys`` has one key (at most
        512 bytes), or None, per event: an event whose key the run knows is not written again, whoever
        wrote it, and keeps its first offset, also when it has been archived; an append of nothing but such
        events writes nothing, its snapshot included. With ``lease`` it is applied only if that is
        the newest still. ``lane_id`` says whose the snapshot is: a lane's, or, if None, the run's. Raises
        LeaseLost, LeaseHeld where another's lease is in the way, EventsArchived for a snapshot that does not
        cover what has left Redis or would follow one that was retired, and what ``save_event`` raises.
        """
        applied = await self.perform(
            append.append(
                self.context,
                run_id,
                events,
                expected_offset=expected_offset,
                keys=keys,
                lease=lease,
                snapshot=snapshot,
                lane_id=lane_id,
            )
        )
        return applied.appended

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
        applied = await self.perform(
            append.append(
                self.context,
                run_id,
                events,
                expected_offset=expected_offset,
                keys=keys,
                lease=lease,
                snapshot=snapshot,
                lane_id=lane_id,
            )
        )
        return applied.placement

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
        """The events with ``after < offset < before``, as they stand when the first of them is taken.

        ``after`` is an offset or a cursor; ``limit`` counts events, ``reverse`` gives the newest first.
        Raises EventsArchived for events that have moved, never gives fewer; CorruptRecordError at a
        record that does not read, unless ``on_corrupt="skip"``; AcknowledgedWritesLost or
        HistoryDiverged if the server lost what this store or the cursor's owner saw.
        """
        return self._iterate(
            read.read(
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
        """History, then live; ends when the run has ended and all was given.

        Raises TimeoutError after ``idle_timeout`` seconds in which there was no event to give, and what
        ``read`` raises. ``kinds`` is a collection of kinds; filters choose what is given, and every
        event still counts for where the follower stands.
        """
        return self._iterate(
            read.follow(
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
        """The events with ``seq > since_seq`` in log order; all of them for ``since_seq <= 0``.

        Raises what ``read`` raises: EventsArchived rather than a shorter list.
        """
        return await self.perform(read.list_events(self.context, run_id, since_seq))

    async def save_snapshot(
        self, run_id: str, state: S, *, lane_id: str | None = None, lease: Leased | None = None
    ) -> None:
        """Replace the snapshot of the run, or of one lane of it, whoever saved the one before.

        It covers the history that this store recovered and appended itself. Raises EventsArchived if it
        would not cover what has left Redis: recover first. Raises what ``save_event`` raises.
        """
        await self.perform(append.save_snapshot(self.context, run_id, state, lane_id=lane_id, lease=lease))

    async def update_state(
        self,
        run_id: str,
        change: Callable[[S], S | None],
        *,
        attempts: int = 10,
        lease: Leased | None = None,
    ) -> S:
        """Load the run's state, change it, and save it unless another was saved in between; then again.

        ``change`` gets the state, a new one for a run that has none, and returns what is to be saved, or
        None if it has changed the state itself; it may be called several times. Gives the state that was
        saved. Raises ConcurrencyConflict after so many attempts. After StoreUnavailable the change may
        have been made or not, and calling this again makes it again: load the state to see.
        """
        return await self.perform(
            append.update_state(self.context, run_id, change, attempts=attempts, lease=lease)
        )

    async def load_latest(self, run_id: str) -> S | None:
        """The state of the run's latest snapshot, or None. Raises what ``load_snapshot`` raises."""
        snapshot = await self.load_snapshot(run_id)
        return None if snapshot is None else snapshot.state

    async def load_snapshot(self, run_id: str, *, lane_id: str | None = None) -> Snapshot[S] | None:
        """The latest snapshot of the run, or of one lane of it, or None.

        Raises CorruptRecordError for one that does not read, EventsArchived for one that was retired.
        """
        return await self.perform(snapshots.load_snapshot(self.context, run_id, lane_id=lane_id))

    async def recover(self, run_id: str, *, lane_id: str | None = None) -> Recovery[S, E]:
        """The latest snapshot and the events after it, of the run or of one lane.

        Raises EventsArchived if some of them have left Redis: with ``trim="covered"``, that is where
        the run, or this lane, has no snapshot of its own. Raises what ``read`` raises.
        """
        return await self.perform(read.recover(self.context, run_id, lane_id=lane_id))

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

        Await it, or enter it with ``async with``, which gives it back at the end. A task renews it; it runs
        out ``ttl`` seconds after the last renewal, by the server's clock. The same ``owner`` gets its lease
        back at once, and the former one is lost. No lease outlives a failover or a restart of the server.
        Raises LeaseHeld while somebody else's is in the way for ``wait`` seconds.
        """
        check_lease(owner, lane_id, ttl, wait)

        async def take() -> LeaseGrant:
            try:
                return await self.perform(
                    leases.take_lease(self.context, run_id, owner=owner, lane_id=lane_id, ttl=ttl)
                )
            except asyncio.CancelledError:
                with contextlib.suppress(RunstreamError):
                    await asyncio.shield(self.perform(leases.give_back_unanswered(self.context, run_id)))
                raise

        return Opening(
            lambda: AsyncLease.taken(
                self,
                take,
                wait,
                renew=lambda grant: self.perform(leases.renew_lease(self.context, grant)),
                release=lambda grant: self.perform(leases.release_lease(self.context, grant)),
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

        async def begin() -> AsyncRun[E, S]:
            await self.open()
            return await AsyncRun.open(
                self.for_one_writer(),
                run_id,
                lane_id=lane_id,
                session_id=session_id,
                lease_ttl=lease_ttl,
                owner=owner,
                wait=wait,
                deltas=deltas,
            )

        return Opening(begin)

    async def last_seq(self, run_id: str, lane_id: str) -> int:
        """The ``seq`` of the lane's last event, wherever that lies by now; 0 for a lane that has none.

        Raises EventsArchived for a lane that was not written since its run was retired.
        """
        return await self.perform(read.last_seq(self.context, run_id, lane_id))

    def for_one_writer(self) -> Self:
        """The store for one more writer, who knows of snapshots only what it does itself."""
        return self._sharing_all_but(context=self.context.for_one_writer())

    async def has_recovered(self, run_id: str, offset: int, *, lane_id: str | None = None) -> None:
        """Note that this writer has recovered the run, or a lane, up to an offset, from wherever that lies."""
        await self.perform(read.has_recovered(self.context, run_id, offset, lane_id=lane_id))

    async def update_archived(
        self,
        run_id: str,
        change: Callable[[S], S | None],
        archived: Snapshot[S] | None,
        *,
        attempts: int,
        lease: Leased | None,
    ) -> S:
        """``update_state`` of a run of which an archive has what has left Redis, and this snapshot (None: none).

        What is saved covers what the former snapshot covers, though that be less than what has left Redis. Raises
        EventsArchived if that is not the snapshot that was retired last.
        """
        return await self.perform(
            append.update_state(
                self.context,
                run_id,
                change,
                attempts=attempts,
                lease=lease,
                archived=append.Archived(archived),
            )
        )

    async def retired_token(self, run_id: str, *, lane_id: str | None = None) -> str:
        """What stands for the token of the latest snapshot if that was retired; '' if it is not so."""
        return await self.perform(read.retired_token(self.context, run_id, lane_id=lane_id))

    async def start_of(self, run_id: str) -> Cursor | None:
        """The place before a run's first event, whose chain no other run has; None for a run that is not there."""
        return await self.perform(read.start_of(self.context, run_id))

    @property
    def codec(self) -> Codec[E, S]:
        """How this store encodes events and states."""
        return self.context.codec

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
        """The runs that match, the most recently updated first.

        ``updated_after`` is Unix time in seconds, by the server's clock; ``limit`` counts runs.
        """
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
