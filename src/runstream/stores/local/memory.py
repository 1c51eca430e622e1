"""Runs in this process's memory: for tests of agent code, and as the model that other stores are compared with."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from runstream.codec.event_codec import DEFAULT_MAX_EVENT_BYTES, Codec
from runstream.codec.fallback import plain_data
from runstream.codec.record import ERASED, LaneFilter
from runstream.codec.snapshot_fields import pack_state, unpack_state
from runstream.codec.stored import STORED_PACKER
from runstream.codec.upcasts import Upcasts
from runstream.model.clock import unix_seconds
from runstream.model.erasures import ErasedPlace, ErasureNote
from runstream.model.errors import CorruptRecordError, EventRefused
from runstream.model.identifiers import check_run_id
from runstream.model.protocols import Fallback
from runstream.model.questions import Inbox, Question
from runstream.model.results import Cursor, E, LeaseGrant, Recorded, S
from runstream.model.run_head import Origins, RunHead, SnapshotHead, written_as
from runstream.operations.arguments import LeaseRequest, ReadQuery, in_place_of
from runstream.operations.idle_timeout import IdleTimeout
from runstream.operations.lane_facts import LaneFacts
from runstream.operations.lineage import Segment
from runstream.operations.operation import Operation, blocking, in_one_call
from runstream.operations.runners import SyncRunner
from runstream.stores.facade import Store
from runstream.stores.lifecycle import place_at
from runstream.stores.local.append_plan import AppendPlan, AppendRequest, Details, new_head, plan_append
from runstream.stores.local.erase_plan import EraseOrder, ErasePlan
from runstream.stores.local.forks import ForkStart
from runstream.stores.local.memory_runs import MEMORIES, Memory, MemoryRun
from runstream.stores.local.operations import LocalOperations

__all__ = ["InMemoryCheckpointer", "MemoryOperations"]

T = TypeVar("T")

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
        memory = MEMORIES.setdefault(name, Memory()) if name else Memory()
        super().__init__(MemoryOperations(codec, memory, require_lease=require_lease, clock=clock), SyncRunner())
        place_at(self, f"memory:{name}")


class MemoryOperations(LocalOperations[E, S]):
    """The operations on runs in memory; see :class:`~runstream.stores.local.operations.LocalOperations`."""

    def __init__(
        self,
        codec: Codec[E, S],
        memory: Memory,
        *,
        require_lease: bool = False,
        clock: Callable[[], float] = unix_seconds,
    ) -> None:
        super().__init__(codec, require_lease=require_lease, clock=clock)
        self._memory = memory  # kept, so that it is held over forks
        self._changed, self._runs, self._leases = memory.changed, memory.runs, memory.leases

    # -- reading -----------------------------------------------------------------------------------------

    def _read_own(self, run_id: str, query: ReadQuery) -> Iterator[Recorded[E]]:
        entries, origins = self._entries(run_id, query)
        given, lane = 0, None if query.lane_id is None else LaneFilter(run_id, query.lane_id)
        for cursor, record in entries[::-1] if query.reverse else entries:
            if given == query.limit:
                return
            if record == ERASED:
                continue
            try:
                name = written_as(run_id, origins, cursor.offset)
                if lane is not None and not lane.has(record, name):
                    continue
                event: Any = self.codec.decode_event(name, cursor.offset, record, query.given_as or run_id)
            except (CorruptRecordError, EventRefused) as error:
                event = in_place_of(error, query.on_corrupt)
                if event is None:
                    continue
            given += 1
            yield Recorded(cursor.offset, str(cursor), event)

    def _entries(self, run_id: str, query: ReadQuery) -> tuple[list[tuple[Cursor, bytes]], Origins]:
        """The entries of a query, and the runs as which the first of the run were made."""
        with self._changed:
            run = self._runs.get(run_id) or MemoryRun(RunHead())
            return run.entries_of(run_id, query), run.head.origins

    def _own_cursor(self, run_id: str, offset: int) -> Cursor:
        run = self._runs[run_id]
        return run.entries[offset - 1 - run.before][0]

    def _own_offset_before(self, run_id: str, since_seq: int) -> int:
        with self._changed:
            run = self._runs.get(run_id)
            return 0 if run is None else run.before + max(0, bisect_right(run.peaks, since_seq) - 1)

    def _own_keys(self, run_id: str, keys: Sequence[str]) -> Mapping[str, Cursor]:
        with self._changed:
            run = self._runs.get(run_id)
            known = {} if run is None else run.keys
            return {key: known[key] for key in keys if key in known}

    def _until(self, look: Callable[[], T | None], idle: IdleTimeout) -> Operation[T | None]:
        """Wait until a look finds something, for half a second at most."""

        def wait() -> T | None:
            with self._changed:
                return self._changed.wait_for(look, idle.limit(_LONGEST_WAIT_SECONDS)) or None

        return blocking(wait)

    def _own_seq(self, run_id: str, lane_id: str) -> int | None:
        with self._changed:
            run = self._runs.get(run_id)
            offset = None if run is None else run.lanes.get(lane_id)
            return None if run is None or offset is None else run.seq_at(run_id, offset)

    def _own_lane_facts(self, run_id: str) -> LaneFacts:
        with self._changed:
            run = self._runs.get(run_id)
            leases = self._leases.in_force(self._clock(), run_id)
            return LaneFacts() if run is None else run.lane_facts(run_id, leases)

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
    def load_answer(self, run_id: str, question: Question) -> E | None:
        """The event that answers a question, which counts as known to this writer; None if it is gone since."""
        offset = question.answer_offset or 0
        recorded = next(iter(self._read(run_id, ReadQuery.one(offset))), None)
        head = self._load_head(run_id)
        if recorded is None or head is None:
            return None
        self._coverage.appended(run_id, head.run_start, offset - 1, offset, {})
        return recorded.event

    def _load_snapshot(
        self, run_id: str, lane_id: str | None
    ) -> tuple[RunHead | None, tuple[SnapshotHead, dict[str, Any]] | None]:
        with self._changed:
            run = self._runs.get(run_id)
            if run is None or lane_id not in run.states:
                return (None if run is None else run.head), None
            head, packed = run.head, run.states[lane_id]
        return head, (head.snapshots[lane_id], unpack_state(packed)[0])

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
                    self._apply(request, plan)
            self._changed.notify_all()
        return plans

    def _plan(self, request: AppendRequest, now: float) -> AppendPlan:
        leases = self._leases.in_force(now, request.run_id)
        run = self._runs.get(request.run_id)
        if run is None:
            return plan_append(new_head(now), Details(leases=leases), request, now)
        keys = {key: run.keys[key] for key in request.keys if key in run.keys}
        inherited = self._inherited_keys(
            request.run_id, run.head, [key for key in request.keys if key not in keys]
        )
        return plan_append(run.head, Details(run.lanes, {**inherited, **keys}, leases), request, now)

    def _apply(self, request: AppendRequest, plan: AppendPlan) -> None:
        run = self._runs.setdefault(request.run_id, MemoryRun(plan.head))
        run.head = plan.head
        run.entries.extend((cursor, event.record) for cursor, event in plan.written)
        for _, event in plan.written:
            run.peaks.append(max(run.peaks[-1], event.seq))
        run.lanes.update((lane_id, last) for lane_id, (_, last) in plan.lanes.items())
        run.keys.update((event.key, cursor) for cursor, event in plan.written if event.key is not None)
        run.ended.update((end.lane_id, end) for end in plan.ended)
        for write in request.states if plan.snapshots else ():
            run.states[write.lane_id] = pack_state(STORED_PACKER, write.state).fields

    def _at_once(self, run_ids: Collection[str]) -> AbstractContextManager[Any]:
        del run_ids  # the lock keeps all others out
        return self._changed

    def _begin_fork(self, run_id: str, start: ForkStart) -> None:
        run = self._runs[run_id] = MemoryRun(start.head, ended={end.lane_id: end for end in start.ended})
        for lane_id, kept in zip(start.head.snapshots, start.states, strict=True):
            run.states[lane_id] = pack_state(STORED_PACKER, kept).fields
        self._changed.notify_all()

    def _take_over(self, run_id: str, head: RunHead, shared: Sequence[Segment]) -> None:
        run = self._runs[run_id]
        lasts = self._inherited_lasts(run_id, run.head)
        run.take_over(head, [(segment, self._runs[segment.run_id]) for segment in shared], lasts)

    def _states_at(self, run_id: str, upto: int) -> Iterator[tuple[SnapshotHead, dict[str, Any]]]:
        run = self._runs[run_id]
        for lane_id, saved in run.head.snapshots.items():
            if saved.offset <= upto:
                yield saved, unpack_state(run.states[lane_id])[0]

    def _children_of(self, run_id: str) -> list[tuple[str, RunHead]]:
        del run_id  # those of others are left out
        return self._load_heads()

    @in_one_call
    def delete_run(self, run_id: str) -> bool:
        """Remove all that the store holds of a run. Raises LeaseHeld while a lease is in force."""
        check_run_id(run_id)
        with self._changed:
            was_there = run_id in self._runs
            if was_there:
                self._check_forks(run_id)
                self._leases.remove_all(self._clock(), run_id)
                del self._runs[run_id]
        self._forget(run_id)
        return was_there

    # -- erasing -----------------------------------------------------------------------------------------

    def _carry_out(self, order: EraseOrder) -> tuple[ErasureNote, ErasePlan]:
        return self._memory.carry_out(order, self._clock())

    def erasure_notes(self, run_id: str) -> list[ErasureNote]:
        """The erasures that are noted of a run."""
        return self._memory.erasure_notes(run_id)

    def where_erased(self) -> ErasedPlace:
        """Nothing is left where the process keeps it."""
        return ErasedPlace("memory:", done=True)

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
