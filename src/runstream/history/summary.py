"""A run in few numbers: its events, tokens and cost by lane and time, and its tools. Pure, and of bounded size.

Time is cut into buckets whose width is a power of two of seconds, as they lie on the clock: the same run has the
same ones, in whatever parts it is read. Where there would be too many, two that are beside each other become one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

from runstream.history.tool_calls import AGENT_ENDS, RUN_ENDS, ToolCalls, tool_of
from runstream.history.usage import NOTHING_USED, Usage, number_in, usage_of
from runstream.operations.filters import field_of, payload_of, text_of

__all__ = ["RunSummary"]

_MOST_BUCKETS = 256
_MOST_CELLS = 4096
_MOST_NAMES = 200
_MOST_OPEN_CALLS = 1000
_NAME_LENGTH = 200
_NARROWEST = -4
"""The width of a bucket at first is two to the power of this, in seconds."""

_LATEST = 1e11  # seconds; a producer may write any number as the time of an event


@dataclass(slots=True)
class _Counts:
    """Some events of a run; times are Unix times in seconds, as producers wrote them."""

    events: int = 0
    errors: int = 0
    first_offset: int | None = None
    last_offset: int | None = None
    first_ts: float | None = None
    last_ts: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0

    def add(self, offset: int, ts: float | None, used: Usage, *, is_error: bool) -> None:
        self.events += 1
        self.errors += is_error
        self.first_offset = offset if self.first_offset is None else self.first_offset
        self.last_offset = offset
        if ts is not None:
            self.first_ts = ts if self.first_ts is None else min(self.first_ts, ts)
            self.last_ts = ts if self.last_ts is None else max(self.last_ts, ts)
        if used is not NOTHING_USED:
            self.input_tokens += used.input_tokens
            self.output_tokens += used.output_tokens
            self.cost += used.cost

    def merge(self, other: _Counts) -> None:
        for name in ("events", "errors", "input_tokens", "output_tokens", "cost"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, choose in (("first_offset", min), ("first_ts", min), ("last_offset", max), ("last_ts", max)):
            known = [one for one in (getattr(self, name), getattr(other, name)) if one is not None]
            setattr(self, name, choose(known) if known else None)


@dataclass(slots=True)
class _Tool:
    """The calls of a tool that have ended; ``seconds`` is how long they took in all."""

    calls: int = 0
    errors: int = 0
    seconds: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


_COUNTS = tuple(one.name for one in fields(_Counts))
_OF_TOOL = tuple(one.name for one in fields(_Tool))
_counts_of, _tool_numbers = attrgetter(*_COUNTS), attrgetter(*_OF_TOOL)


class RunSummary:
    """What is known of the events of a run that have been added, in their order.

    Whatever a run holds, it has at most 256 buckets of time, 4,096 of all lanes together, and 200 lanes, tools and
    kinds by name; what comes beyond is counted together, under no name.
    """

    def __init__(self) -> None:
        self._total = _Counts()
        self._lanes: dict[str | None, _Counts] = {}
        self._buckets: dict[str | None, dict[int, _Counts]] = {}
        self._cells = 0
        self._width = _NARROWEST
        self._first = self._last = 0  # the buckets that there are lie between these
        self._kinds: dict[str | None, int] = {}
        self._tools: dict[str | None, _Tool] = {}
        self._calls = ToolCalls(_MOST_OPEN_CALLS)
        self._unreadable = 0

    def add(self, offset: int, event: Any) -> None:
        """Add the event of an offset: an event of whatever type, or what a record that does not read is given as.

        Args:
            offset: Its offset.
            event: The event; a dict or bytes for a record that does not read.
        """
        if isinstance(event, dict | bytes):
            self._unreadable += 1
            return
        kind, ts, used = str(text_of(field_of(event, "kind"))), _time(field_of(event, "ts")), usage_of(event)
        is_error = kind.endswith(".error")
        lane = _name(str(field_of(event, "lane_id")), self._lanes)
        self._total.add(offset, ts, used, is_error=is_error)
        self._lanes.setdefault(lane, _Counts()).add(offset, ts, used, is_error=is_error)
        if ts is not None:
            self._cell(lane, ts).add(offset, ts, used, is_error=is_error)
            self._widen()
        kind_name = _name(kind, self._kinds)
        self._kinds[kind_name] = self._kinds.get(kind_name, 0) + 1
        if kind.startswith("tool."):
            self._add_tool(event, ts, used, is_error=is_error)
        elif kind in RUN_ENDS:
            self._calls.end()
        elif kind in AGENT_ENDS:
            self._calls.end(str(field_of(event, "lane_id")))

    def facts(self) -> dict[str, Any]:
        """The numbers, for JSON."""
        width = 2.0**self._width
        return {
            "bucket_seconds": width,
            "total": _facts(self._total),
            "lanes": [
                {
                    "lane_id": lane,
                    **_facts(counts),
                    "buckets": [
                        {"start": number * width, **_facts(cell)}
                        for number, cell in sorted(self._buckets.get(lane, {}).items())
                    ],
                }
                for lane, counts in self._lanes.items()
            ],
            "tools": [
                {"tool": name, **dict(zip(_OF_TOOL, _tool_numbers(tool), strict=True))}
                for name, tool in self._tools.items()
            ],
            "kinds": [{"kind": name, "events": events} for name, events in self._kinds.items()],
            "unreadable": self._unreadable,
        }

    def _cell(self, lane: str | None, ts: float) -> _Counts:
        number, of_lane = math.floor(ts / 2.0**self._width), self._buckets.setdefault(lane, {})
        if not self._cells:
            self._first = self._last = number
        self._first, self._last = min(self._first, number), max(self._last, number)
        if number not in of_lane:
            of_lane[number] = _Counts()
            self._cells += 1
        return of_lane[number]

    def _widen(self) -> None:
        while self._last - self._first >= _MOST_BUCKETS or self._cells > _MOST_CELLS:
            self._width += 1
            self._first, self._last, self._cells = self._first // 2, self._last // 2, 0
            for lane, cells in self._buckets.items():
                wider: dict[int, _Counts] = {}
                for number, cell in cells.items():
                    if number // 2 in wider:
                        wider[number // 2].merge(cell)
                    else:
                        wider[number // 2] = cell
                self._buckets[lane] = wider
                self._cells += len(wider)

    def _add_tool(self, event: Any, ts: float | None, used: Usage, *, is_error: bool) -> None:
        call, _, ends = self._calls.note(event)
        if not ends and used is NOTHING_USED:
            return
        name = _name(call.tool or tool_of(payload_of(event)), self._tools)
        tool = self._tools.setdefault(name, _Tool())
        tool.input_tokens += used.input_tokens
        tool.output_tokens += used.output_tokens
        tool.cost += used.cost
        if ends:
            tool.calls += 1
            tool.errors += is_error
            began = _time(call.ts)
            tool.seconds += 0.0 if ts is None or began is None else max(0.0, ts - began)


def _facts(counts: _Counts) -> dict[str, Any]:
    return dict(zip(_COUNTS, _counts_of(counts), strict=True))  # asdict copies each, and takes ten times as long


def _time(ts: Any) -> float | None:
    """The time of an event; None for one that says none, which would stretch all others."""
    found = number_in(ts)
    return float(found) if 0 < found < _LATEST else None


def _name(name: str, known: dict[str | None, Any]) -> str | None:
    """The name under which something is counted."""
    name = name[:_NAME_LENGTH]
    return name if name in known or len(known) < _MOST_NAMES else None
