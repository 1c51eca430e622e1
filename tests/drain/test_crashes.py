"""P8 whatever a worker meets: deaths at any point, pauses, other workers, and runs that are made anew."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    DrainReport,
    DrainWorker,
    HistoryDiverged,
    PAEvent,
    RunState,
)
from runstream.drain.claimed_run import Chunk, ClaimedRun
from runstream.drain.heartbeat import Heartbeat
from runstream.model.archive_records import ArchiveEntry, Position, RunBatch
from runstream.model.results import Cursor
from runstream.stores.redis.namespace import Namespace, namespace_of
from tests.drain.watched_sink import Watched, emit, hot_from, until
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import Backend, RedisBackend
from tests.support.drain_tools import Hot, due, open_archives, open_hot, parked
from tests.support.kinds import on_every_server
from tests.support.mortal import Killed, Mortal
from tests.support.servers import DEADLINE_SECONDS


def test_a_dead_workers_runs_come_due_again_by_themselves(hot: Hot, archives: list[Archive]) -> None:
    """A claim that nobody settles runs out; nobody else takes the run before."""
    acknowledged = {"r": emit(hot, "r", 6)}
    assert [run.run_id for run in namespace_of(hot).claim(None, 10, 0.5)] == ["r"]
    assert DrainWorker(hot, archives).drain_once() == DrainReport()
    worker = DrainWorker(hot, archives)
    until(lambda: worker.drain_once().events == 6)
    check_archives(archives, acknowledged)


# -- crashes at every point --------------------------------------------------------------------------


class MortalSink(Watched):
    """Every call of a sink is two points: before it and after it."""

    def __init__(self, inner: Archive, mortal: Mortal) -> None:
        super().__init__(inner, before_write=mortal.step, after_write=mortal.step)
        self._mortal = mortal

    def position(self, run_id: str) -> Position | None:
        self._mortal.step()
        return super().position(run_id)

    def read_back(self, run_id: str, first: int, last: int) -> Iterator[ArchiveEntry]:
        self._mortal.step()
        return super().read_back(run_id, first, last)


@pytest.mark.one_in(8, exhaustively=2)
@pytest.mark.parametrize("first", range(1, 5))
@pytest.mark.parametrize("order", ["sqlite first", "jsonl first"])
def test_a_worker_that_dies_at_any_point_loses_nothing_and_archives_nothing_twice(
    make_backend: Callable[[str], Backend], tmp_path: Path, order: str, first: int
) -> None:
    """Every exchange and every call of a sink, before and after; then another worker finishes."""
    points, died = first - 4, True
    while died:
        points += 4
        backend = make_backend("fake")
        assert isinstance(backend, RedisBackend)
        directory = tmp_path / str(points)
        directory.mkdir()
        died = die_at(points, backend, directory, sqlite_first=order == "sqlite first")
    print(f"every fourth of {points} points, {order}")
    assert points > 30


def die_at(point: int, backend: RedisBackend, directory: Path, *, sqlite_first: bool) -> bool:
    """One worker that dies at this point, another that finishes, and the checker. False if it never died."""
    hot = open_hot(backend, partitions=2)
    acknowledged = {"a": emit(hot, "a", 7), "b": emit(hot, "b", 3)}
    hot.save_snapshot("a", RunState(run_id="a", current_step=7))
    acknowledged["a"] += emit(hot, "a", 2, first=8)
    archives = open_archives(directory)
    if not sqlite_first:
        archives.reverse()
    mortal = Mortal(point)
    victim = open_hot(backend)
    mortal.exchanges_of(victim)
    died = False
    try:
        DrainWorker(
            victim, [MortalSink(archive, mortal) for archive in archives], batch=4, claim_seconds=0.05
        ).drain_once()
    except Killed:
        died = True
    acknowledged["a"] += emit(hot, "a", 1, first=10)
    survivors = open_archives(directory)
    worker = DrainWorker(hot, survivors if sqlite_first else survivors[::-1], batch=4)

    def drained() -> bool:
        worker.drain_once()
        return due(hot) == {}

    until(drained)
    check_archives(survivors, acknowledged)
    assert parked(hot) == {}
    assert all(archive.load_snapshot("a") == hot.load_snapshot("a") for archive in survivors)
    assert hot_from(hot, "a") == 8  # what the snapshot covers, and no more
    for archive in (*archives, *survivors):
        archive.close()
    return died


def test_a_worker_that_was_paused_does_not_put_an_old_snapshot_back(hot: Hot, archives: list[Archive]) -> None:
    """It is passed over by every archive, and what the paused worker proves leaves the run as it is."""
    emit(hot, "r", 3)
    hot.save_snapshot("r", RunState(run_id="r", current_step=1))
    late: list[RunBatch] = []

    class Paused(Watched):
        def write(self, batches: Sequence[RunBatch]) -> None:
            late.extend(batches)
            hot.save_snapshot("r", RunState(run_id="r", current_step=2))
            DrainWorker(hot, archives).drain_once()
            super().write(batches)

    # its claim runs out at once, so the other worker takes the run while this one sleeps
    DrainWorker(hot, [Paused(archives[0]), archives[1]], claim_seconds=0).drain_once()
    assert [snapshot.revision for batch in late for snapshot in batch.snapshots] == [1]
    for archive in archives:
        state = archive.load_latest("r")
        assert state is not None
        assert state.current_step == 2
    assert parked(hot) == {}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("step", ["position", "load_due", "load_entries"])
def test_a_worker_whose_run_another_has_taken_on_parks_nothing(
    fake: RedisBackend, archives: list[Archive], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Its claim ran out between two steps: the other has appended to, archived and trimmed the run since."""
    monkeypatch.setattr(Heartbeat, "_extend", lambda _: None)  # as of a process that was stopped
    hot = open_hot(fake)
    acknowledged = {"r": emit(hot, "r", 4)}
    taken_on: list[bool] = []

    def take_on() -> None:
        if not taken_on:
            taken_on.append(True)
            acknowledged["r"] += emit(hot, "r", 3, first=5)
            assert DrainWorker(open_hot(fake), archives, trim="archived").drain_once().events == 7

    class Slow(Watched):
        def position(self, run_id: str) -> Position | None:
            found = super().position(run_id)
            if step == "position":
                take_on()
            return found

    if step != "position":
        original = getattr(Namespace, step)

        def slowly(*args: Any) -> Any:
            if not taken_on:
                take_on()
            return original(*args)

        monkeypatch.setattr(Namespace, step, slowly)
    report = DrainWorker(hot, [Slow(archives[0]), archives[1]], claim_seconds=0).drain_once()
    assert taken_on
    assert report.parked == 0
    assert parked(hot) == {}
    check_archives(archives, acknowledged)


