"""Tasks of which only those steps are scheduled that others may notice.

Between two exchanges with the server, or two calls of an archive, what a task does is its process's own: nobody
else sees whether it is done early or late. So it is done at once, and there is a choice only where all that can go
on are about to make a shared step.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from greenlet import getcurrent

from runstream.testing.simulation.choices import Choices
from runstream.testing.simulation.clock import Clock
from runstream.testing.simulation.exploration.tape import Given, Tape
from runstream.testing.simulation.scheduler import Killed, Process, Scheduler, Task
from runstream.testing.simulation.server import Fate

__all__ = ["Choose", "SharedSteps", "digest_of"]

Choose = Callable[[int, Callable[[], bytes]], int | None]


class _Next(NamedTuple):
    """The shared step that a task is about to make."""

    what: str
    fates: Sequence[Fate]


class SharedSteps(Scheduler):
    """Lets tasks go on as a search chooses.

    Args:
        clock: The time: it stands still while anybody can go on.
        tape: What steps gave.
    """

    def __init__(self, clock: Clock, tape: Tape) -> None:
        super().__init__(clock, Choices(0, ()))
        self.faults_left = 0
        """How many more steps of this history may have another fate than to arrive."""
        self.time_passes = False
        """Whether a process lets time pass, and not only nobody's having anything to do."""
        self.one_by_one = False
        """Whether each command of an exchange that is not atomic is a step."""
        self.remembered: set[str] = set()
        """The processes of which it matters what they have seen when they have ended, too."""
        self.dice: random.Random = random.Random()
        """What processes draw from the operating system."""
        self.skew_of_server: Callable[[], float] = lambda: 0.0
        """How far the clock of a server that executes something is ahead, in seconds."""
        self._tape = tape
        self._next: dict[Task, _Next] = {}
        self._fate = Fate.ARRIVES
        self._seen: dict[Process, bytes] = {}

    def begin(self, faults: int, *, time_passes: bool, one_by_one: bool) -> None:
        """Begin another history."""
        self.clock.begin()
        self.dice.seed(0)
        random.seed(0)
        self.steps, self.faults_left = 0, faults
        self.time_passes, self.one_by_one = time_passes, one_by_one
        self.story.clear()
        self.remembered.clear()
        self._seen.clear()

    def skew(self) -> float:
        """How far the clock of whoever asks is ahead, in seconds."""
        return self.skew_of_server()

    def share(
        self, what: str, make: Callable[[], Given], fates: Sequence[Fate] = (Fate.ARRIVES,)
    ) -> tuple[Fate, Any]:
        """Make a step that others may notice, once it is chosen to come next.

        Args:
            what: What it is, for the story.
            make: Makes it.
            fates: What may become of it.

        Returns:
            What became of it, and its result. Raises what it raises.
        """
        task = self._by_greenlet.get(getcurrent())
        fate = Fate.ARRIVES
        if task is not None:
            self._check_alive(task)
            self._next[task] = _Next(what, fates)
            self._hub.switch()
            self._check_alive(task)
            fate = self._fate
            self.note(what if fate is Fate.ARRIVES else f"{what}: {fate.value}")
        given = Given("lost") if fate is Fate.REQUEST_LOST else self._tape.play(make)
        if task is not None:
            self._observe(task.process, fate.name, "" if fate is Fate.REPLY_LOST else given.sign)
        if fate is Fate.KILLED_AFTER:
            self.kill(self.process)
            raise Killed
        if given.error is not None:
            raise given.error.with_traceback(None)
        return fate, given.value

    def make_alone(self, make: Callable[[], Given]) -> Any:
        """Make a step that gives the same whenever it is made: nobody else can tell when that is."""
        return self._tape.play(make).value

    def play(self, choose: Choose, shared: Callable[[], bytes], most_steps: int = 2_000) -> bool:
        """Let all tasks come to their end; False if the search has been there before.

        Args:
            choose: Chooses the way on.
            shared: The state of what is shared.
            most_steps: More are taken for no end.
        """
        self._hub = getcurrent()
        while True:
            while (task := self._next_alone()) is not None:
                self._resume(task)
            ways = self._ways()
            if not ways and self._tasks:
                self.clock.pass_until(min(task.wakes_at for task in self._tasks))
                continue
            way = choose(len(ways), lambda: self._state(shared()))
            if way is None or not ways:
                return way is not None
            self.steps += 1
            if self.steps > most_steps:
                raise RuntimeError(f"no end after {most_steps} steps")
            task, self._fate = ways[way]
            self.faults_left -= self._fate is not Fate.ARRIVES
            del self._next[task]
            self._resume(task)

    def close(self) -> None:
        """Kill all that is left."""
        super().close()
        self._next.clear()

    def _next_alone(self) -> Task | None:
        """A task that can go on by itself."""
        now = self.clock.monotonic()
        for task in self._tasks:
            if task.process.is_dead or (task not in self._next and task.is_ready(now)):
                return task
        return None

    def _ways(self) -> list[tuple[Task, Fate]]:
        ways = [(task, Fate.ARRIVES) for task in self._next]
        if self.faults_left:
            ways += [
                (task, fate)
                for task, step in self._next.items()
                for fate in step.fates
                if fate is not Fate.ARRIVES
            ]
        return ways

    def _resume(self, task: Task) -> None:
        # what a process draws is what it has seen, so that it is the same whatever others did meanwhile
        self._observe(task.process, task.name.removeprefix(task.process.name), repr(self.clock.monotonic()))
        if task.process.is_dead:
            self._next.pop(task, None)
        chance = int.from_bytes(digest_of(task.process.name, self._seen[task.process]))
        self.dice.seed(chance)
        random.seed(chance)
        self._switch(task)

    def _observe(self, process: Process, *facts: str) -> None:
        self._seen[process] = digest_of(self._seen.get(process, _kind_of(process)), facts)

    def _state(self, shared: bytes) -> bytes:
        """What the rest follows from: what is shared, and all that each process has seen, which is all it knows.

        A process that has ended knows nothing, but for what its diary says. Those that are named ``KIND.NUMBER``
        draw nothing by chance, and are interchangeable.
        """
        at_work = {task.process for task in self._tasks}
        seen = sorted(
            (_kind_of(process), seen)
            for process, seen in self._seen.items()
            if process in at_work or process.name in self.remembered
        )
        return digest_of(shared, self.clock.monotonic(), self.faults_left, seen)

    @staticmethod
    def _check_alive(task: Task) -> None:
        if task.process.is_dead:
            raise Killed


def _kind_of(process: Process) -> str:
    return process.name.partition(".")[0]


def digest_of(*facts: Any) -> bytes:
    """A digest of facts that ``repr`` tells apart."""
    return blake2b(repr(facts).encode(), digest_size=16).digest()
