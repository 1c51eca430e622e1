"""The base of the archives, SQLite and JSONL: each is a store in its own right, and a sink of the drain worker.

As a store it gives offsets and chains itself; as a sink it takes them as they are in Redis. Either way it keeps
one :class:`~runstream.model.archive_records.ArchiveEntry` per offset, and reads them the same.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, repeat
from typing import TypeVar

from runstream.codec.archive_entries import unread
from runstream.codec.pages import TOGETHER
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, Position, RunHeader
from runstream.model.durability import Durability
from runstream.model.erasures import ErasedPlace, ErasureNote
from runstream.model.errors import (
    ConfigurationError,
    CorruptRecordError,
    HistoryDiverged,
    RunstreamError,
    StoreUnavailable,
)
from runstream.model.identifiers import check_run_id
from runstream.model.protocols import KeepsTags, TellsOfLanes
from runstream.model.results import Cursor, E, Recorded, RunInfo, S, Snapshot, SnapshotInfo
from runstream.model.run_head import EndedLane, RunHead
from runstream.operations.arguments import ReadQuery, check_count, parse_position
from runstream.operations.idle_timeout import IdleTimeout
from runstream.operations.kept_snapshots import check_snapshot_of, highest_first
from runstream.operations.lineage import asks_for_shared
from runstream.operations.look_ups import spans_of
from runstream.operations.messages import diverged, lost, no_event
from runstream.operations.operation import Operation, Pause, Stream, blocking, in_one_call
from runstream.stores.archive.entry_events import events_of
from runstream.stores.archive.eraser import Eraser
from runstream.stores.archive.forks import ArchiveForks
from runstream.stores.archive.integrity import errors_in, missing, pages_of
from runstream.stores.archive.snapshot_history import KeptSnapshot, nearest, sound
from runstream.stores.capabilities import Archive, ChecksIntegrity, MakesWhole
from runstream.stores.local.erase_plan import EraseOrder, ErasePlan
from runstream.stores.local.pages import in_pages, in_steps

__all__ = ["ArchiveOperations"]

T = TypeVar("T")

_SHORTEST_PAUSE_SECONDS = 0.01
"""How long a follower waits before it looks for the second time; then twice as long each time."""

_LONGEST_PAUSE_SECONDS = 0.2

_SHARE = 0.05
"""How much of a processor a follower takes to look, at most: to find what is new among many runs takes long."""


class ArchiveOperations(ArchiveForks[E, S], Archive, MakesWhole, TellsOfLanes, KeepsTags, ChecksIntegrity):
    """The operations of an archive, which is a sink as well: a local store that has all of its runs.

    It keeps the history of the snapshots that it saw, so that a run can be shown as it was at any offset. Of a run
    that a drain worker archives, it sees those that were the latest when a worker read the run, and no others.
    """

    # -- what a medium gives besides -----------------------------------------------------------------------

    @abstractmethod
    def position_of_lanes(self, run_id: str, lanes: Collection[str | None] | None) -> Position | None:
        """As ``position``, with the snapshots of these lanes and no others; None: of all."""

    @abstractmethod
    def read_back_lanes(self, run_id: str, lanes: Collection[str | None] | None) -> Sequence[ArchiveSnapshot]:
        """As ``read_back_snapshots``, the snapshots of these lanes and no others; None: of all."""

    # -- reading -------------------------------------------------------------------------------------------

    def position(self, run_id: str) -> Position | None:
        """How far the archive has a run; None for one that it does not know."""
        return self.position_of_lanes(run_id, None)

    def end_of(self, run_id: str) -> Cursor | None:
        """The cursor of the last event that the archive has of a run; None for one that it does not know."""
        position = self.position_of_lanes(run_id, ())
        return None if position is None else position.cursor

    def read_back_snapshots(self, run_id: str) -> Sequence[ArchiveSnapshot]:
        """The snapshots that the archive holds of a run."""
        return self.read_back_lanes(run_id, None)

    def header(self, run_id: str) -> RunHeader | None:
        """The header that the archive stores of a run; None for one that it does not know."""
        check_run_id(run_id)
        head = self._load_tagged(run_id)
        return None if head is None else RunHeader.of(run_id, head)

    def ended_lanes(self, run_id: str) -> list[EndedLane]:
        """The ends of those lanes of a run to which nothing has come since; none where they do not read."""
        try:
            facts = self.lane_facts(run_id)
        except CorruptRecordError:
            return []  # told by check_integrity; a lane that is not ended merely stays longer in Redis
        return [facts.ends[info.lane_id] for info in facts.infos() if info.ended]

    def run_ids(self) -> Iterator[str]:
        """The ids of the runs that the archive holds, in any order."""
        return (run_id for run_id, _ in self._load_heads())

    def _until(self, look: Callable[[], T | None], idle: IdleTimeout) -> Operation[T | None]:
        """Look again and again, as other processes write to the files too; see the constants for how often."""
        pause = _SHORTEST_PAUSE_SECONDS
        while True:
            found, seconds = yield from blocking(_timed, look)
            rest = seconds / _SHARE
            if (found is not None and rest < _SHORTEST_PAUSE_SECONDS) or idle.remaining == 0:
                return found
            yield Pause(idle.limit(rest if found is not None else max(pause, rest)))
            if found is not None:
                return found
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _check_durability(self, wanted: Durability) -> None:
        """Raise ConfigurationError for replicas: what is written is on this machine's disk, and nowhere else."""
        if wanted.replicas:
            raise ConfigurationError(
                f"durability={str(wanted)!r}: this store is on one disk and has no replicas; ask for 'fsync'"
            )

    def _info(self, run_id: str, head: RunHead) -> RunInfo:
        return replace(super()._info(run_id, head), archived_offset=head.last.offset)

    # -- reading events --------------------------------------------------------------------------------------

    def read(self, run_id: str, query: ReadQuery) -> Stream:
        """The events between two offsets, as they are at the first step."""
        check_run_id(run_id)
        query.check()
        return in_steps(self._lists(run_id, query))

    def _read(self, run_id: str, query: ReadQuery, head: RunHead | None = None) -> Iterator[Recorded[E]]:
        return chain.from_iterable(self._lists(run_id, query, head))

    def _lists(
        self, run_id: str, query: ReadQuery, head: RunHead | None = None
    ) -> Iterator[Sequence[Recorded[E]]]:
        head = head or self._load_head(run_id) or RunHead()
        if not asks_for_shared(head, query.after):
            yield from self._own_lists(run_id, query, head)
            return
        reader = self._segment_reader(run_id, head, query)
        for each, part in reader:
            for items in self._own_lists(each, part, self._load_head(each) or RunHead()):
                yield reader.note(items)

    def _read_own(self, run_id: str, query: ReadQuery) -> Iterator[Recorded[E]]:
        return chain.from_iterable(self._own_lists(run_id, query, self._load_head(run_id) or RunHead()))

    def _own_lists(self, run_id: str, query: ReadQuery, head: RunHead) -> Iterator[Sequence[Recorded[E]]]:
        after, cursor = parse_position(query.after)
        if cursor is not None:
            self._check_cursor(run_id, cursor, head)
        first = 1 if query.limit is None else min(query.limit, TOGETHER)
        for made in self._made(run_id, after, query, head, first):
            yield [Recorded(entry.offset, str(entry.cursor), event) for entry, event in made]

    def _read_at(self, run_id: str, offsets: Sequence[int], head: RunHead) -> Iterator[Recorded[E]]:
        if asks_for_shared(head, offsets[0] - 1):
            yield from super()._read_at(run_id, offsets, head)
            return
        entries = self._entries_at(run_id, offsets)
        for made in self._made_of(run_id, entries, offsets, ReadQuery(), head, len(offsets)):
            yield from (Recorded(entry.offset, str(entry.cursor), event) for entry, event in made)

    def _entries_at(self, run_id: str, offsets: Sequence[int]) -> Iterator[ArchiveEntry]:
        """The entries at some offsets, in order, quarantined ones too."""
        spans = spans_of(offsets)
        return chain.from_iterable(self._entries(run_id, low, high, reverse=False) for low, high in spans)

    def _events_after(self, run_id: str, offset: int, head: RunHead) -> Iterator[E]:
        if head.fork_of is not None:
            yield from super()._events_after(run_id, offset, head)
            return
        for made in self._made(run_id, offset, ReadQuery(), head, TOGETHER):
            yield from (event for _, event in made)

    def _own_cursor(self, run_id: str, offset: int) -> Cursor:
        return self._cursor_at(run_id, offset, self._load_head(run_id) or RunHead())

    def _cursor_at(self, run_id: str, offset: int, head: RunHead) -> Cursor:
        entry = next(iter(self._entries(run_id, offset - 1, offset, reverse=False)), None)
        if entry is None:
            raise self._missing(run_id, offset, head)
        if entry.is_damaged:
            raise unread(run_id, entry, entry.reason)
        return entry.cursor

    def _check_cursor(self, run_id: str, cursor: Cursor, head: RunHead) -> None:
        if cursor.offset <= head.before_first.offset:
            if head.base is not None and cursor.offset == head.base.offset and cursor != head.base:
                raise diverged(run_id, cursor)
            return
        if cursor.offset > head.last.offset:
            raise lost(run_id, cursor.offset, head.last.offset)
        if self._cursor_at(run_id, cursor.offset, head) != cursor:
            raise diverged(run_id, cursor)

    def _missing(self, run_id: str, offset: int, head: RunHead) -> RunstreamError:
        now = self._load_head(run_id) or RunHead()
        return no_event(run_id, offset) if now.creation == head.creation else lost(run_id, offset, now.last.offset)

    def _made(
        self, run_id: str, after: int, query: ReadQuery, head: RunHead, first: int
    ) -> Iterator[Sequence[tuple[ArchiveEntry, E]]]:
        low = max(after, head.before_first.offset)
        high = head.last.offset if query.before is None else min(query.before - 1, head.last.offset)
        if query.limit == 0 or low >= high:
            return
        spans = _as_asked(low, high, query)
        entries = chain.from_iterable(self._entries(run_id, *span, reverse=query.reverse) for span in spans)
        yield from self._made_of(run_id, entries, range(low + 1, high + 1), query, head, first)

    def _made_of(
        self,
        run_id: str,
        entries: Iterable[ArchiveEntry],
        offsets: Sequence[int],
        query: ReadQuery,
        head: RunHead,
        first: int,
    ) -> Iterator[Sequence[tuple[ArchiveEntry, E]]]:
        missing = yield from events_of(self.codec, run_id, entries, offsets, query, first, head.origins)
        if missing is not None:
            raise self._missing(run_id, missing, head)

    # -- snapshots as they were ----------------------------------------------------------------------------

    @in_one_call
    def snapshot_lanes(self, run_id: str) -> list[str | None]:
        """The lanes of which snapshots are kept; first None, if there are some of the run's own."""
        check_run_id(run_id)
        lanes = {kept.head.lane_id for kept in sound(self._kept_snapshots(run_id))}
        return sorted(lanes, key=lambda lane_id: (lane_id is not None, lane_id or ""))

    @in_one_call
    def kept_snapshots(self, run_id: str, lane_id: str | None) -> list[SnapshotInfo]:
        """The kept snapshots of a run, or of one lane of it, without their states: the highest offset first."""
        check_snapshot_of(run_id, lane_id)
        kept = sound(self._kept_snapshots(run_id))
        return highest_first(one.head for one in kept if one.head.lane_id == lane_id)

    def snapshot_history(self, run_id: str, lane_id: str | None) -> Stream:
        """The snapshots that are kept of a run, or of one lane of it, in the order in which they were saved."""
        check_snapshot_of(run_id, lane_id)
        return in_pages(self._restored(run_id, lane_id), 1)  # each may be large

    @in_one_call
    def snapshot_at(self, run_id: str, offset: int, lane_id: str | None) -> Snapshot[S] | None:
        """The latest snapshot that covers no event after an offset."""
        check_snapshot_of(run_id, lane_id)
        check_count("offset", offset)
        found = (self._restore_kept(run_id, one) for one in nearest(self._kept_snapshots(run_id), lane_id, offset))
        return next((snapshot for snapshot in found if snapshot is not None), None)

    def _restored(self, run_id: str, lane_id: str | None) -> Iterator[Snapshot[S]]:
        for kept in self._kept_snapshots(run_id):
            sound([kept])
            if kept.head.lane_id == lane_id and (snapshot := self._restore_kept(run_id, kept)) is not None:
                yield snapshot

    def _restore_kept(self, run_id: str, kept: KeptSnapshot) -> Snapshot[S] | None:
        """The snapshot, or None if it has been dropped since."""
        head, fields = kept.head, self._kept_fields(run_id, kept)
        if fields is None:
            return None
        fields = self.codec.upcast_state(run_id, head.offset, fields)
        return Snapshot(self.codec.make_state(run_id, fields, head.offset), head.offset, head.revision, fields)

    # -- erasing -------------------------------------------------------------------------------------------

    eraser: Eraser
    """The part that erases."""

    @property
    def _parts(self) -> tuple[Eraser]:
        return (self.eraser,)  # see part_of

    def _carry_out(self, order: EraseOrder) -> tuple[ErasureNote, ErasePlan]:
        return self.eraser.carry_out(order)

    def erasure_notes(self, run_id: str) -> Sequence[ErasureNote]:
        """The erasures that are noted of a run, in the order in which they were asked for."""
        return self.eraser.erasure_notes(run_id)

    def where_erased(self) -> ErasedPlace:
        """What has become of what was erased here; what could not be finished yet is tried again first."""
        return self.eraser.where_erased()

    # -- checked -------------------------------------------------------------------------------------------

    def check_integrity(self) -> list[str]:
        """What is wrong with the archive: its files, and what they hold of each run; nothing if it is sound.

        What is sound and has no checksum yet gets one.

        Raises:
            StoreUnavailable: The files cannot be read.
        """
        problems = self.check_file()
        try:
            for run_id in sorted(self.run_ids()):
                problems += [problem for problem in self._problems_of(run_id) if problem not in problems]
        except StoreUnavailable as error:
            if not problems:
                raise
            problems.append(str(error))
        return problems

    @abstractmethod
    def check_file(self) -> list[str]:
        """What is wrong with the files as such, from the medium; nothing if they are sound."""

    def check_beside(self, run_id: str) -> list[CorruptRecordError]:
        """What is wrong with what is kept of a run beside its entries: its snapshots, and their history."""
        found = []
        for one in (None, *self._kept_snapshots(run_id)):
            try:
                if one is None:
                    self.read_back_snapshots(run_id)
                else:
                    self._load_kept(run_id, *sound([one]))
            except CorruptRecordError as error:
                found.append(error)
        return found

    def sound_snapshots(self, run_id: str) -> tuple[list[ArchiveSnapshot], dict[str | None, CorruptRecordError]]:
        """The latest snapshots of a run that read, and why the others do not, by lane."""
        try:
            return list(self.read_back_snapshots(run_id)), {}
        except CorruptRecordError as error:
            return [], {None: error}

    def note_proven(self, run_id: str, entries: Sequence[ArchiveEntry]) -> None:
        """Give entries that were proven by their chain their checksums, where the medium can add these."""

    def _are_noted(self, run_id: str, entries: Sequence[ArchiveEntry]) -> Iterator[bool]:
        """Whether what the medium notes of each entry beside its text is what the text says."""
        del run_id
        return repeat(True, len(entries))

    def _problems_of(self, run_id: str) -> list[str]:
        found: list[str] = []
        try:
            found.extend(map(str, self._errors_of(run_id)))
        except (CorruptRecordError, HistoryDiverged) as error:
            found.append(str(error))
        return found

    def _errors_of(self, run_id: str) -> Iterator[CorruptRecordError]:
        head = self._load_head(run_id)
        if head is None:
            return
        names = {run_id, *(origin.run_id for origin in head.origins)}
        if head.parent is not None and not head.fork_of:
            names.add(head.parent[0])  # of a branch whose origin nobody has noted
        at = head.before_first
        for entries in pages_of(self.read_back(run_id, at.offset + 1, head.last.offset)):
            found = list(errors_in(run_id, names, at, entries))
            found += [] if found else self._unlike_columns(run_id, entries)
            yield from found
            if not found:
                self.note_proven(run_id, entries)
            at = entries[-1].cursor
        if at.offset < head.last.offset:
            yield missing(run_id, at.offset + 1)
        yield from self.check_beside(run_id)

    def _unlike_columns(self, run_id: str, entries: Sequence[ArchiveEntry]) -> Iterator[CorruptRecordError]:
        for entry, is_noted in zip(entries, self._are_noted(run_id, entries), strict=True):
            if not is_noted:
                yield unread(run_id, entry, "its columns are not those of its text")


def _as_asked(low: int, high: int, query: ReadQuery) -> Iterator[tuple[int, int]]:
    """A span of offsets as a query asks for it: as many as its limit; then, as some may be erased, the rest."""
    if query.limit is None or query.limit >= high - low:
        yield low, high
    elif query.reverse:
        yield high - query.limit, high
        yield low, high - query.limit
    else:
        yield low, low + query.limit
        yield low + query.limit, high


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    """What a call returns, and the seconds of processor time that it took."""
    began = time.thread_time()
    return call(), time.thread_time() - began
