"""``trace_context=True``: an event says in which span of OpenTelemetry its writer was, and is else as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace

from runstream import DrainWorker, PAEvent, StoreUnavailable, connect, create_event
from runstream.codec.upcasts import Upcasts
from tests.support.commands import run
from tests.support.line import Line
from tests.support.span_receiver import attributes_of, receiving

TRACE = int("0af7651916cd43dd8448eb211c80319c", 16)


@contextmanager
def within(span_id: int) -> Iterator[None]:
    """In a span of OpenTelemetry."""
    context = trace.SpanContext(TRACE, span_id, is_remote=False, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(context)):
        yield


class Traced(PAEvent):
    """An event of a program that wants all fields."""

    @classmethod
    def from_dict(cls, fields: Any) -> Any:
        made = super().from_dict(fields)
        made.__dict__["traceparent"] = fields.get("traceparent")
        return made


@pytest.mark.parametrize("upcasts", [None, Upcasts(version=2)])
def test_an_event_has_the_span_of_its_writer_in_every_place(tmp_path: Path, upcasts: Any) -> None:
    url = f"fake:{tmp_path}-{upcasts is None}"
    archive: Any = connect(f"sqlite:{tmp_path}/a.db", event_type=Traced, upcasts=upcasts)
    with connect(url, trace_context=True, upcasts=upcasts) as store, archive:
        with within(0xB7):
            store.append("r", [create_event("r", "tool.result", seq=1)], keys=["k"])
        store.append("r", [create_event("r", "tool.result", seq=2)])
        assert store.find("r", ["k"]) == [1]
        DrainWorker(store, [archive]).drain_once()
        with connect(url, event_type=Traced, upcasts=upcasts) as reader:
            for place in (reader, archive):
                found = [vars(item.event)["traceparent"] for item in place.read("r")]
                assert found == [f"00-{TRACE:032x}-00000000000000b7-01", None]


def test_what_is_repeated_in_another_span_is_the_same_append(redis_backend: Any) -> None:
    store: Any = redis_backend.open(trace_context=True, retry_seconds=0)
    events = [create_event("r", "tool.result", seq=1), create_event("r", "tool.result", seq=2)]
    line = Line(store)
    line.cut("reply")
    with within(1), pytest.raises(StoreUnavailable):
        store.append("r", events)
    with within(2):
        assert store.append("r", events)[:2] == (1, 2)
    assert store.list_events("r") == events


def test_a_run_that_was_traced_is_a_part_of_that_trace(tmp_path: Path) -> None:
    url = f"fake:{tmp_path}"
    with connect(f"{url}?trace_context=true") as store, receiving() as receiver:
        with within(0xA):
            store.append("r", [create_event("r", "run.started")])
        with within(0xB):
            store.append("r", [create_event("r", "tool.result", tool="t"), create_event("r", "run.finished")])
        assert run("export", "r", "--url", url, "--to", f"otlp:{receiver.url}").code == 0
    spans = {span.name: span for span in receiver.spans}
    assert {span.trace_id for span in spans.values()} == {TRACE.to_bytes(16)}
    assert spans["invoke_workflow"].parent_span_id == (0xA).to_bytes(8)
    assert [link.span_id for link in spans["execute_tool t"].links] == [(0xB).to_bytes(8)]
    assert attributes_of(spans["execute_tool t"])["runstream.offset"] == 2


def test_links_lead_to_the_trace_that_a_traced_run_is_in(tmp_path: Path) -> None:
    url = f"fake:{tmp_path}"
    with connect(f"{url}?trace_context=true") as store, receiving() as receiver:
        with within(0xA):
            store.append("r", [create_event("r", "run.started"), create_event("r", "run.finished")])
        store.append("r", [create_event("r", "run.started"), create_event("r", "run.finished")])
        store.fork("r", "f", at=1)
        store.append("f", [create_event("f", "run.finished")])
        for run_id in ("r", "f"):
            assert run("export", run_id, "--url", url, "--to", f"otlp:{receiver.url}").code == 0
    first, reopened, fork = receiver.spans
    for span in (reopened, fork):
        assert [(link.trace_id, link.span_id) for link in span.links] == [(TRACE.to_bytes(16), first.span_id)]
