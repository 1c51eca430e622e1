"""P8, P9 and P12: what the drain promises, and attempts to break it.

Every test of a fault ends in :func:`archive_check.check_archives`: each acknowledged event exactly once, in order.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    ConfigurationError,
    DrainReport,
    DrainWorker,
    EventKind,
    EventsArchived,
    HistoryDiverged,
    PAEvent,
    RunState,
    SQLiteCheckpointer,
    StoreUnavailable,
    create_event,
)
from runstream.codec.record import encode_record, seed
from runstream.drain.claimed_run import Piece, RunWork
from runstream.drain.heartbeat import Heartbeat
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, Position, RunBatch
from runstream.model.protocols import Sink
from runstream.model.results import Cursor
from runstream.stores.redis.exchange import Exchange, Replies
from runstream.stores.redis.operations.worker import drain
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import Backend, RedisBackend
from tests.support.drain_tools import Hot, due, open_archives, open_hot, parked, put_raw

DEADLINE_SECONDS = 30.0


@pytest.fixture
def hot(redis_backend: RedisBackend) -> Hot:
    """A store on every kind of server."""
    return open_hot(redis_backend)


def emit(hot: Hot, run_id: str, count: int, *, lane_id: str = "main", first: int = 1) -> list[PAEvent]:
    """Append so many events to a lane, singly and in batches, and give them back: they are acknowledged."""
    events = [
        create_event(run_id, EventKind.TOOL_RESULT, lane_id=lane_id, seq=seq, raw=b"\x00\xff", pair=(seq, "x"))
        for seq in range(first, first + count)
    ]
    hot.save_events(events[: count // 2])
    for event in events[count // 2 :]:
        hot.save_event(event)
    return events


# -- the main job ------------------------------------------------------------------------------------


def test_both_archives_hold_every_event_once_and_every_snapshot(hot: Hot, archives: list[Archive]) -> None:
    """Several runs, two lanes, snapshots of runs and lanes: all of it is in both archives, and nothing is due."""
    acknowledged = {run_id: emit(hot, run_id, 30) for run_id in ("a", "b:c", "ünï/../x")}
    acknowledged["a"] += emit(hot, "a", 25, lane_id="second")
    hot.save_snapshot("a", RunState(run_id="a", data={"x": (1, 2)}))
    hot.save_snapshot("a", RunState(run_id="a", current_step=7), lane_id="second")

    report = DrainWorker(hot, archives).drain_once()

    assert (report.runs, report.events, report.snapshots) == (3, 115, 2)
    assert (report.quarantined, report.parked) == (0, 0)
    check_archives(archives, acknowledged)
    for archive in archives:
        for lane_id in (None, "second"):
            assert archive.load_snapshot("a", lane_id=lane_id) == hot.load_snapshot("a", lane_id=lane_id)
        for run_id in acknowledged:
            assert [item.cursor for item in archive.read(run_id)] == cursors(hot, archives, run_id)
    assert due(hot) == {}
    assert DrainWorker(hot, archives).drain_once() == DrainReport()


def cursors(hot: Hot, archives: Sequence[Archive], run_id: str) -> list[str]:
    """The cursors of a run: those that have left Redis from the archive, the rest from Redis."""
    info = hot.run_info(run_id)
    assert info is not None
    moved = [item.cursor for item in archives[0].read(run_id, before=info.first_hot)]
    return moved + [item.cursor for item in hot.read(run_id, info.first_hot - 1)]


def test_many_runs_go_into_one_transaction_and_a_long_one_into_several(
    fake: RedisBackend, archives: list[Archive]
) -> None:
    """A batch is filled from as many runs as it takes, and never exceeded."""
    hot = open_hot(fake)
    acknowledged = {f"short-{n}": emit(hot, f"short-{n}", 4) for n in range(20)}
    acknowledged["long"] = emit(hot, "long", 170)
    watched = Watched(archives[0])
    report = DrainWorker(hot, [watched], batch=50).drain_once()
    check_archives(archives[:1], acknowledged)
    assert report.events == 250
    assert max(watched.sizes) == 50
    assert len(watched.sizes) <= 7  # 250 events in batches of 50, and what the claims' borders cost


def test_a_batch_of_large_events_has_few_of_them(fake: RedisBackend, archives: list[Archive]) -> None:
    """What a worker holds in memory is bounded by bytes, not only by how many events that is."""
    hot = open_hot(fake)
    events = [create_event("r", EventKind.TOOL_RESULT, seq=seq, page="x" * 2**20) for seq in range(1, 101)]
    for event in events:
        hot.save_event(event)
    watched = Watched(archives[0])
    assert DrainWorker(hot, [watched]).drain_once().events == 100
    assert watched.sizes[0] <= 64
    assert max(watched.sizes[1:]) <= 16
    check_archives(archives[:1], {"r": events})
    assert hot.list_events("r") == events
    assert [item.event for item in hot.read("r", reverse=True)] == events[::-1]


def test_events_and_snapshots_that_come_in_between_keep_the_run_due(
    fake: RedisBackend, archives: list[Archive]
) -> None:
    """What is appended while the worker writes is drained by the next drain."""
    hot = open_hot(fake)
    acknowledged = {"r": emit(hot, "r", 5)}

    def append_more() -> None:
        acknowledged["r"] += emit(hot, "r", 3, first=6)
        hot.save_snapshot("r", RunState(run_id="r"))

    worker = DrainWorker(hot, [Watched(archives[0], after_write=append_more)])
    assert worker.drain_once().events == 5
    assert list(due(hot)) == ["r"]
    report = DrainWorker(hot, [archives[0]]).drain_once()
    assert (report.events, report.snapshots) == (3, 1)
    check_archives(archives[:1], acknowledged)
    assert due(hot) == {}


# -- trimming ----------------------------------------------------------------------------------------


def hot_from(hot: Hot, run_id: str) -> int:
    info = hot.run_info(run_id)
    assert info is not None
    return info.first_hot


def test_covered_trims_what_every_snapshot_covers_and_recover_works_from_redis_alone(
    hot: Hot, archives: list[Archive]
) -> None:
    """Without a snapshot nothing is trimmed; then what the snapshots cover, and no more."""
    worker = DrainWorker(hot, archives)
    emit(hot, "r", 10)
    worker.drain_once()
    assert hot_from(hot, "r") == 1

    hot.save_snapshot("r", RunState(run_id="r", current_step=10))
    later = emit(hot, "r", 4, first=11)
    assert worker.drain_once().trimmed == 10
    assert hot_from(hot, "r") == 11
    recovery = hot.recover("r")
    assert recovery.state is not None
    assert (recovery.state.current_step, recovery.offset) == (10, 10)
    assert [item.event for item in recovery.events] == later
    with pytest.raises(EventsArchived) as moved:
        hot.list_events("r")
    assert moved.value.first_hot == 11


def test_a_lane_without_a_snapshot_holds_its_events_in_redis(hot: Hot, archives: list[Archive]) -> None:
    """A lane that could not recover without its events keeps them; one that has finished holds up nothing."""
    worker = DrainWorker(hot, archives)
    emit(hot, "r", 5, lane_id="a")
    emit(hot, "r", 5, lane_id="b")
    hot.save_snapshot("r", RunState(run_id="r"), lane_id="a")
    worker.drain_once()
    assert hot_from(hot, "r") == 6
    assert len(hot.recover("r", lane_id="b").events) == 5

    hot.save_snapshot("r", RunState(run_id="r"), lane_id="b")
    emit(hot, "r", 2, lane_id="b", first=6)
    worker.drain_once()
    assert hot_from(hot, "r") == 11
    assert hot.recover("r", lane_id="a").events == []
    assert [item.offset for item in hot.recover("r", lane_id="b").events] == [11, 12]


def test_a_lane_that_was_idle_while_others_went_on_is_recovered_from_redis(
    redis_backend: RedisBackend, archives: list[Archive]
) -> None:
    """What lies between its snapshot and its next event was others', and may have been trimmed."""
    a, b = open_hot(redis_backend), open_hot(redis_backend)
    a.append("r", emit_events("r", "a", 1), snapshot=RunState(run_id="r"), lane_id="a")
    b.append("r", emit_events("r", "b", 4), snapshot=RunState(run_id="r"), lane_id="b")
    worker = DrainWorker(b, archives)
    assert worker.drain_once().trimmed == 5
    (later,) = emit_events("r", "a", 1)
    a.save_event(later)
    b.append("r", emit_events("r", "b", 3), snapshot=RunState(run_id="r"), lane_id="b")
    worker.drain_once()
    recovery = open_hot(redis_backend).recover("r", lane_id="a")
    assert [item.event for item in recovery.events] == [later]
    assert hot_from(b, "r") == 6


