"""A game: agents, workers and followers at work on some runs, what befalls them, and the judgement in the end."""

from __future__ import annotations

import json
import tempfile
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import fakeredis

from runstream.drain.worker import DrainWorker
from runstream.model.errors import AcknowledgedWritesLost, HistoryDiverged, StoreUnavailable
from runstream.stores.archive.jsonl import JSONLCheckpointer
from runstream.stores.archive.sqlite import SQLiteCheckpointer
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.tiered.checkpointer import TieredCheckpointer
from runstream.testing.agents import AGENTS
from runstream.testing.judge import copies_in_archives, copy_in_stream, hear, judge
from runstream.testing.simulation.choices import Choices, Dice
from runstream.testing.simulation.clock import Clock, in_place
from runstream.testing.simulation.disk import Disk
from runstream.testing.simulation.plan import Finding, Plan
from runstream.testing.simulation.scheduler import Process, Scheduler
from runstream.testing.simulation.server import SimulatedServer, SimulatedTransport
from runstream.testing.simulation.threads import Threads

__all__ = ["Game", "play"]

_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of our own is made there


class _Notes:
    """An agent's diary, which outlives it."""

    def __init__(self) -> None:
        self.lines: list[Any] = []
        self.was_killed = False
        self.is_done = False  # all but to look what became of it

    def note(self, value: Any) -> None:
        """Write one more line."""
        self.lines.append(json.loads(json.dumps(value)))


@dataclass
class _Player:
    """A process that is to take part until it has done its work; who is killed is followed by another one."""

    process: Process
    has_ended: Callable[[], bool]
    again: Callable[[], _Player]
    notes: _Notes | None = None  # None: it goes on until it is told to end

    @property
    def goes_on(self) -> bool:
        return self.notes is None


