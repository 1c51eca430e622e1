"""Forks in an archive: what one begins with, and a copy of its own of all that it shares."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from runstream.codec.archive_entries import renamed, unread
from runstream.codec.kept_states import state_text
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, RunBatch, RunHeader
from runstream.model.erasures import ErasureNote
from runstream.model.errors import AcknowledgedWritesLost, ArchiveGap, ConfigurationError, HistoryDiverged
from runstream.model.identifiers import check_run_id
from runstream.model.results import Cursor, E, S
from runstream.model.run_head import RunHead, SnapshotHead, written_as
from runstream.operations.lineage import Segment
from runstream.operations.run_forks import Brought
from runstream.stores.archive.eraser import erased, left_of
from runstream.stores.archive.integrity import pages_of
from runstream.stores.archive.snapshot_history import KeptSnapshot, nearest
from runstream.stores.local.forks import ForkStart
from runstream.stores.local.operations import LocalOperations

__all__ = ["ArchiveForks"]


class ArchiveForks(LocalOperations[E, S]):
    """The part of an archive's operations that makes forks, and lets them live by themselves."""

    def _keep_state(self, fields: Mapping[str, Any]) -> str:
        return state_text(self.codec.packer, fields)

    @abstractmethod
    def _entries(self, run_id: str, low: int, high: int, *, reverse: bool) -> Iterator[ArchiveEntry]:
        """The entries with ``low < offset <= high``, in order or newest first, quarantined ones too."""

    @abstractmethod
    def erasure_notes(self, run_id: str) -> Sequence[ErasureNote]:
        """The erasures that are noted of a run, in the order in which they were asked for."""

    @abstractmethod
    def _kept_snapshots(self, run_id: str) -> list[KeptSnapshot]:
        """The snapshots that are kept of a run and its lanes, in the order in which each lane's were saved."""

    @abstractmethod
    def _load_kept(self, run_id: str, kept: KeptSnapshot) -> dict[str, Any] | None:
        """Load a state from the history, as plain data; None if it is not kept (any more)."""

    @abstractmethod
    def _write_within(self, batches: Sequence[RunBatch]) -> None:
        """Write batches; within ``_at_once`` of their runs."""

    def head_of(self, run_id: str) -> RunHead | None:
        """Where a run stands, and what it comes from; None for one that the archive does not know."""
        check_run_id(run_id)
        return self._load_head(run_id)

    def brought(self, run_id: str, at: int) -> Brought | None:
        """What the archive has of a run itself that is to be forked at an offset; None if it does not know it."""
        head = self._load_tagged(run_id)
        if head is None:
            return None
        cursor = head.before_first if at <= head.before_first.offset else head.last
        if head.before_first.offset < at < head.last.offset:
            cursor = self._own_cursor(run_id, at)
        kept = ((saved, self._keep_state(fields)) for saved, fields in self._states_at(run_id, at))
        ends = [end for end in self._own_lane_facts(run_id).ends.values() if end.offset <= at]
        return Brought(head, cursor, [ArchiveSnapshot(*saved, state) for saved, state in kept], ends)

    def _begin_fork(self, run_id: str, start: ForkStart) -> None:
        heads = start.head.snapshots.values()
        snapshots = [ArchiveSnapshot(*head, kept) for head, kept in zip(heads, start.states, strict=True)]
        header = RunHeader.of(run_id, start.head)
        batch = RunBatch(header, header.start, (), snapshots, drained=False, ended=start.ended)
        self._write_within([batch])

    def _take_over(self, run_id: str, head: RunHead, shared: Sequence[Segment]) -> None:
        lasts = self._inherited_lasts(run_id, self._load_head(run_id) or RunHead())
        self._write_copied(run_id, head, self._copied(run_id, head.before_first.offset, shared, lasts))

    def lacks_shared(self, header: RunHeader, of: Sequence[Segment] = ()) -> int | None:
        """The offset after which the archive lacks what a run had shared; None if it has nothing to copy."""
        head = self._load_head(header.run_id)
        was = self._was(header, head, of)
        if was is None or (head is None and not was.parent_identity):
            return None
        return max(was.start.offset, header.before_first.offset) if was.parent_identity else 0

    def make_whole(self, header: RunHeader, rest: Sequence[ArchiveEntry], of: Sequence[Segment] = ()) -> None:
        """Give a run, which is a fork no more, what it had shared: as far as the archive has it, then these."""
        run_id, base = header.run_id, header.before_first.offset
        with self._at_once([run_id]):
            head = self._load_head(run_id)
            was = self._was(header, head, of)
            if was is None:
                return
            shared = self._ancestry(run_id, was) if was.parent_identity else []
            copied = self._copied(run_id, base, shared, self._inherited_lasts(run_id, was))
            notes = self.erasure_notes(run_id)
            entries = (
                erased(entry) if any(note.has(entry.offset) for note in notes) else entry
                for entry in _dense(run_id, base, header.start.offset, copied, rest)
            )
            if head is not None and head.fork_of is not None:
                # what was truncated of its own is removed as that, by a worker: the archive need not be as far
                begins = head.base or min(header.before_first, head.start)
                whole = replace(head, parent=None, parent_identity=0, base=begins, origins=header.origins)
                self._write_copied(run_id, whole, entries)
            else:
                self._begin_with(header, head, entries)

    def _was(self, header: RunHeader, head: RunHead | None, of: Sequence[Segment]) -> RunHead | None:
        """A run as the fork that it was, as far as the archive has what it shared; None if that was copied.

        Where the archive has nothing of what it shared, it is no fork. For another run of that name nothing is
        copied.
        """
        if head is not None and head.creation != header.creation:
            return None
        shared = [(origin.run_id, origin.upto) for origin in header.origins]
        shared += [(segment.run_id, segment.upto()) for segment in of]
        if head is not None and head.fork_of is not None:
            shared.append(head.fork_of)
        elif head is not None and head.last.offset >= header.start.offset:
            return None
        ends = [segment.end for segment in of if segment.end is not None]
        borders = {end.offset: end for end in (*ends, header.start)}
        for ancestor, upto in reversed(shared):  # the archive need not have the nearest
            was = self._as_fork_of(ancestor, min(upto, header.start.offset))
            is_same = head is not None and head.parent_identity == was.parent_identity
            if (
                was.start.offset > header.lowest.offset
                and (is_same or self._passes(ancestor, header.before_first))
                and borders.get(was.start.offset, was.start) == was.start
            ):
                return was
        return RunHead()

    def _as_fork_of(self, ancestor: str, upto: int) -> RunHead:
        """The head of a fork of a run at an offset, or at the end of what is here."""
        there = self._load_head(ancestor) or RunHead()
        at = min(upto, there.last.offset)
        try:
            start = self._cursor_of(ancestor, there, at)
            self._ancestry(ancestor, there)  # at its end, it has the cursor by itself
        except (ConfigurationError, HistoryDiverged, AcknowledgedWritesLost):
            return RunHead()  # the archive lacks what it comes from, or that was truncated
        return RunHead(start, start, parent=(ancestor, at), parent_identity=there.creation)

    def _passes(self, run_id: str, cursor: Cursor) -> bool:
        """Whether the history of a run passes a cursor, or begins there; up to it, it may be truncated yet."""
        try:
            return self._cursor_of(run_id, self._load_head(run_id) or RunHead(), cursor.offset) == cursor
        except ConfigurationError:
            return False  # it begins later

    def _begin_with(self, header: RunHeader, head: RunHead | None, entries: Iterator[ArchiveEntry]) -> None:
        """Begin a run with these entries, or go on with them."""
        at = header.before_first if head is None else head.last
        for page in pages_of(entries):
            former = [entry for entry in page if entry.offset <= header.before_first.offset]
            after = [entry for entry in page if entry.offset > at.offset]
            self._write_within([RunBatch(header, at, after, former=former)])
            at = max(at, page[-1].cursor)

    def _copied(
        self, run_id: str, base: int, shared: Sequence[Segment], lasts: Mapping[str, tuple[int, int]]
    ) -> Iterator[ArchiveEntry]:
        """What some segments have, as entries of the run; of one up to an offset, its key and its lane."""
        last_offsets = {offset for offset, _ in lasts.values()}
        for segment in shared:
            origins = (self._load_head(segment.run_id) or RunHead()).origins
            for entry in self._entries(segment.run_id, 0, segment.upto(), reverse=False):
                if entry.is_damaged:
                    raise unread(segment.run_id, entry, entry.reason)
                if entry.offset > base:
                    yield renamed(entry, run_id)
                elif entry.key is not None or entry.offset in last_offsets:
                    yield left_of(segment.run_id, entry, written_as(segment.run_id, origins, entry.offset))

    @abstractmethod
    def _write_copied(self, run_id: str, head: RunHead, entries: Iterator[ArchiveEntry]) -> None:
        """Put entries in front of those that a run has itself, in one atomic step, and let this be its head."""

    def _states_at(self, run_id: str, upto: int) -> Iterator[tuple[SnapshotHead, dict[str, Any]]]:
        kept = self._kept_snapshots(run_id)
        for lane_id in dict.fromkeys(one.head.lane_id for one in kept if one.damage is None):
            for one in nearest(kept, lane_id, upto):
                fields = self._kept_fields(run_id, one)
                if fields is not None:
                    yield one.head, fields
                    break

    def _kept_fields(self, run_id: str, kept: KeptSnapshot) -> dict[str, Any] | None:
        """The state of a snapshot as plain data, or None if it has been dropped since."""
        fields = None
        if kept.stored_at is None:
            _, loaded = self._load_snapshot(run_id, kept.head.lane_id)
            fields = None if loaded is None or loaded[0].token != kept.head.token else loaded[1]
        # also one that has been replaced since: the history has it now
        return self._load_kept(run_id, kept) if fields is None else fields


def _dense(
    run_id: str, base: int, end: int, copied: Iterable[ArchiveEntry], more: Sequence[ArchiveEntry]
) -> Iterator[ArchiveEntry]:
    """Entries of a run, and after them those of ``more`` that follow: all from an offset up to an end.

    Raises:
        ArchiveGap: One is missing.
    """
    at = base
    for entry in chain(copied, more):
        if base < entry.offset <= at:
            continue
        if entry.offset > at + 1:
            break
        yield entry
        at = max(at, entry.offset)
    if at < end:
        raise ArchiveGap(
            f"event {at + 1} of run {run_id!r}, which it had shared with another one, is neither in the archive"
            " nor in Redis: nothing was written",
            run_id=run_id,
            expected=at + 1,
            found=end + 1,
        )
