"""All of one run, as an archive keeps it: entry by entry, wherever they lie and while the boundary moves.

An entry has what an event alone has not: its chain, its key, and the bytes of a record that does not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from runstream.codec.archive_entries import archive_entries
from runstream.history.hot import ArchivedHistory, HotHistory
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot
from runstream.model.errors import ArchiveGap, CorruptRecordError, HistoryDiverged
from runstream.model.protocols import RunStore
from runstream.operations.messages import lost
from runstream.stores.archive.base import ArchiveStore
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.operations.client.archived_errors import events_archived
from runstream.stores.redis.page_size import Pace
from runstream.stores.tiered.checkpointer import TieredCheckpointer

__all__ = ["WholeRun"]

_PAGE = 1000

_Hot = RedisCheckpointer[Any, Any]
_Archive = ArchiveStore[Any, Any]


class WholeRun:
    """A run as it stands when it is looked at: its header, its snapshots, and its entries up to ``last``.

    ``broken`` has the snapshots that do not read, by lane (None: the run's own), with why. No snapshot covers
    more than ``last``.
    """

    def __init__(self, hot: _Hot | None, archive: _Archive | None, run_id: str) -> None:
        self.run_id = run_id
        self._hot = hot
        self._archive = archive
        self.broken: dict[str | None, str] = {}
        snapshots: dict[str | None, ArchiveSnapshot] = {}
        if archive is not None:
            snapshots = {one.lane_id: one for one in self._archived_snapshots(archive)}
        if hot is not None:
            snapshots |= self._hot_snapshots(hot)
        self.snapshots: Sequence[ArchiveSnapshot] = list(snapshots.values())
        # after the snapshots: what they cover is there by now. The archive first: it can only be behind
        archived = None if archive is None else ArchivedHistory.look(archive, run_id)
        found = None if hot is None else HotHistory.look(hot, run_id)
        if archived is not None and found is not None and archived.last.offset > found.last.offset:
            raise lost(run_id, archived.last.offset, found.last.offset)
        history = found or archived
        self.is_there = history is not None
        if history is not None:
            self.header, self.last = history.header, history.last
        self._found = found
        if hot is not None and found is not None:
            info = hot.run_info(run_id)
            self.header = replace(self.header, parent=None if info is None else info.parent)

    @classmethod
    def look(cls, store: RunStore[Any, Any], run_id: str) -> WholeRun | None:
        """The run as this store has it: hot, archived, or both; None for one that is not there.

        Raises AcknowledgedWritesLost where Redis is behind the archive.
        """
        hot: _Hot | None = None
        archive: _Archive | None = None
        if isinstance(store, TieredCheckpointer):
            hot, archive = store.hot, store.archive
        elif isinstance(store, ArchiveStore):
            archive = store
        elif isinstance(store, RedisCheckpointer):
            hot = store
        else:
            return None  # memory, which has nothing of another process
        whole = cls(hot, archive, run_id)
        return whole if whole.is_there else None

    def __len__(self) -> int:
        return self.last.offset - self.header.start.offset

    def entries(self) -> Iterator[ArchiveEntry]:
        """All entries in order, none missing.

        Raises EventsArchived or ArchiveGap where one is in no place that was looked at, HistoryDiverged where
        archive and Redis have different histories, UnsupportedVersion for a record of a newer version.
        """
        at = self.header.start.offset
        while (before := at) < self.last.offset:
            for part in (self._from_archive, self._from_redis):
                for entry in part(at):
                    if entry.offset != at + 1:
                        raise self._gap(at)
                    yield entry
                    at = entry.offset
            if at == before:  # nobody has trimmed in between: it is nowhere
                raise self._gap(at)

    # -- inside ------------------------------------------------------------------------------------

    def _archived_snapshots(self, archive: _Archive) -> Sequence[ArchiveSnapshot]:
        try:
            return archive.read_back_snapshots(self.run_id)
        except CorruptRecordError as error:
            self.broken[None] = str(error)
            return ()

    def _hot_snapshots(self, hot: _Hot) -> Mapping[str | None, ArchiveSnapshot]:
        found = HotHistory.look(hot, self.run_id)
        if found is None:
            return {}
        loaded = found.load_snapshots()
        self.broken |= loaded.broken
        return {one.lane_id: one for one in loaded.snapshots}

    def _from_archive(self, at: int) -> Iterator[ArchiveEntry]:
        """As far as the archive has the run now."""
        position = None if self._archive is None else self._archive.position(self.run_id)
        if self._archive is None or position is None or position.cursor.offset <= at:
            return
        if self._hot is not None and self._found is not None:
            # raises HistoryDiverged if this is not the history that Redis goes on with
            list(self._hot.read(self.run_id, str(position.cursor), limit=0))
        yield from self._archive.read_back(self.run_id, at + 1, min(position.cursor.offset, self.last.offset))

    def _from_redis(self, at: int) -> Iterator[ArchiveEntry]:
        """From there on, up to the end or to where entries have been trimmed meanwhile."""
        if self._found is None:
            return
        pace = Pace(_PAGE)
        while at < self.last.offset:
            loaded = self._found.load(at + 1, min(at + pace.count, self.last.offset))
            records = loaded.entries
            if loaded.start != self.header.start or not records or records[0][0].offset != at + 1:
                return
            pace.saw(record for _, record in records)
            yield from archive_entries(self.run_id, records)
            at = records[-1][0].offset

    def _gap(self, at: int) -> Exception:
        expected = at + 1
        if self._hot is not None and self._found is not None:
            if (now := HotHistory.look(self._hot, self.run_id)) is None or now.header.start != self.header.start:
                return HistoryDiverged(
                    f"run {self.run_id!r} was deleted while it was read, or made anew: look again",
                    run_id=self.run_id,
                    offset=at,
                )
            if expected > now.found.run.mark.offset:  # nobody may have trimmed what was never archived
                return lost(self.run_id, self.last.offset, at)
            if self._archive is None:
                return self._hot.perform(events_archived(self._hot.context, self.run_id, expected))
        looked = [] if self._found is None else ["Redis"]
        looked += [] if self._archive is None else [self._archive.location]
        return ArchiveGap(
            f"event {expected} of run {self.run_id!r} is not in {' nor in '.join(looked)}, which has later ones;"
            " ask the archive that the drain worker writes",
            run_id=self.run_id,
            expected=expected,
            found=self.last.offset,
        )
