"""Many followers in one process: they share a few connections of their own, and are served as soon as one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
import redis.asyncio

from runstream import (
    AsyncRedisCheckpointer,
    AsyncTieredCheckpointer,
    CorruptRecordError,
    RedisCheckpointer,
    SQLiteCheckpointer,
    TieredCheckpointer,
    connect,
)
from runstream.stores.redis.access import Role, commands_of_role
from runstream.stores.redis.connection import watched_streams
from tests.support.backends import Blocking, LoopThread
from tests.support.processes.template import Python
from tests.support.samples import make_event
from tests.support.servers import Server, Servers, eventually, needs_valkey

pytestmark = needs_valkey
PARTITIONS = 4


@pytest.fixture
def valkey(servers: Servers) -> Iterator[Server]:
    """A server of one kind, emptied afterwards: what is tried is what this process does."""
    server = servers.get("valkey")
    yield server
    server.raw.flushall()


def connections(server: Server, name: str) -> list[dict[str, str]]:
    """What the server says of its connections from clients of that name."""
    listed: Any = server.raw.client_list()
    return [one for one in listed if one["name"] == name]


def blocked(server: Server, name: str) -> int:
    """How many of them wait for something."""
    return sum("b" in one["flags"] for one in connections(server, name))


class Followers:
    """Followers in threads or tasks of one process, and what each of them was given."""

    def __init__(self, store: Any) -> None:
        self.given: list[tuple[str, int, float]] = []
        self.errors: list[Exception] = []
        self._store = store
        self._ends: list[Callable[[], object]] = []

    def start(self, run_id: str, count: int = 1, busy_seconds: float = 0.0) -> None:
        """Follow a run this often; a busy follower takes its time for each event."""
        if not isinstance(self._store, Blocking):
            for _ in range(count):
                thread = threading.Thread(target=self._follow, args=[run_id, busy_seconds], daemon=True)
                thread.start()
                self._ends.append(thread.join)
            return
        loop = self._store._loop._loop
        for _ in range(count):
            coroutine = self._follow_async(self._store._store, run_id, busy_seconds)
            self._ends.append(asyncio.run_coroutine_threadsafe(coroutine, loop).result)

    def _follow(self, run_id: str, busy_seconds: float) -> None:
        try:
            for item in self._store.follow(run_id):
                self.given.append((run_id, item.event.seq, time.monotonic()))
                time.sleep(busy_seconds)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.errors.append(error)

    async def _follow_async(self, store: Any, run_id: str, busy_seconds: float) -> None:
        try:
            async for item in store.follow(run_id):
                self.given.append((run_id, item.event.seq, time.monotonic()))
                await asyncio.sleep(busy_seconds)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.errors.append(error)

    def await_count(self, count: int) -> None:
        """Wait until they were given so many events, all together."""
        eventually(lambda: len(self.given) >= count or self.errors)
        assert not self.errors
        assert len(self.given) == count

    def end(self, store: Any, *run_ids: str) -> None:
        """End these runs, and with them the followers."""
        for run_id in run_ids:
            store.append(run_id, [make_event(run_id, 999, kind="run.finished")])
        for end in self._ends:
            end()


@pytest.fixture(params=["threads", "tasks"])
def opened(
    request: pytest.FixtureRequest, valkey: Server, namespace: str, loop_thread: LoopThread, tmp_path: Any
) -> Iterator[Callable[..., Any]]:
    """Opens a store over a client with a pool as redis-py makes it; ``tiered``: with an archive beside it."""
    with ExitStack() as stack:

        def open_store(*, tiered: bool = False, partitions: int = PARTITIONS, **options: Any) -> Any:
            archive = stack.enter_context(SQLiteCheckpointer(str(tmp_path / "a.db"))) if tiered else None
            settings = {"unix_socket_path": valkey.socket_path, "client_name": namespace, **options}
            facts: dict[str, Any] = {"namespace": namespace, "partitions": partitions, "retry_seconds": 0}
            if request.param == "threads":
                hot: Any = RedisCheckpointer(stack.enter_context(redis.Redis(**settings)), **facts)
                return hot if archive is None else TieredCheckpointer(hot, archive)
            client = redis.asyncio.Redis(**settings)
            stack.callback(lambda: loop_thread.run(client.aclose()))
            store: Any = AsyncRedisCheckpointer(client, **facts)
            stack.callback(lambda: loop_thread.run(store.close()))
            if archive is not None:
                store = AsyncTieredCheckpointer(store, archive)
            return Blocking(loop_thread, store)

        yield open_store


@pytest.mark.exhaustive
@pytest.mark.one_in(4)
@pytest.mark.parametrize("tiered", [False, True], ids=["hot", "tiered"])
def test_followers_leave_the_connections_to_the_writer(
    opened: Callable[..., Any], valkey: Server, namespace: str, tiered: bool
) -> None:
    """120 followers of one run, on a pool of 100: all get what the writer, which never tries twice, appends."""
    store = opened(tiered=tiered)
    followers = Followers(store)
    store.append("r", [make_event("r", 1)])
    followers.start("r", 120)
    followers.await_count(120)
    for seq in range(2, 12):
        store.append("r", [make_event("r", seq)])
        assert len(connections(valkey, namespace)) <= 20
        followers.await_count(120 * seq)
    followers.end(store, "r")
    assert not followers.errors


def test_a_pool_of_few_connections_serves_followers_and_a_writer(opened: Callable[..., Any]) -> None:
    """Half of them may be used by followers at a time."""
    store = opened(max_connections=4)
    followers = Followers(store)
    store.append("r", [make_event("r", 1)])
    followers.start("r", 30)
    followers.await_count(30)
    for seq in range(2, 8):
        store.append("r", [make_event("r", seq)])
    followers.await_count(30 * 7)
    followers.end(store, "r")
    assert not followers.errors


def test_followers_of_a_run_share_what_is_read(opened: Callable[..., Any], valkey: Server) -> None:
    """An event costs the server one read for 40 of them, but for those that were not back in time."""
    store = opened()
    followers = Followers(store)
    store.append("r", [make_event("r", 1)])
    followers.start("r", 40)
    followers.await_count(40)
    before = pages_read(valkey)
    for seq in range(2, 12):
        store.append("r", [make_event("r", seq)])
        followers.await_count(40 * seq)
    assert pages_read(valkey) - before < 10 * 40 / 4
    followers.end(store, "r")
    assert not followers.errors


def pages_read(server: Server) -> int:
    """How many times somebody has read entries without waiting for them."""
    stats: Any = server.raw.info("commandstats")
    return int(stats.get("cmdstat_xrange", {"calls": 0})["calls"])


def p99_of(store: Any, prefix: str, runs: int, per_run: int) -> float:
    """How many seconds an event takes to each of its followers; 99 in 100 take less."""
    followers, names = Followers(store), [f"{prefix}{number}" for number in range(runs)]
    store.save_events([make_event(name, 0) for name in names])
    for name in names:
        followers.start(name, per_run)
    followers.await_count(runs * per_run)
    followers.given.clear()
    sent = {}
    for seq in range(1, 26):
        name = names[seq * 7 % runs]
        sent[name, seq] = time.monotonic()
        store.append(name, [make_event(name, seq)])
        time.sleep(0.02)
    followers.await_count(25 * per_run)
    took = sorted(at - sent[name, seq] for name, seq, at in followers.given)
    followers.end(store, *names)
    return took[len(took) * 99 // 100]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("runs", [50, pytest.param(200, marks=pytest.mark.exhaustive)])
def test_many_are_served_as_soon_as_one(
    opened: Callable[..., Any], valkey: Server, namespace: str, runs: int
) -> None:
    """Four followers of each run, over a connection for each partition; bench/following.py measures it."""
    store = opened()
    ratios = []
    for number in range(3):
        alone = p99_of(store, f"alone{number}-", 1, 1)
        ratios.append(p99_of(store, f"together{number}-", runs, 4) / alone)
        assert blocked(valkey, namespace) <= PARTITIONS
    assert min(ratios) < 5, ratios  # one round of three: others use the machine, too


@pytest.fixture
def reader(valkey: Server) -> Iterator[dict[str, Any]]:
    """A user who may call what a reader needs; CLIENT UNBLOCK, which wakes others, is none of it."""
    commands = [f"+{name.lower()}" for name in commands_of_role(Role.READER, (7, 2))]
    valkey.raw.acl_setuser("reader", enabled=True, passwords=["+x"], keys=["*"], commands=commands)
    yield {"username": "reader", "password": "x", "client_name": None}
    valkey.raw.acl_deluser("reader")


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
def test_a_new_follower_joins_within_100_ms(
    opened: Callable[..., Any], reader: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its partition's connection is blocked for long by then, and nobody may wake it."""
    monkeypatch.setattr(watched_streams, "CALM_SECONDS", 0.0)
    store = opened(partitions=1)
    followers, took = Followers(opened(partitions=1, **reader)), []
    store.save_events([make_event(run_id, 1) for run_id in "abcd"])
    followers.start("a")
    for count, run_id in enumerate("bcd", 2):
        followers.await_count(2 * count - 3)
        time.sleep(0.7)  # it blocks for 0.64 s by now
        followers.start(run_id)
        followers.await_count(2 * count - 2)
        began = time.monotonic()
        store.append(run_id, [make_event(run_id, 2)])
        followers.await_count(2 * count - 1)
        took.append(time.monotonic() - began)
    followers.end(store, *"abcd")
    assert min(took) < 0.1, took


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
def test_a_slow_follower_delays_nobody(opened: Callable[..., Any], valkey: Server) -> None:
    """What comes while it is busy is not fetched for it, and others of its partition go on."""
    store = opened(partitions=1)
    followers = Followers(store)
    store.save_events([make_event(run_id, 1) for run_id in ("slow", "quick")])
    followers.start("slow", busy_seconds=1)
    followers.start("quick")
    followers.await_count(2)
    time.sleep(0.05)
    followers.given.clear()
    payload = {"text": "x" * 100_000}
    before = valkey.raw.info("stats")["total_net_output_bytes"]
    for seq in range(2, 52):
        store.append("slow", [make_event("slow", seq, payload=payload)])
    store.append("quick", [make_event("quick", 2)])
    began = time.monotonic()
    eventually(lambda: any(run_id == "quick" for run_id, _, _ in followers.given))
    assert time.monotonic() - began < 0.5
    assert valkey.raw.info("stats")["total_net_output_bytes"] - before < 20 * 100_000
    store.delete_run("slow")
    followers.end(store, "quick")


