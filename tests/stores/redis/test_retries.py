"""A call is repeated for as long as it was asked to be."""

from __future__ import annotations

import time
from typing import Any

import pytest

from runstream.model.errors import StoreUnavailable
from runstream.operations.operation import Exchange, Replies
from runstream.stores.redis.connection.driver import AsyncDriver, SyncDriver


class _Away:
    """The way to a server that comes back after so many tries."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def exchange(self, exchange: Exchange) -> Replies:
        self.failures -= 1
        if self.failures >= 0:
            raise StoreUnavailable("away")
        return [b"there" for _ in exchange.commands]


class _AsyncAway(_Away):
    async def exchange(self, exchange: Exchange) -> Replies:  # type: ignore[override] # awaited
        return super().exchange(exchange)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses, which take no time."""
    found: list[float] = []

    async def sleep(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr(time, "sleep", found.append)
    monkeypatch.setattr("runstream.stores.redis.connection.driver.asyncio.sleep", sleep)
    return found


async def test_a_call_is_repeated_as_long_as_the_server_is_away(pauses: list[float]) -> None:
    """Also when it has failed thousands of times: the pauses grow no further."""
    away: Any = _Away(5_000)
    assert SyncDriver(away, 10_000).exchange(Exchange([(b"PING",)])) == [b"there"]
    away = _AsyncAway(5_000)
    assert await AsyncDriver(away, 10_000).exchange(Exchange([(b"PING",)])) == [b"there"]
    assert len(pauses) == 10_000
    assert 0.4 < max(pauses) <= 0.5
