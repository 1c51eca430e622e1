"""The ordinary append: one event, with nothing asked for besides.

It is what an agent waits for at every event, so its way is written out: one generator, and few objects that are
neither sent nor kept. What turns out not to be ordinary goes on as any batch does.
"""

from __future__ import annotations

import time

from runstream.codec.event_codec import EncodedEvent
from runstream.model.errors import RunstreamError
from runstream.model.results import E, S
from runstream.model.state import STATUS_BY_KIND
from runstream.stores.redis.append_result import Applied
from runstream.stores.redis.exchange import Exchange, Operation
from runstream.stores.redis.operations.client.send import batch_of, heard, outcome_of
from runstream.stores.redis.replies import known_place
from runstream.stores.redis.scripts.calls import Sending, event_call
from runstream.stores.redis.session.in_flight import Attempt
from runstream.stores.redis.session.session import Context

__all__ = ["append_event", "is_ordinary"]


def is_ordinary(context: Context[E, S], event: EncodedEvent) -> bool:
    """Whether nothing has to be looked after besides: the event says nothing of its run, and nothing waits."""
    return context.asks_nothing and event.kind not in STATUS_BY_KIND and context.unsettled.is_empty()


def append_event(context: Context[E, S], run_id: str, event: EncodedEvent) -> Operation[Applied]:
    """Append an event to its run."""
    producer = context.producers.take()
    sent_at, seen = context.server_clock.now(), context.seen.get(run_id)
    call = event_call(context.keys, run_id, event, producer.name, producer.number, sent_at, seen)
    reply, begun = None, time.monotonic()
    try:
        (reply,) = yield Exchange((call,), tolerant=True, frequent=True)
    finally:
        words = reply.split() if type(reply) is bytes else ()
        if len(words) != 3 or seen is None:  # there is none, or not that of an ordinary append
            sending = Sending(producer.name, producer.number, sent_at, seen)
            attempt = Attempt(context, batch_of(run_id, (event,)), call, sending, begun)
            if reply is None:
                context.unsettled.put([attempt])
    if len(words) != 3 or seen is None:
        outcome = yield from outcome_of(attempt, reply)
        context.producers.give_back(producer)
        if isinstance(outcome, RunstreamError):
            raise outcome
        return outcome
    context.producers.give_back(producer)
    last, server_time, lane_before = words
    heard(context, run_id, server_time, seen.start, last, seen.offset + 1)
    context.coverage.appended_one(run_id, event.lane_id, known_place(seen.start), seen.offset, int(lane_before))
    return Applied((event,), seen.place, last)
