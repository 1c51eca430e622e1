"""What the app answers with: the types of its JSON documents, of which the OpenAPI document is made."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

__all__ = [
    "Acted",
    "AnswerBody",
    "CancelBody",
    "EventPage",
    "ForkBody",
    "LaneList",
    "Problem",
    "RunFacts",
    "RunPage",
    "StateAt",
]


class ParentFacts(TypedDict):
    """Where a fork comes from."""

    run_id: str
    offset: int


class QuestionFacts(TypedDict):
    """A question that a run waits with for a person's answer."""

    question_id: str
    lane_id: str
    text: str
    offset: int
    answer_offset: int | None


class RunFacts(TypedDict):
    """What is known of a run without reading it. ``id`` is its name in paths."""

    id: str
    run_id: str
    session_id: str
    status: str
    last_offset: int
    archived_offset: int | None
    first_hot: int | None
    created_at: str
    updated_at: str
    waiting_for: list[QuestionFacts]
    tags: dict[str, str]
    parent: ParentFacts | None


class RunPage(TypedDict):
    """Runs. ``next`` is the query of the next page; null where there is none."""

    runs: list[RunFacts]
    next: str | None


class EventFacts(TypedDict):
    """An event, with its position. Fields that its program has added come too."""

    offset: int
    cursor: str
    run_id: str
    session_id: str
    lane_id: str
    span_id: str
    parent_span_id: str | None
    seq: int
    ts: float
    kind: str
    visibility: str
    payload: dict[str, Any]


class EventPage(TypedDict):
    """Events of a run, in the order that was asked for.

    ``unreadable`` are the offsets of records that do not read. ``cursor`` is where the page ends, whatever was
    filtered out of it; ``next`` the query of the next page, null at the end.
    """

    run_id: str
    events: list[EventFacts]
    unreadable: list[int]
    cursor: str | None
    next: str | None


class StateAt(TypedDict):
    """The newest snapshot that is kept and covers no event after the offset; null where there is none."""

    run_id: str
    lane_id: str | None
    at: int | None
    offset: int
    revision: int
    state: dict[str, Any] | None


class LaneFacts(TypedDict):
    """What is known of a lane."""

    lane_id: str
    last_offset: int
    last_seq: int
    snapshot_offset: int | None
    ended: bool
    lease: str | None


class LaneList(TypedDict):
    """The lanes of a run, by name."""

    run_id: str
    lanes: list[LaneFacts]


class Acted(TypedDict):
    """What a person said to a run, as it is recorded. ``holds``: it is what was sent, and no earlier answer."""

    run_id: str
    holds: bool
    event: EventFacts


class AnswerBody(TypedDict):
    """The answer to the question that a run waits with; the lane or the question is named where several wait."""

    answer: Any
    lane_id: NotRequired[str | None]
    question_id: NotRequired[str | None]


class CancelBody(TypedDict):
    """Why a run is to be cancelled."""

    reason: NotRequired[str]


class ForkBody(TypedDict):
    """The id of the fork, the offset of the last event that both have, and the fork's tags."""

    run_id: str
    at: NotRequired[int | None]
    tags: NotRequired[dict[str, str] | None]


class Problem(TypedDict):
    """What is wrong (RFC 9457). An error of runstream has its facts beside these."""

    type: str
    title: str
    status: int
    detail: str
