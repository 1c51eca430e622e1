"""A store waits at its opening as at every other call: for a server that is away, not ready, full or cut off."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import pytest
import redis

from runstream import AsyncRedisCheckpointer, RedisCheckpointer, StoreUnavailable, connect, connect_async
from runstream.testing import Fault, FaultProxy
from tests.support.backends import Blocking, LoopThread
from tests.support.samples import make_events
from tests.support.servers import DEADLINE_SECONDS, PROGRAMS, Node, Servers, eventually, needs_server

pytestmark = needs_server

NAME = next(iter(PROGRAMS), "")

Open = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def open_store(request: pytest.FixtureRequest, loop_thread: LoopThread) -> Iterator[Open]:
    """Open a store by its URL, sync or async; its methods are the sync one's."""
    with ExitStack() as opened:

        def open_sync(url: str, **options: Any) -> Any:
            return opened.enter_context(connect(url, **options))

        async def awaited(url: str, options: dict[str, Any]) -> Any:
            return await connect_async(url, **options)

        def open_async(url: str, **options: Any) -> Any:
            return opened.enter_context(Blocking(loop_thread, loop_thread.run(awaited(url, options))))

        yield open_sync if request.param == "sync" else open_async


@pytest.fixture
def directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="runstream-") as path:
        yield path


def waits_until(
    opening: Callable[[], Any], is_refused: Callable[[], object], make_ready: Callable[[], object]
) -> Any:
    """The opening is refused, and succeeds when the server is ready."""
    with ThreadPoolExecutor(1) as thread:
        opened = thread.submit(opening)
        eventually(is_refused)
        assert not opened.done()
        make_ready()
        return opened.result(DEADLINE_SECONDS)


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
def test_a_server_that_is_not_up_yet(open_store: Open, servers: Servers, namespace: str) -> None:
    """Its port refuses."""
    server = servers.get(NAME)
    with FaultProxy(server.url) as proxy:
        proxy.refuse()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="the store is not open"):
            open_store(proxy.url, namespace=namespace, retry_seconds=0.3)
        assert time.monotonic() - began < 5
        store = waits_until(
            lambda: open_store(proxy.url, namespace=namespace, retry_seconds=DEADLINE_SECONDS),
            lambda: time.monotonic() - began > 1,
            proxy.restore,
        )
        assert store.append("r", make_events("r", 2)).last_offset == 2
    server.raw.delete(*server.raw.scan_iter(f"{{{namespace}*"))


@pytest.mark.exhaustive
@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    "fault", [Fault.DROP_REPLY, Fault.DROP_REQUEST, Fault.CUT_REPLY], ids=lambda each: each.value
)
def test_a_connection_that_is_cut_in_the_middle(
    open_store: Open, servers: Servers, namespace: str, fault: Fault
) -> None:
    """Whichever round trip of the opening that is: nothing is left half done."""
    server = servers.get(NAME)
    with FaultProxy(server.url) as proxy:
        open_store(proxy.url, namespace=f"{namespace}-counted")
        trips = proxy.round_trips
        assert trips >= 4
        for at in range(1, trips + 1):
            name = f"{namespace}-{at}"
            proxy.reset()
            proxy.arm(fault, at=at)
            open_store(proxy.url, namespace=name, partitions=4)
            assert proxy.struck == 1
            assert len(list(server.raw.scan_iter(f"{{{name}*"))) == 5
    server.raw.delete(*server.raw.scan_iter(f"{{{namespace}*"))


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
def test_a_server_that_loads_what_it_has(open_store: Open, directory: str) -> None:
    node = Node(NAME, directory)
    node.raw.mset({f"filler:{number}": os.urandom(100_000) for number in range(400)})
    node.raw.save()
    node.end()
    with closing(_Ended(Node(NAME, directory, "--key-load-delay", "3000"))) as loading:
        store = open_store(f"unix://{loading.node.socket_path}", retry_seconds=DEADLINE_SECONDS)
        assert loading.node.raw.info("errorstats")["errorstat_LOADING"]["count"] > 0
        assert store.append("r", make_events("r", 2)).last_offset == 2


def test_a_server_that_takes_no_more_clients(open_store: Open, directory: str) -> None:
    with closing(_Ended(Node(NAME, directory))) as running:
        raw = running.node.raw
        raw.config_set("maxclients", 1)
        url = f"unix://{running.node.socket_path}"
        store = waits_until(
            lambda: open_store(url, retry_seconds=DEADLINE_SECONDS),
            lambda: raw.info("stats")["rejected_connections"] > 1,
            lambda: raw.config_set("maxclients", 100),
        )
        assert store.append("r", make_events("r", 2)).last_offset == 2


class _Ended:
    """A server that ends when this is closed."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def close(self) -> None:
        self.node.end()


@pytest.mark.one_in(2)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_callers_own_client(servers: Servers, namespace: str, is_async: bool, loop_thread: LoopThread) -> None:
    """It is waited for as one of ours."""
    server = servers.get(NAME)
    with FaultProxy(server.url) as proxy:
        proxy.refuse()

        def opened() -> int:
            options: dict[str, Any] = {"namespace": namespace, "retry_seconds": DEADLINE_SECONDS}
            if not is_async:
                with redis.Redis.from_url(proxy.url, retry=None) as client:
                    return (
                        RedisCheckpointer[Any, Any](client, **options).append("r", make_events("r", 2)).last_offset
                    )

            async def work() -> int:
                async with redis.asyncio.Redis.from_url(proxy.url) as client:
                    store = await AsyncRedisCheckpointer[Any, Any](client, **options).open()
                    return (await store.append("r", make_events("r", 2))).last_offset

            return int(loop_thread.run(work()))

        began = time.monotonic()
        assert waits_until(opened, lambda: time.monotonic() - began > 0.5, proxy.restore) == 2
    server.raw.delete(*server.raw.scan_iter(f"{{{namespace}*"))