def test_a_snapshot_that_needs_what_was_trimmed_is_refused_and_recovering_first_is_the_way_on(
    redis_backend: RedisBackend, archives: list[Archive]
) -> None:
    """A writer that has not recovered covers too little: nothing is written, and recover still works."""
    first, second = open_hot(redis_backend), open_hot(redis_backend)
    first.append("r", emit_events("r", "main", 5), snapshot=RunState(run_id="r", current_step=5))
    DrainWorker(first, archives).drain_once()
    second.save_event(create_event("r", EventKind.AGENT_PROGRESS))
    with pytest.raises(EventsArchived) as refused:
        second.save_snapshot("r", RunState(run_id="r", current_step=1))
    assert refused.value.first_hot == 6
    recovery = second.recover("r")
    assert recovery.state is not None
    assert (recovery.state.current_step, len(recovery.events)) == (5, 1)
    second.save_snapshot("r", recovery.state)
    assert first.recover("r").offset == 6


def emit_events(run_id: str, lane_id: str, count: int) -> list[PAEvent]:
    return [create_event(run_id, EventKind.TOOL_RESULT, lane_id=lane_id, seq=seq) for seq in range(1, count + 1)]


@pytest.mark.parametrize(("trim", "first_hot"), [("archived", 11), ("never", 1)])
def test_archived_trims_all_and_never_trims_nothing(
    hot: Hot, archives: list[Archive], trim: Any, first_hot: int
) -> None:
    """The two other habits; either way appends go on at the right offset."""
    emit(hot, "r", 10)
    DrainWorker(hot, archives, trim=trim).drain_once()
    assert hot_from(hot, "r") == first_hot
    assert hot.append("r", emit_one("r")).first_offset == 11


