"""The fast paths of an append: of one event alone, or of one with a key together with a snapshot of its lane.

An agent waits for this at every event, so it is written out: one generator, and few objects that are neither sent
nor kept. Where the reply is not the usual one, the append goes on as any batch does.
"""

from __future__ import annotations

import time

from runstream.codec.encoded_event import EncodedEvent
from runstream.model.errors import RunstreamError
from runstream.model.questions import MARKED_KINDS
from runstream.model.results import E, S
from runstream.operations.arguments import Sender
from runstream.operations.operation import Exchange, Operation, Replies, Resent, was_unsent
from runstream.stores.redis.append_batch import Sending, SnapshotWrite
from runstream.stores.redis.append_result import Applied
from runstream.stores.redis.operations.client.resend_lost import carry_resolve
from runstream.stores.redis.operations.client.revoke import LARGE_BYTES
from runstream.stores.redis.operations.client.send import batch_of, note_reply, outcome_of
from runstream.stores.redis.replies import parse_offset, parse_start
from runstream.stores.redis.scripts.calls import event_call, saving_call
from runstream.stores.redis.session.in_flight import Attempt, note_unanswered
from runstream.stores.redis.session.producers import Producer
from runstream.stores.redis.session.session import Session

__all__ = ["append_event", "append_saving", "is_plain_append"]


def is_plain_append(session: Session[E, S], event: EncodedEvent) -> bool:
    """Whether the fast path fits: the event's kind says nothing of the run, and nothing waits to be resolved.

    One that the server may refuse for its size is sent as any batch is.
    """
    is_ordinary = session.allows_fast_path and not session.was_full and len(event.record) < LARGE_BYTES
    return is_ordinary and event.kind not in MARKED_KINDS and session.in_flight.is_empty()


def append_event(
    session: Session[E, S], run_id: str, event: EncodedEvent, sender: Sender = "-"
) -> Operation[Applied]:
    """Append one event to its run."""
    producer = session.producers.take(run_id)
    sent_at, seen = session.server_clock.now(), session.seen.to_prove(run_id)
    call = event_call(session.keys, run_id, event, producer.name, producer.number, sent_at, seen, sender)
    begun = time.monotonic()
    try:
        replies = yield Exchange((call,), permissive=True, may_gather=True)
    except BaseException as error:  # a cancellation too: it has to be resolved
        if was_unsent(error):
            raise
        sending = Sending(producer.name, producer.number, sent_at, seen)
        _note_unanswered(Attempt(session, batch_of(run_id, (event,), sender=sender), call, sending, begun), error)
        raise
    (reply,) = replies
    fields = reply.split() if type(reply) is bytes else ()
    if len(fields) == 3 and seen is not None:  # the short reply: it went right after the cursor seen last
        last, server_time, lane_before = fields
        former, before, start = seen.last, seen.offset, seen.start
    elif len(fields) == 8 and not isinstance(replies, Resent):
        _, former, last, _, _, start, server_time, lane_before = fields
        before = parse_offset(former)
    else:
        sending = Sending(producer.name, producer.number, sent_at, seen)
        answered = Attempt(session, batch_of(run_id, (event,), sender=sender), call, sending, begun)
        return (yield from _go_on(answered, replies, producer))
    session.producers.give_back(producer, run_id)
    lane_id = event.lane_id
    note_reply(session, run_id, server_time, start, last, before + 1, lane_id, event.seq, former, seen, seen)
    session.coverage.appended_one(run_id, lane_id, parse_start(start), before, int(lane_before))
    return Applied((event,), former, last)


def append_saving(
    session: Session[E, S],
    run_id: str,
    event: EncodedEvent,
    snapshot: SnapshotWrite,
    session_id: str,
    sender: Sender = "-",
) -> Operation[Applied]:
    """Append one event with a key to its run, and save a snapshot of its lane, in one atomic step."""
    producer = session.producers.take(run_id)
    sent_at, seen = session.server_clock.now(), session.seen.to_prove(run_id)
    sending = Sending(producer.name, producer.number, sent_at, seen)
    call = saving_call(session.keys, run_id, event, session_id, snapshot, sending, sender)
    begun = time.monotonic()

    def attempt() -> Attempt[Session[E, S]]:
        batch = batch_of(run_id, (event,), is_keyed=True, sender=sender)
        return Attempt(session, batch._replace(session_id=session_id, snapshots=(snapshot,)), call, sending, begun)

    try:
        replies = yield Exchange((call,), permissive=True)
    except BaseException as error:  # as above
        if not was_unsent(error):
            _note_unanswered(attempt(), error)
        raise
    (reply,) = replies
    fields = reply.split() if type(reply) is bytes else ()
    if len(fields) != 8 or isinstance(replies, Resent):  # more words: the key was known
        return (yield from _go_on(attempt(), replies, producer))
    session.producers.give_back(producer, run_id)
    _, former, last, revision, _, start, server_time, lane_before = fields
    lane_id, before, offset = event.lane_id, parse_offset(former), parse_offset(last)
    note_reply(session, run_id, server_time, start, last, offset, lane_id, event.seq, former, seen, seen)
    session.coverage.appended(
        run_id, parse_start(start), before, offset, {lane_id: (int(lane_before), before + 1)}
    )
    session.snapshots.put(run_id, lane_id, snapshot.token, int(revision), snapshot.state)
    session.in_flight.supersede(run_id, lane_id)
    return Applied((event,), former, last)


def _note_unanswered(attempt: Attempt[Session[E, S]], error: BaseException) -> None:
    """Note that an append got no reply: it has to be resolved."""
    attempt.session.in_flight.add([attempt])
    note_unanswered(error, [attempt])
    carry_resolve(attempt.session, attempt.batch, error)


def _go_on(attempt: Attempt[Session[E, S]], replies: Replies, producer: Producer) -> Operation[Applied]:
    """Go on as any batch does, after its first reply."""
    session, batch = attempt.session, attempt.batch
    attempt.is_resent = isinstance(replies, Resent)
    try:
        outcome = yield from outcome_of(attempt, replies[0])
    except BaseException as error:
        carry_resolve(session, batch, error)
        raise
    session.producers.give_back(producer, batch.run_id)
    if isinstance(outcome, RunstreamError):
        raise outcome
    for write in batch.snapshots:
        session.in_flight.supersede(batch.run_id, write.lane_id)
    return outcome
