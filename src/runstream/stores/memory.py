"""Runs in this process's memory: for tests of agent code, and as the model that other stores are held against."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from runstream.codec.fallback import plain_data
from runstream.codec.packing import unpack
from runstream.codec.shapes import DEFAULT_MAX_EVENT_BYTES
from runstream.model.errors import CorruptRecordError
from runstream.model.events import EventKind, Visibility
from runstream.model.names import check_run_id
from runstream.model.protocols import Fallback, OnCorrupt
from runstream.model.state import ENDED_STATUSES
from runstream.model.values import Cursor, E, Recorded, RunInfo, S
from runstream.stores.filters import EventFilter, check_read, origin
from runstream.stores.local import (
    AppendPlan,
    AppendRequest,
    LocalStore,
    RunHead,
    SavedSnapshot,
    new_start,
    plan_append,
)
from runstream.stores.refusals import diverged, lost

__all__ = ["InMemoryCheckpointer"]


@dataclass(slots=True)
class _Run:
    """One run: the records with their places, and the packed states with their headers."""

    head: RunHead
    created_at: float
    updated_at: float
    entries: list[tuple[Cursor, bytes]] = field(default_factory=list)
    snapshots: dict[str | None, tuple[SavedSnapshot, bytes]] = field(default_factory=dict)


class InMemoryCheckpointer(LocalStore[E, S]):
    """Runs in memory, gone with the object. Threads may share it; it does all that the Redis store does.

    Takes ``event_type``, ``state_type``, ``fallback`` and ``max_event_bytes`` as
    :class:`~runstream.stores.redis.checkpointer.RedisCheckpointer` does. What is read is never the
    object that was saved: events and states are kept encoded.
    """

    def __init__(
        self,
        *,
        event_type: type[E] | None = None,
        state_type: type[S] | None = None,
        fallback: Fallback | None = plain_data,
        max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(
            event_type=event_type,
            state_type=state_type,
            fallback=fallback,
            max_event_bytes=max_event_bytes,
            clock=clock,
        )
        self._changed = threading.Condition()
        self._runs: dict[str, _Run] = {}

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
        """The events with ``after < offset < before``."""
        check_run_id(run_id)
        check_read(before, limit, on_corrupt)
        low, cursor = origin(after)
        with self._changed:
            run = self._runs.get(run_id)
            entries = run.entries if run is not None else []
            if cursor is not None and low > 0:
                if low > len(entries):
                    raise lost(run_id, low, len(entries))
                if entries[low - 1][0] != cursor:
                    raise diverged(run_id, cursor)
            chosen = entries[low : None if before is None else max(0, before - 1)]
        return self._decode(run_id, chosen[::-1] if reverse else chosen, limit, on_corrupt)

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
        """History, then live, until the run has ended; TimeoutError after ``idle_timeout`` seconds."""
        check_run_id(run_id)
        wanted = EventFilter(lane_id, kinds, visibility)
        position, _ = origin(after)
        found = self.read(run_id, after)
        while True:
            for item in found:
                position = item.offset
                if wanted(item.event):
                    yield item
            if not self._wait(run_id, position, idle_timeout):
                return
            found = self.read(run_id, position)

    def _wait(self, run_id: str, position: int, idle_timeout: float | None) -> bool:
        """Wait for events after a position; False if the run has ended and has none.

        Raises TimeoutError after so many seconds.
        """

        def has_more_or_ended() -> bool:
            run = self._runs.get(run_id)
            return run is not None and (len(run.entries) > position or run.head.status in ENDED_STATUSES)

        with self._changed:
            if not self._changed.wait_for(has_more_or_ended, idle_timeout):
                raise TimeoutError(f"run {run_id!r} had no event to give for {idle_timeout} seconds")
            return len(self._runs[run_id].entries) > position

    def delete_run(self, run_id: str) -> bool:
        """Remove all that this store holds of a run; False if there was nothing."""
        check_run_id(run_id)
        self._forget(run_id)
        with self._changed:
            return self._runs.pop(run_id, None) is not None

    def _decode(
        self, run_id: str, entries: Sequence[tuple[Cursor, bytes]], limit: int | None, on_corrupt: OnCorrupt
    ) -> Iterator[Recorded[E]]:
        given = 0
        for cursor, record in entries:
            if given == limit:
                return
            try:
                event = self.codec.decode_event(run_id, cursor.offset, record)
            except CorruptRecordError:  # an event that the user's event type refuses
                if on_corrupt == "skip":
                    continue
                raise
            given += 1
            yield Recorded(cursor.offset, str(cursor), event)

    def _commit(self, requests: Sequence[AppendRequest]) -> list[AppendPlan]:
        with self._changed:
            plans = [self._plan(request) for request in requests]
            for request, plan in zip(requests, plans, strict=True):
                self._apply(request, plan)
            self._changed.notify_all()
        return plans

    def _plan(self, request: AppendRequest) -> AppendPlan:
        run = self._runs.get(request.run_id)
        if run is None:
            start = new_start()
            return plan_append(RunHead(start, start), request)
        saved = run.snapshots.get(request.lane_id)
        head = run.head
        head = RunHead(
            head.start, head.last, head.session_id, head.status, head.lanes, saved[0] if saved else None
        )
        return plan_append(head, request)

    def _apply(self, request: AppendRequest, plan: AppendPlan) -> None:
        now = self._clock()
        run = self._runs.setdefault(request.run_id, _Run(plan.head, now, now))
        run.head, run.updated_at = plan.head, now
        run.entries.extend(zip(plan.cursors, (event.record for event in request.events), strict=True))
        if plan.snapshot is not None:
            run.snapshots[request.lane_id] = (plan.snapshot, self.codec.packer.pack(request.state))

    def _load_snapshot(self, run_id: str, lane_id: str | None) -> tuple[SavedSnapshot, dict[str, Any]] | None:
        with self._changed:
            run = self._runs.get(run_id)
            if run is None or lane_id not in run.snapshots:
                return None
            saved, packed = run.snapshots[lane_id]
        return saved, unpack(packed)

    def _bounds(self, run_id: str) -> tuple[Cursor, Cursor] | None:
        run = self._runs.get(run_id)
        return None if run is None else (run.head.start, run.head.last)

    def _infos(self) -> list[RunInfo]:
        with self._changed:
            return [
                RunInfo(
                    run_id,
                    run.head.session_id,
                    run.head.status,
                    run.head.last.offset,
                    0,
                    1,
                    run.created_at,
                    run.updated_at,
                )
                for run_id, run in self._runs.items()
            ]
