"""The store as a user of asyncio sees it: the methods of :mod:`runstream.stores.facade`, as coroutines.

The docstrings are written out again, since an editor shows the one of the method that is typed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, Literal, overload

from runstream.model.awaitable import Awaited, Opening
from runstream.model.erasures import Erasure
from runstream.model.events import EventKind, Visibility
from runstream.model.identifiers import MAIN_LANE
from runstream.model.protocols import Leased, OnCorrupt, RawEvent
from runstream.model.results import (
    Appended,
    ArchivingHealth,
    DeltaBuffer,
    E,
    Fork,
    LaneInfo,
    Recorded,
    Recovery,
    RunInfo,
    S,
    Snapshot,
    SnapshotInfo,
)
from runstream.model.run_diff import RunDiff
from runstream.model.tags import TagChanges
from runstream.operations.ancestors import ancestors
from runstream.operations.archiving import archiving_health
from runstream.operations.arguments import (
    AppendOptions,
    FollowQuery,
    LeaseRequest,
    ReadQuery,
    RunRequest,
    RunsQuery,
    StateChange,
)
from runstream.operations.counts import count_events, count_snapshots
from runstream.operations.diffs import diffing
from runstream.operations.erase_arguments import EraseRequest, TruncateOptions
from runstream.operations.erasing import erasing
from runstream.operations.follow_runs import FollowRunsQuery
from runstream.operations.interface import KeepsSnapshots, StoreOperations
from runstream.operations.people import answering, requesting_cancel
from runstream.operations.run_forks import ForkOptions, without_forks
from runstream.operations.runners import AsyncRunner
from runstream.operations.truncating import truncating
from runstream.run.async_run import AsyncRun
from runstream.run.lease import AsyncLease
from runstream.stores.lifecycle import AsyncLifecycle

__all__ = ["AsyncSnapshotStore", "AsyncStore"]


class AsyncStore(AsyncLifecycle, Generic[E, S]):
    """Keeps runs, for asyncio: their events, in order, and the latest states. An async context manager.

    Tasks of one event loop may share a store. The outcome of a call that is cancelled is as unknown as after
    StoreUnavailable. Its methods are those of :class:`~runstream.stores.protocol.AsyncRunStore`.

    Args:
        operations: What the store does.
        runner: Makes the steps of its operations.
        parts: What else it is made of, for those who ask for a capability
            (:func:`~runstream.stores.capabilities.part_of`).
    """

    def __init__(
        self, operations: StoreOperations[E, S], runner: AsyncRunner, parts: Sequence[object] = ()
    ) -> None:
        self._operations = operations
        self._runner = runner
        self._parts = (operations, *parts)

    async def save_event(self, event: E) -> None:
        """Append one event to the run that it names. It is kept when this returns.

        Args:
            event: The event; its ``run_id`` says which run it belongs to.

        Raises:
            EncodingError: It cannot be stored; PayloadTooLarge where it is over the store's limit.
            InvalidRunId: Its ``run_id`` cannot name a run.
            AcknowledgedWritesLost: The server has lost what this store object saw of the run.
            HistoryDiverged: The run has another history than this store object saw.
            LeaseHeld: A lease is in the way; what it covers is written through it.
            TooManyHotEvents: It would be one too many for the store's ``max_hot_events``.
            StoreUnavailable: There was no answer: the same event may be sent again and is applied once.
        """
        await self._runner.run(self._operations.save_event(event))

    async def save_events(self, events: Iterable[E]) -> None:
        """Append events to the runs that they name, each run's in one atomic step, in order.

        All are checked and encoded before the first is written; a Redis store sends them in one round trip.

        Args:
            events: The events, of any number of runs.

        Raises:
            RunstreamError: What ``save_event`` raises.
        """
        await self._runner.run(self._operations.save_events(events))

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
        snapshots: Mapping[str | None, S] | None = None,
        end_lanes: Sequence[str] = (),
        tags: TagChanges | None = None,
        durability: str | None = None,
    ) -> Appended:
        """Append events to a run, and save snapshots with them, in one atomic step: nothing of it, or all.

        Args:
            run_id: The run; it begins with this append if it is not there.
            events: What to append, in order; may be empty, where a snapshot is saved or tags are set.
            expected_offset: The offset after which the events must land; None: the end of the run, whatever it is.
            keys: One key of at most 512 bytes, or None, per event. An event whose key the run knows is not
                written again, whoever wrote it, archived or not; it keeps its first offset. An append
                of nothing but such events writes nothing, its snapshot and its tags included.
            lease: What the write is valid under: it is applied only as long as this lease is the newest.
            snapshot: The state to save with the events, made from the one that this store object saved or loaded
                last.
            lane_id: The lane whose snapshot it is; None: the run's own.
            snapshots: Several such states, each by its lane, and the run's own under None: in place of
                ``snapshot`` and ``lane_id``.
            end_lanes: Lanes that end with this append, though nobody else holds them. Once archived, such a lane
                holds up trimming no more, and leaves Redis with its snapshot. What is appended to it later, or
                saved of it, opens it again; where it has left Redis, that takes the tiered store.
            tags: The run's tags that change: the value of each name, both of at most 256 bytes of UTF-8, or None
                to remove it. The others stay; a run has at most 10,000.
            durability: How durable it is when this returns: ``"primary"``, ``"fsync"`` or ``"replicated=N"``;
                None: as the store was opened. See docs/operations.md.

        Returns:
            The offsets of the first and the last event, and the cursor of the last.

        Raises:
            DurabilityNotReached: It was applied, and is not as durable as was asked for.
            ConcurrencyConflict: The run stands elsewhere than ``expected_offset``, or another snapshot was saved
                since this writer's.
            LeaseLost: The lease has passed on or run out.
            LeaseHeld: Another's lease is in the way.
            EventsArchived: The snapshot does not cover what has left Redis, or follows one that was retired.
            RunstreamError: What ``save_event`` raises.
        """
        options = AppendOptions(
            expected_offset,
            keys,
            lease,
            snapshot,
            lane_id,
            snapshots=snapshots,
            end_lanes=end_lanes,
            tags=tags,
            durability=durability,
        )
        return (await self._runner.run(self._operations.append(run_id, events, options))).appended

    @overload
    def read(
        self,
        run_id: str,
        after: int | str = 0,
        *,
        before: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        on_corrupt: Literal["raise", "skip"] = "raise",
    ) -> AsyncIterator[Recorded[E]]: ...
    @overload
    def read(
        self,
        run_id: str,
        after: int | str = 0,
        *,
        before: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        on_corrupt: OnCorrupt,
    ) -> AsyncIterator[Recorded[E | RawEvent]]: ...
    def read(
        self,
        run_id: str,
        after: int | str = 0,
        *,
        before: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        on_corrupt: OnCorrupt = "raise",
    ) -> AsyncIterator[Recorded[Any]]:
        """Read the events with ``after < offset < before``, as they are when the first of them is taken.

        Args:
            run_id: The run; one that is not there has no events.
            after: An offset; or a cursor, which is checked to be of this very history.
            before: The offset to stop before; None for no bound.
            limit: How many events to give at most.
            reverse: Give the newest first; ``limit`` counts from there.
            on_corrupt: What to do at a record that does not read, or an event that the store's class refuses:
                ``"raise"`` the error; ``"skip"`` passes over it; ``"raw"`` gives the event's plain fields in its
                place (a dict), or the record's bytes if it does not read. All else is given as events.

        Returns:
            The events with their offsets and cursors.

        Raises:
            EventsArchived: Some of them have left this store; never is a run silently shortened.
            CorruptRecordError: A record does not read.
            EventRefused: The store's class for events refuses one.
            AcknowledgedWritesLost: What this store object, or the cursor's owner, saw is not there any more.
            HistoryDiverged: The history is another one.
        """
        query = ReadQuery(after, before, limit, reverse, on_corrupt)
        return self._runner.iterate(self._operations.read(run_id, query))

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
        """Read a run's history, then follow it live; ends when the run has ended and all was given.

        The filters choose what is given; every event still counts for where the follower stands.

        Args:
            run_id: The run; it may begin later.
            after: An offset or a cursor, after which to begin.
            idle_timeout: After how many seconds without an event to give to stop; None: never.
            lane_id: Give only the events of this lane.
            kinds: Give only events of these kinds.
            visibility: Give only what such a viewer may see: ``"public"`` what is public, ``"internal"`` that and
                what is internal, ``"debug"`` all three. Another name: what is public, and what has that name.

        Returns:
            The events as they come.

        Raises:
            TimeoutError: There was no event to give for ``idle_timeout`` seconds.
            RunstreamError: What ``read`` raises.
        """
        query = FollowQuery(after, idle_timeout, lane_id, kinds, visibility)
        return self._runner.follow(self._operations.follow(run_id, query))

    def follow_runs(
        self,
        run_ids: Iterable[str] | None = None,
        *,
        session_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        after: Mapping[str, int | str] | None = None,
        idle_timeout: float | None = None,
    ) -> AsyncIterator[tuple[str, Recorded[E]]]:
        """Follow many runs at once: the history of each, then what comes; new runs join as they appear.

        The events of each run come in its order, each once. It may be gone on with later: keep the cursor of the
        last event of each run, and pass them as ``after``. A run that is not in there is given from its beginning,
        as one that is new.

        Args:
            run_ids: The runs; it ends when all of them have ended and all was given. None: those that match, or
                all, without end; a new run is found within a second.
            session_id: Only the runs of this session.
            tags: Only the runs that have all of these tags, with these values.
            after: For each run, by its id, an offset or a cursor after which to begin.
            idle_timeout: After how many seconds without an event to stop; None: never.

        Returns:
            The events as they come, each with the id of its run.

        Raises:
            TimeoutError: There was no event for ``idle_timeout`` seconds.
            ConfigurationError: That cannot be asked for.
            AcknowledgedWritesLost: The server has lost what was seen of a run. ``error.run_id`` names it, as the
                others do: after ``forget(run_id)`` go on without its cursor.
            EventsArchived: Events of a run have left Redis before they were given: a tiered store has them.
            RunstreamError: What ``follow`` raises. Where no runs are named, one that does not read is named in the
                log and left out, so that it holds up no other.
        """
        query = FollowRunsQuery(run_ids, session_id, tags, after, idle_timeout)
        return self._runner.follow(self._operations.follow_runs(query))

    async def list_events(self, run_id: str, since_seq: int = 0) -> list[E]:
        """The run's events with ``seq > since_seq``, in log order.

        Args:
            run_id: The run.
            since_seq: The producer's number after which to begin; 0 or less gives all events.

        Raises:
            RunstreamError: What ``read`` raises: EventsArchived rather than a shorter list, where events over
                ``since_seq`` have left Redis, or may have.
        """
        return await self._runner.run(self._operations.list_events(run_id, since_seq))

    async def find(self, run_id: str, keys: Iterable[str]) -> list[int | None]:
        """The offsets of the events that have these keys: whether a step was recorded, without appending anything.

        A lease of others is in nobody's way. Keys are known for as long as the run is: also of events that have
        left Redis, and in an archive.

        Args:
            run_id: The run.
            keys: The callers' keys (:meth:`append`), any number of them.

        Returns:
            An offset for each key, in their order; None for one that the run does not know.

        Raises:
            AcknowledgedWritesLost: The server has lost what this store object saw of the run.
            CorruptRecordError: What is kept of the keys does not read.
            EncodingError: One can be no key.
            StoreUnavailable: The store gave no answer.
        """
        return await self._runner.run(self._operations.find(run_id, keys))

    async def read_at(self, run_id: str, offsets: Iterable[int]) -> list[Recorded[E]]:
        """The events at these offsets, in the order in which they are asked for.

        Args:
            run_id: The run.
            offsets: The offsets, in any order; one may be asked for twice.

        Returns:
            One event for each offset.

        Raises:
            ConfigurationError: The run has no event at one of them, or that has been erased; it names them.
            EventsArchived: Some have left Redis.
            RunstreamError: What ``read`` raises.
        """
        return await self._runner.run(self._operations.read_at(run_id, offsets))

    async def save_snapshot(
        self, run_id: str, state: S, *, lane_id: str | None = None, lease: Leased | None = None
    ) -> None:
        """Replace the snapshot of a run, or of one lane of it, whoever saved the one before.

        It covers the history that this store object recovered and appended itself without a hole.

        Args:
            run_id: The run.
            state: The state to save; it is taken as it is now.
            lane_id: The lane whose snapshot it is; None: the run's own.
            lease: What the write is valid under.

        Raises:
            EventsArchived: It would not cover what has left Redis: recover first.
            RunstreamError: What ``append`` raises.
        """
        await self._runner.run(self._operations.save_snapshot(run_id, state, lane_id, lease))

    async def load_latest(self, run_id: str) -> S | None:
        """The state of the run's latest snapshot, never the object that was saved; None without one.

        Args:
            run_id: The run.

        Raises:
            RunstreamError: What ``load_snapshot`` raises.
        """
        snapshot = await self.load_snapshot(run_id)
        return None if snapshot is None else snapshot.state

    async def load_snapshot(self, run_id: str, *, lane_id: str | None = None) -> Snapshot[S] | None:
        """The latest snapshot of a run, or of one lane of it, with the offset that it covers; None without one.

        Args:
            run_id: The run.
            lane_id: The lane whose snapshot is wanted; None: the run's own.

        Raises:
            CorruptRecordError: It does not read.
            EventRefused: The store's class for states refuses it.
            EventsArchived: It was retired: the archive has it.
        """
        return await self._runner.run(self._operations.load_snapshot(run_id, lane_id))

    async def kept_snapshots(self, run_id: str, *, lane_id: str | None = None) -> list[SnapshotInfo]:
        """The kept snapshots of a run, or of one lane of it, without their states: the highest offset first.

        Redis and memory keep the latest; an archive has earlier ones, and the tiered store those of both.

        Args:
            run_id: The run; one that is not there has none.
            lane_id: The lane whose snapshots are wanted; None: the run's own.

        Returns:
            The snapshots; of several that cover the same offset the last.

        Raises:
            CorruptRecordError: What is noted of one does not read.
            EventsArchived: The latest was retired: the archive has it.
            StoreUnavailable: The store gave no answer.
        """
        return await self._runner.run(self._operations.kept_snapshots(run_id, lane_id))

    async def update_state(
        self, run_id: str, change: Callable[[S], S | None], *, attempts: int = 10, lease: Leased | None = None
    ) -> S:
        """Load a run's state, change it, and save it unless another was saved in between; then again.

        What is stored and the state's class does not know is kept.

        Args:
            run_id: The run.
            change: Gets the state, a new one for a run that has none, and returns what is to be saved, or None
                if it has changed the state itself. It may be called several times.
            attempts: How often to try.
            lease: What the write is valid under.

        Returns:
            The state that was saved.

        Raises:
            ConcurrencyConflict: Others were faster, in every attempt. Or, after StoreUnavailable: the change was
                made, and the same function would now make another one, so that it may be a new change.
            StoreUnavailable: The change may have been made or not. The same call may be made again, with the same
                function or one of the same code and values: if the change was made, it gives the state that was
                saved then, and changes nothing.
            RunstreamError: What ``load_snapshot`` and ``save_snapshot`` raise.
        """
        return await self._runner.run(self._operations.update_state(run_id, change, StateChange(attempts, lease)))

    async def recover(self, run_id: str, *, lane_id: str | None = None) -> Recovery[S, E]:
        """The latest snapshot and the events after it: what resumes a run, or one lane of it.

        Args:
            run_id: The run.
            lane_id: The lane to resume, from its own snapshot and events; None: the whole run.

        Raises:
            EventsArchived: Some of those events have left Redis.
            RunstreamError: What ``load_snapshot`` and ``read`` raise.
        """
        return await self._runner.run(self._operations.recover(run_id, lane_id))

    def lease(
        self,
        run_id: str,
        *,
        owner: str,
        lane_id: str | None = None,
        ttl: float = 30.0,
        wait: float = 0.0,
    ) -> Opening[AsyncLease[E, S]]:
        """Take the sole right to write one lane of a run, or the whole run.

        It renews itself in the background until it is given back: by leaving its ``async with``, or by its
        ``release``. No lease outlives a failover or a restart of a Redis server.

        Args:
            run_id: The run.
            owner: Who holds it. The same owner, restarted, gets its lease back at once, and the former is lost.
            lane_id: The lane; None: the whole run.
            ttl: After how many seconds without a renewal it runs out, by the store's clock.
            wait: For how many seconds to wait while somebody else's lease is in the way.

        Returns:
            What is awaited, or entered with ``async with``, to have the lease: a Checkpointer whose writes carry
            it. One that is cancelled while it is asked for may have been given out, and runs out then.

        Raises:
            LeaseHeld: Somebody else's is in the way still.
            ConfigurationError: This store has no leases, or an argument does not fit.
        """
        request = LeaseRequest(run_id, owner, lane_id, ttl, wait)
        request.check()  # now: what is never awaited would never be refused
        return Opening(lambda: AsyncLease.take(self._operations, self._runner, request))

    def open_run(
        self,
        run_id: str,
        *,
        lane_id: str = MAIN_LANE,
        session_id: str = "",
        lease_ttl: float | None = None,
        owner: str | None = None,
        wait: float = 0.0,
        deltas: DeltaBuffer | None = None,
        tags: TagChanges | None = None,
    ) -> Opening[AsyncRun[E, S]]:
        """Recover one lane of a run, new or not, and go on with it; writes no event, no state, only tags.

        Args:
            run_id: The run.
            lane_id: The lane to write.
            session_id: What its events and its new state carry; '' takes it from the recovered state.
            lease_ttl: Take a lease on the lane, of this many seconds, and renew it meanwhile; None: no lease.
            owner: Whose lease it is. None: one of its own, so that a restarted process waits until the lease of
                the former one has run out.
            wait: For how many seconds to wait for the lease.
            deltas: How much text the Run may hold back for a moment; None: nothing.
            tags: The run's tags that change, as ``append`` takes them; the run is there then, if it was not.

        Returns:
            What is awaited, or entered with ``async with``, to have the handle that an agent works with.

        Raises:
            RunstreamError: What ``recover`` and ``lease`` raise.
        """
        request = RunRequest(run_id, lane_id, session_id, lease_ttl, owner, wait, deltas, tags)
        return Opening(lambda: AsyncRun.open(self._operations.for_one_writer(), self._runner, request))

    async def answer(
        self, run_id: str, answer: Any, *, lane_id: str | None = None, question_id: str | None = None
    ) -> Recorded[E]:
        """Answer the question that a run waits with (:meth:`runstream.run.Run.pause`), from any process.

        The answer is an event of the lane ``answers``, which a lease on the whole run lets pass. A question is
        answered once.

        Args:
            run_id: The run.
            answer: What ``Run.wait`` is to give: any value that can be stored.
            lane_id: The lane that asks; None: any.
            question_id: The question; None: the one that waits, or else the one that was answered last.

        Returns:
            The event that answers it, of the first answer if it was answered already.

        Raises:
            ConfigurationError: There is no such question, or several wait and none is named; or this store keeps
                no questions.
            LeaseHeld: Somebody has a lease on the lane ``answers``.
            StoreUnavailable: There was no answer: the same call may be made again, and answers once.
            RunstreamError: What ``append`` raises.
        """
        return await self._runner.run(answering(self._operations, run_id, answer, lane_id, question_id))

    async def request_cancel(self, run_id: str, reason: str = "") -> Recorded[E]:
        """Ask a run to stop: its Runs raise RunCancelled at their next emit or wait, and it ends as cancelled.

        The request is an event of the lane ``answers``, which a lease on the whole run lets pass. It holds until
        the run has ended and is opened again by ``run.started`` or a running snapshot.

        Args:
            run_id: The run.
            reason: Why, for the agent and its log.

        Returns:
            The event.

        Raises:
            ConfigurationError: There is no such run, it has ended, or this store keeps no questions.
            LeaseHeld: Somebody has a lease on the lane ``answers``.
            StoreUnavailable: There was no answer: the same call may be made again.
            RunstreamError: What ``append`` raises.
        """
        return await self._runner.run(requesting_cancel(self._operations, run_id, reason))

    async def diff(self, run_id: str, other_run_id: str) -> RunDiff[E]:
        """How two runs differ: where they part, what each has from there, and what their states differ in.

        Runs that share a history (forks of one run, a run and its branches) part where that ends; others share
        nothing. Nothing is written, and what is appended meanwhile is no part of it.

        Args:
            run_id: The first run.
            other_run_id: The second run.

        Returns:
            The events after the last that both have, by lane, and the differences of the latest snapshots.

        Raises:
            ConfigurationError: One of them is not there.
            EventsArchived: What tells where they part, or comes after that, has left Redis: a tiered store has it.
            RunstreamError: What ``read`` and ``load_snapshot`` raise.
        """
        return await self._runner.run(diffing(self._operations, run_id, other_run_id))

    async def lanes(self, run_id: str) -> list[LaneInfo]:
        """The lanes of a run, by name: where each stands, whether it has ended, and who holds it.

        Args:
            run_id: The run; one that is not there has none.

        Raises:
            EventsArchived: Lanes have left this store, as they were ended or the run was retired.
        """
        return await self._runner.run(self._operations.lanes(run_id))

    async def run_info(self, run_id: str) -> RunInfo | None:
        """What is known of a run without reading it; None for one that is not there.

        Args:
            run_id: The run.

        Raises:
            InvalidRunId: It cannot name a run.
            StoreUnavailable: The store gave no answer.
        """
        return await self._runner.run(self._operations.run_info(run_id))

    def runs(
        self,
        *,
        session_id: str | None = None,
        status: str | None = None,
        tags: Mapping[str, str] | None = None,
        created_after: float | None = None,
        updated_after: float | None = None,
        updated_before: float | None = None,
        limit: int | None = None,
        page: str | None = None,
    ) -> AsyncIterator[RunInfo]:
        """The runs that match, the most recently updated first.

        Args:
            session_id: Only those of this session.
            status: Only those in this status.
            tags: Only those that have all of these tags, with these values.
            created_after: Only those created after this time: Unix time in seconds, by the store's clock.
            updated_after: Only those updated after this time, likewise.
            updated_before: Only those updated before this time, likewise.
            limit: How many runs to give at most.
            page: Give them in the order in which they were created, of one time by id: '' gives the first page,
                of ``limit`` runs, and the :attr:`~runstream.model.results.RunInfo.page` of the last run of a page
                the next one. A run that was there at the first page, and still matches, comes exactly once.

        Raises:
            ConfigurationError: An argument does not fit.
            StoreUnavailable: The store gave no answer.
        """
        query = RunsQuery(
            session_id,
            status,
            updated_after,
            limit,
            tags,
            created_after,
            updated_before,
            page,
        )
        return self._runner.iterate(self._operations.runs(query))

    async def list_runs(self) -> list[str]:
        """The ids of all runs, the most recently updated first."""
        return await self._runner.run(self._operations.list_runs())

    @property
    def event_count(self) -> Awaited[int]:
        """How many events the runs have had, archived ones too; awaited. It reads the list of the runs."""
        return Awaited(lambda: self._runner.run(count_events(self._operations)))

    @property
    def snapshot_count(self) -> Awaited[int]:
        """How many runs have a snapshot of their own; awaited. It asks for each run: Redis by an exchange."""
        return Awaited(lambda: self._runner.run(count_snapshots(self._operations)))

    async def forks(self, run_id: str) -> list[Fork]:
        """The runs that were forked from a run, as far as the store knows, in the order of the offsets.

        Args:
            run_id: The run; one that is not there may have some.

        Returns:
            The forks, each with the offset of the last event that both have. One or the other may be gone since.

        Raises:
            InvalidRunId: It cannot name a run.
            StoreUnavailable: The store gave no answer.
        """
        return await self._runner.run(self._operations.forks(run_id))

    async def ancestors(self, run_id: str) -> list[Fork]:
        """The runs that a run comes from, the nearest first, each with the offset at which the next parts from it.

        Args:
            run_id: The run; one that is no fork, or is not there, has none.

        Returns:
            The runs, 50 at most. The last of them may be one that is not there any more.

        Raises:
            InvalidRunId: It cannot name a run.
            StoreUnavailable: The store gave no answer.
        """
        return await self._runner.run(ancestors(self._operations, run_id))

    async def archiving_health(self, *, lag_seconds: float = 300.0) -> ArchivingHealth:
        """How the archiving of what the store has in Redis stands: it names no run, no archive and no worker.

        It costs two round trips, and two for every few thousand runs that are due.

        Args:
            lag_seconds: For how long a run may wait for a worker before that is an alarm.

        Raises:
            ConfigurationError: The argument does not fit.
            StoreUnavailable: The server gave no answer.
        """
        return await self._runner.run(archiving_health(self._operations, lag_seconds))

    async def fork(
        self, run_id: str, new_run_id: str, *, at: int | None = None, tags: Mapping[str, str] | None = None
    ) -> RunInfo:
        """Make a run that shares this one's history up to an offset, and goes on from there by itself.

        Nothing is copied but snapshots, so it costs the same however long the run is. Read, followed or recovered,
        the fork is one run: the events that it shares come as its own, with its run id, their offsets and cursors.
        Snapshots are the newest that are here of the run and of each lane and cover no more than ``at``; without
        one the fork is recovered from its events. Keys that the run knows up to ``at`` the fork knows too; leases
        it has none. As long as there is the fork, the run cannot be deleted.

        Args:
            run_id: The run; it stays as it is, and goes on or not.
            new_run_id: The id of the fork. Where this very fork was made before, that is given, and nothing is
                made.
            at: The offset of the last event that both have; 0: they share nothing. None: the run's last event.
            tags: The tags of the fork; None: those of the run.

        Returns:
            What is known of the fork; its ``parent`` is the run and the offset.

        Raises:
            DurabilityNotReached: It was done, and is not as durable as it should be; the same call waits again.
            ConfigurationError: There is no such run or no such offset, or ``new_run_id`` is another run.
            EventsArchived: The event at that offset has left Redis: a tiered store has it. Or the run is in an
                archive alone: restore it first.
            StoreUnavailable: There was no answer: the same call may be made again.
        """
        return await self._runner.run(self._operations.fork(run_id, new_run_id, ForkOptions(at, tags)))

    async def erase(
        self,
        run_id: str,
        offsets: Iterable[int] | None = None,
        *,
        lane_id: str | None = None,
        where: Callable[[E], bool] | None = None,
        snapshots: Mapping[str | None, S] | None = None,
        drop_snapshots: bool = False,
        lease: Leased | None = None,
    ) -> Erasure:
        """Erase the content of events for good: in this store, in its files, and in what it keeps beside the run.

        Offsets, chains and the callers' keys stay, so that everything else can still be proven; reading passes
        over what was erased. With it go the earlier snapshots of the run and its lanes that may hold it. What
        other programs have read, and what left the store as an export or a backup, is out of its reach.

        Args:
            run_id: The run.
            offsets: The offsets of the events; this, or one of the next two.
            lane_id: All events that the lane has now.
            where: All events that there are now and for which this is true; a record that does not read is not
                asked about.
            snapshots: States that hold nothing of it, to be saved first: by lane, and the run's own under None.
                Each is made from the one that this store object saved or loaded last.
            drop_snapshots: Drop the latest snapshots that may hold it: those that cover one of the offsets, or
                cover nothing. Recovery then starts from the events.
            lease: The lease on the run or on a lane, where one is in force.

        Returns:
            What was erased, and in which places it is done or still pending. To erase the same again is fine.

        Raises:
            DurabilityNotReached: It was done, and is not as durable as it should be; the same call waits again.
            ConfigurationError: The run has no such events of its own; or its latest snapshots may hold what is to
                be erased, and are neither given nor to be dropped: it lists them. Nothing was erased.
            EventsArchived: Latest snapshots that have left Redis may hold it, of which Redis alone knows no more;
                through a tiered store it is known. Nothing was erased.
            ConcurrencyConflict: Another writer has saved one of the snapshots since this one loaded it.
            LeaseLost: The lease has passed on or run out.
            LeaseHeld: Another lease on the run, or on one of its lanes, is in force.
            StoreUnavailable: There was no answer: the same call may be made again.
            RunstreamError: What ``read`` raises, where events are looked for.
        """
        request = EraseRequest(offsets, lane_id, where, snapshots, drop_snapshots, lease)
        return await self._runner.run(erasing(self._operations, run_id, request))

    async def truncate(
        self, run_id: str, *, before: int, detach: bool = False, lease: Leased | None = None
    ) -> Erasure:
        """Remove the events before an offset for good: the history of the run begins with it from then on.

        Offsets and chains of the others stay, the callers' keys of the removed ones too. With them go the earlier
        snapshots that cover nothing of what stays.

        Args:
            run_id: The run.
            before: The offset that the history begins with.
            detach: Give each fork that needs some of these events a copy of its own of all that it shares, first.
                They stay detached also where the events are not removed after that.
            lease: The lease on the run or on a lane, where one is in force.

        Returns:
            What was removed, and in which places it is done or still pending. To truncate the same again is fine.

        Raises:
            DurabilityNotReached: It was done, and is not as durable as it should be; the same call waits again.
            ConfigurationError: The run does not reach that far; or its latest snapshots need some of these events
                to recover from: it lists them. No event was removed; what ``detach`` has detached is detached.
            EventsArchived: What tells whether they do has left Redis: a tiered store knows.
            RunHasForks: Runs that were forked from this one need some of these events, and ``detach`` is not set.
            LeaseLost: The lease has passed on or run out.
            LeaseHeld: Another lease on the run, or on one of its lanes, is in force.
            StoreUnavailable: There was no answer: the same call may be made again.
        """
        truncate = partial(truncating, self._operations, run_id, before, TruncateOptions(lease))
        return await self._runner.run(without_forks(truncate, self._operations.detach if detach else None))

    async def erasures(self, run_id: str) -> list[Erasure]:
        """What was asked to be erased of a run or truncated, and what has become of it, place by place.

        What could not be finished yet is tried again first, where this store can do so itself.

        Args:
            run_id: The run.

        Returns:
            The erasures, in the order in which they were asked for.

        Raises:
            StoreUnavailable: The store gave no answer.
        """
        return await self._runner.run(self._operations.erasures(run_id))

    async def delete_run(self, run_id: str, *, detach: bool = False) -> bool:
        """Remove all that this store holds of a run.

        Args:
            run_id: The run.
            detach: Give each of its forks a copy of its own of all that it shares, first.

        Returns:
            False if there was nothing.

        Raises:
            DurabilityNotReached: It was done, and is not as durable as it should be; the same call waits again.
            RunHasForks: Runs that were forked from it need its history, and ``detach`` is not set; it is left as
                it is.
            LeaseHeld: A lease of it is in force.
            StoreUnavailable: There was no answer: the run may be deleted or not; the same call may be made again.
        """
        delete = partial(self._operations.delete_run, run_id)
        return await self._runner.run(without_forks(delete, self._operations.detach if detach else None))

    async def forget(self, run_id: str) -> None:
        """Accept a run as the store has it now: the way on after AcknowledgedWritesLost or HistoryDiverged.

        What this store object saw of the run is forgotten; events that it knows to be lost are not put back.

        Args:
            run_id: The run.
        """
        await self._runner.run(self._operations.forget(run_id))


class AsyncSnapshotStore(AsyncStore[E, S]):
    """A store for asyncio that also keeps earlier snapshots, to show a run as it was: the tiered store.

    Of a run that a drain worker archives, it has the snapshots that were the latest when a worker read the run.
    """

    _snapshots: KeepsSnapshots[S]

    async def snapshot_lanes(self, run_id: str) -> list[str | None]:
        """The lanes of which snapshots are kept.

        Args:
            run_id: The run.

        Returns:
            The lanes; first None, if there are snapshots of the run's own.

        Raises:
            StoreUnavailable: The store gave no answer.
        """
        return await self._runner.run(self._operations.snapshot_lanes(run_id))

    def snapshot_history(self, run_id: str, *, lane_id: str | None = None) -> AsyncIterator[Snapshot[S]]:
        """The snapshots that are kept of a run, or of one lane of it, in the order in which they were saved.

        Args:
            run_id: The run.
            lane_id: The lane whose snapshots are wanted; None: the run's own.

        Raises:
            CorruptRecordError: One does not read.
            EventRefused: The store's class for states refuses one.
            StoreUnavailable: The store gave no answer.
        """
        return self._runner.iterate(self._snapshots.snapshot_history(run_id, lane_id))

    async def snapshot_at(self, run_id: str, offset: int, *, lane_id: str | None = None) -> Snapshot[S] | None:
        """The latest snapshot of a run, or of one lane of it, that covers no event after an offset.

        The snapshot and the events from the offset that it covers up to ``offset`` show the run as it was then. Of
        several that cover the same, it is the last.

        Args:
            run_id: The run.
            offset: The offset, 0 or more.
            lane_id: The lane whose snapshots are meant; None: the run's own.

        Returns:
            The snapshot, or None if every one that is kept covers more.

        Raises:
            CorruptRecordError: It does not read.
            EventRefused: The store's class for states refuses it.
            StoreUnavailable: The store gave no answer.
        """
        return await self._runner.run(self._snapshots.snapshot_at(run_id, offset, lane_id))
