"""Followers that are cancelled while events arrive: on Python 3.11 redis-py loses such a cancellation."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from typing import Any

import pytest
import redis.asyncio

from runstream import connect_async
from runstream.operations.operation import Exchange
from runstream.stores.redis.connection.driver import AsyncDriver
from runstream.stores.redis.connection.single import AsyncSingleServerTransport
from tests.support.exhaustive import ROUNDS
from tests.support.samples import make_event
from tests.support.servers import Server

FOLLOWERS = 50


async def cancel_amid_events(url: str, namespace: str, rounds: int, seed: int) -> int:
    """Cancel followers at moments of all kinds; each ends within a second, as cancelled. Gives how many."""
    dice, tried = random.Random(seed), 0
    async with connect_async(f"{url}?namespace={namespace}", retry_seconds=1) as store:

        async def follow(run_id: str) -> None:
            async for _ in store.follow(run_id):
                await asyncio.sleep(0)

        for number in range(rounds):
            run_id = f"r{number}"
            followers = [asyncio.create_task(follow(run_id)) for _ in range(FOLLOWERS)]

            async def write(run_id: str = run_id) -> None:
                for seq in range(1, 10_000):
                    await store.append(run_id, [make_event(run_id, seq)])
                    await asyncio.sleep(dice.random() * 0.004)

            writer = asyncio.create_task(write())
            await asyncio.sleep(0.15)
            for follower in followers:
                await asyncio.sleep(dice.random() * 0.004)
                follower.cancel()
            writer.cancel()  # now nothing comes any more: whoever has lost it would wait for long
            began = time.monotonic()
            _, left = await asyncio.wait(followers, timeout=10)
            took = time.monotonic() - began
            assert not left, f"{len(left)} of {FOLLOWERS} go on"
            assert all(follower.cancelled() for follower in followers)
            assert took < 1, f"the last of them took {took:.1f} s"
            tried += len(followers)
            await asyncio.wait([writer])
    return tried


@pytest.mark.exhaustive
@pytest.mark.one_in(3)
@pytest.mark.timeout(60)
async def test_a_cancelled_follower_ends(server: Server, namespace: str) -> None:
    """Always, and within a second."""
    assert await cancel_amid_events(server.url, namespace, 3, 1) == 3 * FOLLOWERS
    server.raw.flushall()


@pytest.mark.exhaustive
@pytest.mark.one_in(1, exhaustively=3)  # what is cancelled is here, and not at the server
@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_cancelled_followers_end(server: Server, namespace: str, seed: int) -> None:
    """The same, at many more moments."""
    assert await cancel_amid_events(server.url, namespace, 40, seed)
    server.raw.flushall()


class _Losing(redis.asyncio.Redis):
    """A client that loses the cancellation of what it sends, and then waits, fails or replies."""

    ending = ""
    calls = 0

    async def execute_command(self, *_: Any, **__: Any) -> Any:
        """Lose one cancellation."""
        self.calls += 1
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        if self.ending == "waits":
            await asyncio.sleep(60)
        if self.ending == "fails":
            raise redis.ConnectionError("no answer")
        return None


@pytest.mark.parametrize("ending", ["waits", "fails", "replies"])
async def test_a_lost_cancellation_comes_again(ending: str) -> None:
    """However the exchange goes on, its task ends cancelled, once, and sends nothing more."""
    client = _Losing()
    client.ending = ending
    driver = AsyncDriver(AsyncSingleServerTransport(client), 5.0)
    task = asyncio.create_task(driver.exchange(Exchange([(b"PING",)])))
    await asyncio.sleep(0.01)
    task.cancel()
    _, left = await asyncio.wait([task], timeout=1)
    assert not left
    assert task.cancelled()
    assert task.cancelling() == 1
    assert client.calls == 1
