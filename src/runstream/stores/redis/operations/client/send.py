"""Send batches to the append script, parse its replies, and note what they say.

A batch that gets no reply waits to be resolved; see :mod:`~runstream.stores.redis.session.in_flight`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from runstream.codec.encoded_event import EncodedEvent
from runstream.codec.notices import notices_of
from runstream.model.errors import RunstreamError, StoreUnavailable
from runstream.model.results import Cursor, E, LeaseGrant, S
from runstream.model.state import status_after
from runstream.operations.arguments import Sender
from runstream.operations.operation import Exchange, Operation, Pause, Refusal, Resent, was_unsent
from runstream.stores.redis.append_batch import Batch, LaneSpan, Seen, Sending, Shared
from runstream.stores.redis.append_result import Applied, Outcome, TooOld
from runstream.stores.redis.damage import corrupt_key
from runstream.stores.redis.operations.client.lineage import keys_in_ancestors
from runstream.stores.redis.operations.client.refusals import refusal_of
from runstream.stores.redis.operations.client.revoke import is_large, revoke, withdraw
from runstream.stores.redis.operations.client.run_head import head_query, parse_head
from runstream.stores.redis.operations.server_policy import check_policy_still
from runstream.stores.redis.operations.unfinished import adopt
from runstream.stores.redis.replies import parse_cursor, parse_offset, parse_start
from runstream.stores.redis.scripts.calls import append_call
from runstream.stores.redis.session.in_flight import Attempt, note_unanswered
from runstream.stores.redis.session.producers import Producer
from runstream.stores.redis.session.session import Session

__all__ = ["batch_of", "note_reply", "outcome_of", "resolve_unanswered", "send", "waiting_seconds"]

_SHORTEST_WAIT_SECONDS = 0.002
_LONGEST_WAIT_SECONDS = 0.02
_MOST_ADJUSTMENTS = 5  # each of another kind, but where others leave an append unfinished meanwhile

_Reply: TypeAlias = bytes | Sequence[bytes] | RunstreamError | Refusal
"""append.lua's reply: text if the batch was applied, a list [code, ...] if the script rejected it, Refusal if the
server rejected the command; or an error, if it is known in another way that it was not applied."""


def batch_of(
    run_id: str,
    events: Sequence[EncodedEvent],
    *,
    is_keyed: bool = False,
    expected_offset: int | None = None,
    grant: LeaseGrant | None = None,
    sender: Sender = "-",
) -> Batch:
    """Make the batch that appends these events to a run; ``is_keyed`` if some of them may have a key."""
    return Batch(
        run_id,
        events,
        next((event.session_id for event in events if event.session_id), ""),
        # where some keys may be known, the script finds the status: events that are not written do not change it
        "" if is_keyed else status_after(event.kind for event in events) or "",
        _spans(events),
        is_keyed,
        expected_offset,
        grant,
        sender=sender,
        notices=notices_of(run_id, events),
    )


def _spans(events: Sequence[EncodedEvent]) -> dict[str, LaneSpan]:
    spans: dict[str, LaneSpan] = {}
    for index, event in enumerate(events, 1):
        span = spans.get(event.lane_id)
        spans[event.lane_id] = LaneSpan.of(index, event.seq) if span is None else span.then(index, event.seq)
    return spans


def send(session: Session[E, S], batches: Sequence[Batch], *, checked: bool = True) -> Operation[list[Outcome]]:
    """Send batches of different runs in one round trip, and give what became of each.

    What waits to be resolved in these runs is sent first. With ``checked`` False the script does not compare
    the history with the cursor that this store saw last.
    """
    if session.was_full:
        yield from check_policy_still()
    claimed = (yield from _claim(session, batches)) if session.in_flight else {}
    fresh = [batch for batch in batches if batch.run_id not in claimed] if claimed else batches
    if fresh:
        producer = session.producers.take(fresh[0].run_id)
        attempts = [_begin(session, batch, producer, checked=checked) for batch in fresh]
        replies = yield from _attempt(session, attempts, are_new=True)
        session.producers.give_back(producer, fresh[0].run_id)
        outcomes = []
        for attempt, reply in zip(attempts, replies, strict=True):
            batch, outcome = attempt.batch, _first_outcome(attempt, reply)
            outcomes.append(outcome)
            for write in batch.snapshots if isinstance(outcome, Applied) else ():
                session.in_flight.supersede(batch.run_id, write.lane_id)
            if (batch.tags or batch.end_lanes) and isinstance(outcome, Applied):
                session.in_flight.supersede_facts(batch.run_id)
        if not claimed:
            return outcomes
        claimed.update(zip((batch.run_id for batch in fresh), outcomes, strict=True))
    return [claimed[batch.run_id] for batch in batches]


def outcome_of(attempt: Attempt[Session[E, S]], reply: _Reply) -> Operation[Outcome]:
    """Give a batch's outcome from its reply; it is sent once more if its call can be adjusted to a refusal."""
    if not isinstance(reply, bytes):
        try:
            reply = yield from _adjusted(attempt, reply)
        except BaseException as error:
            _note_failure(attempt.session, [attempt], error)
            raise
    return _first_outcome(attempt, reply)


