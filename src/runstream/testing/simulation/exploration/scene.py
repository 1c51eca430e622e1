"""The scene of a small configuration: the processes that take part, and what they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from runstream.drain.worker import DrainWorker
from runstream.model.errors import EventsArchived, StoreUnavailable
from runstream.model.events import EventKind, PAEvent
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.namespace import namespace_of
from runstream.testing.agent import Agent
from runstream.testing.copies import Copy, copy_in_jsonl, copy_in_stream
from runstream.testing.judge import hear, judge
from runstream.testing.simulation.choices import Choices, Dice
from runstream.testing.simulation.exploration.shared import Shared, SharedSink, SharedTransport
from runstream.testing.simulation.exploration.steps import SharedSteps
from runstream.testing.simulation.exploration.tape import Given
from runstream.testing.simulation.park_watch import ParkWatch
from runstream.testing.simulation.scheduler import Process
from runstream.testing.simulation.server import Fate
from runstream.testing.simulation.world import Diary

__all__ = ["RUN", "Scene", "Writer"]

RUN = "run"

_LONG_SECONDS = 1_000.0  # longer than claims, leases, and what is parked
_MOST_DRAINS = 3
_ARRIVES = (Fate.ARRIVES,)


class Writer(Agent):
    """Appends single events without keys, one at a turn."""

    lane_id: str | None = None  # the one that has its own name
    kind = EventKind.TOOL_RESULT

    def take_turns(self, turns: int) -> None:
        """Append so many."""
        for _ in range(turns):
            self.take_turn()

    def choose_keys(self, marks: Sequence[str]) -> None:
        """None."""

    def event(self, run_id: str, mark: str) -> PAEvent:
        """One event."""
        return replace(super().event(run_id, mark), lane_id=self.lane_id or self.name, kind=self.kind)


W = TypeVar("W", bound=Writer)


class Scene:
    """What those who take part in a configuration have.

    Args:
        steps: Their steps.
        directory: Where the archive lies.
    """

    def __init__(self, steps: SharedSteps, directory: Path) -> None:
        self.steps = steps
        self.host: RedisCheckpointer[Any, Any]
        """The store of whoever prepares a history, and judges it."""
        self.clock = steps.clock
        self.directory = directory / "archive"
        self.shared = Shared(steps, self.directory)
        self.diaries: list[Diary] = []
        self.noted: list[str] = []
        """What was wrong with a step, as it was made."""
        self.shared.server.notes.append(ParkWatch(self.shared.server, self.noted.append).note)
        self._to_settle: list[Callable[[], None]] = []

    def begin(self, faults: int, *, time_passes: bool, one_by_one: bool) -> None:
        """Begin a history.

        Args:
            faults: How many steps may have another fate than to arrive.
            time_passes: Whether one of those who take part lets time pass.
            one_by_one: Whether each command of an exchange that is not atomic is a step.
        """
        self.steps.begin(faults, time_passes=time_passes, one_by_one=one_by_one)
        self.diaries.clear()
        self.noted.clear()
        self._to_settle.clear()
        self.host = self.open("the host", partitions=1)

    # -- who takes part ----------------------------------------------------------------------------

    def open(self, name: str, fates: Sequence[Fate] = _ARRIVES, **options: Any) -> RedisCheckpointer[Any, Any]:
        """The store, as a process opens it. What may become of its round trips is one of these fates."""
        transport = SharedTransport(self.shared, self.steps, Process(name), fates)
        return RedisCheckpointer(transport, **{"retry_seconds": 0, **options})

    def writer(self, kind: type[W], name: str, fates: Sequence[Fate] = _ARRIVES, *, settles: bool = True) -> W:
        """A writer. One that settles looks in the end what became of what it wrote."""
        diary = Diary()
        self.diaries.append(diary)
        self.steps.remembered.add(name)
        writer = kind(self.open(name, fates), name, [RUN], diary, Dice(Choices(0, ())))  # type: ignore[arg-type] # as Random
        if settles:
            self._to_settle.append(writer.settle)
        return writer

    def worker(self, name: str, fates: Sequence[Fate] = _ARRIVES, **options: Any) -> DrainWorker:
        """A drain worker that has begun, and found nothing due."""
        sink = SharedSink(self.shared.archive, self.steps, fates)
        options = {"trim": "archived", "claim_seconds": 30.0, **options}
        worker = DrainWorker(self.open(name, fates), [sink], name=name, **options)
        worker.drain_once()
        return worker

    def act(self, name: str, body: Callable[[], object]) -> None:
        """Let a process do something, in the course of the history."""
        self.steps.spawn(Process(name), name, body)  # type: ignore[arg-type] # whatever it returns

    def drain(self, worker: DrainWorker) -> None:
        """Drain, and again what was broken off."""
        while True:
            try:
                worker.drain_once()
            except StoreUnavailable:
                continue
            return

    def change(self, what: str, make: Callable[[], object]) -> None:
        """Change what is shared, in one step."""

        def given() -> Given:
            make()
            return Given("")

        self.steps.share(what, given)

    def pass_seconds(self, *spans: float) -> None:
        """Let time pass, each span (in seconds) in one step."""
        for seconds in spans:
            self.steps.share(f"{seconds:g} s pass", lambda: Given(""))
            self.clock.pass_until(self.clock.monotonic() + seconds)

    # -- the end -----------------------------------------------------------------------------------

    def settle(self) -> Iterator[str]:
        """Let writers look what became of what they wrote, and drain all. Yields what is wrong with that."""
        self.steps.faults_left = 0
        for settle in self._to_settle:
            self.alone(settle)
        for _ in range(_MOST_DRAINS):
            self.clock.pass_until(self.clock.monotonic() + _LONG_SECONDS)
            self.alone(self.archive)
            status = namespace_of(self.host).status()
            if status.due == 0 and status.later == len(status.parked):
                return
        yield f"not all is drained: {status}"

    @property
    def hot(self) -> Copy:
        """What Redis has of the run."""
        return copy_in_stream(self.shared.raw, namespace_of(self.host).keys.run(RUN).events)

    @property
    def archived(self) -> Copy:
        """What the archive has of the run."""
        return copy_in_jsonl(self.directory, RUN)

    def saved_steps(self) -> list[int]:
        """The steps of the run's snapshots, in Redis and in the archive."""
        found = []
        with suppress(EventsArchived):
            found.append(self.host.load_latest(RUN))
        found.append(self.shared.archive.call("load_latest", RUN).value)
        return [state.current_step for state in found if state is not None]

    def faults(self) -> Iterator[str]:
        """What is wrong with the run, by what the writers say."""
        said = hear((diary.lines, diary.was_killed) for diary in self.diaries)[RUN]
        parked = RUN in namespace_of(self.host).status().parked
        yield from judge(
            self.hot, {"jsonl": self.archived}, said, 0, is_parked=parked, losses=self.shared.losses > 0
        )

    def archive(self) -> None:
        """Let a worker archive all that is due, and trim nothing."""
        sink = SharedSink(self.shared.archive, self.steps, _ARRIVES)
        DrainWorker(self.host, [sink], name="the last worker", trim="never").drain_once()

    def alone(self, act: Callable[[], object]) -> None:
        """Let a process do something, while nobody else does anything."""
        self.act("the host", act)
        self.steps.play(lambda _, __: 0, lambda: b"")
