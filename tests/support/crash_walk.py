"""Walk all points at which a drain worker can die, and judge what the next worker makes of it.

``python -m tests.support.crash_walk TASK`` is a process of one thread that sets a world up once. A victim drains
in a fork and waits at each point. What a worker that died there would leave is noted: the keys in Redis and the
files, as they are, and where that differs, as they would be if power were lost. For each such state that no point
before had left, Redis and the archives are put in it, and a survivor in a fork of its own, a new worker, finishes
and judges. At some points the victim is really ended by SIGKILL, to see that this leaves just that.

Where a run is deleted meanwhile the worker goes on: it and a survivor are forked for each point. The process ends
with what it has :class:`Found`, as a line of JSON.
"""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count, pairwise
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from runstream.testing.simulation.durable_files import DurableFiles
from tests.support.crash_judge import faults_at_once, faults_in_the_end, standing, unlike
from tests.support.crash_points import Points, insist, watch_files, watch_redis, watch_sqlite, watch_writes
from tests.support.crash_world import Hot, World

__all__ = ["Found", "Task"]

MANY_FAULTS = 10
READS = re.compile(
    r"SQLite: (SELECT|BEGIN|PRAGMA (data_version|shrink_memory))\b|Redis: (TIME|HGET|HGETALL|ZSCORE)\b"
)
"""Operations that leave Redis and the archives as they were; others may come in before any that is not here."""
READS_OF_OTHERS = re.compile(
    r"Redis: (TIME|(HGET|HGETALL|XRANGE) \S+:run:(?!gone:|anew:)|ZSCORE \S+ (?!gone$|anew$))"
)
"""Commands to which it is all one whether those runs are there."""
PATIENCE_SECONDS = 120
POINTS_PER_KILL = 200
JSONL = "jsonl"  # the directory in which that archive lies


@dataclass
class Task:
    """What one process walks of a world (see :class:`World`): every ``parts``-th try from ``part`` on.

    ``how`` is what happens at a point: ``"killed"``, the worker dies, alone or as power is lost, and each state
    that this leaves is tried; ``"deleted"``, runs are deleted, one is made anew, and the worker goes on, and each
    point is tried.
    """

    socket_path: str
    namespace: str
    directory: str
    world: str
    jsonl_first: bool
    how: str = "killed"
    part: int = 0
    parts: int = 1
    after_reads: bool = False
    """Whether a point behind an operation that only reads is walked too: what is left of a worker that is
    killed there is what is left of one that is killed before it. So it is of runs that are deleted, where it reads
    others."""


@dataclass
class Found:
    """The points that there are, the states that they leave, how many were tried, and what was wrong where."""

    points: int = 0
    states: int = 0
    power_losses: int = 0
    """Of these, the states that a loss of power leaves and no kill before it."""
    tried: int = 0
    killed: int = 0
    """At how many points the worker was killed, and left what was there."""
    faults: list[str] = field(default_factory=list)


class State(NamedTuple):
    """What the next worker finds: names of keys and what Redis dumps of them; names of files and what is in them.

    In a directory is None.
    """

    keys: tuple[tuple[bytes, bytes], ...]
    files: tuple[tuple[str, bytes | None], ...]


# -- the victim ----------------------------------------------------------------------------------------


Happen = Callable[[Points, Hot, DurableFiles], None]


def be_victim(world: World, directory: Path, happen: Happen, *, is_deleted: bool) -> list[str]:
    """Drain, while something happens at each point; the operations that the points lie before.

    Args:
        world: What it drains, and what others do meanwhile.
        directory: Where the archives are.
        happen: Is given a store of its own besides.
        is_deleted: Whether it is ``happen`` that deletes runs.
    """
    points = Points(lambda points: happen(points, others, disk))
    with points.asleep(), world.hot() as others:
        disk = DurableFiles(directory / JSONL)
        watch_redis(points, partial(world.meddle, others, is_deleting=not is_deleted))
        watch_sqlite(points)
        watch_files(points, disk)
        watch_writes(points, world.disk_is_full_at)
        insist(points, directory)
        points.is_asleep = False
        with world.hot() as hot, world.archives(directory) as archives:
            world.drain(hot, archives)
        points.between("the end")
        points.is_asleep = True
    return points.labels


