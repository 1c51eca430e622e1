"""What the two tiers make together, as steps: the archive has the beginning of a run, Redis has its end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Generic

from runstream.model.archive_records import Position
from runstream.model.errors import AcknowledgedWritesLost, EventsArchived
from runstream.model.events import EventKind, Visibility
from runstream.model.identifiers import check_run_id
from runstream.model.protocols import Leased, OnCorrupt
from runstream.model.results import Cursor, E, Placement, Recorded, Recovery, RunInfo, S, Snapshot
from runstream.model.state import ENDED_STATUSES
from runstream.operations.filters import EventFilter, check_count, check_read, lane_of, origin
from runstream.operations.messages import lost, snapshot_conflict
from runstream.run.steps import Steps
from runstream.stores.redis.operations.admin.status import snapshot_lanes
from runstream.stores.tiered.boundary import Tiered, Tiers
from runstream.stores.tiered.pouring import Pour, Pouring
from runstream.stores.tiered.read import Patience, Reading

__all__ = ["View"]


class View(Tiered, Generic[E, S]):
    """The steps of a tiered store's methods."""

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
        yield from self.check_cursor(run_id, after, tiers, is_read=limit != 0 and low < high)
        reading = Reading(self, run_id, tiers, low, high, limit, on_corrupt)
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
        place, (low, cursor) = after, origin(after)
        clock = Patience(idle_timeout)
        tiers = yield from self.tiers(run_id)
        yield from self.check_cursor(run_id, after, tiers)
        if cursor is None and 0 < low <= tiers.last:
            at: list[Recorded[E]] = yield partial(
                self.collect, self.pouring(self.read(run_id, low - 1, before=low + 1, on_corrupt="skip"))
            )
            place = at[0].cursor if at else after
        while True:
            # what there is is read first: of a run that goes meanwhile, whoever waits for more would not be told
            reading = Reading(self, run_id, tiers, low, tiers.last, wanted=wanted, clock=clock)
            yield from reading.forward(place)
            low, place = reading.low, reading.place
            if not tiers.is_hot and tiers.archived is not None:
                info: RunInfo | None = yield partial(self.archive.run_info, run_id)
                if info is not None and info.status in ENDED_STATUSES:
                    return
                raise lost(run_id, tiers.last, 0)
            filters = {"lane_id": lane_id, "kinds": kinds, "visibility": visibility}
            poured = clock.watch(Pour(self.hot.follow(run_id, place, idle_timeout=clock.left, **filters)))
            try:
                yield poured
            except (EventsArchived, AcknowledgedWritesLost) as error:
                low, place = poured.reached(low, place)
                tiers = yield from self._moved(run_id, low, error)
            except TimeoutError:
                low, place = poured.reached(low, place)
                if not clock.left:
                    text = f"run {run_id!r} had no event to give for {idle_timeout} seconds"
                    raise TimeoutError(text) from None
            else:
                return

    def _moved(self, run_id: str, low: int, error: EventsArchived | AcknowledgedWritesLost) -> Steps[Tiers]:
        """How the run lies after it has moved from where a follower was at ``low``; the error if it has not."""
        if isinstance(error, AcknowledgedWritesLost):
            tiers = yield from self.left(run_id)
            if tiers is None:
                raise error
            return tiers
        if error.first_hot <= low + 1:
            raise error
        return (yield from self.tiers(run_id))

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
        except EventsArchived as moved:
            yield from self.check(run_id, moved.first_hot - 1, moved.first_hot, is_hot=True)
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
            tiers = yield from self.tiers(run_id)
            if tiers.is_hot and recovery == Recovery(None, 0, []):
                # it may have been put back since: then this is not all
                recovery = yield partial(self.hot.recover, run_id, lane_id=lane_id)
        except EventsArchived:
            recovery = yield from self._recover_archived(run_id, lane_id)
        else:
            if not tiers.is_hot and tiers.archived is not None:
                # to go on from nothing would begin another history of this run in Redis
                raise lost(run_id, tiers.last, 0)
        return recovery

    def _recover_archived(self, run_id: str, lane_id: str | None) -> Steps[Recovery[S, E]]:
        again = yield from self.load_snapshot(run_id, lane_id)
        while True:
            snapshot = again
            covered = 0 if snapshot is None else snapshot.offset
            tiers = yield from self.tiers(run_id)
            reading = self.read(run_id, covered, before=tiers.last + 1)
            recorded: list[Recorded[E]] = yield partial(self.collect, self.pouring(reading))
            # before the snapshot is looked at again: one that is retired after this is known to be another
            yield partial(self.hot.has_recovered, run_id, tiers.last, lane_id=lane_id)
            again = yield from self.load_snapshot(run_id, lane_id)
            if (again and again.revision) == (snapshot and snapshot.revision):
                break
        if lane_id is not None:
            recorded = [item for item in recorded if lane_of(item.event) == lane_id]
        return Recovery(None if snapshot is None else snapshot.state, covered, recorded)

    def append_each(
        self, run_id: str, events: Iterable[E], *, snapshot: S | None, lane_id: str | None, **options: Any
    ) -> Steps[Placement]:
        """Append to Redis, also with a snapshot that follows one which was retired since its writer saved it."""
        append = partial(self.hot.append_each, run_id, list(events), snapshot=snapshot, lane_id=lane_id, **options)
        placement: Placement
        try:
            placement = yield append
        except EventsArchived:
            if snapshot is None or not (yield from self._follows_archived(run_id, lane_id)):
                raise
            placement = yield append
        return placement

    def _follows_archived(self, run_id: str, lane_id: str | None) -> Steps[bool]:
        """Let this writer go on from the snapshot that it knows and the archive has; False if none was retired.

        Raises ConcurrencyConflict if the archive has another one.
        """
        known, revision, _ = self.hot.context.snapshots.get(run_id, lane_id)
        retired: str = yield partial(self.hot.retired_token, run_id, lane_id=lane_id)
        if not retired:
            return False
        # asked after that: one that is retired later than this makes it another token
        position: Position | None = yield partial(self.archive.position, run_id)
        archived = "" if position is None else position.snapshots.get(lane_id, "")
        if archived != known:
            raise snapshot_conflict(run_id, revision, int(retired.rpartition("-")[2]))
        self.hot.context.snapshots.put(run_id, lane_id, retired, revision, None)
        return True

    def update_state(
        self, run_id: str, change: Callable[[S], S | None], *, attempts: int, lease: Leased | None
    ) -> Steps[S]:
        """Compare-and-set of the state, also of one that has left Redis. It covers what it did before."""
        state: S
        try:
            state = yield partial(self.hot.update_state, run_id, change, attempts=attempts, lease=lease)
        except EventsArchived:
            pass
        else:
            return state
        while True:
            attempts -= 1
            snapshot = yield from self.load_snapshot(run_id, None)
            update = partial(self.hot.update_archived, run_id, change, snapshot, lease=lease)
            try:
                state = yield partial(update, attempts=max(1, attempts))
            except EventsArchived:  # another one was saved meanwhile, and retired
                if attempts <= 0:
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
        found: list[RunInfo] = yield partial(self.collect, self.hot.runs(**wanted, limit=limit))
        # after that: one that is forgotten in between is among those that were found
        known = {info.run_id for info in found}.union((yield partial(self.hot.list_runs)))
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
        except EventsArchived as moved:
            yield from self.check(run_id, moved.first_hot - 1, moved.first_hot, is_hot=True)
        seq = yield partial(self.archive.last_seq, run_id, lane_id)
        return seq

    def delete_run(self, run_id: str) -> Steps[bool]:
        """Remove the run from both; the archive takes no more of its history from a drain in flight."""
        start: Cursor | None = yield partial(self.hot.start_of, run_id)
        was_hot: bool = yield partial(self.hot.delete_run, run_id)
        was_archived: bool = yield partial(self.archive.delete_history, run_id, start)
        return was_hot or was_archived


def _archived(info: RunInfo) -> RunInfo:
    """What an archive knows of a run that Redis has no more."""
    return replace(info, first_hot=info.last_offset + 1)
