"""The operations that the stores on one machine share: memory, SQLite, JSONL.

A medium gives a few blocking primitives, each atomic in itself; the operations are made of them here, nearly all
as one blocking call. What an append does to a run is decided in :mod:`runstream.stores.local.append_plan`.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from runstream.codec.encoded_event import EncodedEvent
from runstream.codec.event_codec import Codec
from runstream.codec.kept_states import plain_state
from runstream.model.clock import unix_seconds
from runstream.model.durability import Durability
from runstream.model.errors import ConcurrencyConflict, ConfigurationError
from runstream.model.identifiers import check_name, check_run_id
from runstream.model.protocols import Leased
from runstream.model.questions import Inbox, Question
from runstream.model.results import (
    E,
    LaneInfo,
    LeaseGrant,
    Placement,
    Recovery,
    RunInfo,
    S,
    Snapshot,
    SnapshotInfo,
)
from runstream.model.run_head import RunHead, SnapshotHead
from runstream.model.tags import check_tags
from runstream.operations.arguments import (
    AppendOptions,
    LeaseRequest,
    ReadQuery,
    RunsQuery,
    StateChange,
    check_count,
    check_leased,
    check_since_seq,
    grant_of,
    group_by_run,
)
from runstream.operations.coverage import CoverageBook, Covered
from runstream.operations.filters import arranged, lane_of, seq_of
from runstream.operations.kept_snapshots import check_snapshot_of, highest_first
from runstream.operations.operation import Items, Operation, Stream, blocking, in_one_call
from runstream.stores.local.append_plan import AppendPlan, AppendRequest, Details, StateWrite, plan_append
from runstream.stores.local.following import Following
from runstream.stores.local.lease_rules import no_leases
from runstream.stores.local.pages import in_pages

__all__ = ["LocalOperations"]


class LocalOperations(Following[E, S]):
    """The operations of a store of one machine (:class:`~runstream.operations.interface.StoreOperations`).

    Args:
        codec: Makes events and states of the caller's types, and encodes them.
        require_lease: Refuse every write without a lease on what it touches.
        clock: Unix time in seconds.
    """

    def __init__(
        self, codec: Codec[E, S], *, require_lease: bool = False, clock: Callable[[], float] = unix_seconds
    ) -> None:
        self.codec = codec
        self._require_lease = require_lease
        self._clock = clock
        self._coverage = CoverageBook()
        self._known: dict[tuple[str, str | None], SnapshotHead] = {}  # of each run and lane, the one seen last
        self._original: LocalOperations[E, S] | None = None

    def for_one_writer(self) -> Self:
        """The same store for one more writer, with its own snapshots."""
        other = copy.copy(self)
        other._coverage, other._known = CoverageBook(), {}
        other._original = self  # which closes the medium when nobody has it any more
        return other

    def close(self) -> None:
        """Give back what is held open. Closing twice is fine."""

    # -- what a medium gives: blocking calls, each atomic in itself ------------------------------------

    @abstractmethod
    def _commit(self, requests: Sequence[AppendRequest]) -> list[AppendPlan]:
        """Plan and write these appends to different runs, each in one atomic step; nothing for an empty plan."""

    def _load_tagged(self, run_id: str) -> RunHead | None:
        """The run's head with its tags."""
        return self._load_head(run_id)

    @abstractmethod
    def _load_heads(self) -> Iterable[tuple[str, RunHead]]:
        """The runs' heads by id, in any order."""

    @abstractmethod
    def _load_snapshot(
        self, run_id: str, lane_id: str | None
    ) -> tuple[RunHead | None, tuple[SnapshotHead, dict[str, Any]] | None]:
        """The run's head; and the latest snapshot of the run or lane, no older: its head, its state as data."""

    def _keep_state(self, fields: Mapping[str, Any]) -> Any:
        """What the store keeps of a state, never the caller's own object; refused if any store would refuse it."""
        return plain_state(self.codec.packer, fields)

    def _keep_lane_state(self, fields: Mapping[str, Any]) -> Any:
        """The same of a lane's state, which no other program reads."""
        return self._keep_state(fields)

    def _events_after(self, run_id: str, offset: int, head: RunHead) -> Iterator[E]:
        """The events after an offset, without their offsets, of the run that has this head."""
        del head
        return (item.event for item in self._read(run_id, ReadQuery(offset)))

    @abstractmethod
    def delete_run(self, run_id: str) -> Operation[bool]:
        """Remove all that the store holds of a run, and forget it.

        Raises LeaseHeld while a lease is in force, and RunHasForks where others need it.
        """

    def take_lease(self, request: LeaseRequest) -> Operation[LeaseGrant]:
        """Take a lease, without waiting. Raises LeaseHeld where another is in the way."""
        raise no_leases(request.run_id)

    def renew_lease(self, grant: LeaseGrant) -> Operation[None]:
        """Extend a lease to its full ttl from now on. Raises LeaseLost where it has passed on or run out."""
        raise no_leases(grant.run_id)

    def release_lease(self, grant: LeaseGrant) -> Operation[None]:
        """Give a lease back, unless it has passed on already."""
        raise no_leases(grant.run_id)

    def inbox(self, run_id: str) -> Operation[Inbox]:
        """What people were asked about a run, and have said to it. Raises ConfigurationError in an archive."""
        raise _no_questions(run_id)

    def wait_for_news(self, run_id: str, known: Inbox, seconds: float | None) -> Stream:  # noqa: ARG002 - as below
        """Wait until there may be something new in a run's inbox."""
        raise _no_questions(run_id)

    def load_answer(self, run_id: str, question: Question) -> Operation[E | None]:  # noqa: ARG002 - memory keeps them
        """The event that answers a question."""
        raise _no_questions(run_id)

    # -- events ------------------------------------------------------------------------------------------

    def save_event(self, event: E) -> Operation[None]:
        """Append one event to the run that it names."""
        return self.save_events((event,))

    @in_one_call
    def save_events(self, events: Iterable[E]) -> None:
        """Append events to the runs that they name, each run's in one atomic step."""
        self._send(
            [
                AppendRequest(run_id, self.codec.encode_events(run_id, group))
                for run_id, group in group_by_run(events).items()
            ]
        )

    @in_one_call
    def append(self, run_id: str, events: Iterable[E], options: AppendOptions[S]) -> Placement:
        """Append events to a run, and save a snapshot with them, in one atomic step."""
        check_count("expected_offset", options.expected_offset)
        if options.durability is not None:
            self._check_durability(Durability.parse(options.durability))
        encoded = self.codec.encode_events(run_id, events, options.keys)
        grant_of(run_id, options.lease)
        if not (encoded or options.states or options.ended or check_tags(options.tags)):
            head = self._load_head(run_id) or RunHead()
            # an append of nothing creates nothing, but its expected offset is checked
            nothing = AppendRequest(run_id, (), options.expected_offset)
            return plan_append(head, Details(), nothing, head.updated_at).placement
        (plan,) = self._send([self._request(run_id, encoded, options, compare=True)])
        return plan.placement

    def _check_durability(self, wanted: Durability) -> None:
        """Raise ConfigurationError for a durability that cannot be given: what ends with its process has any."""

    def read(self, run_id: str, query: ReadQuery) -> Stream:
        """The events between two offsets, as they are at the first step."""
        check_run_id(run_id)
        query.check()
        return in_pages(self._read(run_id, query))

    @in_one_call
    def list_events(self, run_id: str, since_seq: int) -> list[E]:
        """The events whose ``seq`` is over ``since_seq``, in log order; all of them where that is 0 or less."""
        check_run_id(run_id)
        since_seq = check_since_seq(since_seq)
        head = self._load_head(run_id) or RunHead()
        after = self._offset_before(run_id, head, since_seq) if since_seq > 0 else 0
        events = self._events_after(run_id, after, head)
        return [event for event in events if since_seq <= 0 or seq_of(event) > since_seq]

    # -- snapshots ---------------------------------------------------------------------------------------

    @in_one_call
    def save_snapshot(self, run_id: str, state: S, lane_id: str | None, lease: Leased | None) -> None:
        """Replace the snapshot of a run, or of one lane of it, whoever saved the one before."""
        check_run_id(run_id)
        if state is None:  # to an append it is no snapshot; here it is refused as all that is no state
            self.codec.snapshot_fields(run_id, state)
        self._send([self._request(run_id, (), AppendOptions(None, None, lease, state, lane_id), compare=False)])

    @in_one_call
    def load_snapshot(self, run_id: str, lane_id: str | None) -> Snapshot[S] | None:
        """The latest snapshot of a run, or of one lane of it."""
        return self._restore(run_id, lane_id)[1]

    @in_one_call
    def kept_snapshots(self, run_id: str, lane_id: str | None) -> list[SnapshotInfo]:
        """The latest snapshot of a run, or of one lane of it, without its state."""
        check_snapshot_of(run_id, lane_id)
        return highest_first((self._load_snapshot(run_id, lane_id)[1] or ())[:1])

    @in_one_call
    def update_state(self, run_id: str, change: Callable[[S], S | None], how: StateChange) -> S:
        """Load a run's state, change it, and save it unless another was saved in between; then again."""
        check_run_id(run_id)
        how.check()
        grant_of(run_id, how.lease)  # refused before anything is changed
        for left in range(how.attempts - 1, -1, -1):
            head, loaded = self._load_upcast(run_id, None)
            saved = None if loaded is None else loaded[0]
            if loaded is None:
                state, left_out = self.codec.new_state(run_id), None
            else:
                state = self.codec.make_state(run_id, loaded[1], loaded[0].offset)
                left_out = self.codec.left_out(loaded[1], state)
            changed = change(state)
            state = state if changed is None else changed
            options = AppendOptions(lease=how.lease, snapshot=state, left_out=left_out)
            request = self._request(run_id, (), options, compare=True)
            # made from what was loaded here, and from nothing else that this store knows
            write = request.states[0]._replace(
                covers=Covered() if saved is None or head is None else Covered(saved.offset, head.creation),
                known_token="" if saved is None else saved.token,
                known_revision=0 if saved is None else saved.revision,
            )
            try:
                self._send([replace(request, states=[write])])
            except ConcurrencyConflict:
                if left == 0:
                    raise
            else:
                return state
        raise AssertionError("unreachable: the last attempt returns or raises")

    @in_one_call
    def recover(self, run_id: str, lane_id: str | None) -> Recovery[S, E]:
        """The latest snapshot and the events after it."""
        head, snapshot = self._restore(run_id, lane_id)
        before_first = 0 if head is None or head.base is None else head.base.offset
        covered = before_first if snapshot is None else snapshot.offset
        recorded = list(self._read(run_id, ReadQuery(covered, lane_id=lane_id), head))
        end = max(covered, *(item.offset for item in recorded[-1:]), 0 if head is None else head.last.offset)
        if lane_id is not None:
            recorded = [item for item in recorded if lane_of(item.event) == lane_id]
        if head is not None:
            self._coverage.recovered(run_id, lane_id, head.run_start, end)
        if snapshot is None:
            return Recovery(None, covered, recorded)
        return Recovery(snapshot.state, covered, recorded, snapshot.stored)

    @in_one_call
    def mark_recovered(self, run_id: str, offset: int, lane_id: str | None) -> None:
        """Mark events up to ``offset`` as known to this writer, so that its next snapshot covers them."""
        head = self._load_head(run_id)
        if head is not None:
            self._coverage.recovered(run_id, lane_id, head.run_start, offset)

    # -- runs --------------------------------------------------------------------------------------------

    @in_one_call
    def lanes(self, run_id: str) -> list[LaneInfo]:
        """The lanes of a run, by name."""
        check_run_id(run_id)
        return self.lane_facts(run_id).infos()

    @in_one_call
    def run_info(self, run_id: str) -> RunInfo | None:
        """What is known of a run."""
        check_run_id(run_id)
        head = self._load_tagged(run_id)
        return None if head is None else self._info(run_id, head)

    def runs(self, query: RunsQuery) -> Stream:
        """The runs that match, the most recently updated first, as they are at the first step."""
        query.check()
        yield Items((yield from blocking(self._find_runs, query)))

    @in_one_call
    def list_runs(self) -> list[str]:
        """The ids of all runs, the most recently updated first."""
        return [info.run_id for info in self._find_runs(RunsQuery())]

    @in_one_call
    def forget(self, run_id: str) -> None:
        """Forget what this writer knows of a run's snapshots; a local store knows nothing else of it."""
        self._forget(run_id)

    # -- inside ------------------------------------------------------------------------------------------

    def _restore(self, run_id: str, lane_id: str | None) -> tuple[RunHead | None, Snapshot[S] | None]:
        """Load the run's head and the latest snapshot, and note that as the one that this writer knows."""
        check_snapshot_of(run_id, lane_id)
        head, loaded = self._load_upcast(run_id, lane_id)
        if loaded is None:
            self._known.pop((run_id, lane_id), None)  # so that the next one has none before it
            return head, None
        saved, fields = loaded
        state = self.codec.make_state(run_id, fields, saved.offset)
        self._known[run_id, lane_id] = saved
        if head is not None:
            self._coverage.loaded(run_id, lane_id, head.run_start, saved.offset)
        return head, Snapshot(state, saved.offset, saved.revision, fields)

    def _load_upcast(
        self, run_id: str, lane_id: str | None
    ) -> tuple[RunHead | None, tuple[SnapshotHead, dict[str, Any]] | None]:
        """The run's head, and the latest snapshot of the run or lane with its state as one of this version."""
        head, loaded = self._load_snapshot(run_id, lane_id)
        return head, loaded and (loaded[0], self.codec.upcast_state(run_id, loaded[0].offset, loaded[1]))

    def _info(self, run_id: str, head: RunHead) -> RunInfo:
        return head.info(run_id)

    def _find_runs(self, query: RunsQuery) -> list[RunInfo]:
        return [self._info(run_id, head) for run_id, head in self._find_heads(query)]

    def _find_heads(self, query: RunsQuery) -> list[tuple[str, RunHead]]:
        return self._matching(self._load_heads(), query)

    def _matching(self, heads: Iterable[tuple[str, RunHead]], query: RunsQuery) -> list[tuple[str, RunHead]]:
        by_id = dict(heads)
        infos = arranged((self._info(run_id, head) for run_id, head in by_id.items()), query)
        return [(info.run_id, by_id[info.run_id]) for info in infos]

    def _request(
        self, run_id: str, encoded: Sequence[EncodedEvent], options: AppendOptions[S], *, compare: bool
    ) -> AppendRequest:
        """Make an append's request. With ``compare``, a snapshot must follow the one that this writer knows."""
        grant = grant_of(run_id, options.lease)
        if grant is not None and not self._has_leases:
            raise no_leases(run_id)
        states, session_id, status = [], "", options.status or None
        for lane_id, state in options.states.items():
            if lane_id is not None:
                check_name("lane_id", lane_id)
            fields = self.codec.snapshot_fields(run_id, state, options.left_out_of(lane_id))
            known = self._known.get((run_id, lane_id), SnapshotHead(lane_id, 0, 0, ""))
            kept = self._keep_state(fields) if lane_id is None else self._keep_lane_state(fields)
            token = known.token if compare else None
            covers = self._coverage.covered(run_id, lane_id)
            states.append(StateWrite(lane_id, kept, covers, token, known.revision))
            session_id = session_id or self.codec.packer.plain(fields.get("session_id", ""), "session_id")
            if lane_id is None:  # a lane that has finished has not ended the run
                status = status or self.codec.status_of(fields)
        rest = (session_id, status, grant, options.sender, options.ended, check_tags(options.tags))
        return AppendRequest(run_id, encoded, options.expected_offset, states, *rest)

    def _send(self, requests: Sequence[AppendRequest]) -> list[AppendPlan]:
        if not requests:
            return []
        if self._require_lease:
            for request in (request for request in requests if request.sender != "person"):
                check_leased(request.run_id, request.lanes, request.lease)
        plans = self._commit(requests)
        for request, plan in zip(requests, plans, strict=True):
            if plan.is_empty:
                continue
            former = plan.head.last.offset - len(plan.written)
            self._coverage.appended(request.run_id, plan.head.run_start, former, plan.head.last.offset, plan.lanes)
            for snapshot in plan.snapshots:
                self._known[request.run_id, snapshot.lane_id] = snapshot
        return plans

    def _forget(self, run_id: str) -> None:
        self._coverage.forget(run_id)
        for known in [known for known in self._known if known[0] == run_id]:
            del self._known[known]


def _no_questions(run_id: str) -> ConfigurationError:
    return ConfigurationError(
        f"this store of run {run_id!r:.80} keeps no questions, so nobody can wait in it for a person: ask, answer"
        " and cancel in Redis, with this as the archive, or in memory"
    )
