"""The ordinary append: one event, with nothing asked for besides.

It is what an agent waits for at every event, so its way is written out: one generator, and few objects that are
neither sent nor kept. What turns out not to be ordinary goes on as any batch does.
"""

from __future__ import annotations

import time

from runstream.codec.shapes import EncodedEvent
from runstream.model.errors import RunstreamError
from runstream.model.state import STATUS_BY_KIND
from runstream.model.values import E, S
from runstream.stores.redis.context import Context
from runstream.stores.redis.exchange import Exchange, Operation
from runstream.stores.redis.operations.sending import batch_of, heard, outcome_of, sending_of
from runstream.stores.redis.outcomes import Applied
from runstream.stores.redis.replies import known_place, offset_of
from runstream.stores.redis.scripts import event_call
from runstream.stores.redis.unsettled import Attempt

__all__ = ["append_event", "is_ordinary"]


def is_ordinary(context: Context[E, S], event: EncodedEvent) -> bool:
    """Whether nothing has to be looked after besides: the event says nothing of its run, and nothing waits."""
    return context.asks_nothing and event.kind not in STATUS_BY_KIND and not context.unsettled


def append_event(context: Context[E, S], run_id: str, event: EncodedEvent) -> Operation[Applied]:
    """Append an event to its run."""
    producer = context.producers.take()
    sending = sending_of(context, run_id, producer)
    call = event_call(context.keys, run_id, event, sending)
    reply, begun = None, time.monotonic()
    try:
        (reply,) = yield Exchange((call,), tolerant=True)
    finally:
        if reply is None:
            context.unsettled.put([Attempt(context, batch_of(run_id, (event,)), call, sending, begun)])
    if type(reply) is not bytes:
        attempt = Attempt(context, batch_of(run_id, (event,)), call, sending, begun)
        outcome = yield from outcome_of(attempt, reply)
        context.producers.give_back(producer)
        if isinstance(outcome, RunstreamError):
            raise outcome
        return outcome
    context.producers.give_back(producer)
    _, former, last, _, _, start, _, lane_before = heard(context, run_id, reply)
    before = offset_of(former)
    ends = {event.lane_id: (int(lane_before), before + 1)}
    context.coverage.appended(run_id, known_place(start), before, before + 1, ends)
    return Applied((event,), former, last)
