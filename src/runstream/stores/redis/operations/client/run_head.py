"""Read where a run stands in Redis from its meta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runstream.model.results import Cursor
from runstream.model.run_head import RunHead
from runstream.operations.operation import Command, Operation
from runstream.stores.redis.damage import parsing
from runstream.stores.redis.keys import RunKeys
from runstream.stores.redis.operations.absent import check_absent
from runstream.stores.redis.replies import (
    Retired,
    gone_field,
    noted_cursor,
    noted_left,
    noted_size,
    noted_start,
    parse_origins,
    parse_parent,
    parse_retired,
)

__all__ = [
    "HEAD_FIELDS",
    "checked_head",
    "has_retired_events",
    "head_in",
    "head_query",
    "is_there",
    "parse_head",
    "retired_in",
    "retired_of",
]


HEAD_FIELDS = (
    *(b"start", b"last", b"mark", b"status", b"largest", b"parent"),
    *(b"base", b"origin", b"retired", b"ended"),
)
"""The fields of meta that say where a run stands."""


def head_query(meta_key: str, lane_id: str | None = None, beside: Sequence[str] = ()) -> Command:
    """The command whose reply :func:`parse_head`, :func:`is_there` and :func:`retired_of` read.

    Args:
        meta_key: The key of the run's meta.
        lane_id: The lane whose snapshot :func:`retired_of` is to tell of; None: only the run's own.
        beside: Further fields, which are the last ones of the reply, and not read by these.
    """
    query = (b"HMGET", meta_key, *HEAD_FIELDS)
    if lane_id is None:
        return (*query, *beside)
    return (*query, "unlisted", gone_field(lane_id), f"back:{lane_id}", f"lane:{lane_id}", *beside)


def head_in(run: RunKeys, meta: Mapping[bytes, bytes]) -> RunHead:
    """Where the run stands that has this meta."""
    return parse_head(run, list(map(meta.get, HEAD_FIELDS)))


def parse_head(run: RunKeys, reply: Sequence[bytes | None]) -> RunHead:
    """Where the run stands; one that is not there stands at 0.

    Of a tombstone the mark is the last cursor: all was archived before it was retired.

    Raises:
        CorruptRecordError: Its meta does not parse.
    """
    start, last, mark, status, largest, parent, base, origin, retired, *gone = reply
    if start is None and last is None:
        return RunHead(Cursor(0, 0), Cursor(0, 0), Cursor(0, 0), "")
    with parsing(run):
        for name, value in (("start", start), ("last", last), ("status", status)):
            if value is None:
                raise KeyError(name)
        (at_start, identity), at_last = noted_start(start or b""), noted_cursor(last or b"")
        parse_retired(retired, *gone)
        at_mark = noted_cursor(mark) if mark else at_last if retired else at_start
        of, creation = parse_parent(parent)
        return RunHead(
            at_start,
            at_last,
            at_mark,
            (status or b"").decode(),
            parent=of,
            largest=noted_size(largest),
            identity=identity,
            parent_identity=creation,
            base=noted_cursor(base) if base else None,
            origins=parse_origins(origin),
            left=noted_left(retired, gone[0]),
        )


def checked_head(run: RunKeys, reply: Sequence[bytes | None]) -> Operation[RunHead]:
    """As :func:`parse_head`; of a run that is not there it checks that nothing else of it is there either."""
    if not is_there(reply) and reply[1] is None:
        yield from check_absent([run])
    return parse_head(run, reply)


def is_there(reply: Sequence[bytes | None]) -> bool:
    """Whether there is such a run: hot, or a tombstone of one."""
    return reply[0] is not None


def retired_of(reply: Sequence[bytes | None]) -> Retired | None:
    """What is kept of what left Redis; None for a run that was never retired, and lost no lane."""
    return parse_retired(*reply[len(HEAD_FIELDS) - 2 :])


def retired_in(meta: Mapping[bytes, bytes], lane_id: str) -> Retired | None:
    """As :func:`retired_of`, for one lane of the run that has all of this meta."""
    of_lane = (gone_field(lane_id), f"back:{lane_id}", f"lane:{lane_id}")
    return parse_retired(
        *map(meta.get, (b"retired", b"ended", b"unlisted")), *(meta.get(field.encode()) for field in of_lane)
    )


def has_retired_events(head: RunHead, retired: Retired | None) -> bool:
    """Whether events left Redis with all that was known of their lanes."""
    if retired is None:
        return False
    upto = head.last.offset if retired.offset is None else retired.offset
    return upto > head.lowest.offset
