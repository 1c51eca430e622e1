"""The asyncio clients of one store, one for each event loop: a connection belongs to the loop that made it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from functools import partial
from typing import Any, NamedTuple

from runstream.operations.forks import starts_anew
from runstream.stores.redis.connection.async_followers_hub import AsyncFollowersHub, async_hub_of
from runstream.stores.redis.connection.client_settings import abandon, connections_of
from runstream.stores.redis.connection.shared_connection import SharedConnection, shared_connection_of
from runstream.stores.redis.scripts.script import Script

__all__ = ["LoopClient", "LoopClients"]

_of_parents: list[Any] = []
"""Clients of the process that this one was forked from: kept, as giving them up would close their connections."""


class LoopClient(NamedTuple):
    """What one event loop has.

    Attributes:
        client: Its client.
        hub: What its followers wait in.
        shared: The connection that its tasks share; None: all goes over the client's pool.
        closing: Closes all of it together with the loop, but for a client that was lent.
        loading: The scripts that are being sent to the server.
    """

    client: Any
    hub: AsyncFollowersHub
    shared: SharedConnection | None
    closing: AsyncGenerator[None, None]
    loading: dict[Script, asyncio.Task[object]]

    async def load(self, script: Script) -> None:
        """Let the server have a script: once, if many tasks need it at a time."""
        loading = self.loading.get(script)
        if loading is None:
            sent = self.client.execute_command(b"SCRIPT", b"LOAD", script.source)
            loading = self.loading[script] = asyncio.get_running_loop().create_task(sent)
            loading.add_done_callback(partial(self._loaded, script))
        await asyncio.wait([loading])
        loading.result()

    def _loaded(self, script: Script, loading: asyncio.Task[object]) -> None:
        del self.loading[script]
        if not loading.cancelled():
            loading.exception()  # nobody is to complain of it if nobody waits any more


class LoopClients:
    """One client for each event loop that asks, closed with its loop, or all of them together.

    Args:
        make: Makes a client.
        look_seconds: How often followers look whether something is new that comes in no stream.
        lent: A client of the caller's, which serves the first loop that asks and is never closed; None: none.
        shares: Whether the tasks of a loop share a connection beside its client's pool.
    """

    def __init__(
        self, make: Callable[[], Any], look_seconds: float, lent: Any = None, *, shares: bool = False
    ) -> None:
        self._make = make
        self._look_seconds = look_seconds
        self._lent: list[Any] = [] if lent is None else [lent]
        self._to_lend = self._lent[:]
        self._shares = shares
        self._clients: dict[asyncio.AbstractEventLoop, LoopClient] = {}
        starts_anew(self)

    def found(self) -> LoopClient | None:
        """What the loop that runs has; None: nothing yet."""
        return self._clients.get(asyncio.get_running_loop())

    async def get(self) -> LoopClient:
        """What the loop that runs has."""
        return self.found() or await self._begin(asyncio.get_running_loop())

    async def _begin(self, loop: asyncio.AbstractEventLoop) -> LoopClient:
        for other in tuple(self._clients):
            if other.is_closed():
                self._clients.pop(other, None)
        try:
            client = self._to_lend.pop()  # one step: loops in other threads may ask for it too
        except IndexError:
            client = self._make()
            made = client
        else:
            made = None
        hub = async_hub_of(client, self._look_seconds)
        shared = shared_connection_of(client) if self._shares else None
        begun = self._clients[loop] = LoopClient(client, hub, shared, _close_with_loop(hub, shared, made), {})
        await anext(begun.closing)  # from now on the loop knows of it
        return begun

    async def close(self) -> None:
        """Close the clients that were made here, and what followers wait in. Another loop does so when it runs."""
        for loop, begun in tuple(self._clients.items()):
            if begun.client in self._lent:
                closing: Coroutine[Any, Any, None] = begun.hub.close()
            else:
                closing = begun.closing.aclose()
                self._clients.pop(loop, None)
            if loop is asyncio.get_running_loop():
                await closing
            elif loop.is_closed():
                closing.close()
            else:
                try:
                    asyncio.run_coroutine_threadsafe(closing, loop)
                except RuntimeError:  # it was closed just now
                    closing.close()

    def _start_anew(self) -> None:
        """Have no client: the connections are the parent's, and so is what a caller lent."""
        begun = list(self._clients.values())
        for client in (*self._lent, *(one.client for one in begun)):
            abandon(connections_of(client))
        for one in begun:
            abandon(one.hub.connections)
            abandon(() if one.shared is None else one.shared.connections)
        _of_parents.extend((self._lent, self._clients))
        self._clients, self._lent, self._to_lend = {}, [], []


async def _close_with_loop(
    hub: AsyncFollowersHub, shared: SharedConnection | None, client: Any
) -> AsyncGenerator[None, None]:
    """Close a client, and what is beside its pool, when its loop ends; ``client`` is None if it was lent.

    A loop closes the async generators that were begun in it.
    """
    try:
        yield
    finally:
        await hub.close()
        if shared is not None:
            await shared.close()
        if client is not None:
            await client.aclose(close_connection_pool=True)
