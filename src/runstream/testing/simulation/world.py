"""The world of a game: its server, its disks and its time, and the ways in which processes reach them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from runstream.model.errors import StoreUnavailable
from runstream.repair.restore import PutBack, put_back
from runstream.stores.redis.checkpointer import AsyncRedisCheckpointer, RedisCheckpointer
from runstream.stores.redis.connection.transport import AsyncTransport
from runstream.testing.simulation.archive_set import ArchiveSet
from runstream.testing.simulation.async_server import AsyncOneByOneTransport, AsyncSimulatedTransport
from runstream.testing.simulation.choices import Choices
from runstream.testing.simulation.claim_watch import ClaimWatch
from runstream.testing.simulation.clock import Clock
from runstream.testing.simulation.cluster import SimulatedCluster, SimulatedClusterTransport
from runstream.testing.simulation.disk import Disk
from runstream.testing.simulation.lease_watch import LeaseWatch
from runstream.testing.simulation.loop import Loop
from runstream.testing.simulation.park_watch import ParkWatch
from runstream.testing.simulation.plan import Plan
from runstream.testing.simulation.proof import ProofWatch
from runstream.testing.simulation.report_watch import ReportWatch
from runstream.testing.simulation.scheduler import Process, Scheduler
from runstream.testing.simulation.server import SimulatedServer, SimulatedTransport
from runstream.testing.simulation.threads import Threads

__all__ = ["Diary", "Followed", "Piece", "World"]

_TURNS_PER_FORK = 20


class Piece(NamedTuple):
    """What a reader got of a run: the events after an offset, at least up to another, with their marks."""

    run_id: str
    what: str
    after: int
    upto: int
    marks: Sequence[str]


class Diary:
    """What an agent notes, which outlives it."""

    def __init__(self) -> None:
        self.lines: list[Any] = []
        self.was_killed = False
        self.is_done = False  # all but to look what became of it

    def note(self, value: Any) -> None:
        """Write one more line."""
        self.lines.append(json.loads(json.dumps(value)))


@dataclass
class Followed:
    """What a follower has seen of a run: offsets and marks."""

    run_id: str
    process: Process | None = None
    seen: list[Any] = field(default_factory=list)


class World:
    """What all who take part in a game share.

    Args:
        plan: Who takes part, and what may befall them.
        choices: What happens.
        directory: Where the archives lie.
    """

    def __init__(self, plan: Plan, choices: Choices, directory: Path) -> None:
        self.plan, self.choices, self.directory = plan, choices, directory
        self.clock = Clock()
        self.scheduler = Scheduler(self.clock, choices)
        self.server = SimulatedServer(self.scheduler)
        self.cluster = SimulatedCluster(self.server, plan.servers)
        self.threads = Threads(self.scheduler)
        self.disk = Disk(self.scheduler, self._disk_fates)
        self.runs = [f"run-{number}" for number in range(plan.runs)]
        self.diaries: list[Diary] = []
        self.followed: list[Followed] = []
        self.own_runs: list[str] = []
        """The runs that operators have made for themselves."""
        self.branches: dict[str, Any] = {}
        """The forks that are there, by name: those that somebody was told of, and nobody has begun to delete."""
        self.settled: set[str] = set()
        """The runs that operators have written to once nothing was lost any more."""
        self.resolved: dict[str, set[str]] = defaultdict(set)
        """By run, which of its histories operators have kept, or put back."""
        self.were_parked: dict[str, str] = {}
        """The runs that were parked when all was drained, and why: a worker may be trying one again as it ends."""
        self.pieces: list[Piece] = []
        self.archive_set = ArchiveSet(directory)
        self.proof = ProofWatch(self.server, self.archive_set.replaced)
        self.server.watch = self.proof.watching
        self.server.courses.weights = self._interludes
        self.server.lines.are_open = plan.gathers
        note_fault = self.proof.faults.append
        self.server.notes += [
            ClaimWatch(plan, note_fault).note,
            LeaseWatch(note_fault).note,
            ParkWatch(self.server, note_fault).note,
            ReportWatch(note_fault).note,
        ]
        self.may_settle, self.is_enough = self.threads.Event(), self.threads.Event()
        self._named = 0
        self.players: list[Any] = []
        self.loops: list[Loop] = []

    def sleep(self, seconds: float) -> None:
        """Sleep, in a task; elsewhere no time passes."""
        if self.scheduler.is_simulated():
            self.scheduler.wait(seconds)

    def skew(self) -> float:
        """How far the clock of whoever asks is ahead, in seconds."""
        return self.server.skew()

    def be_calm(self) -> None:
        """End all troubles."""
        self.server.be_calm()

    def name(self, kind: str) -> str:
        """The name of one more process of this kind."""
        self._named += 1
        return f"{kind}.{self._named}"

    def open(self, process: Process, **options: Any) -> RedisCheckpointer[Any, Any]:
        """The store, as a process opens it."""
        return RedisCheckpointer(self.way(process), **options)

    def open_async(self, process: Process, **options: Any) -> AsyncRedisCheckpointer[Any, Any]:
        """The store for asyncio, which opens at its first call."""
        way: AsyncTransport = AsyncSimulatedTransport(self.way(process))
        if self.plan.interludes and self.plan.servers == 1:
            way = AsyncOneByOneTransport(self.server, SimulatedTransport(self.server, process, self._fates))
        return AsyncRedisCheckpointer(way, **options)

    @contextmanager
    def loop(self, process: Process) -> Iterator[Loop]:
        """An event loop of a process, which ends with this context."""
        loop = Loop(self.scheduler, process)
        self.loops.append(loop)
        yield loop
        loop.end()

    def close(self) -> None:
        """Put away what killed processes have left."""
        for loop in self.loops:
            loop.drop()

    @contextmanager
    def opened(self, process: Process, **options: Any) -> Iterator[RedisCheckpointer[Any, Any]]:
        """The store of a process, once the server is there."""
        while True:
            with suppress(StoreUnavailable):
                store = self.open(process, **options)
                break
            self.sleep(0.05)
        try:
            yield store
        finally:
            store.close()

    def archives(self) -> list[Any]:
        """The archives that are required."""
        return [self.archive(name) for name in list(self.archive_set.names)]

    def archive(self, name: str) -> Any:
        """One archive."""
        if self.scheduler.is_simulated():
            self.disk.users.append(self.scheduler.process)
        return self.archive_set.open(name)

    @contextmanager
    def archives_opened(self) -> Iterator[list[Any]]:
        """The archives, closed at the end."""
        with ExitStack() as stack:
            archives = self.archives()
            for archive in archives:
                stack.callback(archive.close)
            yield archives

    @contextmanager
    def at_work(self, process: Process) -> Iterator[tuple[RedisCheckpointer[Any, Any], list[Any]]]:
        """The store and the archives of a process."""
        with self.opened(process) as store, self.archives_opened() as archives:
            yield store, archives

    def call_fates(self) -> list[int]:
        """The weights of what becomes of an agent's call: it is waited for, or broken off."""
        return [1] if self.server.is_calm else list(self.plan.call_fates)

    def put_back(self, hot: Any, archive: Any, run_id: str, *, whole: bool = False) -> PutBack:
        """Put back a run from an archive: of what a server has lost, a part may be there then."""
        if self.server.losses:
            self.resolved[run_id].add("archive")  # before: it may be put back although nobody is told
        done = put_back(hot, archive, run_id, whole=whole)
        self.scheduler.note(f"{run_id} is {done.outcome} from {done.first_hot} to {done.last.offset}")
        return done

    def forks(self) -> bool:
        """Whether the process of an agent forks now."""
        return self.plan.forks and not self.server.is_calm and self.choices.below(_TURNS_PER_FORK) == 1

    def way(self, process: Process) -> SimulatedTransport | SimulatedClusterTransport:
        """The way of a process to the server, or to those of the cluster."""
        if self.plan.servers == 1:
            return SimulatedTransport(self.server, process, self._fates)
        return SimulatedClusterTransport(self.cluster, process, self._fates)

    def _fates(self) -> list[int]:
        return [1] if self.server.is_calm else list(self.plan.fates)

    def _interludes(self) -> Sequence[int]:
        interludes = self.plan.interludes
        return interludes[:1] if self.server.is_calm else interludes

    def _disk_fates(self) -> list[int]:
        return [1] if self.server.is_calm else list(self.plan.disk_fates)
