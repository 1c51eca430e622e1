"""Which transport reaches a server: chosen by the URL, or by the client that a caller passes in.

A further topology is a transport in a file of its own beside :mod:`~runstream.stores.redis.connection.single`, and
a line here.
"""

from __future__ import annotations

from functools import partial
from types import UnionType

import redis
import redis.asyncio

from runstream.model.errors import ConfigurationError
from runstream.stores.redis.connection.clients import (
    AsyncClient,
    Client,
    fake_client_maker,
    open_async_client,
    open_client,
    open_fake_client,
)
from runstream.stores.redis.connection.cluster import AsyncClusterTransport, ClusterTransport
from runstream.stores.redis.connection.cluster_clients import (
    CLUSTER_SCHEMES,
    like_async_cluster,
    like_cluster,
    of_url,
)
from runstream.stores.redis.connection.sentinel import SENTINEL_SCHEMES
from runstream.stores.redis.connection.single import AsyncSingleServerTransport, SingleServerTransport
from runstream.stores.redis.connection.transport import AsyncTransport, Transport

__all__ = [
    "SERVER_SCHEMES",
    "async_transport_of",
    "has_own_connections",
    "open_async_transport",
    "open_transport",
    "transport_of",
]

SERVER_SCHEMES = ("redis", "rediss", "unix", *SENTINEL_SCHEMES, *CLUSTER_SCHEMES)
"""Of URLs that lead to servers somewhere else."""

_FAKE = "fake:"


def open_transport(url: str) -> Transport:
    """Make the transport that a URL names. It connects when it is first used.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://`` or ``redis+cluster://`` with
            redis-py's own options in the query, or ``fake:NAME``.

    Returns:
        The transport; whoever opened it closes it.

    Raises:
        ConfigurationError: The URL does not read, or ``fake:`` lacks fakeredis.
    """
    if url.startswith(_FAKE):
        return SingleServerTransport(open_fake_client(url.removeprefix(_FAKE)))
    if url.partition(":")[0] in CLUSTER_SCHEMES:
        return ClusterTransport(of_url(url, open_client))
    return SingleServerTransport(open_client(url))


def open_async_transport(url: str) -> AsyncTransport:
    """Make the transport that a URL names, for asyncio; see :func:`open_transport`."""
    if url.startswith(_FAKE):
        return AsyncSingleServerTransport.over(fake_client_maker(url.removeprefix(_FAKE)))
    if url.partition(":")[0] in CLUSTER_SCHEMES:
        return AsyncClusterTransport(of_url(url, open_async_client))
    return AsyncSingleServerTransport.over(partial(open_async_client, url))


def transport_of(client: Client | Transport) -> Transport:
    """The transport over a client of redis-py; a transport is its own.

    Raises:
        ConfigurationError: The client decodes replies, or is none of redis-py's.
    """
    if isinstance(client, Transport):
        return client
    if isinstance(client, redis.RedisCluster):
        return ClusterTransport(like_cluster(client))
    _check_client(client, "connect")
    if _is_a(client, redis.asyncio.Redis | redis.asyncio.RedisCluster):
        raise ConfigurationError("that is a client for asyncio: pass it to an AsyncRedisCheckpointer")
    return SingleServerTransport(client)


def async_transport_of(client: AsyncClient | AsyncTransport) -> AsyncTransport:
    """The transport over a client of redis-py for asyncio; a transport is its own.

    Raises:
        ConfigurationError: The client decodes replies, or is none of redis-py's.
    """
    if isinstance(client, AsyncTransport):
        return client
    if isinstance(client, redis.asyncio.RedisCluster):
        return AsyncClusterTransport(like_async_cluster(client))
    _check_client(client, "connect_async")
    if _is_a(client, redis.Redis | redis.RedisCluster):
        raise ConfigurationError(
            "that client is none for asyncio: pass a redis.asyncio.Redis, or this one to a RedisCheckpointer"
        )
    return AsyncSingleServerTransport(client)


def has_own_connections(client: Client | Transport) -> bool:
    """Whether the transport over a client makes connections of its own, to be closed with whoever uses it."""
    return isinstance(client, redis.RedisCluster)


def _is_a(client: object, others: type[object] | UnionType) -> bool:
    """Whether it is of a class that the types say it is not."""
    return isinstance(client, others)


def _check_client(client: object, opener: str) -> None:
    """Raise ConfigurationError for what is no client; ``opener`` opens a URL."""
    if isinstance(client, str):  # it may hold a password: it is not shown
        raise ConfigurationError(f"that is a URL, and no client of redis-py: open it with runstream.{opener}(url)")
    if getattr(client, "connection_pool", getattr(client, "nodes_manager", None)) is None:
        raise ConfigurationError(
            f"no client of redis-py: {type(client).__qualname__}; pass a redis.Redis, a redis.RedisCluster, or one"
            " of redis.asyncio"
        )
