"""Walk all points at which a drain worker can die, and judge what the next worker makes of it.

``python -m tests.support.crash_walk TASK`` is a process of one thread that sets a world up once and forks twice
for each point: a victim, ended there by SIGKILL (nothing unwinds, no claim is given up), and a survivor, a new
worker, which finishes and judges. Before each point Redis and the archives are put back as they were: keys by
``RESTORE``, archives from a copy. It ends with what it has :class:`Found`, as a line of JSON.
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
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from runstream.testing.simulation.durable_files import DurableFiles
from tests.support.crash_judge import faults_at_once, faults_in_the_end, standing, unlike
from tests.support.crash_points import Points, insist, watch_files, watch_redis, watch_sqlite, watch_writes
from tests.support.crash_world import World

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
PATIENCE_SECONDS = 60


@dataclass
class Task:
    """What one process walks: every ``parts``-th point from ``part`` on of a world (see :class:`World`).

    ``how`` is what happens there: ``"killed"``, the worker dies, and where a loss of power would leave less of the
    JSONL archive than is there, that is tried too; ``"deleted"``, runs are deleted, one is made anew, and the
    worker goes on.
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
    """The points that there are, those that were tried, how often power was lost, and what was wrong where."""

    points: int = 0
    tried: int = 0
    power_losses: int = 0
    faults: list[str] = field(default_factory=list)


# -- the victim ----------------------------------------------------------------------------------------


class Fate(NamedTuple):
    """What became of a victim: the operations that its points lie before, and the one of the chosen point."""

    labels: list[str]
    chosen: str | None = None
    is_behind: bool = False
    """Whether a loss of power would have left less of the JSONL archive."""


def be_victim(world: World, directory: Path, how: str, chosen: int | None, tell: int) -> None:
    """Drain until the point, and on to the end if that is survived."""
    chosen_label: str | None = None

    def happen(label: str) -> None:
        nonlocal chosen_label
        chosen_label = label
        if how == "deleted":
            world.delete(others)
            world.make_anew(others)
            return
        tell_all(tell, Fate([], label, disk.is_behind()))
        if how == "power lost":
            disk.lose_power()
        os.kill(os.getpid(), signal.SIGKILL)

    points = Points(chosen, happen)
    with points.asleep(), world.hot() as others:
        disk = DurableFiles(directory / "jsonl")
        watch_redis(points, partial(world.meddle, others, is_deleting=how != "deleted"))
        watch_sqlite(points)
        watch_files(points, disk)
        watch_writes(points, world.disk_is_full_at)
        insist(points, directory)
        points.is_asleep = False
        with world.hot() as hot, world.archives(directory) as archives:
            world.drain(hot, archives)
        points.between("the end")
        points.is_asleep = True
        tell_all(tell, Fate(points.labels, chosen_label))


def be_survivor(world: World, directory: Path, expected: Any, tell: int) -> None:
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
    tell_all(tell, {"faults": faults, "standing": found})


# -- the process that forks them -----------------------------------------------------------------------


def tell_all(tell: int, what: object) -> None:
    """Let the parent know, before the end."""
    with open(tell, "w", closefd=False, encoding="utf-8") as file:
        json.dump(what, file)


def in_fork(act: Callable[[int], None]) -> tuple[int, Any]:
    """Let a fork do it; how it ended (a signal is negative), and what it told."""
    hear, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        gc.disable()  # it does not live long, and would copy all of its parent's memory
        try:
            signal.alarm(PATIENCE_SECONDS)
            act(tell)
            code = 0
        except BaseException:  # noqa: BLE001 - it goes to the test's output
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(tell)
    with open(hear, "rb") as file:  # noqa: PTH123 - of a handle, not of a path
        told = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status, json.loads(told) if told else None


class Walk:
    """The points of a task, one after the other."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.found = Found()
        self.world = World(task.socket_path, task.namespace, task.world, jsonl_first=task.jsonl_first)
        self._prepared = Path(task.directory) / "prepared"
        self._place = Path(task.directory) / "point"
        self._expected: Any = None

    def all(self) -> Found:
        """Walk them."""
        self.world.prepare(self._prepared)
        self._saved = self.world.saved()
        gc.freeze()
        try:
            self._walk()
        finally:
            self.world.put_back({})
        return self.found

    def _walk(self) -> None:
        # what a worker that nobody disturbs does and leaves; the first one loads scripts that others find loaded
        for _ in range(2):
            labels = self._one(self.task.how, None).labels
        points, alike = list(range(len(labels))), READS
        if self.task.how == "deleted":  # to the worker it is all one where between two commands a run was deleted
            points = [point for point in points if labels[point].startswith("Redis")]
            alike = READS_OF_OTHERS
        if not self.task.after_reads:
            points = points[:1] + [at for former, at in pairwise(points) if not alike.match(labels[former])]
        self.found.points = len(points)
        for point in points[self.task.part :: self.task.parts]:
            fate = self._one(self.task.how, point)
            self.found.tried += 1
            if fate.is_behind:
                self._one("power lost", point)
                self.found.power_losses += 1
            if len(self.found.faults) >= MANY_FAULTS:
                break

    def _one(self, how: str, point: int | None) -> Fate:
        """One victim and its survivor."""
        self.world.put_back(self._saved)
        shutil.copytree(self._prepared, self._place)
        status, told = in_fork(partial(be_victim, self.world, self._place, how, point))
        fate = Fate(*told) if told else Fate([])
        dies = point is not None and how != "deleted"
        at = f"{how} at point {point}, before {fate.chosen}"
        if status != (-signal.SIGKILL if dies else 0) or (fate.chosen is None) != (point is None):
            self.found.faults.append(f"{at}: the worker ended with {status}, see its stderr")
        expected = self._expected if how != "deleted" else None
        status, told = in_fork(partial(be_survivor, self.world, self._place, expected))
        if status != 0:
            self.found.faults.append(f"{at}: the next worker ended with {status}, see its stderr")
        else:
            self.found.faults += [f"{at}: {fault:.400}" for fault in told["faults"]]
            self._expected = self._expected or told["standing"]
        shutil.rmtree(self._place)
        return fate


if __name__ == "__main__":
    print(json.dumps(asdict(Walk(Task(**json.loads(sys.argv[1]))).all())))
