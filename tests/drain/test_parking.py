"""P8 and P12: what is parked, what is kept aside, and that neither holds up anything else."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    DrainReport,
    DrainWorker,
    HistoryDiverged,
    RunState,
    SQLiteCheckpointer,
    StoreUnavailable,
)
from runstream.codec.record import encode_record, seed
from runstream.drain.claimed_run import ClaimedRun
from runstream.model.archive_records import Position
from runstream.model.results import Cursor
from runstream.stores.redis.namespace import Namespace, namespace_of
from tests.drain.watched_sink import Watched, emit, hot_from, until
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import RedisBackend
from tests.support.drain_tools import Hooked, Hot, Outage, due, open_hot, parked, put_raw
from tests.support.failover import Failover
from tests.support.kinds import on_every_server
from tests.support.operations import session_of
from tests.support.samples import make_events
from tests.support.servers import DEADLINE_SECONDS, eventually


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


@pytest.mark.parametrize("since", [0, 2, 4, 6])
def test_a_run_whose_end_a_failover_loses_under_a_worker_is_not_parked(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive], monkeypatch: pytest.MonkeyPatch, since: int
) -> None:
    """What it has claimed is not there any more, and nothing is missing from the archives.

    As much, or more, may be there again by the time when it looks.
    """
    failover, kept = Failover(redis_backend), {"r": emit(hot, "r", 6)}
    worker = DrainWorker(hot, archives, trim="archived", claim_seconds=0.05)
    worker.drain_once()
    failover.keep()
    emit(hot, "r", 4, first=7)
    load = Namespace.load_entries

    def load_late(*args: Any) -> Any:
        monkeypatch.undo()
        failover.promote()
        loaded = load(*args)
        if since:
            kept["r"] += emit(open_hot(redis_backend), "r", since, first=7)
        return loaded

    monkeypatch.setattr(Namespace, "load_entries", load_late)
    assert worker.drain_once().parked == 0
    again = open_hot(redis_backend)
    assert not parked(again)
    DrainWorker(again, archives).drain_runs(["r"])
    check_archives(archives, kept)


def test_a_run_is_not_parked_for_what_a_worker_had_loaded_of_it_before_a_failover(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    """Another one has written to the first archive what is there since, and nothing was settled yet."""
    failover, kept = Failover(redis_backend), {"r": emit(hot, "r", 6)}
    DrainWorker(hot, archives).drain_once()
    failover.keep()
    emit(hot, "r", 4, first=7)

    def overtake(*_: Any) -> None:
        if not failing.calls:
            failover.promote()
            kept["r"] += emit(open_hot(redis_backend), "r", 5, first=7)
            one_fails: Any = [archives[0], Hooked(archives[1], write=failing)]
            with pytest.raises(StoreUnavailable):
                DrainWorker(open_hot(redis_backend), one_fails).drain_runs(["r"])

    failing = Outage(StoreUnavailable("the disk is full"))
    slow: Any = [Hooked(archives[0], write=overtake), archives[1]]
    assert DrainWorker(hot, slow).drain_runs(["r"]).parked == 0
    again = open_hot(redis_backend)
    assert not parked(again)
    DrainWorker(again, archives).drain_runs(["r"])
    check_archives(archives, kept)


def test_a_run_that_is_made_anew_and_archived_while_a_worker_loads_it_is_not_parked(
    hot: Hot, archives: list[Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was told by the archives is of the run of that name that was deleted."""
    emit(hot, "r", 6)
    DrainWorker(hot, archives).drain_once()
    emit(hot, "r", 1, first=7)
    anew = {"r": make_events("r", 2)}
    load = Namespace.load_due

    def load_late(*args: Any) -> Any:
        monkeypatch.undo()
        for store in (hot, *archives):
            store.delete_run("r")
        hot.append("r", anew["r"])
        DrainWorker(hot, archives).drain_runs(["r"])
        return load(*args)

    monkeypatch.setattr(Namespace, "load_due", load_late)
    assert DrainWorker(hot, archives).drain_once().parked == 0
    assert not parked(hot)
    check_archives(archives, anew)


def test_a_run_that_is_truncated_while_a_worker_erases_of_another_is_not_parked(
    hot: Hot, archives: list[Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it was to be erased when the worker looked. Archives lack what is gone, and get it no more."""
    emit(hot, "r", 2)
    DrainWorker(hot, archives).drain_once()
    left = emit(hot, "r", 4, first=3)[2:]
    emit(hot, "other", 1)
    hot.erase("other", [1])
    rebuild = Namespace.rebuild

    def rebuild_late(*args: Any) -> Any:
        monkeypatch.undo()
        hot.truncate("r", before=5)
        return rebuild(*args)

    monkeypatch.setattr(Namespace, "rebuild", rebuild_late)
    worker = DrainWorker(hot, archives, claim_seconds=0.05)
    assert worker.drain_once().parked == 0
    eventually(lambda: worker.drain_once().runs or not due(hot))
    assert not parked(hot)
    assert [list(archive.list_events("r")) for archive in archives] == [left, left]


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


@on_every_server
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


@on_every_server
def test_a_record_of_a_newer_version_parks_its_run_and_is_never_trimmed(hot: Hot, archives: list[Archive]) -> None:
    """What comes before it is archived; it and what follows stay in Redis."""
    emit(hot, "r", 4)
    values: list[Any] = ["", "main", "s", None, 5, 1.0, "agent.progress", "public", {}]
    body = encode_record(session_of(hot).codec.packer, seed("r", 2), values)[1:]
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
    redis_backend.raw.hset(namespace_of(hot).keys.run("r").snapshot(None), "=purpose", b"\x92\x03\xa1q")
    report = DrainWorker(hot, archives).drain_once()
    assert (report.events, report.snapshots, report.trimmed, report.parked) == (4, 0, 0, 0)
    check_archives(archives, acknowledged)
    assert due(hot) == {}


def test_an_archive_ahead_of_redis_is_seen_before_anything_is_written(hot: Hot) -> None:
    """Redis came back from a failover behind the archive: that is a divergence, not a shorter run."""
    emit(hot, "r", 3)
    (run,) = namespace_of(hot).load_runs(["r"])
    assert run is not None
    with pytest.raises(HistoryDiverged) as ahead:
        ClaimedRun.begin(run, [("sqlite:a.db", Position(Cursor(5, 1)))])
    assert ahead.value.offset == 5
    assert "sqlite:a.db" in str(ahead.value)