def wait_everywhere(world: World, directory: Path, tell: Any) -> None:
    """Tell at each point what comes next, and what a loss of power would leave; go on when told to."""

    def wait(points: Points, _: Hot, disk: DurableFiles) -> None:
        tell.send((points.labels[-1], disk.left() if disk.is_behind() else None))
        tell.recv()

    be_victim(world, directory, wait, is_deleted=False)


def meet_deletion(world: World, directory: Path, chosen: int | None, tell: Any) -> None:
    """Let runs be deleted at one point (None: at none)."""

    def delete(points: Points, others: Hot, _: DurableFiles) -> None:
        if len(points.labels) - 1 == chosen:
            world.delete(others)
            world.make_anew(others)

    tell.send(be_victim(world, directory, delete, is_deleted=True))


def survive(world: World, directory: Path, expected: Any, tell: Any) -> None:
    """Let happen what has not yet, drain what is left, and tell what is wrong, and how Redis stands."""
    with world.hot() as hot, world.archives(directory) as archives:
        faults = list(faults_at_once(world, archives))
        for act in (world.delete, world.make_anew, world.append_more, world.save_more, world.append_late):
            act(hot)
        world.let_claims_run_out()
        world.drain(hot, archives)
        faults += faults_in_the_end(world, archives)
        found = standing(world)
        if expected is not None:
            faults += unlike(expected, found)
    tell.send((faults, found))


# -- the process that forks them -----------------------------------------------------------------------


class Fork:
    """A forked process.

    Args:
        act: What it does; it is given its end of the connection.
    """

    def __init__(self, act: Callable[[Any], None]) -> None:
        self.connection, other = Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _end_after(partial(act, other))
        other.close()

    def told(self) -> Any:
        """What it tells next; None once it has ended."""
        try:
            return self.connection.recv()
        except EOFError:
            return None

    def ended(self) -> int:
        """Wait for its end; its exit code (a signal is negative)."""
        self.connection.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _end_after(act: Callable[[], None]) -> NoReturn:
    code = 1
    gc.disable()  # it does not live long, and would copy all of its parent's memory
    try:
        signal.alarm(PATIENCE_SECONDS)
        act()
        code = 0
    except BaseException:  # noqa: BLE001 - it goes to the test's output
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


