"""The merged history of a run: all its entries, from Redis, from an archive, or from both.

An entry has more than an event: its chain, its key, and the bytes of a record that does not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runstream.codec.archive_entries import archive_entries, renamed
from runstream.history.archived import ArchivedHistory
from runstream.history.base import History
from runstream.history.hot import HotHistory
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot
from runstream.model.errors import ArchiveGap, HistoryDiverged
from runstream.operations.messages import lost, parent_lost
from runstream.stores.capabilities import Archive, ChecksIntegrity, part_of
from runstream.stores.protocol import RunStore
from runstream.stores.redis.namespace import Namespace

__all__ = ["MergedRun"]

_PAGE = 1000


class MergedRun:
    """A run as it is when it is loaded.

    Attributes:
        run_id: Its id.
        header: The run's header.
        last: The cursor of its last entry.
        snapshots: The latest snapshots of the run and of its lanes; none covers more than ``last``.
        broken: The snapshots that do not read, by lane (None: the run's own), with why.
        shared: Of a fork, the runs that it shares its history with, the oldest first, each up to where the next
            begins.
    """

    def __init__(
        self,
        store: RunStore[Any, Any],
        history: History,
        hot: HotHistory | None,
        snapshots: Mapping[str | None, ArchiveSnapshot],
        broken: dict[str | None, str],
    ) -> None:
        self.run_id = history.run_id
        self.header = history.header
        self.last = history.last
        self.snapshots: Sequence[ArchiveSnapshot] = list(snapshots.values())
        self.broken = broken
        self.shared: Sequence[MergedRun] = ()
        self._store = store
        self._namespace = part_of(store, Namespace)
        self._archive = part_of(store, Archive)
        self._hot = hot

    @classmethod
    def load(cls, store: RunStore[Any, Any], run_id: str) -> MergedRun | None:
        """The run as a store has it now, with what it shares; None for one that is not there.

        Raises:
            AcknowledgedWritesLost: Redis is behind the archive.
            HistoryDiverged: A run that it comes from is not there any more.
            StoreUnavailable: A replica is behind it.
        """
        found = run = cls._load_own(store, run_id)
        if found is None or run is None:
            return None
        shared: list[MergedRun] = []
        end = run.header.start
        while run.header.parent_identity and run.header.parent is not None:
            name, creation = run.header.parent[0], run.header.parent_identity
            child, run = run.run_id, cls._load_own(store, name)
            if run is None or run.header.creation != creation:
                raise parent_lost(child, name, is_there=run is not None)
            if run.last.offset < end.offset:
                raise lost(name, end.offset, run.last.offset)
            run.last = end
            end = min(end, run.header.start)
            shared.insert(0, run)
        found.shared = [part for part in shared if part.last.offset > part.header.start.offset]
        return found

    @classmethod
    def _load_own(cls, store: RunStore[Any, Any], run_id: str) -> MergedRun | None:
        """The run without what it shares."""
        namespace, archive = part_of(store, Namespace), part_of(store, Archive)
        snapshots: dict[str | None, ArchiveSnapshot] = {}
        broken: dict[str | None, str] = {}
        if (checks := part_of(store, ChecksIntegrity)) is not None:
            sound, errors = checks.sound_snapshots(run_id)
            snapshots |= {one.lane_id: one for one in sound}
            broken |= {lane_id: str(error) for lane_id, error in errors.items()}
        if namespace is not None and (hot := HotHistory.load(namespace, run_id)) is not None:
            loaded = hot.load_snapshots()
            snapshots |= {one.lane_id: one for one in loaded.snapshots}
            broken |= loaded.broken
        # after the snapshots: what they cover is there by now. The archive first: it can only be behind
        archived = None if archive is None else ArchivedHistory.load(archive, run_id)
        hot = None if namespace is None else HotHistory.load(namespace, run_id)
        if namespace and archived and hot and archived.last.offset > hot.last.offset:
            namespace.check_cursor(run_id, archived.last)  # raises, unless a replica has caught up
            hot = HotHistory.load(namespace, run_id)
        history = hot or archived
        return None if history is None else cls(store, history, hot, snapshots, broken)

    def __len__(self) -> int:
        return self.last.offset - self.header.before_first.offset + sum(map(len, self.shared))

    def parent(self) -> MergedRun | None:
        """Load the run that it comes from, but not what that shares; None where there is none, or no more."""
        if self.header.parent is None or not self.header.parent_identity:
            return None
        found = self._load_own(self._store, self.header.parent[0])
        return found if found is not None and found.header.creation == self.header.parent_identity else None

    def entries(self) -> Iterator[ArchiveEntry]:
        """Read all entries in order, those that it shares as its own; see ``own_entries``."""
        for part in self.shared:
            yield from (renamed(entry, self.run_id) for entry in part.own_entries())
        yield from self.own_entries()

    def own_entries(self) -> Iterator[ArchiveEntry]:
        """Read the run's own entries in order, also while a worker moves them.

        Raises:
            EventsArchived: Some have left Redis, and the store has no archive.
            ArchiveGap: One is neither in Redis nor in the archive.
            HistoryDiverged: Archive and Redis have different histories, or the run was deleted meanwhile.
            AcknowledgedWritesLost: Redis lost some.
            StoreUnavailable: Redis is a replica that lags behind the archive.
            UnsupportedVersion: A record is of a newer version.
        """
        at = self.header.before_first.offset
        while (before := at) < self.last.offset:
            for part in (self._from_archive, self._from_redis):
                for entry in part(at):
                    if entry.offset != at + 1:
                        raise self._gap(at)
                    yield entry
                    at = entry.offset
            if at == before:  # nobody has trimmed in between: it is nowhere
                raise self._gap(at)

    def _from_archive(self, at: int) -> Iterator[ArchiveEntry]:
        """The entries as far as the archive has the run now."""
        position = None if self._archive is None else self._archive.position(self.run_id)
        if self._archive is None or position is None or position.cursor.offset <= at:
            return
        if self._namespace is not None and self._hot is not None:
            self._namespace.check_cursor(self.run_id, position.cursor)
        yield from self._archive.read_back(self.run_id, at + 1, min(position.cursor.offset, self.last.offset))

    def _from_redis(self, at: int) -> Iterator[ArchiveEntry]:
        """The entries from there on, up to the end or to where entries have been trimmed meanwhile."""
        if self._hot is None:
            return
        while at < self.last.offset:
            loaded = self._hot.load_entries(at + 1, min(at + _PAGE, self.last.offset))
            records = loaded.entries
            if loaded.creation != self.header.creation or not records or records[0][0].offset != at + 1:
                return
            yield from archive_entries(self.run_id, records, self.header.origins)
            at = records[-1][0].offset

    def _gap(self, at: int) -> Exception:
        """The error that says why the entry after that offset is not there."""
        expected = at + 1
        if self._namespace is not None and self._hot is not None:
            now = HotHistory.load(self._namespace, self.run_id)
            if now is None or now.header.creation != self.header.creation:
                return HistoryDiverged(
                    f"run {self.run_id!r} was deleted while it was read, or made anew: look again",
                    run_id=self.run_id,
                    offset=at,
                )
            if expected > now.mark.offset:  # nobody may have trimmed what was never archived
                return lost(self.run_id, self.last.offset, at)
            if self._archive is None:
                next(self._store.read(self.run_id, at, limit=1), None)  # raises EventsArchived, with where it is
        stores = [] if self._hot is None else ["Redis"]
        stores += [] if self._archive is None else [self._archive.location]
        return ArchiveGap(
            f"event {expected} of run {self.run_id!r} is not in {' nor in '.join(stores)}, which has later ones;"
            " ask the archive that the drain worker writes",
            run_id=self.run_id,
            expected=expected,
            found=self.last.offset,
        )
