"""``runstream export --to otlp:``: a run as spans, each sent once, with the same ids however often."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import runstream
from runstream import PAEvent, RunState, connect
from runstream.cli.support import spans_export
from runstream.integrations.opentelemetry import otlp
from runstream.integrations.opentelemetry.spans import RunIdentity, RunSpans, Span
from runstream.model.errors import ConfigurationError, StoreUnavailable
from tests.support.commands import Said, run
from tests.support.span_receiver import SpanReceiver, attributes_of, receiving


@pytest.fixture
def receiver() -> Iterator[SpanReceiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path}/runs.db"


def event(
    number: int, kind: str, lane: str = "main", run_id: str = "trip", parent: str | None = None, **payload: Any
) -> PAEvent:
    return PAEvent(
        run_id, "s", lane, f"e{number}", parent, number, 1_700_000_000.0 + number, kind, payload=payload
    )


EVENTS = [
    event(1, "run.started"),
    event(2, "agent.started", agent="planner"),
    event(3, "model.request", model="m-1", provider="here", messages=[{"role": "user", "content": "where?"}]),
    event(4, "model.response", model="m-1", usage={"input_tokens": 7, "output_tokens": 2}, cost=0.5, text="there"),
    event(5, "tool.started", tool="search", args={"q": 1}),
    event(6, "agent.progress", lane="helper", parent="e5"),
    event(7, "tool.error", error="no net", type="OSError"),
    event(8, "human.approval.requested"),
    event(9, "run.finished"),
]  # fmt: skip


def export(url: str, receiver: SpanReceiver, *more: str, run_id: str = "trip") -> Said:
    return run("export", run_id, "--url", url, "--to", f"otlp:{receiver.url}", *more)


def named(receiver: SpanReceiver) -> dict[str, Any]:
    return {span.name: span for span in receiver.spans}


def test_a_run_is_spans_by_the_conventions_for_generative_ai(url: str, receiver: SpanReceiver) -> None:
    with connect(url) as store:
        store.append("trip", EVENTS)
    assert export(url, receiver).code == 0
    spans = named(receiver)
    assert list(spans) == [
        "chat m-1", "execute_tool search", "invoke_agent planner", "invoke_agent helper", "invoke_workflow",
    ]  # fmt: skip
    assert len({span.trace_id for span in spans.values()}) == 1
    root, planner = spans["invoke_workflow"], spans["invoke_agent planner"]
    assert (root.parent_span_id, planner.parent_span_id) == (b"", root.span_id)
    assert {spans[name].parent_span_id for name in ("chat m-1", "execute_tool search")} == {planner.span_id}
    assert spans["invoke_agent helper"].parent_span_id == spans["execute_tool search"].span_id
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (1_700_000_001 * 10**9, 1_700_000_009 * 10**9)
    assert [one.name for one in planner.events] == ["human.approval.requested"]
    chat = attributes_of(spans["chat m-1"])
    assert chat.items() >= {
        "gen_ai.operation.name": "chat", "gen_ai.request.model": "m-1", "gen_ai.provider.name": "here",
        "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 2, "gen_ai.usage.cost": 0.5,
    }.items()  # fmt: skip
    assert attributes_of(root)["gen_ai.conversation.id"] == "s"
    tool = spans["execute_tool search"]
    assert (tool.status.code, tool.status.message, attributes_of(tool)["error.type"]) == (2, "no net", "OSError")
    assert "there" not in str(receiver.requests)  # what was said is sent where it is asked for
    assert "gen_ai.tool.call.arguments" not in attributes_of(tool)


def test_content_is_sent_where_it_is_asked_for(url: str, receiver: SpanReceiver) -> None:
    with connect(url) as store:
        store.append("trip", EVENTS)
    assert export(url, receiver, "--content").code == 0
    chat, tool = (attributes_of(named(receiver)[name]) for name in ("chat m-1", "execute_tool search"))
    assert json.loads(chat["gen_ai.output.messages"])[0]["parts"] == [{"type": "text", "content": "there"}]
    assert json.loads(tool["gen_ai.tool.call.arguments"]) == {"q": 1}


@pytest.mark.parametrize("step", [1, 4])
def test_a_run_that_grows_is_sent_by_parts_each_span_once_and_as_in_one(
    url: str, receiver: SpanReceiver, tmp_path: Path, step: int
) -> None:
    noted = ("--cursor-file", str(tmp_path / "sent"))
    with connect(url) as store:
        for first in range(0, len(EVENTS), step):
            store.append("trip", EVENTS[first : first + step])
            assert export(url, receiver, *noted).code == 0
            before = len(receiver.spans)
            assert export(url, receiver, *noted).code == 0  # nothing is new
            assert len(receiver.spans) == before
    parts = [span.SerializeToString() for span in receiver.spans]
    receiver.requests.clear()
    assert export(url, receiver).code == 0
    assert [span.SerializeToString() for span in receiver.spans] == parts


def test_a_run_that_a_state_has_ended_is_told_once(url: str, receiver: SpanReceiver, tmp_path: Path) -> None:
    with connect(url) as store:
        store.append("trip", EVENTS[:3], snapshot=RunState("trip", status=runstream.RunStatus.COMPLETED))
    for _ in range(2):
        assert export(url, receiver, "--cursor-file", str(tmp_path / "sent")).code == 0
    assert [span.name for span in receiver.spans] == ["chat m-1", "invoke_agent planner", "invoke_workflow"]


def test_a_fork_links_to_the_run_that_it_comes_from(url: str, receiver: SpanReceiver) -> None:
    with connect(url) as store:
        store.append("trip", EVENTS)
        store.fork("trip", "other", at=4)
        store.append("other", [event(5, "run.finished", run_id="other")])
    assert export(url, receiver).code == export(url, receiver, run_id="other").code == 0
    parent, fork = (span for span in receiver.spans if span.name == "invoke_workflow")
    assert [(link.trace_id, link.span_id) for link in fork.links] == [(parent.trace_id, parent.span_id)]
    assert fork.trace_id != parent.trace_id
    assert attributes_of(fork.links[0]) == {"runstream.forked_at": 4}


def test_what_is_not_taken_is_sent_by_the_next_command(
    url: str, receiver: SpanReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "_PAUSES", (0.0,))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b")
    noted = ("--cursor-file", str(tmp_path / "sent"))
    with connect(url) as store:
        store.append("trip", EVENTS)
    receiver.statuses = [503, 503]
    assert "does not take spans" in export(url, receiver, *noted).err
    receiver.statuses = [401]
    assert "OTEL_EXPORTER_OTLP_HEADERS" in export(url, receiver, *noted).err
    assert not (tmp_path / "sent").exists()
    receiver.statuses = [503]  # and it is sent again at once
    assert export(url, receiver, *noted).code == 0
    assert receiver.headers["x-key"] == "a b"
    assert len(receiver.spans) == 5


@pytest.mark.parametrize("status", [200, 301, 302, 303, 307, 308])
def test_what_is_no_receiver_has_taken_nothing(
    url: str, receiver: SpanReceiver, tmp_path: Path, status: int
) -> None:
    receiver.statuses = [status]
    receiver.adds = {"Location": "/login?key=hidden", "Content-Type": "text/html"}
    with connect(url) as store:
        store.append("trip", EVENTS[-1:])
    said = export(url, receiver, "--cursor-file", str(tmp_path / "sent"))
    assert said.code != 0
    assert ("with text/html" if status == 200 else f"redirects to {receiver.url}/login (") in said.err
    assert (receiver.visits, (tmp_path / "sent").exists()) == (0, False)


def test_what_speaks_another_protocol_is_no_receiver() -> None:
    def greet() -> None:
        with listener.accept()[0] as connection:
            connection.sendall(b"\0\0\x18\4\0\0\0\0\0" + bytes(24))  # as HTTP/2 begins
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):  # else the greeting may be lost with what was not read
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=greet, daemon=True).start()
        with pytest.raises(ConfigurationError, match="4318, not 4317"):
            otlp.Receiver(f"http://127.0.0.1:{listener.getsockname()[1]}").send([])


@pytest.mark.parametrize(
    "to",
    [
        "http://h:abc",
        "http://h:0",
        "http://[::1",
        "http://a b",
        "ftp://h",
        "me:hidden@h",
        "http://me:hidden@h:4318",
    ],
)
def test_a_url_of_no_receiver_is_refused_and_not_told(to: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        otlp.Receiver(to)
    assert "hidden" not in str(caught.value)


def test_what_a_url_asks_is_sent_and_not_told(url: str, receiver: SpanReceiver, tmp_path: Path) -> None:
    with connect(url) as store:
        store.append("trip", EVENTS)
    noted = tmp_path / "sent"
    to = f"otlp:{receiver.url}?key=hidden"
    said = run("export", "trip", "--url", url, "--to", to, "--cursor-file", str(noted))
    assert f"went to {receiver.url}/v1/traces\n" in said.err
    assert "hidden" not in said.err + noted.read_text()
    assert receiver.path == "/v1/traces?key=hidden"
    for option in (["--force"], ["--format", "csv"]):
        assert "not for otlp" in export(url, receiver, *option).err


@pytest.mark.parametrize("one_is", ["rejected", "too large"])
def test_a_span_that_is_refused_holds_no_other_up(
    url: str, receiver: SpanReceiver, tmp_path: Path, one_is: str
) -> None:
    noted = ("--cursor-file", str(tmp_path / "sent"))
    events = [*EVENTS[:6], event(7, "tool.error", error="x" * 2000), *EVENTS[7:]]
    with connect(url) as store:
        store.append("trip", events)
    receiver.rejects, receiver.largest = (1, None) if one_is == "rejected" else (0, 1500)
    said = export(url, receiver, *noted)
    assert said.code != 0
    assert "refuses 1 span" in said.err
    assert "OTEL_EXPORTER_OTLP_HEADERS" not in said.err
    assert len({span.span_id for span in receiver.spans}) == (5 if one_is == "rejected" else 4)
    before = len(receiver.spans)
    assert export(url, receiver, *noted).code == 0
    assert len(receiver.spans) == before


def test_spans_are_sent_by_so_many_bytes(
    url: str, receiver: SpanReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans_export, "_BATCH_BYTES", 1)
    monkeypatch.setattr(otlp, "_PAUSES", ())
    noted = ("--cursor-file", str(tmp_path / "sent"))
    with connect(url) as store:
        store.append("trip", EVENTS)
    receiver.statuses = [200, 200, 200, 503]  # what one event has ended is not noted by halves
    assert export(url, receiver, *noted).code != 0
    assert json.loads((tmp_path / "sent").read_text())["cursor"].startswith("8-")
    assert export(url, receiver, *noted).code == 0
    assert len(receiver.requests) == len(receiver.spans) == 3
    assert list(named(receiver)) == ["invoke_agent planner", "invoke_agent helper", "invoke_workflow"]


def test_a_receiver_that_names_a_pause_is_given_it_within_bounds(
    receiver: SpanReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(otlp, "sleep", waited.append)
    receiver.adds, receiver.statuses = {"Retry-After": "7"}, [429, 503]
    assert otlp.Receiver(receiver.url).send([]) == []
    assert waited == [7.0, 7.0]
    receiver.adds, receiver.statuses = {"Retry-After": "3600"}, [429]
    with pytest.raises(StoreUnavailable, match="Retry-After: 3600"):
        otlp.Receiver(receiver.url).send([])
    assert waited == [7.0, 7.0]


def spans_of(*events: PAEvent) -> list[Span]:
    made = RunSpans(RunIdentity("trip", 1))
    return [span for offset, one in enumerate(events, 1) for span in made.add(offset, one.to_dict())] + made.end()


def test_what_a_lane_does_lies_in_its_agent_wherever_that_was_called_from() -> None:
    of_helper = [event(number, "tool.started", "helper", parent="e1", call_id=f"c{number}") for number in (2, 3)]
    first, second, agent, outer, main, root = spans_of(
        event(1, "tool.started"), *of_helper, event(4, "agent.error", "helper")
    )
    assert first.parent_id == second.parent_id == agent.span_id
    assert (agent.parent_id, outer.parent_id, main.parent_id) == (outer.span_id, main.span_id, root.span_id)


@pytest.mark.parametrize("end", ["run.finished", "agent.finished"])
def test_a_result_is_of_no_call_that_its_agent_or_run_left_open(end: str) -> None:
    spans = spans_of(
        event(1, "tool.started", tool="old", call_id="c"), event(2, end), event(3, "tool.result", tool="new")
    )
    assert [span.attributes["gen_ai.tool.name"] for span in spans if "execute_tool" in span.name] == ["old", "new"]


def test_a_note_of_another_run_or_history_is_refused(url: str, receiver: SpanReceiver, tmp_path: Path) -> None:
    noted = ("--cursor-file", str(tmp_path / "sent"))
    with connect(url) as store:
        for run_id in ("trip", "other"):
            store.append(run_id, [event(number, "tool.result", run_id=run_id) for number in range(3)])
        assert export(url, receiver, *noted).code == 0
        assert "name a file for each" in export(url, receiver, *noted, run_id="other").err
        store.delete_run("trip")
        store.append("trip", [event(7, "tool.result")])
        assert "another history" in export(url, receiver, *noted).err


def test_what_is_not_installed_is_asked_for(
    url: str, receiver: SpanReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(url) as store:
        store.append("trip", EVENTS)
    for module in ("runstream.integrations.opentelemetry.otlp", "opentelemetry.trace"):
        monkeypatch.setitem(sys.modules, module, None)
    assert "runstream[otel]" in export(url, receiver).err
    with pytest.raises(runstream.ConfigurationError, match=r"runstream\[otel\]"):
        connect("fake:untraced", trace_context=True)