def emit_one(run_id: str) -> list[PAEvent]:
    return [create_event(run_id, EventKind.AGENT_PROGRESS)]


# -- a worker that is late can do no harm ------------------------------------------------------------


def proven(hot: Hot, run_id: str, cursor: Cursor, trim: str = "archived") -> drain.Proven:
    (run,) = hot.perform(drain.load(hot.context.keys, [run_id]))
    assert run is not None
    return drain.Proven(run.header, cursor, run.tokens, trim, None)


def test_settling_does_nothing_where_redis_has_another_history(hot: Hot) -> None:
    """A place whose chain Redis does not have is not settled: nothing trimmed, mark and due as before."""
    emit(hot, "r", 10)
    last = Cursor.parse([item.cursor for item in hot.read("r")][-1])
    other = Cursor(last.offset - 2, last.chain)
    (settled,) = hot.perform(drain.settle(hot.context.keys, [proven(hot, "r", other)], []))
    assert settled.outcome == "diverged"
    assert (hot_from(hot, "r"), list(due(hot))) == (1, ["r"])


def test_settling_does_not_touch_another_run_of_the_same_name(hot: Hot) -> None:
    """A worker that proved a run which was deleted and made anew since then settles nothing."""
    emit(hot, "r", 10)
    stale = proven(hot, "r", Cursor.parse([item.cursor for item in hot.read("r")][-1]))
    hot.delete_run("r")
    emit(hot, "r", 10)
    (settled,) = hot.perform(drain.settle(hot.context.keys, [stale], []))
    assert settled.outcome == "gone"
    assert (hot_from(hot, "r"), list(due(hot))) == (1, ["r"])


