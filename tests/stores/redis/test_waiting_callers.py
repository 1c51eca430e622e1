"""P2: while one caller finds out what became of an append without a reply, the others wait, and send nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest

from runstream import StoreUnavailable, connect, connect_async
from runstream.testing import Fault, FaultProxy
from tests.support.samples import make_events
from tests.support.servers import DEADLINE_SECONDS, Server, Servers, eventually, needs_valkey

pytestmark = needs_valkey

WAITING = 8
WATCHED_SECONDS = 0.5
EVENTS = make_events("r", 1 + WAITING)


@pytest.fixture
def server(servers: Servers, namespace: str) -> Iterator[Server]:
    """A server, from which the namespace is removed."""
    server = servers.get("valkey")
    yield server
    if left := list(server.raw.scan_iter(f"{{{namespace}*", count=1000)):
        server.raw.delete(*left)


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultProxy]:
    with FaultProxy(server.url) as proxy:
        yield proxy


def url_of(proxy: FaultProxy, namespace: str) -> str:
    return f"{proxy.url}?namespace={namespace}&partitions=1&retry_seconds=0"


def hang(proxy: FaultProxy) -> None:
    """Let whoever sends the append again wait for the reply."""
    proxy.reset()
    proxy.arm(Fault.DELAY, delay_seconds=DEADLINE_SECONDS)


def commands_of(server: Server) -> int:
    return int(server.raw.info("stats")["total_commands_processed"])


def check(offsets: list[int], held: list[Any]) -> None:
    """Each append was applied once: the one that got no reply is the first."""
    assert sorted(offsets) == list(range(1, 2 + WAITING))
    assert offsets[0] == 1
    assert [item.event.seq for item in held] == [EVENTS[offsets.index(item.offset)].seq for item in held]


def test_threads_that_wait_send_nothing(server: Server, proxy: FaultProxy, namespace: str) -> None:
    with connect(url_of(proxy, namespace)) as store, ThreadPoolExecutor(1 + WAITING) as threads:
        store.append("other", make_events("other", 1))  # the rights are asked for
        proxy.arm(Fault.DROP_REPLY)
        with pytest.raises(StoreUnavailable):
            store.append("r", EVENTS[:1])
        hang(proxy)
        try:
            first = threads.submit(store.append, "r", EVENTS[:1])
            eventually(lambda: proxy.struck)
            others = [threads.submit(store.append, "r", [event]) for event in EVENTS[1:]]
            eventually(lambda: all(other.running() for other in others))
            before = commands_of(server)
            assert not wait([first, *others], WATCHED_SECONDS, "FIRST_COMPLETED").done
            assert commands_of(server) - before < WAITING
        finally:
            proxy.disarm()
        offsets = [appending.result(DEADLINE_SECONDS).first_offset for appending in (first, *others)]
        check(offsets, list(store.read("r")))


async def test_tasks_that_wait_send_nothing(server: Server, proxy: FaultProxy, namespace: str) -> None:
    async with connect_async(url_of(proxy, namespace)) as store:
        await store.append("other", make_events("other", 1))  # the rights are asked for
        proxy.arm(Fault.DROP_REPLY)
        with pytest.raises(StoreUnavailable):
            await store.append("r", EVENTS[:1])
        hang(proxy)
        try:
            first = asyncio.create_task(store.append("r", EVENTS[:1]))
            await asyncio.to_thread(eventually, lambda: proxy.struck)
            others = [asyncio.create_task(store.append("r", [event])) for event in EVENTS[1:]]
            await asyncio.sleep(0)  # each has begun
            before = commands_of(server)
            done, _ = await asyncio.wait(
                [first, *others], timeout=WATCHED_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            assert not done
            assert commands_of(server) - before < WAITING
        finally:
            proxy.disarm()
        offsets = [appended.first_offset for appended in await asyncio.gather(first, *others)]
        check(offsets, [item async for item in store.read("r")])
