"""Verify the copy of a run in Redis: the entries that were not trimmed, its meta, and the sets that it is in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from runstream.codec.archive_entries import archive_entries
from runstream.codec.record import ERASED, record_crc
from runstream.history.hot import HotHistory
from runstream.model.archive_records import ArchiveEntry, EntryColumns
from runstream.model.errors import UnsupportedVersion
from runstream.repair.checker import ATTEMPTS, DifferenceFound, HistoryChecker, of_lane
from runstream.stores.redis.append_batch import snapshot_field
from runstream.stores.redis.namespace import Namespace

__all__ = ["RedisChecker"]


class RedisChecker(HistoryChecker):
    """Verifies the copy of a run in Redis.

    Attributes:
        run: The run as it was loaded.
        facts: What else is noted of it.
    """

    history: HotHistory

    def __init__(self, namespace: Namespace, history: HotHistory) -> None:
        start = history.header.start
        known = {cursor.offset: cursor for cursor in (start, history.header.before_first, history.mark)}
        loaded = history.load_snapshots()
        super().__init__(history, known.get(history.first - 1), loaded.snapshots)
        self.run = history.run
        self.facts = namespace.run_facts(history.run_id, history.header.session_id)
        self._namespace = namespace
        self._broken = loaded.broken
        self._noted_lanes = dict(_noted_lanes(self.facts.meta))
        self._covered = {
            lane: int(self.facts.meta.get(f"snapshot:{lane}", "0").split()[0]) for lane in self._noted_lanes
        }
        for lane, end in self.run.ends.items():  # nobody needs from Redis what came before
            self._covered[lane] = max(end.offset, self._covered.get(lane, 0))
        self._uncovered: dict[str, int] = {}  # of each lane the first event that neither covers
        self._rising = {lane for lane in self._noted_lanes if " +" in self.facts.meta[f"lane:{lane}"]}
        self._noted_lasts = {lane: offset for lane, (offset, _) in self._noted_lanes.items()}

    @classmethod
    def load(cls, namespace: Namespace, run_id: str) -> RedisChecker | None:
        """Load the copy of a run in Redis, all of one moment; None if there is none."""
        history = HotHistory.load(namespace, run_id)
        for _ in range(ATTEMPTS):
            checker = None if history is None else cls(namespace, history)
            before, history = history, HotHistory.load(namespace, run_id)
            if (before and (before.run, before.first)) == (history and (history.run, history.first)):
                break
        return checker

    def page(self, first: int, last: int, *, whole: bool) -> list[ArchiveEntry]:
        """Read and verify the entries at these offsets; fewer, if some were trimmed since the run was loaded."""
        run_id = self.history.run_id
        loaded = self.history.load_entries(first, last)
        records = loaded.entries
        while whole and loaded.upto < last:
            loaded = self.history.load_entries(loaded.upto + 1, last)
            records += loaded.entries
        last = loaded.upto
        there = records[0][0].offset if records else last + 1
        if there > first:
            first = self._skip_trimmed(first, last)
        for cursor, record in records:
            crc = None if record == ERASED else record_crc(record)
            self._check_cursor(cursor, crc, partial(_describe_record, record))
        self._check_count(len(records), first, last)
        entries: list[ArchiveEntry] = []
        try:
            entries.extend(archive_entries(run_id, records, self.history.header.origins))
        except UnsupportedVersion as error:
            at = first + len(entries)
            raise DifferenceFound(at, "a record is of a newer version", (self.location, str(error))) from error
        for entry in entries:
            self._count(entry, entry.columns)
        self._check_keys(entries)
        return entries

    def _count(self, entry: ArchiveEntry, columns: EntryColumns | None) -> None:
        if columns is not None and columns.lane_id in self._rising:
            _, highest = self._lanes.get(columns.lane_id, (0, 0))
            if columns.seq < highest:
                noted = f"lane {columns.lane_id!r} is noted to rise, and has a lower seq than before"
                self._differ(entry.offset, noted, str(columns.seq), str(highest))
        super()._count(entry, columns)
        if columns is not None and entry.offset > self._covered.get(columns.lane_id, 0):
            self._uncovered.setdefault(columns.lane_id, entry.offset)

    def _skip_trimmed(self, first: int, last: int) -> int:
        """The offset at which the entries begin by now, if a worker has trimmed some meanwhile."""
        fresh = HotHistory.load(self._namespace, self.history.run_id)
        if fresh is not None and fresh.header.creation == self.history.header.creation and fresh.first > first:
            self.first = min(fresh.first, last + 1)
            self.previous = None
        return max(first, self.first)

    def _check_keys(self, entries: Sequence[ArchiveEntry]) -> None:
        keyed = [(entry.key, entry.cursor) for entry in entries if entry.key is not None]
        noted = self._namespace.key_cursors(self.history.run_id, [key for key, _ in keyed])
        for key, cursor in keyed:
            if noted.get(key) != str(cursor):
                raise DifferenceFound(
                    cursor.offset,
                    f"key {key!r} is not noted at its event",
                    (self.location, str(cursor)),
                    ("noted", str(noted.get(key))),
                )

    def check_end(self) -> None:
        """Check what the run's meta says against its entries, its snapshots, and the sets that it must be in."""
        last, mark, facts = self.last, self.history.mark, self.facts
        lowest = self.run.head.lowest.offset
        if self.previous is not None and self.previous != last:
            self._differ(last.offset, "the history ends elsewhere than noted", str(self.previous), str(last))
        if facts.entries != last.offset - self.history.first + 1:
            self._differ(
                last.offset,
                "there are more or fewer entries than noted",
                str(facts.entries),
                f"from {self.history.first} to {last.offset}",
            )
        if not max(lowest, self.history.first - 1) <= mark.offset <= last.offset:
            self._differ(
                mark.offset,
                "the archived mark lies outside of what can be archived",
                str(mark),
                f"from {self.history.first} to {last}",
            )
        at_mark = self._namespace.cursor_at(self.history.run_id, mark.offset)
        if at_mark is not None and at_mark != mark:
            self._differ(mark.offset, "the archived mark is not in the history", str(at_mark), str(mark))
        trimmed = max(int(facts.meta.get(field, "0").split()[0]) for field in ("trimmed", "peak"))
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
            since = self.facts.meta.get(f"since:{lane}")
            if first is not None and (since is None or int(since) > first):
                self._differ(first, f"lane {lane!r} would be trimmed before it is covered", str(first), str(since))

    def _check_snapshots(self) -> None:
        for lane, why in self._broken.items():
            self._differ(
                self.last.offset,
                f"snapshot{of_lane(lane)} does not read",
                why,
                self.facts.meta.get(snapshot_field(lane), ""),
            )
        for one in self.snapshots:
            has, says = (
                f"{one.offset} {one.revision} {one.token}",
                self.facts.meta.get(snapshot_field(one.lane_id), ""),
            )
            if has != says:
                self._differ(one.offset, f"snapshot{of_lane(one.lane_id)} is not the one that is noted", has, says)
        super()._check_snapshots()

    def _check_sets(self) -> None:
        last, header = self.last.offset, self.history.header
        if "heard" in self.facts.meta and not self.facts.has_producers:
            self._differ(last, "the key of its producers was removed", "nothing", "it has some")
        if not self.facts.is_listed:
            self._differ(last, "the run is not in the list of runs", "nothing", str(self.last))
        if header.session_id and not self.facts.is_in_session:
            self._differ(last, "the run is not in the list of its session", "nothing", header.session_id)
        for index in self._namespace.unindexed(self.run):
            self._differ(last, "the run is not in the index of one of its tags", "nothing", index)
        if not self.facts.is_due and not self.is_archived:
            self._differ(
                last,
                "the run has something to archive, and is not due",
                f"archived up to {self.history.mark}",
                str(self.last),
            )

    @property
    def is_archived(self) -> bool:
        """Whether all of the run is archived, by its meta."""
        head, proven = self.run.head, self.run.proven_tokens
        is_proven = head.mark == head.last and self.run.proven_tags == head.tags.version
        return is_proven and all(proven.get(lane) == token for lane, token in head.tokens.items())


def _describe_record(record: bytes) -> str:
    return f"a record of {len(record)} bytes"


def _noted_lanes(meta: Any) -> Iterator[tuple[str, tuple[int, int]]]:
    for name, value in meta.items():
        kind, colon, lane = name.partition(":")
        if kind == "lane" and colon:
            offset, seq = value.split()
            yield lane, (int(offset), int(seq))
