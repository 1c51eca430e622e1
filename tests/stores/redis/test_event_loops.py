"""An async store in more than one event loop: one after another, and at the same time."""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import fakeredis
import pytest
import redis.asyncio

from runstream import (
    AsyncRedisCheckpointer,
    ConfigurationError,
    DeltaBuffer,
    LeaseHeld,
    connect_async,
)
from tests.support.samples import make_event, make_state
from tests.support.servers import Server, eventually

T = TypeVar("T")
Make = Callable[[], Any]


def connections(server: Server, name: str) -> int:
    """How many connections the server has from clients of that name."""
    listed: Any = server.raw.client_list()
    return sum(one["name"] == name for one in listed)


@pytest.fixture(params=["url", "client", "blocking pool", "fake", "fake client"])
def make(
    request: pytest.FixtureRequest, servers: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Make]:
    """Makes a store over clients of every origin, in the loop that runs."""
    server: Server | None = None if request.param.startswith("fake") else servers.get("valkey")
    lent: list[Any] = []
    path: dict[str, Any] = {}
    if server is not None:
        path = {"unix_socket_path": server.socket_path, "client_name": namespace}

    async def make() -> Any:
        if request.param == "url":
            assert server is not None
            return await connect_async(f"{server.url}?client_name={namespace}&namespace={namespace}")
        if request.param == "fake":
            return await connect_async(f"fake:{namespace}")
        if request.param == "fake client":
            client: Any = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
        elif request.param == "client":
            client = redis.asyncio.Redis(**path)
        else:
            pool: Any = redis.asyncio.BlockingConnectionPool
            connection: Any = redis.asyncio.UnixDomainSocketConnection
            pooled = {"path": path["unix_socket_path"], "client_name": namespace}
            client = redis.asyncio.Redis(connection_pool=pool(connection_class=connection, **pooled))
        lent.append(client)
        return AsyncRedisCheckpointer(client, namespace=namespace)

    yield make
    gc.collect()  # what is ours is closed by now, or this warns; the caller's own is the caller's to close
    with warnings.catch_warnings(action="ignore"), monkeypatch.context() as patched:
        # redis-py before 6 closes them in a loop that is closed
        patched.setattr(sys, "unraisablehook", lambda _: None)
        lent.clear()
        gc.collect()
    if server is not None:
        server.raw.flushall()


@pytest.mark.exhaustive
@pytest.mark.one_in(4)
def test_one_loop_after_another(make: Make) -> None:
    """As `asyncio.run` for each call makes them, or one loop for each test."""
    store = asyncio.run(make())

    async def append(number: int) -> int:
        first: int = (await store.append("r", [make_event("r", number)])).first_offset
        await store.save_snapshot("r", make_state("r"))
        assert [found.offset async for found in store.read("r")] == list(range(1, number + 1))
        return first

    assert [asyncio.run(append(number)) for number in range(1, 9)] == list(range(1, 9))
    asyncio.run(store.close())


@pytest.mark.exhaustive
@pytest.mark.one_in(4)
def test_loops_that_live_at_once(make: Make) -> None:
    """Threads with a loop each append to one run, and follow it."""
    store = asyncio.run(make())

    async def work(lane: int) -> int:
        async def append() -> None:
            for number in range(1, 31):
                await store.append("r", [make_event("r", number, lane_id=f"lane{lane}")])

        async def follow() -> int:
            seen = 0
            async for _ in store.follow("r"):
                seen += 1
                if seen == 90:
                    break
            return seen

        seen, *_ = await asyncio.gather(follow(), append())
        return seen

    with ThreadPoolExecutor(3) as threads:
        found = [threads.submit(asyncio.run, work(lane)) for lane in range(3)]
        assert [one.result(60) for one in found] == [90] * 3
    asyncio.run(store.close())


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize("make", ["url", "fake"], indirect=True)
def test_a_lease_and_a_run_meet_another_loop(make: Make) -> None:
    """They go on there: the lease is renewed, held text is sent, and no lock belongs to the old loop."""
    store = asyncio.run(make())

    async def begin() -> Any:
        run = await store.open_run("r", lease_ttl=0.6, deltas=DeltaBuffer(max_milliseconds=50))
        await asyncio.gather(*(run.emit("tool.result", {"n": number}) for number in range(5)))
        await run.emit_delta("held back")
        return run

    async def go_on(run: Any) -> None:
        await asyncio.gather(*(run.emit("tool.result", {"n": number}) for number in range(5)))
        await asyncio.sleep(1.2)
        assert not run.lease.lost
        with pytest.raises(LeaseHeld):
            await store.lease("r", lane_id="main", owner="another")
        await run.emit_delta("and more")
        for _ in range(500):
            if (await store.run_info("r")).last_offset == 12:
                break
            await asyncio.sleep(0.01)
        assert [found.event.seq async for found in store.read("r")] == list(range(1, 13))
        await run.close()
        await store.close()

    asyncio.run(go_on(asyncio.run(begin())))


