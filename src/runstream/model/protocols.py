"""The Protocols that stores and archives speak."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias, runtime_checkable

from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, Position, RunBatch, RunHeader
from runstream.model.awaitable import Opening
from runstream.model.events import EventKind, Visibility
from runstream.model.results import (
    Appended,
    Cursor,
    DeltaBuffer,
    E,
    LeaseGrant,
    Recorded,
    Recovery,
    RunInfo,
    S,
    Snapshot,
)

if TYPE_CHECKING:
    # the handles that stores give out: named here, made there
    from runstream.run import AsyncRun, Run
    from runstream.run.lease import AsyncLease, Lease

__all__ = [
    "AsyncRunStore",
    "Checkpointer",
    "Fallback",
    "Leased",
    "MendableSink",
    "OnCorrupt",
    "RunStore",
    "Sink",
    "SnapshotHistory",
]

Fallback: TypeAlias = Callable[[Any], Any]
"""Turns a value that cannot be stored as it is into one that can, or raises TypeError."""

OnCorrupt: TypeAlias = Literal["raise", "skip"]
"""What ``read`` does at a record that does not read: raise CorruptRecordError, or pass over it."""


@runtime_checkable
class Checkpointer(Protocol[E, S]):
    """The four methods of purpose-agent's runtime."""

    def save_event(self, event: E) -> None:
        """Append one event to its run. It is kept when this returns."""

    def save_snapshot(self, run_id: str, state: S) -> None:
        """Replace the run's snapshot."""

    def load_latest(self, run_id: str) -> S | None:
        """The state of the run's latest snapshot, never the object that was saved; None without one."""

    def list_events(self, run_id: str, since_seq: int = 0) -> list[E]:
        """The events with ``seq > since_seq`` in log order; all of them for ``since_seq <= 0``."""


class Leased(Protocol):
    """What carries a lease: the Lease itself, or the Run that holds it."""

    @property
    def grant(self) -> LeaseGrant | None:
        """The lease as its store gave it; None for a Run without one."""


