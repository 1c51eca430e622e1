"""Flows of purpose-agent's own API in processes that are killed: nothing told is lost, nothing comes twice."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from purpose_agent.runtime import EventKind, PAEvent, RunStatus

from runstream.integrations.purpose_agent import connect
from tests.integrations.purpose_agent.flow_processes import RUN, FlowProcess
from tests.support.drain_tools import drain_to
from tests.support.exhaustive import ROUNDS
from tests.support.handles import open_run
from tests.support.processes.journal import Diary
from tests.support.servers import needs_embedded_server

PLACES = ["sqlite", "jsonl", *(pytest.param(kind, marks=needs_embedded_server) for kind in ("embedded", "tiered"))]


class Place:
    """Where a flow is recorded, and, where it is a server with an archive, its worker."""

    def __init__(self, kind: str, path: Path) -> None:
        self.url = {
            "sqlite": f"sqlite:{path}/runs.db",
            "jsonl": f"jsonl:{path}/runs",
            "embedded": f"embedded:{path}/state",
            "tiered": f"embedded:{path}/state",
        }[kind]
        self.diary = Diary(path / "diary")
        self._archive = f"sqlite:{path}/state/archive.db" if kind == "tiered" else None

    def drain(self) -> None:
        """Archive what there is, and take it out of the server; the run too, once it has ended."""
        if self._archive is not None:
            drain_to(self.url, self._archive, retire_after_seconds=0.0)

    def told(self, what: str) -> list[Any]:
        """What a process was told that it is recorded."""
        return [told for kind, told in self.diary.lines() if kind == what]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    made = Place(request.param, tmp_path)
    with contextlib.closing(made.diary):
        yield made


def run_flow(place: Place, steps: int, kill_after: int | None = None) -> str:
    """Run the flow in a process; kill it as soon as it has told so much. Returns its last word."""
    with FlowProcess("flow", url=place.url, diary=str(place.diary.path), steps=steps) as process:
        said = ""
        for _ in range(kill_after) if kill_after is not None else iter(int, 1):
            said = process.hear()
            if said in ("asked", "done"):
                process.tell("end")
                process.end()
                return said
        process.kill()
    place.drain()
    return said


def check_flow(place: Place, last: int) -> None:
    """All that was told is there, once, in order; no process went back behind a state that was told."""
    with connect(place.url) as store:
        seqs = [event.seq for event in store.list_events(RUN)]
        assert seqs == list(range(1, last + 1))
        assert len(set(place.told("event"))) == len(place.told("event"))
        assert set(place.told("event")) <= set(seqs)
        state: Any = store.load_latest(RUN)
        assert state.current_step >= max(place.told("state"))
    known = 0
    for what, number in place.diary.lines():
        known = max(known, number) if what == "state" else known
        assert what != "resumed" or number >= known


@pytest.mark.exhaustive
@pytest.mark.one_in(4)
@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_a_flow_is_killed_interrupted_and_resumed(place: Place) -> None:
    """In three processes: killed at work, interrupted for an approval, resumed after it to its end."""
    steps = 10
    run_flow(place, steps, kill_after=6)
    assert run_flow(place, steps) == "asked"
    with connect(place.url) as store:
        asked: Any = store.load_latest(RUN)
        assert (asked.status, asked.current_step, asked.data) == (RunStatus.PAUSED, steps, {"found": 55})
        (question,) = store.list_events(RUN, asked.current_step)
        assert question.kind is EventKind.HUMAN_APPROVAL_REQUESTED
        kind = EventKind.HUMAN_APPROVAL_RECEIVED
        answer = PAEvent(RUN, lane_id="people", seq=question.seq + 1, kind=kind, payload={"ok": True})
        store.save_event(answer)
    place.drain()
    assert run_flow(place, steps) == "done"
    place.drain()
    check_flow(place, steps + 4)
    with connect(place.url) as store:
        state: Any = store.load_latest(RUN)
        assert (state.status, state.data) == (RunStatus.COMPLETED, {"found": 55, "approved": True})
        assert state.completed_nodes == [f"search-{number}" for number in range(1, steps + 1)]
        assert all(node.finished_at >= node.started_at > 0 for node in state.node_states.values())


@pytest.mark.exhaustive
@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_a_flow_that_is_killed_again_and_again(place: Place) -> None:
    steps, chance = 60, random.Random(7)
    for _ in range(3 * ROUNDS):
        if run_flow(place, steps, kill_after=chance.randrange(1, 15)) == "asked":
            break
    assert run_flow(place, steps) == "asked"
    check_flow(place, steps + 1)


@pytest.mark.exhaustive
@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_a_team_of_four_processes_shares_one_state(place: Place) -> None:
    """Each member's tasks are in its lane and in the state once, those of one that is killed too."""
    tasks, names = 10 * ROUNDS, ["ann", "ben", "cy", "dot"]

    def start(name: str) -> FlowProcess:
        return FlowProcess("member", url=place.url, diary=str(place.diary.path), name=name, tasks=tasks)

    with contextlib.ExitStack() as stack:
        team = {name: stack.enter_context(start(name)) for name in names}
        for _ in range(3):
            team["ben"].hear()
        team["ben"].kill()
        place.drain()
        team["ben"] = stack.enter_context(start("ben"))
        for process in team.values():
            process.tell("end")
            process.end()
    place.drain()
    expected = {f"{name}-{number}" for name in names for number in range(tasks)}
    assert set(place.told("state")) == set(place.told("event")) == expected
    with connect(place.url) as store:
        events = store.list_events(RUN)
        state: Any = store.load_latest(RUN)
    for name in names:
        of_member = [event.payload["task"] for event in events if event.lane_id == name]
        assert of_member == [f"{name}-{number}" for number in range(tasks)]
        assert state.data[name] == tasks
    assert len(events) == len(state.completed_nodes) == len(expected)
    assert set(state.tool_results_cache) == set(state.completed_nodes) == expected
    assert sorted(state.tool_results_cache.values()) == list(range(len(expected)))


@pytest.mark.parametrize("url", ["memory:", "fake:"])
def test_a_run_asks_and_is_answered_in_purpose_agents_own_words(url: str) -> None:
    with connect(url) as store:
        open_run(store).pause("Book it?", key="book")
        asked: Any = store.load_latest("r")
        assert asked.status is RunStatus.PAUSED
        store.answer("r", {"ok": True})
        again = open_run(store)
        again.pause("Book it?", key="book")
        assert again.wait(timeout=0) == {"ok": True}
        assert again.state.status is RunStatus.RUNNING
        kinds = [event.kind for event in store.list_events("r")]
    for kind, expected in zip(
        kinds, [EventKind.HUMAN_APPROVAL_REQUESTED, EventKind.HUMAN_APPROVAL_RECEIVED], strict=True
    ):
        assert kind is expected
