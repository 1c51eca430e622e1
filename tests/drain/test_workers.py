"""What a worker that is left alone for a year meets: outages, defects, long writes, lost replies, others."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from runstream import (
    ConfigurationError,
    CorruptRecordError,
    DrainReport,
    DrainWorker,
    RedisCheckpointer,
    RunState,
    StoreUnavailable,
    UnsupportedVersion,
)
from runstream.drain import heartbeat
from runstream.drain.heartbeat import Heartbeat
from runstream.drain.outages import Episodes
from runstream.drain.stats import Progress
from runstream.model.archive_records import RunBatch
from runstream.stores.redis.exchange import Exchange, Operation, Replies, script_of
from runstream.stores.redis.keys import PartitionKeys
from runstream.stores.redis.operations.admin import status
from runstream.stores.redis.operations.admin.status import NamespaceStatus, WorkerReport, namespace_status
from runstream.stores.redis.operations.worker import drain
from runstream.testing import Fault, FaultProxy
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import Backend, RedisBackend, ServerBackend
from tests.support.drain_tools import (
    Hooked,
    Hot,
    Outage,
    ask,
    due,
    emit,
    first_hot,
    open_archives,
    open_hot,
    running,
    server_seconds,
)
from tests.support.servers import DEADLINE_SECONDS, PROGRAMS, Servers, eventually

needs_server = pytest.mark.skipif("valkey" not in PROGRAMS, reason="needs a real server")


@pytest.fixture
def real(make_backend: Callable[[str], Backend]) -> ServerBackend:
    backend = make_backend("valkey")
    assert isinstance(backend, ServerBackend)
    return backend


@pytest.fixture
def proxied(real: ServerBackend) -> Iterator[tuple[FaultProxy, Hot]]:
    """A store that reaches a real server through a proxy, and gives up at once."""
    with (
        FaultProxy(real.server.url) as proxy,
        redis.Redis(port=proxy.port, retry=Retry(NoBackoff(), 0)) as client,
    ):
        yield proxy, RedisCheckpointer[Any, Any](client, namespace=real.namespace, retry_seconds=0)


def status_of(hot: Hot) -> NamespaceStatus:
    return hot.perform(namespace_status(hot.context.keys))


def reported(hot: Hot) -> dict[str, WorkerReport]:
    return {worker.name: worker for worker in status_of(hot).workers}


def of_level(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == level and record.name == "runstream.drain" and "settled" not in record.getMessage()
    ]


# -- outages -----------------------------------------------------------------------------------------


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
    episodes = Episodes("w", Progress(), 0.2, lambda: None)
    pauses = [episodes.failed("sqlite:x", StoreUnavailable("x")) for _ in range(5000)]
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


@needs_server
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
    fake.raw.hset(hot.context.keys.run("bad").meta, "last", "seven")
    report = DrainWorker(hot, archives).drain_once()
    assert (report.runs, report.parked) == (9, 1)
    assert "ValueError" in status_of(hot).parked["bad"]
    check_archives(archives, acknowledged)


# -- the heartbeat -----------------------------------------------------------------------------------


def heartbeats() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "runstream-heartbeat"]


def test_a_run_that_a_clock_that_was_ahead_has_claimed_comes_due(
    redis_backend: RedisBackend, archives: list[Archive]
) -> None:
    """The server was replaced by one whose clock is right; a run that is parked for long is left alone."""
    hot = open_hot(redis_backend, partitions=1)
    acknowledged = {run_id: emit(hot, run_id, 3) for run_id in "abcd"}
    year, week = 365 * 86_400, 7 * 86_400
    (partition,) = hot.context.keys.partitions
    ahead = {"a": year, "b": year, "c": week, "d": 60}
    now = server_seconds(hot)
    ask(hot, b"ZADD", partition.due, *(x for run_id, by in ahead.items() for x in ((now + by) * 1e6, run_id)))
    patient = DrainWorker(hot, archives, park_seconds=week)
    assert patient.drain_once().runs == 2
    assert set(due(hot)) == {"c", "d"}
    assert DrainWorker(hot, archives).drain_once().runs == 1
    assert set(due(hot)) == {"d"}
    for run_id in "abc":
        check_archives(archives, {run_id: acknowledged[run_id]})


@needs_server
def test_a_claim_is_held_while_a_write_takes_longer_than_it_lasts(
    real: ServerBackend, archives: list[Archive]
) -> None:
    """Nobody else gets the runs meanwhile, neither those being written nor those that wait."""
    hot, other = open_hot(real), open_hot(real)
    acknowledged = {run_id: emit(hot, run_id, 3) for run_id in "abcd"}
    seconds, taken = 1.2, []

    def slowly(*_: Any) -> None:
        until = time.monotonic() + 3 * seconds
        while time.monotonic() < until:
            taken.extend(other.perform(drain.claim(other.context.keys, None, 100, seconds)))
            time.sleep(seconds / 20)

    sinks: list[Any] = [Hooked(archives[0], write=slowly), archives[1]]
    report = DrainWorker(hot, sinks, batch=6, claim_seconds=seconds).drain_once()
    assert taken == []
    assert report.events == 12
    assert due(hot) == {}
    check_archives(archives, acknowledged)


@needs_server
def test_a_heartbeat_that_finds_no_server_goes_on_trying(
    real: ServerBackend, proxied: tuple[FaultProxy, Hot], archives: list[Archive]
) -> None:
    """The server is gone for a while in the middle of a long write: the claims are extended when it is back."""
    proxy, hot = proxied
    acknowledged = {"a": emit(hot, "a", 3)}
    other = open_hot(real)
    until: list[float] = []

    def slowly(*_: Any) -> None:
        proxy.refuse()
        proxy.cut()
        before = due(other)["a"]
        eventually(proxy_was_asked.is_set)
        proxy.restore()
        eventually(lambda: due(other)["a"] > before)
        until.append(due(other)["a"])

    proxy_was_asked = threading.Event()
    exchange_once = hot._driver._exchange_once

    def watched(exchange: Exchange) -> Replies:
        try:
            return exchange_once(exchange)
        except StoreUnavailable:
            proxy_was_asked.set()
            raise

    hot._driver._exchange_once = watched  # type: ignore[method-assign] # where every exchange goes through
    sinks: list[Any] = [Hooked(archives[0], write=slowly), archives[1]]
    assert DrainWorker(hot, sinks, claim_seconds=0.5).drain_once().events == 3
    assert until
    check_archives(archives, acknowledged)


class Killed(BaseException):
    """No handler of ours may swallow it."""


@pytest.mark.parametrize("error", [None, StoreUnavailable("gone"), Killed()], ids=["none", "outage", "kill"])
def test_the_heartbeat_ends_with_the_worker_and_begins_with_work(
    fake: RedisBackend, archives: list[Archive], monkeypatch: pytest.MonkeyPatch, error: BaseException | None
) -> None:
    """No thread before there is something to hold, none after, whatever ended the worker; it keeps no process."""
    hot = open_hot(fake)
    worker = DrainWorker(hot, archives)
    with monkeypatch.context() as without:
        without.setattr(threading, "Thread", None)
        assert worker.drain_once() == DrainReport()
    emit(hot, "a", 3)
    seen: list[bool] = []

    def look(*_: Any) -> None:
        seen.extend(thread.daemon for thread in heartbeats())
        if error is not None:
            raise error

    sinks: list[Any] = [Hooked(archives[0], write=look), archives[1]]
    worker = DrainWorker(hot, sinks)
    if error is None:
        worker.drain_once()
    else:
        with pytest.raises(type(error)):
            worker.drain_once()
    assert seen == [True]
    assert heartbeats() == []


def test_an_extension_does_not_undo_a_settling(
    fake: RedisBackend, archives: list[Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came in while a batch was written is due at once, also where a claim was being extended just then."""
    hot = open_hot(fake)
    emit(hot, "a", 3)
    extending = threading.Event()
    extend = drain.extend

    def extend_slowly(*args: Any) -> Any:
        extending.set()
        time.sleep(0.3)  # the batch is settled meanwhile, unless that waits
        yield from extend(*args)

    monkeypatch.setattr(drain, "extend", extend_slowly)

    def append_more(*_: Any) -> None:
        emit(hot, "a", 2, first=4)
        assert extending.wait(DEADLINE_SECONDS)

    sinks: list[Any] = [Hooked(archives[0], write=append_more), archives[1]]
    assert DrainWorker(hot, sinks, claim_seconds=2).drain_once().events == 3
    assert due(hot)["a"] <= server_seconds(hot)


