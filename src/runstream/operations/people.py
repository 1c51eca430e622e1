"""What people say to a run, and how the run waits for it: made of what every store gives.

A question, an answer and a request to cancel are events. What a person says goes to a lane of its own
(:data:`~runstream.model.questions.ANSWERS_LANE`), and is the one write that a lease on the whole run lets pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from runstream.model.errors import ConfigurationError
from runstream.model.events import EventKind, PAEvent
from runstream.model.identifiers import check_name, check_run_id, shown
from runstream.model.questions import ANSWERS_LANE, Inbox, Question, answer_key
from runstream.model.results import E, Recorded, S
from runstream.model.state import ENDED_STATUSES
from runstream.operations.arguments import AppendOptions, ReadQuery, check_seconds
from runstream.operations.idle_timeout import IdleTimeout
from runstream.operations.interface import StoreOperations
from runstream.operations.messages import not_asked, run_cancelled, run_ended
from runstream.operations.operation import Items, Operation, Stream, carry_result, collect, settled

__all__ = ["answer_at", "answering", "requesting_cancel", "waiting"]


def answering(
    operations: StoreOperations[E, S], run_id: str, answer: Any, lane_id: str | None, question_id: str | None
) -> Operation[Recorded[E]]:
    """Answer a question, once: a second answer gives the first."""
    check_run_id(run_id)
    for name, value in (("lane_id", lane_id), ("question_id", question_id)):
        if value is not None:
            check_name(name, value)
    found = yield from operations.inbox(run_id)
    question = _choose(run_id, found, lane_id, question_id)
    if question is not None and question.answer_offset is None and found.status in ENDED_STATUSES:
        raise ConfigurationError(f"run {run_id!r} has ended ({found.status}): nobody waits for an answer")
    name, asking = (
        (question_id or "", lane_id or "") if question is None else (question.question_id, question.lane_id)
    )
    payload = {"question_id": name, "lane_id": asking, "answer": answer}
    return (yield from _saying(operations, run_id, payload, question, answer_key(name)))


def requesting_cancel(operations: StoreOperations[E, S], run_id: str, reason: str) -> Operation[Recorded[E]]:
    """Ask a run to end as cancelled."""
    check_run_id(run_id)
    if not isinstance(reason, str):
        raise ConfigurationError(f"reason={shown(reason)}: say why in a text, or ''")
    found = yield from operations.inbox(run_id)
    if not found.status:
        raise ConfigurationError(f"there is no run {run_id!r} here to cancel: see its id (list_runs)")
    if found.status in ENDED_STATUSES:
        raise ConfigurationError(f"run {run_id!r} has ended ({found.status}): there is nothing to cancel")
    reason = reason or found.cancel or ""  # one that was given before holds
    return (yield from _saying(operations, run_id, {"cancel": True, "reason": reason}))


def _saying(
    operations: StoreOperations[E, S],
    run_id: str,
    payload: dict[str, Any],
    question: Question | None = None,
    key: str | None = None,
) -> Operation[Recorded[E]]:
    """Append what a person says; under a key that is known, give what was said first."""
    seq = yield from operations.last_seq(run_id, ANSWERS_LANE)
    event = operations.codec.as_own(
        PAEvent(
            run_id,
            lane_id=ANSWERS_LANE,
            seq=seq + 1,
            kind=EventKind.HUMAN_APPROVAL_RECEIVED,
            payload=payload,
        )
    )
    options: AppendOptions[S] = AppendOptions(keys=None if key is None else [key], sender="person")
    placement, shortfall = yield from settled(operations.append(run_id, [event], options))
    (cursor,) = placement.cursors
    if placement.known:
        if question is not None and question.answer_offset == cursor.offset:
            found = yield from operations.load_answer(run_id, question)
        else:
            found = yield from answer_at(partial(operations.read, run_id), cursor.offset)
        if found is not None:  # else it was erased, or lost since: then it is the one that was given
            event = found
    recorded = Recorded(cursor.offset, str(cursor), event)
    if shortfall is not None:
        carry_result(shortfall, recorded)
        raise shortfall
    return recorded


def answer_at(read: Callable[[ReadQuery], Stream], offset: int) -> Operation[Any]:
    """The event at an offset; None where there is none any more.

    Args:
        read: Reads the run.
        offset: The offset.
    """
    found: list[Recorded[Any]] = yield from collect(read(ReadQuery.one(offset)))
    return found[0].event if found else None


def _choose(run_id: str, found: Inbox, lane_id: str | None, question_id: str | None) -> Question | None:
    """The question that is meant: one that waits, or else the one that was answered last.

    None for one that is named and that its lane has not asked last: whether it was answered, its key tells.
    """
    fitting = [
        question
        for question in found.questions
        if lane_id in (None, question.lane_id) and question_id in (None, question.question_id)
    ]
    pending: Sequence[Question] = [question for question in fitting if question.answer_offset is None]
    if len(pending) > 1:
        several = ", ".join(f"{one.question_id!r} of lane {one.lane_id!r}" for one in pending)
        raise ConfigurationError(
            f"several lanes of run {run_id!r} wait for an answer: name the question or the lane ({several})"
        )
    if fitting:
        return max(pending or fitting, key=lambda question: question.answer_offset or 0)
    if question_id is None:
        raise not_asked(run_id, lane_id)
    return None


def waiting(
    operations: StoreOperations[E, S], run_id: str, lane_id: str, question_id: str | None, timeout: float | None
) -> Stream:
    """Wait for the answer to a question of a lane, its last one if none is named; gives the event that answers.

    Raises RunCancelled where the run is to be cancelled, or has ended, and TimeoutError after ``timeout`` seconds.
    """
    check_seconds("timeout", timeout)
    idle = IdleTimeout(run_id, timeout, awaits="no answer")
    known = None
    while True:
        found = yield from operations.inbox(run_id)
        if found.cancel is not None:
            raise run_cancelled(run_id, found.cancel)
        question = found.of_lane(lane_id)
        if question is None or question_id not in (None, question.question_id):
            raise not_asked(run_id, lane_id, question_id)
        if question.answer_offset is not None:
            event = yield from operations.load_answer(run_id, question)
            if event is not None:
                yield Items([event])
                return
            # it was erased, or a failover has lost it since it was looked: then the next look tells
        if found.status in ENDED_STATUSES:
            raise run_ended(run_id, found.status)
        idle.check()
        if found == known:  # woken by an entry that no append has come to its end with: it wakes at once, again
            yield idle.pause()
        known = found
        yield from operations.wait_for_news(run_id, found, idle.remaining)
