"""Plan an append, for the stores on one machine: what it writes, or why it is refused. Pure.

A store passes the run's head (:class:`~runstream.model.run_head.RunHead`) and the facts that the append asks about
(:class:`Details`), and gets a plan of what to write, all within one transaction of its own: offsets and chains,
keys, leases, conflicts and what a snapshot covers are decided here and nowhere else.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from runstream.codec.chain import CHAIN_MODULUS, next_chain
from runstream.codec.encoded_event import EncodedEvent
from runstream.codec.notices import notices_of
from runstream.codec.record import record_crc
from runstream.model.identifiers import random_token
from runstream.model.questions import ANSWERS_LANE, Inbox, pending_of, questions_after
from runstream.model.results import Appended, Cursor, LeaseGrant, Placement
from runstream.model.run_head import EndedLane, RunHead, SnapshotHead
from runstream.model.state import ENDED_STATUSES, RunStatus, status_after
from runstream.model.tags import MAX_TAGS, TagChanges, TagSet, too_many_tags
from runstream.operations.arguments import Sender
from runstream.operations.coverage import Covered
from runstream.operations.messages import not_asked, offset_conflict, run_cancelled, snapshot_conflict
from runstream.stores.local.lease_rules import Leases, check_write

__all__ = ["AppendPlan", "AppendRequest", "Details", "StateWrite", "new_head", "plan_append"]


@dataclass(frozen=True, slots=True)
class Details:
    """The facts about a run, beside its head, that an append asks about: lanes, keys and leases."""

    lanes: Mapping[str, int] = field(default_factory=dict)
    keys: Mapping[str, Cursor] = field(default_factory=dict)
    leases: Leases = field(default_factory=dict)

    def last_of(self, lane_id: str, head: RunHead) -> int:
        """The offset of a lane's last event; 0 for none. What a fork shares may have any lane's, up to its end."""
        return self.lanes.get(lane_id, head.shares_to)


class StateWrite(NamedTuple):
    """A state to save with an append.

    Attributes:
        lane_id: The lane whose snapshot it is; None: the run's own.
        state: What the store keeps of it.
        covers: The history that its writer knows.
        known_token: The token of the snapshot that it was made from; '' for none; None: whichever it is, it is
            replaced.
        known_revision: That one's revision.
    """

    lane_id: str | None
    state: Any
    covers: Covered
    known_token: str | None = None
    known_revision: int = 0


@dataclass(frozen=True, slots=True)
class AppendRequest:
    """What a caller appends to one run.

    ``states`` are saved with it, each of another lane; ``state_session`` and ``status`` are those that they give
    the run. The lanes in ``ends`` end with it.
    """

    run_id: str
    events: Sequence[EncodedEvent]
    expected_offset: int | None = None
    states: Sequence[StateWrite] = ()
    state_session: str = ""
    status: str | None = None
    lease: LeaseGrant | None = None
    sender: Sender = "-"
    ends: Sequence[str] = ()
    tags: TagChanges = field(default_factory=dict)

    @property
    def lanes(self) -> list[str]:
        """The lanes that it touches: those of its events, those whose snapshots it saves, those that it ends."""
        of_states = [write.lane_id for write in self.states if write.lane_id is not None]
        return list(dict.fromkeys([*(event.lane_id for event in self.events), *of_states, *self.ends]))

    @property
    def saved_lanes(self) -> list[str | None]:
        """The lanes (None: the run) whose latest snapshots count for it: those it saves, and those it ends."""
        return list(dict.fromkeys([*(write.lane_id for write in self.states), *self.ends]))

    @property
    def keys(self) -> set[str]:
        """The keys of its events."""
        return {event.key for event in self.events if event.key is not None}


@dataclass(frozen=True, slots=True)
class AppendPlan:
    """What to write: new events with their cursors, the run's head after that, heads of snapshots, ends of lanes.

    ``placement`` is of all events, also of those that the run has already. ``lanes`` has the last offset of each
    lane that gets events, before and after. ``tags`` are the run's from then on; None: nothing was said of them.
    """

    placement: Placement
    written: Sequence[tuple[Cursor, EncodedEvent]]
    head: RunHead
    lanes: Mapping[str, tuple[int, int]]
    snapshots: Sequence[SnapshotHead] = ()
    ended: Sequence[EndedLane] = ()
    tags: TagSet | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self.written and not self.snapshots and not self.ended and self.tags is None


def new_head(now: float) -> RunHead:
    """The head of a run that is created ``now`` (Unix time in seconds): its chain begins with a random number."""
    start = Cursor(0, secrets.randbelow(CHAIN_MODULUS))
    return RunHead(start, start, created_at=now, updated_at=now)


def plan_append(head: RunHead, details: Details, request: AppendRequest, now: float) -> AppendPlan:
    """Plan what this append writes, or raise the error that refuses it: then there is nothing to write.

    Args:
        head: The run's head before.
        details: What else is known of the run.
        request: What is asked for.
        now: Unix time in seconds: when the run is updated, if anything is written.

    Raises:
        LeaseLost: The lease is not in force any more.
        LeaseHeld: Another's lease is in the way.
        ConcurrencyConflict: The run, or its snapshot, is another one than expected.
    """
    leases = details.leases
    if request.sender == "person" and request.lanes == [ANSWERS_LANE]:
        leases = {lane_id: held for lane_id, held in leases.items() if lane_id is not None}
    check_write(request.run_id, leases, request.lease, request.lanes)
    placement, written = _assign_cursors(head.last, details.keys, request.events)
    if request.events and not written:
        return AppendPlan(placement, (), head, {})
    former = head.last
    if request.expected_offset not in (None, former.offset):
        raise offset_conflict(request.run_id, request.expected_offset or 0, former.offset)
    last = written[-1][0] if written else former
    snapshots = [_plan_snapshot(head, details, request.run_id, write, last.offset) for write in request.states]
    tags = _tags_after(head, request)
    told = _told(head, request, written)
    is_opened = head.status in ENDED_STATUSES and told.status == RunStatus.RUNNING and not request.states
    if head.cancel is not None and request.sender == "run" and not is_opened:
        raise run_cancelled(request.run_id, head.cancel)
    session_id = next((event.session_id for event in request.events if event.session_id), "")
    session_id = session_id or request.state_session
    latest = {**head.snapshots, **{snapshot.lane_id: snapshot for snapshot in snapshots}}
    lanes = {event.lane_id: (details.last_of(event.lane_id, head), cursor.offset) for cursor, event in written}
    tokens = {lane: latest[lane].token if lane in latest else "" for lane in request.ends}
    return AppendPlan(
        placement,
        written,
        replace(
            head,
            last=last,
            status=told.status,
            questions=told.questions,
            cancel=told.cancel,
            session_id=head.session_id or session_id,
            updated_at=now,
            snapshots=latest,
            tags=tags or head.tags,
        ),
        lanes,
        snapshots,
        # one that has neither events nor a snapshot is not there
        [
            EndedLane(one, last.offset, of)
            for one, of in tokens.items()
            if of or one in lanes or one in details.lanes or head.fork_of is not None
        ],
        tags,
    )


def _tags_after(head: RunHead, request: AppendRequest) -> TagSet | None:
    """The run's tags after this append; None if it says nothing of them. Raises EncodingError for too many."""
    if not request.tags:
        return None
    tags = head.tags.changed(request.tags, random_token()[:8])
    if len(tags.values) > MAX_TAGS:
        raise too_many_tags(request.run_id, len(tags.values))
    return tags