def _first_outcome(attempt: Attempt[Session[E, S]], reply: _Reply) -> Outcome:
    """The outcome of a batch that its caller waits for. One that cannot be told stays so if it is repeated."""
    outcome = _outcome(attempt, reply)
    if isinstance(outcome, TooOld):
        attempt.session.in_flight.keep_outcome(attempt.batch, outcome)
    return outcome


def _claim(session: Session[E, S], batches: Sequence[Batch]) -> Operation[dict[str, Outcome]]:
    """Resolve what waits in these runs; give the outcomes of those of these batches that were among it."""
    yield from resolve_unanswered(session, [batch.run_id for batch in batches])
    outcomes = ((batch.run_id, session.in_flight.take_outcome(batch)) for batch in batches)
    return {run_id: outcome for run_id, outcome in outcomes if outcome is not None}


def resolve_unanswered(session: Session[E, S], run_ids: Sequence[str]) -> Operation[None]:
    """Resend the batches of these runs that got no reply, and keep their outcomes for callers that repeat them.

    One caller at a time does so; the others wait for its outcomes. A refusal that keeps the script from
    looking, as for want of a right that was taken since, tells nothing of what was sent before: it is raised, and
    the batch waits.
    """
    book = session.in_flight
    if not book:
        return
    while (attempts := book.take(run_ids)) is None:
        yield Pause(waiting_seconds())
    if not attempts:
        return
    try:
        for attempt in attempts:
            if attempt.is_old:
                attempt.call = append_call(attempt.session.keys, attempt.batch, attempt.sending_now)
        replies = yield from _attempt(session, attempts)
        refused = None
        for attempt, reply in zip(attempts, replies, strict=True):
            if isinstance(reply, Refusal) and not reply.is_full:
                refused = reply.error
                book.add([attempt])
                continue
            # snapshots and coverage are noted in the session of the writer whose batch it is
            attempt.outcome = _outcome(attempt, reply)
            book.keep_outcome(attempt.batch, attempt.outcome)
    finally:
        book.release(attempts)
    if refused is not None:
        raise refused


def waiting_seconds() -> float:
    """Seconds until the next check whether another caller is done: some milliseconds, with jitter."""
    return random.uniform(_SHORTEST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS)  # noqa: S311 - jitter, no secret


def note_reply(
    session: Session[E, S],
    run_id: str,
    server_time: bytes,
    start: bytes,
    last: bytes,
    offset: int,
    lane_id: str | None,
    seq: int,
    former: bytes,
    proven: Seen | None,
    behind: Seen | None,
) -> None:
    """Note what the reply to an applied batch tells: the server's time and the run's last cursor.

    ``offset`` is that cursor's, ``lane_id`` and ``seq`` those of the event there, if the batch has written it;
    ``former`` is where the run ended before, ``proven`` what the server has just looked for in its history,
    ``behind`` what it had when it applied the batch.
    """
    session.server_clock.update(server_time)
    session.seen.note(run_id, start, last, offset, lane_id, seq, former, proven, behind)


def _begin(session: Session[E, S], batch: Batch, producer: Producer, *, checked: bool) -> Attempt[Session[E, S]]:
    sending = Sending(
        producer.name,
        producer.number,
        session.server_clock.now(),
        session.seen.to_prove(batch.run_id) if checked else None,
        session.max_hot_events,
    )
    return Attempt(session, batch, append_call(session.keys, batch, sending), sending)


