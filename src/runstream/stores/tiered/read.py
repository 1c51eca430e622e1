"""Read and follow a run in Redis and the archive, while the boundary between them moves.

Dense offsets show every gap: a reader that comes to the boundary and finds that it has moved goes back to the
archive for what has left Redis meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic

from runstream.model.errors import AcknowledgedWritesLost, EventsArchived
from runstream.model.identifiers import check_run_id
from runstream.model.results import Cursor, E, Recorded, S
from runstream.model.run_head import RunHead
from runstream.model.state import ENDED_STATUSES
from runstream.operations.arguments import FollowQuery, ReadQuery, parse_position
from runstream.operations.filters import EventFilter
from runstream.operations.idle_timeout import IdleTimeout
from runstream.operations.interface import RunElsewhere
from runstream.operations.lineage import read_segments
from runstream.operations.messages import lost
from runstream.operations.operation import Operation, Stream, collect, pass_on
from runstream.stores.tiered.boundary import Boundary, HotAndArchive
from runstream.stores.tiered.forks import shared_segments

__all__ = ["follow", "read", "read_own"]

_NOWHERE = 2**53  # no run ends there


def read(tiers: HotAndArchive[E, S], run_id: str, query: ReadQuery) -> Stream:
    """The events between two offsets, as they are at the first step; what a fork shares among them."""
    check_run_id(run_id)
    query.check()
    low, _ = parse_position(query.after)
    asks_for_any = query.limit != 0 and (query.before is None or low < query.before - 1)
    archived = yield from tiers.archived(run_id)
    if asks_for_any and (archived is None or low >= archived.offset):
        try:
            yield from _Reader(tiers, run_id, query).beyond(archived)
        except RunElsewhere:
            pass
        else:
            return
    boundary = yield from tiers.locate_after(run_id, archived)
    segments = yield from shared_segments(tiers, run_id, boundary, query.after)
    if not segments:
        yield from _read_own(tiers, run_id, query, boundary)
        return
    before = boundary.last + 1
    bounded = query._replace(before=before if query.before is None else min(query.before, before))
    yield from read_segments(run_id, segments, bounded, partial(read_own, tiers))


def read_own(tiers: HotAndArchive[E, S], run_id: str, query: ReadQuery) -> Stream:
    """The events of a query, of a run itself, and not of what it shares."""
    boundary = yield from tiers.locate(run_id)
    yield from _read_own(tiers, run_id, query, boundary)


def _read_own(tiers: HotAndArchive[E, S], run_id: str, query: ReadQuery, boundary: Boundary) -> Stream:
    low, _ = parse_position(query.after)
    high = boundary.last if query.before is None else min(query.before - 1, boundary.last)
    is_read = query.limit != 0 and low < high
    yield from tiers.check_cursor(run_id, query.after, boundary, is_read=is_read)
    reader = _Reader(tiers, run_id, query)
    yield from reader.backward(boundary, high) if query.reverse else reader.forward(boundary, high)


def follow(tiers: HotAndArchive[E, S], run_id: str, query: FollowQuery) -> Stream:
    """History, then live, until the run has ended and all was given."""
    check_run_id(run_id)
    low, cursor = parse_position(query.after)
    idle, wanted, after = IdleTimeout(run_id, query.idle_timeout), EventFilter(query), query.after
    boundary = yield from tiers.locate(run_id)
    segments = yield from shared_segments(tiers, run_id, boundary, after)
    if segments:
        shared = read_segments(run_id, segments[:-1], ReadQuery(after), partial(read_own, tiers))
        yield from pass_on(shared, lambda items: [item for item in items if wanted(item.event)], idle.restart)
        after = str(segments[-2].end)
    else:
        yield from tiers.check_cursor(run_id, after, boundary)
        if cursor is None and 0 < low <= boundary.last:
            # go on from the cursor there, where there is one: it proves that what follows is the same history
            found = yield from collect(read(tiers, run_id, ReadQuery(low - 1, low + 1, on_corrupt="raw")))
            after = found[0].cursor if found else after
    reader = _Reader(tiers, run_id, ReadQuery(after), wanted, idle)
    while True:
        # existing events are read first: a follower that waits does not notice that a run has left Redis
        yield from reader.forward(boundary, boundary.last)
        if not boundary.is_hot and boundary.archived is not None:
            info = yield from tiers.archive.run_info(run_id)
            if info is not None and info.status in ENDED_STATUSES:
                return
            raise lost(run_id, boundary.last, 0)
        live = query._replace(after=reader.position, idle_timeout=idle.remaining)
        try:
            yield from reader.hand_on(tiers.hot.follow(run_id, live))
        except (EventsArchived, AcknowledgedWritesLost) as error:
            boundary = yield from _locate_moved(tiers, run_id, reader.low, error)
        except TimeoutError:
            idle.check()
        else:
            return


def _locate_moved(
    tiers: HotAndArchive[E, S], run_id: str, low: int, error: EventsArchived | AcknowledgedWritesLost
) -> Operation[Boundary]:
    """The boundary of a run that has moved past ``low``, where a follower reads; otherwise raise the error."""
    if isinstance(error, AcknowledgedWritesLost):
        boundary = yield from tiers.moved_to_archive(run_id)
        if boundary is None:
            raise error
        return boundary
    if error.first_hot <= low + 1:
        raise error
    return (yield from tiers.locate(run_id))


class _Reader(Generic[E, S]):
    """Reads one run, page by page, and keeps how far it has come.

    Args:
        tiers: Where to read.
        run_id: The run.
        query: Where to begin, how many events to give, and what to do about records that do not read.
        wanted: Which events to give; None: all.
        idle: How long a follower waits; it is restarted when the reader comes back for more.
    """

    def __init__(
        self,
        tiers: HotAndArchive[E, S],
        run_id: str,
        query: ReadQuery,
        wanted: Callable[[E], bool] | None = None,
        idle: IdleTimeout | None = None,
    ) -> None:
        self.low, _ = parse_position(query.after)
        """The offset up to which all was read, forwards."""
        self.position = query.after
        """The cursor of that offset, or the offset alone where the cursor is not known."""
        self._tiers = tiers
        self._hot_read: Callable[[str, ReadQuery], Stream] = tiers.hot.read
        self._run_id = run_id
        self._query = query
        self._remaining = query.limit
        self._wanted = wanted
        self._came_back = None if idle is None else idle.restart
        self._is_hot, self._first_hot, self._archived_to = True, 0, 0
        self._high = 0

    def forward(self, boundary: Boundary, high: int) -> Stream:
        """The events from the lowest on, up to ``high``."""
        self._begin(boundary, high)
        while self._remaining != 0 and self.low < self._high:
            if self.low + 1 < self._first_hot:
                yield from self._from_archive()
                continue
            try:
                yield from self._read(self._hot_read, self.position)
            except EventsArchived as moved:
                if moved.first_hot <= self.low + 1:
                    raise
                self._first_hot = moved.first_hot
            except AcknowledgedWritesLost:
                if not (yield from self._moved_to_archive()):
                    raise
            else:
                if not (yield from self._ended_early(self.low)):
                    self._complete(self._high)

    def backward(self, boundary: Boundary, high: int) -> Stream:
        """The events from ``high`` down to the lowest."""
        self._begin(boundary, high)
        if self._is_hot and self.low + 1 < self._first_hot:
            yield from self._check_archived(self._first_hot - 1)
        while self._is_hot and self._remaining != 0 and self.low < self._high and self._first_hot <= self._high:
            lowest = max(self.low, self._first_hot - 1)
            after = max(self.position, lowest, key=_offset_of)
            try:
                yield from self._read(self._hot_read, after)
            except EventsArchived as moved:
                if moved.first_hot <= self._first_hot:
                    raise
                self._first_hot = moved.first_hot
            except AcknowledgedWritesLost:
                if not (yield from self._moved_to_archive()):
                    raise
            else:
                if not (yield from self._ended_early(lowest)):
                    self._high = lowest
        if self._remaining != 0 and self.low < self._high:
            yield from self._check_archived(self._high)
            yield from self._read(self._tiers.archive.read, self.position)

    def beyond(self, archived: Cursor | None) -> Stream:
        """The events after where the archive ends: Redis has them, unless they move meanwhile.

        Raises:
            RunElsewhere: The run does not go on there in Redis; nothing was given.
        """
        self._hot_read = partial(self._read_beyond, archived)
        presumed = Boundary(True, 0, self.low + 1, _NOWHERE, None)
        high = _NOWHERE if self._query.before is None else self._query.before - 1
        return self.backward(presumed, high) if self._query.reverse else self.forward(presumed, high)

    def _read_beyond(self, archived: Cursor | None, run_id: str, query: ReadQuery) -> Stream:
        is_found = False

        def learn(head: RunHead) -> None:
            nonlocal is_found
            is_found = True
            self._high = min(self._high, head.last.offset)  # as it is at the first step

        self._hot_read = self._tiers.hot.read  # from then on
        try:
            yield from self._tiers.continuing(archived).read(run_id, query, learn)
        except (EventsArchived, AcknowledgedWritesLost) as error:
            if is_found:
                raise
            raise RunElsewhere from error

    def hand_on(self, stream: Stream) -> Stream:
        """The wanted items of a stream that goes on from here; how far it comes is kept."""
        return pass_on(stream, self._choose, self._came_back)

    def _begin(self, boundary: Boundary, high: int) -> None:
        self._is_hot, self._first_hot = boundary.is_hot, boundary.first_hot
        self._archived_to = boundary.archived_to
        if self.low < boundary.base:
            self.low = self.position = boundary.base
        self._high = high

    def _from_archive(self) -> Stream:
        """The events up to where Redis begins."""
        end = min(self._first_hot - 1, self._high)
        yield from self._check_archived(end)
        yield from self._read(self._tiers.archive.read, self.position, before=end + 1)
        if self._remaining != 0 and self.low < end:  # the last of it was erased; or the archive was cut back since
            yield from self._tiers.check_archived(self._run_id, end, self._first_hot, is_hot=self._is_hot)
            self._complete(end)

    def _complete(self, end: int) -> None:
        """Note that all up to ``end`` was read; the last of it may have been erased, or skipped."""
        if self.low < end:
            self.low = self.position = end

    def _ended_early(self, low: int) -> Operation[bool]:
        """Whether Redis gave less after ``low`` because the run has left it; then the archive has the rest.

        Raises AcknowledgedWritesLost if the rest is in neither.
        """
        if self._remaining == 0 or self._high <= low:
            return False
        info = yield from self._tiers.hot.run_info(self._run_id)
        last = 0 if info is None else info.last_offset
        if last >= self._high:
            return False
        if not (yield from self._moved_to_archive()):
            raise lost(self._run_id, self._high, last)
        return True

    def _moved_to_archive(self) -> Operation[bool]:
        """Whether the archive has all that is left to read of a run which Redis does not have any more."""
        boundary = yield from self._tiers.moved_to_archive(self._run_id)
        if boundary is None or boundary.last < self._high:
            return False
        self._is_hot, self._first_hot = False, boundary.first_hot
        return True

    def _check_archived(self, end: int) -> Operation[None]:
        if end > self._archived_to:  # it has what it had as the run was located
            yield from self._tiers.check_archived(self._run_id, end, self._first_hot, is_hot=self._is_hot)

    def _read(
        self, read: Callable[[str, ReadQuery], Stream], after: int | str, *, before: int | None = None
    ) -> Stream:
        query = self._query._replace(after=after, before=before or self._high + 1, limit=self._remaining)
        return self.hand_on(read(self._run_id, query))

    def _choose(self, items: Sequence[Recorded[E]]) -> Sequence[Recorded[E]]:
        """Note a page that was read, and give the items of it that are wanted."""
        if not items:  # all of it was erased, or skipped
            return items
        if self._query.reverse:
            self._high = items[-1].offset - 1
        else:
            self.low, self.position = items[-1].offset, items[-1].cursor
        wanted = self._wanted
        chosen = items if wanted is None else [item for item in items if wanted(item.event)]
        if self._remaining is not None:
            self._remaining -= len(chosen)
        return chosen


def _offset_of(position: int | str) -> int:
    return parse_position(position)[0]
