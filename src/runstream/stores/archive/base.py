"""What SQLite and JSONL share: each is a store in its own right, and a sink of the drain worker.

As a store it gives offsets and chains itself; as a sink it takes them as they are in Redis. Either way
it keeps :class:`~runstream.model.archive_records.ArchiveEntry`, one per place, and reads them the same.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NoReturn

from runstream.codec.archive_entries import archive_entries, entry_fields
from runstream.model.archive_records import ArchiveEntry, RunBatch, RunHeader
from runstream.model.errors import (
    ArchiveGap,
    ConcurrencyConflict,
    ConfigurationError,
    CorruptRecordError,
    EncodingError,
    HistoryDiverged,
)
from runstream.model.events import EventKind, Visibility
from runstream.model.identifiers import check_name, check_run_id
from runstream.model.protocols import MendableSink, OnCorrupt
from runstream.model.results import Cursor, E, Recorded, S, Snapshot
from runstream.operations.filters import check_count, check_read, origin
from runstream.operations.messages import diverged, lost
from runstream.stores.archive.snapshot_history import KeptSnapshot, nearest
from runstream.stores.local.append_plan import AppendPlan, AppendRequest
from runstream.stores.local.operations import LocalStore

__all__ = ["DELETED_FOR_SECONDS", "ArchiveStore", "check_cut", "deleted_here", "new_entries", "planned_entries"]

DELETED_FOR_SECONDS = 7 * 86_400.0
"""For how long an archive takes nothing of a history that was deleted: as long as Redis knows of the deletion."""


def planned_entries(request: AppendRequest, plan: AppendPlan) -> list[ArchiveEntry]:
    """The entries that an append to this store itself writes.

    Raises EncodingError for an event that JSON cannot hold (nested too deeply): a record that is in Redis
    goes to the quarantine then, but one that has not been accepted yet is refused.
    """
    entries = list(archive_entries(request.run_id, [(cursor, event.record) for cursor, event in plan.written]))
    for entry in entries:
        if entry.raw is not None:
            raise EncodingError(f"an event of run {request.run_id!r} cannot be archived: {entry.reason}")
    return entries


def new_entries(
    batch: RunBatch, position: Cursor | None, place_of: Callable[[int], Cursor | None]
) -> Sequence[ArchiveEntry]:
    """The batch's entries that an archive which stands at ``position`` (None: has not the run) lacks.

    ``place_of`` tells what the archive has at an offset, None for nothing; it is asked where the archive is
    further than the batch. Raises ArchiveGap where a hole would be left, HistoryDiverged where the archive has
    another history.
    """
    run_id = batch.header.run_id
    if batch.end.offset - batch.after.offset != len(batch.entries):
        raise ArchiveGap(
            f"a batch of run {run_id!r} is not dense: nothing was written",
            run_id=run_id,
            expected=batch.after.offset + 1,
            found=batch.end.offset,
        )
    here = batch.header.start if position is None else position
    if here.offset < batch.after.offset:
        raise ArchiveGap(
            f"the archive has run {run_id!r} up to offset {here.offset}; what comes after {batch.after.offset}"
            " would leave a hole: nothing was written",
            run_id=run_id,
            expected=here.offset + 1,
            found=batch.after.offset + 1,
        )
    known = here.offset - batch.after.offset
    if known > len(batch.entries):
        # another worker has been here; its history may be that of a server that was promoted meanwhile
        known, here = len(batch.entries), place_of(batch.end.offset) or batch.end
    same_place = batch.after if known == 0 else batch.entries[known - 1].cursor
    if same_place != here:
        raise HistoryDiverged(
            f"the archive and Redis have different histories of run {run_id!r} at offset {here.offset} or before:"
            " nothing was written, both are kept",
            run_id=run_id,
            offset=here.offset,
        )
    return batch.entries[known:]


def check_cut(
    header: RunHeader, to: Cursor, expected: Cursor, bounds: tuple[Cursor, Cursor] | None, there: Cursor | None
) -> bool:
    """Whether a run is still to be cut back to ``to``; False if that has been done.

    ``bounds`` are the run's start and last place (None: it is not there), ``there`` is the entry at the
    offset of ``to``. Raises ConcurrencyConflict where the run does not stand at ``expected``, HistoryDiverged
    where it never was at ``to``.
    """
    run_id = header.run_id
    start, last = bounds or (Cursor(0, 0), Cursor(0, 0))
    if (start, last) == (header.start, to):
        return False
    if bounds is None or last != expected:
        raise ConcurrencyConflict(
            f"the archive has run {run_id!r} up to {last}, not {expected}: nothing was changed; look again",
            expected=expected.offset,
            actual=last.offset,
        )
    if to != header.start and (start != header.start or there != to):
        raise HistoryDiverged(
            f"the archive's history of run {run_id!r} does not pass {to}: nothing was changed",
            run_id=run_id,
            offset=to.offset,
        )
    return True


def deleted_here(run_id: str) -> HistoryDiverged:
    """The archive was told to take nothing of this history any more."""
    return HistoryDiverged(
        f"run {run_id!r} was deleted, with this very history: nothing was written",
        run_id=run_id,
        offset=0,
    )


class ArchiveStore(LocalStore[E, S], MendableSink):
    """A local store that is a sink as well. Subclasses give what is abstract here besides.

    It keeps the history of the snapshots that it saw, so that a run can be looked at as it was at any offset. Of
    a run that a drain worker archives, it sees those that were the latest when a worker looked, and no others.
    """

    def header(self, run_id: str) -> RunHeader | None:
        """What the archive notes of a run besides its history; None for one that it does not know."""
        bounds, info = self._bounds(run_id), self.run_info(run_id)
        if bounds is None or info is None:
            return None
        return RunHeader(run_id, bounds[0], info.session_id, info.status, info.created_at, info.updated_at)

    @abstractmethod
    def _entries(self, run_id: str, low: int, high: int, *, reverse: bool) -> Iterator[ArchiveEntry]:
        """The entries with ``low < offset <= high``, in order or newest first, quarantined ones too."""

    @abstractmethod
    def _kept(self, run_id: str) -> list[KeptSnapshot]:
        """The snapshots that are kept of the run and its lanes, in the order in which each lane's were saved."""

    @abstractmethod
    def _kept_state(self, run_id: str, kept: KeptSnapshot) -> dict[str, Any] | None:
        """The state, as plain data, that the history has under that token; None if it has none (any more)."""

    @abstractmethod
    def delete_history(self, run_id: str, start: Cursor | None) -> bool:
        """Remove a run, and take nothing of that history for a week: a drain in flight may have it in hand.

        ``start`` is the place before the history's first event, None for what the archive itself has. False if
        there was nothing to remove.
        """

    def snapshot_lanes(self, run_id: str) -> list[str | None]:
        """The lanes of which snapshots are kept, with None first where there are some of the run's own."""
        check_run_id(run_id)
        lanes = {kept.saved.lane_id for kept in self._kept(run_id)}
        return sorted(lanes, key=lambda lane_id: (lane_id is not None, lane_id or ""))

    def snapshot_history(self, run_id: str, *, lane_id: str | None = None) -> Iterator[Snapshot[S]]:
        """The snapshots that are kept of the run, or of one lane of it, in the order in which they were saved.

        Raises CorruptRecordError at one that does not read.
        """
        check_run_id(run_id)
        if lane_id is not None:
            check_name("lane_id", lane_id)
        kept = [one for one in self._kept(run_id) if one.saved.lane_id == lane_id]
        found = (self._restored(run_id, one) for one in kept)
        return (snapshot for snapshot in found if snapshot is not None)

    def snapshot_at(self, run_id: str, offset: int, *, lane_id: str | None = None) -> Snapshot[S] | None:
        """The snapshot of the run, or of one lane of it, that covers most of what lies up to this offset.

        None if there is none that covers no more. With the events from there to the offset it tells how the run
        was then. Of those that cover the same it is the last. Raises CorruptRecordError if it does not read.
        """
        check_run_id(run_id)
        if lane_id is not None:
            check_name("lane_id", lane_id)
        check_count("offset", offset)
        found = (self._restored(run_id, one) for one in nearest(self._kept(run_id), lane_id, offset))
        return next((snapshot for snapshot in found if snapshot is not None), None)

    def _restored(self, run_id: str, kept: KeptSnapshot) -> Snapshot[S] | None:
        """The snapshot, or None if it has been dropped since."""
        saved, fields = kept.saved, None
        if kept.place is None:
            loaded = self._load_snapshot(run_id, saved.lane_id)
            fields = None if loaded is None or loaded[0].token != saved.token else loaded[1]
        if fields is None:  # also one that has been replaced since: the history has it now
            fields = self._kept_state(run_id, kept)
        return (
            None
            if fields is None
            else Snapshot(self.codec.make_state(run_id, fields), saved.offset, saved.revision)
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
        """The events with ``after < offset < before``."""
        check_run_id(run_id)
        check_read(before, limit, on_corrupt)
        low, cursor = origin(after)
        bounds = self._bounds(run_id)
        start, last = bounds if bounds is not None else (Cursor(0, 0), Cursor(0, 0))
        if cursor is not None:
            self._check_cursor(run_id, cursor, start, last)
        low = max(low, start.offset)
        high = last.offset if before is None else min(before - 1, last.offset)
        return self._decode(run_id, low, high, limit, on_corrupt, reverse=reverse)

    def follow(
        self,
        run_id: str,
        after: int | str = 0,
        *,
        idle_timeout: float | None = None,
        lane_id: str | None = None,
        kinds: Collection[EventKind | str] | None = None,
        visibility: Visibility | str | None = None,
    ) -> NoReturn:
        """Raise ConfigurationError: an archive has no live end."""
        del run_id, after, idle_timeout, lane_id, kinds, visibility
        raise ConfigurationError(
            f"{type(self).__name__} cannot follow a run; follow it in Redis or in memory, or read it here"
        )

    def _check_cursor(self, run_id: str, cursor: Cursor, start: Cursor, last: Cursor) -> None:
        if cursor.offset <= start.offset:
            return
        if cursor.offset > last.offset:
            raise lost(run_id, cursor.offset, last.offset)
        (entry,) = self._entries(run_id, cursor.offset - 1, cursor.offset, reverse=False)
        if entry.cursor != cursor:
            raise diverged(run_id, cursor)

    def _decode(
        self, run_id: str, low: int, high: int, limit: int | None, on_corrupt: OnCorrupt, *, reverse: bool
    ) -> Iterator[Recorded[E]]:
        given = 0
        expected = high if reverse else low + 1
        if limit == 0 or low >= high:
            return
        for entry in self._entries(run_id, low, high, reverse=reverse):
            if entry.offset != expected:
                break
            expected += -1 if reverse else 1
            try:
                fields = entry_fields(run_id, entry)
                if fields is None:
                    continue  # erased
                event: Any = self.codec.make_event(entry.offset, fields)
            except CorruptRecordError:
                if on_corrupt == "skip":
                    continue
                raise
            yield Recorded(entry.offset, str(entry.cursor), event)
            given += 1
            if given == limit:
                return
        if expected != (low if reverse else high + 1):
            raise ArchiveGap(
                f"the archive of run {run_id!r} has no event {expected} though it has later ones: the file was"
                " changed by another program; restore it from a copy",
                run_id=run_id,
                expected=expected,
                found=expected + 1,
            )