def test_settling_an_old_place_again_moves_nothing_back(hot: Hot, archives: list[Archive]) -> None:
    """A repeated settle of a place before the mark leaves the mark where it is."""
    emit(hot, "r", 10)
    fifth = Cursor.parse([item.cursor for item in hot.read("r")][4])
    DrainWorker(hot, archives, trim="archived").drain_once()
    emit(hot, "r", 2, first=11)
    (settled,) = hot.perform(drain.settle(hot.context.keys, [proven(hot, "r", fifth)], ids(archives)))
    assert settled.outcome == "ok"
    info = hot.run_info("r")
    assert info is not None
    assert (info.archived_offset, info.first_hot, list(due(hot))) == (10, 11, ["r"])


def ids(archives: Sequence[Archive]) -> list[str]:
    return [archive.archive_id for archive in archives]


def test_settling_without_a_required_archive_is_refused(hot: Hot, archives: list[Archive]) -> None:
    """The partition's own set decides, whatever a worker believes."""
    emit(hot, "r", 4)
    DrainWorker(hot, archives).drain_once()
    emit(hot, "r", 4, first=5)
    last = Cursor.parse([item.cursor for item in hot.read("r")][-1])
    (settled,) = hot.perform(drain.settle(hot.context.keys, [proven(hot, "r", last)], ids(archives[:1])))
    assert (settled.outcome, settled.detail) == ("archives", archives[1].location)
    assert hot_from(hot, "r") == 1


def test_a_worker_with_other_archives_is_refused(hot: Hot, archives: list[Archive], tmp_path: Path) -> None:
    """The first worker's archives are required from then on."""
    DrainWorker(hot, archives).drain_once()
    with closing(SQLiteCheckpointer(tmp_path / "another.db")) as another:
        for sinks in ([archives[0]], [another], [*archives, another]):
            with pytest.raises(ConfigurationError, match="requires the archives"):
                DrainWorker(hot, sinks).drain_once()


def test_a_dead_workers_runs_come_due_again_by_themselves(hot: Hot, archives: list[Archive]) -> None:
    """A claim that nobody settles runs out; nobody else takes the run before."""
    acknowledged = {"r": emit(hot, "r", 6)}
    assert [run.run_id for run in hot.perform(drain.claim(hot.context.keys, None, 10, 0.5))] == ["r"]
    assert DrainWorker(hot, archives).drain_once() == DrainReport()
    worker = DrainWorker(hot, archives)
    until(lambda: worker.drain_once().events == 6)
    check_archives(archives, acknowledged)


def until(condition: Callable[[], bool]) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


# -- sinks that fail or differ: those that lie are in test_drain_proof ---------------------------------


class Watched:
    """A sink that passes everything on and lets a test look, interfere or break off."""

    def __init__(
        self,
        inner: Archive,
        *,
        before_write: Callable[[], None] = lambda: None,
        after_write: Callable[[], None] = lambda: None,
    ) -> None:
        self.inner = inner
        self.sizes: list[int] = []
        self._before_write = before_write
        self._after_write = after_write

    @property
    def archive_id(self) -> str:
        return self.inner.archive_id

    @property
    def location(self) -> str:
        return self.inner.location

    def position(self, run_id: str) -> Position | None:
        return self.inner.position(run_id)

    def write(self, batches: Sequence[RunBatch]) -> None:
        self._before_write()
        self.sizes.append(sum(len(batch.entries) for batch in batches))
        self.inner.write(batches)
        self._after_write()

    def read_back(self, run_id: str, first: int, last: int) -> Iterator[ArchiveEntry]:
        return self.inner.read_back(run_id, first, last)

    def read_back_snapshots(self, run_id: str) -> Sequence[ArchiveSnapshot]:
        return self.inner.read_back_snapshots(run_id)

    def quarantine(self, run_id: str | None = None) -> Iterator[tuple[str, ArchiveEntry]]:
        return self.inner.quarantine(run_id)


def tamper(archive: Archive, statement: str) -> None:
    path = archive.location.removeprefix("sqlite:")
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement).rowcount > 0


