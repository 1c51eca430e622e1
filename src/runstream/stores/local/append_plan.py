"""What an append does to a run, for the stores of one machine. Pure.

A store says where the run stands (:class:`RunHead`) and gets a plan of what to write, all within one
transaction of its own: offsets and chains, keys, leases, conflicts and what a snapshot covers are decided
here and nowhere else.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runstream.codec.chain import CHAIN_MODULUS, next_chain
from runstream.codec.event_codec import EncodedEvent
from runstream.codec.record import record_crc
from runstream.model.results import Appended, Cursor, LeaseGrant, Placement
from runstream.model.state import status_after
from runstream.operations.coverage import Covered
from runstream.operations.messages import offset_conflict, snapshot_conflict
from runstream.stores.local.lease_rules import Leases, check_write
from runstream.stores.tokens import random_token

__all__ = ["AppendPlan", "AppendRequest", "RunHead", "SavedSnapshot", "new_start", "plan_append"]


@dataclass(frozen=True, slots=True)
class SavedSnapshot:
    """A snapshot as a local store keeps it beside its state."""

    lane_id: str | None
    offset: int
    revision: int
    token: str


@dataclass(frozen=True, slots=True)
class RunHead:
    """Where a run stands. ``lanes`` has the last offset of (at least) each lane that is asked about,
    ``snapshot`` the one that a new one would replace, ``keys`` the places of the events whose keys are asked
    about, where the run knows them, ``leases`` those that are in force.
    """

    start: Cursor
    last: Cursor
    session_id: str = ""
    status: str = "running"
    lanes: Mapping[str, int] = field(default_factory=dict)
    snapshot: SavedSnapshot | None = None
    keys: Mapping[str, Cursor] = field(default_factory=dict)
    leases: Leases = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AppendRequest:
    """What a caller wants of one run. ``state`` is plain data, made from the snapshot with ``known_token``
    ('' for none; None: whichever it is, it is replaced), and ``status`` the one that it gives the run.
    """

    run_id: str
    events: Sequence[EncodedEvent]
    expected_offset: int | None = None
    state: dict[str, Any] | None = None
    lane_id: str | None = None
    covers: Covered = field(default_factory=Covered)
    known_token: str | None = None
    known_revision: int = 0
    status: str | None = None
    lease: LeaseGrant | None = None

    @property
    def lanes(self) -> list[str]:
        """The lanes that it touches: those of its events, and the one whose snapshot it saves."""
        lanes = dict.fromkeys(event.lane_id for event in self.events)
        if self.lane_id is not None:
            lanes[self.lane_id] = None
        return list(lanes)

    @property
    def keys(self) -> set[str]:
        """The keys of its events."""
        return {event.key for event in self.events if event.key is not None}


@dataclass(frozen=True, slots=True)
class AppendPlan:
    """What to write: the new events with their places, where the run stands then, and the snapshot's header.

    ``placement`` is of all events, also of those that the run has already.
    """

    placement: Placement
    written: Sequence[tuple[Cursor, EncodedEvent]]
    head: RunHead
    lanes_before: Mapping[str, int]
    snapshot: SavedSnapshot | None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self.written and self.snapshot is None


def new_start() -> Cursor:
    """The place before the first event of a run that is created now."""
    return Cursor(0, secrets.randbelow(CHAIN_MODULUS))


def plan_append(head: RunHead, request: AppendRequest) -> AppendPlan:
    """What this append does to a run that stands there.

    Raises LeaseLost, LeaseHeld or ConcurrencyConflict; then there is nothing to write.
    """
    check_write(request.run_id, head.leases, request.lease, request.lanes)
    placement, written = _place(head, request.events)
    if request.events and not written:
        return AppendPlan(placement, (), head, {}, None)
    former = head.last
    if request.expected_offset not in (None, former.offset):
        raise offset_conflict(request.run_id, request.expected_offset or 0, former.offset)
    last = written[-1][0] if written else former
    lanes = {event.lane_id: cursor.offset for cursor, event in written}
    snapshot = None
    if request.state is not None:
        snapshot = _plan_snapshot(head, request, last.offset)
    session_id = next((event.session_id for event in request.events if event.session_id), "")
    if not session_id and request.state is not None:
        session_id = request.state.get("session_id", "")
    return AppendPlan(
        placement,
        written,
        RunHead(
            head.start,
            last,
            head.session_id or session_id,
            request.status or status_after(event.kind for _, event in written) or head.status,
            {**head.lanes, **lanes},
            snapshot or head.snapshot,
        ),
        {lane: head.lanes.get(lane, 0) for lane in lanes},
        snapshot,
    )


def _place(
    head: RunHead, events: Sequence[EncodedEvent]
) -> tuple[Placement, Sequence[tuple[Cursor, EncodedEvent]]]:
    """Where each event lies, and those of them that are new: their keys are not known, nor twice in the batch."""
    cursors, written, known = [], [], []
    last, keys = head.last, dict(head.keys)
    for index, event in enumerate(events):
        place = None if event.key is None else keys.get(event.key)
        if place is None:
            place = last = Cursor(last.offset + 1, next_chain(last.chain, record_crc(event.record)))
            written.append((place, event))
            if event.key is not None:
                keys[event.key] = place
        else:
            known.append(index)
        cursors.append(place)
    first_offset = cursors[0].offset if cursors else last.offset + 1
    end = cursors[-1] if cursors else last
    return Placement(Appended(first_offset, end.offset, str(end)), cursors, frozenset(known)), written


def _plan_snapshot(head: RunHead, request: AppendRequest, last: int) -> SavedSnapshot:
    saved = head.snapshot
    if request.known_token is not None and request.known_token != (saved.token if saved else ""):
        actual = saved.revision if saved else 0
        raise snapshot_conflict(request.run_id, request.known_revision, actual)
    # what the writer knows of a run of this name that was deleted since says nothing of this one
    covers = request.covers.offset if request.covers.history == head.start.chain else head.start.offset
    before = head.last.offset if request.lane_id is None else head.lanes.get(request.lane_id, 0)
    return SavedSnapshot(
        request.lane_id,
        # it covers all, if all that came before is covered: in the run, or in its lane
        last if before <= covers else covers,
        (saved.revision if saved else 0) + 1,
        random_token(),
    )
