"""What was erased is done with once the server's own files were written anew, and not before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from runstream import RedisCheckpointer
from runstream.model.erasures import ErasedPlace
from runstream.stores.redis.connection.embedded_server import EmbeddedServer
from tests.support.backends import Backend
from tests.support.drain_tools import Hot
from tests.support.kinds import REAL, short
from tests.support.samples import make_events
from tests.support.servers import PROGRAMS, Server, eventually

SECRET = b"a secret that nobody is to read"


@pytest.fixture(params=short(REAL))
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Hot, Path]]:
    """A server of the test's own with an append-only file, a client of it, and a store with a secret in a run."""
    with EmbeddedServer(str(tmp_path / "data"), program=PROGRAMS[request.param]) as server:
        client = redis.Redis(unix_socket_path=server.socket_path)
        with closing(client), closing(RedisCheckpointer[Any, Any](client)) as hot:
            client.config_set("rdbcompression", "no")
            hot.append("r", make_events("r", 3, payload={"text": SECRET.decode()}))
            yield client, hot, tmp_path / "data"


def is_in_files(directory: Path) -> bool:
    """Whether the secret is in a file of the server's."""
    return any(SECRET in path.read_bytes() for path in directory.rglob("*") if path.is_file())


def place_of(hot: Hot) -> ErasedPlace:
    """What has become of the last erasure in Redis."""
    return hot.erasures("r")[-1].places[0]


def test_a_done_erasure_is_in_no_file_of_the_server(own: tuple[Any, Hot, Path]) -> None:
    client, hot, directory = own
    assert is_in_files(directory)
    hot.erase("r", [1, 2])
    eventually(lambda: place_of(hot).done)
    assert is_in_files(directory)  # the third event has it still
    assert hot.erase("r", [3]).places[0].reason
    eventually(lambda: place_of(hot).done)
    assert not is_in_files(directory)
    rewrites = client.info("persistence").get("aof_rewrites")
    assert all(place.done for one in hot.erasures("r") for place in one.places)
    assert client.info("persistence").get("aof_rewrites") == rewrites


def test_a_user_who_may_not_ask_is_told_what_to_run(own: tuple[Any, Hot, Path]) -> None:
    client, _, directory = own
    client.execute_command(
        "ACL", "SETUSER", "agent", "on", "nopass", "~*", "&*", "+@all", "-bgrewriteaof", "-bgsave"
    )
    socket = client.connection_pool.connection_kwargs["path"]
    with (
        closing(redis.Redis(unix_socket_path=socket, username="agent", password="x")) as limited,
        closing(RedisCheckpointer[Any, Any](limited)) as agent,
    ):
        agent.erase("r", [1, 2, 3])
        assert place_of(agent) == ErasedPlace(
            "Redis",
            False,
            "its append-only file must be rewritten, which its user may not ask for",
            "redis-cli BGREWRITEAOF",
        )
        assert is_in_files(directory)
        client.bgrewriteaof()
        eventually(lambda: place_of(agent).done)
    assert not is_in_files(directory)


def test_a_server_without_an_append_only_file_saves_another_dump(own: tuple[Any, Hot, Path]) -> None:
    client, hot, directory = own
    client.config_set("appendonly", "no")
    client.config_set("save", "3600 1000000")
    client.save()
    assert SECRET in (directory / "dump.rdb").read_bytes()
    hot.erase("r", [1, 2, 3])
    eventually(lambda: place_of(hot).done)
    assert SECRET not in (directory / "dump.rdb").read_bytes()


def test_a_server_that_was_started_anew_is_asked_again(own: tuple[Any, Hot, Path]) -> None:
    """What it was asked for ended with it."""
    client, hot, directory = own
    client.execute_command("CONFIG", "SET", "rdb-key-save-delay", 20_000)
    hot.append("r", make_events("r", 200, first=4))
    hot.erase("r", [1, 2, 3])
    assert not place_of(hot).done
    keys = hot._operations.session.keys.run("r")
    noted = client.hget(keys.erasures, "files").split()
    client.hset(keys.erasures, "files", b" ".join([*noted[:2], b"another", *noted[3:]]))
    client.execute_command("CONFIG", "SET", "rdb-key-save-delay", 0)
    eventually(lambda: place_of(hot).done)
    assert not is_in_files(directory)


@pytest.mark.one_in(3)
def test_a_full_server_says_that_it_is_not_done(server: Server, make_backend: Callable[[str], Backend]) -> None:
    hot: Any = make_backend(server.name).open(retry_seconds=0)
    hot.append("r", make_events("r", 3, payload={"text": SECRET.decode()}))
    server.raw.config_set("maxmemory", 1)
    try:
        pending = hot.erase("r", [2]).places[0]
        assert (pending.done, "no memory" in pending.reason) == (False, True)
    finally:
        server.raw.config_set("maxmemory", 0)
    eventually(lambda: place_of(hot).done)
    assert [item.offset for item in hot.read("r")] == [1, 3]
