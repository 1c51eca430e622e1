"""The history of a fork: its own events, and before them those that it shares with the runs that it comes from.

A fork has its parent's events by pointer, up to the offset at which it was forked, and its own from there; its
parent may be a fork in turn, to any depth. So its history is a list of *segments*, each the own events of one run.
How the head of a run and its own events are got is each store's: what is here reads over the segments, looks up
keys in them, and checks at each border that the one run still goes on where the other ends. A run that is no fork
has no use for any of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias, TypeVar

from runstream.model.results import Cursor, Recorded
from runstream.model.run_head import Origin, Origins, RunHead
from runstream.operations.arguments import ReadQuery, parse_position
from runstream.operations.messages import diverged, lost, parent_lost
from runstream.operations.operation import Operation, Stream, collect, pass_on

__all__ = [
    "FindOwn",
    "LoadHead",
    "ReadOwn",
    "Segment",
    "SegmentReader",
    "ancestry_of",
    "asks_for_shared",
    "find_in_segments",
    "is_gone",
    "joined_origins",
    "read_at_in_segments",
    "read_segments",
    "segment_of",
    "segments_of",
]


_EVERYWHERE = 2**53


class Segment(NamedTuple):
    """A part of a history: the own events of one run after an offset, up to ``end``.

    Attributes:
        run_id: The run.
        after: The offset before its first event.
        end: The cursor of its last event, where the next segment begins; None for the last segment, which is open.
    """

    run_id: str
    after: int
    end: Cursor | None = None

    def has(self, offset: int) -> bool:
        """Whether an offset is one of its own."""
        return self.after < offset <= self.upto(offset)

    def knows(self, offset: int) -> bool:
        """Whether a key is known of it that its run has at that offset, also of an event that was truncated."""
        return offset <= self.upto(offset)

    def upto(self, offset: int = _EVERYWHERE) -> int:
        """The last offset of it that is no higher than this one; a lower one than its first if it has none."""
        return offset if self.end is None else min(offset, self.end.offset)


LoadHead: TypeAlias = Callable[[str], Operation[RunHead | None]]
"""Gives the head of a run; None for one that is not there."""

ReadOwn: TypeAlias = Callable[[str, ReadQuery], Stream]
"""Reads the own events of a run, and gives them as those of another one if the query says so."""

At = TypeVar("At", int, Cursor)

FindOwn: TypeAlias = Callable[[str, Sequence[str]], Operation[Sequence[At | None]]]
"""Gives the offsets, or the cursors, of a run's own events that have these keys."""


def segments_of(run_id: str, head: RunHead, load_head: LoadHead) -> Operation[list[Segment]]:
    """The segments of a run's history, the oldest first.

    Args:
        run_id: The run.
        head: Its head.
        load_head: Gives the heads of those that it comes from.

    Raises:
        HistoryDiverged: One of them is not there any more, or was made anew.
        AcknowledgedWritesLost: One of them ends before the offset at which the next was forked.
    """
    segments = [Segment(run_id, head.before_first.offset)]
    end: Cursor | None = None
    while (of := head.fork_of) is not None and head.base is None:
        child, creation = segments[0].run_id, head.parent_identity
        if end is None or head.start.offset < end.offset:
            end = head.start
        parent = yield from load_head(of[0])
        if parent is None or parent.creation != creation:
            raise parent_lost(child, of[0], is_there=parent is not None)
        if parent.last.offset < end.offset:
            raise lost(of[0], end.offset, parent.last.offset)
        head = parent
        segments.insert(0, Segment(of[0], head.before_first.offset, end))
    return segments


def asks_for_shared(head: RunHead, after: int | str) -> bool:
    """Whether a read after an offset or a cursor is of what a run with that head shares with its parent, too.

    A cursor at the offset at which it was forked is one of the parent's.
    """
    offset, cursor = parse_position(after)
    end = head.start.offset
    return head.fork_of is not None and (offset < end or (cursor is not None and offset == end))


def ancestry_of(run_id: str, head: RunHead, load_head: LoadHead) -> Operation[list[Segment]]:
    """The segments that a fork has from others, the oldest first: keys and lanes are known from there.

    That is so as well where its history begins with its own events by now.

    Args:
        run_id: As of ``segments_of``, as are the next two.
        head: See there.
        load_head: See there.
    """

    def load_whole(ancestor: str) -> Operation[RunHead | None]:
        found = yield from load_head(ancestor)
        return None if found is None else _whole(found)

    segments = yield from segments_of(run_id, _whole(head), load_whole)
    return segments[:-1]


def _whole(head: RunHead) -> RunHead:
    """The head, of a fork as if it had not been truncated."""
    return head if head.fork_of is None else replace(head, base=None)