def _attempt(
    session: Session[E, S], attempts: Sequence[Attempt[Session[E, S]]], *, are_new: bool = False
) -> Operation[list[_Reply]]:
    """Send in one round trip, then each adjusted call once more. What gets no reply waits to be resolved.

    With ``are_new`` none was sent before: where none can be sent now either, there is nothing to resolve.
    """
    try:
        replies: list[Any] = yield Exchange([attempt.call for attempt in attempts], permissive=True)
        is_resent = not are_new or isinstance(replies, Resent)
        for index, attempt in enumerate(attempts):
            attempt.is_resent |= is_resent
            if type(replies[index]) is not bytes:
                replies[index] = yield from _adjusted(attempt, replies[index])
    except BaseException as error:
        if isinstance(error, StoreUnavailable) and is_large(attempts):
            try:
                return (yield from revoke(attempts, error))
            except StoreUnavailable:
                pass  # it cannot be reached at all
            except BaseException as broken_off:
                _note_failure(session, attempts, broken_off)
                raise
        if not (are_new and was_unsent(error)):
            _note_failure(session, attempts, error)
        raise
    return replies


def _note_failure(
    session: Session[E, S], attempts: Sequence[Attempt[Session[E, S]]], error: BaseException
) -> None:
    """After an error or a cancellation no caller gets any outcome: all of them have to be resolved."""
    session.in_flight.add(attempts)
    note_unanswered(error, attempts)


def _adjusted(attempt: Attempt[Session[E, S]], reply: _Reply) -> Operation[_Reply]:
    """The reply to a batch once what it has to wait for was done, and it was sent again.

    A refusal is given once no earlier request can be applied any more.
    """
    for _ in range(_MOST_ADJUSTMENTS):
        if isinstance(reply, bytes | Refusal | RunstreamError):
            break
        try:
            if not (yield from _adjust(attempt, reply)):
                break
        except StoreUnavailable:
            raise
        except RunstreamError as error:
            reply = error
            break
        replies = yield Exchange([attempt.call], permissive=True)
        attempt.is_resent |= isinstance(replies, Resent)
        (reply,) = replies
    if attempt.is_resent and not isinstance(reply, bytes):
        reply = yield from withdraw(attempt, reply)
    return reply


def _adjust(attempt: Attempt[Session[E, S]], reply: Sequence[bytes]) -> Operation[bool]:
    """Do what a batch that was not applied has to wait for. False if there is nothing to do."""
    session, batch = attempt.session, attempt.batch
    if reply[0] == b"whole":
        # another snapshot was saved since: a difference from the known one no longer fits
        for write in batch.snapshots:
            write.known_state = None
        attempt.call = append_call(session.keys, batch, attempt.sending_now)
        return True
    if reply[0] == b"fork":
        attempt.sending = attempt.sending._replace(shared=(yield from _shared(session, batch)))
        attempt.call = append_call(session.keys, batch, attempt.sending)
        return True
    if reply[0] == b"unfinished":
        yield from adopt(session.keys, batch.run_id)
        return True
    if reply[0] == b"stale" and not (attempt.is_resent or attempt.is_old):
        # its one request was not applied: it is new, though it was sent by a clock that is behind what is noted
        session.server_clock.update(reply[1], reset=True)
        attempt.sending = attempt.sending._replace(sent_at=int(reply[1]))
        attempt.call = append_call(session.keys, batch, attempt.sending)
        return True
    return False


def _shared(session: Session[E, S], batch: Batch) -> Operation[Shared]:
    """What a fork shares of the events with the keys of a batch."""
    run = session.keys.run(batch.run_id)
    (meta,) = yield Exchange([head_query(run.meta)])
    head = parse_head(run, meta)
    keys = [event.key for event in batch.events if event.key is not None]
    return Shared(head.creation, (yield from keys_in_ancestors(session, batch.run_id, head, keys)))