def _told(head: RunHead, request: AppendRequest, written: Sequence[tuple[Cursor, EncodedEvent]]) -> Inbox:
    """The run's status, and what was said between it and people, after this append: as append.lua has it."""
    notices = notices_of(request.run_id, [event for _, event in written])
    said = [(written[index][0].offset, notice) for index, notice in notices]
    is_pending = {question.question_id for question in head.questions if question.answer_offset is None}
    for _, notice in said if request.sender == "person" else ():
        if notice.says == "answer" and notice.question_id not in is_pending:
            raise not_asked(request.run_id, None, notice.question_id)
    questions = questions_after(head.questions, said)
    status = request.status or status_after(event.kind for _, event in written)
    says = {notice.says for _, notice in said}
    if status is None and "ask" in says:
        status = RunStatus.PAUSED.value
    elif status is None and "answer" in says and head.status == RunStatus.PAUSED and not pending_of("", questions):
        status = RunStatus.RUNNING.value
    cancel = next((notice.text for _, notice in reversed(said) if notice.says == "cancel"), head.cancel)
    status = status or head.status
    if head.status in ENDED_STATUSES and status not in ENDED_STATUSES:
        cancel = None  # it is opened again
    return Inbox(questions, cancel, status)


def _assign_cursors(
    last: Cursor, known_keys: Mapping[str, Cursor], events: Sequence[EncodedEvent]
) -> tuple[Placement, Sequence[tuple[Cursor, EncodedEvent]]]:
    """Give each event a cursor, and choose those that are new: a key is written once, also within a batch."""
    cursors, written, known = [], [], []
    keys = dict(known_keys)
    for index, event in enumerate(events):
        cursor = None if event.key is None else keys.get(event.key)
        if cursor is None:
            cursor = last = Cursor(last.offset + 1, next_chain(last.chain, record_crc(event.record)))
            written.append((cursor, event))
            if event.key is not None:
                keys[event.key] = cursor
        else:
            known.append(index)
        cursors.append(cursor)
    first_offset = cursors[0].offset if cursors else last.offset + 1
    end = cursors[-1] if cursors else last
    return Placement(Appended(first_offset, end.offset, str(end)), cursors, frozenset(known)), written


def _plan_snapshot(head: RunHead, details: Details, run_id: str, write: StateWrite, last: int) -> SnapshotHead:
    saved = head.snapshots.get(write.lane_id)
    if write.known_token is not None and write.known_token != (saved.token if saved else ""):
        actual = saved.revision if saved else 0
        raise snapshot_conflict(run_id, write.lane_id, write.known_revision, actual)
    # the writer's coverage of a deleted run of this name does not hold for this one
    covers = write.covers.offset if write.covers.history == head.creation else head.run_start.offset
    covers = max(covers, 0 if head.base is None else head.base.offset)  # what was truncated is not to be recovered
    before = head.last.offset if write.lane_id is None else details.last_of(write.lane_id, head)
    return SnapshotHead(
        write.lane_id,
        # it covers all, if all that came before is covered: in the run, or in its lane
        last if before <= covers else covers,
        (saved.revision if saved else 0) + 1,
        random_token(),
    )
