"""Redis as the keeper of a run: what has not been trimmed, and all that its meta and the sets note of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from runstream.codec.archive_entries import archive_entries
from runstream.codec.record import ERASED, record_crc
from runstream.history.hot import HotHistory
from runstream.model.archive_records import ArchiveEntry, EntryColumns
from runstream.model.errors import UnsupportedVersion
from runstream.repair.checker import ATTEMPTS, DifferenceFound, Keeper, of_lane
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.operations.admin import restore, run_facts
from runstream.stores.redis.scripts.calls import snapshot_field

__all__ = ["HotKeeper"]


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
            run_facts.noted(hot.context.keys, self.run.header.run_id, self.run.header.session_id)
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
        for _ in range(ATTEMPTS):
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
            run_facts.noted_keys(self.hot.context.keys, self.history.run_id, [key for key, _ in keyed])
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
            restore.places(self.hot.context.keys, self.history.run_id, [mark.offset])
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


def _record_shown(record: bytes) -> str:
    return f"a record of {len(record)} bytes"


def _noted_lanes(meta: Any) -> Iterator[tuple[str, tuple[int, int]]]:
    for name, value in meta.items():
        kind, colon, lane = name.partition(":")
        if kind == "lane" and colon:
            offset, seq = value.split()
            yield lane, (int(offset), int(seq))