def test_a_damaged_stream_ends_its_own_followers_alone(
    opened: Callable[..., Any], valkey: Server, namespace: str
) -> None:
    """The server refuses to wait for it and the others together."""
    store = opened(partitions=1)
    followers = Followers(store)
    store.save_events([make_event(run_id, 1) for run_id in "ab"])
    for run_id in "ab":
        followers.start(run_id, 3)
    followers.await_count(6)
    key = f"{{{namespace}:0}}:run:a:events"
    assert valkey.raw.exists(key)
    valkey.raw.set(key, "junk")
    eventually(lambda: len(followers.errors) == 3)
    assert [type(error) for error in followers.errors] == [CorruptRecordError] * 3, followers.errors
    assert all(key in str(error) for error in followers.errors), followers.errors
    followers.errors.clear()
    store.append("b", [make_event("b", 2)])
    followers.await_count(9)
    followers.end(store, "b")
    assert not followers.errors


@pytest.mark.one_in(2)
def test_a_server_that_takes_no_more_connections_is_asked_by_the_followers_themselves(
    opened: Callable[..., Any], valkey: Server, namespace: str
) -> None:
    """They get what comes, only later."""
    store = opened(partitions=1)
    followers = Followers(store)
    store.append("r", [make_event("r", 1)])
    store.append("r", [make_event("r", 2)])
    assert len(list(store.read("r"))) == 2  # over a connection that the pool has from then on
    here = int(valkey.raw.info("clients")["connected_clients"])
    most = str(valkey.raw.config_get("maxclients")["maxclients"])
    valkey.raw.config_set("maxclients", here)
    try:
        followers.start("r")
        followers.await_count(2)
        time.sleep(0.3)
        store.append("r", [make_event("r", 3)])
        followers.await_count(3)
    finally:
        valkey.raw.config_set("maxclients", most)
    followers.end(store, "r")


