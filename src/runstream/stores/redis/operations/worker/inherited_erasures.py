"""What forks have of content that is erased of the run they come from: snapshots that were made of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from runstream.model.erasures import ErasureNote, Spans, may_hold, spans_without
from runstream.model.identifiers import random_token
from runstream.model.run_head import SnapshotHead
from runstream.operations.operation import Exchange, Operation
from runstream.stores.redis.damage import parsing
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.noted_erasures import joined
from runstream.stores.redis.operations.worker.erasing import load_erasures
from runstream.stores.redis.operations.worker.hot_run import left_lanes, run_of
from runstream.stores.redis.operations.worker.noted_forks import fork_notes
from runstream.stores.redis.replies import parse_map, start_text
from runstream.stores.redis.scripts.erasure_calls import erase_call

__all__ = ["Heir", "erase_inherited", "heirs_of"]


class Heir(NamedTuple):
    """A fork that shares what is erased, and does not know it: its start; its snapshots that may hold some of it.

    The start of one that is only about to be made is ''. ``is_away``: snapshots of it have left Redis, too.
    """

    run_id: str
    start: str
    spans: Spans
    holding: tuple[SnapshotHead, ...] = ()
    is_away: bool = False


def heirs_of(keys: Keys, run_id: str, wanted: Collection[ErasureNote]) -> Operation[list[Heir]]:
    """The forks of a run, and theirs, that share what is erased by these requests, where that is not noted yet.

    A snapshot that came after that holds nothing of it, nor does one that a fork began with if it had none of it.
    """
    found: list[Heir] = []
    erased = yield from load_erasures(keys, run_id)
    for noted in (yield from fork_notes(keys, run_id)):
        fork, at = keys.run(noted.run_id), noted.at.offset
        shared = [one._replace(spans=_upto(one.spans, at)) for one in wanted]
        if not any(one.spans for one in shared):
            continue
        (meta,) = yield Exchange([(b"HGETALL", fork.meta)])
        with parsing(fork):
            fields = parse_map(meta)
            run, is_away = run_of(fork.run_id, fields, is_partial=False), bool(left_lanes(fields))
        if run is None or run.head.identity != noted.identity:
            if not noted.is_made:  # it may begin with a snapshot that was read before
                found.append(Heir(fork.run_id, "", joined(span for one in shared for span in one.spans)))
            continue
        there = yield from load_erasures(keys, fork.run_id)
        known = [*there.notes.values(), *(note for number, note in erased.notes.items() if number <= run.clean_of)]
        if left := joined(span for one in shared for span in _unknown(one, known)):
            snapshots = run.head.snapshots.values()
            holding = tuple(one for one in snapshots if may_hold(one.offset, run.head.begin, left[0][0]))
            found.append(Heir(fork.run_id, start_text(run.head), left, holding, is_away))
        found += yield from heirs_of(keys, fork.run_id, shared)
    return found


def _upto(spans: Spans, at: int) -> Spans:
    return tuple((first, min(last, at)) for first, last in spans if first <= at)


def _unknown(asked: ErasureNote, known: Iterable[ErasureNote]) -> Spans:
    """What of a request no later one has."""
    later = [one for one in known if one.requested_at >= asked.requested_at]
    return spans_without(asked.spans, joined(span for one in later for span in one.spans))


def erase_inherited(keys: Keys, run_id: str, wanted: Collection[ErasureNote]) -> Operation[str]:
    """Note at each fork that shares what is erased by these requests that it is, and drop its snapshots of that.

    Returns:
        Why that cannot be done now of one of them; '' if it is done.
    """
    for heir in (yield from heirs_of(keys, run_id, wanted)):
        if not heir.start:
            return f"its fork {heir.run_id!r} is about to be made: ask again"
        what = ErasureNote(0.0, heir.spans).text
        dropped = [one.lane_id for one in heir.holding]
        call = erase_call(
            keys.run(heir.run_id),
            start=heir.start,
            token=random_token(),
            what=what,
            lease=None,
            drops_snapshots=True,
            dropped=dropped,
        )
        ((outcome, *_),) = yield Exchange([call])
        if outcome not in (b"ok", b"gone"):
            return f"its fork {heir.run_id!r} is leased, or changes: what that has of it was not erased yet"
    return ""
