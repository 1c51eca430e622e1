"""Read and follow runs."""

from __future__ import annotations

from runstream.model.errors import StoreUnavailable
from runstream.model.identifiers import check_run_id
from runstream.model.results import E, S
from runstream.model.state import ENDED_STATUSES
from runstream.operations.arguments import FollowQuery, ReadQuery, parse_position
from runstream.operations.filters import EventFilter
from runstream.operations.idle_timeout import IdleTimeout
from runstream.operations.operation import Exchange, Items, Pause, Stream
from runstream.stores.redis.operations.client.reader import RunReader
from runstream.stores.redis.session.session import Session

__all__ = ["follow", "read"]

_MAX_SEQUENCE = 2**64 - 1
_AFTER_A_CUT_SECONDS = 0.02
_UNFINISHED_SECONDS = 0.05


def read(
    session: Session[E, S],
    run_id: str,
    query: ReadQuery,
) -> Stream:
    """The events between two offsets, as they are at the first exchange, in pages."""
    check_run_id(run_id)
    query.check()
    low, cursor = parse_position(query.after)
    reader = RunReader(session, run_id, query.on_corrupt, query.limit)
    head = yield from reader.open(cursor)
    high = head.last.offset if query.before is None else min(query.before - 1, head.last.offset)
    low = max(low, head.start.offset)
    if query.reverse:
        yield from reader.backward(low, high)
    else:
        yield from reader.forward(low, high)


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
    yield from reader.open(cursor)
    idle = IdleTimeout(run_id, query.idle_timeout, session.clock)
    is_woken = False
    while True:
        head, found = yield from reader.page(position, None)
        if found:
            is_woken = False
            reader.note(head, found[-1][0])
            position = found[-1][0].offset
            for part in reader.parts(found):
                matching = [item for item in (yield from reader.decode(part)) if wanted(item.event)]
                if matching:
                    yield Items(matching)
                    idle.restart()
            continue
        if head.status in ENDED_STATUSES and head.last.offset <= position:
            return
        idle.check()
        if is_woken:  # by an entry that no append has come to its end with: it wakes at once, again and again
            yield Pause(idle.limit(_UNFINISHED_SECONDS))
        wait = idle.limit(session.max_block_seconds)
        # XREAD only wakes the follower: page() fetches what came, with all its checks
        wake = (b"XREAD", b"COUNT", 1, b"BLOCK", max(1, int(wait * 1000)), b"STREAMS", keys.events)
        try:
            (came,) = yield Exchange([(*wake, f"{position}-{_MAX_SEQUENCE}")], waits=True)
            is_woken = bool(came)
        except StoreUnavailable:
            # proxies cut a connection on which nothing comes: page() learns whether the server is there
            yield Pause(_AFTER_A_CUT_SECONDS)
