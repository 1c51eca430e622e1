"""Clients of the servers of a cluster: for ``redis+cluster://HOST:PORT,…``, or like a RedisCluster of redis-py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff

from runstream.model.errors import ConfigurationError
from runstream.stores.redis.connection.client_settings import own_settings
from runstream.stores.redis.connection.slots import Address, Remap
from runstream.stores.redis.connection.url_options import addresses_in

__all__ = ["CLUSTER_SCHEMES", "ClusterClients", "like_async_cluster", "like_cluster", "of_url"]

CLUSTER_SCHEMES: Mapping[str, str] = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
"""By scheme, the one of a server of it."""

_PORT = 6379


class ClusterClients(NamedTuple):
    """How the servers of a cluster are reached.

    Attributes:
        startup: Some of them, at which it is reached.
        make: Makes a client of one server.
        place: Where it leads, for people to read.
        remap: Where a server is reached that says that it has some address; None: there.
    """

    startup: Sequence[Address]
    make: Callable[[Address], Any]
    place: str
    remap: Remap | None = None


def of_url(url: str, open_one: Callable[[str], Any]) -> ClusterClients:
    """What a URL says of a cluster.

    Args:
        url: The URL.
        open_one: Makes a client of the server that a URL names.

    Raises:
        ConfigurationError: It names no server.
    """
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    startup = addresses_in(hosts, _PORT)
    if startup is None:
        raise ConfigurationError(
            f"{parts.scheme}: names servers of a cluster, one at least: {parts.scheme}://host:6379,host:6379"
        )
    options = parts.path + (f"?{parts.query}" if parts.query else "")

    def make(address: Address) -> Any:
        return open_one(f"{CLUSTER_SCHEMES[parts.scheme]}://{user}{at}{_shown(address)}{options}")

    return ClusterClients(startup, make, f"{parts.scheme}://{','.join(map(_shown, startup))}")


def _shown(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def like_cluster(client: redis.RedisCluster) -> ClusterClients:
    """What is taken over of a sync client."""
    return _like(client, partial(_make, client.nodes_manager))


def like_async_cluster(client: redis.asyncio.RedisCluster) -> ClusterClients:
    """What is taken over of a client for asyncio."""
    return _like(client, partial(_make_async, client.connection_kwargs))


def _like(client: Any, make: Callable[[Address], Any]) -> ClusterClients:
    if getattr(client, "read_from_replicas", False) or getattr(client, "load_balancing_strategy", None):
        raise ConfigurationError(
            "the client reads from replicas, which may lack what was acknowledged: pass a RedisCluster without"
            " read_from_replicas and load_balancing_strategy"
        )
    manager = client.nodes_manager
    startup = [(str(node.host), int(node.port)) for node in manager.startup_nodes.values()]
    place = f"redis+cluster://{','.join(map(_shown, startup))}"
    return ClusterClients(startup, make, place, getattr(manager, "address_remap", None))


def _make(manager: Any, address: Address) -> redis.Redis:
    host, port = address
    client: redis.Redis = manager.create_redis_node(host, port, **own_settings(manager.connection_kwargs))
    return client


def _make_async(kwargs: Mapping[str, Any], address: Address) -> redis.asyncio.Redis:
    host, port = address
    settings = own_settings(kwargs) | {"host": host, "port": port, "retry": AsyncRetry(NoBackoff(), 0)}
    return redis.asyncio.Redis(connection_pool=redis.asyncio.ConnectionPool(**settings))