@pytest.mark.parametrize("name", ["entries", "a snapshot alone"])
def test_a_run_that_is_made_anew_while_it_is_loaded_is_not_archived_under_the_start_of_the_former_one(
    fake: RedisBackend, archives: list[Archive], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Between looking at it and loading it: the archive gets nothing then, and the new run at the next drain."""
    hot = open_hot(fake)
    if name == "entries":
        emit(hot, "r", 4)
    hot.save_snapshot("r", RunState(run_id="r", current_step=1))
    original = Namespace.load_entries
    acknowledged: dict[str, list[PAEvent]] = {}

    def load_another(*args: Any) -> Any:
        if not acknowledged:
            hot.delete_run("r")
            acknowledged["r"] = emit(hot, "r", 5)
            hot.save_snapshot("r", RunState(run_id="r", current_step=2))
        return original(*args)

    monkeypatch.setattr(Namespace, "load_entries", load_another)
    assert DrainWorker(hot, archives).drain_once() == DrainReport()
    assert [archive.position("r") for archive in archives] == [None, None]
    assert DrainWorker(hot, archives).drain_once().runs == 1
    check_archives(archives, acknowledged)
    assert parked(hot) == {}


def test_what_does_not_follow_from_where_the_archives_stand_is_not_written(hot: Hot) -> None:
    """A failover between looking and loading has put other events after another one at that place."""
    emit(hot, "r", 4)
    (run,) = namespace_of(hot).load_runs(["r"])
    assert run is not None
    second = Cursor.parse([item.cursor for item in hot.read("r")][1])
    for at, follows in ((second, True), (Cursor(2, second.chain + 1), False)):
        work = ClaimedRun(run, [], at, [])
        want = work.next_request(10)
        (loaded,) = namespace_of(hot).load_entries([want])
        if follows:
            assert len(Chunk.make(work, want, loaded).entries) == 2
        else:
            with pytest.raises(HistoryDiverged):
                Chunk.make(work, want, loaded)


# -- many at once ------------------------------------------------------------------------------------


@pytest.mark.exhaustive
@pytest.mark.one_in(8)
@on_every_server
def test_several_workers_share_the_load_and_archive_everything_once(
    redis_backend: RedisBackend, tmp_path: Path
) -> None:
    """Three workers with short claims on the same archives, while two writers go on appending."""
    acknowledged: dict[str, list[PAEvent]] = {}
    stop = threading.Event()
    archives = open_archives(tmp_path)  # both are there before several workers open them

    def write(name: str) -> None:
        hot = open_hot(redis_backend)
        for n in range(12):
            run_id = f"{name}-{n % 4}"
            known = acknowledged.setdefault(run_id, [])
            known += emit(hot, run_id, 8, first=len(known) + 1)
            if n % 3 == 0:
                hot.save_snapshot(run_id, RunState(run_id=run_id))

    def drain() -> None:
        own = open_archives(tmp_path)
        DrainWorker(open_hot(redis_backend), own, batch=10, claim_seconds=0.2, poll_seconds=0.01).run(stop)
        for archive in own:
            archive.close()

    hot = open_hot(redis_backend)
    DrainWorker(hot, archives).drain_once()
    with ThreadPoolExecutor(5) as pool:
        workers = [pool.submit(drain) for _ in range(3)]
        try:
            for writer in [pool.submit(write, name) for name in "xy"]:
                writer.result(DEADLINE_SECONDS)
            until(lambda: due(hot) == {} or any(worker.done() for worker in workers))
        finally:
            stop.set()
        for worker in workers:
            worker.result(DEADLINE_SECONDS)
    check_archives(archives, acknowledged)
    assert parked(hot) == {}
    for archive in archives:
        archive.close()
