"""Processes that run a graph on a thread, and that are killed while they do, or answer what another one asked.

``python -m tests.integrations.langgraph.programs PROGRAM ARGUMENTS`` runs a function of :data:`PROGRAMS`.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command

from runstream.integrations.langgraph import RunstreamSaver
from tests.integrations.langgraph import graphs
from tests.integrations.langgraph.observing import THREAD, plain
from tests.support.processes.journal import Diary
from tests.support.processes.talk import wait_for_word

__all__ = ["BEGINNING", "NODES", "careful"]

EXAMPLE = Path(__file__).parents[3] / "examples" / "langgraph_approval.py"
NODES = ("one", "two", "left", "right", "three", "four")
BEGINNING = {"said": ["begin"]}


def careful(done: Callable[[str], None]) -> Any:
    """Steps, then branches side by side, then steps again; each node says when it is done."""

    def node(name: str) -> Any:
        def work(state: graphs.Log) -> dict[str, Any]:
            done(name)
            return {"said": [f"{name} after {len(state['said'])}"]}

        return work

    builder = StateGraph(graphs.Log)
    for name in NODES:
        builder.add_node(name, node(name))
    for first, second in pairwise([START, "one", "two", "left", "three", "four", END]):
        builder.add_edge(first, second)
    builder.add_edge("two", "right")
    builder.add_edge("right", "three")
    return builder


def work(url: str, archive: str, durability: str, diary: str, stops_at: str) -> None:
    """Begin the thread, or go on with it; stand still in a node until a word. Then tell the history."""

    def done(name: str) -> None:
        Diary(diary).note(name)
        if name == stops_at:
            print("here", flush=True)
            wait_for_word()

    with RunstreamSaver.from_url(url, archive=archive) as saver:
        graph = careful(done).compile(checkpointer=saver)
        is_there = graph.get_state(THREAD).created_at is not None
        for _ in graph.stream(None if is_there else BEGINNING, THREAD, durability=durability):
            pass
        print(json.dumps(plain(list(graph.get_state_history(THREAD)))), flush=True)


def answer(url: str, archive: str, text: str) -> None:
    """Answer what the thread's graph has asked, or begin it with what is no answer; tell the state."""
    with RunstreamSaver.from_url(url, archive=archive) as saver:
        graph: Any = graphs.approval().compile(checkpointer=saver)
        asks = bool(graph.get_state(THREAD).interrupts)
        graph.invoke(Command(resume=text) if asks else {"said": [text]}, THREAD)
        print(json.dumps(plain(graph.get_state(THREAD))), flush=True)


def example(url: str, step: str) -> None:
    """Take a step of the example of an approval."""
    sys.argv = [str(EXAMPLE), step, url]
    runpy.run_path(str(EXAMPLE), run_name="__main__")


PROGRAMS: Mapping[str, Callable[..., None]] = {program.__name__: program for program in (work, answer, example)}


def main() -> None:
    """Run the program that the process was started for."""
    PROGRAMS[sys.argv[1]](**json.loads(sys.argv[2]))


if __name__ == "__main__":
    main()