@pytest.mark.one_in(2)
def test_a_follower_of_many_runs_waits_on_one_connection_for_each_partition(
    opened: Callable[..., Any], valkey: Server, namespace: str
) -> None:
    """And is woken at once by any of them."""
    store, run_ids = opened(), [f"run-{number}" for number in range(40)]
    given: list[str] = []

    def follow() -> None:
        given.extend(run_id for run_id, _ in store.follow_runs(run_ids))

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    for run_id in run_ids:
        store.append(run_id, [make_event(run_id, 1)])
    eventually(lambda: len(given) == 40)
    eventually(lambda: blocked(valkey, namespace) == PARTITIONS)
    began = time.monotonic()
    for run_id in run_ids:
        before = len(given)
        store.append(run_id, [make_event(run_id, 2, kind="run.finished")])
        eventually(lambda before=before: len(given) > before)  # type: ignore[misc] # bound at once
        assert given[-1] == run_id
    assert time.monotonic() - began < 40 * watched_streams.CALM_SECONDS / 10
    follower.join(watched_streams.CALM_SECONDS)
    assert not follower.is_alive()
    assert len(connections(valkey, namespace)) <= PARTITIONS + 4


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
def test_the_connections_go_when_nobody_follows(
    opened: Callable[..., Any], valkey: Server, namespace: str
) -> None:
    """A moment later; and there are new ones when somebody follows again."""
    store = opened(partitions=1)
    for run_id in "ab":
        followers = Followers(store)
        store.append(run_id, [make_event(run_id, 1)])
        followers.start(run_id, 5)
        followers.await_count(5)
        eventually(lambda: blocked(valkey, namespace) == 1)
        followers.end(store, run_id)
        eventually(lambda: blocked(valkey, namespace) == 0)