def test_an_archive_that_would_get_a_hole_parks_the_run_and_no_other(hot: Hot, tmp_path: Path) -> None:
    """An archive that was lost after Redis was trimmed: the run is parked, the others are drained."""
    emit(hot, "r", 6)
    with closing(SQLiteCheckpointer(tmp_path / "archive.db")) as archive:
        DrainWorker(hot, [archive], trim="archived").drain_once()
        emit(hot, "r", 2, first=7)
        other = {"other": emit(hot, "other", 3)}
        tamper(archive, "DELETE FROM events")
        tamper(archive, "DELETE FROM runs")
        report = DrainWorker(hot, [archive]).drain_once()
        assert (report.parked, report.runs) == (1, 1)
        assert "neither in Redis nor in every archive" in parked(hot)["r"]
        assert hot_from(hot, "r") == 7
        check_archives([archive], other)


def test_a_run_that_was_made_anew_in_redis_is_parked_and_both_histories_are_kept(
    hot: Hot, archives: list[Archive]
) -> None:
    """The archive has another history of that name: HistoryDiverged, nothing written, nothing trimmed."""
    first = {"r": emit(hot, "r", 6)}
    DrainWorker(hot, archives, trim="archived").drain_once()
    hot.delete_run("r")
    emit(hot, "r", 9)
    report = DrainWorker(hot, archives, trim="archived").drain_once()
    assert report.parked == 1
    assert "differ" in parked(hot)["r"]
    check_archives(archives, first)
    assert hot_from(hot, "r") == 1


def test_a_parked_run_comes_due_again_and_is_no_longer_parked_once_it_settles(
    fake: RedisBackend, tmp_path: Path
) -> None:
    """When the cause has gone, the run goes on by itself."""
    hot = open_hot(fake)
    acknowledged = {"r": emit(hot, "r", 6)}
    with closing(SQLiteCheckpointer(tmp_path / "archive.db")) as archive:
        lying = Watched(archive, after_write=lambda: tamper(archive, "UPDATE events SET chain = chain + 1"))
        DrainWorker(hot, [lying], park_seconds=0.1).drain_once()
        assert parked(hot).keys() == {"r"}
        tamper(archive, "UPDATE events SET chain = chain - 1")
        until(lambda: DrainWorker(hot, [archive]).drain_once().runs == 1)
        assert parked(hot) == {}
        check_archives([archive], acknowledged)


def test_a_sink_that_fails_keeps_everything_in_redis_until_it_works_again(
    hot: Hot, archives: list[Archive]
) -> None:
    """An outage is an error of drain_once and costs nothing: the claims are given up at once."""
    acknowledged = {"r": emit(hot, "r", 6)}

    def fail() -> None:
        raise StoreUnavailable("the disk is full")

    with pytest.raises(StoreUnavailable):
        DrainWorker(hot, [archives[0], Watched(archives[1], before_write=fail)], trim="archived").drain_once()
    assert hot_from(hot, "r") == 1
    assert DrainWorker(hot, archives, trim="archived").drain_once().events == 6
    check_archives(archives, acknowledged)


def test_a_running_worker_waits_an_outage_out(fake: RedisBackend, archives: list[Archive]) -> None:
    """run() goes on by itself when the archive is back, and stops when it is told to."""
    hot = open_hot(fake)
    acknowledged = {"r": emit(hot, "r", 6)}
    outage = iter([True, True, True])

    def fail() -> None:
        if next(outage, False):
            raise StoreUnavailable("the archive is gone")

    worker = DrainWorker(hot, [Watched(archives[0], before_write=fail), archives[1]], poll_seconds=0.01)
    stop = threading.Event()
    reports: list[DrainReport] = []
    thread = threading.Thread(target=lambda: reports.append(worker.run(stop)))
    thread.start()
    until(lambda: due(hot) == {})
    stop.set()
    thread.join(DEADLINE_SECONDS)
    assert reports == [DrainReport(runs=1, events=6)]
    check_archives(archives, acknowledged)


# -- poison ------------------------------------------------------------------------------------------


