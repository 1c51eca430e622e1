"""What people were asked about a run and have said to it: read it, wait for more, and load an answer.

It is kept in the run's meta, where it stays whatever a worker trims; see append.lua.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from runstream.model.errors import CorruptRecordError
from runstream.model.identifiers import check_run_id
from runstream.model.questions import Inbox, Question
from runstream.model.results import E, S
from runstream.operations.operation import Exchange, Operation, Stream, Wait
from runstream.operations.people import answer_at
from runstream.stores.redis.damage import parsing
from runstream.stores.redis.keys import RunKeys
from runstream.stores.redis.operations.client.read import read
from runstream.stores.redis.operations.client.reader import RunReader
from runstream.stores.redis.people_notes import parse_questions
from runstream.stores.redis.replies import noted_cursor, parse_start
from runstream.stores.redis.session.session import Session

__all__ = ["inbox", "load_answer", "wait_for_news"]

_FIELDS = (b"start", b"last", b"status", b"questions", b"cancel")


def inbox(session: Session[E, S], run_id: str) -> Operation[Inbox]:
    """What people were asked about a run, and have said to it; that it is the history that was seen is checked."""
    check_run_id(run_id)
    keys = session.keys.run(run_id)
    (meta,) = yield Exchange([(b"HMGET", keys.meta, *_FIELDS)])
    found = _parse(keys, meta)
    seen = session.seen.get(run_id)
    if seen is not None and (seen.history != found.start_chain or found.last_offset < seen.offset):
        yield from RunReader(session, run_id, "raise", None).open(None)
    return found


def wait_for_news(session: Session[E, S], run_id: str, known: Inbox, seconds: float | None) -> Stream:
    """Wait until there may be something new in a run's inbox, for so many seconds at most (None: without end)."""
    keys = session.keys.run(run_id)
    look = (b"HMGET", keys.meta, *_FIELDS)
    yield Wait(keys.events, known.last_offset, look, partial(_differs, keys, known), seconds)


def load_answer(session: Session[E, S], run_id: str, question: Question) -> Operation[E | None]:
    """The event that answers a question; None if it is gone since. This writer's next snapshot covers it."""
    keys, offset = session.keys.run(run_id), question.answer_offset or 0
    fields = (b"start", b"questions", b"answer:%b" % question.lane_id.encode())
    ((start, questions, record),) = yield Exchange([(b"HMGET", keys.meta, *fields)])
    if record is not None and question in parse_questions(questions):
        with parsing(keys):
            encoded = bytes.fromhex(record.decode())
        event = session.codec.decode_event(run_id, offset, encoded)
    else:
        event = yield from answer_at(partial(read, session, run_id), offset)
    if start is not None and event is not None:
        with parsing(keys):
            session.coverage.appended(run_id, parse_start(start), offset - 1, offset, {})
    return event


def _parse(keys: RunKeys, meta: Sequence[bytes | None]) -> Inbox:
    start, last, status, questions, cancel = meta
    if start is None:
        return Inbox()
    with parsing(keys):
        ended = noted_cursor(last or b"")
        reason = None if cancel is None else cancel.partition(b" ")[2].decode(errors="replace")
        creation = parse_start(start).creation
        return Inbox(parse_questions(questions), reason, (status or b"").decode(), ended.offset, creation)


def _differs(keys: RunKeys, known: Inbox, reply: Sequence[bytes | None]) -> bool:
    try:
        return _parse(keys, reply) != known
    except CorruptRecordError:  # which the next look raises
        return True
