"""Look up events of a run by the callers' keys, and by their offsets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runstream.model.results import E, Recorded, S
from runstream.model.run_head import RunHead
from runstream.operations.look_ups import in_order, keys_asked, offsets_asked, spans_of
from runstream.operations.operation import Command, Operation, collect
from runstream.stores.redis.damage import corrupt_key, parsing
from runstream.stores.redis.operations.client.send import resolve_unanswered
from runstream.stores.redis.operations.client.span_reader import SpanReader
from runstream.stores.redis.replies import noted_cursor
from runstream.stores.redis.session.session import Session

__all__ = ["find", "find_here", "read_at"]


def find(session: Session[E, S], run_id: str, keys: Iterable[str]) -> Operation[list[int | None]]:
    """The offsets of the events that have these keys; None for a key that the run does not know."""
    asked = keys_asked(run_id, keys)
    found = yield from find_here(session, run_id, asked)
    return [None] * len(asked) if found is None else found


def find_here(session: Session[E, S], run_id: str, keys: Sequence[str]) -> Operation[list[int | None] | None]:
    """The same of keys that were checked; None if the run is not in Redis, with all that it knew.

    A run keeps its keys until it is forgotten, whatever has left Redis.
    """
    run = session.keys.run(run_id)
    queries: list[Command] = [(b"HMGET", run.meta, b"start", b"keyed")]
    if keys:
        queries += [(b"EXISTS", run.keys), (b"HMGET", run.keys, *keys)]
    yield from resolve_unanswered(session, [run_id])  # an unanswered append may have one of these keys
    reader = SpanReader(session, run_id, "raise", None)
    head, ((start, keyed), *replies) = yield from reader.open_with(lambda: queries)
    if start is None:
        return None
    if not keys:
        return []
    is_there, noted = replies
    if keyed and not is_there:
        raise corrupt_key(run_id, run.keys, "it was removed")
    with parsing(run, run.keys):
        offsets = [None if cursor is None else noted_cursor(cursor).offset for cursor in noted]
    # an append that was refused in its midst may have left a key: its event does not count before it is adopted
    return [None if offset is None or offset > head.last.offset else offset for offset in offsets]


def read_at(session: Session[E, S], run_id: str, offsets: Iterable[int]) -> Operation[list[Recorded[E]]]:
    """The events at these offsets, in the order in which they are asked for."""
    asked = offsets_asked(run_id, offsets)
    heads: list[RunHead] = []
    reader = SpanReader(session, run_id, "raise", None)
    recorded: list[Recorded[E]] = yield from collect(reader.at(spans_of(asked), heads.append))
    found = {item.offset: item for item in recorded}
    return in_order(run_id, asked, found, heads[0].start.offset + 1, heads[0].last.offset)
