"""``runstream show`` and ``tail`` show LangGraph's threads as people read them, and without LangGraph."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.types import Command

from runstream.integrations.langgraph import RunstreamSaver
from runstream.integrations.langgraph.readable import readable_payload
from tests.integrations.langgraph import graphs
from tests.support.commands import run
from tests.support.servers import Server, needs_server


def config(thread_id: str) -> Any:
    return {"configurable": {"thread_id": thread_id}}


def shown(url: str, thread_id: str, *options: str) -> str:
    said = run("show", thread_id, "--url", url, "--wide", *options)
    assert said.code == 0, said.err
    return " ".join(said.out.split())


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path}/threads.db"


def test_messages_are_shown_by_who_said_what(url: str) -> None:
    with RunstreamSaver.from_url(url) as saver:
        graph = graphs.chat().compile(checkpointer=saver)
        for turn in (1, 2):
            message = HumanMessage(f"question {turn}", id=f"question-{turn}")
            graph.invoke({"messages": [message]}, config("chat"))
        call = {"name": "search", "args": {"text": "x"}, "id": "1"}
        calling = AIMessage("", id="calling", tool_calls=[call])
        graph.update_state(config("chat"), {"messages": [calling]})
    text = shown(url, "chat")
    assert 'source="loop" step=1 messages=[{"ai": "answer 1 to question 1"}] turns=1' in text
    assert "current_step 5" in text
    assert 'messages [{"human": "question 1"}, {"ai": "answer 1 to question 1"}, {"human": "question 2"},' in text
    assert '{"ai": "", "calls": ["search"]}]' in text
    assert "branch:to" not in text


def test_what_is_asked_of_people_is_shown_until_it_is_answered(url: str) -> None:
    with RunstreamSaver.from_url(url) as saver:
        graph = graphs.two_questions().compile(checkpointer=saver)
        graph.invoke({"said": ["begin"]}, config("asks"))
        (first,) = (one for one in graph.get_state(config("asks")).interrupts if one.value == "first?")
        assert "asks" in shown(url, "asks")
        graph.invoke(Command(resume={first.id: "a"}), config("asks"))
        text = shown(url, "asks")
        assert 'asks ["second?", "once?"]' in text or 'asks ["once?", "second?"]' in text
        assert 'asks=["second?"] answered=["a"]' in text
        asked = graph.get_state(config("asks")).interrupts
        graph.invoke(Command(resume={one.id: "b" for one in asked}), config("asks"))
    assert "asks [" not in shown(url, "asks")


def test_a_thread_is_shown_as_it_was_at_an_offset(url: str) -> None:
    with RunstreamSaver.from_url(url) as saver:
        graph = graphs.steps().compile(checkpointer=saver)
        graph.invoke({"said": ["begin"]}, config("steps"), durability="sync")
        last = saver.store.run_info("steps").last_offset  # type: ignore[union-attr]  # it is there
    assert 'said ["begin", "one"' in shown(url, "steps", "--at", str(last - 2))
    assert "three" not in shown(url, "steps", "--at", str(last - 2))
    assert 'said ["begin", "one", "two", "three"]' in shown(url, "steps")


@pytest.mark.parametrize("asked", ["", "?keep_snapshots=20"], ids=["of events", "of snapshots"])
def test_a_chat_is_shown_as_it_was_after_each_turn(url: str, asked: str) -> None:
    ends = []
    with RunstreamSaver.from_url(url + asked) as saver:
        graph = graphs.chat().compile(checkpointer=saver)
        for turn in range(5):
            graph.invoke({"messages": [HumanMessage(f"question {turn}")]}, config("chat"), durability="sync")
            ends.append(saver.store.run_info("chat").last_offset)  # type: ignore[union-attr]  # it is there
    for turn in (0, 3):
        text = shown(url, "chat", "--at", str(ends[turn]))
        assert f"answer {turn + 1} to question {turn}" in text
        assert f"question {turn + 1}" not in text
    assert "messages" not in shown(url, "chat", "--at", "1")


def test_values_of_every_kind_are_shown(url: str) -> None:
    values = {"date": Decimal("1.5"), "raw": b"x", "none": None, "set": {1}, "keys": {1: "one", (1, 2): "two"}}
    with RunstreamSaver.from_url(url) as saver:
        graphs.steps().compile(checkpointer=saver).update_state(config("plain"), {"note": values}, as_node="one")
        saver.put_writes({"configurable": {"thread_id": "plain", "checkpoint_id": "x"}}, [("a", b"raw")], "task")
    text = shown(url, "plain")
    assert (
        'note {"date": "1.5", "raw": b\'x\', "none": null, "set": [1], "keys": {1: "one", [1, 2]: "two"}}' in text
    )
    assert "a=b'raw'" in text


@pytest.mark.parametrize("stored", [b"\x91" * 500 + b"\x90", b"\xc7", b"\xc7\x01\x00\x90", 5, ["msgpack", 5]])
def test_a_value_that_cannot_be_shown_is_told_as_such(stored: Any) -> None:
    payload = {"checkpoint": "x", "task": "t", "writes": [[0, "a", stored], [1, "b", ["json", "1"]]]}
    shown = readable_payload("checkpoint.writes", payload)
    assert "does not read" in shown["a"]
    assert shown["b"] == 1


@needs_server
def test_tail_shows_the_same_lines(server: Server, namespace: str) -> None:
    url = f"{server.url}?namespace={namespace}"
    with RunstreamSaver.from_url(url) as saver:
        graphs.approval().compile(checkpointer=saver).invoke({"said": ["begin"]}, config("asks"))
        said = run("tail", "asks", "--url", url, "--idle-timeout", "0.1")
        assert 'asks=[{"question": "send it?", "draft": "draft after 1"}]' in said.out
        assert 'source="loop" step=1 said=["draft"] note="draft after 1"' in said.out
        saver.delete_thread("asks")
    server.raw.delete(*server.raw.scan_iter(f"{{{namespace}*", count=1000))


@pytest.mark.exhaustive
def test_the_commands_import_no_langgraph() -> None:
    """It takes a second, and may be missing. In an interpreter of its own: nothing is imported in that before."""
    script = "import sys, runstream.cli; print([name for name in sys.modules if name.startswith('lang')])"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"
