"""Tasks that go on one at a time, as a scheduler chooses, and the processes that they belong to.

A task is a greenlet: plain blocking code, which gives way where it waits. So nothing of what is simulated has to
know of the simulation, and no two tasks ever run at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from greenlet import getcurrent, greenlet

from runstream.testing.simulation.choices import Choices
from runstream.testing.simulation.clock import Clock

__all__ = ["FOR_EVER_SECONDS", "Interrupted", "Killed", "Process", "Scheduler", "Task"]

FOR_EVER_SECONDS = 1e12
_STEP_SECONDS = 0.0005


class Killed(BaseException):
    """The process died here. A BaseException: no handler of the code that is simulated may swallow it."""


class Interrupted(KeyboardInterrupt):
    """A signal's handler raised it, in the midst of a call."""


@dataclass(eq=False)
class Process:
    """A process of the simulation: its tasks live and die together."""

    name: str
    is_dead: bool = False


class Task:
    """What one thread of a process does."""

    def __init__(self, process: Process, name: str, body: Callable[[], None], parent: greenlet) -> None:
        self.process = process
        self.name = name
        self.wakes_at = 0.0  # monotonic seconds
        self.alarm_at = FOR_EVER_SECONDS
        self.last_step = 0
        self.is_woken: Callable[[], bool] | None = None
        self.failure: BaseException | None = None
        self._body = body
        self.greenlet = greenlet(self._run, parent)

    def _run(self) -> None:
        try:
            if not self.process.is_dead:
                self._body()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - whoever runs the scheduler is to see it
            self.failure = error

    def is_ready(self, now: float) -> bool:
        """Whether it can go on at this time, in monotonic seconds."""
        return self.wakes_at <= now or (self.is_woken is not None and self.is_woken())


class Scheduler:
    """Lets tasks go on, one at a time, until nobody has anything to do.

    Args:
        clock: The time that passes.
        choices: Decide who goes on.
    """

    def __init__(self, clock: Clock, choices: Choices) -> None:
        self.clock = clock
        self.choices = choices
        self.steps = 0
        self.story: list[str] = []
        self._tasks: list[Task] = []
        self._by_greenlet: dict[greenlet, Task] = {}
        self._hub: greenlet = getcurrent()

    def spawn(self, process: Process, name: str, body: Callable[[], None]) -> Callable[[], bool]:
        """Start a task; what is returned tells whether it has ended."""
        task = Task(process, name, body, self._hub)
        self._tasks.append(task)
        self._by_greenlet[task.greenlet] = task
        return lambda: task.greenlet.dead

    def is_simulated(self) -> bool:
        """Whether it is a task that asks."""
        return getcurrent() in self._by_greenlet

    @property
    def process(self) -> Process:
        """The process of the task that asks."""
        return self._by_greenlet[getcurrent()].process

    @property
    def current(self) -> object:
        """The task that asks; None: it is none."""
        return self._by_greenlet.get(getcurrent())

    def note(self, what: str) -> None:
        """Add a line to the story, of the task that does it."""
        task = self._by_greenlet.get(getcurrent())
        who = "the world" if task is None else task.name
        if asyncio._get_running_loop() is not None and (of_loop := asyncio.current_task()) is not None:
            who = of_loop.get_name()
        self.story.append(f"{self.clock.monotonic():12.4f}  {who}: {what}")

    def step(self) -> None:
        """Let others go on before this task does. Raises Killed in a process that is dead."""
        self.wait(0.0)

    def wait(self, seconds: float, is_woken: Callable[[], bool] | None = None) -> None:
        """Wait for so long, or until it is woken; others go on meanwhile.

        Raises Killed in a dead process, and Interrupted where the task's alarm goes off.
        """
        task = self._by_greenlet[getcurrent()]
        if task.process.is_dead:
            raise Killed
        task.wakes_at, task.is_woken = min(self.clock.monotonic() + seconds, task.alarm_at), is_woken
        self._hub.switch()
        if task.process.is_dead:
            raise Killed
        if self.clock.monotonic() >= task.alarm_at:
            task.alarm_at = FOR_EVER_SECONDS
            raise Interrupted

    @contextmanager
    def alarm(self, seconds: float) -> Iterator[None]:
        """Interrupt this task after so many seconds, where it waits then, unless it is through by that time."""
        task = self._by_greenlet[getcurrent()]
        task.alarm_at = self.clock.monotonic() + seconds
        try:
            yield
        finally:
            task.alarm_at = FOR_EVER_SECONDS

    def kill(self, process: Process) -> None:
        """End a process: nothing more of it is done. One that kills itself ends at its next step."""
        process.is_dead = True

    def run(self, until: Callable[[], bool], most_steps: int) -> bool:
        """Let tasks go on until it is so; False if so many steps were not enough.

        Raises what a task raised.
        """
        self._hub = getcurrent()
        last = self.steps + most_steps
        while self.steps < last:
            if until():
                return True
            if not self._go_on():
                return until()
        return until()

    def close(self) -> None:
        """Kill all that is left."""
        for task in list(self._tasks):
            self.kill(task.process)
        while self._tasks:
            self._switch(self._tasks[0])

    def _go_on(self) -> bool:
        now = self.clock.monotonic()
        ready = [task for task in self._tasks if task.process.is_dead or task.is_ready(now)]
        if not ready:
            if not self._tasks:
                return False
            self.clock.pass_until(min(task.wakes_at for task in self._tasks))
            return True
        self.steps += 1
        self.clock.pass_until(now + _STEP_SECONDS)
        ready.sort(key=_last_step)  # the ordinary choice is who has waited the longest
        task = self.choices.one_of(ready)
        task.last_step = self.steps
        self._switch(task)
        return True

    def _switch(self, task: Task) -> None:
        task.greenlet.switch()
        if task.greenlet.dead:
            self._tasks.remove(task)
            del self._by_greenlet[task.greenlet]
            if task.failure is not None:
                raise task.failure


def _last_step(task: Task) -> int:
    return task.last_step
