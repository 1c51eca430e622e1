"""What people are asked about a run and say to it: questions, answers, a request to cancel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from runstream.model.events import EventKind
from runstream.model.state import ENDED_STATUSES, STATUS_BY_KIND

__all__ = [
    "ANSWERS_LANE",
    "MARKED_KINDS",
    "NOTICE_KINDS",
    "Inbox",
    "Notice",
    "Question",
    "answer_key",
    "notice_of",
    "pending_of",
    "questions_after",
]

ANSWERS_LANE = "answers"
"""The lane of what people say to a run: answers, and requests to cancel it."""

NOTICE_KINDS = frozenset({EventKind.HUMAN_APPROVAL_REQUESTED.value, EventKind.HUMAN_APPROVAL_RECEIVED.value})
"""The kinds of the events by which a run asks, and is answered or told to stop."""

MARKED_KINDS = NOTICE_KINDS.union(STATUS_BY_KIND)
"""The kinds whose events say something of their run."""

_MAX_TEXT = 200  # characters of a question or a reason that are kept beside its event


@dataclass(frozen=True, slots=True)
class Question:
    """A question that a lane of a run has asked last.

    Attributes:
        question_id: Names the question.
        lane_id: The lane that asked.
        text: The question, or its beginning.
        offset: The offset of the event that asked.
        answer_offset: The offset of the answer; None: the lane waits for it.
    """

    question_id: str
    lane_id: str
    text: str
    offset: int
    answer_offset: int | None = None


class Inbox(NamedTuple):
    """What people were asked about a run, and have said to it.

    Attributes:
        questions: The question that each lane asked last.
        cancel: Why the run is to be cancelled; None where nobody asked for that since it was last opened.
        status: The run's status; "" for a run that is not there.
        last_offset: Where the run stood when this was read.
        start_chain: The chain of the history's start, which no other creation of the run has.
    """

    questions: tuple[Question, ...] = ()
    cancel: str | None = None
    status: str = ""
    last_offset: int = 0
    start_chain: int = 0

    @property
    def pending(self) -> tuple[Question, ...]:
        """The questions that wait for an answer."""
        return pending_of(self.status, self.questions)

    def of_lane(self, lane_id: str) -> Question | None:
        """The question that a lane asked last; None if it never did."""
        return next((question for question in self.questions if question.lane_id == lane_id), None)


class Notice(NamedTuple):
    """What an event says between a run and people.

    Attributes:
        says: ``ask``, ``answer`` or ``cancel``.
        question_id: The question; "" of a request to cancel.
        lane_id: The lane that asks; "" of anything else.
        text: The question, or why to cancel; at most 200 characters of it.
    """

    says: str
    question_id: str = ""
    lane_id: str = ""
    text: str = ""


def answer_key(question_id: str) -> str:
    """The key under which a run keeps the one answer to a question."""
    return f"runstream:answer:{question_id}"


def notice_of(kind: str, lane_id: str, payload: Any) -> Notice | None:
    """What an event says between a run and people; None for any other, also of these kinds."""
    if kind not in NOTICE_KINDS or not isinstance(payload, dict):
        return None
    question_id = payload.get("question_id")
    if kind == EventKind.HUMAN_APPROVAL_REQUESTED.value:
        if not isinstance(question_id, str):
            return None
        return Notice("ask", question_id, lane_id, _text(payload.get("question", "")))
    if lane_id != ANSWERS_LANE:
        return None
    if isinstance(question_id, str):
        return Notice("answer", question_id)
    return Notice("cancel", text=_text(payload.get("reason", ""))) if payload.get("cancel") is True else None


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"
    return text.encode(errors="replace").decode()  # no lone surrogates


def pending_of(status: str, questions: Sequence[Question]) -> tuple[Question, ...]:
    """The questions that wait for an answer; none of a run that has ended.

    Args:
        status: The run's status.
        questions: What each of its lanes has asked last.
    """
    if status in ENDED_STATUSES:
        return ()
    return tuple(question for question in questions if question.answer_offset is None)


def questions_after(questions: Sequence[Question], said: Iterable[tuple[int, Notice]]) -> tuple[Question, ...]:
    """The question that each lane has asked last, after these events.

    Args:
        questions: Those from before.
        said: What the events say, with their offsets, in order.
    """
    of_lane = {question.lane_id: question for question in questions}
    for offset, notice in said:
        if notice.says == "ask":
            of_lane[notice.lane_id] = Question(notice.question_id, notice.lane_id, notice.text, offset)
        for question in list(of_lane.values()) if notice.says == "answer" else ():
            if question.question_id == notice.question_id and question.answer_offset is None:
                of_lane[question.lane_id] = replace(question, answer_offset=offset)
    return tuple(of_lane.values())
