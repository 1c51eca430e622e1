"""Graphs of plain functions, without any model, for each thing that a graph asks of its checkpointer."""

from __future__ import annotations

import operator
import threading
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Overwrite, RetryPolicy, Send, interrupt

from tests.support.servers import DEADLINE_SECONDS

__all__ = [
    "Failure",
    "approval",
    "branches",
    "chat",
    "deltas",
    "family",
    "fan",
    "functional",
    "shaky",
    "steps",
    "two_questions",
]


class Log(TypedDict):
    """What nodes say, in order, and a value that the last one leaves."""

    said: Annotated[list[str], operator.add]
    note: str


def say(text: str) -> Any:
    """A node that says something."""

    def node(state: Log) -> dict[str, Any]:
        return {"said": [text], "note": f"{text} after {len(state['said'])}"}

    return node


def steps(*names: str) -> StateGraph[Any]:
    """One node after the other."""
    builder = StateGraph(Log)
    last = START
    for name in names or ("one", "two", "three"):
        builder.add_node(name, say(name))
        builder.add_edge(last, name)
        last = name
    builder.add_edge(last, END)
    return builder


# -- people --------------------------------------------------------------------------------------------


def approval() -> StateGraph[Any]:
    """A draft, a question, and what follows from the answer."""

    def ask(state: Log) -> Command[Any]:
        answer = interrupt({"question": "send it?", "draft": state["note"]})
        return Command(update={"said": [f"answer {answer}"]}, goto="send" if answer == "yes" else "draft")

    builder = StateGraph(Log)
    builder.add_node("draft", say("draft"))
    builder.add_node("ask", ask, destinations=("send", "draft"))
    builder.add_node("send", say("send"))
    builder.add_edge(START, "draft")
    builder.add_edge("draft", "ask")
    builder.add_edge("send", END)
    return builder


def two_questions() -> StateGraph[Any]:
    """Two branches that ask at once, one of them twice."""

    def once(state: Log) -> dict[str, Any]:
        return {"said": [f"once: {interrupt('once?')}"]}

    def twice(state: Log) -> dict[str, Any]:
        return {"said": [f"twice: {interrupt('first?')}, {interrupt('second?')}"]}

    builder = StateGraph(Log)
    builder.add_node("once", once)
    builder.add_node("twice", twice)
    builder.add_node("after", say("after"), defer=True)
    for name in ("once", "twice"):
        builder.add_edge(START, name)
        builder.add_edge(name, "after")
    return builder


# -- many at once --------------------------------------------------------------------------------------


class Failure(Exception):
    """A node's own."""


def branches(width: int = 3) -> StateGraph[Any]:
    """Branches side by side that come together."""
    builder = StateGraph(Log)
    builder.add_node("join", say("join"))
    for number in range(width):
        builder.add_node(f"branch {number}", lambda _, number=number: {"said": [f"branch {number}"]})
        builder.add_edge(START, f"branch {number}")
    builder.add_edge([f"branch {number}" for number in range(width)], "join")
    return builder


def shaky(fails: list[str], may_fail: threading.Event) -> StateGraph[Any]:
    """Branches of which those fail whose names are in the list, once they may; ``said`` has what was done."""

    def shake(name: str) -> Any:
        def node(state: Log) -> dict[str, Any]:
            if name in fails:
                assert may_fail.wait(DEADLINE_SECONDS)
                raise Failure(name)
            return {"said": [name]}

        return node

    builder = StateGraph(Log)
    for name in ("sound", "weak"):
        builder.add_node(name, shake(name), retry_policy=RetryPolicy(max_attempts=1))
        builder.add_edge(START, name)
        builder.add_edge(name, "after")
    builder.add_node("after", shake("after"))
    return builder


class Item(TypedDict):
    """What one of many is sent."""

    number: int


class Sums(TypedDict):
    """What the many give, and its sum."""

    squares: Annotated[list[int], operator.add]
    total: int


