"""The archive as a user sees it: a store, and a sink of the drain worker."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, Position, RunBatch
from runstream.model.results import E, S
from runstream.model.tags import TagSet
from runstream.operations.runners import SyncRunner
from runstream.stores.archive.base import ArchiveOperations
from runstream.stores.capabilities import HoldsForeign
from runstream.stores.facade import SnapshotStore
from runstream.stores.lifecycle import own, place_at

__all__ = ["ArchiveStore"]


class ArchiveStore(SnapshotStore[E, S]):
    """An archive: a :class:`~runstream.stores.facade.Store` and a :class:`~runstream.model.protocols.Sink`.

    Its repairs (:class:`~runstream.stores.capabilities.Archive`) are a part of it, for the commands
    (:func:`~runstream.stores.capabilities.part_of`).

    Args:
        archive: The archive's operations.
        foreign: Its part that tells what another program did to runs that came by a drain.
    """

    _operations: ArchiveOperations[E, S]

    def __init__(self, archive: ArchiveOperations[E, S], foreign: HoldsForeign) -> None:
        super().__init__(archive, SyncRunner(), (foreign, archive.eraser))
        self._snapshots = archive
        own(self, archive.close)
        place_at(self, archive.location)

    @property
    def archive_id(self) -> str:
        """The UUID of this archive: the same whoever opens it, another for every other archive."""
        return self._operations.archive_id

    @property
    def location(self) -> str:
        """The URL of the archive, for people to read."""
        return self._operations.location

    def position(self, run_id: str) -> Position | None:
        """How far the archive has a run.

        Args:
            run_id: The run.

        Returns:
            The cursor of its last entry and the tokens of its snapshots; None for a run that the archive does not
            know.

        Raises:
            StoreUnavailable: The archive cannot be read.
        """
        return self._operations.position(run_id)

    def position_of_lanes(self, run_id: str, lanes: Collection[str | None]) -> Position | None:
        """How far the archive has a run, with the snapshots of some of its lanes.

        Args:
            run_id: The run.
            lanes: The lanes; None: the run's own snapshot.

        Returns:
            As ``position``, with the tokens of these snapshots and no others.

        Raises:
            StoreUnavailable: The archive cannot be read.
        """
        return self._operations.position_of_lanes(run_id, lanes)

    def write(self, batches: Sequence[RunBatch]) -> None:
        """Add to many runs in one transaction: durable when it returns, and idempotent.

        Args:
            batches: What to add, one batch for each run; entries that the archive already has are passed over.

        Raises:
            ArchiveGap: A hole would be left; nothing was written for any run.
            HistoryDiverged: The archive has another history; nothing was written for any run.
            StoreUnavailable: The archive cannot be written: send the same again.
        """
        self._operations.write(batches)

    def read_back(self, run_id: str, first: int, last: int) -> Iterator[ArchiveEntry]:
        """What the archive holds of a run, in order, read from its own medium.

        Args:
            run_id: The run.
            first: The first offset to give.
            last: The last offset to give.

        Returns:
            The entries.

        Raises:
            StoreUnavailable: The archive cannot be read.
        """
        return self._operations.read_back(run_id, first, last)

    def read_back_snapshots(self, run_id: str) -> Sequence[ArchiveSnapshot]:
        """The latest snapshots that the archive holds of a run and its lanes, read from its own medium.

        Args:
            run_id: The run.

        Raises:
            CorruptRecordError: One does not read.
            StoreUnavailable: The archive cannot be read.
        """
        return self._operations.read_back_snapshots(run_id)

    def read_back_lanes(self, run_id: str, lanes: Collection[str | None]) -> Sequence[ArchiveSnapshot]:
        """The latest snapshots that the archive holds of some lanes of a run, read from its own medium.

        Args:
            run_id: The run.
            lanes: The lanes; None: the run's own snapshot.

        Raises:
            CorruptRecordError: One does not read.
            StoreUnavailable: The archive cannot be read.
        """
        return self._operations.read_back_lanes(run_id, lanes)

    def read_back_tags(self, run_id: str) -> TagSet:
        """The tags that the archive holds of a run, read from its own medium.

        Args:
            run_id: The run.

        Raises:
            CorruptRecordError: They do not read.
            StoreUnavailable: The archive cannot be read.
        """
        return self._operations.read_back_tags(run_id)

    def quarantine(self, run_id: str | None = None) -> Iterator[tuple[str, ArchiveEntry]]:
        """The records in the quarantine: those that did not read when they were archived.

        Args:
            run_id: The run; None: all runs.

        Returns:
            The records, each with its run id.

        Raises:
            StoreUnavailable: The archive cannot be read.
        """
        return self._operations.quarantine(run_id)

    def check_integrity(self) -> list[str]:
        """Check the archive's own files, as they are on the medium.

        Returns:
            What is wrong with them, in words; nothing if they are sound.

        Raises:
            StoreUnavailable: They cannot be read at all.
        """
        return self._operations.check_integrity()
