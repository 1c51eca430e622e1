"""From a URL to a store: every scheme, what is refused and how it is said, and what survives."""

from __future__ import annotations

import os
import pickle
import socketserver
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fakeredis
import pytest
import redis
import redis.asyncio

from runstream import (
    AsyncRedisCheckpointer,
    ConfigurationError,
    DrainWorker,
    InMemoryCheckpointer,
    JSONLCheckpointer,
    PayloadTooLarge,
    RedisCheckpointer,
    SQLiteCheckpointer,
    StoreUnavailable,
    connect,
    connect_async,
)
from runstream.stores.redis.connection.clients import open_async_client, open_client
from tests.support.operations import operations_of, session_of
from tests.support.samples import make_event, make_state
from tests.support.servers import PROGRAMS, Server, Servers, free_port, needs_server, tcp_server

PASSWORD = "s3cret-pass"


@pytest.fixture
def a_server(servers: Servers) -> Server:
    """One real server, whichever there is."""
    if not PROGRAMS:
        pytest.skip("this machine has no server")
    return servers.get(next(iter(PROGRAMS)))


@pytest.fixture(scope="module")
def tcp_port() -> Iterator[int]:
    """A server of this module's own that wants a password, at a loopback port."""
    if not PROGRAMS:
        pytest.skip("this machine has no server")
    with tcp_server(PASSWORD) as port:
        yield port


@contextmanager
def emptied(server: Server) -> Iterator[None]:
    """Leave nothing on a shared server: the test opens namespaces by URL."""
    try:
        yield
    finally:
        server.raw.flushdb()


def works(store: Any) -> None:
    """The store keeps an event and a snapshot."""
    store.append("opening", [make_event("opening")], snapshot=make_state("opening"))
    assert len(store.list_events("opening")) == 1
    assert store.load_latest("opening") is not None
    assert store.delete_run("opening")


# -- schemes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory:", InMemoryCheckpointer),
        ("fake:", RedisCheckpointer),
        ("sqlite:{dir}/runs.db", SQLiteCheckpointer),
        ("jsonl:{dir}/runs", JSONLCheckpointer),
    ],
)
async def test_a_url_opens_the_store_that_it_names(tmp_path: Path, url: str, kind: type[Any]) -> None:
    url = url.format(dir=tmp_path)
    with connect(url) as store:
        assert type(store) is kind
        works(store)
    async with connect_async(url) as awaited:
        assert (await awaited.append("r", [make_event("r")]))[:2] == (1, 1)
        assert [item.offset async for item in awaited.read("r")] == [1]
        assert await awaited.list_runs() == ["r"]
        assert await awaited.delete_run("r")


async def test_a_unix_socket_is_opened(a_server: Server) -> None:
    with emptied(a_server):
        with connect(a_server.url) as store:
            works(store)
        async with connect_async(f"{a_server.url}?namespace=other&partitions=2") as awaited:
            await awaited.save_event(make_event("r"))
            assert await awaited.list_runs() == ["r"]
        assert a_server.raw.exists("{other:0}:config", "{other:1}:config") == 2


async def test_a_tcp_server_is_opened(tcp_port: int) -> None:
    url = f"redis://:{PASSWORD}@127.0.0.1:{tcp_port}/0"
    with connect(url) as store:
        works(store)
    async with connect_async(url) as awaited:
        assert await awaited.list_runs() == []


@needs_server
async def test_an_embedded_server_is_started_and_shared(tmp_path: Path) -> None:
    url = f"embedded:{quote(str(tmp_path / 'a dir'))}"
    with connect(url) as store:
        store.save_event(make_event("r"))
        with connect(url) as another:
            assert another.list_runs() == ["r"]
        async with connect_async(url) as awaited:
            assert await awaited.list_runs() == ["r"]
        assert store.list_runs() == ["r"]
    with connect(url) as store:
        assert store.list_runs() == ["r"]


def test_a_fake_server_is_shared_by_its_name() -> None:
    with connect("fake:here") as store, connect("fake:here") as same, connect("fake:there") as other:
        store.save_event(make_event("r"))
        assert same.list_runs() == ["r"]
        assert other.list_runs() == []
    with connect("fake:") as store, connect("fake:") as other:
        store.save_event(make_event("r"))
        assert other.list_runs() == []