def test_closing_a_store_that_was_opened_by_its_url_closes_them(valkey: Server, namespace: str) -> None:
    """At once; a follower that goes on makes new ones."""
    store: Any = connect(f"{valkey.url}?namespace={namespace}&client_name={namespace}")
    store.append("r", [make_event("r", 1)])
    following = store.follow("r", idle_timeout=0.1)
    next(following)
    with pytest.raises(TimeoutError):
        next(following)
    assert len(connections(valkey, namespace)) > 1
    following = store.follow("r")
    next(following)
    store.close()
    assert not connections(valkey, namespace)
    threading.Timer(0.2, store.append, ["r", [make_event("r", 2, kind="run.finished")]]).start()
    assert [item.offset for item in following] == [2]


def follow_in_child(store: Any) -> None:
    """Follow in a forked child, which ends with 0 if it was given three events; in a minute in any case."""
    code = 1
    try:
        signal.alarm(60)
        seqs = []
        for item in store.follow("r"):
            seqs.append(item.event.seq)
            if seqs == [1]:
                threading.Timer(0.2, store.append, ["r", [make_event("r", 2)]]).start()
        code = 0 if seqs == [1, 2, 999] else 2
    finally:
        os._exit(code)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_follows_over_connections_of_its_own(valkey: Server, namespace: str) -> None:
    """And its parent's followers go on."""
    url = f"{valkey.url}?namespace={namespace}&client_name={namespace}&partitions=1"
    with connect(url) as store:
        store.append("r", [make_event("r", 1)])
        followers = Followers(store)
        followers.start("r", 3)
        followers.await_count(3)
        eventually(lambda: blocked(valkey, namespace) == 1)
        child = os.fork()
        if child == 0:
            follow_in_child(store)
        try:
            followers.await_count(6)
            eventually(lambda: blocked(valkey, namespace) == 2)
        finally:
            followers.end(store, "r")
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == 0


ENDING = """
import asyncio, os, sys, threading, runstream
url, how = sys.argv[1:]
store = runstream.connect(url)
def follow():
    for item in store.follow("r"):
        os.write(1, b"%d\\n" % item.offset)  # in one write: two threads' print() may mix their lines
async def tasks():
    async with runstream.connect_async(url) as store:
        async def follow():
            async for item in store.follow("r"):
                os.write(1, b"%d\\n" % item.offset)
        tasks = [asyncio.create_task(follow()) for _ in range(3)]
        await asyncio.sleep(0.5)
if how == "threads":
    threads = [threading.Thread(target=follow, daemon=True) for _ in range(3)]
    for thread in threads: thread.start()
    threads[0].join(0.5)
elif how == "tasks":
    asyncio.run(tasks())
else:
    follow()
"""


@pytest.mark.one_in(3)
@pytest.mark.parametrize("how", ["threads", "tasks", "interrupted"])
def test_a_process_with_followers_ends(valkey: Server, namespace: str, how: str) -> None:
    """At its end, or when it is interrupted, whatever its followers wait for."""
    url = f"{valkey.url}?namespace={namespace}&client_name={namespace}"
    with connect(url) as store:
        store.append("r", [make_event("r", 1)])
    process = Python([sys.executable, "-c", ENDING, url, how], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "1\n"
        began = time.monotonic()
        if how == "interrupted":
            eventually(lambda: blocked(valkey, namespace) == 1)
            process.send_signal(signal.SIGINT)
        code = process.wait(20)
    assert code == (-signal.SIGINT if how == "interrupted" else 0)
    assert time.monotonic() - began < 3
