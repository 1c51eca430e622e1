"""Predicates for the events to follow and the runs to list."""

from __future__ import annotations

from enum import Enum
from typing import Any

from runstream.model.results import RunInfo
from runstream.operations.arguments import FollowQuery, RunsQuery

__all__ = ["EventFilter", "RunFilter", "lane_of", "seq_of"]


def lane_of(event: Any) -> Any:
    """The lane of an event of whatever type: it has the ten fields of a PAEvent."""
    return event.lane_id


def seq_of(event: Any) -> Any:
    """The ``seq`` of an event of whatever type."""
    return event.seq


def _text(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


class EventFilter:
    """True for the events of one lane, of some kinds, of one visibility; None asks nothing."""

    def __init__(self, query: FollowQuery) -> None:
        self.lane_id = query.lane_id
        self.kinds = None if query.kinds is None else frozenset(map(_text, query.kinds))
        self.visibility = _text(query.visibility)

    def __call__(self, event: Any) -> bool:
        """Whether the event is wanted."""
        return (
            (self.lane_id is None or event.lane_id == self.lane_id)
            and (self.kinds is None or _text(event.kind) in self.kinds)
            and (self.visibility is None or _text(event.visibility) == self.visibility)
        )


class RunFilter:
    """True for the runs of one session, in one status, updated after a time; None asks nothing."""

    def __init__(self, query: RunsQuery) -> None:
        self.session_id = query.session_id
        self.status = _text(query.status)
        self.updated_after = query.updated_after

    def __call__(self, info: RunInfo) -> bool:
        """Whether the run is wanted."""
        return (
            (self.session_id is None or info.session_id == self.session_id)
            and (self.status is None or info.status == self.status)
            and (self.updated_after is None or info.updated_at > self.updated_after)
        )