@pytest.mark.parametrize("opener", [open_client, open_async_client])
def test_a_tls_url_makes_a_tls_client(opener: Any) -> None:
    client = opener("rediss://user:pass@example.invalid:7000/3")
    pool = client.connection_pool
    assert issubclass(pool.connection_class, redis.SSLConnection | redis.asyncio.SSLConnection)
    known = {name: pool.connection_kwargs[name] for name in ("host", "port", "db", "username", "password")}
    assert known == {"host": "example.invalid", "port": 7000, "db": 3, "username": "user", "password": "pass"}


def test_the_environment_names_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNSTREAM_URL", f"sqlite:{tmp_path}/runs.db")
    with connect() as store:
        assert isinstance(store, SQLiteCheckpointer)
    monkeypatch.delenv("RUNSTREAM_URL")
    with pytest.raises(ConfigurationError, match="RUNSTREAM_URL"):
        connect()
    with pytest.raises(ConfigurationError, match="RUNSTREAM_URL"):
        connect_async()


def test_a_path_may_be_percent_encoded(tmp_path: Path) -> None:
    with connect(f"jsonl:{quote(str(tmp_path / 'a ? #dir'))}") as store:
        store.save_event(make_event("r"))
    assert (tmp_path / "a ? #dir").is_dir()


# -- options ---------------------------------------------------------------------------------------------


def test_options_stand_in_the_query_or_are_arguments() -> None:
    with connect("fake:options?namespace=dev&partitions=3&max_event_bytes=500&durability=primary") as store:
        assert isinstance(store, RedisCheckpointer)
        assert session_of(store).namespace == "dev"
        assert session_of(store).codec.max_event_bytes == 500
    with connect("fake:options", namespace="dev", state_type=dict, fallback=None) as store:
        store.save_snapshot("r", {"a": 1})
        assert store.load_latest("r") == {"a": 1}
        with pytest.raises(ConfigurationError, match="has 3 partitions"):
            connect("fake:options", namespace="dev", partitions=4)
    with connect("memory:?max_event_bytes=500", max_event_bytes=700) as store:
        assert isinstance(store, InMemoryCheckpointer)
        assert operations_of(store).codec.max_event_bytes == 700, "an argument is nearer than the query"


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        ("", {}, "RUNSTREAM_URL"),
        ("nonsense", {}, "scheme"),
        ("http://host", {}, "redis"),
        ("postgres://user:hunter2@host/db", {}, "scheme"),
        ("Redis://localhost", {}, "scheme"),
        ("/a/path", {}, "scheme"),
        ("memory:?namespace=x", {}, "namespace"),
        ("memory:", {"namespace": "x"}, "namespace"),
        ("sqlite:", {}, "path"),
        ("jsonl:", {}, "path"),
        ("embedded:", {}, "path"),
        ("sqlite:x.db?mode=ro", {}, "mode"),
        ("fake:", {"colour": "red"}, "colour"),
        ("fake:?colour=red", {}, "colour"),
        ("fake:?partitions=many", {}, "partitions"),
        ("fake:?partitions=0", {}, "partitions"),
        ("fake:?partitions=100000", {}, "partitions"),
        ("fake:?max_event_bytes=x", {}, "max_event_bytes"),
        ("fake:?namespace=", {}, "namespace"),
        ("fake:?namespace=a:b", {}, "namespace"),
        ("fake:", {"namespace": "{x}"}, "namespace"),
        ("fake:", {"namespace": "x" * 65}, "namespace"),
        ("fake:", {"namespace": 5}, "namespace"),
        ("fake:", {"event_type": int}, "from_dict"),
        ("fake:", {"state_type": int}, "state_type"),
        ("fake:?durability=disk", {}, "durability"),
        ("fake:", {"durability": "replicated"}, "durability"),
        ("fake:?partitions=hunter2", {}, "partitions in the URL does not read"),
        ("fake:?retry_seconds=hunter2", {}, "retry_seconds in the URL does not read"),
        ("fake:?resend_lost=hunter2", {}, "resend_lost in the URL does not read"),
        ("fake:?durability=hunter2", {}, "durability='hun…'"),
        ("fake:?namespace=hunter2!", {}, "namespace 'hun…'"),
        ("sqlite:x.db?keep_snapshots=hunter2", {}, "keep_snapshots in the URL does not read"),
        ("redis://:hunter2@host:notaport", {}, "notaport|port"),
        ("redis://:hunter2@host?no_such_option=1", {}, "no_such_option"),
        ("redis://:hunter2@host?decode_responses=True", {}, "decode_responses"),
    ],
)
async def test_what_cannot_be_opened_says_why(url: str, options: dict[str, Any], said: str) -> None:
    """The message names what is wrong, and never shows a password."""
    with pytest.raises(ConfigurationError, match=said) as caught:
        connect(url, **options)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigurationError, match=said) as caught:
        await connect_async(url, **options)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@127.0.0.1:{port}/0",
        "redis://user:hunter2@127.0.0.1:{port}/0?socket_timeout=x",
        "redis://127.0.0.1:{port}/0?password=hunter2",
        "redis://127.0.0.1:{port}/0?password=hunter2&socket_timeout=x",
        "rediss://user:hunter2@127.0.0.1:{port}",
        "redis://user:hunter2@[::1/0",
        "redi://user:hunter2@host",
        "redi://host?password=hunter2",
        "user:hunter2@host",
    ],
)
def test_no_error_shows_a_password(url: str) -> None:
    with pytest.raises((ConfigurationError, StoreUnavailable)) as caught:
        connect(url.format(port=free_port()), retry_seconds=0)
    assert "hunter2" not in str(caught.value)