def test_an_extension_puts_nothing_back_that_was_settled(fake: RedisBackend, archives: list[Archive]) -> None:
    """A worker that was stopped extends a claim that it lost: the run is archived, and is not due again."""
    hot = open_hot(fake)
    emit(hot, "a", 3)
    DrainWorker(hot, archives).drain_once()
    hot.perform(drain.extend(hot.context.keys, ["a", "never-was"], 60))
    assert due(hot) == {}


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # there are threads beside
def test_a_forked_process_has_a_heartbeat_of_its_own(fake: RedisBackend) -> None:
    """Its parent's thread is not there, and what that thread held at the fork is nobody's."""
    hot = open_hot(fake)
    beat = Heartbeat(hot, "w", 30.0, dict)
    beat.start()
    held, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with beat.still:
            held.set()
            forked.wait(DEADLINE_SECONDS)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(DEADLINE_SECONDS)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            beat.stop()  # its parent's: nothing to wait for
            beat.start()
            if beat.still.acquire(timeout=DEADLINE_SECONDS):
                beat.still.release()
                beat.stop()
                code = 0
        finally:
            os._exit(code)
    forked.set()
    _, status = os.waitpid(child, 0)
    holder.join()
    assert len(heartbeats()) == 1
    beat.stop()
    assert heartbeats() == []
    assert status == 0


