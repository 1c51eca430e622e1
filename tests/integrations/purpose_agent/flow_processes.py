"""Processes that run flows of purpose-agent's own API, and record them with the four methods, as its users do.

``python -m tests.integrations.purpose_agent.flow_processes WORLD ARGUMENTS`` runs a function of :data:`WORLDS`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from purpose_agent.runtime import EventKind, PAEvent, RunState, RunStatus
from purpose_agent.types import State
from purpose_agent.unified import END, START, Graph

from runstream.integrations.purpose_agent import connect
from tests.support.processes.child import Child
from tests.support.processes.journal import Diary
from tests.support.processes.talk import wait_for_word

RUN = "Trip 42"
STATE_EVERY = 4


class FlowProcess(Child):
    """One of the processes here."""

    def __init__(self, world: str, **arguments: Any) -> None:
        module = "tests.integrations.purpose_agent.flow_processes"
        self._start(world, ["-m", module, world, json.dumps(arguments)], subprocess.PIPE)


class NeedsApproval(Exception):
    """The flow waits for a person: its process may end."""


class Flow:
    """A graph that searches, asks a person, and books; it goes on where the store says that it was.

    What the store acknowledged, the diary has, and so has stdout: the parent can kill this at any moment.
    """

    def __init__(self, store: Any, diary: Diary, steps: int) -> None:
        self._store, self._diary, self._steps = store, diary, steps
        self.state = store.load_latest(RUN) or RunState(RUN, status=RunStatus.RUNNING, data={"found": 0})
        after: list[PAEvent] = store.list_events(RUN, self.state.current_step)
        self._known = {event.seq: event for event in after}
        diary.note(["resumed", self.state.current_step])

    def run(self) -> None:
        """Run the graph from where it was to its end. Raises NeedsApproval where it is interrupted."""
        graph = Graph()
        graph.add_node("search", self._search).add_node("ask", self._ask).add_node("book", self._book)
        graph.add_edge(START, "search" if self.state.current_step < self._steps else "ask")
        graph.add_conditional_edge("search", self._what_next, {"more": "search", "enough": "ask"})
        graph.add_edge("ask", "book")
        graph.add_edge("book", END)
        graph.run(State(data=self.state.data), max_iterations=self._steps + 3)

    def _what_next(self, _: State) -> str:
        return "more" if self.state.current_step < self._steps else "enough"

    def _search(self, _: State) -> State:
        step = self.state.current_step + 1
        self.state.mark_node_started(f"search-{step}")
        event = self._once(step, EventKind.TOOL_RESULT, found=step)
        self.state.data["found"] += event.payload["found"]
        self.state.mark_node_completed(f"search-{step}")
        self.state.current_step = step
        if step % STATE_EVERY == 0 or step == self._steps:
            self._save()
        return State(data=self.state.data)

    def _ask(self, _: State) -> State:
        step = self._steps + 1
        self._once(step, EventKind.HUMAN_APPROVAL_REQUESTED, question="Book it?")
        answer = self._known.get(step + 1)
        if answer is None:
            self.state.status = RunStatus.PAUSED
            self._save()
            raise NeedsApproval
        self.state.data["approved"] = answer.payload["ok"]
        self.state.status = RunStatus.RUNNING
        return State(data=self.state.data)

    def _book(self, _: State) -> State:
        self._once(self._steps + 3, EventKind.TOOL_RESULT, booked=self.state.data["approved"])
        self._once(self._steps + 4, EventKind.RUN_FINISHED)
        self.state.status = RunStatus.COMPLETED
        self.state.current_step = self._steps + 4
        self._save()
        return State(data=self.state.data)

    def _once(self, seq: int, kind: EventKind, **payload: Any) -> PAEvent:
        """The event of this number: what was recorded before a crash, or else a new one."""
        known = self._known.get(seq)
        if known is None:
            known = self._known[seq] = PAEvent(RUN, seq=seq, kind=kind, payload=payload)
            self._store.save_event(known)
            self._tell("event", seq)
        return known

    def _save(self) -> None:
        self._store.save_snapshot(RUN, self.state)
        self._tell("state", self.state.current_step)

    def _tell(self, what: str, number: int) -> None:
        self._diary.note([what, number])
        print(what, number, flush=True)


def flow(url: str, diary: str, steps: int) -> None:
    """Run the flow, until its end or until a person is asked; then end at the parent's word."""
    with connect(url) as store:
        try:
            Flow(store, Diary(diary), steps).run()
        except NeedsApproval:
            print("asked", flush=True)
        else:
            print("done", flush=True)
        wait_for_word()


def member(url: str, diary: str, name: str, tasks: int) -> None:
    """Do a member's tasks, each once, in its lane, and note each in the shared state; then end likewise."""
    told = Diary(diary)
    with connect(url) as store, store.open_run(RUN, lane_id=name) as run:
        for number in range(tasks):
            task = f"{name}-{number}"
            run.emit(EventKind.TOOL_RESULT, {"task": task}, key=task)
            told.note(["event", task])

            def change(state: RunState, task: str = task) -> None:
                if not state.has_cached_result(task):
                    state.cache_result(task, len(state.completed_nodes))
                    state.mark_node_started(task)
                    state.mark_node_completed(task)
                    state.data[name] = state.data.get(name, 0) + 1

            store.update_state(RUN, change, attempts=10_000)
            told.note(["state", task])
            print(task, flush=True)
        wait_for_word()


WORLDS: Mapping[str, Callable[..., None]] = {world.__name__: world for world in (flow, member)}

if __name__ == "__main__":
    WORLDS[sys.argv[1]](**json.loads(sys.argv[2]))
