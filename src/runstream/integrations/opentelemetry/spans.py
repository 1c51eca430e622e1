"""A run as spans, by OpenTelemetry's semantic conventions for generative AI. Pure.

The run is a span, each lane of it is the invocation of an agent, and within these are calls of models and tools.
A span is given when its end is known, with an id that is made of the run's identity and the offset at which it
begins: so the same run gives the same spans however often it is read.

Source: https://github.com/open-telemetry/semantic-conventions-genai, v0.1.0 ("gen_ai.*", in development).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from runstream.codec.lossless_json import dump_json
from runstream.codec.record import TRACEPARENT
from runstream.history.tool_calls import AGENT_ENDS, RUN_ENDS, ToolCalls, first_text, tool_of
from runstream.history.usage import number_in, usage_of
from runstream.model.events import EventKind, PAEvent

__all__ = ["Attributes", "Link", "RunIdentity", "RunSpans", "Span", "SpanEvent"]

Attributes: TypeAlias = dict[str, "str | int | float | bool"]

_Role: TypeAlias = Literal["run", "agent", "chat", "tool"]

_MOST_EVENTS = 128
"""As many events as a span has by default in OpenTelemetry's own libraries."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_MODELS = ("gen_ai.request.model", "model", "model_name")
_PROVIDERS = ("gen_ai.provider.name", "provider", "gen_ai.system")
_AGENTS = ("gen_ai.agent.name", "agent", "agent_name")
_TYPES = ("type", "error_type", "error.type")
_MESSAGES = ("error", "message", "reason")
_IN_SPANS = ("text.", "tool.", "model.", "run.")
"""What begins with these is told by spans, or is pieces of a text; all else is an event of its agent's span."""


class RunIdentity(NamedTuple):
    """A run, and the random number of its creation."""

    run_id: str
    creation: int

    def trace_id(self, first: Mapping[str, Any]) -> bytes:
        """The trace that the run is in by its first event's fields: its caller's, or one that is the run."""
        context = _context(first)
        return self._digest("trace", 0)[:16] if context is None else context[0]

    def span_id(self, role: _Role, offset: int) -> bytes:
        """The span that begins with the event at an offset; 0: the run's first."""
        return self._digest(role, offset)[:8]

    def _digest(self, role: str, offset: int) -> bytes:
        name = self.run_id.encode(errors="surrogatepass")
        return hashlib.sha256(b"%s\x00%d\x00%d\x00%s" % (role.encode(), offset, self.creation, name)).digest()


class Link(NamedTuple):
    """Another span that a span has to do with."""

    trace_id: bytes
    span_id: bytes
    attributes: Attributes


class SpanEvent(NamedTuple):
    """A moment in a span, in nanoseconds of Unix time."""

    at: int
    name: str
    attributes: Attributes


@dataclass(slots=True)
class Span:
    """A span; times are nanoseconds of Unix time.

    Attributes:
        trace_id: Its trace.
        span_id: Its own id.
        parent_id: The span that it is in; empty for none.
        name: Its name, which many spans share.
        is_client: Whether it is a request to another program.
        start: When it began.
        end: When it ended.
        attributes: What is known of it.
        events: Moments in it.
        left_out: How many more there are.
        links: Other spans that it has to do with.
        error: What went wrong; None: nothing.
    """

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    name: str
    start: int
    end: int = 0
    is_client: bool = False
    attributes: Attributes = field(default_factory=dict)
    events: list[SpanEvent] = field(default_factory=list)
    left_out: int = 0
    links: list[Link] = field(default_factory=list)
    error: str | None = None


