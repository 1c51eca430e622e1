"""The endpoints of the app: what is routed, and what the OpenAPI document tells."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from runstream.web.access import Access, Action
from runstream.web.acting import Acting
from runstream.web.branches import Branches
from runstream.web.exporting import EXPORT, JSON_LINES, Exporting
from runstream.web.frames import EVENT_STREAM, StreamLimit
from runstream.web.health import Health
from runstream.web.many_stream import MANY, ManyStream
from runstream.web.queries import Parameter
from runstream.web.reading import EVENTS, RUNS, Reading
from runstream.web.run_stream import STREAM, RunStream
from runstream.web.shapes import (
    Acted,
    AnswerBody,
    BranchFacts,
    CancelBody,
    EventPage,
    ForkBody,
    Forked,
    HealthFacts,
    LaneList,
    RunFacts,
    RunPage,
    RunSummaryFacts,
    SnapshotPage,
    StateAt,
)
from runstream.web.states import SNAPSHOTS, STATE, States
from runstream.web.summaries import Summaries

__all__ = ["Endpoint", "Handler", "endpoints"]

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path.

    Attributes:
        path: The path; ``{id}`` is a run's id as unpadded base64url.
        handler: Answers.
        answers: The type of its document; None: it gives none.
        parameters: Those of its query.
        method: The HTTP method.
        takes: The type of the document that is sent to it.
        media: The media type of what it gives.
        action: What it does, for the app that has to allow it; "read" is always there.
    """

    path: str
    handler: Handler
    answers: type[Any] | None
    parameters: Sequence[Parameter] = ()
    method: str = "GET"
    takes: type[Any] | None = None
    media: str = "application/json"
    action: Action = "read"


def endpoints(access: Access, limit: StreamLimit) -> list[Endpoint]:
    """All endpoints of an app."""
    reading, states, acting = Reading(access), States(access), Acting(access)
    return [
        Endpoint("/runs", reading.runs, RunPage, RUNS),
        Endpoint("/runs/{id}", reading.run, RunFacts),
        Endpoint("/runs/{id}/events", reading.events, EventPage, EVENTS),
        Endpoint("/runs/{id}/lanes", reading.lanes, LaneList),
        Endpoint("/runs/{id}/summary", Summaries(access).summary, RunSummaryFacts),
        Endpoint("/runs/{id}/state", states.state, StateAt, STATE),
        Endpoint("/runs/{id}/snapshots", states.snapshots, SnapshotPage, SNAPSHOTS),
        Endpoint("/runs/{id}/forks", Branches(access).forks, BranchFacts),
        Endpoint("/runs/{id}/export", Exporting(access).export, None, EXPORT, media=JSON_LINES),
        Endpoint("/runs/{id}/stream", RunStream(access, limit).stream, None, STREAM, media=EVENT_STREAM),
        Endpoint("/runs/{id}/answer", acting.answer, Acted, (), "POST", AnswerBody, action="answer"),
        Endpoint("/runs/{id}/cancel", acting.cancel, Acted, (), "POST", CancelBody, action="cancel"),
        Endpoint("/runs/{id}/fork", acting.fork, Forked, (), "POST", ForkBody, action="fork"),
        Endpoint("/health", Health(access).health, HealthFacts),
        Endpoint("/stream", ManyStream(access, limit).stream_runs, None, MANY, media=EVENT_STREAM),
    ]
