"""What is asked of every server of a cluster is answered by the one that is least fit."""

from __future__ import annotations

from typing import Any

import pytest

from runstream.model.errors import ConfigurationError
from runstream.operations.operation import Refusal
from runstream.stores.redis.connection.clients import open_client
from runstream.stores.redis.connection.cluster_clients import of_url
from runstream.stores.redis.connection.every_server import least, least_reached
from runstream.stores.redis.connection.slots import SlotMap
from runstream.stores.redis.replies import parse_info

REFUSED = Refusal(ConfigurationError("no"))


def info(**facts: object) -> bytes:
    return "".join(f"{name}:{value}\r\n" for name, value in facts.items()).encode()


def test_one_server_that_evicts_or_is_old_or_keeps_no_file_is_told_of() -> None:
    fit = {"redis_version": "7.2.4", "maxmemory_policy": "noeviction", "aof_enabled": 1, "connected_slaves": 2}
    of_all = {"used_memory": 10, "role": "master", "uptime": 1}
    others = {"redis_version": "6.2.1", "maxmemory_policy": "allkeys-lru", "aof_enabled": 0, "connected_slaves": 1}
    told = parse_info(least((b"INFO",), [info(**fit, **of_all), info(**others, used_memory=5, role="slave")]))
    assert told == {**{name: str(value) for name, value in others.items()}, "used_memory": "15", "role": "slave"}


SYNCED = {b"appendonly": b"yes", b"appendfsync": b"always", b"no-appendfsync-on-rewrite": b"no"}
WHOLE, PARTIAL = ({"aof_enabled": 1, "aof_rewrite_in_progress": 1, "aof_base_size": size} for size in (9, 0))
UNSYNCED = [b"appendonly", b"no", b"appendfsync", b"always"]  # as redis-py gives it by the older protocol


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ([2, 1, 3], 1),
        ([[1, 2], [0, 3]], [0, 2]),
        ([SYNCED, SYNCED], SYNCED),
        *(([SYNCED, less, SYNCED], less) for less in ({**SYNCED, b"appendfsync": b"everysec"}, UNSYNCED)),
        ([info(**WHOLE), info(**PARTIAL)], info(**PARTIAL)),
        ([2, REFUSED], REFUSED),
    ],
)
def test_the_least_that_was_reached_counts(replies: list[Any], expected: Any) -> None:
    assert least_reached(replies) == expected


def test_one_server_whose_file_is_not_whole_is_told_of() -> None:
    assert parse_info(least((b"INFO",), [info(**WHOLE), info(**PARTIAL)]))["aof_base_size"] == "0"


def test_no_server_has_a_later_time() -> None:
    assert least((b"TIME",), [[b"5", b"9"], [b"5", b"10"], [b"4", b"99"]]) == [b"5", b"10"]


def test_a_server_without_a_name_is_where_it_was_reached() -> None:
    """And one whose address is another's to others is found by what the client was told of that."""
    reply = [[0, 5, [b"", 6379, b"id"]], [6, 9, [b"10.0.0.2", 6380, b"id"], [None, 6381, b"id"]], [10, 12]]
    found = SlotMap.parse(reply, ("here", 1), None)
    assert [found.address_of(slot) for slot in (0, 5, 6)] == [("here", 6379), ("here", 6379), ("10.0.0.2", 6380)]
    assert found.nodes == [("here", 6379), ("10.0.0.2", 6380), ("here", 6381)]
    moved = SlotMap.parse(reply, ("here", 1), lambda address: ("nat", address[1]))
    assert moved.address_of(7) == ("nat", 6380)
    assert moved.fingerprint != found.fingerprint


def test_servers_are_reached_as_the_url_says() -> None:
    clients = of_url("rediss+cluster://me:pw@[::1]:7000,b/?socket_timeout=2", open_client)
    assert clients.startup == (("::1", 7000), ("b", 6379))
    assert clients.place == "rediss+cluster://[::1]:7000,b:6379"
    client = clients.make(("::2", 7001))
    settings = client.connection_pool.connection_kwargs
    assert (settings["host"], settings["port"], settings["password"]) == ("::2", 7001, "pw")
    assert "SSL" in client.connection_pool.connection_class.__name__
    assert client.connection_pool.connection_kwargs["socket_timeout"] == 2