class RunSpans:
    """Makes the spans of a run, from its events in their order.

    Args:
        run: The run.
        session_id: Its session.
        parent: Of a fork, the link to the run that it comes from.
        has_content: Whether spans have what models and tools were given and gave, which may be confidential.
    """

    def __init__(
        self,
        run: RunIdentity,
        session_id: str = "",
        parent: Link | None = None,
        *,
        has_content: bool = False,
    ) -> None:
        self._run, self._session_id, self._parent, self._has_content = run, session_id, parent, has_content
        self._root: Span | None = None
        self._trace: bytes | None = None  # of the first root
        self._agents: dict[str, Span] = {}
        self._chats: dict[str, list[tuple[str, Span]]] = {}
        self._tools: dict[str, Span] = {}
        self._calls = ToolCalls()
        self._open: dict[str, Span] = {}  # by the span_id of the event that each began with
        self._begun_with: dict[bytes, str] = {}
        self._now = 0

    def add(self, offset: int, fields: Mapping[str, Any]) -> list[Span]:
        """The spans that end with an event.

        Args:
            offset: Its offset.
            fields: Its fields by name, as they are stored.
        """
        event = PAEvent.from_dict(fields)
        if ts := number_in(event.ts):
            self._now = int(min(ts, 9e9) * 1e9)
        self._begin_run(offset, event, fields)
        return list(self._added(offset, event, fields))

    def end(self) -> list[Span]:
        """The spans that are open, as the run has ended."""
        return list(self._end_run(None))

    def _added(self, offset: int, event: PAEvent, fields: Mapping[str, Any]) -> Iterator[Span]:
        kind, lane = str(event.kind), event.lane_id
        if kind in RUN_ENDS:
            yield from self._end_run(event)
            return
        if not kind.startswith("run."):
            self._begin_agent(offset, event, fields)
        if kind.startswith("tool."):
            yield from self._tool(offset, event, fields)
        elif kind == EventKind.MODEL_REQUEST:
            self._chats.setdefault(lane, []).append((event.span_id, self._chat(offset, event, fields)))
        elif kind == EventKind.MODEL_RESPONSE:
            yield self._end_chat(offset, event, fields)
        elif kind in AGENT_ENDS:
            yield from self._end_agent(lane, event)
        elif kind != EventKind.AGENT_STARTED and not kind.startswith(_IN_SPANS):
            self._note(self._agents[lane], kind, offset)

    # -- the run and its agents --------------------------------------------------------------------

    def _begin_run(self, offset: int, event: PAEvent, fields: Mapping[str, Any]) -> None:
        if self._root is not None:
            return
        is_first, trace, caller = self._trace is None, self._run.trace_id(fields), _context(fields)
        span_id = self._run.span_id("run", 0 if is_first else offset)
        self._root = Span(trace, span_id, b"" if caller is None else caller[1], "invoke_workflow", self._now)
        self._root.attributes |= {"gen_ai.operation.name": "invoke_workflow", "runstream.run_id": self._run.run_id}
        if session := self._session_id or event.session_id:
            self._root.attributes["gen_ai.conversation.id"] = session
        if self._trace is None:
            self._trace = trace
            self._root.links += [] if self._parent is None else [self._parent]
        else:
            again: Attributes = {"runstream.reopened_at": offset}
            self._root.links.append(Link(self._trace, self._run.span_id("run", 0), again))

    def _end_run(self, event: PAEvent | None) -> Iterator[Span]:
        for lane in list(self._agents):
            yield from self._end_agent(lane, None)
        root, self._root = self._root, None
        if root is not None:
            yield self._ended(root, event, has_failed=event is not None and event.kind == EventKind.RUN_ERROR)

    def _begin_agent(self, offset: int, event: PAEvent, fields: Mapping[str, Any]) -> None:
        lane = event.lane_id
        if lane not in self._agents:
            name = first_text(event.payload, _AGENTS) or lane
            span = self._begin("agent", offset, event, fields, f"invoke_agent {name}")
            span.attributes |= {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": name}
            self._agents[lane] = span

    def _end_agent(self, lane: str, event: PAEvent | None) -> Iterator[Span]:
        for _, chat in self._chats.pop(lane, ()):
            yield self._ended(chat, None)
        for call in self._calls.end(lane):
            yield self._ended(self._tools.pop(call.call_id), None)
        has_failed = event is not None and event.kind == EventKind.AGENT_ERROR
        yield self._ended(self._agents.pop(lane), event, has_failed=has_failed)

    # -- what agents call --------------------------------------------------------------------------

    def _chat(self, offset: int, event: PAEvent, fields: Mapping[str, Any]) -> Span:
        model = first_text(event.payload, _MODELS) or ""
        span = self._begin("chat", offset, event, fields, f"chat {model}".strip())
        span.is_client = True
        span.attributes["gen_ai.operation.name"] = "chat"
        if model:
            span.attributes["gen_ai.request.model"] = model
        if provider := first_text(event.payload, _PROVIDERS):
            span.attributes["gen_ai.provider.name"] = provider
        if self._has_content and (messages := event.payload.get("messages")) is not None:
            span.attributes["gen_ai.input.messages"] = dump_json(messages)
        return span

    def _end_chat(self, offset: int, event: PAEvent, fields: Mapping[str, Any]) -> Span:
        waiting = self._chats.get(event.lane_id, [])
        asked = next((one for one in waiting if one[0] == event.parent_span_id), waiting[-1] if waiting else None)
        if asked is None:
            span = self._chat(offset, event, fields)
        else:
            waiting.remove(asked)
            span = asked[1]
        if model := first_text(event.payload, _MODELS):
            span.attributes["gen_ai.response.model"] = model
        if self._has_content and (text := first_text(event.payload, ("text", "content"))) is not None:
            message = {"role": "assistant", "parts": [{"type": "text", "content": text}], "finish_reason": "stop"}
            span.attributes["gen_ai.output.messages"] = dump_json([message])
        return self._ended(span, event)

    def _tool(self, offset: int, event: PAEvent, fields: Mapping[str, Any]) -> Iterator[Span]:
        call, begins, ends = self._calls.note(event)
        name = call.tool or tool_of(event.payload)
        if begins:
            span = self._begin("tool", offset, event, fields, f"execute_tool {name}".strip())
            span.attributes |= {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.call.id": call.call_id}
            self._tools[call.call_id] = span
        span = self._tools[call.call_id]
        if name:
            span.name, span.attributes["gen_ai.tool.name"] = f"execute_tool {name}", name
        if self._has_content and (arguments := event.payload.get("args")) is not None:
            span.attributes["gen_ai.tool.call.arguments"] = dump_json(arguments)
        if ends:
            del self._tools[call.call_id]
            has_failed = event.kind == EventKind.TOOL_ERROR
            if self._has_content and not has_failed:
                result = event.payload.get("result", event.payload)
                span.attributes["gen_ai.tool.call.result"] = dump_json(result)
            yield self._ended(span, event, has_failed=has_failed)

    # -- spans -------------------------------------------------------------------------------------

    def _begin(self, role: _Role, offset: int, event: PAEvent, fields: Mapping[str, Any], name: str) -> Span:
        assert self._root is not None  # noqa: S101 - an event begins the run, if nothing has
        around = self._open.get(event.parent_span_id) if event.parent_span_id else None
        if role != "agent" and (around is None or around.attributes["runstream.lane_id"] != event.lane_id):
            around = self._agents[event.lane_id]  # what its lane was called from is around the agent
        parent = self._root if around is None else around
        span = Span(self._root.trace_id, self._run.span_id(role, offset), parent.span_id, name, self._now)
        span.attributes |= {"runstream.lane_id": event.lane_id, "runstream.offset": offset}
        context = _context(fields)
        if context is not None and context[1] != self._root.parent_id:
            span.links.append(Link(*context, {}))
        self._open[event.span_id], self._begun_with[span.span_id] = span, event.span_id
        return span

    def _ended(self, span: Span, event: PAEvent | None, *, has_failed: bool = False) -> Span:
        span.end = max(span.start, self._now)
        self._open.pop(self._begun_with.pop(span.span_id, ""), None)
        if event is not None:
            used = usage_of(event)
            if used.input_tokens or used.output_tokens:
                span.attributes["gen_ai.usage.input_tokens"] = used.input_tokens
                span.attributes["gen_ai.usage.output_tokens"] = used.output_tokens
            if used.cost:
                span.attributes["gen_ai.usage.cost"] = used.cost
            if has_failed:
                span.error = first_text(event.payload, _MESSAGES) or ""
                span.attributes["error.type"] = first_text(event.payload, _TYPES) or "_OTHER"
        return span

    def _note(self, span: Span, name: str, offset: int) -> None:
        if len(span.events) < _MOST_EVENTS:
            span.events.append(SpanEvent(self._now, name, {"runstream.offset": offset}))
        else:
            span.left_out += 1


def _context(fields: Mapping[str, Any]) -> tuple[bytes, bytes] | None:
    """The trace and the span in which an event was recorded (W3C Trace Context)."""
    text = fields.get(TRACEPARENT)
    found = _TRACEPARENT.fullmatch(text) if isinstance(text, str) else None
    if found is None or not (int(found[1], 16) and int(found[2], 16)):
        return None
    return bytes.fromhex(found[1]), bytes.fromhex(found[2])