def test_a_namespace_keeps_its_number_of_partitions() -> None:
    with connect("fake:partitions?partitions=4"):
        with pytest.raises(ConfigurationError, match="has 4 partitions, not 8"):
            connect("fake:partitions?partitions=8")
        connect("fake:partitions").close()
        connect("fake:partitions?partitions=4").close()
        connect("fake:partitions?namespace=another&partitions=8").close()


def test_a_namespace_whose_partitions_disagree_is_refused() -> None:
    """A key of the configuration that was lost or changed shows before anything is written to the wrong place."""
    client = fakeredis.FakeRedis()
    RedisCheckpointer[Any, Any](client, partitions=4)
    client.hset("{runstream:2}:config", "partitions", 8)
    with pytest.raises(ConfigurationError, match="partitions"):
        RedisCheckpointer[Any, Any](client)
    client.hset("{runstream}:config", "partitions", "rubbish")
    with pytest.raises(ConfigurationError, match="not a runstream namespace"):
        RedisCheckpointer[Any, Any](client)
    client.close()


def test_a_namespace_that_was_created_anew_with_other_partitions_is_not_written_to() -> None:
    client = fakeredis.FakeRedis()
    store = RedisCheckpointer[Any, Any](client, partitions=4)
    client.flushdb()
    RedisCheckpointer[Any, Any](client, partitions=2)
    run_id = next(f"r{n}" for n in range(100) if zlib.crc32(b"r%d" % n) % 4 < 2)
    with pytest.raises(ConfigurationError, match="partitions"):
        store.save_event(make_event(run_id))
    assert store.run_info(run_id) is None
    client.close()


# -- clients of the caller -------------------------------------------------------------------------------


async def test_a_client_that_decodes_is_refused() -> None:
    with (
        closing(fakeredis.FakeRedis(decode_responses=True)) as client,
        pytest.raises(ConfigurationError, match="decode_responses"),
    ):
        RedisCheckpointer[Any, Any](client)
    async with fakeredis.FakeAsyncRedis(decode_responses=True) as awaited:
        with pytest.raises(ConfigurationError, match="decode_responses"):
            AsyncRedisCheckpointer[Any, Any](awaited)


async def test_a_callers_client_is_neither_closed_nor_changed(a_server: Server, namespace: str) -> None:
    with emptied(a_server), a_server.client() as client, client.client() as bound:
        options, connection = dict(client.connection_pool.connection_kwargs), bound.client_id()
        with RedisCheckpointer[Any, Any](client, namespace=namespace) as store:
            works(store)
        store.close()
        works(store)
        there = {one["id"] for one in client.client_list()}
        assert str(connection) in there, "a connection of the caller's own is still open"
        assert client.connection_pool.connection_kwargs == options
        async with redis.asyncio.Redis(unix_socket_path=a_server.socket_path) as awaited:
            connection = await awaited.client_id()
            async with AsyncRedisCheckpointer[Any, Any](awaited, namespace=namespace) as async_store:
                await async_store.save_event(make_event("r"))
            await async_store.close()
            assert await awaited.client_id() == connection


async def test_closing_twice_is_fine(tmp_path: Path) -> None:
    for url in ("memory:", "fake:", f"sqlite:{tmp_path}/runs.db", f"jsonl:{tmp_path}/runs"):
        store = connect(url)
        store.close()
        store.close()
        awaited = await connect_async(url)
        await awaited.close()
        await awaited.close()


def test_closing_a_store_from_a_url_closes_its_connections(a_server: Server) -> None:
    def connections() -> set[str]:
        return {client["id"] for client in a_server.raw.client_list()}

    with emptied(a_server):
        before = connections()
        with connect(a_server.url) as store:
            works(store)
            assert connections() > before
        deadline = time.monotonic() + 10
        while connections() != before:
            assert time.monotonic() < deadline, "connections are left open"


