"""Resolving is killed at any point and repeated, with workers and writers at the run all the while."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from runstream import (
    ConcurrencyConflict,
    DrainWorker,
)
from runstream.model.archive_records import ArchiveEntry, Position, RunBatch, RunHeader
from runstream.model.protocols import Sink
from runstream.model.results import Cursor
from runstream.repair.resolve import Keep, Resolution, load_histories, resolve
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.worker import drain
from tests.repair.resolve.world import KEEPS, Passing, World, check_nothing_is_lost, emit, open_anew, part
from tests.support.backends import Backend, RedisBackend
from tests.support.drain_tools import locations
from tests.support.mortal import Killed, Mortal
from tests.support.servers import DEADLINE_SECONDS, eventually


class MortalSink(Passing):
    """Every call of a sink is two points: before it and after it."""

    def __init__(self, inner: Sink, mortal: Mortal) -> None:
        super().__init__(inner)
        self._mortal = mortal

    def write(self, batches: Sequence[RunBatch]) -> None:
        self._mortal.step()
        super().write(batches)
        self._mortal.step()

    def read_back(self, run_id: str, first: int, last: int) -> Iterator[ArchiveEntry]:
        self._mortal.step()
        return super().read_back(run_id, first, last)

    def cut_back(self, header: RunHeader, to: Position, expected: Cursor) -> None:
        self._mortal.step()
        super().cut_back(header, to, expected)
        self._mortal.step()


@pytest.mark.one_in(12, exhaustively=6)
@pytest.mark.parametrize("first", range(1, 9))
@pytest.mark.parametrize(
    ("shape", "keep"), [*(("new on top", keep) for keep in KEEPS), ("made anew", "archive"), ("made anew", "both")]
)
def test_killed_at_any_point_and_repeated_it_ends_the_same(
    make_backend: Callable[[str], Backend], make_world: Callable[..., World], shape: str, keep: Keep, first: int
) -> None:
    """Every exchange with Redis, every call of a sink, before and after; a worker may drain in between."""
    point, died = first - 8, True
    while died:
        point += 8
        backend = make_backend("fake")
        assert isinstance(backend, RedisBackend)
        world = make_world(backend, f"{keep}{point}")
        part(world, shape)
        mortal = Mortal(point)
        victim = world.open()
        mortal.exchanges_of(victim)
        sinks = [MortalSink(archive, mortal) for archive in world.archives]
        died = False
        try:
            found = load_histories(victim, sinks, "r")
            assert found is not None
            resolve(victim, sinks, found, keep)
        except Killed:
            died = True
        if (point // 8) % 2:
            world.drain()
        world.resolve(keep)
        world.check(keep)
        for archive in world.archives:
            archive.close()
    print(f"every eighth of {point} points, {shape}, keep {keep}")
    assert point > 25


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize("keep", KEEPS)
def test_no_worker_takes_the_run_while_it_is_resolved(world: World, keep: Keep) -> None:
    """It is parked meanwhile, and says why; whoever looks at the status knows."""
    part(world, "new on top")
    namespace_of(world.hot).unpark(["r"])
    seen: list[str] = []

    class Looking(Passing):
        def write(self, batches: Sequence[RunBatch]) -> None:
            assert world.drain().parked == 0
            seen.append(world.parked()["r"])
            super().write(batches)

    found = world.look()
    resolve(world.hot, [Looking(archive) for archive in world.archives], found, keep)
    assert seen
    assert all("being resolved" in reason and f"`runstream resolve r --keep {keep}`" in reason for reason in seen)
    world.check(keep)


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize("keep", KEEPS)
def test_nobody_else_resolves_it_in_another_way_meanwhile(world: World, keep: Keep) -> None:
    """Both would cut their branch off; in the same way, each step finds what the other one has done."""
    part(world, "new on top")
    refused: list[str] = []
    others: list[Keep] = ["archive", "redis", "both"]
    others.remove(keep)

    class Rivalled(Passing):
        def write(self, batches: Sequence[RunBatch]) -> None:
            for other in others:
                with pytest.raises(ConcurrencyConflict, match="in another way"):
                    world.resolve(other)
                refused.append(other)
            super().write(batches)

    found = world.look()
    resolve(world.hot, [Rivalled(archive) for archive in world.archives], found, keep)
    assert {*refused} == {*others}
    world.check(keep)


# -- a worker in flight --------------------------------------------------------------------------------


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize(("keep", "is_kept"), [("archive", True), *((keep, False) for keep in KEEPS)])
def test_a_worker_that_settles_late_trims_only_what_is_archived(world: World, keep: Keep, is_kept: bool) -> None:
    """It proved one of the branches, slept, and settles after the run has been resolved."""
    part(world, "new on top")
    (before,) = namespace_of(world.hot).load_runs(["r"])
    assert before is not None
    position = world.archives[0].position("r")
    assert position is not None
    cursor = position.cursor if is_kept == (keep == "archive") else before.head.last
    late = drain.Proven(before.header, cursor, before.head.tokens, "covered", None)
    world.resolve(keep)
    first = world.hot.run_info("r")
    (settled,) = namespace_of(world.hot).settle([late], locations(world.archives))
    assert settled.outcome == ("ok" if is_kept else "diverged")
    if not is_kept:
        assert world.hot.run_info("r") == first
    world.check(keep)


def test_a_worker_that_writes_late_is_refused_by_the_archive(world: World) -> None:
    """It loaded Redis's branch, slept, and writes after the archive's history was restored: the run has moved."""
    part(world, "new on top")
    resolved: list[Resolution] = []

    class Slow(Passing):
        def write(self, batches: Sequence[RunBatch]) -> None:
            if not resolved:
                resolved.append(world.resolve("archive"))
            super().write(batches)

    namespace_of(world.hot).unpark(["r"])
    report = DrainWorker(world.hot, [Slow(one) for one in world.archives]).drain_once()
    assert (resolved != [], report.parked, report.trimmed) == (True, 0, 0)
    world.check("archive")


def test_workers_and_writers_at_it_all_the_while(any_world: World) -> None:
    """Nothing that anybody was acknowledged is missing anywhere, whoever was quicker."""
    world = any_world
    part(world, "new on top")
    stop, chance = threading.Event(), random.Random(1)

    def drain() -> None:
        hot, own = world.open(), [open_anew(archive) for archive in world.archives]
        DrainWorker(hot, own, poll_seconds=0.005, park_seconds=0.05, claim_seconds=0.3).run(stop)
        for archive in own:
            archive.close()

    def write() -> None:
        hot = world.open()
        while not stop.is_set():
            world.of_redis += emit(hot, "r", 2, lane_id="busy", first=len(world.of_redis))
            stop.wait(chance.uniform(0, 0.3))  # a slow machine is to find it at rest now and then

    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(drain), pool.submit(drain), pool.submit(write)]
        try:
            eventually(partial(_resolved, world))
        finally:
            stop.set()
        for other in others:
            other.result(DEADLINE_SECONDS)
    eventually(lambda: world.drain().parked == 0 and world.due() == 0)
    for archive in world.archives:
        check_nothing_is_lost(archive, world.common + world.of_archive + world.of_redis)
        spans = [event.span_id for event in archive.list_events("r")]
        assert len(set(spans)) == len(spans) == len(world.common + world.of_archive + world.of_redis)


def _resolved(world: World) -> bool:
    try:
        world.resolve("both")
    except ConcurrencyConflict:
        return False
    return not world.look().diverged
