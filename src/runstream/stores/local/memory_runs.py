"""What stores in memory keep: runs, and the last lease of each lane and each run."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from runstream.codec.record import ERASED, decode_record, fields_of
from runstream.model.erasures import ErasureNote
from runstream.model.results import Cursor, Fork
from runstream.model.run_head import EndedLane, RunHead, SnapshotHead, written_as
from runstream.operations.arguments import ReadQuery, parse_position
from runstream.operations.forks import HeldLock, held_over_fork
from runstream.operations.lane_facts import LaneFacts
from runstream.operations.lineage import Segment
from runstream.operations.messages import diverged, lost
from runstream.operations.run_forks import forks_among
from runstream.stores.local.erase_plan import (
    EraseOrder,
    ErasePlan,
    Family,
    noted,
    plan_erase,
    plan_truncate,
    sharing,
)
from runstream.stores.local.given_leases import GivenLeases
from runstream.stores.local.lease_rules import Leases

__all__ = ["MEMORIES", "Memory", "MemoryRun"]


@dataclass(slots=True)
class MemoryRun:
    """One run: its head, its own records with their cursors, its packed states by lane, its own lanes and keys.

    ``peaks`` has the highest ``seq`` up to each offset, 0 at the least, from the one before the first entry on;
    ``seqs`` those of erased or removed events, by offset, and ``erasures`` what was asked for.
    """

    head: RunHead
    entries: list[tuple[Cursor, bytes]] = field(default_factory=list)
    peaks: list[int] = field(default_factory=lambda: [0])
    states: dict[str | None, Mapping[bytes, bytes]] = field(default_factory=dict)
    lanes: dict[str, int] = field(default_factory=dict)
    ended: dict[str, EndedLane] = field(default_factory=dict)
    keys: dict[str, Cursor] = field(default_factory=dict)
    seqs: dict[int, int] = field(default_factory=dict)
    erasures: list[ErasureNote] = field(default_factory=list)

    @property
    def before(self) -> int:
        """The offset before its first entry."""
        return self.head.before_first.offset

    def entries_of(self, run_id: str, query: ReadQuery) -> list[tuple[Cursor, bytes]]:
        """Its own entries that a query asks for."""
        low, cursor = parse_position(query.after)
        head, first = self.head, self.head.before_first
        if cursor is not None and low > head.last.offset:
            raise lost(run_id, low, head.last.offset)
        if cursor is not None and low > first.offset and self.entries[low - first.offset - 1][0] != cursor:
            raise diverged(run_id, cursor)
        if cursor is not None and head.base == first and low == first.offset and cursor != first:
            raise diverged(run_id, cursor)
        end = None if query.before is None else max(0, query.before - first.offset - 1)
        return self.entries[max(0, low - first.offset) : end]

    def seq_at(self, run_id: str, offset: int) -> int:
        """The ``seq`` of the run's own event at an offset."""
        if offset in self.seqs:
            return self.seqs[offset]
        record = self.entries[offset - self.before - 1][1]
        name = written_as(run_id, self.head.origins, offset)
        return int(fields_of(name, decode_record(name, offset, record))["seq"])

    def lane_facts(self, run_id: str, leases: Leases) -> LaneFacts:
        """What is noted of the lanes of its own events."""
        lasts = {lane_id: (offset, self.seq_at(run_id, offset)) for lane_id, offset in self.lanes.items()}
        owners = {lane_id: held.owner for lane_id, held in leases.items()}
        return LaneFacts(lasts, self.head.snapshots, dict(self.ended), owners)

    def take_over(
        self, head: RunHead, shared: Sequence[tuple[Segment, MemoryRun]], lasts: Mapping[str, tuple[int, int]]
    ) -> None:
        """Get a head, and what the run has shared with others: the oldest first, with the last events of lanes."""
        entries: list[tuple[Cursor, bytes]] = []
        peaks, keys, seqs = [0], dict[str, Cursor](), dict(lasts.values())
        base = head.before_first.offset
        for segment, run in shared:
            end = segment.upto(run.head.last.offset)
            seqs |= {offset: seq for offset, seq in run.seqs.items() if offset <= end}
            keys |= {key: at for key, at in run.keys.items() if at.offset <= end}
            begin, stop = max(0, max(base, segment.after) - run.before), max(0, end - run.before)
            entries += run.entries[begin:stop]
            peaks += [max(peaks[-1], peak) for peak in run.peaks[begin + 1 : stop + 1]]
        self.peaks = [*peaks, *(max(peaks[-1], peak) for peak in self.peaks[1:])]
        self.entries = [*entries, *self.entries]
        self.lanes = {lane_id: offset for lane_id, (offset, _) in lasts.items()} | self.lanes
        self.keys, self.seqs, self.head = keys | self.keys, seqs | self.seqs, head

    def erase(self, run_id: str, plan: ErasePlan) -> None:
        """Erase as planned."""
        for first, last in plan.spans:
            for offset in range(first, last + 1):
                self.seqs[offset] = self.seq_at(run_id, offset)
                index = offset - self.before - 1
                self.entries[index] = self.entries[index][0], ERASED
        lasts = {lane_id: self.seq_at(run_id, offset) for lane_id, offset in self.lanes.items()}
        if plan.base is not None and plan.moves(self.head):
            count = plan.base - self.before
            base = self.entries[count - 1][0] if count else self.head.start
            del self.entries[:count], self.peaks[:count]
            self.head = replace(self.head, base=base)
            self.seqs |= {offset: lasts[lane_id] for lane_id, offset in self.lanes.items() if offset <= plan.base}
        tokens = {lane_id: saved.token for lane_id, saved in self.head.snapshots.items()}
        dropped = [lane_id for lane_id, token in tokens.items() if token in plan.dropped]
        for lane_id in dropped:
            del self.states[lane_id]
        self.ended = {lane_id: plan.end_after(end, tokens.get(lane_id, "")) for lane_id, end in self.ended.items()}
        kept = {lane_id: saved for lane_id, saved in self.head.snapshots.items() if lane_id not in dropped}
        self.head = replace(self.head, snapshots=kept)


