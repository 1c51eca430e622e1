"""In a cluster: opened by URL and by client, each command at the server that has its slot, and several at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.cluster import LoadBalancingStrategy

from runstream import (
    AsyncRedisCheckpointer,
    ConfigurationError,
    RedisCheckpointer,
    StoreUnavailable,
    connect,
    connect_async,
)
from runstream.stores.redis.connection.cluster import ClusterTransport
from tests.support.backends import Backend
from tests.support.cluster import Cluster, ClusterBackend
from tests.support.kinds import CLUSTER
from tests.support.samples import make_event
from tests.support.servers import Server, eventually, free_port, needs_server

pytestmark = needs_server
RUNS = [f"run{number}" for number in range(24)]


@pytest.fixture
def backend(make_backend: Any) -> ClusterBackend:
    made: Backend = make_backend(*CLUSTER)
    assert isinstance(made, ClusterBackend)
    return made


@pytest.fixture
def cluster(backend: ClusterBackend) -> Cluster:
    return backend.cluster


@pytest.fixture
def url(backend: ClusterBackend) -> str:
    return f"{backend.cluster.url}?namespace={backend.namespace}"


def test_a_cluster_is_opened_by_some_of_its_servers(cluster: Cluster, url: str) -> None:
    """Runs lie on all of them, and one call for many of them finds all."""
    with connect(url) as store:
        store.save_events([make_event(run_id, 1) for run_id in RUNS])
        assert sorted(store.list_runs()) == sorted(RUNS)
        assert {run_id: len(store.list_events(run_id)) for run_id in RUNS} == dict.fromkeys(RUNS, 1)
        assert repr(store).startswith("<RedisCheckpointer redis+cluster://127.0.0.1:")
    assert all(node.raw.dbsize() for node in cluster.primaries)


async def test_tasks_find_it_too(cluster: Cluster, url: str) -> None:
    async with connect_async(url) as store:
        await store.save_events([make_event(run_id, 1) for run_id in RUNS])
        assert sorted(await store.list_runs()) == sorted(RUNS)
    assert all(node.raw.dbsize() for node in cluster.primaries)


async def test_clients_of_a_cluster_are_taken_as_they_are(backend: ClusterBackend) -> None:
    """Their settings are; they stay open, and what was opened beside them is closed with the store."""
    with closing(redis.RedisCluster(**backend.cluster.startup, client_name="mine")) as client:
        with RedisCheckpointer[Any, Any](client, namespace=backend.namespace) as store:
            store.save_events([make_event(run_id, 1) for run_id in RUNS])
            assert len(clients_named(backend.cluster, "mine")) >= len(backend.cluster.primaries)
        eventually(lambda: len(clients_named(backend.cluster, "mine")) <= 1)
        assert client.get("a") is None
    awaited: Any = redis.asyncio.RedisCluster(**backend.cluster.startup, client_name="awaited")
    async with AsyncRedisCheckpointer[Any, Any](awaited, namespace=backend.namespace) as other:
        assert sorted(await other.list_runs()) == sorted(RUNS)
        assert len(clients_named(backend.cluster, "awaited")) >= len(backend.cluster.primaries)
    await asyncio.to_thread(eventually, lambda: not clients_named(backend.cluster, "awaited"))
    assert await awaited.get("a") is None
    await awaited.aclose()


def clients_named(cluster: Cluster, name: str) -> list[Any]:
    return [one for node in cluster.nodes for one in node.raw.client_list() if one["name"] == name]


@pytest.fixture
def others(cluster: Cluster) -> Iterator[Any]:
    strategy = LoadBalancingStrategy.ROUND_ROBIN
    with closing(redis.RedisCluster(**cluster.startup, load_balancing_strategy=strategy)) as client:
        yield client


async def test_what_does_not_fit_is_refused_by_name(cluster: Cluster, others: Any, servers: Any) -> None:
    server: Server = servers.get(cluster.name)
    with pytest.raises(ConfigurationError, match="reads from replicas"):
        RedisCheckpointer(others)
    awaited: Any = redis.asyncio.RedisCluster(**cluster.startup)
    with pytest.raises(ConfigurationError, match="that is a client for asyncio"):
        RedisCheckpointer(awaited)
    await awaited.aclose()
    port = cluster.nodes[0].port
    with pytest.raises(ConfigurationError, match=r"redis\+cluster://HOST:PORT"):
        connect(f"redis://127.0.0.1:{port}")
    assert server.raw.ping()


@pytest.mark.parametrize("url", ["redis+cluster://", "redis+cluster://host:x", "rediss+cluster://a,,b"])
def test_a_url_that_names_no_server_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"cluster://host:6379,host:6379"):
        connect(url)


def test_where_no_server_answers_it_is_said() -> None:
    port = free_port()
    with pytest.raises(StoreUnavailable, match="Connection refused") as caught:
        connect(f"redis+cluster://:secret@127.0.0.1:{port}?retry_seconds=0")
    assert "secret" not in str(caught.value)


def test_a_forked_or_closed_store_has_threads_and_connections_of_its_own(url: str) -> None:
    """A transport that was closed begins anew, as those of single servers do."""
    with connect(url) as store:
        store.save_events([make_event(run_id, 1) for run_id in RUNS])
        driver: Any = store
        transport = driver._driver._transport
        assert isinstance(transport, ClusterTransport)
        transport.close()
        transport._start_anew()
        store.save_events([make_event(run_id, 2) for run_id in RUNS])
        assert {len(store.list_events(run_id)) for run_id in RUNS} == {2}
