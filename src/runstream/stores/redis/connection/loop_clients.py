"""The asyncio clients of one store, one for each event loop: a connection belongs to the loop that made it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any, NamedTuple

from runstream.operations.forks import starts_anew
from runstream.stores.redis.connection.client_settings import abandon_connections

__all__ = ["LoopClients"]

_of_parents: list[Any] = []
"""Clients of the process that this one was forked from: kept, as giving them up would close their connections."""


class _LoopClient(NamedTuple):
    """A loop's client, and what closes it together with the loop; None for a client that was lent."""

    client: Any
    closing: AsyncGenerator[None, None] | None


class LoopClients:
    """One client for each event loop that asks, closed with its loop, or all of them together.

    Args:
        make: Makes a client.
        lent: A client of the caller's, which serves the first loop that asks and is never closed; None: none.
    """

    def __init__(self, make: Callable[[], Any], lent: Any = None) -> None:
        self._make = make
        self._lent: list[Any] = [] if lent is None else [lent]
        self._to_lend = self._lent[:]
        self._clients: dict[asyncio.AbstractEventLoop, _LoopClient] = {}
        starts_anew(self)

    async def get(self) -> Any:
        """The client of the loop that runs."""
        loop = asyncio.get_running_loop()
        found = self._clients.get(loop)
        return found.client if found is not None else await self._begin(loop)

    async def _begin(self, loop: asyncio.AbstractEventLoop) -> Any:
        for other in tuple(self._clients):
            if other.is_closed():
                self._clients.pop(other, None)
        try:
            client = self._to_lend.pop()  # one step: loops in other threads may ask for it too
        except IndexError:
            pass
        else:
            self._clients[loop] = _LoopClient(client, None)
            return client
        client = self._make()
        closing = _close_with_loop(client)
        self._clients[loop] = _LoopClient(client, closing)
        await anext(closing)  # from now on the loop knows of it
        return client

    async def close(self) -> None:
        """Close the clients that were made here. Another loop closes its own when it next runs."""
        for loop, (_, closing) in tuple(self._clients.items()):
            if closing is None:
                continue
            self._clients.pop(loop, None)
            if loop.is_closed():
                continue
            if loop is asyncio.get_running_loop():
                await closing.aclose()
            else:
                with suppress(RuntimeError):  # it was closed just now
                    asyncio.run_coroutine_threadsafe(closing.aclose(), loop)

    def _start_anew(self) -> None:
        """Have no client: the connections are the parent's, and so is what a caller lent."""
        clients = [*self._lent, *(client for client, _ in self._clients.values())]
        for client in clients:
            abandon_connections(client)
        _of_parents.extend((clients, self._clients))
        self._clients, self._lent, self._to_lend = {}, [], []


async def _close_with_loop(client: Any) -> AsyncGenerator[None, None]:
    """Close a client when its loop ends: a loop closes the async generators that were begun in it."""
    try:
        yield
    finally:
        await client.aclose(close_connection_pool=True)
