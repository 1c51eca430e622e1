"""Tasks of purpose-agent's own HITLOrchestrator: a model of canned answers, people who answer, or leave."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

from purpose_agent import Orchestrator, State
from purpose_agent.hitl import HITLOrchestrator, HumanInput, HumanInputHandler, InterruptType
from purpose_agent.llm_backend import MockLLMBackend
from purpose_agent.orchestrator import SimpleEnvironment
from purpose_agent.types import Action

from runstream.integrations.purpose_agent import HITLCheckpoints, connect

ANSWER = {
    "thought": "it is the next one",
    "action": {"name": "book", "params": {"room": 101}},
    "expected_delta": "one more is booked",
    "phi_before": 1.0,
    "phi_after": 2.0,
    "reasoning": "one more is booked",
    "evidence": "booked was lower by 1",
    "confidence": 0.9,
}


class Away(Exception):
    """Nobody is there to answer."""


class Approve(HumanInputHandler):  # type: ignore[misc] # it has no types
    """Approves the steps up to one, and is away then."""

    def __init__(self, until: int) -> None:
        self.until = until

    def request_input(self, interrupt_type: InterruptType, context: dict[str, Any]) -> HumanInput:
        if context["step"] > self.until:
            raise Away
        return HumanInput(interrupt_type)


class AskInStore(HumanInputHandler):  # type: ignore[misc]
    """Asks in a run, and waits for the answer, which may come from another process."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def request_input(self, interrupt_type: InterruptType, context: dict[str, Any]) -> HumanInput:
        asked = json.dumps([interrupt_type.value, context], sort_keys=True)
        self.run.pause(asked, key=hashlib.sha256(asked.encode()).hexdigest())
        return HumanInput(interrupt_type, approved=self.run.wait()["ok"])


def book(_action: Action, state: State) -> State:
    """The environment: a state with a value that JSON has no type for."""
    return State(data={"booked": state.data.get("booked", 0) + 1, "at": (1, 2)})


def orchestrator(handler: HumanInputHandler, **options: Any) -> HITLOrchestrator:
    """It books one room at each step, if it may."""
    model = MockLLMBackend().set_structured_default(ANSWER)
    return HITLOrchestrator(Orchestrator(model, SimpleEnvironment(book)), handler, approve_actions=True, **options)


def main(url: str, what: str, run_id: str) -> None:
    """A process with a part in a task: a number approves so many of five steps, ``ask`` asks at each of three."""
    with connect(url) as store, store.open_run(run_id) as run:
        checkpoints = HITLCheckpoints(store, run_id)
        handler, steps = (AskInStore(run), 3) if what == "ask" else (Approve(int(what)), 5)
        hitl = checkpoints.attach(orchestrator(handler))
        try:
            result = hitl.run_task("book", max_steps=steps, resume_from=checkpoints.latest())
        except Away:
            print(f"away after {len(hitl._checkpoints)}", flush=True)
            return
    print(f"{result.final_state.data['booked']} booked, {len(hitl._checkpoints)} saved", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
