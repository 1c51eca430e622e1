"""Erase content of runs in Redis: make their streams anew without it, and note what has become of it elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

from runstream.model.archive_records import RunHeader
from runstream.model.erasures import ErasureNote
from runstream.model.identifiers import random_token
from runstream.model.results import Cursor
from runstream.operations.operation import Exchange, Operation, Refusal
from runstream.stores.redis.damage import parsing
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.noted_erasures import InArchive, NotedErasures, parse_erasures
from runstream.stores.redis.replies import parse_map, start_text
from runstream.stores.redis.scripts.erasure_calls import erase_call, note_erasure_call, rebuild_call

__all__ = ["FULL", "ask_again", "load_erasures", "note_archived", "rebuild"]

_WHY_NOT = {
    b"held": "a lease is in force",
    b"forks": "runs were forked from it since that need what is to go",
    b"snapshots": "snapshots that may hold some of it were saved since: erase it again, and let them go"
    " (`runstream erase … --drop-snapshots`), or save newer ones before a truncation",
}

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


def ask_again(
    keys: Keys,
    header: RunHeader,
    what: ErasureNote,
    seen: Cursor,
    sound: Mapping[str | None, str],
    before: Cursor | None = None,
) -> Operation[str]:
    """Ask for what an archive has erased of a run, and Redis does not know.

    Args:
        keys: The namespace's keys.
        header: The run: of another one of that name, nothing is asked for.
        what: What the archive has erased.
        seen: The last cursor that the archive has: of another history, nothing is asked for.
        sound: The tokens of the snapshots that the archive has since, by lane: they hold nothing of it.
        before: The cursor before the event with which the history begins there.

    Returns:
        Why it cannot be asked for now; '' if it is, or the history is not the same.
    """
    token, away = random_token(), b""
    while True:
        call = erase_call(
            keys.run(header.run_id),
            start=start_text(header),
            token=token,
            what=what.text,
            lease=None,
            before=before,
            seen=seen,
            away=away,
            sound=sound,
        )
        (reply,) = yield Exchange([call], permissive=True)
        if isinstance(reply, Refusal):
            return str(reply.error)
        if reply[0] != b"away":
            return _WHY_NOT.get(reply[0], "")
        away = reply[1]  # what has left Redis, and is in the archive still, holds nothing of it either


def note_archived(keys: Keys, header: RunHeader, archive_id: str, there: InArchive) -> Operation[None]:
    """Note what has become in an archive of what was to be erased of a run."""
    run, field = keys.run(header.run_id), f"archive:{archive_id}"
    call = note_erasure_call(run, start=start_text(header), field=field, value=there.text)
    yield Exchange([call], permissive=True)  # who may not note it may not make the stream anew, and is told then