def test_a_poisoned_record_is_kept_aside_and_holds_up_nothing(hot: Hot, archives: list[Archive]) -> None:
    """It goes to the quarantine as raw bytes, keeps its offset and is counted; its neighbours are archived."""
    before = emit(hot, "r", 4)
    damaged: list[bytes] = []

    def flip(record: bytes) -> bytes:
        damaged.append(record[:-1] + bytes((record[-1] ^ 1,)))
        return damaged[0]

    put_raw(hot, "r", flip)
    after = emit(hot, "r", 4, first=6)
    report = DrainWorker(hot, archives, trim="archived").drain_once()
    assert (report.events, report.quarantined, report.parked) == (8, 1, 0)
    assert hot_from(hot, "r") == 10
    for archive in archives:
        kept = list(archive.read("r", on_corrupt="skip"))
        assert [item.event for item in kept] == before + after
        assert [item.offset for item in kept] == [1, 2, 3, 4, 6, 7, 8, 9]
        ((run_id, entry),) = archive.quarantine()
        assert (run_id, entry.offset, entry.raw) == ("r", 5, damaged[0])
        assert "checksum" in entry.reason


def test_a_record_of_a_newer_version_parks_its_run_and_is_never_trimmed(hot: Hot, archives: list[Archive]) -> None:
    """What comes before it is archived; it and what follows stay in Redis."""
    emit(hot, "r", 4)
    values: list[Any] = ["", "main", "s", None, 5, 1.0, "agent.progress", "public", {}]
    body = encode_record(hot.context.codec.packer, seed("r", 2), values)[1:]
    put_raw(hot, "r", lambda _: b"\x02" + body)
    emit(hot, "r", 2, first=6)
    report = DrainWorker(hot, archives, trim="archived").drain_once()
    assert (report.events, report.quarantined, report.parked) == (4, 0, 1)
    assert "upgrade" in parked(hot)["r"]
    assert hot_from(hot, "r") == 5


def test_a_snapshot_that_does_not_read_covers_nothing_and_holds_up_no_event(
    redis_backend: RedisBackend, archives: list[Archive]
) -> None:
    """The events are archived and stay in Redis, since no snapshot is there to recover from."""
    hot = open_hot(redis_backend)
    acknowledged = {"r": emit(hot, "r", 4)}
    hot.save_snapshot("r", RunState(run_id="r", purpose="p"))
    redis_backend.raw.hset(hot.context.keys.run("r").snapshot(None), "=purpose", b"\x92\x03\xa1q")
    report = DrainWorker(hot, archives).drain_once()
    assert (report.events, report.snapshots, report.trimmed, report.parked) == (4, 0, 0, 0)
    check_archives(archives, acknowledged)
    assert due(hot) == {}


# -- crashes at every point --------------------------------------------------------------------------


class Killed(BaseException):
    """The process died here. A BaseException: no handler of ours may swallow it."""


class Mortal:
    """Counts the steps of a worker, and dies at one of them, before or after it is done."""

    def __init__(self, die_at: int | None) -> None:
        self.steps = 0
        self.die_at = die_at

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.die_at:
            raise Killed


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


def make_mortal(hot: Hot, mortal: Mortal) -> None:
    """Every exchange with Redis is two points: before it is sent and after its replies have come."""
    driver: Any = hot._driver  # where every exchange goes through
    exchange = driver.exchange

    def dying_exchange(one: Exchange) -> Replies:
        if mortal.die_at is not None and mortal.steps >= mortal.die_at:
            raise Killed  # the dead do not give up their claims
        mortal.step()
        replies: Replies = exchange(one)
        mortal.step()
        return replies

    driver.exchange = dying_exchange


@pytest.mark.parametrize("order", ["sqlite first", "jsonl first"])
def test_a_worker_that_dies_at_any_point_loses_nothing_and_archives_nothing_twice(
    make_backend: Callable[[str], Backend], tmp_path: Path, order: str
) -> None:
    """Every exchange and every call of a sink, before and after; then another worker finishes."""
    points = 0
    died = True
    while died:
        points += 1
        backend = make_backend("fake")
        assert isinstance(backend, RedisBackend)
        directory = tmp_path / str(points)
        directory.mkdir()
        died = die_at(points, backend, directory, sqlite_first=order == "sqlite first")
    print(f"{points - 1} points, {order}")
    assert points > 30