def fan(width: int = 4) -> Any:
    """As many tasks of one node as there are items, each sent its own, and a sum of what they give."""

    def square(item: Item) -> dict[str, Any]:
        return {"squares": [item["number"] ** 2]}

    def total(state: Sums) -> dict[str, Any]:
        return {"total": sum(state["squares"])}

    def spread(state: Sums) -> list[Send]:
        return [Send("square", {"number": number}) for number in range(width)]

    builder: Any = StateGraph(Sums)  # its type has no node for one item
    builder.add_node("square", square)
    builder.add_node("total", total)
    builder.add_conditional_edges(START, spread, ["square"])
    builder.add_edge("square", "total")
    return builder


# -- graphs in graphs ----------------------------------------------------------------------------------


def family(*, remembers: bool | None = None) -> StateGraph[Any]:
    """A graph whose node is a graph whose node is a graph that asks; ``remembers``: across invocations."""

    def ask(state: Log) -> dict[str, Any]:
        return {"said": [f"grandchild heard {interrupt('which?')}"]}

    youngest = StateGraph(Log)
    youngest.add_node("ask", ask)
    youngest.add_edge(START, "ask")
    child = StateGraph(Log)
    child.add_node("before", say("child"))
    child.add_node("grandchild", youngest.compile(checkpointer=remembers))
    child.add_edge(START, "before")
    child.add_edge("before", "grandchild")
    parent = StateGraph(Log)
    parent.add_node("first", say("parent"))
    parent.add_node("child", child.compile(checkpointer=remembers))
    parent.add_node("last", say("last"))
    parent.add_edge(START, "first")
    parent.add_edge("first", "child")
    parent.add_edge("child", "last")
    return parent


# -- messages ------------------------------------------------------------------------------------------


class Talk(TypedDict):
    """A chat, and a count beside it."""

    messages: Annotated[list[AnyMessage], add_messages]
    turns: int


def chat() -> StateGraph[Any]:
    """An answer to each message."""

    def answer(state: Talk) -> dict[str, Any]:
        turn = state.get("turns", 0) + 1
        text = f"answer {turn} to {state['messages'][-1].content}"
        return {"messages": [AIMessage(text, id=f"answer-{len(state['messages'])}")], "turns": turn}

    builder = StateGraph(Talk)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    return builder


def extend(items: list[str] | None, writes: list[Any]) -> list[str]:
    """A reducer for which the order of what is written matters."""
    found = list(items or [])
    for write in writes:
        found += write
    return found


class Deltas(TypedDict):
    """A list of which checkpoints have only what is new."""

    items: Annotated[list[str], DeltaChannel(extend, snapshot_frequency=4)]
    note: str


def deltas() -> StateGraph[Any]:
    """Branches side by side that add to one list, step by step."""

    def add(name: str) -> Any:
        def node(state: Deltas) -> dict[str, Any]:
            return {"items": [f"{name} at {len(state.get('items', []))}"]}

        return node

    def replace(state: Deltas) -> dict[str, Any]:
        return {"items": Overwrite(["anew"]), "note": f"had {len(state['items'])}"}

    builder = StateGraph(Deltas)
    for name in ("left", "right"):
        builder.add_node(name, add(name))
        builder.add_edge(START, name)
        builder.add_edge(name, "join")
    builder.add_node("join", add("join"))
    builder.add_node("replace", replace)
    builder.add_conditional_edges("join", lambda state: "replace" if len(state["items"]) > 12 else END)
    return builder


# -- functions -----------------------------------------------------------------------------------------


def functional(checkpointer: Any) -> Any:
    """An entry point whose tasks are kept, with a question between them and a value for the next time."""

    @task
    def double(number: int) -> int:
        return 2 * number

    @entrypoint(checkpointer=checkpointer)
    def work(number: int, *, previous: int | None = None) -> entrypoint.final[str, int]:
        doubled = [double(number), double(number + 1)]
        total = sum(one.result() for one in doubled) + (previous or 0)
        answer = interrupt({"total": total})
        return entrypoint.final(value=f"{total} {answer}", save=total)

    return work
