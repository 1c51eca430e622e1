"""What a fork shares with those that it comes from, as Redis has it: see :mod:`runstream.operations.lineage`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runstream.model.errors import EventsArchived
from runstream.model.results import Cursor, E, S
from runstream.model.run_head import RunHead
from runstream.operations.lineage import LoadHead, Segment, ancestry_of, find_in_segments, segment_of, segments_of
from runstream.operations.messages import diverged
from runstream.operations.operation import Command, Exchange, Operation
from runstream.operations.run_forks import not_there
from runstream.stores.redis.damage import corrupt_key, parsing
from runstream.stores.redis.operations.client.archived_errors import events_archived, retired_away
from runstream.stores.redis.operations.client.run_head import head_query, is_there, parse_head
from runstream.stores.redis.replies import noted_cursor, parse_cursor
from runstream.stores.redis.session.session import Session

__all__ = ["ancestry_here", "cursor_in_ancestors", "keys_in_ancestors", "segments_here", "shared_archived"]


def segments_here(session: Session[E, S], run_id: str, head: RunHead) -> Operation[list[Segment]]:
    """The segments of the history of a run with that head, the oldest first.

    Raises:
        EventsArchived: One of the runs that it comes from is not in Redis.
    """
    return (yield from segments_of(run_id, head, _heads_here(session, run_id, head)))


def ancestry_here(session: Session[E, S], run_id: str, head: RunHead) -> Operation[list[Segment]]:
    """The segments that a fork has from others, also where its history begins with its own events by now.

    Raises:
        EventsArchived: One of the runs that it comes from is not in Redis.
    """
    return (yield from ancestry_of(run_id, head, _heads_here(session, run_id, head)))


def _heads_here(session: Session[E, S], run_id: str, head: RunHead) -> LoadHead:
    """Gives the heads of the runs that a fork comes from."""

    def load_head(ancestor: str) -> Operation[RunHead | None]:
        keys = session.keys.run(ancestor)
        (meta,) = yield Exchange([head_query(keys.meta)])
        if not is_there(meta):  # none is deleted or forgotten that has forks: then an archive has it
            raise shared_archived(
                run_id, (yield from retired_away(session, ancestor, None)), head.start.offset + 1
            )
        return parse_head(keys, meta)

    return load_head


def shared_archived(run_id: str, error: EventsArchived, before: int | None) -> EventsArchived:
    """The error for a fork of which a part that it shares has left Redis.

    Args:
        run_id: The fork.
        error: The error of the run that it shares that with.
        before: The offset behind what it shares with that one; None: that is not known.
    """
    first_hot = error.first_hot if before is None else min(error.first_hot, before)
    return EventsArchived(
        f"run {run_id!r} shares its beginning with a run that it was forked from, and that has left Redis in part:"
        f" {error}",
        run_id=run_id,
        first_hot=first_hot,
        archives=error.archives,
    )


def cursor_in_ancestors(session: Session[E, S], run_id: str, head: RunHead, at: int) -> Operation[Cursor]:
    """The cursor of a fork at an offset that it shares with those that it comes from."""
    segments = yield from segments_here(session, run_id, head)
    for segment in segments:  # also where nothing is left of what comes before
        if segment.end is not None and segment.end.offset == at:
            return segment.end
    there = segment_of(segments, at)
    if there is None:  # the beginning of them all
        keys = session.keys.run(segments[0].run_id)
        (meta,) = yield Exchange([head_query(keys.meta)])
        first = parse_head(keys, meta).before_first
        if at < first.offset:
            raise not_there(run_id, head, at, first.offset)
        return first
    keys = session.keys.run(there.run_id)
    (entries,) = yield Exchange([(b"XRANGE", keys.events, str(at), str(at))])
    if not entries:
        raise shared_archived(run_id, (yield from events_archived(session, there.run_id, at)), None)
    return parse_cursor(entries[0][0])


def keys_in_ancestors(
    session: Session[E, S], run_id: str, head: RunHead, keys: Sequence[str]
) -> Operation[Mapping[str, Cursor]]:
    """The cursors of the events that have these keys, by key, of those that a fork shares. They never change."""
    if not keys or head.fork_of is None:
        return {}
    segments = yield from ancestry_here(session, run_id, head)

    def find_own(ancestor: str, asked: Sequence[str]) -> Operation[Sequence[Cursor | None]]:
        run = session.keys.run(ancestor)
        queries: list[Command] = [
            (b"HGET", run.meta, "keyed"),
            (b"EXISTS", run.keys),
            (b"HMGET", run.keys, *asked),
        ]
        is_keyed, has_keys, noted = yield Exchange(queries, atomic=True)
        if is_keyed and not has_keys:
            raise corrupt_key(ancestor, run.keys, "it was removed")
        with parsing(run, run.keys):
            return [None if cursor is None else noted_cursor(cursor) for cursor in noted]

    found = yield from find_in_segments(segments, keys, find_own)
    if any(at.offset == head.start.offset and at != head.start for at in found.values()):
        raise diverged(run_id, head.start)
    return found