def joined_origins(shared: Iterable[tuple[Segment, RunHead]]) -> Origins:
    """The origins of a copy of what some segments have, given the heads of their runs; the oldest first."""
    found: list[Origin] = []
    for segment, head in shared:
        reached = segment.after
        for origin in (*head.origins, Origin(_EVERYWHERE, segment.run_id)):
            upto = segment.upto(origin.upto)
            if upto > reached:
                found.append(Origin(upto, origin.run_id))
                reached = upto
    return tuple(found)


def segment_of(segments: Sequence[Segment], offset: int) -> Segment | None:
    """The segment that has an offset; None for one before them all."""
    return next((segment for segment in segments if segment.has(offset)), None)


def is_gone(segment: Segment, head: RunHead) -> bool:
    """Whether nothing is left of a segment, nor before it: its run, of that head, was truncated beyond its end.

    That is so of one where the next was forked at its beginning: it had nothing of it that could stand in the way.
    """
    return segment.end is not None and head.begin > segment.end.offset


class SegmentReader:
    """Takes a query over several segments apart: iterate over it for what to read of which run.

    What was read is passed to :meth:`note` before the next one is asked for.

    Args:
        run_id: The run that was asked for, whose events all of them are given as.
        segments: The segments of its history.
        query: What is asked for.
    """

    def __init__(self, run_id: str, segments: Sequence[Segment], query: ReadQuery) -> None:
        self._run_id, self._segments, self._query = run_id, segments, query
        self._left = query.limit
        self._end: Cursor | None = None

    def __iter__(self) -> Iterator[tuple[str, ReadQuery]]:
        query = self._query._replace(given_as=self._query.given_as or self._run_id)
        low, cursor = parse_position(query.after)
        there = None if cursor is None else segment_of(self._segments, low)
        if there is not None:  # checked at first, as in a run that is no fork
            yield there.run_id, ReadQuery(query.after, limit=0)
        for segment in reversed(self._segments) if query.reverse else self._segments:
            if self._left == 0:
                return
            before = query.before
            if segment.end is not None:
                before = segment.end.offset + 1 if before is None else min(before, segment.end.offset + 1)
            after = query.after if segment is there else max(low, segment.after)
            if before is not None and max(low, segment.after) >= before - 1:
                continue
            self._end = segment.end
            yield segment.run_id, query._replace(after=after, before=before, limit=self._left)

    def note(self, items: Sequence[Recorded[Any]]) -> Sequence[Recorded[Any]]:
        """Take note of a page that was read, and give it.

        Raises:
            HistoryDiverged: The run does not pass the cursor at which the next segment begins.
        """
        if self._left is not None:
            self._left -= len(items)
        end = self._end
        for item in (items[0], items[-1]) if items else ():
            if end is not None and item.offset == end.offset and item.cursor != str(end):
                raise diverged(self._run_id, end)
        return items


def read_segments(run_id: str, segments: Sequence[Segment], query: ReadQuery, read_own: ReadOwn) -> Stream:
    """The events of a query, over the segments of a run's history, as those of the run.

    Args:
        run_id: The run.
        segments: The segments of its history.
        query: What is asked for, which was checked.
        read_own: Reads the own events of a run.
    """
    reader = SegmentReader(run_id, segments, query)
    for each, part in reader:
        yield from pass_on(read_own(each, part), reader.note)


def find_in_segments(
    segments: Sequence[Segment], keys: Sequence[str], find_own: FindOwn[At]
) -> Operation[dict[str, At]]:
    """The offsets, or the cursors, of the events with these keys, by key, over the segments of a run's history.

    What a run has after the offset at which the next was forked is no part of that history; the keys of what was
    truncated of it are. The last segment is asked first, and the others only about keys that are not known yet.

    Args:
        segments: The segments: all of them, or those before the run's own.
        keys: The keys.
        find_own: Looks keys up in a run's own events.
    """
    found: dict[str, At] = {}
    for segment in reversed(segments):
        asked = [key for key in keys if key not in found]
        if not asked:
            break
        known = zip(asked, (yield from find_own(segment.run_id, asked)), strict=True)
        found |= {key: at for key, at in known if at is not None and segment.knows(_offset_of(at))}
    return found


def _offset_of(at: int | Cursor) -> int:
    return at.offset if isinstance(at, Cursor) else at


def read_at_in_segments(
    run_id: str, segments: Sequence[Segment], spans: Sequence[tuple[int, int]], read_own: ReadOwn
) -> Operation[Mapping[int, Recorded[Any]]]:
    """The events in these spans of offsets, by offset: after the first number of each, up to its second."""
    found: dict[int, Recorded[Any]] = {}
    for low, high in spans:
        items = yield from collect(read_segments(run_id, segments, ReadQuery(low, before=high + 1), read_own))
        found.update((item.offset, item) for item in items)
    return found
