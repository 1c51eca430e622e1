"""Retirement: what leaves Redis was proven, and what is not fit for it stays."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    ConfigurationError,
    DrainReport,
    DrainWorker,
    JSONLCheckpointer,
    RunStatus,
    SQLiteCheckpointer,
)
from runstream.model.errors import StoreUnavailable
from runstream.model.results import Cursor
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.worker import drain
from runstream.stores.redis.operations.worker.retire import RetireCandidate
from runstream.stores.redis.scripts.calls import MICROSECONDS, PRODUCER_WINDOW_SECONDS
from tests.drain.retire.retiring_tools import (
    Hot,
    appended_since,
    ended,
    fit_of,
    lane_saved_since,
    members,
    open_hot,
    retire_all,
    retire_now,
    retiring_of,
    unended,
)
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import FakeBackend, RedisBackend
from tests.support.checksums import forget_checksums
from tests.support.drain_tools import Hooked, ask, locations
from tests.support.kinds import on_every_server
from tests.support.line import Line
from tests.support.samples import make_events, make_state
from tests.support.servers import eventually


def tamper(archive: Archive, statement: str, at_least: int = 1) -> None:
    with closing(sqlite3.connect(archive.location.removeprefix("sqlite:"))) as connection, connection:
        assert connection.execute(statement).rowcount >= at_least


# -- the tombstone -----------------------------------------------------------------------------------------


@on_every_server
def test_a_run_that_has_ended_leaves_only_a_tombstone(
    redis_backend: RedisBackend, hot: Hot, raw: Any, archives: list[Archive]
) -> None:
    """No events, no snapshots, no lanes; it is listed as before, and the archives have all of it."""
    events = ended("r", session_id="s")
    appended = hot.append("r", events, snapshot=make_state("r", status="completed", session_id="s"))
    hot.append("r", [], snapshot=make_state("r"), lane_id="main")
    before = hot.run_info("r")
    keys = namespace_of(hot).keys.run("r")
    start, producers = raw.hget(keys.meta, "start"), raw.hgetall(keys.producers)

    report = retire_all(hot, archives)

    assert (report.retired, report.forgotten, report.parked, report.trimmed) == (1, 0, 0, 4)
    meta = raw.hgetall(keys.meta)
    of_lane = {b"gone:main", b"unlisted"}
    assert set(meta) == {b"start", b"last", b"status", b"session", b"created", b"updated", b"retired", *of_lane}
    assert (meta[b"start"], meta[b"last"], meta[b"retired"]) == (start, appended.cursor.encode(), b"1 1")
    assert not raw.exists(keys.events, keys.snapshot(None), keys.snapshot("main"))
    assert raw.hgetall(keys.producers) == producers
    left = raw.zscore(keys.partition.leftovers, "r") - raw.time()[0] * MICROSECONDS
    assert 0 < left <= (PRODUCER_WINDOW_SECONDS + 1) * MICROSECONDS
    partition = keys.partition
    assert members(raw, partition.retired) == members(raw, partition.runs) == ["r"]
    assert not raw.exists(partition.due, partition.retire)
    assert before is not None
    for listed in (hot.run_info("r"), *hot.runs(), *hot.runs(session_id="s", status="completed")):
        assert listed is not None
        assert (listed.last_offset, listed.archived_offset, listed.first_hot) == (4, 4, 5)
        assert (listed.created_at, listed.updated_at, listed.session_id) == (
            before.created_at,
            before.updated_at,
            "s",
        )
    assert hot.list_runs() == ["r"]
    check_archives(archives, {"r": events})
    assert retire_all(hot, archives) == DrainReport()


def saved_since(hot: Hot, raw: Any) -> None:
    hot.save_snapshot("r", make_state("r", status="completed"))


def parked(hot: Hot, raw: Any) -> None:
    (run,) = namespace_of(hot).load_runs(["r"])
    assert run is not None
    namespace_of(hot).park(run.header, "why", 60)


def marked_less(hot: Hot, raw: Any) -> None:
    """As after a failover that lost the settling but not what is due."""
    raw.hset(namespace_of(hot).keys.run("r").meta, "mark", raw.hget(namespace_of(hot).keys.run("r").meta, "start"))


def not_ended(hot: Hot, raw: Any) -> None:
    raw.hset(namespace_of(hot).keys.run("r").meta, "status", "paused")


@pytest.mark.parametrize(
    "change", [unended, appended_since, saved_since, lane_saved_since, parked, marked_less, not_ended]
)
def test_a_run_that_is_not_fit_any_more_stays(
    redis_backend: RedisBackend, hot: Hot, raw: Any, archives: list[Archive], change: Callable[[Hot, Any], None]
) -> None:
    """The script decides by what is there now, whatever the worker saw: all stays, but its place in `retire`."""
    hot.append("r", ended("r"))
    DrainWorker(hot, archives, trim="never").drain_once()
    keys = namespace_of(hot).keys.run("r")
    assert members(raw, keys.partition.retire) == ["r"]
    (run,) = namespace_of(hot).load_runs(["r"])
    assert run is not None
    change(hot, raw)
    before = redis_backend.footprint()
    for fit in (
        RetireCandidate("r", run.header, run.head.tokens),
        RetireCandidate("r", run.header, {None: "other"}),
    ):
        (outcome,) = retire_now(hot, archives, fit)
        assert outcome.name == "unfit"
    assert before.pop(keys.partition.retire)
    assert redis_backend.footprint() == before


def test_a_run_is_retired_only_after_it_was_quiet_and_while_nobody_has_a_lease_on_it(
    hot: Hot, raw: Any, archives: list[Archive]
) -> None:
    """It is looked at again when it will have been: nobody has to settle it for that."""
    hot.append("r", ended("r"))
    DrainWorker(hot, archives).drain_once()
    partition = namespace_of(hot).keys.run("r").partition
    raw.zadd(partition.retire, {"r": 5})
    assert retire_now(hot, archives, fit_of(hot), quiet=60)[0].name == "later"
    updated = raw.zscore(partition.retire, "r")
    assert updated == int(raw.hget(namespace_of(hot).keys.run("r").meta, "updated"))
    with hot.lease("r", owner="us", lane_id="main", ttl=30) as lease:
        assert retire_all(hot, archives).retired == 0
        assert raw.zscore(partition.retire, "r") > updated + 20_000_000
        lease.check()
    raw.zadd(partition.retire, {"r": 5})
    assert retire_all(hot, archives).retired == 1


def test_a_worker_looks_only_at_what_was_quiet(hot: Hot, archives: list[Archive]) -> None:
    hot.append("r", ended("r"))
    assert retire_all(hot, archives, retire_after_seconds=60).retired == 0
    worker = DrainWorker(hot, archives, retire_after_seconds=0.1)
    eventually(lambda: worker.drain_once().retired)


def test_a_run_that_another_archive_is_to_have_by_now_is_not_retired(
    hot: Hot, raw: Any, archives: list[Archive]
) -> None:
    """The partition's own set decides; and an archive that does not have the run is to get it first."""
    events = ended("r")
    hot.append("r", events)
    DrainWorker(hot, archives[:1]).drain_once()
    partition = namespace_of(hot).keys.run("r").partition
    raw.hset(partition.archives, archives[1].archive_id, archives[1].location)
    with pytest.raises(ConfigurationError, match="must also be archived in jsonl"):
        retiring_of(hot, archives[:1]).all_due()
    assert retiring_of(hot, archives).all_due() == DrainReport(parked=1)
    assert b"has it up to" in raw.hget(partition.parked, "r")
    assert hot.list_events("r") == events
    raw.zadd(partition.due, {"r": 5})  # its time has come
    for other in namespace_of(hot).keys.partitions:
        raw.hset(other.archives, mapping={archive.archive_id: archive.location for archive in archives})
    assert retire_all(hot, archives).retired == 1
    check_archives(archives, {"r": events})


