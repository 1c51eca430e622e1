"""The fast path of an append: one event, and nothing else asked for.

An agent waits for this at every event, so it is written out: one generator, and few objects that are neither sent
nor kept. Where the reply is not the short one, the append goes on as any batch does.
"""

from __future__ import annotations

import time

from runstream.codec.encoded_event import EncodedEvent
from runstream.model.errors import RunstreamError
from runstream.model.questions import MARKED_KINDS
from runstream.model.results import E, S
from runstream.operations.arguments import Sender
from runstream.operations.operation import Exchange, Operation, Resent, was_unsent
from runstream.stores.redis.append_batch import Sending
from runstream.stores.redis.append_result import Applied
from runstream.stores.redis.operations.client.resend_lost import carry_resolve
from runstream.stores.redis.operations.client.revoke import LARGE_BYTES
from runstream.stores.redis.operations.client.send import batch_of, note_reply, outcome_of
from runstream.stores.redis.replies import parse_start
from runstream.stores.redis.scripts.calls import event_call
from runstream.stores.redis.session.in_flight import Attempt, note_unanswered
from runstream.stores.redis.session.session import Session

__all__ = ["append_event", "is_plain_append"]


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
        replies = yield Exchange((call,), permissive=True)
    except BaseException as error:  # a cancellation too: it has to be resolved
        if was_unsent(error):
            raise
        sending = Sending(producer.name, producer.number, sent_at, seen)
        unanswered = Attempt(session, batch_of(run_id, (event,), sender=sender), call, sending, begun)
        session.in_flight.add([unanswered])
        note_unanswered(error, [unanswered])
        carry_resolve(session, unanswered.batch, error)
        raise
    (reply,) = replies
    fields = reply.split() if type(reply) is bytes else ()
    if len(fields) != 3 or seen is None:  # not the short reply
        sending = Sending(producer.name, producer.number, sent_at, seen)
        answered = Attempt(session, batch_of(run_id, (event,), sender=sender), call, sending, begun)
        answered.is_resent = isinstance(replies, Resent)
        try:
            outcome = yield from outcome_of(answered, reply)
        except BaseException as error:
            carry_resolve(session, answered.batch, error)
            raise
        session.producers.give_back(producer, run_id)
        if isinstance(outcome, RunstreamError):
            raise outcome
        return outcome
    session.producers.give_back(producer, run_id)
    last, server_time, lane_before = fields
    offset = seen.offset + 1
    note_reply(
        session, run_id, server_time, seen.start, last, offset, event.lane_id, event.seq, seen.last, seen, seen
    )
    session.coverage.appended_one(run_id, event.lane_id, parse_start(seen.start), seen.offset, int(lane_before))
    return Applied((event,), seen.last, last)