class Game:
    """A game of this plan, played as the choices say."""

    def __init__(self, plan: Plan, choices: Choices, directory: Path) -> None:
        self.plan, self._directory = plan, directory
        self.clock = Clock()
        self.scheduler = Scheduler(self.clock, choices)
        self.server = SimulatedServer(self.scheduler)
        self.threads = Threads(self.scheduler)
        self.disk = Disk(self.scheduler, self._disk_fates)
        self._may_settle, self._is_enough = self.threads.Event(), self.threads.Event()
        self._started = 0
        self._notes: list[_Notes] = []
        self._seen: list[tuple[str, list[Any]]] = []
        self._players: list[_Player] = []
        self.runs = [f"run-{number}" for number in range(plan.runs)]

    # -- the surroundings ------------------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        """Sleep, in a task; elsewhere no time passes."""
        if self.scheduler.is_simulated():
            self.scheduler.wait(seconds)

    def skew(self) -> float:
        """How far the clock of whoever asks is ahead, in seconds."""
        return self.server.skew_seconds if self.server.is_executing else 0.0

    def _fates(self) -> list[int]:
        return [1] if self.server.is_calm else list(self.plan.fates)

    def _disk_fates(self) -> list[int]:
        return [1] if self.server.is_calm else list(self.plan.disk_fates)

    # -- the game ----------------------------------------------------------------------------------------

    def play(self) -> list[str]:
        """Play it to its end; what is wrong then."""
        with self._open(Process("the host"), partitions=2) as hot:
            hot.runs()
        for archive in self._archives():
            archive.close()
        self._players = [
            *(self._start_agent(form) for form in self.plan.forms),
            *(self._start_worker() for _ in range(self.plan.workers)),
            *(self._start_follower(number) for number in range(self.plan.followers)),
        ]
        world = Process("the world")
        self.scheduler.spawn(world, "the world", self._befall)
        if not self.scheduler.run(self._agents_are_done, self.plan.most_steps):
            return ["the agents do not come to an end"]
        self.scheduler.kill(world)
        self._be_calm()
        self._may_settle.set()
        if not self.scheduler.run(self._agents_have_settled, self.plan.most_steps):
            return ["the agents do not settle"]
        if not self.scheduler.run(self._is_drained, self.plan.most_steps):
            return [f"not all is drained: {self._status()}"]
        self._is_enough.set()
        if not self.scheduler.run(self._all_are_done, self.plan.most_steps):
            return ["workers and followers do not come to an end"]
        return list(self._faults())

    def finding(self, faults: list[str]) -> Finding:
        """What came of it."""
        scheduler, choices = self.scheduler, self.scheduler.choices
        told = sum(line[0] == "told" for notes in self._notes for line in notes.lines)
        return Finding(
            choices.seed, faults, choices.made, scheduler.story, scheduler.steps, told, self.server.losses
        )

    def close(self) -> None:
        """End all that is left."""
        self.server.is_calm = True
        self.scheduler.close()

    def _be_calm(self) -> None:
        self.server.is_calm = True
        self.server.is_away = False

    # -- who takes part ----------------------------------------------------------------------------------

    def _open(self, process: Process, **options: Any) -> RedisCheckpointer[Any, Any]:
        return RedisCheckpointer(SimulatedTransport(self.server, process, self._fates), **options)

    def _archives(self) -> list[Any]:
        return [SQLiteCheckpointer(self._directory / "archive.db"), JSONLCheckpointer(self._directory / "archive")]

    def _start(self, kind: str, body: Callable[[Process], None], again: Callable[[], _Player]) -> _Player:
        self._started += 1
        process = Process(f"{kind}.{self._started}")

        def run() -> None:
            with suppress(StoreUnavailable):  # of an archive, as it opens: somebody starts another process
                body(process)

        return _Player(process, self.scheduler.spawn(process, process.name, run), again)

    def _start_agent(self, form: str) -> _Player:
        notes = _Notes()
        self._notes.append(notes)

        def act(process: Process) -> None:
            choices = self.scheduler.choices
            patience = (0.0, 0.05, 10.0)[choices.below(3)]
            with self._opened(process, retry_seconds=patience, resend_lost=form == "resends") as store:
                dice = Dice(choices)
                agent = AGENTS[form](store, process.name, self.runs, notes, dice)  # type: ignore[arg-type] # as Random
                for _ in range(self.plan.turns):
                    agent.take_turn()
                notes.is_done = True
                self._may_settle.wait()
                agent.settle()

        player = self._start(form, act, partial(self._start_agent, form))
        player.notes = notes
        return player

    def _start_worker(self) -> _Player:
        def work(process: Process) -> None:
            with self._at_work(process) as (store, archives):
                if self.scheduler.choices.below(2):
                    archives.reverse()
                trim = ("archived", "never", "covered")[self.scheduler.choices.below(3)]
                worker = DrainWorker(
                    store,
                    archives,
                    name=process.name,
                    trim=trim,  # type: ignore[arg-type] # one of them
                    claim_seconds=self.plan.claim_seconds,
                    poll_seconds=0.1,
                )
                worker.run(self._is_enough)  # type: ignore[arg-type] # as an Event

        return self._start("worker", work, self._start_worker)

    def _start_follower(self, number: int) -> _Player:
        run_id = self.runs[0]
        seen: list[Any] = []
        self._seen.append((run_id, seen))

        def watch(process: Process) -> None:
            after: int | str = 0
            with self._at_work(process) as (hot, archives):
                store = TieredCheckpointer(hot, archives[number % 2])
                while not self._is_enough.is_set():
                    try:
                        for item in store.follow(run_id, after, idle_timeout=0.5):
                            seen.append((item.offset, item.event.payload.get("mark")))
                            after = item.cursor
                    except (TimeoutError, StoreUnavailable):
                        self.sleep(0.01)
                    except (AcknowledgedWritesLost, HistoryDiverged):
                        seen.clear()
                        store.forget(run_id)
                        after = 0

        return self._start("follower", watch, partial(self._start_follower, number))

    @contextmanager
    def _at_work(self, process: Process) -> Iterator[tuple[RedisCheckpointer[Any, Any], list[Any]]]:
        """A store and the archives of a process."""
        with ExitStack() as stack:
            store = stack.enter_context(self._opened(process))
            archives = self._archives()
            for archive in archives:
                stack.callback(archive.close)
            yield store, archives

    @contextmanager
    def _opened(self, process: Process, **options: Any) -> Iterator[RedisCheckpointer[Any, Any]]:
        """A store of the process, once the server is there."""
        while True:
            with suppress(StoreUnavailable):
                store = self._open(process, **options)
                break
            self.sleep(0.05)
        try:
            yield store
        finally:
            store.close()

    # -- what befalls them -------------------------------------------------------------------------------

    def _befall(self) -> None:
        """Let trouble come, now and then, and others take the places of those who were killed."""
        choices = self.scheduler.choices
        while True:
            self.scheduler.wait(0.05)
            self._replace()
            trouble = choices.among([20, *(1 for _ in self.plan.troubles)])
            if trouble:
                name = self.plan.troubles[trouble - 1]
                self.scheduler.note(name)
                getattr(self, name)()

    def _replace(self) -> None:
        """Let others take the places of those who were killed, or gave up."""
        for number, player in enumerate(self._players):
            if player.process.is_dead or (player.goes_on and player.has_ended()):
                if player.notes is not None:
                    player.notes.was_killed = True
                self._players[number] = player.again()

    def restart(self) -> None:
        """The server knows no script any more."""
        self.server.restart()

    def leave(self) -> None:
        """The server cannot be reached for a while."""
        self.server.is_away = True
        self.scheduler.wait((0.02, 0.5, 20.0)[self.scheduler.choices.below(3)])
        self.server.is_away = False

    def leap(self) -> None:
        """Time passes in which nobody does anything."""
        self.clock.pass_until(self.clock.monotonic() + (1.0, 40.0, 3600.0)[self.scheduler.choices.below(3)])

    def step_clock(self) -> None:
        """The server's clock is set, forwards or back."""
        self.server.skew_seconds = (0.0, -60.0, 60.0, -3600.0, 3600.0)[self.scheduler.choices.below(5)]

    def replicate(self) -> None:
        """The replica is as the server is."""
        self.server.replicate()

    def fail_over(self) -> None:
        """The replica takes the server's place: what was written since is lost."""
        self.server.promote()
        self.server.replicate()

    # -- the end -----------------------------------------------------------------------------------------

    def _agents_are_done(self) -> bool:
        return all(
            player.notes is None or (player.notes.is_done and not player.process.is_dead)
            for player in self._players
        )

    def _agents_have_settled(self) -> bool:
        return all(player.goes_on or player.has_ended() for player in self._players)

    def _all_are_done(self) -> bool:
        return all(player.has_ended() for player in self._players)

    def _status(self) -> Any:
        with self._open(Process("the host")) as hot:
            return namespace_of(hot).status()

    def _is_drained(self) -> bool:
        self._replace()
        if self.scheduler.steps % 50:
            return False
        status = self._status()
        return bool(status.due == 0 and status.later == len(status.parked))

    def _faults(self) -> Iterator[str]:
        said = hear((notes.lines, notes.was_killed) for notes in self._notes)
        losses = self.server.losses > 0
        with self._open(Process("the host")) as hot:
            parked: Collection[str] = namespace_of(hot).status().parked
            raw = fakeredis.FakeRedis(server=self.server.fake)
            for run_id in self.runs:
                stream = copy_in_stream(raw, namespace_of(hot).keys.run(run_id).events)
                copies = copies_in_archives(self._directory, run_id)
                snapshot = hot.load_snapshot(run_id)
                steps = 0 if snapshot is None else snapshot.state.current_step
                is_parked = run_id in parked
                found = judge(stream, copies, said[run_id], steps, is_parked=is_parked, losses=losses)
                yield from (f"{run_id}: {fault}" for fault in found)
            for run_id, seen in self._seen:
                if [offset for offset, _ in seen] != list(range(1, len(seen) + 1)):
                    yield f"a follower of {run_id} saw a gap: {seen}"


def play(plan: Plan, choices: Choices) -> Finding:
    """Play a game in a directory of its own.

    Args:
        plan: Who takes part.
        choices: What happens.

    Returns:
        What was found.
    """
    # in memory where there is such a place: nothing of it is kept
    place = _IN_MEMORY if _IN_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="runstream-simulation-", dir=place) as directory:
        game = Game(plan, choices, Path(directory))
        with in_place(game.clock, choices.seed, game.sleep, game.skew, game.threads), game.disk.in_place():
            try:
                faults = game.play()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
                faults = ["".join(traceback.format_exception(error))]
            finally:
                game.close()
        return game.finding(faults)
