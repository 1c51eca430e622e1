"""Processes for the tests of many writers: how a test runs them, and what they do there.

A test starts a :class:`Child`, which runs ``python -m tests.support.process_worlds WORLD ARGUMENTS`` with the
functions of :data:`WORLDS`. The two talk in lines over the child's stdin and stdout; a child whose parent has died
ends at the next line that it waits for. What was acknowledged to a child stands in its :class:`Journal`, which
outlives it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias

from runstream import (
    Appended,
    ConcurrencyConflict,
    DrainWorker,
    EventKind,
    EventsArchived,
    LeaseLost,
    PAEvent,
    RunState,
    RunstreamError,
    StoreUnavailable,
    connect,
    connect_async,
)
from runstream.model.events import member_or_text

__all__ = [
    "DEADLINE_SECONDS",
    "SHARED_KEYS",
    "Child",
    "Command",
    "Journal",
    "Past",
    "Score",
    "Sent",
    "Turn",
    "facts",
]

DEADLINE_SECONDS = 60.0
LANES = 4
RUSH = 200
"""Turns that a player takes one right after the other."""
SHARED_KEYS = [f"shared-{number}" for number in range(160)]
"""The keys under which every process writes: of all of them, one event each is to be there."""

Json: TypeAlias = dict[str, Any]


# -- the parent's side


class Child:
    """Another process, where a warning is an error; a context manager that ends it if it still runs."""

    def __init__(self, world: str, **arguments: Any) -> None:
        self._start(world, ["-m", "tests.support.process_worlds", world, json.dumps(arguments)], subprocess.PIPE)

    def _start(self, world: str, arguments: Sequence[str], stderr: Any) -> None:
        self.world = world
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def tell(self, line: str) -> None:
        """Say something to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """The next line that it says. Fails the test with its last words if it says nothing more."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{self.world} ended: {self.process.communicate(timeout=DEADLINE_SECONDS)[1]}"
        return line.rstrip("\n")

    def kill(self) -> None:
        """End it with SIGKILL, in the middle of whatever it does."""
        self.process.kill()
        words = self.process.communicate(timeout=DEADLINE_SECONDS)[1]
        assert self.process.returncode == -signal.SIGKILL, f"{self.world} ended before it was killed: {words}"

    def stop(self) -> None:
        """Stop it with SIGSTOP; when this returns, it does nothing any more."""
        self.process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"{self.world} ended before it was stopped"

    def go_on(self) -> None:
        """Let it go on after ``stop``."""
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Wait for its end, which must be a good one."""
        words = self.process.communicate(timeout=DEADLINE_SECONDS)[1]
        assert self.process.returncode == 0, f"{self.world} failed: {words}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()  # also one that is stopped
        self.process.communicate()


class Command(Child):
    """A ``runstream`` command as a process, whose stderr goes to the file ``log``: it may say much in a long life.

    One that has ``--end-with-parent`` is sent SIGTERM by ``end``.
    """

    def __init__(self, name: str, *arguments: str, log: Path) -> None:
        self.log = log
        with log.open("ab") as file:
            self._start(name, ["-m", "runstream", *arguments], file)


# -- the journal


class Sent(NamedTuple):
    """A batch as it was sent last, and, once it was acknowledged, where it lies, as far as that was told."""

    lane_id: str
    number: int
    size: int
    keys: Sequence[str | None] | None = None
    expected: int | None = None
    acknowledged: bool = False
    first: int | None = None
    last: int | None = None


class Past(NamedTuple):
    """What a lane has behind it: the batches and events that were sent, and the last batch if it got no reply."""

    batches: int = 0
    events: int = 0
    unanswered: Sent | None = None


