"""What a worker that is left alone for a year meets: archives and servers that fail, and runs that always do."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import pytest

from runstream import (
    ConfigurationError,
    CorruptRecordError,
    DrainReport,
    DrainWorker,
    StoreUnavailable,
    UnsupportedVersion,
)
from runstream.drain import heartbeat
from runstream.drain.outages import Outages
from runstream.drain.stats import DrainStats
from runstream.model.archive_records import RunBatch
from runstream.stores.redis.namespace import namespace_of
from runstream.testing import FaultProxy
from tests.drain.workers.worker_tools import reported, status_of
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import RedisBackend, ServerBackend
from tests.support.drain_tools import (
    Hooked,
    Hot,
    Outage,
    due,
    emit,
    first_hot,
    open_hot,
    running,
    server_seconds,
)
from tests.support.servers import DEADLINE_SECONDS, eventually, needs_valkey


def of_level(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == level and record.name == "runstream.drain"
    ]


# -- outages -----------------------------------------------------------------------------------------


@pytest.mark.one_in(4)
@pytest.mark.parametrize("broken", [0, 1])
@pytest.mark.parametrize("step", ["position", "write", "read_back"])
def test_an_archive_that_fails_is_one_episode_and_nothing_leaves_redis(
    fake: RedisBackend,
    archives: list[Archive],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    broken: int,
    step: str,
) -> None:
    """Either of two, at any step: logged once, visible to threads and in Redis, repeated, over by itself."""
    monkeypatch.setattr(heartbeat, "_REPORT_SECONDS", 1000.0)  # an episode is reported at once
    caplog.set_level(logging.INFO, "runstream.drain")
    hot = open_hot(fake)
    acknowledged = {run_id: emit(hot, run_id, 5) for run_id in ("a", "b")}
    outage = Outage(StoreUnavailable("the disk is full"))
    location = archives[broken].location
    sinks: list[Any] = list(archives)
    sinks[broken] = Hooked(archives[broken], **{step: outage})
    worker = DrainWorker(hot, sinks, name="w", trim="archived", poll_seconds=0.01)
    with running(worker) as reports:
        eventually(lambda: worker.progress.retries >= 4)
        failure = worker.progress.failing[location]
        assert (failure.error, abs(failure.since - time.time()) < DEADLINE_SECONDS) == ("the disk is full", True)
        assert worker.progress.failing.keys() == {location}
        assert {first_hot(hot, run_id) for run_id in acknowledged} == {1}
        eventually(lambda: "w" in reported(hot))
        eventually(lambda: reported(hot)["w"].failing == {location: failure})
        outage.is_on = False
        eventually(lambda: due(hot) == {})
        eventually(lambda: reported(hot)["w"].failing == {})
    assert worker.progress.failing == {}
    assert reports == [worker.progress.report] == [DrainReport(runs=2, events=10, trimmed=10)]
    check_archives(archives, acknowledged)
    (warning,) = of_level(caplog, logging.WARNING)
    assert location in warning
    assert "the disk is full" in warning
    (over,) = of_level(caplog, logging.INFO)
    assert location in over
    assert "works again" in over


@pytest.mark.exhaustive
def test_an_archive_that_fails_for_one_run_only_holds_up_no_other(
    fake: RedisBackend, archives: list[Archive]
) -> None:
    """After a few attempts it is found and parked: its directory may be damaged, which looks like an outage."""
    hot = open_hot(fake)
    acknowledged = {f"good-{n}": emit(hot, f"good-{n}", 3) for n in range(29)}
    emit(hot, "bad", 3)

    def fail(batches: Sequence[RunBatch]) -> None:
        if any(batch.header.run_id == "bad" for batch in batches):
            raise StoreUnavailable("input/output error")

    sinks: list[Any] = [archives[0], Hooked(archives[1], write=fail)]
    worker = DrainWorker(hot, sinks, trim="archived", poll_seconds=0.01)
    with running(worker):
        eventually(lambda: due(hot).keys() == {"bad"})
        eventually(lambda: "input/output error" in status_of(hot).parked.get("bad", ""))
    assert worker.progress.failing == {}
    check_archives(archives, acknowledged)
    assert first_hot(hot, "bad") == 1


@pytest.mark.exhaustive
def test_an_outage_with_many_runs_costs_few_attempts(fake: RedisBackend, archives: list[Archive]) -> None:
    """Each may take half a minute: it is not made for every run. Nothing is parked for it."""
    hot = open_hot(fake)
    acknowledged = {f"r{n}": emit(hot, f"r{n}", 3) for n in range(30)}
    outage = Outage(StoreUnavailable("full"))
    sinks: list[Any] = [archives[0], Hooked(archives[1], write=outage)]
    worker = DrainWorker(hot, sinks, poll_seconds=0.01)
    with running(worker):
        eventually(lambda: worker.progress.retries >= 6)
        assert outage.calls <= 3 * (worker.progress.retries + 1)
        assert status_of(hot).parked == {}
        outage.is_on = False
        eventually(lambda: due(hot) == {})
    assert worker.progress.report.parked == 0
    check_archives(archives, acknowledged)


def test_each_archive_has_episodes_of_its_own(
    fake: RedisBackend, archives: list[Archive], caplog: pytest.LogCaptureFixture
) -> None:
    """The second one fails as soon as the first one works: two outages, two warnings."""
    caplog.set_level(logging.INFO, "runstream.drain")
    hot = open_hot(fake)
    acknowledged = {"a": emit(hot, "a", 5)}
    first, second = Outage(StoreUnavailable("locked")), Outage(StoreUnavailable("full"))
    sinks: list[Any] = [Hooked(archives[0], write=first), Hooked(archives[1], write=second)]
    worker = DrainWorker(hot, sinks, poll_seconds=0.01)
    with running(worker):
        eventually(lambda: first.calls >= 3)
        first.is_on = False
        eventually(lambda: second.calls >= 3)
        second.is_on = False
        eventually(lambda: due(hot) == {})
    check_archives(archives, acknowledged)
    warnings = of_level(caplog, logging.WARNING)
    assert [archive.location in warning for archive, warning in zip(archives, warnings, strict=True)] == [
        True,
        True,
    ]
    assert len(of_level(caplog, logging.INFO)) == 2


def test_the_pauses_grow_to_half_a_minute_and_differ_and_never_end_the_worker() -> None:
    """Also after a weekend: two to the power of the attempts did not fit into a float after 1,024."""
    episodes = Outages(lambda: "w", DrainStats(), 0.2, lambda: None)
    pauses = [episodes.failed("sqlite:x", "x") for _ in range(5000)]
    assert all(pause <= 30 for pause in pauses)
    assert all(pause >= 15 for pause in pauses[10:])
    assert pauses[0] <= 0.4
    assert len(set(pauses[10:])) > 100


def test_drain_once_raises_what_an_archive_raises(fake: RedisBackend, archives: list[Archive]) -> None:
    """It is run() that waits; the claims are given up either way."""
    hot = open_hot(fake)
    emit(hot, "a", 5)
    sinks: list[Any] = [Hooked(archives[0], write=Outage(StoreUnavailable("full"))), archives[1]]
    with pytest.raises(StoreUnavailable, match="full"):
        DrainWorker(hot, sinks).drain_once()
    assert due(hot)["a"] <= server_seconds(hot)


def test_what_waiting_does_not_cure_ends_the_worker(fake: RedisBackend, archives: list[Archive]) -> None:
    """A ConfigurationError of an archive comes out of run(), and the claims are given up."""
    hot = open_hot(fake)
    emit(hot, "a", 5)
    sinks: list[Any] = [Hooked(archives[0], write=Outage(ConfigurationError("no database"))), archives[1]]
    with pytest.raises(ConfigurationError, match="no database"):
        DrainWorker(hot, sinks).run()
    assert due(hot)["a"] <= server_seconds(hot)
    assert reported(hot) == {}


@pytest.mark.exhaustive
@needs_valkey
def test_a_redis_that_is_gone_is_one_episode_too(
    real: ServerBackend,
    proxied: tuple[FaultProxy, Hot],
    archives: list[Archive],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Connections are cut and refused for a while; then it goes on by itself."""
    caplog.set_level(logging.INFO, "runstream.drain")
    proxy, hot = proxied
    acknowledged = {"a": emit(hot, "a", 5)}
    writer = open_hot(real)
    worker = DrainWorker(hot, archives, name="w", poll_seconds=0.01)
    with running(worker):
        eventually(lambda: due(writer) == {})
        proxy.refuse()
        proxy.cut()
        acknowledged["a"] += emit(writer, "a", 5, first=6)
        eventually(lambda: worker.progress.retries >= 4)
        assert worker.progress.failing.keys() == {"redis"}
        proxy.restore()
        eventually(lambda: due(writer) == {})
        eventually(lambda: worker.progress.failing == {})
        eventually(lambda: reported(writer)["w"].failing == {})
    check_archives(archives, acknowledged)
    (warning,) = of_level(caplog, logging.WARNING)
    assert "Redis fails" in warning
    (over,) = of_level(caplog, logging.INFO)
    assert "Redis works again" in over


