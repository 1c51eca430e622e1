"""Read and follow runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from runstream.model.errors import CorruptRecordError, EventsArchived
from runstream.model.identifiers import check_run_id
from runstream.model.results import E, S
from runstream.model.run_head import RunHead
from runstream.model.state import ENDED_STATUSES
from runstream.operations.arguments import FollowQuery, ReadQuery, parse_position
from runstream.operations.filters import EventFilter
from runstream.operations.idle_timeout import IdleTimeout
from runstream.operations.interface import RunElsewhere
from runstream.operations.lineage import asks_for_shared, read_segments
from runstream.operations.operation import Items, Stream, Wait, pass_on
from runstream.stores.redis.keys import RunKeys
from runstream.stores.redis.operations.client.border import Border
from runstream.stores.redis.operations.client.brought import entries_at_once, next_in
from runstream.stores.redis.operations.client.lineage import segments_here, shared_archived
from runstream.stores.redis.operations.client.log_reader import LogReader
from runstream.stores.redis.operations.client.reader import Page, RunReader
from runstream.stores.redis.operations.client.run_head import head_query, parse_head
from runstream.stores.redis.session.session import Session

__all__ = ["follow", "read", "read_own", "read_shared"]


def _unused(_head: RunHead) -> None:
    """For who does not ask where the run stands."""


def read(
    session: Session[E, S],
    run_id: str,
    query: ReadQuery,
    lane_id: str | None = None,
    border: Border | None = None,
    head_of: Callable[[RunHead], object] = _unused,
) -> Stream:
    """The events between two offsets, as they are at the first exchange, in pages; what a fork shares among them.

    Args:
        session: The store's.
        run_id: The run.
        query: What is asked for.
        lane_id: Only those of this lane.
        border: Where an archive ends that has what came before. What a fork shares is not read then.
        head_of: Gets where the run stands, before the first of them.

    Raises:
        RunElsewhere: The run does not pass that border, or shares what is asked for.
    """
    check_run_id(run_id)
    query.check()
    low, _ = parse_position(query.after)
    how = query.on_corrupt, query.limit
    reader = LogReader(session, run_id, *how, lane_id=lane_id, given_as=query.given_as, border=border)
    head = yield from reader.open_for(query)
    head_of(head)
    if border is not None and asks_for_shared(head, query.after):
        raise RunElsewhere
    if head.fork_of is not None and low < head.start.offset:
        segments = yield from segments_here(session, run_id, head)
        yield from read_segments(run_id, segments, query, partial(read_own, session, run_id, lane_id))
        return
    high = head.last.offset if query.before is None else min(query.before - 1, head.last.offset)
    low = max(low, head.before_first.offset)
    if query.reverse:
        yield from reader.backward(low, high)
    else:
        yield from reader.forward(low, high)


def read_shared(
    session: Session[E, S], run_id: str, head: RunHead, after: int | str = 0, lane_id: str | None = None
) -> Stream:
    """What a fork shares with those that it comes from, after an offset or cursor; nothing of any other run."""
    if head.fork_of is None or parse_position(after)[0] >= head.start.offset:
        return
    segments = (yield from segments_here(session, run_id, head))[:-1]
    yield from read_segments(run_id, segments, ReadQuery(after), partial(read_own, session, run_id, lane_id))


def read_own(session: Session[E, S], fork_id: str, lane_id: str | None, run_id: str, query: ReadQuery) -> Stream:
    """The own events of a run, as a part of a fork's history."""
    try:
        yield from read(session, run_id, query, lane_id)
    except EventsArchived as error:
        if run_id != fork_id:
            raise shared_archived(fork_id, error, query.before) from error
        raise


def follow(
    session: Session[E, S],
    run_id: str,
    query: FollowQuery,
) -> Stream:
    """History, then live events, until the run has ended and all was given."""
    check_run_id(run_id)
    wanted = EventFilter(query)
    keys = session.keys.run(run_id)
    position, cursor = parse_position(query.after)
    reader = RunReader(session, run_id, "raise", None)
    head = yield from reader.open(cursor)
    if position == head.last.offset > head.start.offset:  # it has been seen, though nothing is to be read
        reader.note(head, head.last)
    idle = IdleTimeout(run_id, query.idle_timeout, session.clock)
    if head.fork_of is not None and position < head.start.offset:

        def chosen(items: Sequence[Any]) -> Sequence[Any]:
            found = [item for item in items if wanted(item.event)]
            if found:
                idle.restart()
            return found

        yield from pass_on(read_shared(session, run_id, head, query.after), chosen)
        position = head.start.offset
    is_woken, brought = False, None
    while True:
        head, found = (yield from reader.page(position, None)) if brought is None else reader.take(*brought)
        if found:
            is_woken = False
            reader.note(head, found[-1][0])
            position = found[-1][0].offset
            yield from _give(reader, found, wanted, idle)
            found, brought = [], None  # one that waits holds no page
        if position < head.last.offset:
            continue
        if head.status in ENDED_STATUSES:
            return
        idle.check()
        if is_woken:  # by an entry that no append has come to its end with: it wakes at once, again and again
            yield idle.pause()
        # what it brings is proven, or it only wakes the follower: page() fetches what came, with all its checks
        look, differs = head_query(keys.meta), partial(_differs, keys, head)
        news = yield Wait(keys.events, position, look, differs, idle.remaining, entries_at_once(head))
        brought = next_in(keys, head, reader.seen, news)
        is_woken = True


def _give(reader: RunReader, found: Page, wanted: Callable[[Any], bool], idle: IdleTimeout) -> Stream:
    """The events of a page that a follower wants."""
    for part in reader.parts(found):
        matching = [item for item in (yield from reader.decode(part)) if wanted(item.event)]
        if matching:
            yield Items(matching)
            idle.restart()


def _differs(keys: RunKeys, known: RunHead, reply: Sequence[bytes | None]) -> bool:
    """Whether a run no longer stands where it was known to stand, whatever workers did to it."""
    try:
        head = parse_head(keys, reply)
    except CorruptRecordError:  # which the next page raises
        return True
    return (head.run_start, head.last, head.status) != (known.run_start, known.last, known.status)