class Walk:
    """The points of a task, one after the other."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.found = Found()
        self.world = World(task.socket_path, task.namespace, task.world, jsonl_first=task.jsonl_first)
        self._place = Path(task.directory) / "point"
        self._contents: dict[bytes, bytes] = {}  # each once, however many states have it
        self._expected: Any = None

    def all(self) -> Found:
        """Walk them."""
        self.world.prepare(self._place)
        self._begin = self._state()
        gc.freeze()
        try:
            if self.task.how == "deleted":
                self._try_deletions()
            else:
                self._try_states()
        finally:
            self.world.put_back({})
        return self.found

    # -- where the worker dies

    def _try_states(self) -> None:
        left = self._left()
        *_, (end, where) = left.items()  # of a worker that nobody disturbs
        self._expected = self._survive(where, end)
        for state, where in list(left.items())[self.task.part :: self.task.parts]:
            self._survive(where, state)
            self.found.tried += 1
            if self._is_enough():
                return
        for number in range(self.task.part, self._last, POINTS_PER_KILL):
            self._kill(number)
            self.found.killed += 1

    def _left(self) -> dict[State, str]:
        """Each state that is left at a point, and where that is first; last comes what is left in the end."""
        left: dict[State, str] = {}
        former = ""
        for number, (label, durable) in enumerate(self._wait()):
            if self.task.after_reads or not READS.match(former):
                self.found.points += 1
                there = self._state()
                left.setdefault(there, f"killed at point {number}, before {label}")
                if durable is not None:
                    files = [one for one in there.files if not one[0].startswith(f"{JSONL}/")]
                    files += [(f"{JSONL}/{name}", self._once(content)) for name, content in durable.items()]
                    lost = there._replace(files=tuple(sorted(files)))
                    self.found.power_losses += lost not in left
                    left.setdefault(lost, f"without power at point {number}, before {label}")
            former = label
        self.found.states, self._last = len(left), number
        left[there] = left.pop(there)
        return left

    def _wait(self, number: int | None = None) -> Iterator[Any]:
        """What a victim tells at each point, where it waits meanwhile; at the one of this number it is killed."""
        self._put(self._begin)
        victim = Fork(partial(wait_everywhere, self.world, self._place))
        for at in count():
            if (told := victim.told()) is None:
                break
            yield told
            if at == number:
                os.kill(victim.pid, signal.SIGKILL)
            else:
                victim.connection.send(None)
        if (status := victim.ended()) != (0 if number is None else -signal.SIGKILL):
            self.found.faults.append(f"the worker that was to wait ended with {status}, see its stderr")

    def _kill(self, number: int) -> None:
        there = None
        for at, _ in enumerate(self._wait(number)):
            if at == number:
                there = self._state()
        if self._state() != there:
            self.found.faults.append(f"killed at point {number}, the worker leaves something else than was there")

    # -- where a run is deleted, and the worker goes on

    def _try_deletions(self) -> None:
        for _ in range(2):  # the first one loads scripts that others find loaded
            labels = self._delete(None)
        # to the worker it is all one where between two commands a run was deleted
        points = [point for point, label in enumerate(labels) if label.startswith("Redis")]
        if not self.task.after_reads:
            points = points[:1] + [
                at for former, at in pairwise(points) if not READS_OF_OTHERS.match(labels[former])
            ]
        self.found.points = len(points)
        for point in points[self.task.part :: self.task.parts]:
            self._delete(point)
            self.found.tried += 1
            if self._is_enough():
                return

    def _delete(self, point: int | None) -> list[str]:
        self._put(self._begin)
        victim = Fork(partial(meet_deletion, self.world, self._place, point))
        labels: list[str] = victim.told() or []
        where = (
            f"deleted at point {point}" if point is None else f"deleted at point {point}, before {labels[point]}"
        )
        if (status := victim.ended()) != 0:
            self.found.faults.append(f"{where}: the worker ended with {status}, see its stderr")
        self._survive(where)
        return labels

    # -- what is there, and what the next worker makes of it

    def _survive(self, where: str, state: State | None = None) -> Any:
        """How Redis stands in the end."""
        if state is not None:
            self._put(state)
        survivor = Fork(partial(survive, self.world, self._place, self._expected))
        told, status = survivor.told(), survivor.ended()
        if told is None or status != 0:
            self.found.faults.append(f"{where}: the next worker ended with {status}, see its stderr")
            return None
        faults, standing = told
        self.found.faults += [f"{where}: {fault:.400}" for fault in faults]
        return standing

    def _state(self) -> State:
        files = [
            (str(path.relative_to(self._place)), None if path.is_dir() else self._once(path.read_bytes()))
            for path in self._place.rglob("*")
        ]
        return State(tuple(self.world.saved().items()), tuple(sorted(files)))

    def _put(self, state: State) -> None:
        self.world.put_back(dict(state.keys))
        shutil.rmtree(self._place)
        self._place.mkdir()
        for name, content in state.files:
            if content is None:
                (self._place / name).mkdir()
            else:
                (self._place / name).write_bytes(content)

    def _once(self, content: bytes | None) -> bytes | None:
        return None if content is None else self._contents.setdefault(content, content)

    def _is_enough(self) -> bool:
        return len(self.found.faults) >= MANY_FAULTS


if __name__ == "__main__":
    print(json.dumps(asdict(Walk(Task(**json.loads(sys.argv[1]))).all())))
