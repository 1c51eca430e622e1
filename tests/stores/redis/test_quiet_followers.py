"""Followers of runs in which nothing happens for long: over clients of every origin, and through proxies."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
import redis.asyncio

from runstream import RedisCheckpointer, StoreUnavailable, connect, connect_async
from runstream.stores.redis.connection.single import AsyncSingleServerTransport, SingleServerTransport
from runstream.testing import FaultProxy
from tests.support.samples import make_event
from tests.support.servers import Server

URL = "redis://localhost:6379"
CLIENTS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda library: library.Redis(),
    "from_url": lambda library: library.Redis.from_url(URL),
    "from_url with a timeout": lambda library: library.Redis.from_url(f"{URL}?socket_timeout=2"),
    "no timeout": lambda library: library.Redis(socket_timeout=None),
    "a short timeout": lambda library: library.Redis(socket_timeout=0.5),
    "a pool": lambda library: library.Redis(connection_pool=library.ConnectionPool()),
    "a pool from a url": lambda library: library.Redis(connection_pool=library.ConnectionPool.from_url(URL)),
    "from_pool": lambda library: library.Redis.from_pool(library.ConnectionPool()),
    "a pool that waits": lambda library: library.Redis(connection_pool=library.BlockingConnectionPool()),
}


@pytest.mark.parametrize("library", [redis, redis.asyncio], ids=["sync", "async"])
@pytest.mark.parametrize("how", CLIENTS)
def test_one_read_blocks_for_less_than_its_client_waits(how: str, library: Any) -> None:
    """Whatever the client was made from: a connection is asked."""
    client = CLIENTS[how](library)
    pool = client.connection_pool
    timeout = pool.connection_class(**pool.connection_kwargs).socket_timeout
    transport: Any = (SingleServerTransport if library is redis else AsyncSingleServerTransport)(client)
    assert 0 < transport.max_block_seconds <= (5 if timeout is None else timeout / 2)


class QuickConnection(redis.UnixDomainSocketConnection):
    """Waits for a moment, as its pool does not know."""

    def __init__(self, **options: Any) -> None:
        connect: Any = super().__init__
        connect(**{"socket_timeout": 0.3, **options})


@contextmanager
def appending_after(store: Any, seconds: float) -> Iterator[None]:
    """Append an event that ends the run, after these seconds."""
    timer = threading.Timer(seconds, store.append, ["r", [make_event("r", 2, kind="run.finished")]])
    timer.start()
    yield
    timer.join()


@pytest.mark.one_in(3)
def test_a_follower_outlasts_its_clients_timeout(server: Server, namespace: str) -> None:
    """The run is quiet for longer than the client waits for any reply."""
    pool = redis.ConnectionPool(connection_class=QuickConnection, path=server.socket_path)
    store: Any = RedisCheckpointer(redis.Redis(connection_pool=pool), namespace=namespace, retry_seconds=0)
    store.append("r", [make_event("r", 1)])
    with appending_after(store, 0.7):
        assert [found.offset for found in store.follow("r")] == [1, 2]
    pool.disconnect()
    server.raw.flushall()


@pytest.mark.one_in(3)
def test_who_waits_for_an_answer_and_who_follows_disturb_nobody(server: Server, namespace: str) -> None:
    """In one process, over one client: they look at other fields of the run, again and again."""
    pool = redis.ConnectionPool(connection_class=QuickConnection, path=server.socket_path)
    store: Any = RedisCheckpointer(redis.Redis(connection_pool=pool), namespace=namespace, retry_seconds=0)
    given: list[Any] = []
    with store.open_run("r") as run:
        run.pause("May I?")
        follower = threading.Thread(target=lambda: given.extend(store.follow("r")))
        follower.start()
        timer = threading.Timer(0.4, store.answer, ["r", "Yes"])
        timer.start()
        assert run.wait() == "Yes"
        run.finish()
    follower.join()
    timer.join()
    assert [item.offset for item in given] == list(range(1, store.run_info("r").last_offset + 1))
    pool.disconnect()
    server.raw.flushall()


@contextmanager
def cutting(server: Server, proxy: FaultProxy, every_seconds: float) -> Iterator[None]:
    """Cut all connections again and again, whenever somebody waits on a quiet one."""
    is_over = threading.Event()

    def cut() -> None:
        while not is_over.wait(every_seconds):
            if server.raw.info("clients")["blocked_clients"]:
                proxy.cut()

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize("archive", [None, "sqlite:{dir}/a.db"])
def test_a_follower_outlasts_a_proxy_that_cuts_quiet_connections(
    servers: Any, namespace: str, tmp_path: Any, archive: str | None
) -> None:
    """For five times as long as a server may be away: each reconnect succeeds."""
    server = servers.get("valkey")
    with FaultProxy(server.url) as proxy:
        url = f"{proxy.url}?namespace={namespace}&retry_seconds=0.2"
        place = None if archive is None else archive.format(dir=tmp_path)
        with connect(url, archive=place) as store, connect(f"{server.url}?namespace={namespace}") as writer:
            writer.append("r", [make_event("r", 1)])
            with cutting(server, proxy, 0.1), appending_after(writer, 1):
                assert [found.offset for found in store.follow("r")] == [1, 2]
    server.raw.flushall()


@pytest.mark.exhaustive
async def test_an_async_follower_outlasts_it_too(servers: Any, namespace: str) -> None:
    """The same, for asyncio."""
    server = servers.get("valkey")
    with FaultProxy(server.url) as proxy:
        url = f"{proxy.url}?namespace={namespace}&retry_seconds=0.2"
        async with connect_async(url) as store:
            with connect(f"{server.url}?namespace={namespace}") as writer:
                writer.append("r", [make_event("r", 1)])
                with cutting(server, proxy, 0.1), appending_after(writer, 1):
                    assert [found.offset async for found in store.follow("r")] == [1, 2]
    server.raw.flushall()


@pytest.mark.exhaustive
def test_a_follower_of_a_server_that_is_away_ends_in_time(servers: Any, namespace: str) -> None:
    """After `retry_seconds` from the last success, not twice that."""
    server = servers.get("valkey")
    with FaultProxy(server.url) as proxy, connect(f"{proxy.url}?namespace={namespace}&retry_seconds=1") as store:
        store.append("r", [make_event("r", 1)])
        following = store.follow("r")
        next(following)

        def leave() -> None:
            proxy.refuse()
            proxy.cut()

        threading.Timer(0.2, leave).start()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            next(following)
        assert time.monotonic() - began < 2
    server.raw.flushall()