@runtime_checkable
class RunStore(Checkpointer[E, S], Protocol[E, S]):
    """What every store here offers beyond the four. Each store is a context manager that closes it."""

    def save_events(self, events: Iterable[E]) -> None:
        """Append events to their runs, each run's in one atomic step, in order.

        All are checked and encoded before the first is written. Raises EncodingError, PayloadTooLarge or
        InvalidRunId for what cannot be stored, StoreUnavailable where the outcome is unknown.
        """

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
        """Append events to a run, and save a snapshot with them, in one atomic step.

        With ``expected_offset`` the events land right after that offset, or ConcurrencyConflict is
        raised and nothing is written, as it is if another snapshot was saved since this writer's.
        ``keys`` has one key, or None, per event: an event whose key the run knows is not written again,
        whoever wrote it and wherever it lies by now, and an append of nothing but such events writes
        nothing, its snapshot included. ``lease`` makes it valid only as long as that lease is the newest:
        LeaseLost if it is not, LeaseHeld where another's lease is in the way. ``lane_id`` says whose
        snapshot it is: a lane's, or, if None, the run's. Raises what ``save_events`` raises.
        """

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

        ``after`` is an offset, or a cursor, which is checked: HistoryDiverged if the history at that
        place is another one. ``reverse`` gives the newest first; ``limit`` counts from there. Raises
        EventsArchived for events that this store no longer has, CorruptRecordError at a record that
        does not read unless ``on_corrupt="skip"``.
        """

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
        """History, then live. Ends when the run has ended and all was given.

        Raises TimeoutError after ``idle_timeout`` seconds in which there was no event to give.
        """

    def save_snapshot(
        self, run_id: str, state: S, *, lane_id: str | None = None, lease: Leased | None = None
    ) -> None:
        """Replace the snapshot of the run, or of one lane of it, whoever saved the one before."""

    def load_snapshot(self, run_id: str, *, lane_id: str | None = None) -> Snapshot[S] | None:
        """The latest snapshot of the run, or of one lane of it."""

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
        saved. Raises ConcurrencyConflict after so many attempts.
        """

    def recover(self, run_id: str, *, lane_id: str | None = None) -> Recovery[S, E]:
        """The latest snapshot and the events after it; with ``lane_id``, of that lane."""

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

        It is a context manager that gives the lease back at the end, and renews itself in the background;
        it runs out ``ttl`` seconds after the last renewal, by the store's clock. ``owner`` names who holds
        it: the same owner, restarted, gets its lease back at once, and the former one is lost. While
        somebody else has one that is in the way, this waits up to ``wait`` seconds, then raises LeaseHeld.
        Raises ConfigurationError on a store that has no leases.
        """

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

        With ``lease_ttl`` it holds a lease on the lane, for ``owner``, as ``lease`` gives it. ``deltas``
        lets it hold text back for a moment; see :class:`~runstream.run.Run`.
        """

    def run_info(self, run_id: str) -> RunInfo | None:
        """What is known of a run, or None for one that is not there."""

    def runs(
        self,
        *,
        session_id: str | None = None,
        status: str | None = None,
        updated_after: float | None = None,
        limit: int | None = None,
    ) -> Iterator[RunInfo]:
        """The runs that match, the most recently updated first. ``updated_after`` is Unix time in seconds."""

    def list_runs(self) -> list[str]:
        """The ids of all runs, the most recently updated first."""

    def delete_run(self, run_id: str) -> bool:
        """Remove all that this store holds of a run. False if there was nothing."""

    def forget(self, run_id: str) -> None:
        """Take a run's present as it is: the way on after AcknowledgedWritesLost or HistoryDiverged.

        What this store object knew of the run is forgotten; what it knows to be lost is not brought back.
        """

    def close(self) -> None:
        """Give back what the store holds open. Closing twice is fine."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class AsyncRunStore(Protocol[E, S]):
    """:class:`RunStore`, awaited: the same methods, the same meaning; each store is an async context manager.

    What ``lease`` and ``open_run`` give is awaited, or entered with ``async with``.
    """

    async def save_event(self, event: E) -> None: ...

    async def save_snapshot(
        self, run_id: str, state: S, *, lane_id: str | None = None, lease: Leased | None = None
    ) -> None: ...

    async def load_latest(self, run_id: str) -> S | None: ...

    async def list_events(self, run_id: str, since_seq: int = 0) -> list[E]: ...

    async def save_events(self, events: Iterable[E]) -> None: ...

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
    ) -> Appended: ...

    def read(
        self,
        run_id: str,
        after: int | str = 0,
        *,
        before: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        on_corrupt: OnCorrupt = "raise",
    ) -> AsyncIterator[Recorded[E]]: ...

    def follow(
        self,
        run_id: str,
        after: int | str = 0,
        *,
        idle_timeout: float | None = None,
        lane_id: str | None = None,
        kinds: Collection[EventKind | str] | None = None,
        visibility: Visibility | str | None = None,
    ) -> AsyncIterator[Recorded[E]]: ...

    async def load_snapshot(self, run_id: str, *, lane_id: str | None = None) -> Snapshot[S] | None: ...

    async def update_state(
        self,
        run_id: str,
        change: Callable[[S], S | None],
        *,
        attempts: int = 10,
        lease: Leased | None = None,
    ) -> S: ...

    async def recover(self, run_id: str, *, lane_id: str | None = None) -> Recovery[S, E]: ...

    def lease(
        self,
        run_id: str,
        *,
        owner: str,
        lane_id: str | None = None,
        ttl: float = 30.0,
        wait: float = 0.0,
    ) -> Opening[AsyncLease[E, S]]: ...

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
    ) -> Opening[AsyncRun[E, S]]: ...

    async def run_info(self, run_id: str) -> RunInfo | None: ...

    def runs(
        self,
        *,
        session_id: str | None = None,
        status: str | None = None,
        updated_after: float | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[RunInfo]: ...

    async def list_runs(self) -> list[str]: ...

    async def delete_run(self, run_id: str) -> bool: ...

    async def forget(self, run_id: str) -> None: ...

    async def close(self) -> None: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


@runtime_checkable
class Sink(Protocol):
    """An archive that a drain worker writes to. The sink's own commit is the truth of how far it is."""

    @property
    def archive_id(self) -> str:
        """The UUID of this archive: the same whoever opens it, another for every other archive."""

    @property
    def location(self) -> str:
        """Where the archive lies, as a URL, for people."""

    def position(self, run_id: str) -> Position | None:
        """How far the archive has a run; None for one that it does not know."""

    def write(self, batches: Sequence[RunBatch]) -> None:
        """Add to many runs in one transaction: durable when it returns, and idempotent.

        Checks position and chain of every run inside its own transaction: raises ArchiveGap where a
        hole would be left and HistoryDiverged where the archive has another history, and then has
        written nothing. Entries that it already has are passed over, and so is a snapshot of a lower
        revision than the one that it has: it comes from a worker that was paused.
        """

    def read_back(self, run_id: str, first: int, last: int) -> Iterator[ArchiveEntry]:
        """What the archive holds at these offsets, both included, in order, from its own medium."""

    def read_back_snapshots(self, run_id: str) -> Sequence[ArchiveSnapshot]:
        """The snapshots that the archive holds of a run, from its own medium."""

    def quarantine(self, run_id: str | None = None) -> Iterator[tuple[str, ArchiveEntry]]:
        """The records that were kept aside, of one run or of all, with their run ids."""


@runtime_checkable
class MendableSink(Sink, Protocol):
    """A sink in which a person can put right what a worker must leave alone. The drain needs none of it."""

    def header(self, run_id: str) -> RunHeader | None:
        """What the archive notes of a run; None for one that it does not know."""

    def readmit(self, run_id: str, entry: ArchiveEntry) -> bool:
        """Put an event that reads by now back in its place in the history, out of the quarantine.

        Durable when it returns. False, and nothing is changed, if the quarantine has no record at this very
        place (any more).
        """

    def cut_back(self, header: RunHeader, to: Position, expected: Cursor) -> None:
        """Take from a run what comes after ``to``, and the snapshots that ``to`` does not name.

        ``header`` is what the archive notes of the run from then on. Where it starts elsewhere than the run
        does, nothing of the run's history stays, and ``to`` is that start. Durable when it returns, as a
        whole or not at all, and idempotent. Raises ConcurrencyConflict if the run stands elsewhere than at
        ``expected``, and HistoryDiverged if it never was at ``to``; then nothing is changed.
        """


@runtime_checkable
class SnapshotHistory(Protocol):
    """A store that keeps the snapshots that it saw, to show a run as it was: an archive, the tiered store."""

    def snapshot_lanes(self, run_id: str) -> list[str | None]:
        """The lanes of which snapshots are kept, with None first where there are some of the run's own."""

    def snapshot_history(self, run_id: str, *, lane_id: str | None = None) -> Iterator[Snapshot[Any]]:
        """The snapshots that are kept of the run, or of one lane of it, in the order in which they were saved."""

    def snapshot_at(self, run_id: str, offset: int, *, lane_id: str | None = None) -> Snapshot[Any] | None:
        """The snapshot of the run, or of one lane of it, that covers most of what lies up to this offset."""
