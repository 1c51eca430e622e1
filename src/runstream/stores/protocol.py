"""The Protocols of stores: what every store here offers, by its methods alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Protocol, Self, overload, runtime_checkable

from runstream.model.erasures import Erasure
from runstream.model.events import EventKind, Visibility
from runstream.model.identifiers import MAIN_LANE
from runstream.model.protocols import Checkpointer, Leased, OnCorrupt, RawEvent
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
from runstream.run.lease import Lease
from runstream.run.run import Run
from runstream.stores.async_facade import AsyncStore

__all__ = ["AsyncRunStore", "RunStore"]

AsyncRunStore = AsyncStore
"""What every store for asyncio offers: the methods of :class:`RunStore`, as coroutines."""


@runtime_checkable
class RunStore(Checkpointer[E, S], Protocol[E, S]):
    """What every store here offers beyond the four methods; :class:`~runstream.stores.facade.Store` says how.

    Each store is a context manager that closes it.
    """

    def save_events(self, events: Iterable[E]) -> None:
        """Append events to the runs that they name, each run's in one atomic step, in order."""

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
        snapshots: Mapping[str | None, S] | None = None,
        end_lanes: Sequence[str] = (),
        tags: TagChanges | None = None,
        durability: str | None = None,
    ) -> Appended:
        """Append events to a run, and save snapshots with them, in one atomic step: nothing of it, or all."""

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
    ) -> Iterator[Recorded[E]]: ...
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
    ) -> Iterator[Recorded[E | RawEvent]]: ...
    def read(
        self,
        run_id: str,
        after: int | str = 0,
        *,
        before: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        on_corrupt: OnCorrupt = "raise",
    ) -> Iterator[Recorded[Any]]:
        """Read the events with ``after < offset < before``, as they are when the first of them is taken."""

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
        """Read a run's history, then follow it live; ends when the run has ended and all was given."""

    def find(self, run_id: str, keys: Iterable[str]) -> list[int | None]:
        """The offsets of the events that have these keys; None for a key that the run does not know."""

    def read_at(self, run_id: str, offsets: Iterable[int]) -> list[Recorded[E]]:
        """The events at these offsets, in the order in which they are asked for."""

    def follow_runs(
        self,
        run_ids: Iterable[str] | None = None,
        *,
        session_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        after: Mapping[str, int | str] | None = None,
        idle_timeout: float | None = None,
    ) -> Iterator[tuple[str, Recorded[E]]]:
        """Follow many runs at once: the history of each, then what comes; new runs join as they appear."""

    def save_snapshot(
        self, run_id: str, state: S, *, lane_id: str | None = None, lease: Leased | None = None
    ) -> None:
        """Replace the snapshot of a run, or of one lane of it, whoever saved the one before."""

    def load_snapshot(self, run_id: str, *, lane_id: str | None = None) -> Snapshot[S] | None:
        """The latest snapshot of a run, or of one lane of it, with the offset that it covers; None without one."""

    def kept_snapshots(self, run_id: str, *, lane_id: str | None = None) -> list[SnapshotInfo]:
        """The kept snapshots of a run, or of one lane of it, without their states: the highest offset first."""

    def update_state(
        self, run_id: str, change: Callable[[S], S | None], *, attempts: int = 10, lease: Leased | None = None
    ) -> S:
        """Load a run's state, change it, and save it unless another was saved in between; then again."""

    def recover(self, run_id: str, *, lane_id: str | None = None) -> Recovery[S, E]:
        """The latest snapshot and the events after it: what resumes a run, or one lane of it."""

    def lease(
        self,
        run_id: str,
        *,
        owner: str,
        lane_id: str | None = None,
        ttl: float = 30.0,
        wait: float = 0.0,
    ) -> Lease[E, S]:
        """Take the sole right to write one lane of a run, or the whole run."""

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
    ) -> Run[E, S]:
        """Recover one lane of a run, new or not, and go on with it; writes no event, no state, only tags."""

    def answer(
        self, run_id: str, answer: Any, *, lane_id: str | None = None, question_id: str | None = None
    ) -> Recorded[E]:
        """Answer the question that a run waits with, from any process; a second answer gives the first."""

    def request_cancel(self, run_id: str, reason: str = "") -> Recorded[E]:
        """Ask a run to stop: its Runs raise RunCancelled at their next emit or wait, and it ends as cancelled."""

    def diff(self, run_id: str, other_run_id: str) -> RunDiff[E]:
        """How two runs differ: where they part, what each has from there, and what their states differ in."""

    def lanes(self, run_id: str) -> list[LaneInfo]:
        """The lanes of a run, by name: where each stands, whether it has ended, and who holds it."""

    def run_info(self, run_id: str) -> RunInfo | None:
        """What is known of a run without reading it; None for one that is not there."""

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
    ) -> Iterator[RunInfo]:
        """The runs that match, the most recently updated first; in pages by creation."""

    def list_runs(self) -> list[str]:
        """The ids of all runs, the most recently updated first."""

    def forks(self, run_id: str) -> list[Fork]:
        """The runs that were forked from a run, as far as the store knows, in the order of the offsets."""

    def ancestors(self, run_id: str) -> list[Fork]:
        """The runs that a run comes from, the nearest first, each with the offset at which the next parts."""

    def archiving_health(self, *, lag_seconds: float = 300.0) -> ArchivingHealth:
        """How the archiving of what the store has in Redis stands."""

    def fork(
        self, run_id: str, new_run_id: str, *, at: int | None = None, tags: Mapping[str, str] | None = None
    ) -> RunInfo:
        """Make a run that shares this one's history up to an offset, and goes on from there by itself."""

    def erase(
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
        """Erase the content of events for good; their offsets, chains and keys stay."""

    def truncate(self, run_id: str, *, before: int, detach: bool = False, lease: Leased | None = None) -> Erasure:
        """Remove the events before an offset for good: the history of the run begins with it from then on."""

    def erasures(self, run_id: str) -> list[Erasure]:
        """What was asked to be erased of a run or truncated, and what has become of it, place by place."""

    def delete_run(self, run_id: str, *, detach: bool = False) -> bool:
        """Remove all that this store holds of a run."""

    def forget(self, run_id: str) -> None:
        """Accept a run as the store has it now: the way on after AcknowledgedWritesLost or HistoryDiverged."""

    def close(self) -> None:
        """Give back what the store holds open. Closing twice is fine."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