class Memory:
    """What stores in memory keep: the runs, and the last lease of each lane and each run. A fork has a copy."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.runs: dict[str, MemoryRun] = {}
        self.leases = GivenLeases()
        self._held = HeldLock(self.changed)
        held_over_fork(self._held)

    def carry_out(self, order: EraseOrder, now: float) -> tuple[ErasureNote, ErasePlan]:
        """Plan an erasure, make it and note it; ``now`` is Unix time in seconds."""
        with self.changed:
            return self._carry_out(order, now)

    def erasure_notes(self, run_id: str) -> list[ErasureNote]:
        """The erasures that are noted of a run."""
        with self.changed:
            run = self.runs.get(run_id)
            return [] if run is None else list(run.erasures)

    def _carry_out(self, order: EraseOrder, now: float) -> tuple[ErasureNote, ErasePlan]:
        run, leases = self.runs.get(order.run_id), self.leases.in_force(now, order.run_id)
        head = None if run is None else run.head
        if order.before is None:
            family = Family(snapshots=list(self._snapshots_sharing(order)))
            plan = plan_erase(order, head, () if head is None else head.snapshots.values(), leases, family)
        else:
            facts = LaneFacts() if run is None else run.lane_facts(order.run_id, leases)
            plan = plan_truncate(order, head, facts, leases, Family(self._forks_of(order.run_id)))
        note = order.note(now)
        if run is not None and not plan.is_empty(run.head):
            run.erase(order.run_id, plan)
            note = noted(run.erasures, note)
            for run_id in self._sharing(order):
                shared = self.runs[run_id]
                heads = shared.head.snapshots.values()
                dropped = frozenset(saved.token for saved in heads if not plan.keeps(saved))
                shared.erase(run_id, ErasePlan(plan.start, dropped=dropped))
        return note, plan

    def _forks_of(self, run_id: str) -> list[Fork]:
        heads = {each: run.head for each, run in self.runs.items()}
        return forks_among(run_id, heads[run_id].creation, heads.items()) if run_id in heads else []

    def _sharing(self, order: EraseOrder) -> list[str]:
        return sharing(order.run_id, order.spans[0][0], self._forks_of) if order.spans else []

    def _snapshots_sharing(self, order: EraseOrder) -> Iterator[tuple[str, SnapshotHead]]:
        for run_id in self._sharing(order):
            yield from ((run_id, saved) for saved in self.runs[run_id].head.snapshots.values())


MEMORIES: dict[str, Memory] = {}
"""Those that have a name."""
