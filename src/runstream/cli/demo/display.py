"""Show the demo's progress on stderr: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from runstream.cli.demo.agent import Task
from runstream.cli.support.output import console

__all__ = ["DemoState", "Display"]

_LINE_EVERY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class DemoState:
    """How far the demo is: the step of each agent; events in all, in Redis, and archived."""

    steps: dict[str, int]
    events: int
    hot: int
    archived: int


class Display:
    """Shows how far the demo is, and what happens in between; a context manager."""

    def __init__(self, tasks: dict[str, Task]) -> None:
        self._tasks = tasks
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            console=console(sys.stderr),
            disable=not sys.stderr.isatty(),
        )
        self._agents = {name: self._add(f"agent {name}", "steps", task.steps) for name, task in tasks.items()}
        self._hot = self._add("in Redis", "events", 0)
        self._archived = self._add("archived", "events", 0)
        self._began = self._last_line = time.monotonic()

    def _add(self, description: str, unit: str, total: int) -> TaskID:
        return self._progress.add_task(description, total=total, unit=unit)

    def say(self, text: str) -> None:
        """Print what has happened, on one line."""
        self._progress.console.print(f"{time.monotonic() - self._began:6.2f} s  {text}")

    def show(self, state: DemoState) -> None:
        """Show how far the demo is now."""
        for name, task in self._agents.items():
            self._progress.update(task, completed=state.steps[name])
        self._progress.update(self._hot, completed=state.hot, total=state.events)
        self._progress.update(self._archived, completed=state.archived, total=state.events)
        if self._progress.disable and time.monotonic() - self._last_line >= _LINE_EVERY_SECONDS:
            self._last_line = time.monotonic()
            self.say(self._line(state, list(state.steps.values())))

    def _line(self, state: DemoState, steps: Sequence[int]) -> str:
        total = sum(task.steps for task in self._tasks.values())
        return (
            f"{sum(steps)} of {total} steps; {state.events} events, {state.hot} of them in Redis,"
            f" {state.archived} archived"
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
