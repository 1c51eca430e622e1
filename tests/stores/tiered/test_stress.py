"""P10 with everybody at work at once: readers see every event once, in order, while workers trim and retire."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    DrainWorker,
    EventKind,
    RedisCheckpointer,
    TieredCheckpointer,
)
from tests.stores.tiered.tiers import ARCHIVES
from tests.support.backends import Backend
from tests.support.samples import make_event
from tests.support.servers import eventually, needs_valkey

RUNS = ("goes on", "ends")
LANES = "abcd"
BATCHES = 80


class Crowd:
    """Four writers of two runs, of which one ends at times and is opened again, and all sorts of readers."""

    def __init__(
        self, tiered: TieredCheckpointer[Any, Any], workers: list[DrainWorker], rounds: int, *, retires: bool
    ) -> None:
        self.tiered = tiered
        self.workers = workers
        self.rounds = rounds
        self.retires = retires
        self.is_written = threading.Event()
        self._together = threading.Barrier(len(LANES))

    def write(self, lane_id: str) -> None:
        """In batches of many sizes. The first lane ends the run, and all wait until it has left Redis."""
        own, seq = random.Random(lane_id), itertools.count(1)
        for _ in range(self.rounds):
            for _ in range(BATCHES):
                for run_id in RUNS:
                    size = own.choice([1, 1, 3, 20])
                    batch = [make_event(run_id, next(seq), lane_id=lane_id) for _ in range(size)]
                    self.tiered.append(run_id, batch)
            self._together.wait(60)
            if lane_id == LANES[0]:
                self.end()
            self._together.wait(60)
            again = make_event("ends", next(seq), lane_id=lane_id, kind=EventKind.RUN_STARTED)
            self.tiered.append("ends", [again])

    def end(self) -> None:
        """End one run, and wait until it is retired."""
        before = self.retired
        self.tiered.append("ends", [make_event("ends", kind=EventKind.RUN_FINISHED)])
        eventually(lambda: not self.retires or self.retired > before)

    @property
    def retired(self) -> int:
        """How often a run was retired."""
        return sum(worker.progress.report.retired for worker in self.workers)

    def last_of(self, run_id: str) -> int:
        """The run's last offset."""
        info = self.tiered.run_info(run_id)
        return 0 if info is None else info.last_offset

    def follow(self, run_id: str, after: int) -> list[tuple[int, str]]:
        """Until all is written: again from where it was, when the run had ended and is opened again."""
        found: list[tuple[int, str]] = []
        while not (self.is_written.is_set() and found and found[-1][0] == self.last_of(run_id)):
            place = found[-1][0] if found else after
            followed = self.tiered.follow(run_id, place, idle_timeout=60)
            found += ((item.offset, item.event.span_id) for item in followed)
        return found

    def look_back(self, run_id: str) -> int:
        """All of it, and its end, from behind."""
        for count in itertools.count(1):
            offsets = [item.offset for item in self.tiered.read(run_id, reverse=True)]
            assert offsets == list(range(len(offsets), 0, -1))
            latest = [item.offset for item in self.tiered.read(run_id, reverse=True, limit=7)]
            assert latest == list(range(latest[0], latest[0] - 7, -1))
            assert latest[0] >= len(offsets)
            if self.is_written.is_set():
                return count
        raise AssertionError("unreachable")

    def recover(self, run_id: str) -> int:
        """The whole run, and in a Run of a lane of its own, which saves a state from time to time."""
        for count in itertools.count(1):
            with self.tiered.open_run(run_id, lane_id=f"of {run_id}") as run:
                assert all(item.event.lane_id == run.lane_id for item in run.recovered.events)
                if count % 5 == 0:
                    run.checkpoint()
            recovery = self.tiered.recover(run_id)
            offsets = [item.offset for item in recovery.events]
            assert offsets == list(range(recovery.offset + 1, recovery.offset + 1 + len(offsets)))
            if self.is_written.is_set():
                return count
        raise AssertionError("unreachable")

    def work(self) -> list[tuple[str, int, list[tuple[int, str]]]]:
        """What each follower saw: run, where it began, offsets and events."""
        with ThreadPoolExecutor(20) as threads:
            writing = [threads.submit(self.write, lane_id) for lane_id in LANES]
            try:
                eventually(lambda: all(self.first_hot(run_id) > 60 for run_id in RUNS))
                starts = [(run_id, after) for run_id in RUNS for after in (0, random.randrange(1, 60))]
                followers = [threads.submit(self.follow, *start) for start in starts]
                others: list[Future[int]] = []
                for run_id in RUNS:
                    others += [threads.submit(self.look_back, run_id), threads.submit(self.recover, run_id)]
                for writer in writing:
                    writer.result()
                for run_id in RUNS:
                    self.tiered.append(run_id, [make_event(run_id, kind=EventKind.RUN_FINISHED)])
                self.is_written.set()
                found = [(*start, follower.result()) for start, follower in zip(starts, followers, strict=True)]
                assert all(other.result() > 0 for other in others)
            finally:
                self.is_written.set()
        return found

    def first_hot(self, run_id: str) -> int:
        """Where Redis begins."""
        info = self.tiered.run_info(run_id)
        return 0 if info is None else info.first_hot


@needs_valkey
@pytest.mark.one_in(1, exhaustively=2)
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("jsonl", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("retires", [pytest.param(False, marks=pytest.mark.exhaustive), True])
@pytest.mark.parametrize("rounds", [1, pytest.param(3, marks=pytest.mark.exhaustive)])
def test_readers_see_every_event_once_while_workers_trim_under_them(
    make_backend: Callable[[str], Backend], tmp_path: Path, kind: str, retires: bool, rounds: int
) -> None:
    """Four writers, two workers, four followers that begin anywhere, two that read backwards, two that recover."""
    hot = make_backend("valkey").open()
    assert isinstance(hot, RedisCheckpointer)
    stop = threading.Event()
    with closing(ARCHIVES[kind](tmp_path)) as archive, ThreadPoolExecutor(2) as threads:
        options: dict[str, Any] = {"trim": "archived", "poll_seconds": 0.005, "batch": 100}
        if retires:
            options["retire_after_seconds"] = 0
        workers = [DrainWorker(hot, [archive], name=name, **options) for name in ("w1", "w2")]
        tiered = TieredCheckpointer(hot, archive)
        crowd = Crowd(tiered, workers, rounds, retires=retires)
        working = [threads.submit(worker.run, stop) for worker in workers]
        try:
            seen = crowd.work()
            # of some 4,000 each round: on a busy machine the workers are behind the writers
            eventually(lambda: sum(worker.progress.report.trimmed for worker in workers) > 2_500 * rounds)
        finally:
            stop.set()
        reports = [worker.result() for worker in working]
        wholes = {name: [(item.offset, item.event.span_id) for item in tiered.read(name)] for name in RUNS}
    assert all(report.parked == 0 for report in reports)
    assert sum(report.trimmed for report in reports) > 2_500 * rounds
    assert not retires or crowd.retired >= rounds
    for run_id, after, found in seen:
        assert [offset for offset, _ in wholes[run_id]] == list(range(1, len(wholes[run_id]) + 1))
        assert found == wholes[run_id][after:]