# -- lost replies ------------------------------------------------------------------------------------


@needs_server
@pytest.mark.parametrize("name", ["claim", "extend", "settle", "park", "ZADD"])
@pytest.mark.parametrize(
    ("fault", "dies"),
    [(Fault.DROP_REPLY, True), (Fault.DROP_REPLY, False), (Fault.DROP_REQUEST, False)],
    ids=["reply lost and worker dead", "reply lost and sent again", "request lost and sent again"],
)
def test_a_lost_reply_strands_nothing(
    servers: Servers, tmp_path: Path, namespace: str, name: str, fault: Fault, dies: bool
) -> None:
    """Each call that moves a run about in the queue (ZADD gives claims up) is struck in turn: all is archived in
    the end, and no claim lasts too long.
    """
    server, nth = servers.get("valkey"), 1
    with (
        FaultProxy(server.url, quiet_seconds=0.001) as proxy,
        redis.Redis(port=proxy.port, retry=Retry(NoBackoff(), 0)) as client,
    ):
        is_struck = True
        while is_struck and nth < 4:
            place = tmp_path / str(nth)
            place.mkdir()
            with closing(ServerBackend(server, f"{namespace}-{nth}")) as backend:
                is_struck = strike(backend, client, proxy, place, fault, (name, nth), dies=dies)
            assert is_struck or nth > 1
            nth += 1


def strike(  # noqa: C901 - one scenario, in the order in which it happens
    backend: ServerBackend,
    client: Any,
    proxy: FaultProxy,
    place: Path,
    fault: Fault,
    which: tuple[str, int],
    *,
    dies: bool,
) -> bool:
    """Strike the so-manyth call of that name of a worker, and let another finish. False if there are fewer."""
    seconds = 0.3
    hot = open_hot(backend, partitions=1)
    acknowledged = {run_id: emit(hot, run_id, count) for run_id, count in (("bad", 2), ("a", 4), ("b", 4))}
    victim = RedisCheckpointer[Any, Any](client, namespace=backend.namespace, retry_seconds=0 if dies else 10)
    exchange_once = victim._driver._exchange_once
    before, calls, extended = proxy.struck, 0, threading.Event()

    def watched(exchange: Exchange) -> Replies:
        nonlocal calls
        if dies and proxy.struck > before:
            raise StoreUnavailable("the dead send nothing")
        names = {script.name if (script := script_of(c)) else c[0].decode() for c in exchange.commands}
        if which[0] in names:
            calls += 1
            if calls == which[1]:  # the worker's other thread sends nothing meanwhile: see Heartbeat.still
                proxy.arm(fault)
        try:
            return exchange_once(exchange)
        finally:
            if "extend" in names:
                extended.set()

    victim._driver._exchange_once = watched  # type: ignore[method-assign] # where every exchange goes through
    made = open_archives(place)
    writes = 0

    def interfere(batches: Sequence[RunBatch]) -> None:
        nonlocal writes
        writes += 1
        if writes == 1:
            assert extended.wait(DEADLINE_SECONDS)
        if any(batch.header.run_id == "bad" for batch in batches):
            raise CorruptRecordError("for a test", run_id="bad", offset=1)  # it is parked
        if writes == 3:
            raise StoreUnavailable("for a test")  # with runs in hand, which are given up

    sinks: list[Any] = [Hooked(made[0], write=interfere), made[1]]
    with suppress(StoreUnavailable):
        DrainWorker(victim, sinks, batch=3, claim_seconds=seconds, park_seconds=0.1).drain_once()
    now = server_seconds(hot)
    assert all(due_at <= now + seconds for due_at in due(hot).values())
    finisher = DrainWorker(hot, made)

    def is_drained() -> bool:
        finisher.drain_once()
        return due(hot) == {}

    eventually(is_drained)
    check_archives(made, acknowledged)
    for archive in made:
        archive.close()
    return proxy.struck > before


