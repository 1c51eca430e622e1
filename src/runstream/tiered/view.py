"""What the two tiers make together, as steps: the archive has the beginning of a run, Redis has its end.

Dense offsets are the proof. The boundary is where Redis begins (``first_hot``), and it moves: whoever reads
towards it may find that it has gone on, and goes back to the archive for what has left Redis meanwhile. That
both hold one history is proven by the chain at the place up to which the archive has it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from dataclasses import replace
from functools import partial
from typing import Any, Generic, NamedTuple

from runstream.model.archive import Position
from runstream.model.errors import ArchiveGap, ConcurrencyConflict, EventsArchived
from runstream.model.events import EventKind, Visibility
from runstream.model.names import check_run_id
from runstream.model.protocols import Leased, OnCorrupt
from runstream.model.state import ENDED_STATUSES
from runstream.model.values import Cursor, E, Recorded, Recovery, RunInfo, S, Snapshot
from runstream.run.steps import Steps
from runstream.stores.filters import EventFilter, check_attempts, check_count, check_read, lane_of, origin
from runstream.stores.redis.operations.inspecting import snapshot_lanes
from runstream.stores.refusals import lost
from runstream.tiered.pouring import Pour, Pouring

__all__ = ["View"]


class _Tiers(NamedTuple):
    """Where the parts of a run lie: Redis has ``first_hot`` to ``last``, the archive all up to ``archived``."""

    is_hot: bool
    first_hot: int
    last: int
    archived: Position | None


class View(Generic[E, S]):
    """The steps over a Redis store and an archive, both sync or both async.

    ``collect`` makes a list of a stream, ``pouring`` a stream of steps, in the way of the two.
    """

    def __init__(
        self, hot: Any, archive: Any, collect: Callable[[Any], Any], pouring: Callable[[Pouring], Any]
    ) -> None:
        self.hot = hot
        self.archive = archive
        self.collect = collect
        self.pouring = pouring

    # -- events --------------------------------------------------------------------------------------

    def read(
        self,
        run_id: str,
        after: int | str = 0,
        *,
        before: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        on_corrupt: OnCorrupt = "raise",
    ) -> Pouring:
        """The events between two offsets, as they stand at the first step."""
        check_run_id(run_id)
        check_read(before, limit, on_corrupt)
        low, _ = origin(after)
        tiers = yield from self.tiers(run_id)
        high = tiers.last if before is None else min(before - 1, tiers.last)
        reading = _Reading(self, run_id, tiers, low, high, limit, on_corrupt)
        yield from reading.backward(after) if reverse else reading.forward(after)

    def follow(
        self,
        run_id: str,
        after: int | str,
        *,
        idle_timeout: float | None,
        lane_id: str | None,
        kinds: Collection[EventKind | str] | None,
        visibility: Visibility | str | None,
    ) -> Pouring:
        """History from wherever it lies, then live."""
        check_run_id(run_id)
        wanted = EventFilter(lane_id, kinds, visibility)
        place, (low, _) = after, origin(after)
        while True:
            tiers = yield from self.tiers(run_id)
            reading = _Reading(self, run_id, tiers, low, tiers.last)
            if low + 1 < tiers.first_hot:
                place = yield from reading.from_archive(place, wanted)
                low = reading.low
            if not tiers.is_hot and tiers.archived is not None:
                info: RunInfo | None = yield partial(self.archive.run_info, run_id)
                if info is not None and info.status in ENDED_STATUSES:
                    return
                raise lost(run_id, tiers.last, 0)
            filters = {"lane_id": lane_id, "kinds": kinds, "visibility": visibility}
            poured = Pour(self.hot.follow(run_id, place, idle_timeout=idle_timeout, **filters))
            try:
                yield poured
            except EventsArchived as moved:
                if poured.last is not None:
                    low, place = poured.last.offset, poured.last.cursor
                if moved.first_hot <= low + 1:
                    raise
            else:
                return

    # -- states --------------------------------------------------------------------------------------

    def load_snapshot(self, run_id: str, lane_id: str | None) -> Steps[Snapshot[S] | None]:
        """The latest snapshot: Redis's, or, where the run has left Redis, the archive's."""
        return (yield from self._latest(self.hot, run_id, lane_id))

    def _latest(self, hot: Any, run_id: str, lane_id: str | None) -> Steps[Snapshot[S] | None]:
        snapshot: Snapshot[S] | None
        try:
            snapshot = yield partial(hot.load_snapshot, run_id, lane_id=lane_id)
            if snapshot is not None or (yield partial(self.hot.run_info, run_id)) is not None:
                return snapshot
        except EventsArchived:
            pass
        snapshot = yield partial(self.archive.load_snapshot, run_id, lane_id=lane_id)
        return snapshot

    def snapshot_at(self, run_id: str, offset: int, lane_id: str | None) -> Steps[Snapshot[S] | None]:
        """The snapshot that covers most up to the offset: Redis's latest, or one of the archive's history."""
        check_count("offset", offset)
        latest = yield from self._looked_at(run_id, lane_id)
        if latest is None or latest.offset == offset:
            return latest
        kept: Snapshot[S] | None = yield partial(self.archive.snapshot_at, run_id, offset, lane_id=lane_id)
        if latest.offset > offset or (kept is not None and kept.offset > latest.offset):
            return kept
        return latest

    def unseen_snapshot(
        self, run_id: str, lane_id: str | None, last: Snapshot[S] | None
    ) -> Steps[Snapshot[S] | None]:
        """Redis's latest snapshot, unless the archive has seen it: the last of its history is ``last``."""
        latest = yield from self._looked_at(run_id, lane_id)
        return None if latest is None or (last is not None and latest.revision <= last.revision) else latest

    def snapshot_lanes(self, run_id: str) -> Steps[list[str | None]]:
        """The lanes of which either has snapshots, with None first where there are some of the run's own."""
        check_run_id(run_id)
        lanes = {*(yield partial(self.hot.perform, snapshot_lanes(self.hot.context.keys, run_id)))}
        lanes |= {*(yield partial(self.archive.snapshot_lanes, run_id))}
        return sorted(lanes, key=lambda lane_id: (lane_id is not None, lane_id or ""))

    def _looked_at(self, run_id: str, lane_id: str | None) -> Steps[Snapshot[S] | None]:
        """The latest snapshot, of which the store's writer does not know that it was read."""
        return self._latest(self.hot.for_one_writer(), run_id, lane_id)

    def recover(self, run_id: str, lane_id: str | None) -> Steps[Recovery[S, E]]:
        """The latest snapshot and the events after it."""
        recovery: Recovery[S, E]
        try:
            recovery = yield partial(self.hot.recover, run_id, lane_id=lane_id)
        except EventsArchived:
            recovery = yield from self._recover_archived(run_id, lane_id)
        else:
            tiers = yield from self.tiers(run_id)
            if not tiers.is_hot and tiers.archived is not None:
                # to go on from nothing would begin another history of this run in Redis
                raise lost(run_id, tiers.last, 0)
        return recovery

    def _recover_archived(self, run_id: str, lane_id: str | None) -> Steps[Recovery[S, E]]:
        while True:
            snapshot = yield from self.load_snapshot(run_id, lane_id)
            covered = 0 if snapshot is None else snapshot.offset
            tiers = yield from self.tiers(run_id)
            reading = self.read(run_id, covered, before=tiers.last + 1)
            recorded: list[Recorded[E]] = yield partial(self.collect, self.pouring(reading))
            again = yield from self.load_snapshot(run_id, lane_id)
            if (again and again.revision) == (snapshot and snapshot.revision):
                break
        yield partial(self.hot.has_recovered, run_id, tiers.last, lane_id=lane_id)
        if lane_id is not None:
            recorded = [item for item in recorded if lane_of(item.event) == lane_id]
        return Recovery(None if snapshot is None else snapshot.state, covered, recorded)

    def update_state(
        self, run_id: str, change: Callable[[S], S | None], *, attempts: int, lease: Leased | None
    ) -> Steps[S]:
        """Compare-and-set of the state, also of one that has left Redis."""
        state: S
        try:
            state = yield partial(self.hot.update_state, run_id, change, attempts=attempts, lease=lease)
        except EventsArchived:
            pass
        else:
            return state
        check_attempts(attempts)
        while True:
            attempts -= 1
            recovery = yield from self.recover(run_id, None)
            state = self.hot.codec.new_state(run_id) if recovery.state is None else recovery.state
            changed = change(state)
            state = state if changed is None else changed
            try:
                yield partial(self.hot.append, run_id, (), snapshot=state, lease=lease)
            except ConcurrencyConflict:
                if attempts == 0:
                    raise
            else:
                return state

    # -- runs ----------------------------------------------------------------------------------------

    def run_info(self, run_id: str) -> Steps[RunInfo | None]:
        """What is known of a run; of one that has left Redis, what the archive knows."""
        info: RunInfo | None = yield partial(self.hot.run_info, run_id)
        if info is None:
            info = yield partial(self.archive.run_info, run_id)
            info = None if info is None else _archived(info)
        return info

    def runs(
        self, *, session_id: str | None, status: str | None, updated_after: float | None, limit: int | None
    ) -> Steps[list[RunInfo]]:
        """The runs that match, the most recently updated first: what Redis knows of a run counts."""
        wanted = {"session_id": session_id, "status": status, "updated_after": updated_after}
        known = set((yield partial(self.hot.list_runs)))
        found: list[RunInfo] = yield partial(self.collect, self.hot.runs(**wanted, limit=limit))
        # so many at least are in no place but the archive, if there are so many
        enough = None if limit is None else limit + len(known)
        archived = yield partial(self.collect, self.archive.runs(**wanted, limit=enough))
        found += [_archived(info) for info in archived if info.run_id not in known]
        found.sort(key=lambda info: info.updated_at, reverse=True)
        return found[:limit]

    def last_seq(self, run_id: str, lane_id: str) -> Steps[int]:
        """The seq of the lane's last event, wherever that lies."""
        seq: int
        try:
            seq = yield partial(self.hot.last_seq, run_id, lane_id)
            if seq or (yield partial(self.hot.run_info, run_id)) is not None:
                return seq
        except EventsArchived:
            pass
        seq = yield partial(self.archive.last_seq, run_id, lane_id)
        return seq

    def delete_run(self, run_id: str) -> Steps[bool]:
        """Remove the run from both; the archive takes no more of its history from a drain in flight."""
        start: Cursor | None = yield partial(self.hot.start_of, run_id)
        was_hot: bool = yield partial(self.hot.delete_run, run_id)
        was_archived: bool = yield partial(self.archive.delete_history, run_id, start)
        return was_hot or was_archived

    # -- inside --------------------------------------------------------------------------------------

    def tiers(self, run_id: str) -> Steps[_Tiers]:
        """How the run lies. Raises AcknowledgedWritesLost where Redis is behind the archive.

        The archive is asked first: then it cannot be ahead because of what happens in between.
        """
        archived: Position | None = yield partial(self.archive.position, run_id)
        info: RunInfo | None = yield partial(self.hot.run_info, run_id)
        archived_last = 0 if archived is None else archived.cursor.offset
        if info is None:
            # it was forgotten, or deleted, or never there; or lost, which this store object would know
            yield partial(self.collect, self.hot.read(run_id, limit=0))
            return _Tiers(False, archived_last + 1, archived_last, archived)
        if archived_last > info.last_offset:
            raise lost(run_id, archived_last, info.last_offset)
        return _Tiers(True, info.first_hot, info.last_offset, archived)


