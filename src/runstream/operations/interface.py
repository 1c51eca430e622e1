"""The one interface that every store implements: its operations.

Everything that a user sees of a store is in the two facades (:mod:`runstream.stores.facade`,
:mod:`runstream.stores.async_facade`), which run these operations. Checks of a call's arguments belong to the
operation, so that both facades share them; each docstring of :class:`~runstream.stores.facade.Store` says what
its operation promises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, Self, runtime_checkable

from runstream.codec.event_codec import Codec
from runstream.model.erasures import Erasure, Spans
from runstream.model.protocols import Leased
from runstream.model.questions import Inbox, Question
from runstream.model.results import (
    Appended,
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
from runstream.operations.arguments import (
    AppendOptions,
    FollowQuery,
    LeaseRequest,
    ReadQuery,
    RunsQuery,
    StateChange,
)
from runstream.operations.erase_arguments import EraseOptions, TruncateOptions
from runstream.operations.follow_runs import FollowRunsQuery
from runstream.operations.operation import Operation, Stream
from runstream.operations.run_forks import ForkOptions

__all__ = ["AppendResult", "IsArchived", "KeepsSnapshots", "RunElsewhere", "StoreOperations"]


class RunElsewhere(Exception):
    """A run is not where it was read from, or does not go on there from where an archive ends.

    Whoever has both stores finds out what it is.
    """


class AppendResult(Protocol):
    """The result of an append: the fields of :class:`~runstream.model.results.Placement`."""

    @property
    def appended(self) -> Appended:
        """The offsets of the first and the last event."""

    @property
    def cursors(self) -> Sequence[Cursor]:
        """The cursor of each event."""

    @property
    def known(self) -> frozenset[int]:
        """The indexes of the events whose keys were known."""


class StoreOperations(Protocol[E, S]):
    """The operations of a store."""

    @property
    def codec(self) -> Codec[E, S]:
        """Makes events and states of the store's types, and encodes them."""

    def for_one_writer(self) -> Self:
        """The same store for one more writer, with its own coverage and snapshots."""

    def save_event(self, event: E) -> Operation[Any]:
        """Append one event to the run that it names."""

    def save_events(self, events: Iterable[E]) -> Operation[None]:
        """Append events to the runs that they name, each run's in one atomic step."""

    def append(self, run_id: str, events: Iterable[E], options: AppendOptions[S]) -> Operation[AppendResult]:
        """Append events to a run, and save a snapshot with them, in one atomic step."""

    def read(self, run_id: str, query: ReadQuery) -> Stream:
        """The events between two offsets, as they are at the first step."""

    def follow(self, run_id: str, query: FollowQuery) -> Stream:
        """History, then live events."""

    def follow_runs(self, query: FollowRunsQuery) -> Stream:
        """The events of many runs, each with its run id: history, then live."""

    def list_events(self, run_id: str, since_seq: int) -> Operation[list[E]]:
        """The events whose ``seq`` is over ``since_seq``, in log order."""

    def find(self, run_id: str, keys: Iterable[str]) -> Operation[list[int | None]]:
        """The offsets of the events that have these keys; None for a key that the run does not know."""

    def read_at(self, run_id: str, offsets: Iterable[int]) -> Operation[list[Recorded[E]]]:
        """The events at these offsets, in the order in which they are asked for."""

    def save_snapshot(self, run_id: str, state: S, lane_id: str | None, lease: Leased | None) -> Operation[None]:
        """Replace the snapshot of a run, or of one lane of it, whoever saved the one before."""

    def load_snapshot(self, run_id: str, lane_id: str | None) -> Operation[Snapshot[S] | None]:
        """The latest snapshot of a run, or of one lane of it."""

    def update_state(self, run_id: str, change: Callable[[S], S | None], how: StateChange) -> Operation[S]:
        """Load a run's state, change it, and save it unless another was saved in between; then again."""

    def recover(self, run_id: str, lane_id: str | None) -> Operation[Recovery[S, E]]:
        """The latest snapshot and the events after it."""

    def take_lease(self, request: LeaseRequest) -> Operation[LeaseGrant]:
        """Take a lease, without waiting. Raises LeaseHeld where another is in the way."""

    def renew_lease(self, grant: LeaseGrant) -> Operation[None]:
        """Extend a lease to its full ttl from now on. Raises LeaseLost where it has passed on or run out."""

    def release_lease(self, grant: LeaseGrant) -> Operation[None]:
        """Give a lease back, unless it has passed on already."""

    def last_seq(self, run_id: str, lane_id: str) -> Operation[int]:
        """The ``seq`` of a lane's last event, archived or not; 0 for a lane without one."""

    def inbox(self, run_id: str) -> Operation[Inbox]:
        """What people were asked about a run, and have said to it. Raises ConfigurationError in an archive."""

    def wait_for_news(self, run_id: str, known: Inbox, seconds: float | None) -> Stream:
        """Wait until there may be something new in a run's inbox, for so many seconds at most; gives nothing."""

    def load_answer(self, run_id: str, question: Question) -> Operation[E | None]:
        """The event that answers a question, which counts as known to this writer; None if it is gone since."""

    def kept_snapshots(self, run_id: str, lane_id: str | None) -> Operation[list[SnapshotInfo]]:
        """The kept snapshots of a run, or of one lane of it, without their states: the highest offset first."""

    def snapshot_lanes(self, run_id: str) -> Operation[list[str | None]]:
        """The lanes of which snapshots are here; first None, if there are some of the run's own."""

    def lanes(self, run_id: str) -> Operation[list[LaneInfo]]:
        """The lanes of a run, by name."""

    def run_info(self, run_id: str) -> Operation[RunInfo | None]:
        """What is known of a run."""

    def runs(self, query: RunsQuery) -> Stream:
        """The runs that match, the most recently updated first."""

    def list_runs(self) -> Operation[list[str]]:
        """The ids of all runs, the most recently updated first."""

    def forks(self, run_id: str) -> Operation[list[Fork]]:
        """The runs that were forked from a run, by the offset at which; one or the other may be gone since."""

    def fork(self, run_id: str, new_run_id: str, options: ForkOptions) -> Operation[RunInfo]:
        """Make a run that shares this one's history up to an offset."""

    def detach(self, run_id: str, of: str) -> Operation[None]:
        """Give a fork of a run a copy of its own of all that it shares: it is a fork no more."""

    def delete_run(self, run_id: str) -> Operation[bool]:
        """Remove all that the store holds of a run. Raises RunHasForks where others need its history."""

    def erase(self, run_id: str, spans: Spans, options: EraseOptions) -> Operation[Erasure]:
        """Erase the content at these offsets for good; offsets, chains and callers' keys stay."""

    def truncate(self, run_id: str, before: int, options: TruncateOptions) -> Operation[Erasure]:
        """Remove the events before an offset: the history begins with it from then on."""

    def erasures(self, run_id: str) -> Operation[list[Erasure]]:
        """What was asked to be erased of a run, and what is done of it where; tries what could not be done yet."""

    def forget(self, run_id: str) -> Operation[None]:
        """Forget what this store saw of a run, so that it is taken as it is now."""


@runtime_checkable
class IsArchived(Protocol):
    """The operations of a store out of which a drain worker moves what it has archived."""

    def archiving_health(self, lag_seconds: float) -> Operation[ArchivingHealth]:
        """How that stands."""


@runtime_checkable
class KeepsSnapshots(Protocol[S]):
    """The operations of a store that keeps earlier snapshots, to show a run as it was."""

    def snapshot_history(self, run_id: str, lane_id: str | None) -> Stream:
        """The snapshots that are kept of a run, or of one lane of it, in the order in which they were saved."""

    def snapshot_at(self, run_id: str, offset: int, lane_id: str | None) -> Operation[Snapshot[S] | None]:
        """The latest snapshot that covers no event after an offset."""
