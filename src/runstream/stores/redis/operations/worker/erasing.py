"""Erase content of runs in Redis: make their streams anew without it, and note what has become of it elsewhere."""

from __future__ import annotations

from runstream.model.archive_records import RunHeader
from runstream.model.erasures import ErasureNote
from runstream.operations.operation import Exchange, Operation, Refusal
from runstream.stores.redis.damage import parsing
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.noted_erasures import NotedErasures, parse_erasures
from runstream.stores.redis.replies import parse_map, start_text
from runstream.stores.redis.scripts.erasure_calls import note_erasure_call, rebuild_call

__all__ = ["FULL", "load_erasures", "note_archived", "rebuild"]

FULL = "the server has no memory left for a copy of the run's events"
"""Why a stream cannot be made anew now."""


def load_erasures(keys: Keys, run_id: str) -> Operation[NotedErasures]:
    """What is noted of the erasures of a run."""
    run = keys.run(run_id)
    reply, rebuilt = yield Exchange([(b"HGETALL", run.erasures), (b"HGET", run.meta, b"rebuilt")], atomic=True)
    with parsing(run, run.erasures):
        return parse_erasures(parse_map(reply), rebuilt)


def rebuild(keys: Keys, header: RunHeader) -> Operation[str]:
    """Make a run's stream anew without all that was to be erased so far, if it has something of it.

    Args:
        keys: The namespace's keys.
        header: The run: of another one of that name, nothing is changed.

    Returns:
        Why it cannot be done now; '' if it is done, or the run is not there any more.
    """
    run_id, start = header.run_id, start_text(header)
    while True:
        noted = yield from load_erasures(keys, run_id)
        if noted.rebuilt >= noted.last:
            return ""
        what = ErasureNote(0.0, noted.spans_since(noted.rebuilt)).text
        call = rebuild_call(keys.run(run_id), start=start, number=noted.last, what=what)
        outcome = b"more"
        while outcome == b"more":
            (reply,) = yield Exchange([call], permissive=True)
            if isinstance(reply, Refusal):
                if not (reply.is_full or reply.is_denied):
                    raise reply.error
                return FULL if reply.is_full else str(reply.error)
            outcome = reply[0]
        if outcome != b"changed":
            return ""


def note_archived(keys: Keys, header: RunHeader, archive_id: str, number: int) -> Operation[None]:
    """Note that an archive has nothing any more of what was to be erased up to the request of that number."""
    run, field = keys.run(header.run_id), f"archive:{archive_id}"
    call = note_erasure_call(run, start=start_text(header), field=field, value=str(number))
    yield Exchange([call], permissive=True)  # who may not note it may not make the stream anew, and is told then
