"""The operations of a Redis store: the interface of every store, with each operation in its own module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Self, TypeVar

from runstream.codec.event_codec import Codec
from runstream.model.archive_records import ArchiveEntry, RunHeader
from runstream.model.durability import PRIMARY, Durability
from runstream.model.erasures import Erasure, Spans
from runstream.model.identifiers import check_run_id, event_run_id
from runstream.model.protocols import Leased
from runstream.model.questions import Inbox, Question
from runstream.model.results import (
    ArchivingHealth,
    Cursor,
    E,
    Fork,
    LaneInfo,
    LeaseGrant,
    Recorded,
    Recovery,
    RunInfo,
    S,
    Snapshot,
    SnapshotInfo,
)
from runstream.model.run_head import RunHead, RunStart
from runstream.operations.arguments import (
    AppendOptions,
    FollowQuery,
    LeaseRequest,
    ReadQuery,
    RunsQuery,
    StateChange,
    group_by_run,
)
from runstream.operations.erase_arguments import Beside, EraseOptions, TruncateOptions
from runstream.operations.follow_runs import FollowRunsQuery, following_runs
from runstream.operations.interface import AppendResult
from runstream.operations.lane_facts import HotLanes
from runstream.operations.operation import Command, Operation, Stream
from runstream.operations.run_forks import Brought, ForkOptions, by_offset
from runstream.stores.redis.operations.admin.health import archiving_health
from runstream.stores.redis.operations.admin.status import snapshot_lanes
from runstream.stores.redis.operations.client import (
    append,
    detach,
    erase,
    fork,
    inbox,
    lanes,
    leases,
    look_ups,
    read,
    recover,
    runs,
    snapshots,
    update_state,
)
from runstream.stores.redis.operations.client.continuing import Continuing
from runstream.stores.redis.operations.client.durability import durably
from runstream.stores.redis.operations.client.list_events import list_events
from runstream.stores.redis.operations.worker.detached import detached_header, once_shared
from runstream.stores.redis.operations.worker.load import load_runs
from runstream.stores.redis.operations.worker.noted_forks import living_forks, noted_forks
from runstream.stores.redis.scripts.calls import calls_one_of, is_append
from runstream.stores.redis.session.session import Session

__all__ = ["RedisOperations"]

T = TypeVar("T")

_FORKS, _DELETES, _ERASES = calls_one_of("fork_intent", "fork"), calls_one_of("delete"), calls_one_of("erase")
_AT_THE_END = calls_one_of()
"""A copy of many steps is waited for once, and looked for again before its parent is let go."""


class RedisOperations(Generic[E, S]):
    """The operations of one Redis store object, over its session."""

    def __init__(self, session: Session[E, S]) -> None:
        self.session = session

    @property
    def codec(self) -> Codec[E, S]:
        """Makes events and states of the store's types, and encodes them."""
        return self.session.codec

    def for_one_writer(self) -> Self:
        """The same store for one more writer, with its own coverage and snapshots."""
        return type(self)(self.session.for_one_writer())

    def save_event(self, event: E) -> Operation[Any]:
        """Append one event to the run that it names."""
        operation = append.save_event(self.session, event)
        if self.session.durability == PRIMARY:  # an agent waits for this at every event
            return operation
        return self._durably(operation, event_run_id(event))

    def save_events(self, events: Iterable[E]) -> Operation[Any]:
        """Append events to the runs that they name: each run's in one atomic step, all in one round trip."""
        groups = group_by_run(events)
        return self._durably(append.save_events(self.session, groups), *groups)

    def append(self, run_id: str, events: Iterable[E], options: AppendOptions[S]) -> Operation[AppendResult]:
        """Append events to a run, and save a snapshot with them, in one atomic step."""
        operation = append.append(self.session, run_id, events, options)
        return self._durably(operation, run_id, durability=options.durability)

    def _durably(
        self,
        operation: Operation[T],
        *run_ids: str,
        durability: str | None = None,
        writes: Callable[[Command], bool] = is_append,
    ) -> Operation[T]:
        """An operation that writes to these runs, and waits for the durability; None: that of the store."""
        wanted = self.session.durability if durability is None else Durability.parse(durability)
        return operation if wanted == PRIMARY else durably(self.session, operation, wanted, run_ids, writes)

    def read(self, run_id: str, query: ReadQuery) -> Stream:
        """The events between two offsets, as they are at the first exchange."""
        return read.read(self.session, run_id, query)

    def follow(self, run_id: str, query: FollowQuery) -> Stream:
        """History, then live events."""
        return read.follow(self.session, run_id, query)

    def follow_runs(self, query: FollowRunsQuery) -> Stream:
        """The events of many runs: history, then live."""
        return following_runs(
            query,
            self.runs,
            lambda run_id, after: self.follow(run_id, FollowQuery(after)),
            self.was_deleted,
            self.session.clock,
        )

    def list_events(self, run_id: str, since_seq: int) -> Operation[list[E]]:
        """The events whose ``seq`` is over ``since_seq``, in log order."""
        return list_events(self.session, run_id, since_seq)

    def find(self, run_id: str, keys: Iterable[str]) -> Operation[list[int | None]]:
        """The offsets of the events that have these keys; None for a key that the run does not know."""
        return look_ups.find(self.session, run_id, keys)

    def read_at(self, run_id: str, offsets: Iterable[int]) -> Operation[list[Recorded[E]]]:
        """The events at these offsets, in the order in which they are asked for."""
        return look_ups.read_at(self.session, run_id, offsets)

    def save_snapshot(self, run_id: str, state: S, lane_id: str | None, lease: Leased | None) -> Operation[None]:
        """Replace the snapshot of a run, or of one lane of it, whoever saved the one before."""
        return self._durably(append.save_snapshot(self.session, run_id, state, lane_id, lease), run_id)

    def load_snapshot(self, run_id: str, lane_id: str | None) -> Operation[Snapshot[S] | None]:
        """The latest snapshot of a run, or of one lane of it."""
        return snapshots.load_snapshot(self.session, run_id, lane_id)

    def update_state(self, run_id: str, change: Callable[[S], S | None], how: StateChange) -> Operation[S]:
        """Load a run's state, change it, and save it unless another was saved in between; then again."""
        return self._durably(update_state.update_state(self.session, run_id, change, how), run_id)

    def recover(self, run_id: str, lane_id: str | None) -> Operation[Recovery[S, E]]:
        """The latest snapshot and the events after it."""
        return recover.recover(self.session, run_id, lane_id)

    def take_lease(self, request: LeaseRequest) -> Operation[LeaseGrant]:
        """Take a lease, without waiting."""
        return leases.take_lease(self.session, request)

    def renew_lease(self, grant: LeaseGrant) -> Operation[None]:
        """Extend a lease to its full ttl from now on."""
        return leases.renew_lease(self.session, grant)

    def release_lease(self, grant: LeaseGrant) -> Operation[None]:
        """Give a lease back, unless it has passed on already."""
        return leases.release_lease(self.session, grant)

    def last_seq(self, run_id: str, lane_id: str) -> Operation[int]:
        """The ``seq`` of a lane's last event; 0 for a lane without one."""
        return recover.last_seq(self.session, run_id, lane_id)

    def inbox(self, run_id: str) -> Operation[Inbox]:
        """What people were asked about a run, and have said to it."""
        return inbox.inbox(self.session, run_id)

    def wait_for_news(self, run_id: str, known: Inbox, seconds: float | None) -> Stream:
        """Wait until there may be something new in a run's inbox."""
        return inbox.wait_for_news(self.session, run_id, known, seconds)

    def load_answer(self, run_id: str, question: Question) -> Operation[E | None]:
        """The event that answers a question."""
        return inbox.load_answer(self.session, run_id, question)

    def kept_snapshots(self, run_id: str, lane_id: str | None) -> Operation[list[SnapshotInfo]]:
        """The latest snapshot of the run, or of one lane of it, without its state."""
        return snapshots.kept_snapshots(self.session, run_id, lane_id)

    def snapshot_lanes(self, run_id: str) -> Operation[list[str | None]]:
        """The lanes of which Redis has a snapshot; first None, for the run's own."""
        return snapshot_lanes(self.session.keys, run_id)

    def lanes(self, run_id: str) -> Operation[list[LaneInfo]]:
        """The lanes of a run, by name."""
        return lanes.lanes(self.session, run_id)

    def hot_lanes(self, run_id: str) -> Operation[HotLanes]:
        """What Redis tells of the lanes of a run."""
        return lanes.hot_lanes(self.session, run_id)

    def run_info(self, run_id: str) -> Operation[RunInfo | None]:
        """What is known of a run."""
        return runs.run_info(self.session, run_id)

    def runs(self, query: RunsQuery) -> Stream:
        """The runs that match, the most recently updated first."""
        return runs.runs(self.session, query)

    def list_runs(self) -> Operation[list[str]]:
        """The ids of all runs, the most recently updated first."""
        return runs.list_runs(self.session)

    def forks(self, run_id: str) -> Operation[list[Fork]]:
        """The runs that a run has noted as its forks."""
        check_run_id(run_id)
        return by_offset((yield from noted_forks(self.session.keys, run_id)))

    def living_forks(self, run_id: str) -> Operation[list[Fork]]:
        """Those of them that are there, or about to be made."""
        return living_forks(self.session.keys, run_id)

    def archiving_health(self, lag_seconds: float) -> Operation[ArchivingHealth]:
        """How the archiving of the namespace stands."""
        return archiving_health(self.session.keys, lag_seconds)

    def fork(self, run_id: str, new_run_id: str, options: ForkOptions) -> Operation[RunInfo]:
        """Make a run that shares this one's history up to an offset."""
        return self.fork_brought(run_id, new_run_id, options, None)

    def detach(self, run_id: str, of: str) -> Operation[None]:
        """Give a fork of a run a copy of its own of all that it shares."""
        yield from self._durably(detach.detach(self.session, run_id, of), run_id, writes=_AT_THE_END)
        yield from detach.let_go(self.session.keys, run_id, of)

    def erase(self, run_id: str, spans: Spans, options: EraseOptions) -> Operation[Erasure]:
        """Erase the content at these offsets for good."""
        return self._durably(erase.erase(self.session, run_id, spans, options), run_id, writes=_ERASES)

    def truncate(self, run_id: str, before: int, options: TruncateOptions) -> Operation[Erasure]:
        """Remove the events before an offset."""
        return self._durably(erase.truncate(self.session, run_id, before, options), run_id, writes=_ERASES)

    def erasures(self, run_id: str) -> Operation[list[Erasure]]:
        """What was asked to be erased of a run."""
        return erase.erasures(self.session, run_id)

    def delete_run(self, run_id: str) -> Operation[bool]:
        """Remove all that Redis holds of a run."""
        return self._durably(runs.delete_run(self.session, run_id), run_id, writes=_DELETES)

    def forget(self, run_id: str) -> Operation[None]:
        """Forget what this store saw of a run, so that it is taken as it is now."""
        self.session.forget(run_id)
        yield from ()

    # -- for a store that has an archive beside it -------------------------------------------------

    def find_here(self, run_id: str, keys: Sequence[str]) -> Operation[list[int | None] | None]:
        """The offsets of the events that have these keys, which were checked; None if the run is not in Redis."""
        return look_ups.find_here(self.session, run_id, keys)

    def mark_recovered(self, run_id: str, offset: int, lane_id: str | None) -> Operation[None]:
        """Mark events up to an offset as known to this writer, so that its next snapshot covers them."""
        return recover.mark_recovered(self.session, run_id, offset, lane_id)

    def retired_token(self, run_id: str, lane_id: str | None) -> Operation[tuple[str, RunStart]]:
        """The token that stands for a snapshot that was retired, '' for none, and where the run begins."""
        return recover.retired_token(self.session, run_id, lane_id)

    def run_info_after(self, run_id: str, end: Cursor | None) -> Operation[tuple[RunInfo | None, bool, int]]:
        """What is known of a run, whether what Redis has may go on from a cursor, and where the run begins."""
        return runs.run_info_after(self.session, run_id, end)

    def continuing(self, end: Cursor | None) -> Continuing[E, S]:
        """Reads of runs that go on in Redis from where an archive ends; None: it does not know them."""
        return Continuing(self.session, end)

    def fork_brought(
        self, run_id: str, new_run_id: str, options: ForkOptions, brought: Brought | None
    ) -> Operation[RunInfo]:
        """``fork``, with what an archive knows of the run."""
        forking = fork.fork(self.session, run_id, new_run_id, options, brought)
        return self._durably(forking, new_run_id, run_id, writes=_FORKS)

    def detach_brought(self, run_id: str, of: str, archive_id: str) -> Operation[RunHeader | None]:
        """Detach a fork of a run, some of which may be in that archive; its header, or None if it was none."""
        yield from self._durably(detach.detach(self.session, run_id, of, archive_id), run_id, writes=_AT_THE_END)
        return (yield from detached_header(self.session.keys, run_id))

    def once_shared(self, header: RunHeader, after: int) -> Operation[list[ArchiveEntry]]:
        """What a run that was a fork had shared, after an offset, as far as it is here."""
        return once_shared(self.session.keys, header, after)

    def let_go(self, run_id: str, of: str) -> Operation[None]:
        """Let a run not count another one as its fork any more, which was detached from it."""
        return detach.let_go(self.session.keys, run_id, of)

    def head_of(self, run_id: str) -> Operation[RunHead | None]:
        """Where a run stands, and what it comes from; None for a run that is not there."""
        return recover.head_of(self.session, run_id)

    def to_be_erased(self, run_id: str) -> Operation[Spans]:
        """The offsets of a run whose content is to be erased, and that an archive may have still."""
        return erase.to_be_erased(self.session, run_id)

    def head_with_snapshots(self, run_id: str) -> Operation[RunHead | None]:
        """Where a run stands, with its latest snapshots; None for a run that is not there."""
        (run,) = yield from load_runs(self.session.keys, [run_id])
        return None if run is None else run.head

    def erase_beside(self, run_id: str, spans: Spans, options: EraseOptions, beside: Beside) -> Operation[Erasure]:
        """``erase``, given what is known of an archive."""
        return self._durably(erase.erase(self.session, run_id, spans, options, beside), run_id, writes=_ERASES)

    def truncate_beside(
        self, run_id: str, before: int, options: TruncateOptions, beside: Beside
    ) -> Operation[Erasure]:
        """``truncate``, given what is known of an archive."""
        truncating = erase.truncate(self.session, run_id, before, options, beside)
        return self._durably(truncating, run_id, writes=_ERASES)

    def creation_to_delete(self, run_id: str) -> Operation[int | None]:
        """Names the run that is to be deleted; where it is not there any more, the last one that was."""
        head = yield from recover.head_of(self.session, run_id)
        return self.session.in_flight.deletion_of(run_id, None if head is None else head.creation)

    def was_deleted(self, run_id: str) -> Operation[bool]:
        """Whether the run of that name that this store saw last has been deleted since."""
        return runs.was_deleted(self.session, run_id)

    def update_archived(
        self, run_id: str, change: Callable[[S], S | None], archived: Snapshot[S] | None, how: StateChange
    ) -> Operation[S]:
        """``update_state`` of a run whose snapshot was retired, from the one that an archive has (None: none).

        What is saved covers what the former snapshot covers, though that be less than what has left Redis.

        Raises:
            EventsArchived: That is not the snapshot that was retired last.
        """
        former = update_state.Archived(archived)
        return self._durably(update_state.update_state(self.session, run_id, change, how, former), run_id)

    def known_to(self, run_id: str, lane_id: str | None) -> int:
        """Up to where this writer knows a run, or one lane of it, without a hole."""
        return self.session.coverage.covered(run_id, lane_id).offset

    def known_snapshot(self, run_id: str, lane_id: str | None) -> tuple[str, int]:
        """Token and revision of the snapshot that this writer saved or loaded last; ``("", 0)`` for none."""
        token, revision, _ = self.session.snapshots.get(run_id, lane_id)
        return token, revision

    def note_snapshot(self, run_id: str, lane_id: str | None, token: str, revision: int) -> None:
        """Note a snapshot that this writer has from elsewhere, as the one that its next one is made from."""
        self.session.snapshots.put(run_id, lane_id, token, revision, None)

    def note_loaded(self, run_id: str, lane_id: str | None, start: RunStart, offset: int) -> None:
        """Note that this writer has loaded a snapshot from elsewhere that covers the history up to an offset."""
        self.session.coverage.loaded(run_id, lane_id, start, offset)
