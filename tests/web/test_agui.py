"""A run as AG-UI events: of the protocol's own models, in its order, and resumed at each of them."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from ag_ui.core import Event, ToolCallStartEvent
from pydantic import TypeAdapter

import runstream
import runstream.web
from runstream.web.agui import AgUiRun
from runstream.web.path_ids import path_id
from tests.support.web_server import Frame, frames_of, serving

STREAM = f"/runs/{path_id('r')}/stream?format=ag-ui"
EVENTS: TypeAdapter[Any] = TypeAdapter(Event)


@pytest.fixture
def store() -> Iterator[Any]:
    with runstream.connect(f"fake:{uuid.uuid4().hex}") as store:
        yield store


@pytest.fixture
def replicas(store: Any) -> Iterator[list[httpx.Client]]:
    with ExitStack() as opened:
        yield [opened.enter_context(serving(runstream.web.app(store))) for _ in range(2)]


def talk(store: Any) -> None:
    """Two lanes that speak and call tools, a state and its change, and a question."""
    with store.open_run("r", session_id="s") as run, store.open_run("r", lane_id="two") as other:
        run.emit("run.started")
        run.emit("text.delta", text="Hel")
        other.emit("text.delta", text="I ")
        run.emit("text.delta", text="lo")
        other.emit("text.delta", text="search")
        run.emit("text.done")
        call = other.emit("tool.started", tool="search", args={"q": "hotel"})
        run.emit("tool.started", name="pay", args="{}", call_id="c1")
        other.emit("tool.result", parent_span_id=call.event.span_id, rooms={101, 102})
        run.emit("tool.error", call_id="c1", error="no money")
        run.emit("tool.result", name="once", result=1)
        run.emit("state.snapshot", state={"step": 1})
        run.emit("state.delta", delta=[{"op": "replace", "path": "/step", "value": 2}])
        run.emit("state.delta", other="no patch")
        run.emit("human.approval.requested", question="Go on?")
        run.emit("text.done", text="all at once")
        run.emit("text.delta", text="left open")
        run.emit("agent.progress", visibility="internal", secret=True)
        run.finish()


def received(client: httpx.Client, last_id: str = "", most: int = 1000) -> list[Frame]:
    found: list[Frame] = []
    with client.stream("GET", STREAM, headers={"Last-Event-ID": last_id} if last_id else {}) as response:
        for frame in frames_of(response):
            found.append(frame)
            if len(found) == most:
                break
    return found


def check_order(events: list[Any]) -> None:
    """What the protocol says of the order: a run begins first and ends last; what is started is ended, once."""
    kinds = [event["type"] for event in events]
    assert kinds[0] == "RUN_STARTED"
    assert kinds[-1] in {"RUN_FINISHED", "RUN_ERROR"}
    assert not {"RUN_STARTED", "RUN_FINISHED", "RUN_ERROR"} & set(kinds[1:-1])
    open_ones: set[tuple[str, str]] = set()
    for event in events:
        kind = event["type"]
        for what, key in (("TEXT_MESSAGE", "messageId"), ("TOOL_CALL", "toolCallId")):
            if kind == f"{what}_START":
                assert (what, event[key]) not in open_ones
                open_ones.add((what, event[key]))
            elif kind in {f"{what}_CONTENT", f"{what}_ARGS"}:
                assert (what, event[key]) in open_ones
            elif kind == f"{what}_END":
                open_ones.remove((what, event[key]))
    assert not open_ones


def test_a_run_is_told_in_the_protocols_own_models_and_order(store: Any, replicas: list[httpx.Client]) -> None:
    talk(store)
    found = received(replicas[0])
    assert {frame.name for frame in found} == {"message"}
    for frame in found:
        EVENTS.validate_python(frame.data)
    events = [frame.data for frame in found]
    check_order(events)
    assert (events[0]["threadId"], events[0]["runId"]) == ("s", "r")
    texts: dict[str, str] = {}
    for event in events:
        if event["type"] == "TEXT_MESSAGE_CONTENT":
            texts[event["messageId"]] = texts.get(event["messageId"], "") + event["delta"]
    assert sorted(texts.values()) == ["Hello", "I search", "all at once", "left open"]
    calls = {event["toolCallId"]: event["toolCallName"] for event in events if event["type"] == "TOOL_CALL_START"}
    assert sorted(calls.values()) == ["once", "pay", "search"]
    results = {calls[event["toolCallId"]] for event in events if event["type"] == "TOOL_CALL_RESULT"}
    assert results == {"once", "pay", "search"}
    assert [event["delta"] for event in events if event["type"] == "STATE_DELTA"] == [
        [{"op": "replace", "path": "/step", "value": 2}]
    ]
    assert [event["name"] for event in events if event["type"] == "CUSTOM"] == [
        "state.delta", "human.approval.requested", "agent.progress",
    ]  # fmt: skip


def test_a_reconnect_at_every_frame_on_any_replica_gives_the_same(
    store: Any, replicas: list[httpx.Client]
) -> None:
    talk(store)
    whole = received(replicas[0])
    assert len({frame.last_id for frame in whole}) == len(whole)
    for number, frame in enumerate(whole, 1):
        rest = received(replicas[number % 2], frame.last_id, most=2)
        assert rest == whole[number : number + 2]


def test_a_run_that_a_snapshot_has_ended_ends(store: Any, replicas: list[httpx.Client]) -> None:
    store.append("r", [runstream.create_event("r", "text.delta", text="x")])
    store.save_snapshot("r", runstream.RunState("r", status="failed"))
    found = received(replicas[0])
    check_order([frame.data for frame in found])
    assert found[-1].data["type"] == "RUN_ERROR"
    assert received(replicas[1], found[-1].last_id) == []


def test_a_result_is_of_no_call_that_its_agent_left_open() -> None:
    told = AgUiRun("r", "")
    kinds = ("tool.started", "agent.finished", "tool.result")
    events = [each for kind in kinds for each in told.tell(runstream.create_event("r", kind, seq=1, tool=kind))]
    starts = [each.tool_call_name for each in events if isinstance(each, ToolCallStartEvent)]
    assert starts == ["tool.started", "tool.result"]


def test_a_run_whose_history_is_another_one_fails_and_comes_anew(store: Any, replicas: list[httpx.Client]) -> None:
    """The protocol cannot take back what was said."""
    store.open_run("r").emit("text.delta", text="void")
    with replicas[0].stream("GET", STREAM) as response:
        stream = frames_of(response)
        found = [next(stream) for _ in range(3)]
        store.delete_run("r")
        store.open_run("r").emit("text.delta", text="new")
        found += stream
    assert (found[-1].data["type"], found[-1].last_id) == ("RUN_ERROR", "")
    assert found[-1].data["code"] in {"AcknowledgedWritesLost", "HistoryDiverged"}
    anew = received(replicas[0], found[-1].last_id, most=3)
    assert [frame.data.get("delta") for frame in anew] == [None, None, "new"]


def test_it_is_asked_for_by_name_or_by_its_media_type_and_needs_its_package(
    store: Any, replicas: list[httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    talk(store)
    client = replicas[0]
    accept = {"accept": "text/event-stream, application/vnd.ag-ui.event+json"}
    assert "RUN_STARTED" in client.get(STREAM.partition("?")[0], headers=accept).text
    assert client.get(STREAM.replace("ag-ui", "other")).status_code == 400
    assert client.get(STREAM, headers={"Last-Event-ID": "1-2+x"}).status_code == 400
    assert client.get(STREAM.partition("?")[0], headers={"Last-Event-ID": "1-2+1"}).status_code == 400
    monkeypatch.setitem(sys.modules, "runstream.web.agui_stream", None)
    refused = client.get(STREAM)
    assert refused.status_code == 501
    assert "runstream[ag-ui]" in refused.json()["detail"]