def die_at(point: int, backend: RedisBackend, directory: Path, *, sqlite_first: bool) -> bool:
    """One worker that dies at this point, another that finishes, and the checker. False if it never died."""
    hot = open_hot(backend)
    acknowledged = {"a": emit(hot, "a", 7), "b": emit(hot, "b", 3)}
    hot.save_snapshot("a", RunState(run_id="a", current_step=7))
    acknowledged["a"] += emit(hot, "a", 2, first=8)
    archives = open_archives(directory)
    if not sqlite_first:
        archives.reverse()
    mortal = Mortal(point)
    victim = open_hot(backend)
    make_mortal(victim, mortal)
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


@pytest.mark.parametrize("step", ["position", "load", "load_entries"])
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
        original = getattr(drain, step)

        def slowly(*args: Any) -> Any:
            if not taken_on:
                take_on()
            return original(*args)

        monkeypatch.setattr(drain, step, slowly)
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
    original = drain.load_entries
    acknowledged: dict[str, list[PAEvent]] = {}

    def load_another(*args: Any) -> Any:
        if not acknowledged:
            hot.delete_run("r")
            acknowledged["r"] = emit(hot, "r", 5)
            hot.save_snapshot("r", RunState(run_id="r", current_step=2))
        return original(*args)

    monkeypatch.setattr(drain, "load_entries", load_another)
    assert DrainWorker(hot, archives).drain_once() == DrainReport()
    assert [archive.position("r") for archive in archives] == [None, None]
    assert DrainWorker(hot, archives).drain_once().runs == 1
    check_archives(archives, acknowledged)
    assert parked(hot) == {}


def test_what_does_not_follow_from_where_the_archives_stand_is_not_written(hot: Hot) -> None:
    """A failover between looking and loading has put other events after another one at that place."""
    emit(hot, "r", 4)
    (run,) = hot.perform(drain.load(hot.context.keys, ["r"]))
    assert run is not None
    second = Cursor.parse([item.cursor for item in hot.read("r")][1])
    for at, follows in ((second, True), (Cursor(2, second.chain + 1), False)):
        work = RunWork(drain.DueRun("r", 0), run, [], at, [])
        want = work.want(10)
        (loaded,) = hot.perform(drain.load_entries(hot.context.keys, [want]))
        if follows:
            assert len(Piece.make(work, want, loaded).entries) == 2
        else:
            with pytest.raises(HistoryDiverged):
                Piece.make(work, want, loaded)


# -- many at once ------------------------------------------------------------------------------------


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


def test_both_archives_are_sinks(archives: list[Archive]) -> None:
    """The Protocol is what the stores have."""
    assert all(isinstance(archive, Sink) for archive in archives)


def test_an_archive_ahead_of_redis_is_seen_before_anything_is_written(hot: Hot) -> None:
    """Redis came back from a failover behind the archive: that is a divergence, not a shorter run."""
    emit(hot, "r", 3)
    (run,) = hot.perform(drain.load(hot.context.keys, ["r"]))
    assert run is not None
    with pytest.raises(HistoryDiverged) as ahead:
        RunWork.begin(drain.DueRun("r", 0), run, [("sqlite:a.db", Position(Cursor(5, 1)))])
    assert ahead.value.offset == 5
    assert "sqlite:a.db" in str(ahead.value)


def test_a_key_is_known_after_its_event_has_been_archived_and_trimmed(hot: Hot, archives: list[Archive]) -> None:
    """An agent that repeats a step long after is told where it was recorded first; the archive has the key too."""
    first = hot.append("r", emit_one("r"), keys=["book-hotel"])
    DrainWorker(hot, archives, trim="archived").drain_once()
    assert hot.append("r", emit_one("r"), keys=["book-hotel"]) == first
    for archive in archives:
        assert [entry.key for entry in archive.read_back("r", 1, 1)] == ["book-hotel"]
        assert archive.append("r", emit_one("r"), keys=["book-hotel"]).first_offset == 1


def test_a_limit_holds_for_a_cursor_whose_entry_has_been_trimmed(hot: Hot, archives: list[Archive]) -> None:
    emit(hot, "r", 5)
    fifth = list(hot.read("r"))[-1].cursor
    DrainWorker(hot, archives, trim="archived").drain_once()
    emit(hot, "r", 4, first=6)
    assert [item.offset for item in hot.read("r", fifth, limit=2)] == [6, 7]
