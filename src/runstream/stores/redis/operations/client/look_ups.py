"""Look up events of a run by the callers' keys, and by their offsets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from runstream.model.results import E, Recorded, S
from runstream.model.run_head import RunHead
from runstream.operations.interface import RunElsewhere
from runstream.operations.lineage import read_at_in_segments
from runstream.operations.look_ups import in_order, keys_asked, offsets_asked, spans_of
from runstream.operations.operation import Command, Operation, collect
from runstream.stores.redis.damage import corrupt_key, parsing
from runstream.stores.redis.operations.client.border import Border
from runstream.stores.redis.operations.client.lineage import keys_in_ancestors, segments_here
from runstream.stores.redis.operations.client.read import read_own
from runstream.stores.redis.operations.client.send import resolve_unanswered
from runstream.stores.redis.operations.client.span_reader import SpanReader
from runstream.stores.redis.replies import noted_cursor
from runstream.stores.redis.session.session import Session

__all__ = ["find", "find_after", "find_here", "read_at"]


def find(session: Session[E, S], run_id: str, keys: Iterable[str]) -> Operation[list[int | None]]:
    """The offsets of the events that have these keys; None for a key that the run does not know."""
    asked = keys_asked(run_id, keys)
    head, found = yield from _find(session, run_id, asked)
    unknown = [key for key, offset in zip(asked, found, strict=True) if offset is None]
    if head is None or head.fork_of is None or not unknown:
        return found
    shared = yield from keys_in_ancestors(session, run_id, head, unknown)
    pairs = zip(asked, found, strict=True)
    return [shared[key].offset if offset is None and key in shared else offset for key, offset in pairs]


def find_here(session: Session[E, S], run_id: str, keys: Sequence[str]) -> Operation[list[int | None] | None]:
    """The same of keys that were checked; None if the run is not in Redis, with all that it knew.

    A run keeps its keys until it is forgotten, whatever has left Redis. What a fork shares is not looked into.
    """
    head, found = yield from _find(session, run_id, keys)
    return None if head is None else found


def find_after(
    session: Session[E, S], run_id: str, keys: Sequence[str], border: Border
) -> Operation[tuple[list[int | None], bool]]:
    """The same of a run that passes where an archive ends, and whether it is a fork.

    Raises:
        RunElsewhere: It is not there, or does not pass it.
    """
    head, found = yield from _find(session, run_id, keys, border)
    return found, head is not None and head.fork_of is not None


def _find(
    session: Session[E, S], run_id: str, keys: Sequence[str], border: Border | None = None
) -> Operation[tuple[RunHead | None, list[int | None]]]:
    run = session.keys.run(run_id)
    queries: list[Command] = [(b"HMGET", run.meta, b"start", b"keyed")]
    if keys:
        queries += [(b"EXISTS", run.keys), (b"HMGET", run.keys, *keys)]
    yield from resolve_unanswered(session, [run_id])  # an unanswered append may have one of these keys
    reader = SpanReader(session, run_id, "raise", None, border=border)
    head, ((start, keyed), *replies) = yield from reader.open_with(lambda: queries)
    if start is None:
        return None, [None] * len(keys)
    if not keys:
        return head, []
    is_there, noted = replies
    if keyed and not is_there:
        raise corrupt_key(run_id, run.keys, "it was removed")
    with parsing(run, run.keys):
        offsets = [None if cursor is None else noted_cursor(cursor).offset for cursor in noted]
    # an append that was refused in its midst may have left a key: its event does not count before it is adopted
    return head, [None if offset is None or offset > head.last.offset else offset for offset in offsets]


def read_at(
    session: Session[E, S], run_id: str, offsets: Iterable[int], border: Border | None = None
) -> Operation[list[Recorded[E]]]:
    """The events at these offsets, in the order in which they are asked for.

    Args:
        session: The store's.
        run_id: The run.
        offsets: The offsets.
        border: Where an archive ends that has what came before. What a fork shares is not read then.

    Raises:
        RunElsewhere: The run does not pass that border, or shares some of them.
    """
    asked = offsets_asked(run_id, offsets)
    heads: list[RunHead] = []
    reader = SpanReader(session, run_id, "raise", None, border=border)
    recorded: list[Recorded[E]] = yield from collect(reader.at(spans_of(asked), heads.append))
    found = {item.offset: item for item in recorded}
    head = heads[0]
    shared = [(low, min(high, head.start.offset)) for low, high in spans_of(asked) if low < head.start.offset]
    if border is not None and head.fork_of is not None and shared:
        raise RunElsewhere
    if head.fork_of is not None and shared:
        segments = yield from segments_here(session, run_id, head)
        found |= yield from read_at_in_segments(
            run_id, segments[:-1], shared, partial(read_own, session, run_id, None)
        )
    return in_order(run_id, asked, found, (head.base or head.run_start).offset + 1, head.last.offset)
