"""The way of an event loop to the simulated server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from runstream.operations.operation import Exchange, News, Replies, Wait, WaitAny
from runstream.stores.redis.connection.single import AsyncSingleServerTransport
from runstream.stores.redis.connection.transport import Transport
from runstream.testing.simulation.server import BLOCK_SECONDS, SimulatedServer, SimulatedTransport

__all__ = ["AsyncOneByOneTransport", "AsyncSimulatedTransport"]


class AsyncSimulatedTransport:
    """The way of an event loop to the server: that of its process, each round trip of which a thread makes.

    Whoever awaits one may be cancelled meanwhile; what was sent arrives all the same, early or late.

    Args:
        way: The way of the process.
    """

    is_fake = True
    place = "fake:"
    max_block_seconds = BLOCK_SECONDS

    def __init__(self, way: Transport) -> None:
        self._way = way

    async def exchange(self, exchange: Exchange) -> Replies:
        """Send an exchange once, if chance lets it arrive."""
        return await asyncio.to_thread(self._way.exchange, exchange)

    async def wait(self, wait: Wait) -> News | None:
        """Wait a little: whoever waits looks then."""
        return await asyncio.to_thread(self._way.wait, wait)

    async def wait_any(self, wait: WaitAny) -> Mapping[int, News | None]:
        """Wait a little: whoever waits looks then."""
        return await asyncio.to_thread(self._way.wait_any, wait)

    async def turn(self) -> AbstractAsyncContextManager[object]:
        """A simulated server has connections for all."""
        return nullcontext()

    async def close(self) -> None:
        """Nothing is open."""


class AsyncOneByOneTransport(AsyncSimulatedTransport):
    """The same by the transport for asyncio itself, of one server that executes commands one by one.

    Whoever awaits an exchange may be cancelled between any two of its commands: the rest is not executed then.

    Args:
        server: The server.
        way: The way of the process.
    """

    is_fake = False

    def __init__(self, server: SimulatedServer, way: SimulatedTransport) -> None:
        super().__init__(way)
        self._server, self._of_process = server, way
        self._node: Any = None

    async def exchange(self, exchange: Exchange) -> Replies:
        """Send an exchange once, if chance lets it arrive."""
        since = self._of_process.claimed_since(exchange)
        trip = self._of_process.trip(exchange, since)
        result: Any = None
        try:
            while True:
                wait = trip.send(result)
                result = await (self._execute(exchange, since) if wait is None else asyncio.to_thread(wait))
        except StopIteration as ended:
            return ended.value  # type: ignore[no-any-return] # as the trip has it

    async def _execute(self, exchange: Exchange, since: int) -> Replies:
        way, courses = self._of_process, self._server.courses
        node = way.connected()
        if node is not self._node:
            self._node, self._to_node = node, AsyncSingleServerTransport.over(node.async_client)
        sent = exchange._replace(confirm=())  # fakeredis has no WAIT
        with courses.taken(way.course(sent, since)) as course:
            replies = await self._to_node.exchange(sent)
            if exchange.confirm:
                await courses.let_others_go_on_async(course)
        return way.executed(node, exchange, replies)
