"""The Protocols that stores and archives implement, and the types of two of their arguments."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, TypeAlias, TypeGuard, runtime_checkable

from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, Position, RunBatch
from runstream.model.results import E, LeaseGrant, S, Snapshot
from runstream.model.tags import TagSet

__all__ = [
    "Checkpointer",
    "Fallback",
    "KeepsTags",
    "Leased",
    "OnCorrupt",
    "RawEvent",
    "Sink",
    "SnapshotHistory",
    "TellsOfLanes",
    "keeps_tags",
    "tells_of_lanes",
]

Fallback: TypeAlias = Callable[[Any], Any]
"""Turns a value that cannot be stored as it is into one that can, or raises TypeError."""

OnCorrupt: TypeAlias = Literal["raise", "skip", "raw"]
"""What ``read`` does at an event that it cannot give.

That is a record that does not read (CorruptRecordError), or an event that the store's class refuses
(EventRefused).
``"raise"`` raises the error, ``"skip"`` passes over the event, ``"raw"`` gives a :data:`RawEvent` in its place.
"""

RawEvent: TypeAlias = dict[str, Any] | bytes
"""What ``read`` gives with ``on_corrupt="raw"`` in place of an event that it cannot give.

The event's fields by name, where they read and the store's class refuses them; else the record's bytes, as they
are stored. Either has the offset and the cursor that the event has.
"""


@runtime_checkable
class Checkpointer(Protocol[E, S]):
    """The four methods of purpose-agent's Protocol of this name."""

    def save_event(self, event: E) -> None:
        """Append one event to its run. It is kept when this returns.

        Args:
            event: The event; its ``run_id`` says which run it belongs to.
        """

    def save_snapshot(self, run_id: str, state: S) -> None:
        """Replace the run's snapshot.

        Args:
            run_id: The run.
            state: The state to save; it is taken as it is now.
        """

    def load_latest(self, run_id: str) -> S | None:
        """The state of the run's latest snapshot, never the object that was saved; None without one.

        Args:
            run_id: The run.
        """

    def list_events(self, run_id: str, since_seq: int = 0) -> list[E]:
        """The run's events with ``seq > since_seq``, in log order.

        Args:
            run_id: The run.
            since_seq: The producer's number after which to begin; 0 or less gives all events.
        """


class Leased(Protocol):
    """A writer that may hold a lease: a Lease, or a Run."""

    @property
    def grant(self) -> LeaseGrant | None:
        """The lease as the store gave it; None for a Run without one."""


@runtime_checkable
class Sink(Protocol):
    """An archive as the drain worker sees it. Its own commit decides how far it has a run, and nothing in Redis.

    The worker asks for the position, writes what follows, and reads back what it wrote before Redis lets go of it.
    """

    @property
    def archive_id(self) -> str:
        """The UUID of this archive: the same whoever opens it; no other archive has it."""

    @property
    def location(self) -> str:
        """The URL of the archive, for people to read."""

    def position(self, run_id: str) -> Position | None:
        """How far the archive has a run; None for one that it does not know.

        Args:
            run_id: The run.
        """

    def write(self, batches: Sequence[RunBatch]) -> None:
        """Add to many runs in one transaction: durable when it returns, and idempotent.

        Position and chain of every run are checked inside the transaction. Entries that the archive has are
        passed over, and so is a snapshot of a lower revision than the one it has: a paused worker sent it late.

        Args:
            batches: What to add, one batch for each run.

        Raises:
            ArchiveGap: A hole would be left; nothing was written.
            HistoryDiverged: The archive has another history of a run; nothing was written.
        """

    def read_back(self, run_id: str, first: int, last: int) -> Iterator[ArchiveEntry]:
        """What the archive holds of a run, in order, read from its own medium.

        Args:
            run_id: The run.
            first: The first offset to give.
            last: The last offset to give.
        """

    def read_back_snapshots(self, run_id: str) -> Sequence[ArchiveSnapshot]:
        """The snapshots that the archive holds of a run, read from its own medium.

        Args:
            run_id: The run.
        """

    def quarantine(self, run_id: str | None = None) -> Iterator[tuple[str, ArchiveEntry]]:
        """The records in the quarantine, each with its run id.

        Args:
            run_id: The run; None: all runs.
        """


class TellsOfLanes(Sink, Protocol):
    """A sink that tells of the snapshots of some lanes alone, so that a run may have thousands of lanes."""

    def position_of_lanes(self, run_id: str, lanes: Collection[str | None]) -> Position | None:
        """As ``position``, with the snapshots of these lanes and no others.

        Args:
            run_id: The run.
            lanes: The lanes; None: the run's own.
        """

    def read_back_lanes(self, run_id: str, lanes: Collection[str | None]) -> Sequence[ArchiveSnapshot]:
        """As ``read_back_snapshots``, the snapshots of these lanes and no others.

        Args:
            run_id: The run.
            lanes: The lanes; None: the run's own.
        """


def tells_of_lanes(sink: Sink) -> TypeGuard[TellsOfLanes]:
    """Whether a sink is one, by its class: one that passes all calls on may mean to change what it is told."""
    return hasattr(type(sink), "position_of_lanes") and hasattr(type(sink), "read_back_lanes")


class LooksOnce(Sink, Protocol):
    """A sink that takes less for what is asked of many runs in one look."""

    def one_look(self) -> AbstractContextManager[None]:
        """Let what this thread reads meanwhile be of one moment."""


def looks_once(sink: Sink) -> TypeGuard[LooksOnce]:
    """Whether a sink is one, by its class."""
    return hasattr(type(sink), "one_look")


class KeepsTags(Sink, Protocol):
    """A sink that keeps the tags of runs, and gives their version with the position."""

    def read_back_tags(self, run_id: str) -> TagSet:
        """The tags that the archive holds of a run, read from its own medium.

        Args:
            run_id: The run.
        """


def keeps_tags(sink: Sink) -> TypeGuard[KeepsTags]:
    """Whether a sink is one, by its class."""
    return hasattr(type(sink), "read_back_tags")


@runtime_checkable
class SnapshotHistory(Protocol):
    """A store that keeps earlier snapshots too, to show a run as it was: an archive, or a tiered store."""

    def snapshot_lanes(self, run_id: str) -> list[str | None]:
        """The lanes of which snapshots are kept; first None, if there are some of the run's own.

        Args:
            run_id: The run.
        """

    def snapshot_history(self, run_id: str, *, lane_id: str | None = None) -> Iterator[Snapshot[Any]]:
        """The snapshots that are kept of a run, or of one lane of it, in the order in which they were saved.

        Args:
            run_id: The run.
            lane_id: The lane whose snapshots are wanted; None: the run's own.
        """

    def snapshot_at(self, run_id: str, offset: int, *, lane_id: str | None = None) -> Snapshot[Any] | None:
        """The latest snapshot of a run, or of one lane of it, that covers no event after an offset, or None.

        Args:
            run_id: The run.
            offset: The offset.
            lane_id: The lane whose snapshot is wanted; None: the run's own.
        """
