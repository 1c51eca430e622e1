"""What the app answers with: the types of its JSON documents, of which the OpenAPI document is made."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

__all__ = [
    "Acted",
    "AnswerBody",
    "BranchFacts",
    "CancelBody",
    "EventPage",
    "ForkBody",
    "HealthFacts",
    "LaneList",
    "Problem",
    "RunFacts",
    "RunPage",
    "RunSummaryFacts",
    "SnapshotPage",
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


class LastEvent(TypedDict):
    """The last event of a run, on a line: its text, or the plain values of its payload."""

    offset: int
    lane_id: str
    kind: str
    text: str


class RunFacts(TypedDict):
    """What is known of a run without reading it. ``id`` is its name in paths.

    ``parent`` is null also where the sender may not read that run. ``last`` is in lists that are asked for it.
    """

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
    last: NotRequired[LastEvent | None]


class RunPage(TypedDict):
    """Runs. ``next`` is the query of the next page; null where there is none.

    ``more``: these are not all, or not all were looked at. Where few may be read a page may have none.
    """

    runs: list[RunFacts]
    more: bool
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


class SnapshotFacts(TypedDict):
    """A snapshot that is kept: the offset that it covers, and its revision. ``state?at=`` gives its state."""

    offset: int
    revision: int


class SnapshotPage(TypedDict):
    """Snapshots, the highest offset first; of one offset the last. ``next`` is the query of the next page."""

    run_id: str
    lane_id: str | None
    snapshots: list[SnapshotFacts]
    next: str | None


class ForkFacts(TypedDict):
    """A run of the same branch, and the offset at which the two part."""

    id: str
    run_id: str
    status: str
    last_offset: int
    offset: int


class BranchFacts(TypedDict):
    """Where a run comes from, the nearest first, and what was forked from it, in the order of the offsets.

    ``more``: there are more forks than these.
    """

    run_id: str
    ancestors: list[ForkFacts]
    forks: list[ForkFacts]
    more: bool


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


class Counts(TypedDict):
    """Some events of a run. Times are Unix times in seconds, null where no event has one; costs are US dollars."""

    events: int
    errors: int
    first_offset: int | None
    last_offset: int | None
    first_ts: float | None
    last_ts: float | None
    input_tokens: int
    output_tokens: int
    cost: float


class Bucket(Counts):
    """The events of a lane in a stretch of time, which begins at ``start``."""

    start: float


class LaneSummary(Counts):
    """A lane; null for all those together that find no room. A bucket without events is not there."""

    lane_id: str | None
    buckets: list[Bucket]


class ToolSummary(TypedDict):
    """The calls of a tool that have ended, and how long they took in all; null: those that find no room."""

    tool: str | None
    calls: int
    errors: int
    seconds: float
    input_tokens: int
    output_tokens: int
    cost: float


class KindCount(TypedDict):
    """How many events are of a kind; null: of those that find no room."""

    kind: str | None
    events: int


class RunSummaryFacts(TypedDict):
    """A run in numbers, up to ``offset`` of those that it has: ``complete`` says whether that is all of it."""

    run_id: str
    offset: int
    last_offset: int
    complete: bool
    bucket_seconds: float
    total: Counts
    lanes: list[LaneSummary]
    tools: list[ToolSummary]
    kinds: list[KindCount]
    unreadable: int


class HealthFacts(TypedDict):
    """How archiving stands: workers that report, runs that are due, events of theirs that are not archived.

    ``alarms`` are those of ``runstream status`` by name: no-worker, backlog, archive, parked, damaged.
    """

    workers: int
    due: int
    backlog_events: int
    oldest_due_seconds: float
    alarms: list[str]


class Shortfall(TypedDict):
    """How durable what was written is to be, and how durable it is known to be."""

    wanted: str
    reached: str


class Acted(TypedDict):
    """What a person said to a run, as it is recorded. ``holds``: it is what was sent, and no earlier answer.

    ``durability`` is there where it is written, and not as durable as the store is asked for.
    """

    run_id: str
    holds: bool
    event: EventFacts
    durability: NotRequired[Shortfall]


class Forked(RunFacts):
    """What is known of a run that was made as a fork; ``durability`` as of what a person said."""

    durability: NotRequired[Shortfall]


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
