"""Runs in this process's memory: for tests of agent code, and as the model that other stores are compared with."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from runstream.codec.event_codec import DEFAULT_MAX_EVENT_BYTES, Codec
from runstream.codec.fallback import plain_data
from runstream.codec.record import decode_record, fields_of
from runstream.codec.snapshot_fields import pack_state, unpack_state
from runstream.codec.stored import STORED_PACKER
from runstream.codec.upcasts import Upcasts
from runstream.model.clock import unix_seconds
from runstream.model.errors import CorruptRecordError, EventRefused
from runstream.model.identifiers import check_name, check_run_id
from runstream.model.protocols import Fallback
from runstream.model.questions import Inbox, Question
from runstream.model.results import Cursor, E, LeaseGrant, Recorded, RunInfo, S
from runstream.model.run_head import EndedLane, RunHead, SnapshotHead
from runstream.model.state import ENDED_STATUSES
from runstream.operations.arguments import FollowQuery, LeaseRequest, ReadQuery, in_place_of, parse_position
from runstream.operations.filters import EventFilter
from runstream.operations.follow_runs import UNREADABLE, FollowedRuns, FollowRunsQuery
from runstream.operations.forks import HeldLock, held_over_fork
from runstream.operations.idle_timeout import IdleTimeout
from runstream.operations.lane_facts import LaneFacts
from runstream.operations.messages import diverged, lost
from runstream.operations.operation import Stream, blocking, in_one_call, pass_on
from runstream.operations.runners import SyncRunner
from runstream.stores.facade import Store
from runstream.stores.lifecycle import place_at
from runstream.stores.local.append_plan import AppendPlan, AppendRequest, Details, new_head, plan_append
from runstream.stores.local.given_leases import GivenLeases
from runstream.stores.local.operations import LocalOperations
from runstream.stores.local.pages import in_pages

__all__ = ["InMemoryCheckpointer", "MemoryOperations"]

_LONGEST_WAIT_SECONDS = 0.5  # a follower that asyncio has cancelled leaves its thread after that


class InMemoryCheckpointer(Store[E, S]):
    """Runs in memory, gone with the object. Threads may share it; it does all that the Redis store does.

    What is read is never the object that was saved: events and states are kept encoded.

    Args:
        event_type: The class of the events; None: :class:`~runstream.model.events.PAEvent`.
        state_type: The class of the states; None: :class:`~runstream.model.state.RunState`.
        fallback: Turns a value that cannot be stored into one that can; None: such a value is refused.
        max_event_bytes: How large an encoded event may be.
        upcasts: The program's schema version, and its rules to read what older versions of it wrote; None: what is
            stored is given as it is.
        require_lease: Refuse every write without a lease on what it touches.
        clock: Unix time in seconds.
        name: Stores of one name share their runs, within the process and for as long as it lives; "": the store
            has runs of its own.
    """

    def __init__(
        self,
        *,
        event_type: type[E] | None = None,
        state_type: type[S] | None = None,
        fallback: Fallback | None = plain_data,
        max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES,
        upcasts: Upcasts | None = None,
        require_lease: bool = False,
        clock: Callable[[], float] = unix_seconds,
        name: str = "",
    ) -> None:
        codec: Codec[E, S] = Codec(event_type, state_type, fallback, max_event_bytes, upcasts=upcasts)
        memory = _MEMORIES.setdefault(name, _Memory()) if name else _Memory()
        super().__init__(MemoryOperations(codec, memory, require_lease=require_lease, clock=clock), SyncRunner())
        place_at(self, f"memory:{name}")


@dataclass(slots=True)
class _Run:
    """One run: its head, its records with their cursors, its packed states by lane, its lanes and keys.

    ``peaks`` has the highest ``seq`` up to each offset, 0 at the least, from offset 0 on.
    """

    head: RunHead
    entries: list[tuple[Cursor, bytes]] = field(default_factory=list)
    peaks: list[int] = field(default_factory=lambda: [0])
    states: dict[str | None, Mapping[bytes, bytes]] = field(default_factory=dict)
    lanes: dict[str, int] = field(default_factory=dict)
    ended: dict[str, EndedLane] = field(default_factory=dict)
    keys: dict[str, Cursor] = field(default_factory=dict)


def _seq_at(run_id: str, run: _Run, offset: int) -> int:
    """The ``seq`` of the event at an offset; 0 for none."""
    if offset == 0:
        return 0
    return int(fields_of(run_id, decode_record(run_id, offset, run.entries[offset - 1][1]))["seq"])


class _Memory:
    """What stores in memory keep: the runs, and the last lease of each lane and each run. A fork has a copy."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.runs: dict[str, _Run] = {}
        self.leases = GivenLeases()
        self._held = HeldLock(self.changed)
        held_over_fork(self._held)