@pytest.mark.one_in(4)
def test_callers_of_two_loops_wait_for_one_outcome(make: Make) -> None:
    """One Run in two threads with a loop each: one call at a time, and each number once."""
    store = asyncio.run(make())

    async def open_run() -> Any:
        return await store.open_run("r")

    run = asyncio.run(open_run())

    async def emit() -> None:
        await asyncio.gather(*(run.emit("tool.result") for _ in range(20)))

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(asyncio.run, emit()) for _ in range(2)]:
            done.result(60)

    async def numbers() -> list[int]:
        return [found.event.seq async for found in store.read("r")]

    assert asyncio.run(numbers()) == list(range(1, 41))
    asyncio.run(store.close())


@pytest.mark.exhaustive
@pytest.mark.parametrize("make", ["url", "client"], indirect=True)
def test_connections_end_with_their_loop_or_their_store(make: Make, servers: Any, namespace: str) -> None:
    """And those of the caller's client are the caller's."""
    server = servers.get("valkey")

    async def open_and_lend() -> Any:
        store = await make()
        await store.append("r", [make_event("r", 1)])
        return store

    async def append(store: Any) -> None:
        await asyncio.gather(*(store.append("r", [make_event("r", 2)]) for _ in range(5)))

    store = asyncio.run(open_and_lend())
    lent = connections(server, namespace)
    for _ in range(5):
        asyncio.run(append(store))
        eventually(lambda: connections(server, namespace) <= lent)

    async def use_and_close() -> None:
        await append(store)
        assert connections(server, namespace) > lent
        await store.close()
        eventually(lambda: connections(server, namespace) <= lent)

    asyncio.run(use_and_close())


async def test_a_client_serves_the_loop_it_was_used_in_and_is_never_reconfigured(server: Server) -> None:
    """Other loops have clients of the same settings; a pool of another class has no like."""

    class Pool(redis.asyncio.ConnectionPool):
        pass

    def pool(kind: Any) -> Any:
        return kind(connection_class=redis.asyncio.UnixDomainSocketConnection, path=server.socket_path)

    async with redis.asyncio.Redis(connection_pool=pool(Pool)) as client:
        before = dict(client.connection_pool.connection_kwargs)
        store: Any = AsyncRedisCheckpointer(client, namespace="another")
        await store.append("r", [make_event("r", 1)])
        refused, second = make_event("r", 3), make_event("r", 2)
        for call in (store.append("r", [refused]), store.save_events([refused, make_event("r", 4)])):
            with pytest.raises(ConfigurationError, match="Pool serves the event loop"):
                await asyncio.to_thread(asyncio.run, call)
        assert (await store.append("r", [second])).first_offset == 2
        assert [event.seq for event in await store.list_events("r")] == [1, 2], (
            "what was refused is not sent later"
        )
        assert client.connection_pool.connection_kwargs == before
        await store.close()
        assert await client.ping()
        await client.connection_pool.disconnect()
    server.raw.flushall()