class Journal:
    """What one process sent and what was acknowledged to it, line by line, whole up to its last moment.

    Its threads share it: each line is one write to a file that is only appended to. A line that counts for the
    reader ends in a line break.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def sends(self, batch: Sent) -> None:
        """Note a batch that goes out now, or again."""
        self._write(["sends", *batch[:5]])

    def was_told(self, batch: Sent, first: int | None = None, last: int | None = None) -> None:
        """Note that the batch was acknowledged, before anything else is sent in its lane."""
        self._write(["was told", batch.lane_id, batch.number, first, last])

    def size(self) -> int:
        """In bytes."""
        return self.path.stat().st_size

    def batches(self) -> list[Sent]:
        """All batches, in the order in which they were sent."""
        found: dict[tuple[str, int], Sent] = {}
        for line in self.path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                what, *facts = json.loads(line)
                if what == "sends":
                    found[facts[0], facts[1]] = Sent(*facts)
                else:
                    lane_id, number, first, last = facts
                    told = found[lane_id, number]
                    found[lane_id, number] = told._replace(acknowledged=True, first=first, last=last)
        return list(found.values())

    def past(self, lane_id: str) -> Past:
        """What a lane has behind it."""
        batches = [batch for batch in self.batches() if batch.lane_id == lane_id]
        if not batches:
            return Past()
        last = batches[-1]
        return Past(last.number, sum(batch.size for batch in batches), None if last.acknowledged else last)

    def close(self) -> None:
        """Nothing more is written."""
        os.close(self._file)

    def _write(self, line: Sequence[Any]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")


# -- writing: single events, batches, keys, expected offsets, all mixed


class Call(NamedTuple):
    """A call of a store's method."""

    method: str
    arguments: Sequence[Any]
    options: Mapping[str, Any] = {}


Work: TypeAlias = Generator[Call, Any, None]
"""What is done to a store, sync or async: it yields calls, and gets their results and errors."""


class Lane:
    """The work of one lane. Each event has a place in a batch of its own, so no two are equal.

    A lane of a process that was killed goes on with the next batch; a batch whose keys are all its own is sent
    again if it got no reply, as an agent does that repeats a step.
    """

    def __init__(self, run_id: str, lane_id: str, events: int, seed: int, journal: Journal) -> None:
        self._run_id = run_id
        self._lane_id = lane_id
        self._journal = journal
        past = journal.past(lane_id)
        self._number = past.batches
        self._seq = past.events
        self._left = max(0, events + len(SHARED_KEYS) - past.events)
        self._unanswered = past.unanswered
        self._stands = 0
        self._dice = random.Random(f"{seed} {lane_id} {past.batches}")
        keys = self._dice.sample(SHARED_KEYS, len(SHARED_KEYS))
        self._shared = [keys[at : at + 8] for at in range(0, len(keys), 8)]

    def work(self) -> Work:
        """Write what is left to write, and meanwhile the shared keys."""
        if self._unanswered is not None and self._unanswered.keys and None not in self._unanswered.keys:
            yield from self._append(keys=self._unanswered.keys)
        ways = (self._single, self._batch, self._own_keys, self._expected)
        pause = self._left // (len(self._shared) + 1)
        for keys in self._shared:
            until = self._left - pause
            while self._left > until:
                (way,) = self._dice.choices(ways, (16, 3, 2, 2))
                yield from way()
            yield from self._append(keys=keys)
        while self._left > 0:
            yield from self._single()

    def _single(self) -> Work:
        batch, events = self._make(1)
        yield Call("save_event", events)
        self._journal.was_told(batch)

    def _batch(self) -> Work:
        size = self._dice.randint(2, 20)
        if self._dice.random() < 0.5:
            yield from self._append(size)
        else:
            batch, events = self._make(size)
            yield Call("save_events", (events,))
            self._journal.was_told(batch)

    def _own_keys(self) -> Work:
        """Events with keys, and in some batches one without; now and then they come again, under the same keys."""
        keys: list[str | None] = [f"{self._lane_id}/{self._number}/{n}" for n in range(self._dice.randint(1, 6))]
        yield from self._append(keys=keys)
        if self._dice.random() < 0.3:
            yield from self._append(keys=keys)
        if self._dice.random() < 0.3:
            yield from self._append(keys=[keys[0], None, f"{keys[0]}+"])

    def _expected(self) -> Work:
        """Right after the last that is known; whoever was refused knows better and tries again."""
        batch, events = self._make(self._dice.randint(1, 3), expected=self._stands)
        while True:
            try:
                at = yield Call("append", (self._run_id, events), {"expected_offset": self._stands})
            except ConcurrencyConflict as conflict:
                expected, actual = conflict.expected, conflict.actual
            else:
                self._stands = at.last_offset
                self._journal.was_told(batch, at.first_offset, at.last_offset)
                return
            assert expected == self._stands < actual
            self._stands = actual
            self._journal.sends(batch._replace(expected=self._stands))

    def _append(self, size: int = 0, *, keys: Sequence[str | None] | None = None) -> Work:
        batch, events = self._make(len(keys) if keys else size, keys=keys)
        at = yield Call("append", (self._run_id, events), {"keys": keys} if keys else {})
        self._stands = max(self._stands, at.last_offset)
        self._journal.was_told(batch, at.first_offset, at.last_offset)

    def _make(self, size: int, **facts: Any) -> tuple[Sent, list[PAEvent]]:
        self._number += 1
        self._left -= size
        batch = Sent(self._lane_id, self._number, size, **facts)
        events = []
        for n in range(size):
            self._seq += 1
            place = {"batch": self._number, "n": n}
            events.append(PAEvent(self._run_id, lane_id=self._lane_id, seq=self._seq, payload=place))
        self._journal.sends(batch)
        return batch, events


