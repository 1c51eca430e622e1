"""An archive that a worker may make yet, as the archive of a tiered store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Self

from runstream.codec.event_codec import Codec
from runstream.model.archive_records import ArchiveEntry, Position, RunHeader
from runstream.model.erasures import Erasure, Spans
from runstream.model.results import (
    Cursor,
    E,
    Fork,
    LaneInfo,
    Recorded,
    Recovery,
    RunInfo,
    S,
    Snapshot,
    SnapshotInfo,
)
from runstream.model.run_head import RunHead
from runstream.operations.arguments import ReadQuery, RunsQuery
from runstream.operations.erase_arguments import EraseOptions, TruncateOptions
from runstream.operations.lane_facts import LaneFacts
from runstream.operations.lineage import Segment
from runstream.operations.operation import Operation, Stream, blocking
from runstream.operations.run_forks import Brought
from runstream.stores.archive.base import ArchiveOperations
from runstream.stores.archive.facade import ArchiveStore
from runstream.stores.urls import path_in

__all__ = ["ArchiveToCome", "LateArchive"]


class ArchiveToCome(Generic[E, S]):
    """An archive that is opened at the first use after a worker has made it, and never made here.

    Args:
        url: Its URL.
        open_archive: Opens it.

    Attributes:
        location: Its URL, for people to read.

    Raises:
        ConfigurationError: The URL names no path.
    """

    def __init__(self, url: str, open_archive: Callable[[], ArchiveStore[E, S]]) -> None:
        scheme, _, rest = url.partition(":")
        path = path_in(scheme, rest.partition("?")[0])
        self.location = f"{scheme}:{path}"
        self._path = Path(path)
        self._open = open_archive
        self._opened: dict[Path, ArchiveStore[E, S]] = {}
        self._is_closed = False

    def __repr__(self) -> str:
        """Where it is, or will be."""
        return f"<{type(self).__name__} {self.location}>"

    def find(self) -> ArchiveStore[E, S] | None:
        """The archive; None as long as nobody has made it."""
        found = self._opened.get(self._path)
        if found is None and not self._is_closed and self._path.exists():
            opened = self._open()
            found = self._opened.setdefault(self._path, opened)  # without a lock, which a fork might leave locked
            if found is not opened:
                opened.close()
        return found

    def close(self) -> None:
        """Close the archive, if it was opened, and open it no more."""
        self._is_closed = True
        for store in self._opened.values():
            store.close()


class LateArchive(Generic[E, S]):
    """The operations of an archive that may come yet: until then it has no run.

    Args:
        archive: The archive.
        codec: That of the store that is written to.
    """

    def __init__(self, archive: ArchiveToCome[E, S], codec: Codec[E, S]) -> None:
        self.codec = codec
        self._archive = archive
        self._found: ArchiveOperations[E, S] | None = None

    @property
    def location(self) -> str:
        """The URL of the archive, for people to read."""
        return self._archive.location

    def for_one_writer(self) -> Self:
        """The same archive for one more writer."""
        return type(self)(self._archive, self.codec)

    def _find(self) -> ArchiveOperations[E, S] | None:
        if self._found is None and (store := self._archive.find()) is not None:
            self._found = store._operations.for_one_writer()
        return self._found

    def position_of_lanes(self, run_id: str, lanes: Collection[str | None] | None) -> Position | None:
        """How far the archive has a run, with the snapshots of these lanes."""
        found = self._find()
        return None if found is None else found.position_of_lanes(run_id, lanes)

    def end_of(self, run_id: str) -> Cursor | None:
        """The cursor of the last event that the archive has of a run."""
        found = self._find()
        return None if found is None else found.end_of(run_id)

    def head_of(self, run_id: str) -> RunHead | None:
        """Where a run stands, and what it comes from."""
        found = self._find()
        return None if found is None else found.head_of(run_id)

    def brought(self, run_id: str, at: int) -> Brought | None:
        """What the archive knows of a run that is to be forked."""
        found = self._find()
        return None if found is None else found.brought(run_id, at)

    @property
    def archive_id(self) -> str:
        """The UUID of the archive; '' as long as it is not there."""
        found = self._find()
        return "" if found is None else found.archive_id

    def detach(self, run_id: str, of: str) -> Operation[None]:
        """Give a fork of a run a copy of its own of all that it shares."""
        return self._ask(lambda found: found.detach(run_id, of), None)

    def lacks_shared(self, header: RunHeader, of: Sequence[Segment] = ()) -> int | None:
        """The offset after which the archive lacks what a run had shared."""
        found = self._find()
        return None if found is None else found.lacks_shared(header, of)

    def make_whole(self, header: RunHeader, rest: Sequence[ArchiveEntry], of: Sequence[Segment] = ()) -> None:
        """Give a run, which is a fork no more, what it had shared."""
        found = self._find()
        if found is not None:
            found.make_whole(header, rest, of)

    def forks_of(self, run_id: str, creation: int | None = None) -> list[Fork]:
        """The runs that were forked from a run."""
        found = self._find()
        return [] if found is None else found.forks_of(run_id, creation)

    def offset_before(self, run_id: str, since_seq: int) -> int:
        """The offset up to which no event of a run has a ``seq`` over ``since_seq``."""
        found = self._find()
        return 0 if found is None else found.offset_before(run_id, since_seq)

    def delete_history(self, run_id: str, creation: int | None) -> bool:
        """Remove a run. False if there was nothing to remove."""
        found = self._find()
        return found is not None and found.delete_history(run_id, creation)

    def read_back(self, run_id: str, first: int, last: int) -> Iterator[ArchiveEntry]:
        """What the archive holds of a run, in order."""
        found = self._find()
        return iter(()) if found is None else found.read_back(run_id, first, last)

    def erase(self, run_id: str, spans: Spans, options: EraseOptions) -> Operation[Erasure]:
        """Erase the content at these offsets, of a run that the archive has."""
        return self._ask(lambda found: found.erase(run_id, spans, options), Erasure(run_id, 0.0))

    def truncate(self, run_id: str, before: int, options: TruncateOptions) -> Operation[Erasure]:
        """Remove the events before an offset, of a run that the archive has."""
        return self._ask(lambda found: found.truncate(run_id, before, options), Erasure(run_id, 0.0))

    def erasures(self, run_id: str) -> Operation[list[Erasure]]:
        """What was asked to be erased of a run."""
        return self._ask(lambda found: found.erasures(run_id), [])

    def read(self, run_id: str, query: ReadQuery) -> Stream:
        """The events between two offsets."""
        return self._stream(lambda found: found.read(run_id, query))

    def runs(self, query: RunsQuery) -> Stream:
        """The runs that match."""
        return self._stream(lambda found: found.runs(query))

    def snapshot_history(self, run_id: str, lane_id: str | None) -> Stream:
        """The snapshots that are kept of a run, or of one lane of it."""
        return self._stream(lambda found: found.snapshot_history(run_id, lane_id))

    def find(self, run_id: str, keys: Sequence[str]) -> Operation[list[int | None]]:
        """The offsets of the events that have these keys; None for a key that the run does not know."""
        return self._ask(lambda found: found.find(run_id, keys), [None] * len(keys))

    def read_at(self, run_id: str, offsets: Sequence[int]) -> Operation[list[Recorded[E]]]:
        """The events at these offsets, in the order in which they are asked for."""
        return self._ask(lambda found: found.read_at(run_id, offsets), [])

    def last_seq(self, run_id: str, lane_id: str) -> Operation[int]:
        """The ``seq`` of a lane's last event; 0 for a lane without one."""
        return self._ask(lambda found: found.last_seq(run_id, lane_id), 0)

    def find_own(self, run_id: str, keys: Sequence[str]) -> Operation[list[Cursor | None]]:
        """The cursors of the run's own events that have these keys."""
        return self._ask(lambda found: found.find_own(run_id, keys), [None] * len(keys))

    def lanes(self, run_id: str) -> Operation[list[LaneInfo]]:
        """The lanes of a run, by name."""
        return self._ask(lambda found: found.lanes(run_id), [])

    def own_lane_facts(self, run_id: str) -> Operation[LaneFacts]:
        """What is noted of the lanes of the run's own events and snapshots."""
        return self._ask(lambda found: found.own_lane_facts(run_id), LaneFacts())

    def load_snapshot(self, run_id: str, lane_id: str | None) -> Operation[Snapshot[S] | None]:
        """The latest snapshot of a run, or of one lane of it."""
        return self._ask(lambda found: found.load_snapshot(run_id, lane_id), None)

    def snapshot_lanes(self, run_id: str) -> Operation[list[str | None]]:
        """The lanes of which snapshots are kept."""
        return self._ask(lambda found: found.snapshot_lanes(run_id), [])

    def kept_snapshots(self, run_id: str, lane_id: str | None) -> Operation[list[SnapshotInfo]]:
        """The snapshots that are kept of a run, or of one lane of it, without their states."""
        return self._ask(lambda found: found.kept_snapshots(run_id, lane_id), [])

    def snapshot_at(self, run_id: str, offset: int, lane_id: str | None) -> Operation[Snapshot[S] | None]:
        """The latest snapshot that covers no event after an offset."""
        return self._ask(lambda found: found.snapshot_at(run_id, offset, lane_id), None)

    def recover(self, run_id: str, lane_id: str | None) -> Operation[Recovery[S, E]]:
        """The latest snapshot and the events after it."""
        return self._ask(lambda found: found.recover(run_id, lane_id), Recovery(None, 0, []))

    def run_info(self, run_id: str) -> Operation[RunInfo | None]:
        """What the archive knows of a run."""
        return self._ask(lambda found: found.run_info(run_id), None)

    def _ask(self, ask: Callable[[ArchiveOperations[E, S]], Operation[Any]], otherwise: Any) -> Operation[Any]:
        found = yield from blocking(self._find)
        return otherwise if found is None else (yield from ask(found))

    def _stream(self, ask: Callable[[ArchiveOperations[E, S]], Stream]) -> Stream:
        return self._ask(ask, None)
