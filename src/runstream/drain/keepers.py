"""What one keeper has of a run, checked against itself while it is read: an archive, or Redis.

Each entry's checksum, made anew from what is held, must give the chain that the entry has: that proves the
text, the order, and that nothing is missing. What stands beside the history must agree with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from runstream.codec.archiving import archive_entries, entry_fields
from runstream.codec.chain import next_chain
from runstream.codec.lossless_json import load_json
from runstream.codec.record import ERASED, record_crc
from runstream.drain.histories import ArchivedHistory, History, HotHistory
from runstream.drain.restoring import is_branch, made_record
from runstream.model.archive import ArchiveEntry, ArchiveSnapshot, EntryColumns
from runstream.model.errors import CorruptRecordError, RunstreamError, UnsupportedVersion
from runstream.model.protocols import MendableSink
from runstream.model.values import Cursor
from runstream.stores.jsonl.lines import NOT_READ
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.operations import checking, restoring
from runstream.stores.redis.scripts import snapshot_field
from runstream.stores.sqlite import SQLiteCheckpointer

__all__ = ["ArchiveKeeper", "Difference", "DifferenceFound", "HotKeeper", "Keeper", "of_snapshot"]

_EVERYWHERE = 2**53
_ATTEMPTS = 100  # at a run that is written to all the while: a look takes a few round trips
_SHOWN = 200  # characters of an event


@dataclass(frozen=True, slots=True)
class Difference:
    """What does not agree, at which offset, and what each side has: (who or what says it, what it says)."""

    offset: int
    what: str
    sides: Sequence[tuple[str, str]]

    def __str__(self) -> str:
        sides = "; ".join(f"{who}: {has}" for who, has in self.sides)
        return f"at offset {self.offset}, {self.what} ({sides})"


class DifferenceFound(Exception):
    """Ends the look at a run."""

    def __init__(self, offset: int, what: str, *sides: tuple[str, str]) -> None:
        super().__init__(what)
        self.difference = Difference(offset, what, sides)


class Keeper(ABC):
    """One keeper while it is read from ``first`` on; ``former`` is the place before the next, if it is known."""

    def __init__(self, history: History, former: Cursor | None, snapshots: Sequence[ArchiveSnapshot]) -> None:
        self.history = history
        self.snapshots = snapshots
        self.first = history.first
        self.former = former
        self.events = 0
        self.quarantined = 0
        self._lanes: dict[str, tuple[int, int]] = {}  # of each lane that was seen the last event's offset and seq
        self._noted_lasts: dict[str, int] = {}  # of each lane that is noted the last event's offset
        self._unread: set[int] = set()  # those of them of which nobody can tell the lane any more

    @property
    def location(self) -> str:
        """Who keeps it, for people."""
        return self.history.location

    @property
    def last(self) -> Cursor:
        """Where it ends, as it says."""
        return self.history.last

    @abstractmethod
    def page(self, first: int, last: int) -> list[ArchiveEntry]:
        """The entries at these offsets, checked: what it has of them. Raises DifferenceFound."""

    @abstractmethod
    def check_end(self) -> None:
        """Compare what stands beside the history with what was read of it. Raises DifferenceFound."""

    def _check_place(self, cursor: Cursor, crc: int | None, describe: Callable[[], str]) -> None:
        """The entry is the next one, and has the chain that it must have; ``crc`` None: nobody can tell."""
        expected = self._next_offset()
        if expected is not None and cursor.offset != expected:
            what = (
                "an event is missing" if cursor.offset > expected else "an event is there twice, or out of order"
            )
            has = str(cursor) if cursor.offset > expected else describe()
            raise DifferenceFound(
                min(expected, cursor.offset),
                what,
                (self.location, f"{has} after {expected - 1}"),
                ("the order", str(expected)),
            )
        if self.former is not None and crc is not None:
            chain = next_chain(self.former.chain, crc)
            if chain != cursor.chain:
                by_content = ("what it holds gives", str(Cursor(cursor.offset, chain)))
                raise DifferenceFound(
                    cursor.offset,
                    "the event is not the one that its chain is of",
                    (self.location, f"{cursor} {describe()}"),
                    by_content,
                )
        self.former = cursor

    def _next_offset(self) -> int | None:
        return None if self.former is None else self.former.offset + 1

    def _check_whole(self, found: int, first: int, last: int) -> None:
        """All from ``first`` to ``last`` were found."""
        if found <= last - first:
            raise DifferenceFound(
                first + found,
                "an event is missing",
                (self.location, "nothing"),
                ("the history", f"goes on to {self.last}"),
            )

    def _check_snapshots(self) -> None:
        """Every snapshot reads, and covers what the history has."""
        start, last = self.history.header.start.offset, self.last.offset
        for one in self.snapshots:
            whose, here = f"snapshot{of_lane(one.lane_id)}", (self.location, of_snapshot(one))
            if not start <= one.offset <= last:
                bounds = ("the history", f"from {start} to {last}")
                raise DifferenceFound(one.offset, f"{whose} covers what is not there", here, bounds)
            try:
                is_state = isinstance(load_json(one.data), dict)
            except (ValueError, RecursionError):
                is_state = False
            if not is_state:
                raise DifferenceFound(one.offset, f"{whose} does not read", here)

    def _saw(self, entry: ArchiveEntry, columns: EntryColumns | None) -> None:
        self.events += 1
        self.quarantined += entry.raw is not None
        if columns is not None:
            self._lanes[columns.lane_id] = (entry.offset, columns.seq)
        elif entry.offset in self._noted_lasts.values():
            self._unread.add(entry.offset)


class ArchiveKeeper(Keeper):
    """An archive: all of a run."""

    def __init__(self, sink: MendableSink, history: ArchivedHistory) -> None:
        super().__init__(history, history.header.start, ())
        self.sink = sink
        self._table = sink if isinstance(sink, SQLiteCheckpointer) else None
        if self._table is not None:
            self._noted_lasts = self._table.noted_lanes(history.run_id)
        self._unread_snapshot: CorruptRecordError | None = None
        try:
            self.snapshots = sink.read_back_snapshots(history.run_id)
        except CorruptRecordError as error:
            self._unread_snapshot = error
        self._written_as = history.header.parent[0] if history.header.parent and is_branch(history) else None

    @classmethod
    def look(cls, sink: MendableSink, run_id: str) -> ArchiveKeeper | None:
        """What the archive has of a run, all of one moment; None if it does not know the run."""
        for _ in range(_ATTEMPTS):
            before, history = sink.position(run_id), ArchivedHistory.look(sink, run_id)
            keeper = None if history is None else cls(sink, history)
            if sink.position(run_id) == before:
                break
        return keeper

    def reach(self) -> int:
        """How far it is by now."""
        position = self.sink.position(self.history.run_id)
        return self.last.offset if position is None else position.cursor.offset

    def page(self, first: int, last: int) -> list[ArchiveEntry]:
        """The entries at these offsets, checked."""
        run_id = self.history.run_id
        entries = list(self.sink.read_back(run_id, first, last))
        stored = None if self._table is None else self._table.columns(run_id, first, last)
        for entry in entries:
            fields, crc = self._read(entry)
            self._check_place(entry.cursor, crc, partial(shown, entry))
            columns = None if fields is None else _columns_of(fields)
            if stored is not None and columns != stored.get(entry.offset) and columns is not None:
                self._differ(entry, "its columns are not those of its text", stored.get(entry.offset), columns)
            self._saw(entry, columns)
        self._check_whole(len(entries), first, last)
        return entries

    def _read(self, entry: ArchiveEntry) -> tuple[dict[str, Any] | None, int | None]:
        """The event's fields and its checksum, made anew; None for what has none."""
        if entry.raw is not None:
            if entry.reason.startswith(NOT_READ):
                self._differ(entry, "it does not read", shown(entry), entry.reason)
            return None, record_crc(entry.raw)
        if entry.data is None:
            return None, None  # erased: the chain is all that is left of it
        run_id = self._written_as or self.history.run_id
        try:
            fields = entry_fields(self.history.run_id, entry) or {}
            given = fields if self._written_as is None else {**fields, "run_id": run_id}
            return fields, record_crc(made_record(run_id, given, entry.key))
        except (RunstreamError, ValueError, RecursionError) as error:
            raise DifferenceFound(
                entry.offset, "its text does not read", (self.location, shown(entry)), ("reading it", str(error))
            ) from error

    def _differ(self, entry: ArchiveEntry, what: str, stored: object, told: object) -> None:
        raise DifferenceFound(entry.offset, what, (self.location, str(stored)), ("its text", str(told)))

    def check_end(self) -> None:
        """The history ends where the archive says, nothing lies outside it, snapshots and lanes are within it."""
        run_id, start = self.history.run_id, self.history.header.start
        if self.former != self.last:
            raise DifferenceFound(
                self.last.offset,
                "the history ends elsewhere than noted",
                (self.location, str(self.former)),
                ("noted", str(self.last)),
            )
        for first, last in ((-_EVERYWHERE, start.offset), (self.last.offset + 1, _EVERYWHERE)):
            for entry in self.sink.read_back(run_id, first, last):
                if entry.offset > self.last.offset and self.reach() > self.last.offset:
                    break  # it has gone on meanwhile
                bounds = f"from {start.offset + 1} to {self.last.offset}"
                raise DifferenceFound(
                    entry.offset,
                    "an event lies outside the history",
                    (self.location, shown(entry)),
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


class HotKeeper(Keeper):
    """Redis: what has not been trimmed, and what it notes of all of the run."""

    def __init__(self, hot: RedisCheckpointer[Any, Any], history: HotHistory) -> None:
        start, mark = history.header.start, history.found.run.mark
        known = {place.offset: place for place in (start, mark)}
        run = history.found.run
        loaded = history.load_snapshots()
        super().__init__(history, known.get(history.first - 1), loaded.snapshots)
        self.hot = hot
        self.run = run
        self._broken = loaded.broken
        self.is_tombstone = history.found.is_tombstone
        self._history = history
        self.noted = hot.perform(
            checking.noted(hot.context.keys, self.run.header.run_id, self.run.header.session_id)
        )
        self._noted_lanes = dict(_noted_lanes(self.noted.meta))
        self._covered = {
            lane: int(self.noted.meta.get(f"snapshot:{lane}", "0").split()[0]) for lane in self._noted_lanes
        }
        self._uncovered: dict[str, int] = {}  # of each lane the first event that no snapshot of it covers
        self._noted_lasts = {lane: offset for lane, (offset, _) in self._noted_lanes.items()}

    @classmethod
    def look(cls, hot: RedisCheckpointer[Any, Any], run_id: str) -> HotKeeper | None:
        """What Redis has of a run, all of one moment; None if it does not know the run."""
        history = HotHistory.look(hot, run_id)
        for _ in range(_ATTEMPTS):
            keeper = None if history is None else cls(hot, history)
            before, history = history, HotHistory.look(hot, run_id)
            if (before and before.found) == (history and history.found):
                break
        return keeper

    def page(self, first: int, last: int) -> list[ArchiveEntry]:
        """The entries at these offsets, checked; fewer, if some were trimmed since the look began."""
        run_id = self.history.run_id
        records = self._history.records(first, last)
        there = records[0][0].offset if records else last + 1
        if there > first:
            first = self._skip_trimmed(first, last)
        for cursor, record in records:
            crc = None if record == ERASED else record_crc(record)
            self._check_place(cursor, crc, partial(_record_shown, record))
        self._check_whole(len(records), first, last)
        try:
            entries = list(archive_entries(run_id, records))
        except UnsupportedVersion as error:
            raise DifferenceFound(first, "a record is of a newer version", (self.location, str(error))) from error
        for entry in entries:
            self._saw(entry, entry.columns)
        self._check_keys(entries)
        return entries

    def _saw(self, entry: ArchiveEntry, columns: EntryColumns | None) -> None:
        super()._saw(entry, columns)
        if columns is not None and entry.offset > self._covered.get(columns.lane_id, 0):
            self._uncovered.setdefault(columns.lane_id, entry.offset)

    def _skip_trimmed(self, first: int, last: int) -> int:
        """Where the entries begin by now, if a worker has trimmed some since the look began."""
        fresh = HotHistory.look(self.hot, self.history.run_id)
        if fresh is not None and fresh.header.start == self.history.header.start and fresh.first > first:
            self.first = min(fresh.first, last + 1)
            self.former = None
        return max(first, self.first)

    def _check_keys(self, entries: Sequence[ArchiveEntry]) -> None:
        keyed = [(entry.key, entry.cursor) for entry in entries if entry.key is not None]
        places = self.hot.perform(
            checking.noted_keys(self.hot.context.keys, self.history.run_id, [key for key, _ in keyed])
        )
        for key, cursor in keyed:
            if places[key] != str(cursor):
                raise DifferenceFound(
                    cursor.offset,
                    f"key {key!r} is not noted at its event",
                    (self.location, str(cursor)),
                    ("noted", str(places[key])),
                )

    def check_end(self) -> None:
        """What the run's meta says agrees with its entries, its snapshots, and the sets that it must be in."""
        last, mark, noted = self.last, self.run.mark, self.noted
        start = self.history.header.start
        if self.former is not None and self.former != last:
            self._differ(last.offset, "the history ends elsewhere than noted", str(self.former), str(last))
        if noted.entries != last.offset - self.history.first + 1:
            self._differ(
                last.offset,
                "there are more or fewer entries than noted",
                str(noted.entries),
                f"from {self.history.first} to {last.offset}",
            )
        if not max(start.offset, self.history.first - 1) <= mark.offset <= last.offset:
            self._differ(
                mark.offset,
                "the archived mark lies outside of what can be archived",
                str(mark),
                f"from {self.history.first} to {last}",
            )
        there_at_mark = self.hot.perform(
            restoring.places(self.hot.context.keys, self.history.run_id, [mark.offset])
        )[0]
        if there_at_mark is not None and there_at_mark != mark:
            self._differ(mark.offset, "the archived mark is not in the history", str(there_at_mark), str(mark))
        trimmed = int(noted.meta.get("trimmed", start.offset))
        if trimmed >= self.history.first:
            self._differ(
                self.history.first,
                "an entry is there that is noted as trimmed",
                str(self.history.first),
                str(trimmed),
            )
        self._check_lanes()
        self._check_snapshots()
        self._check_sets()

    def _differ(self, offset: int, what: str, has: str, says: str) -> None:
        raise DifferenceFound(offset, what, (self.location, has), ("its meta", says))

    def _check_lanes(self) -> None:
        for lane, (offset, seq) in self._noted_lanes.items():
            if lane not in self._lanes and offset >= self.first and offset not in self._unread:
                self._differ(offset, f"lane {lane!r} has no such event", "nothing", f"{offset} {seq}")
            if offset > self.last.offset:
                self._differ(offset, f"lane {lane!r} ends behind the run", str(self.last), str(offset))
        for lane, found in self._lanes.items():
            known = self._noted_lanes.get(lane)
            if known is None or (known != found and known[0] not in self._unread):
                self._differ(found[0], f"lane {lane!r} ends elsewhere than noted", f"{found}", f"{known}")
            first = self._uncovered.get(lane)
            since = self.noted.meta.get(f"since:{lane}")
            if first is not None and (since is None or int(since) > first):
                self._differ(first, f"lane {lane!r} would be trimmed before it is covered", str(first), str(since))

    def _check_snapshots(self) -> None:
        for lane, why in self._broken.items():
            self._differ(
                self.last.offset,
                f"snapshot{of_lane(lane)} does not read",
                why,
                self.noted.meta.get(snapshot_field(lane), ""),
            )
        for one in self.snapshots:
            has, says = (
                f"{one.offset} {one.revision} {one.token}",
                self.noted.meta.get(snapshot_field(one.lane_id), ""),
            )
            if has != says:
                self._differ(one.offset, f"snapshot{of_lane(one.lane_id)} is not the one that is noted", has, says)
        super()._check_snapshots()

    def _check_sets(self) -> None:
        last, run = self.last.offset, self.run
        if not self.noted.is_listed:
            self._differ(last, "the run is not in the list of runs", "nothing", str(self.last))
        if run.header.session_id and not self.noted.is_in_session:
            self._differ(last, "the run is not in the list of its session", "nothing", run.header.session_id)
        if not self.noted.is_due and not self.is_settled:
            self._differ(
                last,
                "the run has something to archive, and is not due",
                f"archived up to {run.mark}",
                str(self.last),
            )

    @property
    def is_settled(self) -> bool:
        """Whether all of the run is archived, as its meta has it."""
        return self.run.mark == self.run.last and all(
            self.run.proven.get(lane) == token for lane, token in self.run.tokens.items()
        )


def of_lane(lane_id: str | None) -> str:
    """Whose it is, after its noun."""
    return " of the run" if lane_id is None else f" of lane {lane_id!r}"


def of_snapshot(one: ArchiveSnapshot | None) -> str:
    """A snapshot for people."""
    if one is None:
        return "nothing"
    return f"covers {one.offset}, revision {one.revision}, token {one.token}: {one.data[:_SHOWN]}"


def _record_shown(record: bytes) -> str:
    return f"a record of {len(record)} bytes"


def shown(entry: ArchiveEntry) -> str:
    """An entry for people."""
    if entry.raw is not None:
        return f"{len(entry.raw)} bytes that do not read: {entry.reason}"[:_SHOWN]
    return "an erased event" if entry.data is None else entry.data[:_SHOWN]


def _columns_of(fields: dict[str, Any]) -> EntryColumns:
    return EntryColumns(fields.get("seq", 0), fields["ts"], fields["kind"], fields.get("lane_id", "main"))


def _noted_lanes(meta: Any) -> Iterator[tuple[str, tuple[int, int]]]:
    for name, value in meta.items():
        kind, colon, lane = name.partition(":")
        if kind == "lane" and colon:
            offset, seq = value.split()
            yield lane, (int(offset), int(seq))