def write(url: str, run_id: str, name: str, form: str, events: int, seed: int, journal: str) -> None:
    """Write so many events to a run: in one lane, or in four, each in a thread, task or fork of its own."""
    told = Journal(journal)
    names = [name] if form == "alone" else [f"{name}.{number}" for number in range(LANES)]
    works = [Lane(run_id, lane_id, events // len(names), seed, told).work() for lane_id in names]
    if form == "tasks":
        asyncio.run(_write_in_tasks(url, works))
        return
    with connect(url) as store:
        _wait_for_all()
        if form == "forks":
            _write_in_forks(store, PAEvent(run_id, lane_id=name, seq=1, payload={"batch": 1, "n": 0}), told, works)
        else:
            _write_in_threads(store, works)


def _write_in_threads(store: Any, works: Sequence[Work]) -> None:
    with ThreadPoolExecutor(len(works)) as threads:
        for done in [threads.submit(_perform, store, work) for work in works]:
            done.result()


def _write_in_forks(store: Any, first: PAEvent, told: Journal, works: Sequence[Work]) -> None:
    """All over the one store object, which has written before."""
    batch = Sent(first.lane_id, 1, 1)
    told.sends(batch)
    store.save_event(first)
    told.was_told(batch)
    forks = []
    for work in works:
        if (fork := os.fork()) == 0:
            _perform(store, work)
            sys.exit()
        forks.append(fork)
    assert [os.waitpid(fork, 0)[1] for fork in forks] == [0] * len(forks)


def _perform(store: Any, work: Work) -> None:
    with suppress(StopIteration):
        call = next(work)
        while True:
            try:
                result = getattr(store, call.method)(*call.arguments, **call.options)
            except RunstreamError as error:
                call = work.throw(error)
            else:
                call = work.send(result)


async def _write_in_tasks(url: str, works: Iterable[Work]) -> None:
    async with connect_async(url) as store, asyncio.TaskGroup() as tasks:
        await asyncio.to_thread(_wait_for_all)
        for work in works:
            tasks.create_task(_perform_async(store, work))


async def _perform_async(store: Any, work: Work) -> None:
    with suppress(StopIteration):
        call = next(work)
        while True:
            try:
                result = await getattr(store, call.method)(*call.arguments, **call.options)
            except RunstreamError as error:
                call = work.throw(error)
            else:
                call = work.send(result)


# -- playing: many runs, in every way that there is, whatever becomes of the server


class Turn(NamedTuple):
    """One call of a player: events of one lane that follow ``first``, with what goes with them.

    ``snapshot`` is the lane that one is of, "" for the run's own, None for none; its purpose is the turn's name.
    """

    number: int
    run_id: str
    lane_id: str
    first: int
    kinds: Sequence[str]
    keys: Sequence[str] | None = None
    snapshot: str | None = None
    outcome: str = ""
    """"told" for one that was acknowledged, "refused" for one that wrote nothing, "" where no reply came."""
    offset: int | None = None
    """Where it was told that its first event lies."""

    @property
    def name(self) -> str:
        """Tells it from every other turn of every player."""
        return f"{self.lane_id}/{self.number}"

    def events(self) -> list[PAEvent]:
        """Its events, for the player and for the checker."""
        return [
            PAEvent(
                self.run_id,
                lane_id=self.lane_id,
                span_id=f"{self.run_id}/{self.lane_id}/{seq}",
                seq=seq,
                ts=float(seq),
                kind=member_or_text(EventKind, kind),
                payload={"raw": b"\x00\xff", "pair": (seq, self.name), "text": "x" * (seq % 300)},
            )
            for seq, kind in enumerate(self.kinds, self.first)
        ]

    def state(self) -> RunState:
        """The state that its snapshot has."""
        return RunState(self.run_id, purpose=self.name, current_step=self.first, started_at=1.0, updated_at=1.0)


class Score:
    """The turns of one player, line by line, whole up to the last moment of the process that writes it."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, turn: Turn) -> None:
        """Note a turn that is taken now, or what came of it before the next is."""
        os.write(self._file, json.dumps(turn).encode() + b"\n")

    def turns(self) -> list[Turn]:
        """All turns, in the order in which they were taken."""
        lines = self._path.read_text().splitlines(keepends=True)
        noted = [Turn(*json.loads(line)) for line in lines if line.endswith("\n")]
        return list({turn.number: turn for turn in noted}.values())

    def close(self) -> None:
        """Nothing more is written."""
        os.close(self._file)


def play(url: str, name: str, run_ids: Sequence[str], seed: int, score: str) -> None:
    """Write to many runs, in a lane of each, until the parent says anything. An outage is sat out.

    A player that was killed goes on behind what it has sent.
    """
    noted, enough = Score(score), threading.Event()
    with connect(url) as store:
        player = _Player(store, name, run_ids, noted, random.Random(f"{seed} {name} {len(noted.turns())}"))
        _wait_for_all()

        def wait() -> None:
            _wait_for_word()
            enough.set()

        threading.Thread(target=wait, daemon=True).start()
        while not enough.is_set():
            player.take_turn()


class _Player:
    def __init__(self, store: Any, name: str, run_ids: Sequence[str], score: Score, dice: random.Random) -> None:
        self._store = store
        self._name = name
        self._score = score
        self._dice = dice
        self._taken = 0
        self._number = 0
        self._next = dict.fromkeys(run_ids, 1)
        for turn in score.turns():
            self._number = turn.number
            self._next[turn.run_id] = turn.first + len(turn.kinds)
        for run_id, first in self._next.items():
            if first > 1:  # a process that goes on first recovers, or its snapshots would cover nothing
                self._recover(run_id, name)

    def take_turn(self) -> None:
        """Do one thing to one run."""
        ways = (self._single, self._batch, self._keys, self._with_snapshot, self._snapshot)
        (way,) = self._dice.choices(ways, (10, 5, 3, 2, 1))
        way(self._dice.choice(list(self._next)))
        # a rush first, then a trickle: a drain has a chance on any machine
        self._taken += 1
        time.sleep(self._dice.uniform(0, 0.01 if self._taken < RUSH else 0.2))

    def _single(self, run_id: str) -> None:
        turn = self._begin(run_id, 1)
        self._take(turn, lambda: self._store.save_event(turn.events()[0]))

    def _batch(self, run_id: str) -> None:
        turn = self._begin(run_id, self._dice.randint(2, 30))
        self._take(turn, lambda: self._store.save_events(turn.events()))

    def _keys(self, run_id: str) -> None:
        """Events with keys; now and then they come again, as from an agent that repeats a step."""
        size = self._dice.randint(1, 5)
        keys = [f"{self._name}/{self._number + 1}/{n}" for n in range(size)]
        turn = self._begin(run_id, size, keys=keys)
        self._take(turn, lambda: self._store.append(run_id, turn.events(), keys=keys))
        if self._dice.random() < 0.5:
            self._until_told(lambda: self._store.append(run_id, turn.events(), keys=keys))

    def _with_snapshot(self, run_id: str) -> None:
        turn = self._begin(run_id, self._dice.randint(1, 5), snapshot=self._name)
        self._take(
            turn,
            lambda: self._store.append(run_id, turn.events(), snapshot=turn.state(), lane_id=self._name),
        )

    def _snapshot(self, run_id: str) -> None:
        """A snapshot alone: the lane's, or, in every other run, the run's own, of all that is in it."""
        is_of_run = list(self._next).index(run_id) % 2 == 1 and self._dice.random() < 0.5
        if is_of_run:
            self._recover(run_id, None)
        turn = self._begin(run_id, 0, snapshot="" if is_of_run else self._name)
        lane_id = None if is_of_run else self._name
        self._take(turn, lambda: self._store.save_snapshot(run_id, turn.state(), lane_id=lane_id))

    def _begin(self, run_id: str, size: int, **facts: Any) -> Turn:
        self._number += 1
        kinds = self._dice.choices(
            ("tool.result", "run.finished", "run.started", "of a later version"), (20, 1, 1, 1), k=size
        )
        turn = Turn(self._number, run_id, self._name, self._next[run_id], kinds, **facts)
        self._next[run_id] += size
        self._score.note(turn)
        return turn

    def _take(self, turn: Turn, call: Callable[[], Any]) -> None:
        try:
            at = self._until_told(call)
        except EventsArchived:  # this process has not recovered what the snapshot would have to cover
            self._score.note(turn._replace(outcome="refused"))
        else:
            offset = at.first_offset if isinstance(at, Appended) else None
            self._score.note(turn._replace(outcome="told", offset=offset))

    def _recover(self, run_id: str, lane_id: str | None) -> None:
        with suppress(EventsArchived):
            self._until_told(lambda: self._store.recover(run_id, lane_id=lane_id))

    @staticmethod
    def _until_told(call: Callable[[], Any]) -> Any:
        while True:
            with suppress(StoreUnavailable):
                return call()


# -- draining, up to a moment


MOMENTS = ("write", "written", "proven")
"""Before the first archive is written, after the last was, after the proof. Any other: how a statement begins."""


def drain(url: str, archives: Sequence[str], moment: str, trim: str, claim_seconds: float) -> None:
    """Drain once; stand still at a moment, say so, and go on at the parent's word. Then tell the report."""
    with ExitStack() as opened:
        hot: Any = opened.enter_context(connect(url))
        sinks: list[Any] = [opened.enter_context(connect(target)) for target in archives]
        if moment in MOMENTS:
            place = 0 if moment == "write" else -1
            sinks[place] = _Standing(sinks[place], moment)
        else:
            _stand_at_statement(sinks[-1], moment)
        worker = DrainWorker(hot, sinks, trim=trim, claim_seconds=claim_seconds)  # type: ignore[arg-type]  # a stand-in for a sink
        print(json.dumps(worker.drain_once().to_dict()), flush=True)


class _Standing:
    """A sink that stands still once, at a moment, until the parent says anything."""

    def __init__(self, sink: Any, moment: str) -> None:
        self._sink = sink
        self._moments = [moment]
        self._has_snapshots = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)

    def write(self, batches: Sequence[Any]) -> None:
        self._stand("write")
        self._has_snapshots = any(batch.snapshots for batch in batches)
        self._sink.write(batches)
        self._stand("written")

    def read_back(self, run_id: str, first: int, last: int) -> Iterator[Any]:
        yield from self._sink.read_back(run_id, first, last)
        if not self._has_snapshots:  # they come after
            self._stand("proven")

    def read_back_snapshots(self, run_id: str) -> Any:
        found = self._sink.read_back_snapshots(run_id)
        self._stand("proven")
        return found

    def _stand(self, moment: str) -> None:
        if moment in self._moments:
            self._moments.remove(moment)
            print(moment, flush=True)
            _wait_for_word()


def _stand_at_statement(archive: Any, beginning: str) -> None:
    """Stand still before a statement of a writing transaction, with pages of it in the file's log already."""
    awaited = ["BEGIN IMMEDIATE", beginning]

    def trace(statement: str) -> None:
        if len(awaited) == 2 and statement.startswith(awaited[0]):
            awaited.pop(0)
        if len(awaited) == 1 and statement.startswith(awaited[0]):
            print(awaited.pop(), flush=True)
            _wait_for_word()

    with archive._file.use() as connection:
        connection.execute("PRAGMA cache_size = 2")  # pages: what does not fit is written before the commit
        connection.set_trace_callback(trace)


# -- counting


def count(url: str, run_id: str, name: str, times: int) -> None:
    """Add one to the run's state, so many times."""

    def add_one(state: RunState) -> None:
        state.current_step += 1
        state.data[name] = state.data.get(name, 0) + 1

    with connect(url) as store:
        _wait_for_all()
        for _ in range(times):
            # whoever is refused has been overtaken, so all others together can refuse it so often
            store.update_state(run_id, add_one, attempts=1_000_000)


# -- holding a lease


def hold(
    url: str, run_id: str, lane_id: str | None, ttl: float, form: str, journal: str, payload_bytes: int
) -> None:
    """Take a lease and write under it: once and then wait for a word, or in a loop until the lease is lost.

    Then tell whether it knew by itself, and what became of all that can be tried under it.
    """
    told = Journal(journal)
    batches = _batches_without_end(run_id, lane_id or "main", payload_bytes)
    if form == "task":
        asyncio.run(_hold_in_task(url, run_id, lane_id, ttl, batches, told))
        return
    with connect(url) as store:
        _wait_for_all()
        lease = store.lease(run_id, owner="holder", lane_id=lane_id, ttl=ttl)
        with suppress(LeaseLost):
            for batch, events in batches:
                told.sends(batch)
                at = lease.append(run_id, events)
                told.was_told(batch, at.first_offset, at.last_offset)
                if form == "waits":
                    _wait_for_word()
                    break
        knew, outcomes = lease.lost, {}
        for name, attempt in _attempts(store, lease, next(batches)[1]).items():
            try:
                outcomes[name] = str(attempt())
            except RunstreamError as error:
                outcomes[name] = type(error).__name__
        print(json.dumps({"knew": knew, "lost": lease.lost, "outcomes": outcomes}), flush=True)
        lease.release()


async def _hold_in_task(
    url: str, run_id: str, lane_id: str | None, ttl: float, batches: Batches, told: Journal
) -> None:
    async with connect_async(url) as store:
        _wait_for_all()  # no other task does anything yet
        lease = await store.lease(run_id, owner="holder", lane_id=lane_id, ttl=ttl)
        with suppress(LeaseLost):
            for batch, events in batches:
                told.sends(batch)
                at = await lease.append(run_id, events)
                told.was_told(batch, at.first_offset, at.last_offset)
        knew, outcomes = lease.lost, {}
        for name, attempt in _attempts(store, lease, next(batches)[1]).items():
            try:
                outcomes[name] = str(await attempt())
            except RunstreamError as error:
                outcomes[name] = type(error).__name__
        print(json.dumps({"knew": knew, "lost": lease.lost, "outcomes": outcomes}), flush=True)
        await lease.release()


Batches: TypeAlias = Iterator[tuple[Sent, list[PAEvent]]]


def _batches_without_end(run_id: str, lane_id: str, payload_bytes: int) -> Batches:
    """Batches of two events."""
    for number in itertools.count(1):
        events = [
            PAEvent(run_id, lane_id=lane_id, seq=seq, payload={"by": "holder", "text": "x" * payload_bytes})
            for seq in (2 * number - 1, 2 * number)
        ]
        yield Sent(lane_id, number, 2), events


def _attempts(store: Any, lease: Any, events: Sequence[PAEvent]) -> dict[str, Callable[[], Any]]:
    """All that can be sent under a lease, to the store and through the lease."""
    run_id, lane_id, state = lease.run_id, lease.lane_id, RunState(lease.run_id)
    return {
        "check": lease.check,
        "append": lambda: store.append(run_id, events, lease=lease),
        "append a key": lambda: store.append(run_id, events[:1], keys=["key"], lease=lease),
        "append a snapshot": lambda: store.append(run_id, events, snapshot=state, lane_id=lane_id, lease=lease),
        "save a snapshot": lambda: store.save_snapshot(run_id, state, lane_id=lane_id, lease=lease),
        "update the state": lambda: store.update_state(run_id, lambda state: state, lease=lease),
        "the lease's append": lambda: lease.append(run_id, events),
        "the lease's event": lambda: lease.save_event(events[0]),
        "the lease's events": lambda: lease.save_events(events),
        "the lease's snapshot": lambda: lease.save_snapshot(run_id, state),
    }


# -- following


def follow(url: str, run_id: str, after: int | str) -> None:
    """Tell each event's offset as it comes, and the error that ends it."""
    with connect(url) as store:
        try:
            for item in store.follow(run_id, after):
                print(item.offset, flush=True)
        except RunstreamError as error:
            print(json.dumps(facts(error)), flush=True)


# -- what all of them do


def facts(error: RunstreamError) -> Json:
    """An error's name and attributes."""
    return {"error": type(error).__name__, **vars(error)}


def _wait_for_all() -> None:
    """Say that this process is ready, and wait until all are."""
    print("ready", flush=True)
    _wait_for_word()


def _wait_for_word() -> None:
    """Wait until the parent says anything; end if it is gone."""
    if not sys.stdin.readline():
        os._exit(1)


def _fail(failure: threading.ExceptHookArgs) -> None:
    """What a thread fails with fails its process, also in threads that a store has for itself."""
    threading.__excepthook__(failure)
    os._exit(1)


WORLDS: Mapping[str, Callable[..., None]] = {
    world.__name__: world for world in (write, play, drain, count, hold, follow)
}

if __name__ == "__main__":
    threading.excepthook = _fail
    WORLDS[sys.argv[1]](**json.loads(sys.argv[2]))
