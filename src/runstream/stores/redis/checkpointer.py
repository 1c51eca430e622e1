"""The Redis store as a user sees it: each method names the operation that it runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from runstream.codec.event_codec import DEFAULT_MAX_EVENT_BYTES, Codec
from runstream.codec.fallback import plain_data
from runstream.model.events import EventKind, Visibility
from runstream.model.protocols import Fallback, Leased, OnCorrupt
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
from runstream.operations.filters import check_lease
from runstream.run import Run
from runstream.run.lease import Lease
from runstream.stores.lifecycle import Lifecycle
from runstream.stores.redis.connection.driver import SyncDriver
from runstream.stores.redis.exchange import Operation
from runstream.stores.redis.operations.client import append, leases, open_namespace, read, runs, snapshots
from runstream.stores.redis.session.session import DEFAULT_RETRY_SECONDS, Context

if TYPE_CHECKING:
    import redis

__all__ = ["RedisCheckpointer"]

T = TypeVar("T")


class RedisCheckpointer(Lifecycle, Generic[E, S]):
    """Runs in Redis, shared by any number of processes.

    ``client`` is a :class:`redis.Redis` without ``decode_responses``; it is never closed or
    reconfigured. One connection of its pool is held between calls, by all stores over it together, unless the pool
    is small or of a class of its own. ``namespace`` separates what shares a server. ``partitions`` is fixed when a
    namespace is created (16 unless given); None takes what it has. ``event_type`` and ``state_type``
    are what reads give, ``fallback`` what becomes of values that cannot be stored as they are
    (None: an error), ``max_event_bytes`` the largest encoded event. A call that finds no server, or one
    that fails over, is repeated for ``retry_seconds``, with pauses that grow, before it raises
    StoreUnavailable; then too it may be repeated by the caller: an append is applied once.
    ``require_lease`` refuses what is written without a lease. ``resend_lost`` keeps the last 16 MiB of events
    that this object appended, and where a server comes back without some of them, the next append puts
    those back first: once, in order, as new offsets. What it cannot make up for (events of others that this
    object had seen, or more than it holds) raises AcknowledgedWritesLost or HistoryDiverged all the same.
    ``max_hot_events`` refuses with TooManyHotEvents an append to a run that would then have more than so many
    events in Redis, which is better than a server that is full for all; a snapshot alone is never refused.

    What a drain worker has retired is listed still and may be appended to; reading it raises EventsArchived,
    which names the archives. Until it is forgotten its callers' keys stay known: about 100 bytes per key.

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
        require_lease: bool = False,
        resend_lost: bool = False,
        max_hot_events: int | None = None,
    ) -> None:
        self._driver = SyncDriver(client, retry_seconds)
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
        self._driver.run(open_namespace.open_namespace(self.context), once=True)

    def after_fork(self, rejoin: Callable[[], None]) -> None:
        """Say what a forked process has to do before it uses this store."""
        self._driver.after_fork = rejoin

    def perform(self, operation: Operation[T], *, once: bool = False) -> T:
        """Run one operation; what the drain worker does to Redis goes through here too.

        With ``once``, it is not sent again where the server cannot be reached.
        """
        return self._driver.run(operation, once=once)

    def save_event(self, event: E) -> None:
        """Append one event to its run. It is kept when this returns.

        Raises EncodingError for what cannot be stored (PayloadTooLarge for what is over the limit),
        InvalidRunId, AcknowledgedWritesLost or HistoryDiverged if the server lost what this store saw,
        TooManyHotEvents over this store's ``max_hot_events``, and StoreUnavailable; after that, the same event
        may be sent again and is applied once.
        """
        self.perform(append.save_event(self.context, event))

    def save_events(self, events: Iterable[E]) -> None:
        """Append events to their runs, each run's in one atomic step, all in one round trip.

        All are checked and encoded before the first is sent. Raises what ``save_event`` raises.
        """
        self.perform(append.save_events(self.context, events))

    def append(
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
        applied = self.perform(
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

    def append_each(
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
        applied = self.perform(
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
    ) -> Iterator[Recorded[E]]:
        """The events with ``after < offset < before``, as they stand when the first of them is taken.

        ``after`` is an offset or a cursor; ``limit`` counts events, ``reverse`` gives the newest first.
        Raises EventsArchived for events that have moved, never gives fewer; CorruptRecordError at a
        record that does not read, unless ``on_corrupt="skip"``; AcknowledgedWritesLost or
        HistoryDiverged if the server lost what this store or the cursor's owner saw.
        """
        return self._driver.iterate(
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
    ) -> Iterator[Recorded[E]]:
        """History, then live; ends when the run has ended and all was given.

        Raises TimeoutError after ``idle_timeout`` seconds in which there was no event to give, and what
        ``read`` raises. ``kinds`` is a collection of kinds; filters choose what is given, and every
        event still counts for where the follower stands.
        """
        return self._driver.iterate(
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

    def list_events(self, run_id: str, since_seq: int = 0) -> list[E]:
        """The events with ``seq > since_seq`` in log order; all of them for ``since_seq <= 0``.

        Raises what ``read`` raises: EventsArchived rather than a shorter list.
        """
        return self.perform(read.list_events(self.context, run_id, since_seq))

    def save_snapshot(
        self, run_id: str, state: S, *, lane_id: str | None = None, lease: Leased | None = None
    ) -> None:
        """Replace the snapshot of the run, or of one lane of it, whoever saved the one before.

        It covers the history that this store recovered and appended itself. Raises EventsArchived if it
        would not cover what has left Redis: recover first. Raises what ``save_event`` raises.
        """
        self.perform(append.save_snapshot(self.context, run_id, state, lane_id=lane_id, lease=lease))

    def update_state(
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
        return self.perform(append.update_state(self.context, run_id, change, attempts=attempts, lease=lease))

    def load_latest(self, run_id: str) -> S | None:
        """The state of the run's latest snapshot, or None. Raises what ``load_snapshot`` raises."""
        snapshot = self.load_snapshot(run_id)
        return None if snapshot is None else snapshot.state

    def load_snapshot(self, run_id: str, *, lane_id: str | None = None) -> Snapshot[S] | None:
        """The latest snapshot of the run, or of one lane of it, or None.

        Raises CorruptRecordError for one that does not read, EventsArchived for one that was retired.
        """
        return self.perform(snapshots.load_snapshot(self.context, run_id, lane_id=lane_id))

    def recover(self, run_id: str, *, lane_id: str | None = None) -> Recovery[S, E]:
        """The latest snapshot and the events after it, of the run or of one lane.

        Raises EventsArchived if some of them have left Redis: with ``trim="covered"``, that is where
        the run, or this lane, has no snapshot of its own. Raises what ``read`` raises.
        """
        return self.perform(read.recover(self.context, run_id, lane_id=lane_id))

    def lease(
        self,
        run_id: str,
        *,
        owner: str,
        lane_id: str | None = None,
        ttl: float = 30.0,
        wait: float = 0.0,
    ) -> Lease[E, S]:
        """Take the sole right to write one lane of a run, or, without ``lane_id``, the whole run.

        A context manager that gives it back at the end. A thread renews it; it runs out ``ttl`` seconds
        after the last renewal, by the server's clock. The same ``owner`` gets its lease back at once, and the
        former one is lost. No lease outlives a failover or a restart of the server. Raises LeaseHeld while
        somebody else's is in the way for ``wait`` seconds.
        """
        check_lease(owner, lane_id, ttl, wait)
        return Lease.taken(
            self,
            lambda: self.perform(leases.take_lease(self.context, run_id, owner=owner, lane_id=lane_id, ttl=ttl)),
            wait,
            renew=lambda grant: self.perform(leases.renew_lease(self.context, grant)),
            release=lambda grant: self.perform(leases.release_lease(self.context, grant)),
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
    ) -> Run[E, S]:
        """Recover one lane of a run, new or not, and go on with it: the handle that an agent works with.

        See :class:`~runstream.run.Run`. With ``lease_ttl`` it holds a lease on the lane, for ``owner``.
        Raises what ``recover`` and ``lease`` raise.
        """
        return Run.open(
            self.for_one_writer(),
            run_id,
            lane_id=lane_id,
            session_id=session_id,
            lease_ttl=lease_ttl,
            owner=owner,
            wait=wait,
            deltas=deltas,
        )

    def last_seq(self, run_id: str, lane_id: str) -> int:
        """The ``seq`` of the lane's last event, wherever that lies by now; 0 for a lane that has none.

        Raises EventsArchived for a lane that was not written since its run was retired.
        """
        return self.perform(read.last_seq(self.context, run_id, lane_id))

    def for_one_writer(self) -> Self:
        """The store for one more writer, who knows of snapshots only what it does itself."""
        return self._sharing_all_but(context=self.context.for_one_writer())

    def has_recovered(self, run_id: str, offset: int, *, lane_id: str | None = None) -> None:
        """Note that this writer has recovered the run, or a lane, up to an offset, from wherever that lies."""
        self.perform(read.has_recovered(self.context, run_id, offset, lane_id=lane_id))

    def update_archived(
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
        return self.perform(
            append.update_state(
                self.context,
                run_id,
                change,
                attempts=attempts,
                lease=lease,
                archived=append.Archived(archived),
            )
        )

    def retired_token(self, run_id: str, *, lane_id: str | None = None) -> str:
        """What stands for the token of the latest snapshot if that was retired; '' if it is not so."""
        return self.perform(read.retired_token(self.context, run_id, lane_id=lane_id))

    def start_of(self, run_id: str) -> Cursor | None:
        """The place before a run's first event, whose chain no other run has; None for a run that is not there."""
        return self.perform(read.start_of(self.context, run_id))

    @property
    def codec(self) -> Codec[E, S]:
        """How this store encodes events and states."""
        return self.context.codec

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
        """The runs that match, the most recently updated first.

        ``updated_after`` is Unix time in seconds, by the server's clock; ``limit`` counts runs.
        """
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