class _Reading:
    """One reading of a run, from ``low + 1`` to ``high``."""

    def __init__(
        self,
        view: View[Any, Any],
        run_id: str,
        tiers: _Tiers,
        low: int,
        high: int,
        limit: int | None = None,
        on_corrupt: OnCorrupt = "raise",
    ) -> None:
        self.view = view
        self.run_id = run_id
        self.first_hot = tiers.first_hot
        self.is_hot = tiers.is_hot
        self.low = low
        self.high = high
        self.left = limit
        self.on_corrupt = on_corrupt

    def forward(self, place: int | str) -> Pouring:
        """From the lowest on; ``place`` is where that is, with its chain if the reader knows that."""
        if not self.is_hot:
            yield self._pour(self.view.archive, place)
            return
        while self.left != 0:
            if self.low + 1 < self.first_hot and self.low < self.high:
                place = yield from self.from_archive(place)
                if self.low == self.high:
                    return
            poured = self._pour(self.view.hot, place)
            try:
                yield poured
            except EventsArchived as moved:
                self._count(poured)
                if poured.last is not None:
                    self.low, place = poured.last.offset, poured.last.cursor
                if moved.first_hot <= self.low + 1:
                    raise
                self.first_hot = moved.first_hot
            else:
                return

    def backward(self, place: int | str) -> Pouring:
        """From the highest on."""
        if self.is_hot and self.low + 1 < self.first_hot:
            yield from self._check(self.first_hot - 1)
        while self.is_hot and self.left != 0 and self.low < self.high and self.first_hot <= self.high:
            poured = self._pour(self.view.hot, max(place, self.first_hot - 1, key=_offset), reverse=True)
            try:
                yield poured
            except EventsArchived as moved:
                if moved.first_hot <= self.first_hot:
                    raise
                self.first_hot = moved.first_hot
                if poured.last is not None:
                    self.high = poured.last.offset - 1
            else:
                self.high = self.first_hot - 1
            self._count(poured)
        if self.left != 0 and (self.low < self.high or not self.is_hot):
            if self.is_hot:
                yield from self._check(self.high)
            yield self._pour(self.view.archive, place, reverse=True)

    def from_archive(
        self, place: int | str, wanted: Callable[[Any], bool] | None = None
    ) -> Generator[Callable[[], Any] | Pour, Any, int | str]:
        """Up to where Redis begins; returns the place that is reached then."""
        end = min(self.first_hot - 1, self.high)
        yield from self._check(end)
        poured = self._pour(self.view.archive, place, before=end + 1, wanted=wanted)
        yield poured
        self._count(poured)
        self.low = end
        return poured.last.cursor if poured.last is not None and poured.last.offset == end else end

    def _pour(
        self,
        store: Any,
        place: int | str,
        *,
        before: int | None = None,
        reverse: bool = False,
        wanted: Callable[[Any], bool] | None = None,
    ) -> Pour:
        options = {"limit": self.left, "reverse": reverse, "on_corrupt": self.on_corrupt}
        return Pour(store.read(self.run_id, place, before=before or self.high + 1, **options), wanted)

    def _count(self, poured: Pour) -> None:
        if self.left is not None:
            self.left -= poured.given

    def _check(self, end: int) -> Steps[None]:
        """Raise ArchiveGap unless the archive has all up to there, HistoryDiverged if it is another history."""
        archived: Position | None = yield partial(self.view.archive.position, self.run_id)
        last = 0 if archived is None else archived.cursor.offset
        if archived is None or last < end:
            raise ArchiveGap(
                f"events {last + 1} to {end} of run {self.run_id!r} are in neither tier: Redis begins with"
                f" {self.first_hot}, the archive that was asked ends with {last}; ask the archive that the drain"
                " worker writes",
                run_id=self.run_id,
                expected=last + 1,
                found=self.first_hot,
            )
        if self.is_hot:
            at = str(archived.cursor)
            yield partial(self.view.collect, self.view.hot.read(self.run_id, at, limit=0))


def _archived(info: RunInfo) -> RunInfo:
    """What an archive knows of a run that Redis has no more."""
    return replace(info, first_hot=info.last_offset + 1)


def _offset(place: int | str) -> int:
    return origin(place)[0]
