"""The tiered store as a user sees it: writes go to Redis, reads to wherever the events lie."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Generic

from runstream.codec.event_codec import Codec
from runstream.model.events import EventKind, Visibility
from runstream.model.protocols import Leased, OnCorrupt
from runstream.model.results import Appended, DeltaBuffer, E, Placement, Recorded, Recovery, RunInfo, S, Snapshot
from runstream.operations.filters import seq_of
from runstream.run import Run
from runstream.run.lease import Lease
from runstream.run.steps import make_calls
from runstream.stores.archive.base import ArchiveStore
from runstream.stores.lifecycle import Lifecycle
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.tiered.operations import View
from runstream.stores.tiered.pouring import pour

__all__ = ["TieredCheckpointer"]


class TieredCheckpointer(Lifecycle, Generic[E, S]):
    """One view over a Redis store and an archive that a drain worker writes from it: no gap, no duplicate.

    Writes go to ``hot``. A read goes to ``archive`` for what has left Redis, and on in Redis, also while a worker
    trims under it. A gap is an ArchiveGap that says where was looked, never a shorter list; an archive that is
    ahead of Redis raises AcknowledgedWritesLost, one with another history HistoryDiverged. Closing it closes
    neither of the two, unless ``connect`` opened them. Threads may share it.

    The methods are those of :class:`~runstream.model.protocols.RunStore`.
    """

    def __init__(self, hot: RedisCheckpointer[E, S], archive: ArchiveStore[E, S]) -> None:
        self._hot = hot
        self._view: View[E, S] = View(hot, archive, list, pour)

    @property
    def codec(self) -> Codec[E, S]:
        """How events and states are encoded."""
        return self._hot.codec

    @property
    def hot(self) -> RedisCheckpointer[E, S]:
        """The Redis store."""
        return self._hot

    @property
    def archive(self) -> ArchiveStore[E, S]:
        """The archive."""
        archive: ArchiveStore[E, S] = self._view.archive
        return archive

    # -- written to Redis ------------------------------------------------------------------------------

    def save_event(self, event: E) -> None:
        """Append one event to its run. It is kept when this returns."""
        self._hot.save_event(event)

    def save_events(self, events: Iterable[E]) -> None:
        """Append events to their runs, each run's in one atomic step, all in one round trip."""
        self._hot.save_events(events)

    def append(
        self,
        run_id: str,
        events: Iterable[E],
        *,
        expected_offset: int | None = None,
        keys: Sequence[str | None] | None = None,
        lease: Leased | None = None,
        snapshot: S | None = None,
        lane_id: str | None = None,
    ) -> Appended:
        """Append events to a run, with a snapshot if there is one, in one atomic step; nothing of it, or all."""
        placement = self.append_each(
            run_id,
            events,
            expected_offset=expected_offset,
            keys=keys,
            lease=lease,
            snapshot=snapshot,
            lane_id=lane_id,
        )
        return placement.appended

    def append_each(
        self,
        run_id: str,
        events: Iterable[E],
        *,
        expected_offset: int | None = None,
        keys: Sequence[str | None] | None = None,
        lease: Leased | None = None,
        snapshot: S | None = None,
        lane_id: str | None = None,
    ) -> Placement:
        """As ``append``, telling where each of the events lies."""
        steps = self._view.append_each(
            run_id,
            events,
            expected_offset=expected_offset,
            keys=keys,
            lease=lease,
            snapshot=snapshot,
            lane_id=lane_id,
        )
        return make_calls(steps)

    def save_snapshot(
        self, run_id: str, state: S, *, lane_id: str | None = None, lease: Leased | None = None
    ) -> None:
        """Replace the snapshot of the run, or of one lane of it, whoever saved the one before."""
        self._hot.save_snapshot(run_id, state, lane_id=lane_id, lease=lease)

    def update_state(
        self,
        run_id: str,
        change: Callable[[S], S | None],
        *,
        attempts: int = 10,
        lease: Leased | None = None,
    ) -> S:
        """Load the run's state, change it, and save it unless another was saved in between; then again."""
        return make_calls(self._view.update_state(run_id, change, attempts=attempts, lease=lease))

    def lease(
        self,
        run_id: str,
        *,
        owner: str,
        lane_id: str | None = None,
        ttl: float = 30.0,
        wait: float = 0.0,
    ) -> Lease[E, S]:
        """Take the sole right to write one lane of a run, or, without ``lane_id``, the whole run."""
        return self._hot.lease(run_id, owner=owner, lane_id=lane_id, ttl=ttl, wait=wait).over(self)

    def open_run(
        self,
        run_id: str,
        *,
        lane_id: str = "main",
        session_id: str = "",
        lease_ttl: float | None = None,
        owner: str | None = None,
        wait: float = 0.0,
        deltas: DeltaBuffer | None = None,
    ) -> Run[E, S]:
        """Recover one lane of a run, wherever it lies, and go on with it: the handle that an agent works with."""
        return Run.open(
            TieredCheckpointer(self._hot.for_one_writer(), self._view.archive),
            run_id,
            lane_id=lane_id,
            session_id=session_id,
            lease_ttl=lease_ttl,
            owner=owner,
            wait=wait,
            deltas=deltas,
        )

    def forget(self, run_id: str) -> None:
        """Take what Redis has of a run as it is: the way on after AcknowledgedWritesLost or HistoryDiverged."""
        self._hot.forget(run_id)

    # -- read from both --------------------------------------------------------------------------------

    def read(
        self,
        run_id: str,
        after: int | str = 0,
        *,
        before: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        on_corrupt: OnCorrupt = "raise",
    ) -> Iterator[Recorded[E]]:
        """The events with ``after < offset < before``, as they stand when the first of them is taken."""
        return pour(
            self._view.read(run_id, after, before=before, limit=limit, reverse=reverse, on_corrupt=on_corrupt)
        )

    def follow(
        self,
        run_id: str,
        after: int | str = 0,
        *,
        idle_timeout: float | None = None,
        lane_id: str | None = None,
        kinds: Collection[EventKind | str] | None = None,
        visibility: Visibility | str | None = None,
    ) -> Iterator[Recorded[E]]:
        """History, then live; ends when the run has ended and all was given."""
        return pour(
            self._view.follow(
                run_id,
                after,
                idle_timeout=idle_timeout,
                lane_id=lane_id,
                kinds=kinds,
                visibility=visibility,
            )
        )

    def list_events(self, run_id: str, since_seq: int = 0) -> list[E]:
        """The events with ``seq > since_seq`` in log order; all of them for ``since_seq <= 0``."""
        events = [item.event for item in self.read(run_id)]
        return events if since_seq <= 0 else [event for event in events if seq_of(event) > since_seq]

    def load_latest(self, run_id: str) -> S | None:
        """The state of the run's latest snapshot, or None."""
        snapshot = self.load_snapshot(run_id)
        return None if snapshot is None else snapshot.state

    def load_snapshot(self, run_id: str, *, lane_id: str | None = None) -> Snapshot[S] | None:
        """The latest snapshot of the run, or of one lane of it, or None."""
        return make_calls(self._view.load_snapshot(run_id, lane_id))

    def snapshot_at(self, run_id: str, offset: int, *, lane_id: str | None = None) -> Snapshot[S] | None:
        """The snapshot of the run, or of one lane of it, that covers most of what lies up to this offset, or None.

        It is one of the archive's history of snapshots, or the latest one, if that covers no more. The archive
        has seen those that were the latest when a drain worker looked: of others, nothing is left.
        """
        return make_calls(self._view.snapshot_at(run_id, offset, lane_id))

    def snapshot_history(self, run_id: str, *, lane_id: str | None = None) -> Iterator[Snapshot[S]]:
        """The snapshots that the archive has seen of the run or a lane, in order, and then the latest one."""
        last = None
        for last in self._view.archive.snapshot_history(run_id, lane_id=lane_id):
            yield last
        latest = make_calls(self._view.unseen_snapshot(run_id, lane_id, last))
        if latest is not None:
            yield latest

    def snapshot_lanes(self, run_id: str) -> list[str | None]:
        """The lanes of which there are snapshots, with None first where there are some of the run's own."""
        return make_calls(self._view.snapshot_lanes(run_id))

    def recover(self, run_id: str, *, lane_id: str | None = None) -> Recovery[S, E]:
        """The latest snapshot and the events after it, of the run or of one lane."""
        return make_calls(self._view.recover(run_id, lane_id))

    def last_seq(self, run_id: str, lane_id: str) -> int:
        """The ``seq`` of the lane's last event, wherever that lies by now; 0 for a lane that has none."""
        return make_calls(self._view.last_seq(run_id, lane_id))

    def run_info(self, run_id: str) -> RunInfo | None:
        """What is known of a run, or None. ``first_hot`` is where Redis begins."""
        return make_calls(self._view.run_info(run_id))

    def runs(
        self,
        *,
        session_id: str | None = None,
        status: str | None = None,
        updated_after: float | None = None,
        limit: int | None = None,
    ) -> Iterator[RunInfo]:
        """The runs that match, the most recently updated first."""
        wanted: dict[str, Any] = {"session_id": session_id, "status": status, "updated_after": updated_after}
        return iter(make_calls(self._view.runs(**wanted, limit=limit)))

    def list_runs(self) -> list[str]:
        """The ids of all runs, the most recently updated first."""
        return [info.run_id for info in self.runs()]

    def delete_run(self, run_id: str) -> bool:
        """Remove a run from both; False if neither had it. A drain in flight does not bring it back.

        Raises LeaseHeld while a lease of it is in force.
        """
        return make_calls(self._view.delete_run(run_id))