@pytest.mark.parametrize("lost", ["events", "snapshots"])
def test_what_an_archive_has_lost_since_is_not_removed_from_redis(
    fake: FakeBackend, tmp_path: Path, lost: str
) -> None:
    """A file that was put back from a copy: the run is parked, says which archive lacks what, and stays."""
    hot = open_hot(fake)
    hot.append("r", ended("r"), snapshot=make_state("r", status="completed"))
    hot.append("other", ended("other"))
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "archive.db")) as archive:
        DrainWorker(hot, [archive], trim="never").drain_once()
        tamper(archive, f"DELETE FROM {lost} WHERE run_id = 'r' AND offset = 4")
        if lost == "events":
            tamper(archive, "UPDATE runs SET last_offset = 3 WHERE run_id = 'r'", at_least=0)
        forget_checksums(tmp_path / "archive.db")  # the file of some time ago, and no damaged one
        assert retiring_of(hot, [archive]).all_due() == DrainReport(parked=1, retired=1, trimmed=4)
        reason = fake.raw.hget(namespace_of(hot).keys.run("r").partition.parked, "r").decode()
        assert "nothing was removed" in reason
        assert len(hot.list_events("r")) == 4
        assert hot.load_latest("r") is not None


def test_a_run_whose_snapshots_are_not_those_that_were_compared_stays(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    """Whatever the worker asked the archives for, it was not these."""
    hot.append("r", ended("r"), snapshot=make_state("r", status="completed"))
    hot.append("r", [], snapshot=make_state("r"), lane_id="main")
    DrainWorker(hot, archives).drain_once()
    fit, before = fit_of(hot), redis_backend.footprint()
    of_run: dict[str | None, str] = {None: fit.tokens[None]}
    for tokens in ({}, of_run, {**of_run, "main": "another"}):
        (outcome,) = retire_now(hot, archives, fit._replace(tokens=tokens))
        assert outcome.name == "changed"
    assert redis_backend.footprint() == before
    assert retire_now(hot, archives, fit)[0].name == "ok"


@pytest.mark.parametrize("count", [0, 4])
def test_a_tombstone_is_not_retired_again(
    redis_backend: RedisBackend, hot: Hot, raw: Any, archives: list[Archive], count: int
) -> None:
    """Or it would never be forgotten. A worker whose reply was lost sends it twice."""
    hot.append("r", ended("r")[:count], snapshot=make_state("r", status="completed"))
    DrainWorker(hot, archives).drain_once()
    fit = fit_of(hot)
    assert retire_now(hot, archives, fit)[0].name == "ok"
    before = redis_backend.footprint()
    for again in (fit, fit_of(hot)):
        raw.zadd(namespace_of(hot).keys.run("r").partition.retire, {"r": 5})
        assert retire_now(hot, archives, again)[0].name == "unfit"
        assert redis_backend.footprint() == before


def test_an_archive_that_fails_for_one_run_holds_up_no_other(hot: Hot, tmp_path: Path) -> None:
    """Its files cannot be read: the others are retired, and no outage of the archive begins."""
    with JSONLCheckpointer(tmp_path / "archive") as archive:
        for run_id in ("a", "r", "z"):
            hot.append(run_id, ended(run_id))
        DrainWorker(hot, [archive]).drain_once()
    log = tmp_path / "archive" / "r" / "events.jsonl"
    log.unlink()
    log.mkdir()
    with JSONLCheckpointer(tmp_path / "archive") as archive:
        worker = DrainWorker(hot, [archive], retire_after_seconds=0)
        report = worker.drain_once()
        assert (report.retired, report.parked) == (2, 1)
        assert worker.progress.failing == {}


def test_a_failure_of_an_archive_that_has_passed_parks_nothing(hot: Hot, archives: list[Archive]) -> None:
    hot.append("r", ended("r"))
    DrainWorker(hot, archives).drain_once()
    calls: list[str] = []

    def fail_once(run_id: str) -> None:
        calls.append(run_id)
        if run_id == "r" and calls.count("r") == 1:
            raise StoreUnavailable("the disk was full")

    hooked: Any = Hooked(archives[0], position=fail_once)
    report = DrainWorker(hot, [hooked, archives[1]], retire_after_seconds=0).drain_once()
    assert (report.retired, report.parked) == (1, 0)
    assert calls.count("r") == 2


def test_what_another_worker_archives_while_an_archive_is_looked_at_is_not_taken_for_lost(
    hot: Hot, archives: list[Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    hot.append("r", ended("r"))
    DrainWorker(hot, archives).drain_once()
    hot.append("r", [], snapshot=make_state("r", status=RunStatus.COMPLETED))
    position = archives[0].position

    def looked_at(*args: Any, **options: Any) -> Any:
        found = position(*args, **options)
        monkeypatch.undo()
        DrainWorker(hot, archives).drain_once()
        return found

    monkeypatch.setattr(archives[0], "position", looked_at)
    report = retiring_of(hot, archives).all_due()
    assert (report.parked, report.retired) == (0, 1)


def test_a_worker_retires_and_forgets_in_its_own_partitions_only(
    redis_backend: RedisBackend, archives: list[Archive]
) -> None:
    """Those of others may require other archives: it would park what is sound, and end."""
    hot = open_hot(redis_backend, partitions=2)
    workers = [DrainWorker(hot, [archives[n]], partitions=[n], retire_after_seconds=0) for n in (0, 1)]
    for n in range(20):
        hot.append(f"r{n}", ended(f"r{n}", 2))
    for n in (0, 1):
        DrainWorker(hot, [archives[n]], partitions=[n]).drain_once()
    reports = [worker.drain_once() for worker in workers]
    assert [report.parked for report in reports] == [0, 0]
    assert [report.retired for report in reports] == [len(archive.list_runs()) for archive in archives]
    assert min(report.retired for report in reports) > 0
    forgetful = DrainWorker(hot, archives[:1], partitions=[0], retire_after_seconds=0, forget_after_seconds=0)
    assert forgetful.drain_once().forgotten == reports[0].retired


def test_retiring_ends_when_the_worker_is_told_to_end(
    redis_backend: RedisBackend, archives: list[Archive]
) -> None:
    """However many runs there are to retire."""
    hot, count = open_hot(redis_backend, partitions=1), 40
    for n in range(count):
        hot.append(f"r{n}", ended(f"r{n}", 2))
    DrainWorker(hot, archives).drain_once()
    stop = threading.Event()
    told = Hooked(archives[0], position=lambda _: stop.set())
    first = DrainWorker(hot, [told, archives[1]], retire_after_seconds=0).drain_once(stop)
    assert 0 < first.retired < count
    assert retire_all(hot, archives).retired == count - first.retired


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"retire_after_seconds": -1}, "retire_after_seconds=-1"),
        ({"retire_after_seconds": float("nan")}, "retire_after_seconds=nan"),
        ({"retire_after_seconds": 1, "forget_after_seconds": -0.5}, "forget_after_seconds=-0.5"),
        ({"forget_after_seconds": 60}, "without retire_after_seconds"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    fake: FakeBackend, archives: list[Archive], options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text):
        DrainWorker(open_hot(fake), archives, **options)


# -- workers -----------------------------------------------------------------------------------------------


def test_a_worker_without_the_option_retires_nothing_and_keeps_the_list(
    hot: Hot, raw: Any, archives: list[Archive]
) -> None:
    hot.append("r", ended("r"))
    hot.append("open", make_events("open", 3))
    DrainWorker(hot, archives).drain_once()
    partitions = {namespace_of(hot).keys.run(run_id).partition for run_id in ("r", "open")}
    assert [name for partition in partitions for name in members(raw, partition.retire)] == ["r"]
    assert len(hot.list_events("r")) == 4
    assert retire_all(hot, archives) == DrainReport(retired=1, trimmed=4)


def test_a_running_worker_retires_too(redis_backend: RedisBackend, hot: Hot, archives: list[Archive]) -> None:
    hot.append("r", ended("r"))
    stop = threading.Event()
    worker = DrainWorker(
        open_hot(redis_backend), archives, poll_seconds=0.01, retire_after_seconds=0, forget_after_seconds=0
    )
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(worker.run, stop)
        try:
            eventually(lambda: running.done() or hot.run_info("r") is None)
        finally:
            stop.set()
    assert (running.result().retired, running.result().forgotten) == (1, 1)


@on_every_server
def test_what_a_failover_forgot_is_required_again_before_a_run_is_retired(
    hot: Hot, archives: list[Archive]
) -> None:
    """Its worker does not learn that the new primary requires no archive."""
    worker = DrainWorker(hot, archives, trim="never", retire_after_seconds=0)
    hot.append("r", ended("r"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker._retirement, "all_due", lambda _: DrainReport())
        worker.drain_once()
    ask(hot, "DEL", namespace_of(hot).keys.run("r").partition.archives)
    assert worker.drain_once().retired == 1
    assert namespace_of(hot).archives_of_run("r") == locations(archives)


def test_a_worker_that_is_late_finds_a_tombstone_and_leaves_it(
    redis_backend: RedisBackend, hot: Hot, raw: Any, archives: list[Archive]
) -> None:
    """Its claim ran out; another has archived and retired the run, before and after it was loaded."""
    hot.append("r", ended("r"))
    due = namespace_of(hot).claim(None, 10, 0)
    (run,) = namespace_of(hot).load_runs(["r"])
    assert run is not None
    assert retire_all(hot, archives).retired == 1
    meta = namespace_of(hot).keys.run("r").meta
    tombstone = raw.hgetall(meta)
    raw.zadd(namespace_of(hot).keys.run("r").partition.due, {"r": 5})
    for cursor in (run.header.start, run.head.last):
        proven = drain.Proven(run.header, cursor, run.head.tokens, "archived", None)
        (settled,) = namespace_of(hot).settle([proven], locations(archives))
        assert settled.outcome == "ok"
    beyond = drain.Proven(run.header, Cursor(5, 1), run.head.tokens, "archived", None)
    assert namespace_of(hot).settle([beyond], locations(archives))[0].outcome == "diverged"
    raw.zadd(namespace_of(hot).keys.run("r").partition.due, {"r": 5})
    assert DrainWorker(hot, archives).drain_once().parked == 0
    assert due
    assert raw.hgetall(meta) == tombstone
    partition = namespace_of(hot).keys.run("r").partition
    assert not raw.exists(partition.due, partition.retire, partition.parked)


def test_an_idle_namespace_costs_a_worker_the_same_however_many_runs_it_has(
    fake: FakeBackend, archives: list[Archive]
) -> None:
    """Work is proportional to what is due for retiring."""
    hot = open_hot(fake)
    worker = DrainWorker(hot, archives, retire_after_seconds=0)
    line = Line(hot)
    costs = []
    for runs in (0, 30):
        for number in range(runs):
            hot.append(f"r{number}", ended(f"r{number}"))
        worker.drain_once()
        line.cut()
        assert worker.drain_once() == DrainReport()
        costs.append(line.sent)
    assert costs[0] == costs[1]