# -- what a worker says of itself --------------------------------------------------------------------


def test_a_worker_reports_itself_while_it_runs(redis_backend: RedisBackend, archives: list[Archive]) -> None:
    """Soon after it begins, by the server's clock; what it has done; and no more once it has ended."""
    hot = open_hot(redis_backend)
    acknowledged = {"a": emit(hot, "a", 5)}
    worker = DrainWorker(hot, archives, name="w", poll_seconds=0.01)
    began = server_seconds(hot)
    with running(worker):
        eventually(lambda: "w" in reported(hot))
        said = reported(hot)["w"]
        assert began <= said.seen_at <= server_seconds(hot)
        assert (list(said.archives), said.failing, said.partitions) == ([a.location for a in archives], {}, None)
        eventually(lambda: due(hot) == {})
        eventually(lambda: worker.progress.report.events == 5)
        worker._heartbeat.report_now()
        eventually(lambda: reported(hot)["w"].events == 5)
    assert reported(hot) == {}
    progress = worker.progress
    assert (progress.report.events, progress.batches, progress.retries, progress.failing) == (5, 1, 0, {})
    assert progress.bytes == sum(len(record) for record in records(hot, "a"))
    assert {archive.location: 1 for archive in archives} == {at: t.count for at, t in progress.writes.items()}
    assert all(timing.seconds > 0 for timing in progress.writes.values())
    assert time.monotonic() - progress.last_beat < DEADLINE_SECONDS
    check_archives(archives, acknowledged)


def records(hot: Hot, run_id: str) -> list[bytes]:
    (loaded,) = hot.perform(drain.load_entries(hot.context.keys, [drain.Wanted(run_id, 1, 1000)]))
    return [record for _, record in loaded.entries]


def test_a_worker_that_has_been_silent_for_a_day_is_forgotten(redis_backend: RedisBackend) -> None:
    """One that died is shown until then; what does not read as a report is passed over, and forgotten as well."""
    hot = open_hot(redis_backend)
    said = {"archives": [], "failing": {}, "events": 0, "partitions": None}
    for name in ("yesterday", "dead", "alive"):
        hot.perform(drain.report(hot.context.keys, name, said))
    now = server_seconds(hot)
    for name, seen_at in (("yesterday", now - 24 * 3600 - 1), ("dead", now - 23 * 3600)):
        text = json.dumps({"seen_at": seen_at, **said}, separators=(",", ":"))
        redis_backend.raw.hset(hot.context.keys.workers, name, text)
    redis_backend.raw.hset(hot.context.keys.workers, "other program", "[]")
    assert reported(hot).keys() == {"yesterday", "dead", "alive"}
    hot.perform(drain.report(hot.context.keys, "alive", said))
    assert reported(hot).keys() == {"dead", "alive"}
    assert redis_backend.raw.hlen(hot.context.keys.workers) == 2
    assert abs(reported(hot)["dead"].seen_at - (now - 23 * 3600)) < 1


@needs_server
def test_a_full_server_refuses_neither_reports_nor_claims(real: ServerBackend, archives: list[Archive]) -> None:
    """A worker frees memory; whatever it needs for that is taken, heartbeat and parking included."""
    hot = open_hot(real, retry_seconds=0)
    acknowledged = {"a": emit(hot, "a", 50)}
    emit(hot, "bad", 3)

    def slowly(batches: Sequence[RunBatch]) -> None:
        before = due(hot)
        eventually(lambda: due(hot) != before)  # the claims have been extended
        if any(batch.header.run_id == "bad" for batch in batches):
            raise CorruptRecordError("for a test", run_id="bad", offset=1)

    sinks: list[Any] = [Hooked(archives[0], write=slowly), archives[1]]
    worker = DrainWorker(hot, sinks, name="w", trim="archived", claim_seconds=0.5)
    real.raw.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable, match="full"):
            emit(hot, "a", 1, first=51)
        with running(worker):
            eventually(lambda: "w" in reported(hot))
            eventually(lambda: due(hot).keys() == {"bad"})
    finally:
        real.raw.config_set("maxmemory", 0)
    assert status_of(hot).parked.keys() == {"bad"}
    assert first_hot(hot, "a") == 51
    check_archives(archives, acknowledged)


