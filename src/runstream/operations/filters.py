"""Predicates for the events to follow and the runs to list."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import Enum
from typing import Any

from runstream.model.errors import ConfigurationError
from runstream.model.events import may_see
from runstream.model.identifiers import shown
from runstream.model.results import RunInfo
from runstream.operations.arguments import FollowQuery, RunsQuery

__all__ = ["EventFilter", "RunFilter", "arranged", "field_of", "lane_of", "payload_of", "seq_of", "text_of"]


def lane_of(event: Any) -> Any:
    """The lane of an event of whatever type: it has the ten fields of a PAEvent."""
    return field_of(event, "lane_id")


def seq_of(event: Any) -> int:
    """The ``seq`` of an event of whatever type. Raises ConfigurationError where it is no whole number."""
    seq = field_of(event, "seq")
    if not isinstance(seq, int):
        raise ConfigurationError(f"{type(event).__name__} has {shown(seq)} as its seq: it must be a whole number")
    return seq


def payload_of(event: Any) -> dict[str, Any]:
    """The payload of an event of whatever type."""
    payload: dict[str, Any] = field_of(event, "payload")
    return payload


def field_of(event: Any, name: str) -> Any:
    """A field of an event, which may have it in its dict alone."""
    try:
        return getattr(event, name)
    except AttributeError:
        fields = event.to_dict()
        if name in fields:
            return fields[name]
    raise ConfigurationError(
        f"{type(event).__name__} has no {name}, neither as an attribute nor in its to_dict: it must have the ten"
        " fields of a PAEvent"
    )


def text_of(value: Any) -> Any:
    """The value of an enum's member; anything else as it is."""
    return value.value if isinstance(value, Enum) else value


class EventFilter:
    """True for the events of one lane, of some kinds, that a viewer may see; None asks nothing.

    Args:
        query: What is asked.

    Raises:
        ConfigurationError: No event could be what is asked: a single kind is no collection of them, say.
    """

    def __init__(self, query: FollowQuery) -> None:
        for name, text in (("lane_id", query.lane_id), ("visibility", query.visibility)):
            if text is not None and not isinstance(text_of(text), str):
                raise ConfigurationError(f"{name}={shown(text)}: pass a text, or None")
        kinds: Any = query.kinds
        if kinds is not None and (isinstance(kinds, str) or not _are_texts(kinds)):
            raise ConfigurationError(f"kinds={shown(kinds)}: pass a collection of texts, such as [kind], or None")
        self.lane_id = query.lane_id
        self.kinds = None if query.kinds is None else frozenset(map(text_of, query.kinds))
        self.visibility = text_of(query.visibility)

    def __call__(self, event: Any) -> bool:
        """Whether the event is wanted."""
        return (
            (self.lane_id is None or lane_of(event) == self.lane_id)
            and (self.kinds is None or text_of(field_of(event, "kind")) in self.kinds)
            and (self.visibility is None or may_see(self.visibility, text_of(field_of(event, "visibility"))))
        )


def _are_texts(kinds: Any) -> bool:
    return isinstance(kinds, Collection) and all(isinstance(text_of(kind), str) for kind in kinds)


class RunFilter:
    """True for the runs of one session, in one status, of some tags, of some time; None asks nothing."""

    def __init__(self, query: RunsQuery) -> None:
        self.session_id = query.session_id
        self.status = text_of(query.status)
        self.updated_after = query.updated_after
        self.updated_before = query.updated_before
        self.created_after = query.created_after
        self.tags = (query.tags or {}).items()
        self.former = query.parse_page()

    def __call__(self, info: RunInfo) -> bool:
        """Whether the run is wanted."""
        return (
            (self.session_id is None or info.session_id == self.session_id)
            and (self.status is None or info.status == self.status)
            and (self.updated_after is None or info.updated_at > self.updated_after)
            and (self.updated_before is None or info.updated_at < self.updated_before)
            and (self.created_after is None or info.created_at > self.created_after)
            and (self.former is None or _by_creation(info) > self.former)
            and self.tags <= info.tags.items()
        )


def arranged(infos: Iterable[RunInfo], query: RunsQuery) -> list[RunInfo]:
    """Those of some runs that are asked for, in the order in which they are to be given."""
    found = filter(RunFilter(query), infos)
    if query.page is not None:
        return sorted(found, key=_by_creation)[: query.limit]
    return sorted(found, key=lambda info: info.updated_at, reverse=True)[: query.limit]


def _by_creation(info: RunInfo) -> tuple[float, str]:
    return info.created_at, info.run_id