async def test_the_async_store_is_awaited_or_entered() -> None:
    store = await connect_async("fake:awaited")
    await store.save_event(make_event("r"))
    await store.close()
    async with connect_async("fake:awaited") as again:
        assert await again.list_runs() == ["r"]


async def test_the_async_store_checks_the_server_at_its_first_call() -> None:
    async with fakeredis.FakeAsyncRedis() as client:
        await client.hset("{runstream}:config", "partitions", "4")
        store = AsyncRedisCheckpointer[Any, Any](client, partitions=8)
        with pytest.raises(ConfigurationError, match="4 partitions"):
            await store.list_runs()
        with pytest.raises(ConfigurationError, match="4 partitions"):
            [item async for item in store.read("r")]
        with pytest.raises(ConfigurationError, match="4 partitions"):
            async with store:
                pass


# -- servers that do not fit -----------------------------------------------------------------------------


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "url", ["unix:///nowhere/at/all.sock", "redis://127.0.0.1:{port}", "rediss://127.0.0.1:{port}"]
)
async def test_a_server_that_is_not_there_is_unavailable_and_soon(url: str) -> None:
    url = url.format(port=free_port())
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="the store is not open"):
        connect(url, retry_seconds=0.2)
    with pytest.raises(StoreUnavailable, match="the store is not open"):
        await connect_async(url, retry_seconds=0.2)
    assert time.monotonic() - began < 10


async def test_a_server_that_went_away_is_unavailable(tmp_path: Path) -> None:
    if not PROGRAMS:
        pytest.skip("this machine has no server")
    with ExitStack() as running:
        port = running.enter_context(tcp_server(PASSWORD))
        with connect(f"redis://:{PASSWORD}@127.0.0.1:{port}?retry_seconds=0.1") as store:
            works(store)
            running.close()
            for call in (
                lambda: store.save_event(make_event("r")),
                lambda: store.list_events("r"),
                lambda: list(store.read("r")),
                lambda: store.load_latest("r"),
                lambda: list(store.follow("r", idle_timeout=5)),
            ):
                with pytest.raises(StoreUnavailable) as caught:
                    call()
                assert isinstance(caught.value.__cause__, redis.RedisError | OSError)


def test_tls_to_a_server_that_has_none_is_unavailable(tcp_port: int) -> None:
    with pytest.raises(StoreUnavailable):
        connect(f"rediss://:{PASSWORD}@127.0.0.1:{tcp_port}?socket_timeout=0.1&retry_seconds=0")


@pytest.mark.parametrize("login", ["", ":wr0ng@", "nobody:wr0ng@"])
async def test_a_wrong_password_is_said_and_not_shown(tcp_port: int, login: str) -> None:
    url = f"redis://{login}127.0.0.1:{tcp_port}"
    with pytest.raises(ConfigurationError, match=r"(?i)password|auth") as caught:
        connect(url)
    assert "wr0ng" not in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"(?i)password|auth"):
        await connect_async(url)


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
async def test_a_server_that_may_drop_events_is_refused(tcp_port: int, policy: str) -> None:
    url = f"redis://:{PASSWORD}@127.0.0.1:{tcp_port}"
    with redis.Redis(port=tcp_port, password=PASSWORD) as client:
        client.config_set("maxmemory-policy", policy)
        try:
            with pytest.raises(ConfigurationError, match=f"{policy}.*noeviction"):
                connect(url)
            with pytest.raises(ConfigurationError, match=policy):
                await connect_async(url)
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    connect(url).close()


def test_a_full_server_says_so_writes_nothing_and_can_be_drained(tcp_port: int, tmp_path: Path) -> None:
    with (
        redis.Redis(port=tcp_port, password=PASSWORD) as client,
        connect(f"redis://:{PASSWORD}@127.0.0.1:{tcp_port}?namespace=full") as store,
    ):
        store.save_event(make_event("r"))
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(StoreUnavailable, match="full"):
                store.append("r", [make_event("r")], snapshot=make_state("r"))
            assert len(store.list_events("r")) == 1
            assert store.load_latest("r") is None
            with (
                connect(f"redis://:{PASSWORD}@127.0.0.1:{tcp_port}?namespace=full") as another,
                SQLiteCheckpointer[Any, Any](tmp_path / "archive.db") as archive,
            ):
                assert isinstance(another, RedisCheckpointer)
                report = DrainWorker(another, [archive], trim="archived").drain_once()
            assert (report.events, report.trimmed) == (1, 1), "draining begins with what frees memory"
            assert store.delete_run("r"), "and so does deleting"
        finally:
            client.config_set("maxmemory", 0)


