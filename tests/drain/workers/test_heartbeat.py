"""A claim is held for as long as a worker works on its run, and no longer."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest

from runstream import (
    DrainReport,
    DrainWorker,
    StoreUnavailable,
)
from runstream.drain.heartbeat import Heartbeat
from runstream.operations.operation import Exchange, Replies
from runstream.operations.runners import SyncRunner
from runstream.stores.redis.namespace import Namespace, namespace_of
from runstream.testing import FaultProxy
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import RedisBackend, ServerBackend
from tests.support.drain_tools import (
    Hooked,
    Hot,
    ask,
    due,
    emit,
    open_hot,
    server_seconds,
)
from tests.support.mortal import Killed
from tests.support.servers import DEADLINE_SECONDS, eventually, needs_valkey


def heartbeats() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "runstream-heartbeat"]


def test_a_run_that_a_clock_that_was_ahead_has_claimed_comes_due(
    redis_backend: RedisBackend, archives: list[Archive]
) -> None:
    """The server was replaced by one whose clock is right; a run that is parked for long is left alone."""
    hot = open_hot(redis_backend, partitions=1)
    acknowledged = {run_id: emit(hot, run_id, 3) for run_id in "abcd"}
    year, week = 365 * 86_400, 7 * 86_400
    (partition,) = namespace_of(hot).keys.partitions
    ahead = {"a": year, "b": year, "c": week, "d": 60}
    now = server_seconds(hot)
    ask(hot, b"ZADD", partition.due, *(x for run_id, by in ahead.items() for x in ((now + by) * 1e6, run_id)))
    ask(hot, b"HSET", partition.parked, "c", "for long")
    patient = DrainWorker(hot, archives, park_seconds=week)
    assert patient.drain_once().runs == 2
    assert set(due(hot)) == {"c", "d"}
    assert DrainWorker(hot, archives).drain_once().runs == 1
    assert set(due(hot)) == {"d"}
    for run_id in "abc":
        check_archives(archives, {run_id: acknowledged[run_id]})


def test_a_claim_of_a_worker_that_died_before_the_clock_was_set_back_is_taken(
    redis_backend: RedisBackend, archives: list[Archive]
) -> None:
    """A parked run waits; so does a claim of another worker that lasts longer than ours."""
    hot = open_hot(redis_backend, partitions=1)
    acknowledged = {run_id: emit(hot, run_id, 3) for run_id in "abc"}
    (partition,) = namespace_of(hot).keys.partitions
    assert len(namespace_of(hot).claim(None, 100, 1200.0)) == 3
    now = server_seconds(hot)
    ask(
        hot,
        b"ZADD",
        partition.due,
        *(x for by, run_id in ((3600, "a"), (1200, "b"), (3600, "c")) for x in ((now + by) * 1e6, run_id)),
    )
    ask(hot, b"HSET", partition.parked, "c", "for an hour")
    assert DrainWorker(hot, archives).drain_once().runs == 1
    assert set(due(hot)) == {"b", "c"}
    check_archives(archives, {"a": acknowledged["a"]})


@pytest.mark.exhaustive
@needs_valkey
def test_a_claim_is_held_while_a_write_takes_longer_than_it_lasts(
    real: ServerBackend, archives: list[Archive]
) -> None:
    """Nobody else gets the runs meanwhile, neither those being written nor those that wait."""
    hot, other = open_hot(real), open_hot(real)
    acknowledged = {run_id: emit(hot, run_id, 3) for run_id in "abcd"}
    seconds, taken = 1.2, []

    def slowly(*_: Any) -> None:
        until = time.monotonic() + 1.5 * seconds
        while time.monotonic() < until:
            taken.extend(namespace_of(other).claim(None, 100, seconds))
            time.sleep(seconds / 20)

    sinks: list[Any] = [Hooked(archives[0], write=slowly), archives[1]]
    report = DrainWorker(hot, sinks, batch=6, claim_seconds=seconds).drain_once()
    assert taken == []
    assert report.events == 12
    assert due(hot) == {}
    check_archives(archives, acknowledged)


@needs_valkey
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
    exchange_once = hot._driver.exchange_once

    def watched(exchange: Exchange) -> Replies:
        try:
            return exchange_once(exchange)
        except StoreUnavailable:
            proxy_was_asked.set()
            raise

    hot._driver.exchange_once = watched  # type: ignore[method-assign] # where every exchange goes through
    namespace_of(hot)._once = SyncRunner(watched)  # and the heartbeat's
    sinks: list[Any] = [Hooked(archives[0], write=slowly), archives[1]]
    assert DrainWorker(hot, sinks, claim_seconds=0.5).drain_once().events == 3
    assert until
    check_archives(archives, acknowledged)


@pytest.mark.exhaustive
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


@pytest.mark.exhaustive
def test_an_extension_does_not_undo_a_settling(
    fake: RedisBackend, archives: list[Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came in while a batch was written is due at once, also where a claim was being extended just then."""
    hot = open_hot(fake)
    emit(hot, "a", 3)
    extending = threading.Event()
    extend = Namespace.extend

    def extend_slowly(*args: Any) -> Any:
        extending.set()
        time.sleep(0.3)  # the batch is settled meanwhile, unless that waits
        return extend(*args)

    monkeypatch.setattr(Namespace, "extend", extend_slowly)

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
    namespace_of(hot).extend(["a", "never-was"], 60)
    assert due(hot) == {}


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # there are threads beside
def test_a_forked_process_has_a_heartbeat_of_its_own(fake: RedisBackend) -> None:
    """Its parent's thread is not there, and what that thread held at the fork is nobody's."""
    hot = open_hot(fake)
    beat = Heartbeat(namespace_of(hot), lambda: "w", 30.0, dict)
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