# -- a run that fails in a way nobody foresaw --------------------------------------------------------


_DEFECTS: list[tuple[str, Exception]] = [
    ("position", UnsupportedVersion("its directory is of a newer version", found=9, supported=1)),
    ("position", OSError("bad sector")),
    ("write", MemoryError()),
    ("write", KeyError("offset")),
    ("write", CorruptRecordError("damaged", run_id="bad", offset=1)),
    ("read_back", RecursionError("too deep")),
    ("read_back", CorruptRecordError("damaged", run_id="bad", offset=1)),
]


@pytest.mark.exhaustive
@pytest.mark.one_in(8)
@pytest.mark.parametrize(("step", "error"), _DEFECTS, ids=lambda value: str(getattr(value, "args", value)))
def test_a_run_that_always_fails_is_set_aside_and_holds_up_no_other(
    fake: RedisBackend, archives: list[Archive], step: str, error: Exception
) -> None:
    """Whatever an archive raises for one of thirty runs: that one is parked, the worker goes on with the rest."""
    hot = open_hot(fake)
    acknowledged = {f"good-{n}": emit(hot, f"good-{n}", 3) for n in range(29)}
    emit(hot, "bad", 3)

    def fail(what: Any, *_: Any) -> None:
        run_ids = [what] if isinstance(what, str) else [batch.header.run_id for batch in what]
        if "bad" in run_ids:
            raise error

    sinks: list[Any] = [archives[0], Hooked(archives[1], **{step: fail})]
    worker = DrainWorker(hot, sinks, trim="archived", poll_seconds=0.01)
    with running(worker):
        eventually(lambda: due(hot).keys() == {"bad"})
        eventually(lambda: status_of(hot).parked.keys() == {"bad"})
        acknowledged["good-1"] += emit(hot, "good-1", 3, first=4)
        eventually(lambda: due(hot).keys() == {"bad"})
    assert (worker.progress.report.events, worker.progress.report.parked) == (29 * 3 + 3, 1)
    assert worker.progress.failing == {}
    assert str(error) in status_of(hot).parked["bad"]
    assert type(error).__name__ in status_of(hot).parked["bad"] or isinstance(
        error, CorruptRecordError | UnsupportedVersion
    )
    check_archives(archives, acknowledged)
    assert (first_hot(hot, "bad"), first_hot(hot, "good-0")) == (1, 4)


def test_a_run_whose_meta_does_not_read_is_set_aside(fake: RedisBackend, archives: list[Archive]) -> None:
    """Another program has written to it: the run cannot even be loaded."""
    hot = open_hot(fake)
    acknowledged = {f"good-{n}": emit(hot, f"good-{n}", 3) for n in range(9)}
    emit(hot, "bad", 3)
    fake.raw.hset(namespace_of(hot).keys.run("bad").meta, "last", "seven")
    report = DrainWorker(hot, archives).drain_once()
    assert (report.runs, report.parked) == (9, 1)
    assert "is damaged: " in status_of(hot).parked["bad"]
    check_archives(archives, acknowledged)
