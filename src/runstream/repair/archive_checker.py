"""Verify an archive's copy of a run: all of its history, its columns, lanes and snapshots."""

from __future__ import annotations

from functools import partial
from typing import Any

from runstream.codec.archive_entries import entry_fields
from runstream.codec.record import record_crc
from runstream.codec.stored import stored_record
from runstream.history.archived import ArchivedHistory
from runstream.model.archive_records import ArchiveEntry, EntryColumns, Position
from runstream.model.errors import CorruptRecordError, RunstreamError
from runstream.model.run_head import written_as
from runstream.repair.branches import origins_of
from runstream.repair.checker import ATTEMPTS, DifferenceFound, HistoryChecker, describe_entry
from runstream.stores.archive.integrity import pages_of
from runstream.stores.capabilities import Archive, ChecksIntegrity, HasColumns, part_of

__all__ = ["ArchiveChecker"]

_EVERYWHERE = 2**53


class ArchiveChecker(HistoryChecker):
    """Verifies an archive's copy of a run.

    Attributes:
        archive: The archive.
        position: How far it had the run when this copy was loaded.
    """

    def __init__(self, archive: Archive, history: ArchivedHistory, position: Position | None) -> None:
        super().__init__(history, history.header.before_first, ())
        self.archive = archive
        self.position = position
        self._table = part_of(archive, HasColumns)
        if self._table is not None:
            self._noted_lasts = self._table.noted_lanes(history.run_id)
        self._checks = part_of(archive, ChecksIntegrity)
        self._unread_snapshot: CorruptRecordError | None = None
        try:
            self.snapshots = archive.read_back_snapshots(history.run_id)
        except CorruptRecordError as error:
            self._unread_snapshot = error
        self._origins = origins_of(history)

    @classmethod
    def load(cls, archive: Archive, run_id: str) -> ArchiveChecker | None:
        """Load an archive's copy of a run, all of one moment; None if it has none."""
        for _ in range(ATTEMPTS):
            before, history = archive.position(run_id), ArchivedHistory.load(archive, run_id)
            checker = None if history is None else cls(archive, history, before)
            if archive.position(run_id) == before:
                break
        return checker

    def current_offset(self) -> int:
        """The offset up to which the archive has the run by now."""
        position = self.archive.position(self.history.run_id)
        return self.last.offset if position is None else position.cursor.offset

    def page(self, first: int, last: int, *, whole: bool) -> list[ArchiveEntry]:
        """Read and verify the entries at these offsets."""
        run_id = self.history.run_id
        found = self.archive.read_back(run_id, first, last)
        entries = list(found) if whole else next(pages_of(found), [])
        if not whole and entries and next(found, None) is not None:
            last = entries[-1].offset
        stored = None if self._table is None else self._table.columns(run_id, first, last)
        for entry in entries:
            fields, crc = self._read(entry)
            self._check_cursor(entry.cursor, crc, partial(describe_entry, entry))
            columns = None if fields is None else EntryColumns.of(fields)
            if stored is not None and columns != stored.get(entry.offset) and columns is not None:
                self._differ(entry, "its columns are not those of its text", stored.get(entry.offset), columns)
            self._count(entry, columns)
        self._check_count(len(entries), first, last)
        if self._checks is not None:
            self._checks.note_proven(run_id, entries)
        return entries

    def _read(self, entry: ArchiveEntry) -> tuple[dict[str, Any] | None, int | None]:
        """The event's fields, and the checksum of its record, made anew; None for what it has not."""
        if entry.raw is not None:
            if entry.is_damaged:
                self._differ(entry, "it does not read", describe_entry(entry), entry.reason)
            return None, record_crc(entry.raw)
        if entry.data is None:
            return None, None  # erased: the chain is all that is left of it
        try:
            fields = entry_fields(self.history.run_id, entry) or {}
            is_own = fields.get("run_id") == self.history.run_id
            name = written_as(self.history.run_id, self._origins, entry.offset)
            given = {**fields, "run_id": name} if is_own else fields
            return fields, record_crc(stored_record(name, given, entry.key))
        except (RunstreamError, ValueError) as error:
            raise DifferenceFound(
                entry.offset,
                "its text does not read",
                (self.location, describe_entry(entry)),
                ("reading it", str(error)),
            ) from error

    def _differ(self, entry: ArchiveEntry, what: str, stored: object, by_text: object) -> None:
        raise DifferenceFound(entry.offset, what, (self.location, str(stored)), ("its text", str(by_text)))

    def _check_shared(self) -> None:
        """Check that a fork goes on where its parent is at that offset, if the archive has that."""
        header = self.history.header
        if header.parent is None or not header.parent_identity:
            return
        parent = ArchivedHistory.load(self.archive, header.parent[0])
        if parent is None or not parent.header.start.offset <= header.start.offset <= parent.last.offset:
            return  # it is archived by itself; or what it shares is its own parent's
        there = parent.at(header.start.offset)
        if parent.header.creation != header.parent_identity or there != header.start:
            raise DifferenceFound(
                header.start.offset,
                "a fork does not go on from its parent",
                (self.location, f"{parent.run_id!r} at {there}"),
                ("the fork", str(header.start)),
            )

    def check_end(self) -> None:
        """Check that the history ends where noted, nothing lies outside it, and snapshots and lanes fit it."""
        run_id, start = self.history.run_id, self.history.header.before_first
        lowest = self.history.header.begins_after
        self._check_shared()
        if self.previous != self.last:
            raise DifferenceFound(
                self.last.offset,
                "the history ends elsewhere than noted",
                (self.location, str(self.previous)),
                ("noted", str(self.last)),
            )
        for first, last in ((-_EVERYWHERE, start.offset), (self.last.offset + 1, _EVERYWHERE)):
            for entry in self.archive.read_back(run_id, first, last):
                if entry.offset > self.last.offset and self.current_offset() > self.last.offset:
                    break  # it has gone on meanwhile
                if lowest < entry.offset <= start.offset and entry.is_erased:
                    self._unread.add(entry.offset)  # what is left of an event before the history's base
                    continue
                bounds = f"from {start.offset + 1} to {self.last.offset}"
                raise DifferenceFound(
                    entry.offset,
                    "an event lies outside the history",
                    (self.location, describe_entry(entry)),
                    ("the history", bounds),
                )
        for lane in sorted(self._lanes.keys() | self._noted_lasts.keys()):
            seen, noted = self._lanes.get(lane, (0, 0))[0], self._noted_lasts.get(lane, 0)
            if self._table is not None and noted != seen and not (noted > seen and noted in self._unread):
                what = f"lane {lane!r} ends elsewhere than noted"
                raise DifferenceFound(max(seen, noted), what, (self.location, str(seen)), ("noted", str(noted)))
        if self._unread_snapshot is not None:
            why = (self.location, str(self._unread_snapshot))
            raise DifferenceFound(self.last.offset, "a snapshot does not read", why)
        self._check_snapshots()
        for error in () if self._checks is None else self._checks.check_beside(run_id):
            what = "what is kept beside the history does not read"
            raise DifferenceFound(error.offset, what, (self.location, str(error)))
