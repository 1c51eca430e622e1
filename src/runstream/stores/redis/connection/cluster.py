"""The servers of a cluster: one single-server transport for each, of which several are asked at once."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from typing import TypeVar

from runstream.model.errors import RunstreamError, StoreUnavailable
from runstream.operations.forks import starts_anew
from runstream.operations.operation import Exchange, News, Replies, Wait, WaitAny
from runstream.stores.redis.connection import async_followers_hub, followers_hub
from runstream.stores.redis.connection.cluster_clients import ClusterClients
from runstream.stores.redis.connection.routing import Asked, Outcome, Router, Routing
from runstream.stores.redis.connection.single import AsyncSingleServerTransport, SingleServerTransport
from runstream.stores.redis.connection.slots import Address
from runstream.stores.redis.keys import hash_tag

__all__ = ["AsyncClusterTransport", "ClusterTransport"]

T = TypeVar("T")

_MOST_THREADS = 64


class ClusterTransport:
    """Sends to the servers of a cluster, to several at once: to all but the first of them in threads.

    Args:
        clients: How they are reached.
    """

    is_fake = False

    def __init__(self, clients: ClusterClients) -> None:
        self._router = Router(clients.startup, clients.remap)
        self._make = clients.make
        self.place = clients.place
        self._servers: dict[Address, SingleServerTransport] = {}
        self._first = self._server(clients.startup[0])
        self.max_block_seconds, self.user = self._first.max_block_seconds, self._first.user
        self._threads: ThreadPoolExecutor | None = None
        starts_anew(self)

    def _start_anew(self) -> None:
        """Have threads of its own: the others stayed with the parent."""
        self._threads = None

    def exchange(self, exchange: Exchange) -> Replies:
        """Send an exchange once; see :meth:`Transport.exchange`."""
        return self._route(self._router.exchange(exchange))

    def _route(self, routing: Routing[T]) -> T:
        try:
            asked = next(routing)
            while True:
                asked = routing.send(self._outcomes(asked))
        except StopIteration as stop:
            found: T = stop.value
            return found

    def _outcomes(self, asked: Sequence[Asked]) -> list[Outcome]:
        first, *others = asked
        if not others:
            return [self._outcome(first)]
        if (threads := self._threads) is None:
            threads = self._threads = ThreadPoolExecutor(_MOST_THREADS, "runstream-cluster")
        under_way = [threads.submit(self._outcome, one) for one in others]
        return [self._outcome(first), *(one.result() for one in under_way)]

    def _outcome(self, asked: Asked) -> Outcome:
        try:
            return self._server(asked.address).exchange(asked.exchange)
        except RunstreamError as error:
            return error

    def _server(self, address: Address) -> SingleServerTransport:
        found = self._servers.get(address)
        if found is None:
            self._servers = _without_gone(self._servers, self._router)
            made = SingleServerTransport(self._make(address), is_of_cluster=True)
            found = self._servers.setdefault(address, made)  # one step, if several threads come at once
        return found

    def wait(self, wait: Wait) -> News | None:
        """Wait until there may be something new in a stream; see :meth:`Transport.wait`."""
        try:
            return self._watch(hash_tag(wait.stream)).wait(wait)
        except StoreUnavailable:
            return None  # whoever waits looks, and repeats that

    def wait_any(self, wait: WaitAny) -> Mapping[int, News | None]:
        """Wait until there may be something new in one of several streams; see :meth:`Transport.wait_any`."""
        try:
            return followers_hub.wait_in_any(self._watch, wait)
        except StoreUnavailable:
            return dict.fromkeys(range(len(wait.waits)))

    def _watch(self, tag: str) -> followers_hub.Watch:
        """What waits for a partition, at whichever server has it."""
        return self.server_of(tag).hub.watch(tag)

    def servers(self) -> Sequence[SingleServerTransport]:
        """Those that have slots."""
        return [self._server(address) for address in self._route(self._router.slots()).primaries]

    def server_of(self, tag: str) -> SingleServerTransport:
        """Whichever has the keys with a hash tag."""
        return self._server(self._route(self._router.address_of(tag)))

    def turn(self) -> AbstractContextManager[object]:
        """What a follower is in while it sends."""
        return self._first.turn()

    def close(self) -> None:
        """Close the connections to all servers, and those of followers."""
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False)
        for server in tuple(self._servers.values()):
            server.close()


class AsyncClusterTransport:
    """Sends to the servers of a cluster, to several at once; line for line as the sync one."""

    is_fake = False

    def __init__(self, clients: ClusterClients) -> None:
        self._router = Router(clients.startup, clients.remap)
        self._make = clients.make
        self.place = clients.place
        self._servers: dict[Address, AsyncSingleServerTransport] = {}
        self._first = self._server(clients.startup[0])
        self.max_block_seconds = self._first.max_block_seconds

    async def exchange(self, exchange: Exchange) -> Replies:
        """Send an exchange once; see :meth:`Transport.exchange`."""
        return await self._route(self._router.exchange(exchange))

    async def _route(self, routing: Routing[T]) -> T:
        try:
            asked = next(routing)
            while True:
                asked = routing.send(await self._outcomes(asked))
        except StopIteration as stop:
            found: T = stop.value
            return found

    async def _outcomes(self, asked: Sequence[Asked]) -> list[Outcome]:
        first, *others = asked
        if not others:
            return [await self._outcome(first)]
        return await asyncio.gather(*map(self._outcome, asked))

    async def _outcome(self, asked: Asked) -> Outcome:
        try:
            return await self._server(asked.address).exchange(asked.exchange)
        except RunstreamError as error:
            return error

    def _server(self, address: Address) -> AsyncSingleServerTransport:
        found = self._servers.get(address)
        if found is None:
            self._servers = _without_gone(self._servers, self._router)
            made = AsyncSingleServerTransport.over(partial(self._make, address), is_of_cluster=True)
            found = self._servers.setdefault(address, made)
        return found

    async def wait(self, wait: Wait) -> News | None:
        """Wait until there may be something new in a stream; see :meth:`Transport.wait`."""
        tag = hash_tag(wait.stream)
        try:
            return await (await self._watches([tag]))[tag].wait(wait)
        except StoreUnavailable:
            return None  # whoever waits looks, and repeats that

    async def wait_any(self, wait: WaitAny) -> Mapping[int, News | None]:
        """Wait until there may be something new in one of several streams; see :meth:`Transport.wait_any`."""
        try:
            watches = await self._watches({hash_tag(one.stream) for one in wait.waits})
            return await async_followers_hub.wait_in_any(watches.__getitem__, wait)
        except StoreUnavailable:
            return dict.fromkeys(range(len(wait.waits)))

    async def _watches(self, tags: Collection[str]) -> dict[str, async_followers_hub.Watch]:
        """What waits for these partitions, at whichever server has each."""
        found: dict[str, async_followers_hub.Watch] = {}
        for tag in tags:
            server = self._server(await self._route(self._router.address_of(tag)))
            found[tag] = (await server.hub()).watch(tag)
        return found

    async def turn(self) -> AbstractAsyncContextManager[object]:
        """What a follower is in while it sends."""
        return await self._first.turn()

    async def close(self) -> None:
        """Close the connections to all servers, and those of followers."""
        for server in tuple(self._servers.values()):
            await server.close()


def _without_gone(servers: Mapping[Address, T], router: Router) -> dict[Address, T]:
    """Without those that have left the cluster: their connections go with the last exchange that uses them."""
    known = router.known
    return {address: server for address, server in tuple(servers.items()) if address in known}
