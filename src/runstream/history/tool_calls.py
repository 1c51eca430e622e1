"""Which tool call an event is about: by its name, by the event that it came from, or the lane's last.

What is known of a call is of bounded size, whatever its producer names it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from runstream.history.usage import number_in
from runstream.model.events import EventKind
from runstream.operations.filters import field_of, payload_of, text_of

__all__ = ["AGENT_ENDS", "RUN_ENDS", "Step", "ToolCall", "ToolCalls", "first_text", "tool_of"]

RUN_ENDS = frozenset({EventKind.RUN_FINISHED, EventKind.RUN_ERROR})
AGENT_ENDS = frozenset({EventKind.AGENT_FINISHED, EventKind.AGENT_ERROR})
"""With these all calls of the run, or of the lane, have ended."""

_CALL_IDS = ("tool_call_id", "call_id", "id", "gen_ai.tool.call.id")
_TOOLS = ("tool", "name", "tool_name", "gen_ai.tool.name")
_ENDS = frozenset({EventKind.TOOL_RESULT, EventKind.TOOL_ERROR})
_LONGEST = 200
"""How much is kept of a name, in characters."""


class ToolCall(NamedTuple):
    """A call of a tool.

    Attributes:
        call_id: Its name in the run; of a very long one, the beginning and a digest.
        lane_id: The lane that its first event was in.
        tool: The tool; empty where its first event does not say which.
        ts: When its first event was, by its producer: Unix time in seconds; 0 where that is no time.
    """

    call_id: str
    lane_id: str
    tool: str
    ts: float


class Step(NamedTuple):
    """What an event is in a tool call: the first of it, or the last, or both."""

    call: ToolCall
    begins: bool
    ends: bool


class ToolCalls:
    """The tool calls of a run that have begun, and have not ended yet.

    Args:
        most: How many are known at most: then the oldest is taken to have no end. None: all.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._open: dict[str, ToolCall] = {}
        self._lanes: dict[str, dict[str, None]] = {}

    def note(self, event: Any) -> Step:
        """The call that an event of kind ``tool.*`` is about, which is known until it has ended."""
        kind, lane = str(text_of(field_of(event, "kind"))), str(field_of(event, "lane_id"))
        call_id = _bounded(self._call_of(kind, lane, event))
        call, begins = self._open.get(call_id), False
        if call is None:
            ts = number_in(field_of(event, "ts"))
            call, begins = ToolCall(call_id, lane, tool_of(payload_of(event)), ts), True
            self._open[call_id] = call
            self._lanes.setdefault(lane, {})[call_id] = None
        ends = kind in _ENDS
        if ends:
            self._drop(call)
        elif self._most is not None and len(self._open) > self._most:
            self._drop(next(iter(self._open.values())))
        return Step(call, begins, ends)

    def end(self, lane_id: str | None = None) -> list[ToolCall]:
        """The calls that are open, as all of them end, or (``lane_id``) those of a lane."""
        ids = self._open if lane_id is None else self._lanes.get(lane_id, {})
        found = [self._open[call_id] for call_id in ids]
        for call in found:
            self._drop(call)
        return found

    def _call_of(self, kind: str, lane: str, event: Any) -> str:
        named = first_text(payload_of(event), _CALL_IDS)
        if named:
            return named
        parent = str(field_of(event, "parent_span_id"))
        if _bounded(parent) in self._open:
            return parent
        if kind != EventKind.TOOL_STARTED and lane in self._lanes:
            return next(reversed(self._lanes[lane]))
        return str(field_of(event, "span_id"))

    def _drop(self, call: ToolCall) -> None:
        del self._open[call.call_id]
        of_lane = self._lanes[call.lane_id]
        del of_lane[call.call_id]
        if not of_lane:
            del self._lanes[call.lane_id]


def _bounded(name: str) -> str:
    """A name that is not too long, of another name another one."""
    if len(name) <= _LONGEST:
        return name
    return f"{name[:100]}…{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()}"


def tool_of(payload: Any) -> str:
    """The tool that a payload is about, in at most 200 characters; empty where it has none, or is no mapping."""
    return (first_text(payload, _TOOLS) or "")[:_LONGEST]


def first_text(payload: Any, names: tuple[str, ...]) -> str | None:
    """The first of some fields that is a text; None where the payload is no mapping."""
    if not isinstance(payload, Mapping):
        return None
    return next((value for name in names if isinstance(value := payload.get(name), str)), None)
