"""A run in few numbers: what is counted where, and that it stays small and the same however the run is read."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest

from runstream import PAEvent, create_event
from runstream.history.summary import RunSummary
from runstream.history.tool_calls import ToolCalls
from runstream.history.usage import usage_of


def summary(events: list[PAEvent]) -> dict[str, Any]:
    made = RunSummary()
    for offset, event in enumerate(events, start=1):
        made.add(offset, event)
    return made.facts()


def event(kind: str, ts: float = 1e9, lane: str = "main", **payload: Any) -> PAEvent:
    return PAEvent("r", lane_id=lane, ts=ts, kind=kind, payload=payload)


USED = [
    ({"usage": {"input_tokens": 10, "output_tokens": 3}, "cost": Decimal("0.5")}, (10, 3, 0.5)),
    ({"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13, "estimated_cost_usd": 0.5}, (10, 3, 0.5)),
    ({"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 3}, (10, 3, 0)),
    ({"usage_metadata": {"input_tokens": 10, "output_tokens": 3, "total_tokens": 13}}, (10, 3, 0)),
    ({"total_tokens": 13}, (0, 13, 0)),
    ({"usage": None, "input_tokens": True, "output_tokens": "3", "cost": float("nan")}, (0, 0, 0)),
    ({"input_tokens": 10**400, "output_tokens": -1, "cost": Decimal("-Infinity")}, (0, 0, 0)),
]


@pytest.mark.parametrize(("payload", "used"), USED)
def test_tokens_and_cost_are_known_by_the_names_that_programs_give_them(
    payload: dict[str, Any], used: tuple[int, int, float]
) -> None:
    assert tuple(usage_of(event("model.response", **payload))) == used
    assert not any(usage_of(event("agent.finished", **payload)))  # a sum of what came before


def test_lanes_and_tools_have_their_own_totals() -> None:
    found = summary(
        [
            event("model.response", 1e9, "a", input_tokens=5, cost=0.25),
            event("tool.started", 1e9 + 1, "a", tool="search", call_id="1"),
            event("tool.started", 1e9 + 1, "b", tool="search"),
            event("tool.result", 1e9 + 3, "a", call_id="1", cost=0.5),
            event("tool.error", 1e9 + 2, "b"),
        ]
    )
    assert found["total"]["events"] == 5
    assert (found["total"]["cost"], found["total"]["errors"]) == (0.75, 1)
    a, b = found["lanes"]
    assert (a["lane_id"], a["events"], a["input_tokens"], a["first_offset"], a["last_offset"]) == ("a", 3, 5, 1, 4)
    assert (b["first_ts"], b["last_ts"]) == (1e9 + 1, 1e9 + 2)
    (tool,) = found["tools"]
    assert (tool["tool"], tool["calls"], tool["errors"], tool["seconds"], tool["cost"]) == (
        "search",
        2,
        1,
        3.0,
        0.5,
    )


@pytest.mark.parametrize("end", ["run.error", "agent.error"])
def test_a_call_that_its_agent_or_run_left_open_has_no_later_result(end: str) -> None:
    calls = [event("tool.started", 1e9, tool="old"), event(end, 1e9), event("tool.result", 1e9 + 5, tool="new")]
    assert [(tool["tool"], tool["seconds"]) for tool in summary(calls)["tools"]] == [("new", 0.0)]


def test_a_call_is_known_by_a_name_of_bounded_size() -> None:
    calls = ToolCalls()
    begun = [calls.note(event("tool.started", call_id="x" * 10**6 + end, tool="t" * 10**6)).call for end in "ab"]
    assert all(len(call.call_id) <= 200 and len(call.tool) <= 200 for call in begun)
    ended = [calls.note(event("tool.result", call_id="x" * 10**6 + end)) for end in "ab"]
    assert [(step.call, step.begins) for step in ended] == [(call, False) for call in begun]


def test_it_stays_small_whatever_a_run_holds() -> None:
    chance = random.Random(7)
    events = [
        event(
            f"kind-{number}" if number % 2 else "tool.started",
            chance.choice([0.0, -1.0, 1e300, float("inf"), 1e9 + chance.random() * 10 ** chance.randrange(9)]),
            f"lane {number}",
            tool="x" * number,
        )
        for number in range(3000)
    ]
    found = summary(events)
    assert sum(lane["events"] for lane in found["lanes"]) == sum(one["events"] for one in found["kinds"]) == 3000
    assert [len(lane["lane_id"]) for lane in found["lanes"] if lane["lane_id"]] == [
        len(f"lane {n}") for n in range(200)
    ]
    assert len(found["lanes"]) == len(found["kinds"]) == 201
    assert sum(len(lane["buckets"]) for lane in found["lanes"]) <= 4096
    starts = [bucket["start"] for lane in found["lanes"] for bucket in lane["buckets"]]
    assert 0 < min(starts) <= max(starts) < min(starts) + 256 * found["bucket_seconds"]


def test_buckets_keep_every_number_as_they_widen() -> None:
    chance = random.Random(8)
    events = [
        event("model.response", 1e9 + chance.random() ** 9 * 1e6, f"lane {number % 3}", input_tokens=number)
        for number in range(2000)
    ]
    for lane in summary(events)["lanes"]:
        for name, made in (("events", sum), ("input_tokens", sum), ("first_offset", min), ("last_ts", max)):
            assert made(bucket[name] for bucket in lane["buckets"]) == lane[name]
    again = events.copy()
    chance.shuffle(again)
    assert [
        len(lane["buckets"]) for lane in sorted(summary(again)["lanes"], key=lambda lane: lane["lane_id"])
    ] == [len(lane["buckets"]) for lane in summary(events)["lanes"]]


def test_what_does_not_read_is_counted_and_holds_up_nothing() -> None:
    made = RunSummary()
    made.add(1, {"kind": 5})
    made.add(2, b"\x00")
    made.add(3, create_event("r", "agent.progress"))
    assert (made.facts()["unreadable"], made.facts()["total"]["events"]) == (2, 1)