def _outcome(attempt: Attempt[Session[E, S]], reply: _Reply) -> Outcome:
    """The outcome that the append script's reply stands for, noted in the session; see its header."""
    session, batch = attempt.session, attempt.batch
    if isinstance(reply, Refusal):
        session.was_full = session.was_full or reply.is_full
        return reply.error
    if isinstance(reply, RunstreamError):
        return reply
    if not isinstance(reply, bytes):
        if reply[0] == b"damaged":
            key, why = (fact.decode(errors="backslashreplace") for fact in reply[1:])
            return corrupt_key(batch.run_id, key, f"{why}; nothing was written")
        if reply[0] == b"unfinished":
            why = "appends to it are refused in their midst all the while; nothing was written"
            return corrupt_key(batch.run_id, session.keys.run(batch.run_id).events, why)
        if reply[0] == b"revoked":
            return _revoked(attempt)
        if reply[0] == b"absent":
            return Applied((), b"0-0", b"0-0")
        return refusal_of(attempt, reply[0], reply[1:])
    try:
        return _applied(attempt, reply)
    except (ValueError, IndexError) as error:  # what was kept with the producer
        key = session.keys.run(batch.run_id).producers
        return corrupt_key(batch.run_id, key, f"the reply kept there does not read: {error}")


def _revoked(attempt: Attempt[Session[E, S]]) -> Outcome:
    """The refusal of a batch that was revoked by a call that got no reply itself."""
    if attempt.refusal is not None:
        return _outcome(attempt, attempt.refusal)
    return StoreUnavailable(
        f"an append to run {attempt.batch.run_id!r} got no reply, and was revoked: nothing was written",
        next_step="send the same events again",
    )


def _applied(attempt: Attempt[Session[E, S]], reply: bytes) -> Applied:
    session, batch = attempt.session, attempt.batch
    session.was_full = False
    run_id, lanes = batch.run_id, batch.lanes
    former, last, revisions, began, server_time, *rest = _parse_applied(attempt.sending, reply)
    last_offset, start = parse_offset(last), parse_start(began)
    known: Mapping[int, Cursor] = {}
    if len(rest) > len(lanes):
        lanes, rest, known = _without_known(batch, rest)
    at_last = max(lanes, key=lambda lane: lanes[lane].last, default=None)
    seq = 0 if at_last is None else lanes[at_last].last_seq
    # the reply to one that was sent again may be one that was kept: it proves nothing of the server as it is now
    seen = attempt.sending.seen
    proven = None if attempt.is_resent else seen
    note_reply(session, run_id, server_time, began, last, last_offset, at_last, seq, former, proven, seen)
    if lanes or not batch.events:
        before = parse_offset(former)
        ends = {}
        for lane, lane_before in zip(lanes, rest, strict=True):
            ends[lane] = int(lane_before), before + lanes[lane].last
        session.coverage.appended(run_id, start, before, last_offset, ends)
    if revisions != b"0":  # they were saved
        for write, revision in zip(batch.snapshots, revisions.split(b","), strict=True):
            session.snapshots.put(run_id, write.lane_id, write.token, int(revision), write.state)
    applied = Applied(batch.events, former, last, known)
    if session.recent is not None and batch.events:
        session.recent.add(run_id, start.creation, applied.written)
        if attempt.is_resent:
            session.recent.note_late(attempt)
    return applied


def _parse_applied(sending: Sending, reply: bytes) -> Sequence[bytes]:
    """Former cursor, last cursor, revisions, start, server time, then the lanes' former ends and known events."""
    fields = reply.split()
    if len(fields) == 3 and sending.seen is not None:  # the short reply: it went right after the cursor seen last
        return sending.seen.last, fields[0], b"0", sending.seen.start, fields[1], fields[2]
    _, former, last, revisions, _, start, server_time, *rest = fields
    return former, last, revisions, start, server_time, *rest


def _without_known(
    batch: Batch, rest: Sequence[bytes]
) -> tuple[Mapping[str, LaneSpan], list[bytes], Mapping[int, Cursor]]:
    """The lanes of the events that were written, those lanes' former ends, and the cursors of the known events."""
    befores = dict(zip(batch.lanes, rest, strict=False))
    pairs = iter(rest[len(batch.lanes) :])
    known = {int(index) - 1: parse_cursor(cursor) for index, cursor in zip(pairs, pairs, strict=True)}
    lanes = _spans([event for index, event in enumerate(batch.events) if index not in known])
    return lanes, [befores[lane] for lane in lanes], known
