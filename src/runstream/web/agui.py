"""A run as AG-UI events (https://docs.ag-ui.com), with the official models: any front end of AG-UI shows it.

One event of ours becomes none, one or several: a text message is started with the first piece of it, and ended by
what the lane does next. What AG-UI has no event for is a custom one, under the kind that it has here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ag_ui.core import (
    BaseEvent,
    CustomEvent,
    RunErrorEvent,
    RunFinishedEvent,
    RunStartedEvent,
    StateDeltaEvent,
    StateSnapshotEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
)
from pydantic import ValidationError

from runstream.codec.lossless_json import dump_json
from runstream.history.tool_calls import AGENT_ENDS, RUN_ENDS, ToolCalls, first_text
from runstream.model.events import EventKind
from runstream.operations.filters import field_of, payload_of, text_of

__all__ = ["AgUiRun"]

_TEXTS = ("text", "delta", "content")


class AgUiRun:
    """Tells a run in AG-UI events: what comes of each event depends on those before it.

    Args:
        run_id: The run.
        thread_id: What AG-UI calls a thread: its session, or the run itself.
    """

    def __init__(self, run_id: str, thread_id: str) -> None:
        self._run_id, self._thread_id = run_id, thread_id or run_id
        self._is_running = False
        self._texts: dict[str, str] = {}
        self._calls = ToolCalls()

    def tell(self, event: Any) -> list[BaseEvent]:
        """What an event says in AG-UI, the run's start before it if that has not been told."""
        kind = str(text_of(field_of(event, "kind")))
        return list(self._told(kind, event))

    def end(self, status: str) -> list[BaseEvent]:
        """The end of a run that no event of its own has told: a snapshot has ended it."""
        return list(self._end(status in {"completed", "cancelled"}, status)) if self._is_running else []

    def fail(self, title: str, detail: str) -> list[BaseEvent]:
        """That it cannot be told any further."""
        found = list(self._begin())
        self._is_running = False
        return [*found, RunErrorEvent(message=detail, code=title)]

    def custom(self, name: str, value: Any) -> list[BaseEvent]:
        """What AG-UI has no event for."""
        return [*self._begin(), CustomEvent(name=name, value=value)]

    def _told(self, kind: str, event: Any) -> Iterator[BaseEvent]:
        lane, payload = str(field_of(event, "lane_id")), payload_of(event)
        yield from self._begin()
        if kind != EventKind.TEXT_DELTA:
            yield from self._end_text(lane, payload if kind == EventKind.TEXT_DONE else {}, event)
        if kind == EventKind.TEXT_DELTA:
            yield from self._text(lane, first_text(payload, _TEXTS), event)
        elif kind in RUN_ENDS:
            yield from self._end(kind == EventKind.RUN_FINISHED, _message(payload))
        elif kind.startswith("tool."):
            yield from self._tool(kind, payload, event)
        elif kind not in {EventKind.RUN_STARTED, EventKind.TEXT_DONE}:
            if kind in AGENT_ENDS:
                yield from self._end_calls(lane)
            yield _state(kind, payload) or CustomEvent(name=kind, value=_plain(payload))

    def _begin(self) -> Iterator[BaseEvent]:
        if not self._is_running:
            self._is_running = True
            yield RunStartedEvent(run_id=self._run_id, thread_id=self._thread_id)

    def _end(self, is_fine: bool, message: str) -> Iterator[BaseEvent]:
        for lane in list(self._texts):
            yield TextMessageEndEvent(message_id=self._texts.pop(lane))
        yield from self._end_calls()
        self._is_running = False
        if is_fine:
            yield RunFinishedEvent(run_id=self._run_id, thread_id=self._thread_id)
        else:
            yield RunErrorEvent(message=message or "the run has failed")

    def _end_calls(self, lane: str | None = None) -> Iterator[BaseEvent]:
        for call in self._calls.end(lane):
            yield ToolCallEndEvent(tool_call_id=call.call_id)

    def _text(self, lane: str, text: str | None, event: Any) -> Iterator[BaseEvent]:
        if not text:
            return
        if lane not in self._texts:
            self._texts[lane] = str(field_of(event, "span_id"))
            yield TextMessageStartEvent(message_id=self._texts[lane], role="assistant")
        yield TextMessageContentEvent(message_id=self._texts[lane], delta=text)

    def _end_text(self, lane: str, payload: dict[str, Any], event: Any) -> Iterator[BaseEvent]:
        if lane not in self._texts:  # text that comes at once
            yield from self._text(lane, first_text(payload, _TEXTS), event)
        if lane in self._texts:
            yield TextMessageEndEvent(message_id=self._texts.pop(lane))

    def _tool(self, kind: str, payload: dict[str, Any], event: Any) -> Iterator[BaseEvent]:
        (call_id, _, tool, _), begins, ends = self._calls.note(event)
        if begins:
            yield ToolCallStartEvent(tool_call_id=call_id, tool_call_name=tool or "tool")
        if (
            kind in {EventKind.TOOL_STARTED, EventKind.TOOL_ARGS}
            and (arguments := payload.get("args")) is not None
        ):
            delta = arguments if isinstance(arguments, str) else dump_json(arguments)
            if delta:
                yield ToolCallArgsEvent(tool_call_id=call_id, delta=delta)
        if ends:
            yield ToolCallEndEvent(tool_call_id=call_id)
            message, content = str(field_of(event, "span_id")), dump_json(payload)
            yield ToolCallResultEvent(message_id=message, tool_call_id=call_id, content=content, role="tool")


def _state(kind: str, payload: dict[str, Any]) -> BaseEvent | None:
    """A state or a change of it, as JSON Patch (RFC 6902); None for what is neither."""
    try:
        if kind == EventKind.STATE_SNAPSHOT:
            return StateSnapshotEvent(snapshot=_plain(payload.get("state", payload)))
        if kind == EventKind.STATE_DELTA:
            return StateDeltaEvent(delta=_plain(payload.get("delta", payload.get("patch"))))
    except ValidationError:
        pass
    return None


def _message(payload: dict[str, Any]) -> str:
    return first_text(payload, ("error", "message", "reason")) or (dump_json(payload) if payload else "")


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    return json.loads(dump_json(value))
