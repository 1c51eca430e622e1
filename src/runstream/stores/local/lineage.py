"""The history of a run in a store of one machine, which for a fork lies in several runs; as blocking calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Generic

from runstream.model.identifiers import check_name, check_run_id
from runstream.model.results import Cursor, E, Recorded, S
from runstream.model.run_head import RunHead
from runstream.operations.arguments import ReadQuery
from runstream.operations.filters import lane_of, seq_of
from runstream.operations.lane_facts import LaneFacts
from runstream.operations.lineage import (
    Segment,
    SegmentReader,
    ancestry_of,
    asks_for_shared,
    find_in_segments,
    segments_of,
)
from runstream.operations.operation import Operation, blocking, in_one_call
from runstream.operations.run_forks import not_there
from runstream.operations.runners import SyncRunner

__all__ = ["Lineage"]

_RUN = SyncRunner().run


class Lineage(ABC, Generic[E, S]):
    """The part of a local store's operations that finds what a run has, itself or from those it was forked from.

    A medium gives what each run has itself; a run that is no fork has nothing else.
    """

    # -- what a medium gives of a run's own ----------------------------------------------------------------

    @abstractmethod
    def _load_head(self, run_id: str) -> RunHead | None:
        """The run's head, without its snapshots if so asked; None for a run that is not there."""

    @abstractmethod
    def _read_own(self, run_id: str, query: ReadQuery) -> Iterator[Recorded[E]]:
        """Read the own events of a query, which was checked. Nothing is read before the first of them is taken."""

    @abstractmethod
    def _own_cursor(self, run_id: str, offset: int) -> Cursor:
        """The cursor of the run's own entry at an offset that it has."""

    @abstractmethod
    def _own_keys(self, run_id: str, keys: Sequence[str]) -> Mapping[str, Cursor]:
        """The cursors of the run's own events that have these keys, by key."""

    @abstractmethod
    def _own_lane_facts(self, run_id: str) -> LaneFacts:
        """What is noted of the lanes of the run's own events."""

    @abstractmethod
    def _own_seq(self, run_id: str, lane_id: str) -> int | None:
        """The ``seq`` of a lane's last own event; None for a lane without one."""

    @abstractmethod
    def _own_offset_before(self, run_id: str, since_seq: int) -> int:
        """An offset up to which no own event's ``seq`` is over ``since_seq``, which is over 0.

        A record that does not read may be of any ``seq``. The further on, the less is read. The run's head was
        loaded just before.
        """

    # -- the whole -----------------------------------------------------------------------------------------

    def _segments(self, run_id: str, head: RunHead) -> list[Segment]:
        """The segments of a run's history, the oldest first; of a run that is no fork, itself."""
        return _RUN(segments_of(run_id, head, self._head_of))

    def _head_of(self, run_id: str) -> Operation[RunHead | None]:
        return blocking(self._load_head, run_id)

    def _segment_reader(self, run_id: str, head: RunHead, query: ReadQuery) -> SegmentReader:
        """Takes a query apart for a fork, as it is now."""
        end = head.last.offset + 1
        before = end if query.before is None else min(query.before, end)
        return SegmentReader(run_id, self._segments(run_id, head), query._replace(before=before))

    def _read(self, run_id: str, query: ReadQuery, head: RunHead | None = None) -> Iterator[Recorded[E]]:
        """Read the events of a query, which was checked. Nothing is read before the first of them is taken.

        Args:
            run_id: The run.
            query: What is asked for.
            head: The run's head, where it was loaded just now: up to its end is read.
        """
        head = head or self._load_head(run_id)
        if head is None or not asks_for_shared(head, query.after):
            yield from self._read_own(run_id, query)
            return
        reader = self._segment_reader(run_id, head, query)
        for each, part in reader:
            for item in self._read_own(each, part):
                reader.note((item,))
                yield item

    def _cursor_of(self, run_id: str, head: RunHead, offset: int) -> Cursor:
        """The cursor at an offset that the history of a run has, or begins with."""
        if offset == head.last.offset:
            return head.last
        segments = self._segments(run_id, head)
        for segment in segments:
            if segment.end is not None and segment.end.offset == offset:
                return segment.end
            if segment.has(offset):
                return self._own_cursor(segment.run_id, offset)
        first = (self._load_head(segments[0].run_id) or head).before_first
        if offset < first.offset:
            raise not_there(run_id, head, offset, first.offset)
        return first

    def _inherited_keys(self, run_id: str, head: RunHead | None, keys: Sequence[str]) -> Mapping[str, Cursor]:
        """The cursors of the events with these keys that a run has from those that it was forked from, by key."""
        if head is None or head.fork_of is None or not keys:
            return {}
        return _RUN(find_in_segments(self._ancestry(run_id, head), keys, self.find_own))

    def _ancestry(self, run_id: str, head: RunHead) -> list[Segment]:
        """The segments that a fork has from others, also where its history begins later by now."""
        return _RUN(ancestry_of(run_id, head, self._head_of))

    def find_own(self, run_id: str, keys: Sequence[str]) -> Operation[list[Cursor | None]]:
        """The cursors of the run's own events that have these keys; None for a key that none of them has."""
        found = yield from blocking(self._own_keys, run_id, keys)
        return [found.get(key) for key in keys]

    def lane_facts(self, run_id: str) -> LaneFacts:
        """What is noted of the lanes of a run."""
        facts, head = self._own_lane_facts(run_id), self._load_head(run_id)
        if head is None or head.fork_of is None:
            return facts
        # the ends of lanes that it shares were noted of it as it was made: what came to these since is not of it
        return facts._replace(lasts={**self._inherited_lasts(run_id, head), **facts.lasts})

    @in_one_call
    def own_lane_facts(self, run_id: str) -> LaneFacts:
        """What is noted of the lanes of the run's own events and snapshots."""
        return self._own_lane_facts(run_id)

    @in_one_call
    def last_seq(self, run_id: str, lane_id: str) -> int:
        """The ``seq`` of a lane's last event; 0 for a lane without one."""
        check_run_id(run_id)
        check_name("lane_id", lane_id)
        seq = self._own_seq(run_id, lane_id)
        if seq is not None:
            return seq
        head = self._load_head(run_id)
        if head is None or head.fork_of is None:
            return 0
        return self._inherited_lasts(run_id, head, lane_id).get(lane_id, (0, 0))[1]

    def _inherited_lasts(self, run_id: str, head: RunHead, only: str | None = None) -> dict[str, tuple[int, int]]:
        """Offset and ``seq`` of the last event of each lane (or of one) in the shared part of a fork's history."""
        found: dict[str, tuple[int, int]] = {}
        for segment in reversed(self._ancestry(run_id, head)):
            lasts = self._own_lane_facts(segment.run_id).lasts
            wanted = (lasts.keys() if only is None else {only} & lasts.keys()) - found.keys()
            # also an event that was truncated: a number that was used is not given again
            found |= {lane: lasts[lane] for lane in wanted if segment.upto(lasts[lane][0]) == lasts[lane][0]}
            if not (wanted := wanted - found.keys()) or segment.end is None:
                continue
            # the parent has more of these: their last event before the fork is further back
            part = ReadQuery(segment.after, before=segment.end.offset + 1, reverse=True, on_corrupt="skip")
            for item in self._read_own(segment.run_id, part):
                lane = lane_of(item.event)
                if lane in wanted:
                    found[lane] = item.offset, seq_of(item.event)
                    wanted -= {lane}
                    if not wanted:
                        break
        return found

    def offset_before(self, run_id: str, since_seq: int) -> int:
        """An offset up to which no event's ``seq`` is over ``since_seq``, which is over 0."""
        return self._offset_before(run_id, self._load_head(run_id) or RunHead(), since_seq)

    def _offset_before(self, run_id: str, head: RunHead, since_seq: int) -> int:
        for segment in () if head.fork_of is None else self._segments(run_id, head)[:-1]:
            offset = self._own_offset_before(segment.run_id, since_seq)
            if segment.end is not None and offset < segment.end.offset:
                return max(offset, segment.after)
        return self._own_offset_before(run_id, since_seq)
