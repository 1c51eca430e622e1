"""The demo's scenario: agents work, a worker archives, one agent and the worker are killed and go on.

Nothing here waits for a fixed time: each step begins when what it needs has come, and all have a deadline.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from runstream.cli.demo.agent import SNAPSHOT_EVERY_STEPS, Task
from runstream.cli.demo.display import DemoState, Display
from runstream.cli.demo.journal import JournalTail
from runstream.cli.demo.processes import Children, DemoFailed, Interruption
from runstream.model.events import PAEvent
from runstream.model.state import RunState
from runstream.stores.protocol import RunStore
from runstream.stores.redis.namespace import namespace_of

__all__ = ["DemoFiles", "Scenario", "ScenarioResult", "plan"]

_LANES = {"orders": ("planner", "searcher"), "invoices": ("planner", "auditor"), "support": ("planner",)}
_STEPS = 24
_PACE_SECONDS = 0.02
_CLAIM_SECONDS = 2.0  # so soon the second worker takes over what the first had claimed
_POLL_SECONDS = 0.01
_POLL_REDIS_EVERY_SECONDS = 0.1
_DEADLINE_SECONDS = 90.0  # a slow machine may need long; a demo that hangs must end

_WORKER = "worker"


@dataclass(frozen=True, slots=True)
class DemoFiles:
    """The files of the demo, below one directory."""

    directory: Path

    @property
    def server_url(self) -> str:
        """The embedded server."""
        return f"embedded:{self.directory / 'server'}"

    @property
    def archive_urls(self) -> dict[str, str]:
        """The archives by the name of their format."""
        return {
            "SQLite": f"sqlite:{self.directory / 'archive.db'}",
            "JSONL": f"jsonl:{self.directory / 'archive'}",
        }

    @property
    def journals(self) -> Path:
        """The journals of what each agent was acknowledged."""
        return self.directory / "journals"

    @property
    def logs(self) -> Path:
        """The logs of what each process printed."""
        return self.directory / "logs"

    def journal(self, task: Task) -> Path:
        """The journal of one agent."""
        return self.journals / f"{task.run_id}.{task.lane_id}.jsonl"

    def build(self) -> None:
        """Make the directories. Where they lie in a repository, git ignores them."""
        for directory in (self.directory, self.journals, self.logs):
            directory.mkdir(parents=True, exist_ok=True)
        (self.directory / ".gitignore").write_text("*\n", encoding="utf-8")


@dataclass(slots=True)
class ScenarioResult:
    """What happened: who was killed, what each agent and the last worker reported, how long it took (seconds)."""

    kills: list[dict[str, Any]] = field(default_factory=list)
    agents: dict[str, dict[str, Any]] = field(default_factory=dict)
    worker: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def plan(seed: int) -> dict[str, Task]:
    """The agents by name: five in three runs, two of which have two lanes."""
    return {
        f"{run}/{lane}": Task(run, lane, _STEPS, "demo", seed, leads=lane == lanes[0], waits_for=lanes[1:])
        for run, lanes in _LANES.items()
        for lane in lanes
    }


class Scenario:
    """Runs the scenario once."""

    def __init__(
        self,
        files: DemoFiles,
        store: RunStore[PAEvent, RunState],
        tasks: Mapping[str, Task],
        *,
        seed: int,
        display: Display,
        interruption: Interruption,
    ) -> None:
        self._files = files
        self._store = store
        self._tasks = tasks
        self._victim = Random(seed).choice(sorted(tasks))  # noqa: S311  a plot, not a secret
        self._display = display
        self._interruption = interruption
        self._journals = {name: JournalTail(files.journal(task)) for name, task in tasks.items()}
        self._steps = dict.fromkeys(tasks, 0)
        self._began = self._polled = time.monotonic()
        self._state = DemoState(dict(self._steps), 0, 0, 0)

    def run(self) -> ScenarioResult:
        """Run it. Raises DemoFailed if a process fails or the deadline passes; no process is left."""
        done = ScenarioResult()
        with Children(self._files.logs) as children:
            self._start_worker(children)
            for name in self._tasks:
                self._start_agent(children, name)
            self._display.say(f"{len(self._tasks)} agents work in {len(_LANES)} runs, a worker archives")
            done.kills.append(self._kill_agent(children))
            done.kills.append(self._kill_worker(children))
            self._await(children, lambda: all(children.has_ended(name) for name in self._tasks))
            done.agents = {name: children.result(name) for name in self._tasks}
            self._display.say("all agents have finished")
            self._await(children, self._is_drained)
            self._display.say("all is archived")
            children.ask_to_end(_WORKER)
            self._await(children, lambda: children.has_ended(_WORKER))
            done.worker = children.result(_WORKER)
        done.seconds = time.monotonic() - self._began
        return done

    def _start_agent(self, children: Children, name: str) -> None:
        task = self._tasks[name]
        arguments = ["agent", "--url", self._files.server_url, "--run", task.run_id, "--lane", task.lane_id]
        arguments += ["--steps", str(task.steps), "--seed", str(task.seed), "--session", task.session_id]
        arguments += ["--pace", str(_PACE_SECONDS), "--journal", str(self._files.journal(task)), "--json"]
        if task.leads:
            arguments.append("--leader")
        for lane in task.waits_for:
            arguments += ["--wait-for", lane]
        children.start(name, arguments)

    def _start_worker(self, children: Children) -> None:
        arguments = ["drain", "--url", self._files.server_url, "--claim", str(_CLAIM_SECONDS), "--json"]
        for url in self._files.archive_urls.values():
            arguments += ["--to", url]
        children.start(_WORKER, arguments)

    def _kill_agent(self, children: Children) -> dict[str, Any]:
        """Kill one agent a third of the way in, with events after its last snapshot, and start it again."""

        def is_part_way() -> bool:
            step = self._steps[self._victim]
            return step >= _STEPS // 3 and step % SNAPSHOT_EVERY_STEPS == 2

        self._await(children, is_part_way)
        pid = children.kill(self._victim)
        self._poll()
        step = self._steps[self._victim]
        self._display.say(f"agent {self._victim} (process {pid}) is killed at step {step}, and started again")
        self._start_agent(children, self._victim)
        return {"process": "agent", "name": self._victim, "pid": pid, "step": step}

    def _kill_worker(self, children: Children) -> dict[str, Any]:
        """Kill the worker half way, when it has archived some events but not all, and start it again."""

        def is_half_way() -> bool:
            half = sum(self._steps.values()) * 2 >= sum(task.steps for task in self._tasks.values())
            return half and 0 < self._state.archived < self._state.events

        self._await(children, is_half_way)
        pid = children.kill(_WORKER)
        archived = self._state.archived
        self._display.say(
            f"the worker (process {pid}) is killed with {archived} events archived, and started again"
        )
        self._start_worker(children)
        return {"process": "worker", "name": _WORKER, "pid": pid, "archived": archived}

    def _is_drained(self) -> bool:
        if self._state.archived < self._state.events:
            return False
        status = namespace_of(self._store).status()
        if status.parked:
            run_id, reason = next(iter(status.parked.items()))
            raise DemoFailed(f"run {run_id!r} is parked: {reason}")
        return not status.due and not status.later

    def _await(self, children: Children, condition: Callable[[], bool]) -> None:
        self._poll()
        while not condition():
            self._interruption.check()
            for name in (*self._tasks, _WORKER):
                children.has_ended(name)  # raises for one that failed
            if time.monotonic() - self._began > _DEADLINE_SECONDS:
                raise DemoFailed(
                    f"the demo is not through after {_DEADLINE_SECONDS:.0f} s; see {self._files.logs}"
                )
            time.sleep(_POLL_SECONDS)
            self._poll()

    def _poll(self) -> None:
        """Read how far the agents are in their journals, and from time to time what Redis has."""
        for name, journal in self._journals.items():
            for line in journal.new():
                self._steps[name] = line.step
        now = time.monotonic()
        if now - self._polled < _POLL_REDIS_EVERY_SECONDS:
            return
        self._polled = now
        infos = list(self._store.runs())
        events = sum(info.last_offset for info in infos)
        hot = sum(info.last_offset - info.first_hot + 1 for info in infos)
        self._state = DemoState(dict(self._steps), events, hot, sum(info.archived_offset for info in infos))
        self._display.show(self._state)