def test_the_backlog_counts_what_is_not_archived(
    redis_backend: RedisBackend, archives: list[Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of runs that are due, claimed or parked; in round trips of bounded size, however many runs there are."""
    hot = open_hot(redis_backend, partitions=4)
    for n in range(30):
        emit(hot, f"archived-{n}", 2)
    assert status_of(hot).backlog_events == 60
    DrainWorker(hot, archives).drain_once()
    assert status_of(hot).backlog_events == 0
    for n in range(30):
        emit(hot, f"archived-{n}", 1, first=3)
        emit(hot, f"due-{n}", 4)
    hot.perform(drain.claim(hot.context.keys, None, 3, 60))
    hot.save_snapshot("archived-0", RunState(run_id="archived-0"))
    (run,) = hot.perform(drain.load(hot.context.keys, ["due-1"]))
    assert run is not None
    hot.perform(drain.park(hot.context.keys, run.header, "for a test", 60))
    monkeypatch.setattr(status, "_CHUNK", 10)
    sizes: list[int] = []
    exchange_once = hot._driver._exchange_once

    def watched(exchange: Exchange) -> Replies:
        sizes.append(len(exchange.commands))
        return exchange_once(exchange)

    hot._driver._exchange_once = watched  # type: ignore[method-assign] # where every exchange goes through
    assert hot.perform(status.backlog(hot.context.keys)) == 30 + 120
    assert max(sizes) <= 10


# -- partitions --------------------------------------------------------------------------------------


def test_workers_of_disjoint_partitions_drain_everything_between_them(
    redis_backend: RedisBackend, tmp_path: Path
) -> None:
    """Each takes what is its own and no more, and has its archives required there only."""
    hot = open_hot(redis_backend, partitions=8)
    acknowledged = {f"r{n}": emit(hot, f"r{n}", 3) for n in range(40)}
    archives = open_archives(tmp_path)
    sets = [[0, 1, 2], [7, 3], {4, 5, 6}]
    first = DrainWorker(hot, archives, partitions=sets[0])
    mine = {
        run_id for run_id in acknowledged if hot.context.keys.run(run_id).partition in partitions(hot, 0, 1, 2)
    }
    assert first.drain_once().runs == len(mine)
    assert due(hot).keys() == acknowledged.keys() - mine
    enlisted = [hot.perform(hgetall(partition.archives)) for partition in hot.context.keys.partitions]
    assert [bool(of_it) for of_it in enlisted] == [True] * 3 + [False] * 5
    own = [open_archives(tmp_path) for _ in sets]
    workers = [
        DrainWorker(open_hot(redis_backend), sinks, name=f"w{n}", partitions=numbers, poll_seconds=0.01)
        for n, (sinks, numbers) in enumerate(zip(own, sets, strict=True))
    ]
    with running(*workers):
        eventually(lambda: due(hot) == {})
        eventually(lambda: len(reported(hot)) == 3)
        assert [reported(hot)[f"w{n}"].partitions for n in range(3)] == [[0, 1, 2], [3, 7], [4, 5, 6]]
    check_archives(archives, acknowledged)
    for archive in (*archives, *own[0], *own[1], *own[2]):
        archive.close()


def partitions(hot: Hot, *numbers: int) -> list[PartitionKeys]:
    return [hot.context.keys.partitions[number] for number in numbers]


def hgetall(key: str) -> Operation[Any]:
    (reply,) = yield Exchange([(b"HGETALL", key)])
    return reply


def test_a_worker_without_a_limit_shares_with_limited_ones(fake: RedisBackend, archives: list[Archive]) -> None:
    """It takes what they leave."""
    hot = open_hot(fake, partitions=4)
    acknowledged = {f"r{n}": emit(hot, f"r{n}", 3) for n in range(20)}
    limited = DrainWorker(hot, archives, partitions=range(2)).drain_once()
    rest = DrainWorker(hot, archives).drain_once()
    assert 0 < limited.runs < 20
    assert limited.runs + rest.runs == 20
    check_archives(archives, acknowledged)


@pytest.mark.parametrize(
    ("numbers", "message"), [([0, 16], "16"), ([-1], "-1"), ([True], "True"), (["1"], "'1'"), ([], "empty")]
)
def test_partitions_that_there_are_not_are_refused(
    fake: RedisBackend, archives: list[Archive], numbers: Any, message: str
) -> None:
    """The error names the bad one, and how they are numbered."""
    with pytest.raises(ConfigurationError, match=message):
        DrainWorker(open_hot(fake), archives, partitions=numbers)