_MEMORIES: dict[str, _Memory] = {}
"""Those that have a name."""


class MemoryOperations(LocalOperations[E, S]):
    """The operations on runs in memory; see :class:`~runstream.stores.local.operations.LocalOperations`."""

    def __init__(
        self,
        codec: Codec[E, S],
        memory: _Memory,
        *,
        require_lease: bool = False,
        clock: Callable[[], float] = unix_seconds,
    ) -> None:
        super().__init__(codec, require_lease=require_lease, clock=clock)
        self._memory = memory  # kept, so that it is held over forks
        self._changed, self._runs, self._leases = memory.changed, memory.runs, memory.leases

    # -- reading -----------------------------------------------------------------------------------------

    def _read(self, run_id: str, query: ReadQuery) -> Iterator[Recorded[E]]:
        entries = self._entries(run_id, query)
        given = 0
        for cursor, record in entries[::-1] if query.reverse else entries:
            if given == query.limit:
                return
            try:
                event: Any = self.codec.decode_event(run_id, cursor.offset, record)
            except (CorruptRecordError, EventRefused) as error:
                event = in_place_of(error, query.on_corrupt)
                if event is None:
                    continue
            given += 1
            yield Recorded(cursor.offset, str(cursor), event)

    def _entries(self, run_id: str, query: ReadQuery) -> list[tuple[Cursor, bytes]]:
        low, cursor = parse_position(query.after)
        with self._changed:
            run = self._runs.get(run_id)
            entries = run.entries if run is not None else []
            if cursor is not None and low > 0:
                if low > len(entries):
                    raise lost(run_id, low, len(entries))
                if entries[low - 1][0] != cursor:
                    raise diverged(run_id, cursor)
            return entries[low : None if query.before is None else max(0, query.before - 1)]

    def offset_before(self, run_id: str, since_seq: int) -> int:
        """The last offset up to which no event's ``seq`` is over ``since_seq``, which is over 0."""
        with self._changed:
            run = self._runs.get(run_id)
            return 0 if run is None else bisect_right(run.peaks, since_seq) - 1

    def _offsets_of(self, run_id: str, keys: Sequence[str]) -> Mapping[str, int]:
        with self._changed:
            run = self._runs.get(run_id)
            known = {} if run is None else run.keys
            return {key: known[key].offset for key in keys if key in known}

    def follow(self, run_id: str, query: FollowQuery) -> Stream:
        """History, then live events."""
        check_run_id(run_id)
        after = query.after
        offset, _ = parse_position(after)
        wanted = EventFilter(query)
        idle = IdleTimeout(run_id, query.idle_timeout)

        def choose(items: Sequence[Recorded[Any]]) -> list[Recorded[Any]]:
            nonlocal offset
            offset = items[-1].offset
            return [item for item in items if wanted(item.event)]

        while True:
            yield from pass_on(in_pages(self._read(run_id, ReadQuery(after))), choose, idle.restart)
            while (has_more := (yield from blocking(self._wait, run_id, offset, idle))) is None:
                idle.check()
            if not has_more:
                return
            after = offset

    def follow_runs(self, query: FollowRunsQuery) -> Stream:
        """The events of many runs: history, then live."""
        runs, idle = FollowedRuns(query), IdleTimeout(None, query.idle_timeout)
        starts: dict[str, Cursor] = {}
        while True:
            infos = yield from blocking(self._matching, runs, query)
            for info in infos:
                head = self._load_head(info.run_id)
                if head is not None and starts.setdefault(info.run_id, head.start) != head.start:
                    starts[info.run_id] = head.start
                    runs.positions.pop(info.run_id)  # it was deleted, and has been made anew
            having_more = list(filter(runs.has_more, infos))
            for info in having_more:
                pages = in_pages(self._read(info.run_id, ReadQuery(runs.position(info.run_id))))
                try:
                    yield from pass_on(pages, partial(runs.give, info.run_id), idle.restart)
                except UNREADABLE as error:
                    runs.leave_out(info.run_id, error)
            if having_more:
                continue
            ended = sum(info.status in ENDED_STATUSES for info in infos)
            if runs.run_ids is not None and ended == len(runs.run_ids):
                return
            idle.check()
            yield from blocking(self._wait_for_more, runs, query, idle, ended)

    def _matching(self, runs: FollowedRuns, query: FollowRunsQuery) -> list[RunInfo]:
        """The runs that are followed, the oldest first."""
        return [
            info
            for info in reversed(self._find_runs(query.runs_query()))
            if runs.run_ids is None or info.run_id in runs.run_ids
        ]

    def _wait_for_more(self, runs: FollowedRuns, query: FollowRunsQuery, idle: IdleTimeout, ended: int) -> None:
        """Wait until a run has more, or another one has ended, for half a second at most."""

        def has_more() -> bool:
            infos = self._matching(runs, query)
            return any(map(runs.has_more, infos)) or sum(info.status in ENDED_STATUSES for info in infos) != ended

        with self._changed:
            self._changed.wait_for(has_more, idle.limit(_LONGEST_WAIT_SECONDS))

    def _wait(self, run_id: str, offset: int, idle: IdleTimeout) -> bool | None:
        """Wait for events after an offset, for half a second at most.

        Returns:
            True if there are some, False if the run has ended and there are none, None if it was in vain so far.
        """

        def has_more_or_ended() -> bool:
            run = self._runs.get(run_id)
            return run is not None and (len(run.entries) > offset or run.head.status in ENDED_STATUSES)

        with self._changed:
            if not self._changed.wait_for(has_more_or_ended, idle.limit(_LONGEST_WAIT_SECONDS)):
                return None
            return len(self._runs[run_id].entries) > offset

    @in_one_call
    def last_seq(self, run_id: str, lane_id: str) -> int:
        """The ``seq`` of a lane's last event; 0 for a lane without one."""
        check_run_id(run_id)
        check_name("lane_id", lane_id)
        with self._changed:
            run = self._runs.get(run_id)
            return 0 if run is None else _seq_at(run_id, run, run.lanes.get(lane_id, 0))

    def lane_facts(self, run_id: str) -> LaneFacts:
        """What is noted of the lanes of a run."""
        with self._changed:
            run = self._runs.get(run_id)
            if run is None:
                return LaneFacts()
            lasts = {lane_id: (offset, _seq_at(run_id, run, offset)) for lane_id, offset in run.lanes.items()}
            leases = {
                lane_id: held.owner for lane_id, held in self._leases.in_force(self._clock(), run_id).items()
            }
            return LaneFacts(lasts, run.head.snapshots, dict(run.ended), leases)

    @in_one_call
    def snapshot_lanes(self, run_id: str) -> list[str | None]:
        """The lanes that have a snapshot; first None, for the run's own."""
        check_run_id(run_id)
        head = self._load_head(run_id) or RunHead()
        return sorted(head.snapshots, key=lambda lane_id: (lane_id is not None, lane_id or ""))

    @in_one_call
    def inbox(self, run_id: str) -> Inbox:
        """What people were asked about a run, and have said to it."""
        check_run_id(run_id)
        return self._inbox(run_id)

    def _inbox(self, run_id: str) -> Inbox:
        head = self._load_head(run_id)
        if head is None:
            return Inbox()
        return Inbox(head.questions, head.cancel, head.status, head.last.offset, head.creation)

    @in_one_call
    def wait_for_news(self, run_id: str, known: Inbox, seconds: float | None) -> None:
        """Wait until there is something new in a run's inbox, for half a second at most."""
        limit = _LONGEST_WAIT_SECONDS if seconds is None else min(seconds, _LONGEST_WAIT_SECONDS)
        with self._changed:
            self._changed.wait_for(lambda: self._inbox(run_id) != known, limit)

    @in_one_call
    def load_answer(self, run_id: str, question: Question) -> E:
        """The event that answers a question. It counts as known to this writer."""
        offset = question.answer_offset or 0
        (recorded,) = self._read(run_id, ReadQuery.one(offset))
        head = self._load_head(run_id)
        if head is not None:
            self._coverage.appended(run_id, head.run_start, offset - 1, offset, {})
        return recorded.event

    def _load_snapshot(self, run_id: str, lane_id: str | None) -> tuple[SnapshotHead, dict[str, Any]] | None:
        with self._changed:
            run = self._runs.get(run_id)
            if run is None or lane_id not in run.states:
                return None
            saved, packed = run.head.snapshots[lane_id], run.states[lane_id]
        return saved, unpack_state(packed)[0]

    def _load_head(self, run_id: str) -> RunHead | None:
        run = self._runs.get(run_id)
        return None if run is None else run.head

    def _load_heads(self) -> list[tuple[str, RunHead]]:
        with self._changed:
            return [(run_id, run.head) for run_id, run in self._runs.items()]

    # -- writing -----------------------------------------------------------------------------------------

    def _commit(self, requests: Sequence[AppendRequest]) -> list[AppendPlan]:
        with self._changed:
            now = self._clock()
            plans = [self._plan(request, now) for request in requests]
            for request, plan in zip(requests, plans, strict=True):
                if not plan.is_empty:
                    self._apply(request, plan, now)
            self._changed.notify_all()
        return plans

    def _plan(self, request: AppendRequest, now: float) -> AppendPlan:
        leases = self._leases.in_force(now, request.run_id)
        run = self._runs.get(request.run_id)
        if run is None:
            return plan_append(new_head(now), Details(leases=leases), request)
        keys = {key: run.keys[key] for key in request.keys if key in run.keys}
        return plan_append(run.head, Details(run.lanes, keys, leases), request)

    def _apply(self, request: AppendRequest, plan: AppendPlan, now: float) -> None:
        run = self._runs.setdefault(request.run_id, _Run(plan.head))
        run.head = replace(plan.head, updated_at=now)
        run.entries.extend((cursor, event.record) for cursor, event in plan.written)
        for _, event in plan.written:
            run.peaks.append(max(run.peaks[-1], event.seq))
        run.lanes.update((lane_id, last) for lane_id, (_, last) in plan.lanes.items())
        run.keys.update((event.key, cursor) for cursor, event in plan.written if event.key is not None)
        run.ended.update((end.lane_id, end) for end in plan.ended)
        for write in request.states if plan.snapshots else ():
            run.states[write.lane_id] = pack_state(STORED_PACKER, write.state).fields

    @in_one_call
    def delete_run(self, run_id: str) -> bool:
        """Remove all that the store holds of a run. Raises LeaseHeld while a lease is in force."""
        check_run_id(run_id)
        with self._changed:
            was_there = run_id in self._runs
            if was_there:
                self._leases.remove_all(self._clock(), run_id)
                del self._runs[run_id]
        self._forget(run_id)
        return was_there

    # -- leases ------------------------------------------------------------------------------------------

    @in_one_call
    def take_lease(self, request: LeaseRequest) -> LeaseGrant:
        """Take a lease, without waiting. Raises LeaseHeld where another is in the way."""
        with self._changed:
            return self._leases.take(self._clock(), request)

    @in_one_call
    def renew_lease(self, grant: LeaseGrant) -> None:
        """Extend a lease to its full ttl from now on. Raises LeaseLost where it has passed on or run out."""
        with self._changed:
            self._leases.renew(self._clock(), grant)

    @in_one_call
    def release_lease(self, grant: LeaseGrant) -> None:
        """Give a lease back, unless it has passed on already."""
        with self._changed:
            self._leases.release(grant)
