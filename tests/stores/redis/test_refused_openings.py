"""An opening that is refused leaves nothing behind in the server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fakeredis
import pytest

from runstream import AsyncRedisCheckpointer, ConfigurationError, RedisCheckpointer, connect
from tests.support.samples import make_event
from tests.support.servers import PROGRAMS, Server, Servers


@pytest.fixture
def a_server(servers: Servers) -> Server:
    """Any real server."""
    if not PROGRAMS:
        pytest.skip("this machine has no server")
    return servers.get(next(iter(PROGRAMS)))


@contextmanager
def emptied(server: Server) -> Iterator[None]:
    """Leave no key behind."""
    yield
    server.raw.flushall()


def test_a_namespace_whose_own_key_was_lost_is_known_by_its_partitions() -> None:
    """It keeps its number, whoever opens it next."""
    with connect("fake:lost-config?partitions=4") as store:
        store.save_event(make_event("r"))
    raw: Any = fakeredis.FakeRedis(host="lost-config")
    assert raw.delete("{runstream}:config") == 1
    with pytest.raises(ConfigurationError, match="has 4 partitions, not 8"):
        connect("fake:lost-config?partitions=8")
    assert not raw.exists("{runstream}:config")
    with connect("fake:lost-config") as store:
        assert store.list_runs() == ["r"]
    assert raw.hget("{runstream}:config", "partitions") == b"4"


REFUSED = {
    "another number": ("partitions=3", {"{n:0}:config": b"4", "{n:1}:config": b"4"}),
    "partitions that disagree": ("", {"{n:0}:config": b"4", "{n:2}:config": b"5"}),
    "another program's key": ("", {"{n:0}:config": b"x"}),
    "no such number": ("partitions=100000", {}),
    "another durability": ("durability=fsync", {}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_opening_that_is_refused_leaves_nothing_behind(a_server: Server, name: str) -> None:
    query, there = REFUSED[name]
    with emptied(a_server):
        for key, number in there.items():
            a_server.raw.hset(key, "partitions", number)
        with pytest.raises(ConfigurationError):
            connect(f"{a_server.url}?namespace=n&{query}")
        assert sorted(a_server.raw.keys("*n*")) == sorted(key.encode() for key in there)


def test_an_opening_whose_server_evicts_leaves_nothing_behind(a_server: Server) -> None:
    with emptied(a_server):
        a_server.raw.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(ConfigurationError):
                connect(f"{a_server.url}?namespace=n")
        finally:
            a_server.raw.config_set("maxmemory-policy", "noeviction")
        assert a_server.raw.keys("*") == []


def test_what_is_no_client_is_refused_by_name() -> None:
    nothing: Any = object()
    for kind in (RedisCheckpointer, AsyncRedisCheckpointer):
        with pytest.raises(ConfigurationError, match="no client of redis-py: object"):
            kind(nothing)
