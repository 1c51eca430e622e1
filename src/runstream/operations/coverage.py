"""Coverage: how far one store object knows each run without a gap, and so what a snapshot that it saves covers.

A snapshot covers the history that its writer recovered and appended itself, never what somebody else appended in
between. To cover too little is safe: a recovery then gives events that the state already has. To cover too much
would lose them. So what is not known for sure is not covered.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from runstream.model.run_head import RunStart
from runstream.operations.forks import starts_anew, was_held

__all__ = ["Coverage", "CoverageBook", "Covered"]

_MAX_AHEAD = 1024  # spans that wait for a hole to be closed
_MAX_COVERAGES = 4096  # of runs and lanes


class Covered(NamedTuple):
    """What a snapshot covers.

    Attributes:
        offset: The history up to this offset; 0: nothing.
        history: What names this creation of the run; None: none is known.
    """

    offset: int = 0
    history: int | None = None


@dataclass(slots=True)
class Coverage:
    """How far a writer knows a run, or one lane of it.

    Threads of one store object may append at once, so replies can arrive out of order: a span that is ahead of
    what is covered waits until the hole before it is closed.

    Attributes:
        history: What names this creation of the run.
        covered: The writer knows the history up to this offset.
        ahead: The spans that wait: the last offset of each, by the offset before its first.
    """

    history: int
    covered: int = 0
    ahead: dict[int, int] = field(default_factory=dict)

    def appended(self, before: int, last: int) -> None:
        """Add the writer's own events.

        Args:
            before: The offset of the run's, or the lane's, event before the first of them.
            last: The offset of the last of them.
        """
        if before > self.covered:
            if len(self.ahead) < _MAX_AHEAD:
                self.ahead[before] = last
            return
        self.known_to(last)

    def known_to(self, offset: int) -> None:
        """The writer knows the history up to an offset, and the spans that wait for that."""
        self.covered = max(self.covered, offset)
        while self.ahead and self.covered in self.ahead:
            self.covered = self.ahead.pop(self.covered)


@dataclass(slots=True)
class _Pending:
    """The writer's own events of one lane, one right after the other, that no coverage has yet."""

    run_id: str
    lane_id: str
    start: RunStart
    before: int
    last: int


class CoverageBook:
    """The coverage of every run and lane that a store object writes.

    Safe between threads, and bounded: the runs and lanes that were not written to for longest are covered no more.
    """

    def __init__(self) -> None:
        self._begin_empty()
        starts_anew(self)

    def _begin_empty(self) -> None:
        self._lock = threading.Lock()
        self._coverages: OrderedDict[tuple[str, str | None], Coverage] = OrderedDict()
        self._pending: _Pending | None = None

    def _start_anew(self) -> None:
        """Go on with what the parent covered, or with nothing if a thread of it was changing that."""
        if was_held(self._lock):
            self._begin_empty()

    def covered(self, run_id: str, lane_id: str | None) -> Covered:
        """What a snapshot saved now would cover.

        Args:
            run_id: The run.
            lane_id: The lane whose snapshot it is; None: the run's own.
        """
        with self._lock:
            self._flush()
            coverage = self._coverages.get((run_id, lane_id))
            return Covered() if coverage is None else Covered(coverage.covered, coverage.history)

    def appended_one(self, run_id: str, lane_id: str, start: RunStart, before: int, lane_before: int) -> None:
        """Add an append of one event.

        Consecutive appends are coalesced, and flushed when the sequence breaks or is read.

        Args:
            run_id: The run.
            lane_id: The event's lane.
            start: Where the run begins.
            before: The offset of the run's event before it.
            lane_before: The offset of the lane's event before it.
        """
        with self._lock:
            pending = self._pending
            if (
                pending is not None
                and pending.last == before == lane_before
                and pending.lane_id == lane_id
                and pending.run_id == run_id
                and pending.start == start
            ):
                pending.last = before + 1
                return
            self._flush()
            self._add(run_id, start, before, before + 1, {lane_id: (lane_before, before + 1)})
            self._pending = _Pending(run_id, lane_id, start, before + 1, before + 1)

    def _flush(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            run_id, before, last = pending.run_id, pending.before, pending.last
            self._add(run_id, pending.start, before, last, {pending.lane_id: (before, last)})

    def appended(
        self, run_id: str, start: RunStart, before: int, last: int, lanes: Mapping[str, tuple[int, int]]
    ) -> None:
        """Add an append of any number of events.

        Args:
            run_id: The run.
            start: Where the run begins.
            before: The offset of the run's event before the first of them.
            last: The offset of the last of them.
            lanes: For each of their lanes, the offset of the lane's event before the first, and of the last.
        """
        with self._lock:
            self._flush()
            self._add(run_id, start, before, last, lanes)

    def _add(
        self, run_id: str, start: RunStart, before: int, last: int, lanes: Mapping[str, tuple[int, int]]
    ) -> None:
        self._coverage(run_id, None, start).appended(before, last)
        for lane_id, (lane_before, lane_last) in lanes.items():
            self._coverage(run_id, lane_id, start).appended(lane_before, lane_last)

    def recovered(self, run_id: str, lane_id: str | None, start: RunStart, offset: int) -> None:
        """Add what was recovered: the history that was read in order to go on from there.

        Args:
            run_id: The run.
            lane_id: The lane that was recovered; None: the whole run.
            start: Where the run begins.
            offset: The last offset that was read.
        """
        with self._lock:
            self._flush()
            self._coverage(run_id, lane_id, start).known_to(offset)

    def loaded(self, run_id: str, lane_id: str | None, start: RunStart, offset: int) -> None:
        """Add what a loaded snapshot covers, unless the writer is at work there already.

        Args:
            run_id: The run.
            lane_id: The lane whose snapshot it is; None: the run's own.
            start: Where the run begins.
            offset: The snapshot covers the history up to this offset.
        """
        with self._lock:
            self._flush()
            known = self._coverages.get((run_id, lane_id))
            if known is None or known.history != start.creation:
                self._coverage(run_id, lane_id, start).covered = offset

    def forget(self, run_id: str) -> None:
        """Forget a run's coverage."""
        with self._lock:
            self._flush()
            for key in [key for key in self._coverages if key[0] == run_id]:
                del self._coverages[key]

    def _coverage(self, run_id: str, lane_id: str | None, start: RunStart) -> Coverage:
        coverage = self._coverages.get((run_id, lane_id))
        if coverage is None or coverage.history != start.creation:  # new here, or deleted and created anew
            coverage = self._coverages[run_id, lane_id] = Coverage(start.creation, start.offset)
            if len(self._coverages) > _MAX_COVERAGES:
                self._coverages.popitem(last=False)
        self._coverages.move_to_end((run_id, lane_id))
        return coverage
