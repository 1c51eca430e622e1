"""Events: one immutable :class:`PAEvent` for each thing that an agent did.

Equal in shape to the events of purpose-agent's runtime, so that either library's events go through
either library's stores. Two things differ on purpose: a kind or visibility that this version does
not know is kept as a plain string instead of refused, and nothing is lost on a round trip.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any, TypeVar

from runstream.model.clock import unix_seconds
from runstream.model.json_text import dump_fields, load_fields

__all__ = [
    "HIGHEST_SEQ",
    "TERMINAL_KINDS",
    "EventKind",
    "PAEvent",
    "Visibility",
    "create_event",
    "may_see",
    "member_or_text",
]

_Member = TypeVar("_Member", bound=Enum)

HIGHEST_SEQ = 2**63 - 1
"""The highest ``seq`` that an event may have; a record that does not read may have any."""


def member_or_text(members: type[_Member], value: Any) -> _Member | Any:
    """Turn a value into the enum's member for it; a value that this version does not know stays as it is.

    Args:
        members: The enum.
        value: What a record holds.

    Returns:
        The member, or the value itself.
    """
    found = members._value2member_map_.get(value)
    return value if found is None else found


def _new_span_id() -> str:
    return secrets.token_bytes(6).hex()


class Visibility(StrEnum):
    """Who may see an event."""

    PUBLIC = "public"
    """Anybody: a user interface, logs, other programs."""
    INTERNAL = "internal"
    """The framework: memory, optimisation, bookkeeping."""
    DEBUG = "debug"
    """Developers; never in a production stream."""


_LEVELS = {member.value: level for level, member in enumerate(Visibility)}


def may_see(viewer: str | None, visibility: str) -> bool:
    """Whether a viewer may see an event: each sees its own level and those before it: public, internal, debug.

    A visibility that this version does not know is seen by a viewer of that very name alone, and who views under
    such a name sees what is public besides.

    Args:
        viewer: Who looks, as text: the highest visibility that he may see; None: everybody's and everything.
        visibility: That of the event, as text.
    """
    if viewer is None or viewer == visibility:
        return True
    return _LEVELS.get(visibility, len(_LEVELS)) <= _LEVELS.get(viewer, 0)


class EventKind(StrEnum):
    """What happened: the event kinds of purpose-agent 3.0.1."""

    RUN_STARTED = "run.started"
    RUN_FINISHED = "run.finished"
    RUN_ERROR = "run.error"

    AGENT_STARTED = "agent.started"
    AGENT_PROGRESS = "agent.progress"
    AGENT_FINISHED = "agent.finished"
    AGENT_ERROR = "agent.error"

    REASONING_SUMMARY = "reasoning.summary"

    MODEL_REQUEST = "model.request"
    MODEL_RESPONSE = "model.response"

    TEXT_DELTA = "text.delta"
    TEXT_DONE = "text.done"

    TOOL_STARTED = "tool.started"
    TOOL_ARGS = "tool.args"
    TOOL_RESULT = "tool.result"
    TOOL_ERROR = "tool.error"

    STATE_SNAPSHOT = "state.snapshot"
    STATE_DELTA = "state.delta"

    CHECKPOINT_SAVED = "checkpoint.saved"

    HUMAN_APPROVAL_REQUESTED = "human.approval.requested"
    HUMAN_APPROVAL_RECEIVED = "human.approval.received"

    MEMORY_CANDIDATE = "memory.candidate"
    MEMORY_PROMOTED = "memory.promoted"
    MEMORY_ARCHIVED = "memory.archived"

    SKILL_SELECTED = "skill.selected"
    SKILL_UPDATED = "skill.updated"
    SKILL_ROLLBACK = "skill.rollback"


TERMINAL_KINDS = frozenset(
    {EventKind.RUN_FINISHED, EventKind.RUN_ERROR, EventKind.AGENT_FINISHED, EventKind.AGENT_ERROR}
)
"""Kinds that close a run or an agent, which a transport must not drop under pressure."""

_ERROR_KINDS = frozenset({EventKind.RUN_ERROR, EventKind.AGENT_ERROR, EventKind.TOOL_ERROR})
_HIDDEN_REASONING = frozenset({"hidden_chain_of_thought", "raw_cot", "internal_reasoning", "think_content"})


@dataclass(frozen=True)
class PAEvent:
    """One event of a run. It cannot be changed once it is made.

    Attributes:
        run_id: The run that it belongs to: a string of 1 to 512 bytes of UTF-8.
        session_id: The session that the run belongs to.
        lane_id: The lane of the run, one parallel line of work, that it belongs to.
        span_id: Names this event for others to refer to.
        parent_span_id: The ``span_id`` of the event that this one came from.
        seq: The producer's own count, which rises within a lane. It is not the event's position in the run: that
            is the offset, which the store gives.
        ts: When it happened: Unix time in seconds.
        kind: What happened; a plain string where this version knows no such kind.
        visibility: Who may see it; a plain string where this version knows no such visibility.
        payload: The event's own data.
    """

    run_id: str
    session_id: str = ""
    lane_id: str = "main"
    span_id: str = field(default_factory=_new_span_id)
    parent_span_id: str | None = None
    seq: int = 0
    ts: float = field(default_factory=unix_seconds)
    kind: EventKind | str = EventKind.AGENT_PROGRESS
    visibility: Visibility | str = Visibility.PUBLIC
    payload: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Give the ten fields as plain data. The payload is the event's own, not a copy.

        Returns:
            The fields by name; kind and visibility as strings.
        """
        fields = dict(self.__dict__)
        for name in ("kind", "visibility"):
            if isinstance(fields[name], Enum):
                fields[name] = fields[name].value
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> PAEvent:
        """Make an event from its fields.

        Args:
            fields: What ``to_dict`` gives. Other keys are left out; absent ones take their defaults.

        Returns:
            The event.

        Raises:
            KeyError: There is no ``run_id`` or no ``kind``.
        """
        known = {name: fields[name] for name in cls.__dataclass_fields__ if name in fields}
        known["kind"] = member_or_text(EventKind, fields["kind"])
        if "visibility" in known:
            known["visibility"] = member_or_text(Visibility, known["visibility"])
        return cls(run_id=fields["run_id"], **{name: known[name] for name in known if name != "run_id"})

    def to_json(self) -> str:
        """Give the event as JSON text, as archives and ``runstream export`` have it.

        What JSON has no type for is tagged (``{"$decimal": "0.10"}``; docs/formats.md has the tags), so that
        ``from_json`` gives an equal event. Values that a store turns into plain data are plain data here too.

        Returns:
            One JSON object, on one line.

        Raises:
            EncodingError: The payload holds a value that no store takes.
        """
        return dump_fields(self.to_dict())

    @classmethod
    def from_json(cls, text: str | bytes) -> PAEvent:
        """Make an event from its JSON text.

        Args:
            text: What ``to_json`` gives.

        Returns:
            The event.

        Raises:
            ValueError: It is no such text.
            KeyError: There is no ``run_id`` or no ``kind`` in it.
        """
        return cls.from_dict(load_fields(text))

    @property
    def is_terminal(self) -> bool:
        """Whether this event closes its run or its agent: its kind is one of ``TERMINAL_KINDS``."""
        return self.kind in TERMINAL_KINDS

    @property
    def is_error(self) -> bool:
        """Whether this event reports that a run, an agent or a tool failed."""
        return self.kind in _ERROR_KINDS

    def has_hidden_cot(self) -> bool:
        """Whether the payload has a key that is reserved for raw chains of thought."""
        return not _HIDDEN_REASONING.isdisjoint(self.payload)


def create_event(
    run_id: str,
    kind: EventKind | str,
    lane_id: str = "main",
    seq: int = 0,
    parent_span_id: str | None = None,
    visibility: Visibility | str = Visibility.PUBLIC,
    **payload: Any,
) -> PAEvent:
    """Make an event that happens now.

    Args:
        run_id: The run that it belongs to.
        kind: What happened.
        lane_id: The lane that it belongs to.
        seq: The producer's own count within the lane.
        parent_span_id: The ``span_id`` of the event that this one came from.
        visibility: Who may see it.
        **payload: The event's own data, by name.

    Returns:
        The event.
    """
    return PAEvent(
        run_id=run_id,
        lane_id=lane_id,
        seq=seq,
        parent_span_id=parent_span_id,
        kind=kind,
        visibility=visibility,
        payload=payload,
    )
