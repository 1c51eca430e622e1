"""Agents, followers and workers over one place, and what chance does to them."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from runstream import RedisCheckpointer, connect
from runstream.cli.support.exit_codes import ExitCode
from runstream.stores.redis.namespace import namespace_of
from runstream.testing.copies import Copy, copy_in_archive, copy_in_stream
from runstream.testing.judge import hear, judge
from tests.support.exhaustive import ROUNDS
from tests.support.kinds import REAL
from tests.support.operations import session_of
from tests.support.processes.child import Child, Command
from tests.support.processes.journal import Diary
from tests.support.servers import eventually

RUNS = [f"run-{number}" for number in range(4)]
CLAIM_SECONDS = 0.8


def lengths(long: int, short: int | None = None) -> list[object]:
    """The servers and lengths of a game: by default a short one, exhaustively a long one.

    On one server, and where more rounds are played on every one.
    """
    servers = REAL if ROUNDS > 1 else REAL[:1]
    games: list[object] = [pytest.param(name, long * ROUNDS, marks=pytest.mark.exhaustive) for name in servers]
    return games if short is None else [(REAL[0], short), *games]


class Game:
    """Processes at work on some runs.

    Args:
        url: The server, as all of them find it.
        find: The client by which the judge reads a key.
        directory: Where diaries, logs and archives go.
        dice: Chance.
        stack: Ends what is started.
        forms: How the agents work, one each.
        workers: How many drain.
    """

    def __init__(
        self,
        url: str,
        find: Callable[[str], Any],
        directory: Path,
        dice: random.Random,
        stack: ExitStack,
        *,
        forms: Sequence[str],
        workers: int,
    ) -> None:
        self.url, self._find = url, find
        self.acts: Counter[str] = Counter()
        self._directory, self._dice, self._stack = directory, dice, stack
        self._started = 0
        self._diaries: list[tuple[Path, bool]] = []
        self._watched: list[tuple[str, Path]] = []
        self.archives = [f"sqlite:{directory / 'archive.db'}", f"jsonl:{directory / 'archive'}"]
        with connect(url, partitions=2) as hot:  # before anybody else, who would not say how many partitions
            hot.runs()
        for archive in self.archives:
            connect(archive).close()
        self._agents: list[tuple[str, Child, Path]] = []
        self._watchers: list[Child] = []
        self._workers = [self._start_worker() for _ in range(workers)]
        self._agents += [self._start_agent(form) for form in forms]
        self._watchers += [self._start_watcher(run_id, archive) for run_id in RUNS[:2] for archive in (0, 1)]

    # -- who takes part

    def _start_agent(self, form: str) -> tuple[str, Child, Path]:
        self._started += 1
        diary = self._directory / f"{form}.{self._started}"
        child = self._start_child(
            "act",
            url=f"{self.url}?retry_seconds={self._dice.choice(['0', '0.05', '10'])}",
            name=diary.name,
            form=form,
            run_ids=RUNS,
            seed=self._dice.getrandbits(32),
            diary=str(diary),
            archive=self.archives[0],
        )
        return form, child, diary

    def _start_watcher(self, run_id: str, archive: int) -> Child:
        diary = self._directory / f"watcher.{run_id}.{archive}"
        self._watched.append((run_id, diary))
        return self._start_child(
            "watch",
            url=f"{self.url}?socket_timeout=1",
            run_id=run_id,
            diary=str(diary),
            archive=self.archives[archive],
        )

    def _start_child(self, world: str, **arguments: Any) -> Child:
        child = self._stack.enter_context(Child(world, **arguments))
        assert child.hear() == "ready"
        child.tell("go")
        return child

    def _start_worker(self) -> Command:
        self._started += 1
        options = ["drain", "--url", self.url, "--end-with-parent", "--claim", str(CLAIM_SECONDS)]
        options += ["--trim", self._dice.choice(["archived", "never"])]
        targets = [part for archive in self._dice.sample(self.archives, 2) for part in ("--to", archive)]
        log = self._directory / f"worker.{self._started}.log"
        return self._stack.enter_context(Command("drain", *options, *targets, log=log))

    # -- what happens to them

    def play(self, acts: Sequence[Callable[[], None]], times: int) -> None:
        """Do so many of them, in an order of chance, a moment apart; each before any comes again."""
        plan: list[Callable[[], None]] = []
        while len(plan) < times:
            plan += self._dice.sample(acts, len(acts))
        for act in plan[:times]:
            self.rest(self._dice.uniform(0.02, 0.25))
            act()
            self.acts[getattr(act, "__name__", str(act)).strip("_")] += 1

    def rest(self, seconds: float) -> None:
        """Let them work for so long; a worker that gave up since nobody answered is started again."""
        until = time.monotonic() + seconds
        while True:
            for child in (*(child for _, child, _ in self._agents), *self._watchers):
                if child.process.poll() is not None:
                    child.end()  # which says what it ended with
                    raise AssertionError(f"{child.world} ended before it was told to")
            for number, worker in enumerate(self._workers):
                if (code := worker.process.poll()) is not None:
                    assert code == ExitCode.UNAVAILABLE, f"a worker ended with {code}: {worker.log.read_text()}"
                    self._workers[number] = self._start_worker()
            if time.monotonic() >= until:
                return
            time.sleep(0.005)

    def kill_agent(self) -> None:
        """One is killed, and another one takes its place."""
        number = self._dice.randrange(len(self._agents))
        form, child, diary = self._agents[number]
        child.kill()
        self._diaries.append((diary, True))
        self._agents[number] = self._start_agent(form)

    def kill_worker(self) -> None:
        """One is killed, and another one takes its place."""
        number = self._dice.randrange(len(self._workers))
        self._workers[number].kill()
        self._workers[number] = self._start_worker()

    def stop_somebody(self) -> None:
        """One stands still for a while, past its lease or its claim."""
        players = [*(child for _, child, _ in self._agents), *self._workers]
        child = self._dice.choice(players)
        child.stop()
        time.sleep(self._dice.uniform(0.1, 2 * CLAIM_SECONDS))
        child.go_on()

    # -- the end

    def finish(self, *, losses: bool = False) -> None:
        """Let the agents come to an end and the workers drain what is left; then judge."""
        agents, self._agents = self._agents, []
        for _, child, diary in agents:
            child.tell("enough")
            self._diaries.append((diary, False))
        for _, child, _ in agents:
            child.end()
        with self._stack.enter_context(connect(self.url)) as hot:
            assert isinstance(hot, RedisCheckpointer)
            eventually(lambda: self._is_drained(hot))
            self.rest(1.0)  # the watchers end at their next pause
            watchers, self._watchers = self._watchers, []
            for child in watchers:
                child.tell("enough")
            for child in watchers:
                child.end()
            self._judge(hot, losses=losses)

    def _is_drained(self, hot: RedisCheckpointer[Any, Any]) -> bool:
        self.rest(0.02)
        status = namespace_of(hot).status()
        return status.due == 0 and status.later == len(status.parked)

    def _judge(self, hot: RedisCheckpointer[Any, Any], *, losses: bool) -> None:
        said = hear((Diary(path).lines(), was_killed) for path, was_killed in self._diaries)
        parked = namespace_of(hot).status().parked
        faults = []
        for run_id in RUNS:
            stream, copies = self._copies(hot, run_id)
            snapshot = hot.load_snapshot(run_id)
            steps = 0 if snapshot is None else snapshot.state.current_step
            is_parked = run_id in parked
            found = judge(stream, copies, said[run_id], steps, is_parked=is_parked, losses=losses)
            faults += [f"{run_id}: {fault}" for fault in found]
        faults += self._faults_of_watchers(hot, parked)
        assert not faults, "\n".join(faults)
        assert sum(len(testimony.sent) for testimony in said.values()) > 20, "they did next to nothing"

    def _copies(self, hot: RedisCheckpointer[Any, Any], run_id: str) -> tuple[Copy, Mapping[str, Copy]]:
        events = session_of(hot).keys.run(run_id).events
        return copy_in_stream(self._find(events), events), {
            name: copy_in_archive(self._directory / name, run_id) for name in ("archive.db", "archive")
        }

    def _faults_of_watchers(self, hot: RedisCheckpointer[Any, Any], parked: Collection[str]) -> list[str]:
        faults = []
        for run_id, diary in self._watched:
            seen: list[list[Any]] = []
            for line in Diary(diary).lines():
                if line is None:
                    seen = []
                else:
                    seen.append(line)
            if [offset for offset, _ in seen] != list(range(1, len(seen) + 1)):
                faults.append(f"{diary.name} saw a gap: {seen}")
            stream, copies = self._copies(hot, run_id)
            there = {offset: mark for copy in (*copies.values(), stream) for (offset, _), mark in copy.items()}
            if run_id not in parked and seen != [[offset, there[offset]] for offset in sorted(there)]:
                faults.append(f"{diary.name} saw {len(seen)}, there are {len(there)}")
        return faults
