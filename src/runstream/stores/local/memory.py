"""Runs in this process's memory: for tests of agent code, and as the model that other stores are held against."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from runstream.codec.event_codec import DEFAULT_MAX_EVENT_BYTES
from runstream.codec.fallback import plain_data
from runstream.codec.msgpack_values import unpack
from runstream.codec.record import decode_record, fields_of
from runstream.model.errors import CorruptRecordError
from runstream.model.events import EventKind, Visibility
from runstream.model.identifiers import check_name, check_run_id
from runstream.model.protocols import Fallback, OnCorrupt
from runstream.model.results import Cursor, E, LeaseGrant, Recorded, RunInfo, S
from runstream.model.state import ENDED_STATUSES
from runstream.operations.filters import EventFilter, check_read, origin
from runstream.operations.messages import diverged, lost
from runstream.stores.local.append_plan import (
    AppendPlan,
    AppendRequest,
    RunHead,
    SavedSnapshot,
    new_start,
    plan_append,
)
from runstream.stores.local.lease_rules import HeldLease, Leases, check_newest, check_unleased, new_grant
from runstream.stores.local.operations import LocalStore

__all__ = ["InMemoryCheckpointer"]


@dataclass(slots=True)
class _Run:
    """One run: the records with their places, the packed states with their headers, the places of the keys."""

    head: RunHead
    created_at: float
    updated_at: float
    entries: list[tuple[Cursor, bytes]] = field(default_factory=list)
    snapshots: dict[str | None, tuple[SavedSnapshot, bytes]] = field(default_factory=dict)
    keys: dict[str, Cursor] = field(default_factory=dict)


class _GivenLease(NamedTuple):
    """A lease that was given out, and when it runs out: Unix time in seconds."""

    grant: LeaseGrant
    expires_at: float


class InMemoryCheckpointer(LocalStore[E, S]):
    """Runs in memory, gone with the object. Threads may share it; it does all that the Redis store does.

    Takes ``event_type``, ``state_type``, ``fallback``, ``max_event_bytes`` and ``require_lease`` as
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
        require_lease: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(
            event_type=event_type,
            state_type=state_type,
            fallback=fallback,
            max_event_bytes=max_event_bytes,
            require_lease=require_lease,
            clock=clock,
        )
        self._changed = threading.Condition()
        self._runs: dict[str, _Run] = {}
        self._given: dict[str, dict[str | None, _GivenLease]] = {}  # the last one of each lane and each run

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
        """Remove all that this store holds of a run; False if there was nothing.

        Raises LeaseHeld while a lease of it is in force.
        """
        check_run_id(run_id)
        with self._changed:
            was_there = run_id in self._runs
            if was_there:
                check_unleased(run_id, self._leases(run_id, self._clock()))
                del self._runs[run_id]
                self._given.pop(run_id, None)
        self._forget(run_id)
        return was_there

    def last_seq(self, run_id: str, lane_id: str) -> int:
        """The ``seq`` of the lane's last event; 0 for a lane that has none."""
        check_run_id(run_id)
        check_name("lane_id", lane_id)
        with self._changed:
            run = self._runs.get(run_id)
            offset = 0 if run is None else run.head.lanes.get(lane_id, 0)
            if run is None or offset == 0:
                return 0
            _, record = run.entries[offset - 1]
        return int(fields_of(run_id, decode_record(run_id, offset, record))["seq"])

    def take_lease(self, run_id: str, *, owner: str, lane_id: str | None, ttl: float) -> LeaseGrant:
        """Give out the lease of one lane, or (None) of the whole run; LeaseHeld where another is in the way."""
        check_run_id(run_id)
        with self._changed:
            now = self._clock()
            given = self._given.setdefault(run_id, {})
            last_epoch = max((lease.grant.epoch for lease in given.values()), default=0)
            grant = new_grant(
                run_id,
                self._leases(run_id, now),
                lane_id=lane_id,
                owner=owner,
                ttl=ttl,
                last_epoch=last_epoch,
                now=now,
            )
            given[lane_id] = _GivenLease(grant, now + ttl)
        return grant

    def renew_lease(self, grant: LeaseGrant) -> None:
        """Let it last for its whole ttl from now on. Raises LeaseLost where it has passed on or run out."""
        with self._changed:
            now = self._clock()
            check_newest(self._leases(grant.run_id, now), grant)
            self._given[grant.run_id][grant.lane_id] = _GivenLease(grant, now + grant.ttl_seconds)

    def release_lease(self, grant: LeaseGrant) -> None:
        """Take it back, unless it has passed on already."""
        with self._changed:
            given = self._given.get(grant.run_id, {})
            if grant.lane_id in given and given[grant.lane_id].grant.token == grant.token:
                given[grant.lane_id] = _GivenLease(grant, 0.0)  # it stays, for its epoch

    def _leases(self, run_id: str, now: float) -> Leases:
        return {
            lane_id: HeldLease(lease.grant.token, lease.grant.owner, lease.expires_at - now)
            for lane_id, lease in self._given.get(run_id, {}).items()
            if lease.expires_at > now
        }

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
            now = self._clock()
            plans = [plan_append(self._head(request, now), request) for request in requests]
            for request, plan in zip(requests, plans, strict=True):
                if not plan.is_empty:
                    self._apply(request, plan, now)
            self._changed.notify_all()
        return plans

    def _head(self, request: AppendRequest, now: float) -> RunHead:
        """Where the run stands, with the snapshot, the keys and the leases that the request is about."""
        leases = self._leases(request.run_id, now)
        run = self._runs.get(request.run_id)
        if run is None:
            start = new_start()
            return RunHead(start, start, leases=leases)
        saved, _ = run.snapshots.get(request.lane_id, (None, b""))
        keys = {key: run.keys[key] for key in request.keys if key in run.keys}
        return replace(run.head, snapshot=saved, keys=keys, leases=leases)

    def _apply(self, request: AppendRequest, plan: AppendPlan, now: float) -> None:
        run = self._runs.setdefault(request.run_id, _Run(plan.head, now, now))
        run.head, run.updated_at = plan.head, now
        run.entries.extend((cursor, event.record) for cursor, event in plan.written)
        run.keys.update((event.key, cursor) for cursor, event in plan.written if event.key is not None)
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
