"""Workers beside others: lost replies, what they report, a full server, partitions that are shared."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
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
    DrainWorker,
    RedisCheckpointer,
    RunState,
    StoreUnavailable,
)
from runstream.model.archive_records import RunBatch
from runstream.operations.operation import Exchange, Operation, Replies
from runstream.operations.runners import SyncRunner
from runstream.stores.redis.keys import PartitionKeys
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.admin import status
from runstream.stores.redis.operations.worker.load import LoadRequest
from runstream.stores.redis.scripts.script import script_of
from runstream.testing import Fault, FaultProxy
from tests.drain.workers.worker_tools import reported, status_of
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import RedisBackend, ServerBackend
from tests.support.drain_tools import (
    Hooked,
    Hot,
    due,
    emit,
    first_hot,
    open_archives,
    open_hot,
    running,
    server_seconds,
)
from tests.support.servers import DEADLINE_SECONDS, Servers, eventually, needs_valkey


@pytest.mark.one_in(6)
@needs_valkey
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
    exchange_once = victim._driver.exchange_once
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

    victim._driver.exchange_once = watched  # type: ignore[method-assign] # where every exchange goes through
    namespace_of(victim)._once = SyncRunner(watched)  # and the heartbeat's
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
    (loaded,) = namespace_of(hot).load_entries([LoadRequest(run_id, 1, 1000)])
    return [record for _, record in loaded.entries]


def test_a_worker_that_has_been_silent_for_a_day_is_forgotten(redis_backend: RedisBackend) -> None:
    """One that died is shown until then; what does not read as a report is passed over, and forgotten as well."""
    hot = open_hot(redis_backend)
    said = {"archives": [], "failing": {}, "events": 0, "partitions": None}
    for name in ("yesterday", "dead", "alive"):
        namespace_of(hot).report(name, said)
    now = server_seconds(hot)
    for name, seen_at in (("yesterday", now - 24 * 3600 - 1), ("dead", now - 23 * 3600)):
        text = json.dumps({"seen_at": seen_at, **said}, separators=(",", ":"))
        redis_backend.raw.hset(namespace_of(hot).keys.workers, name, text)
    redis_backend.raw.hset(namespace_of(hot).keys.workers, "other program", "[]")
    assert reported(hot).keys() == {"yesterday", "dead", "alive"}
    namespace_of(hot).report("alive", said)
    assert reported(hot).keys() == {"dead", "alive"}
    assert redis_backend.raw.hlen(namespace_of(hot).keys.workers) == 2
    assert abs(reported(hot)["dead"].seen_at - (now - 23 * 3600)) < 1


@needs_valkey
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
    namespace_of(hot).claim(None, 3, 60)
    hot.save_snapshot("archived-0", RunState(run_id="archived-0"))
    (run,) = namespace_of(hot).load_runs(["due-1"])
    assert run is not None
    namespace_of(hot).park(run.header, "for a test", 60)
    monkeypatch.setattr(status, "_CHUNK", 10)
    sizes: list[int] = []
    exchange_once = hot._driver.exchange_once

    def watched(exchange: Exchange) -> Replies:
        sizes.append(len(exchange.commands))
        return exchange_once(exchange)

    hot._driver.exchange_once = watched  # type: ignore[method-assign] # where every exchange goes through
    namespace = namespace_of(hot)
    assert namespace.run(status.backlog(namespace.keys)) == 30 + 120
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
        run_id
        for run_id in acknowledged
        if namespace_of(hot).keys.run(run_id).partition in partitions(hot, 0, 1, 2)
    }
    assert first.drain_once().runs == len(mine)
    assert due(hot).keys() == acknowledged.keys() - mine
    enlisted = [
        namespace_of(hot).run(hgetall(partition.archives)) for partition in namespace_of(hot).keys.partitions
    ]
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
    return [namespace_of(hot).keys.partitions[number] for number in numbers]


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
