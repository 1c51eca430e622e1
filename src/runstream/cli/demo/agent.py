"""An agent that may be killed at any moment and goes on where it was: the example to read.

What it does next follows from its state alone (:func:`decide`), and its state follows from its events
alone (:func:`evolve`). So an agent that comes back loads its lane's latest snapshot, plays the events that
were recorded after it, and goes on from the same state: no step is done twice and none is left out. Several
agents share a run, each in a lane of its own.

The model and the tools that it calls are simulated, in :mod:`~runstream.cli.demo.world`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeAlias

from runstream import Appended, EventKind, PAEvent, RunState, RunStatus, RunStore
from runstream.cli.demo import world

__all__ = ["SNAPSHOT_EVERY_STEPS", "Outcome", "Resumed", "Task", "decide", "evolve", "resume", "work"]

SNAPSHOT_EVERY_STEPS = 3

Store: TypeAlias = RunStore[PAEvent, RunState]
Action: TypeAlias = tuple[EventKind, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Task:
    """An agent's task: ``steps`` of work in one lane of a run.

    One that ``leads`` also begins the run, and ends it when the lanes in ``waits_for`` have finished too.
    """

    run_id: str
    lane_id: str
    steps: int
    session_id: str = ""
    seed: int = 0
    leads: bool = False
    waits_for: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Resumed:
    """From where an agent went on: its step, the offset that its snapshot covered, the events played after it."""

    step: int
    snapshot_offset: int
    replayed_events: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an agent has done when its lane has finished; ``resumed`` is None if it began anew."""

    steps: int
    events: int
    cost: Decimal
    resumed: Resumed | None


def work(
    store: Store,
    task: Task,
    *,
    pace_seconds: float = 0.0,
    acknowledged: Callable[[Appended, Sequence[PAEvent]], None] = lambda _, __: None,
) -> Outcome:
    """Do the task, or what is left of it. ``acknowledged`` is called after every append that has returned."""
    state, resumed = resume(store, task)
    while actions := decide(task, state):
        if actions[0][0] is EventKind.RUN_FINISHED:
            _await_lanes(store, task)
        events = [_record(task, state, kind, payload) for kind, payload in actions]
        # the events, and every few steps the state that follows from them, in one atomic step
        snapshot = state if _is_checkpoint(state) else None
        appended = store.append(task.run_id, events, snapshot=snapshot, lane_id=task.lane_id)
        acknowledged(appended, events)
        time.sleep(pace_seconds)
    return Outcome(state.current_step, state.data["seq"], state.data["cost"], resumed)


def resume(store: Store, task: Task) -> tuple[RunState, Resumed | None]:
    """The lane's state: from its latest snapshot and the events after it, or a new one."""
    recovery = store.recover(task.run_id, lane_id=task.lane_id)
    state = recovery.state or RunState(
        task.run_id,
        task.session_id,
        max_steps=task.steps,
        data={"seq": 0, "last": "", "span": None, "cost": Decimal(0)},
    )
    for recorded in recovery.events:
        evolve(state, recorded.event)
    if not state.data["seq"]:
        return state, None
    return state, Resumed(state.current_step, recovery.offset, len(recovery.events))


def decide(task: Task, state: RunState) -> list[Action]:
    """Decide what to record next: always the same for one state, and nothing when the lane has finished."""
    step, chance = state.current_step, world.chance(task.seed, task.run_id, task.lane_id, state.current_step)
    match state.data["last"]:
        case "":
            begin: list[Action] = [(EventKind.RUN_STARTED, {"step": 0, "purpose": world.PURPOSE})]
            started: Action = (EventKind.AGENT_STARTED, {"step": 0, "agent": task.lane_id, "steps": task.steps})
            return [*(begin if task.leads else []), started]
        case EventKind.AGENT_STARTED | EventKind.REASONING_SUMMARY if step < task.steps:
            return [(EventKind.MODEL_REQUEST, {"step": step + 1, **world.request(step + 1)})]
        case EventKind.MODEL_REQUEST:
            return [(EventKind.TEXT_DELTA, {"step": step, "text": text}) for text in world.deltas(chance)]
        case EventKind.TEXT_DELTA:
            return [(EventKind.MODEL_RESPONSE, {"step": step, **world.response(chance)})]
        case EventKind.MODEL_RESPONSE:
            tool, args = world.tool_call(chance)
            return [
                (EventKind.TOOL_STARTED, {"step": step, "tool": tool}),
                (EventKind.TOOL_ARGS, {"step": step, "tool": tool, "args": args}),
            ]
        case EventKind.TOOL_ARGS:
            tool, args = world.tool_call(chance)
            return [(EventKind.TOOL_RESULT, {"step": step, "tool": tool, "result": world.tool_result(tool, args)})]
        case EventKind.TOOL_RESULT:
            return [(EventKind.REASONING_SUMMARY, {"step": step, "text": f"step {step} answered its question"})]
        case EventKind.REASONING_SUMMARY | EventKind.AGENT_STARTED:
            return [(EventKind.AGENT_FINISHED, {"step": step, "cost": state.data["cost"]})]
        case EventKind.AGENT_FINISHED if task.leads:
            return [(EventKind.RUN_FINISHED, {"step": step})]
    return []


def evolve(state: RunState, event: PAEvent) -> None:
    """Bring the state up to date with an event of its lane, which has just been made or was found again."""
    payload = event.payload
    state.data["seq"], state.data["last"] = event.seq, EventKind(event.kind).value
    match event.kind:
        case EventKind.AGENT_STARTED:
            state.status = RunStatus.RUNNING
        case EventKind.MODEL_REQUEST:
            state.current_step = payload["step"]
            state.data["span"] = event.span_id
            state.mark_node_started("model")
        case EventKind.MODEL_RESPONSE:
            state.mark_node_completed("model", payload["usage"])
            state.data["cost"] += payload["cost"]
        case EventKind.TOOL_STARTED:
            state.mark_node_started(payload["tool"])
        case EventKind.TOOL_RESULT:
            state.mark_node_completed(payload["tool"])
        case EventKind.AGENT_FINISHED:
            state.status = RunStatus.COMPLETED


def _record(task: Task, state: RunState, kind: EventKind, payload: dict[str, Any]) -> PAEvent:
    event = PAEvent(
        task.run_id,
        task.session_id,
        task.lane_id,
        parent_span_id=state.data["span"],
        seq=state.data["seq"] + 1,
        kind=kind,
        payload=payload,
    )
    evolve(state, event)
    return event


def _is_checkpoint(state: RunState) -> bool:
    if state.data["last"] == EventKind.REASONING_SUMMARY:
        return state.current_step % SNAPSHOT_EVERY_STEPS == 0
    return state.data["last"] in (EventKind.AGENT_FINISHED, EventKind.RUN_FINISHED)


def _await_lanes(store: Store, task: Task) -> None:
    for lane_id in task.waits_for:
        while True:
            snapshot = store.load_snapshot(task.run_id, lane_id=lane_id)
            if snapshot is not None and snapshot.state.status == RunStatus.COMPLETED:
                break
            time.sleep(0.05)
