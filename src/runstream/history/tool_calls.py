"""Which tool call an event is about: by its name, by the event that it came from, or the lane's last."""

from __future__ import annotations

from typing import Any, NamedTuple

from runstream.model.events import EventKind
from runstream.operations.filters import field_of, payload_of, text_of

__all__ = ["Step", "ToolCall", "ToolCalls", "first_text", "tool_of"]

_CALL_IDS = ("tool_call_id", "call_id", "id", "gen_ai.tool.call.id")
_TOOLS = ("tool", "name", "tool_name", "gen_ai.tool.name")
_ENDS = frozenset({EventKind.TOOL_RESULT, EventKind.TOOL_ERROR})


class ToolCall(NamedTuple):
    """A call of a tool.

    Attributes:
        call_id: Its name in the run.
        lane_id: The lane that its first event was in.
        tool: The tool; empty where its first event does not say which.
        ts: When its first event was: Unix time in seconds, as its producer wrote it.
    """

    call_id: str
    lane_id: str
    tool: str
    ts: Any


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
        call_id = self._call_of(kind, lane, event)
        call, begins = self._open.get(call_id), False
        if call is None:
            call, begins = ToolCall(call_id, lane, tool_of(payload_of(event)), field_of(event, "ts")), True
            self._open[call_id] = call
            self._lanes.setdefault(lane, {})[call_id] = None
        ends = kind in _ENDS
        if ends:
            self._drop(call)
        elif self._most is not None and len(self._open) > self._most:
            self._drop(next(iter(self._open.values())))
        return Step(call, begins, ends)

    def end(self) -> list[ToolCall]:
        """The calls that are open, as all of them end."""
        found = list(self._open.values())
        self._open.clear()
        self._lanes.clear()
        return found

    def _call_of(self, kind: str, lane: str, event: Any) -> str:
        named = first_text(payload_of(event), _CALL_IDS)
        if named:
            return named
        parent = field_of(event, "parent_span_id")
        if parent in self._open:
            return str(parent)
        if kind != EventKind.TOOL_STARTED and lane in self._lanes:
            return next(reversed(self._lanes[lane]))
        return str(field_of(event, "span_id"))

    def _drop(self, call: ToolCall) -> None:
        del self._open[call.call_id]
        of_lane = self._lanes[call.lane_id]
        del of_lane[call.call_id]
        if not of_lane:
            del self._lanes[call.lane_id]


def tool_of(payload: dict[str, Any]) -> str:
    """The name of the tool that a payload is about; empty where it has none."""
    return first_text(payload, _TOOLS) or ""


def first_text(payload: dict[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of some fields that is a text."""
    return next((value for name in names if isinstance(value := payload.get(name), str)), None)