class OldServer(socketserver.BaseRequestHandler):
    """Speaks just enough of Redis to tell that it is too old; knows HELLO only from 6.0 on."""

    version = "5.0.7"

    def handle(self) -> None:
        buffered = self.request.makefile("rb")
        while line := buffered.readline():
            command = []
            for _ in range(int(line[1:])):
                size = int(buffered.readline()[1:])
                command.append(buffered.read(size + 2)[:-2].upper())
            self.request.sendall(self._reply(command))

    def _reply(self, command: list[bytes]) -> bytes:
        if command[0] == b"INFO":
            text = f"# Server\r\nredis_version:{self.version}\r\nmaxmemory_policy:noeviction\r\n".encode()
            return b"$%d\r\n%b\r\n" % (len(text), text)
        if command[0] == b"HELLO" and self.version < "6":
            return b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n"
        if command[0] == b"HELLO":
            return b"%1\r\n$5\r\nproto\r\n:3\r\n"
        return b"+OK\r\n"


class OldServer60(OldServer):
    version = "6.0.20"


@pytest.mark.parametrize("handler", [OldServer60, OldServer])
async def test_a_server_that_is_too_old_is_refused(handler: type[OldServer]) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as listener:
        listener.daemon_threads = True
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            url = f"redis://127.0.0.1:{listener.server_address[1]}"
            with pytest.raises(ConfigurationError, match=rf"(older than Redis 6\b|{handler.version}).*6\.2"):
                connect(url)
            with pytest.raises(ConfigurationError, match=rf"(older than Redis 6\b|{handler.version}).*6\.2"):
                await connect_async(url)
        finally:
            listener.shutdown()
            thread.join()


# -- other processes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["sqlite:{dir}/runs.db", "jsonl:{dir}/runs", "fake:pickled", "{server}"])
def test_a_store_from_a_url_is_pickled_by_it(a_server: Server, tmp_path: Path, url: str) -> None:
    """Its options go with it."""
    url = url.format(dir=tmp_path, server=a_server.url)
    with emptied(a_server), connect(url, max_event_bytes=700) as store:
        store.save_event(make_event("r"))
        with pickle.loads(pickle.dumps(store)) as copy:
            assert type(copy) is type(store)
            assert copy.list_runs() == ["r"]
            with pytest.raises(PayloadTooLarge, match="700"):
                copy.save_event(make_event("r", payload={"x": "y" * 700}))


async def test_an_async_store_from_a_url_is_pickled_by_it(a_server: Server) -> None:
    with emptied(a_server):
        async with connect_async(a_server.url) as store:
            await store.save_event(make_event("r"))
            async with pickle.loads(pickle.dumps(store)) as copy:
                assert await copy.list_runs() == ["r"]


def test_a_store_over_a_callers_client_is_not_pickled() -> None:
    with closing(fakeredis.FakeRedis()) as client, pytest.raises(TypeError, match="connect"):
        pickle.dumps(RedisCheckpointer[Any, Any](client))


FORK = """
import os, sys
from runstream import PAEvent, connect

def write(lane, count):
    for n in range(count):
        store.save_event(PAEvent("r", lane_id=lane, seq=n))

store = connect(sys.argv[1])
write("before", 3)
children = []
for child in range(3):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            write(f"child{child}", 20)
            status = 0
        finally:
            os._exit(status)
    children.append(pid)
write("parent", 20)
statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
assert statuses == [0, 0, 0], statuses
events = list(store.read("r"))
assert [item.offset for item in events] == list(range(1, 84)), len(events)
for lane, count in [("before", 3), ("parent", 20), ("child0", 20), ("child1", 20), ("child2", 20)]:
    assert [item.event.seq for item in events if item.event.lane_id == lane] == list(range(count)), lane
store.close()
"""


@pytest.mark.exhaustive
@pytest.mark.one_in(4)
@pytest.mark.parametrize("url", ["sqlite:{dir}/runs.db", "jsonl:{dir}/runs", "embedded:{dir}/server", "{server}"])
def test_a_store_from_a_url_survives_a_fork(a_server: Server, tmp_path: Path, url: str) -> None:
    """Parent and children write at once: no event is lost, doubled or answered to the wrong process."""
    with emptied(a_server):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", FORK, url.format(dir=tmp_path, server=a_server.url)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert done.returncode == 0, done.stderr
