"""What is wrong with a connection is said, and what helps: none of it is helped by sending the same again."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
import redis
import redis.asyncio

from runstream import (
    AsyncRedisCheckpointer,
    ConfigurationError,
    RedisCheckpointer,
    RunstreamError,
    StoreUnavailable,
    connect,
    connect_async,
)
from tests.support.redis_py import taken_from
from tests.support.samples import make_event
from tests.support.servers import PROGRAMS, Node, Pair, Servers, eventually, free_port, needs_server

pytestmark = needs_server

NAME = next(iter(PROGRAMS), "")
NO_HELP = ("send the same", "sent again", "same call again")

Refused = Callable[..., RunstreamError]


def _open(url: str, options: dict[str, Any]) -> None:
    connect(url, retry_seconds=0, **options)


async def _open_async(url: str, options: dict[str, Any]) -> None:
    await connect_async(url, retry_seconds=0, **options)


@pytest.fixture(params=["sync", "async"])
def refused(request: pytest.FixtureRequest) -> Refused:
    """The error of an opening, which says nothing that does not help."""

    def opened(url: str, **options: Any) -> RunstreamError:
        with pytest.raises(RunstreamError) as raised:
            _open(url, options) if request.param == "sync" else asyncio.run(_open_async(url, options))
        error: RunstreamError = raised.value
        assert not [words for words in NO_HELP if words in str(error)]
        return error

    return opened


@pytest.fixture
def directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="runstream-") as path:
        yield path


@contextmanager
def running(directory: str, *options: str, name: str = NAME) -> Iterator[Node]:
    node = Node(name, directory, *options)
    try:
        yield node
    finally:
        node.end()


def test_a_replica(refused: Refused, directory: str) -> None:
    """It can be read; to open a new namespace and to append it must be a primary."""
    pair = Pair(NAME, directory)
    try:
        with connect(pair.url, retry_seconds=0) as store:
            store.save_event(make_event("r", 1))
            pair.replicate()
            url = f"unix://{pair.replica.socket_path}"
            error = refused(url, namespace="new")
            assert isinstance(error, StoreUnavailable)
            assert "a replica and takes no writes" in str(error)
            assert "address of the primary" in str(error)
        with connect(url, retry_seconds=0) as store:
            assert len(store.list_events("r")) == 1
            for write in (store.save_event, lambda event: store.append("r", [event, event])):
                with pytest.raises(StoreUnavailable, match="a replica and takes no writes") as raised:
                    write(make_event("r", 2))
                assert not [words for words in NO_HELP if words in str(raised.value)]
    finally:
        pair.close()


def test_a_database_that_is_not_there(refused: Refused, directory: str) -> None:
    with running(directory, "--databases", "2") as node:
        error = refused(f"unix://{node.socket_path}?db=2")
        assert isinstance(error, ConfigurationError)
        assert "no database of that number" in str(error)
        assert "?namespace=" in str(error)


@pytest.mark.one_in(2)
@pytest.mark.skipif("redis70" not in PROGRAMS or not shutil.which("openssl"), reason="needs a server with TLS")
def test_a_certificate(refused: Refused, directory: str) -> None:
    """Whether nobody is known to have signed it, or it is another host's."""
    key, certificate, port = f"{directory}/key.pem", f"{directory}/certificate.pem", free_port()
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=elsewhere"]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    files = f"--tls-cert-file {certificate} --tls-key-file {key} --tls-ca-cert-file {certificate}".split()
    with running(directory, "--tls-port", str(port), *files, "--tls-auth-clients", "no", name="redis70"):
        unknown = refused(f"rediss://localhost:{port}")
        assert isinstance(unknown, ConfigurationError)
        assert "certificate is refused: self-signed certificate" in str(unknown)
        assert "ssl_ca_certs" in str(unknown)
        another = refused(f"rediss://localhost:{port}?ssl_ca_certs={certificate}")
        assert isinstance(another, ConfigurationError)
        assert "certificate is refused: Hostname mismatch" in str(another)
        connect(f"rediss://localhost:{port}?ssl_ca_certs={certificate}&ssl_check_hostname=false").close()


def test_tls_at_a_plain_port(refused: Refused, directory: str) -> None:
    """The server waits for a command, and the client for the server's part of the handshake."""
    port = free_port()
    with running(directory, "--port", str(port)):
        error = refused(f"rediss://127.0.0.1:{port}?socket_connect_timeout=0.3&socket_timeout=0.3")
        assert isinstance(error, StoreUnavailable)
        assert "does not answer the TLS handshake" in str(error)
        assert "redis:// in place of rediss://" in str(error)


def test_tls_at_a_port_that_answers_something_else(refused: Refused) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as opened:

        def answer() -> None:
            with suppress(OSError):  # some versions of redis-py come once, and then it is closed
                for _ in range(2):
                    client = opened.enter_context(listener.accept()[0])
                    client.recv(10)
                    client.sendall(b"-ERR unknown command\r\n")

        threading.Thread(target=answer, daemon=True).start()
        error = refused(f"rediss://127.0.0.1:{listener.getsockname()[1]}")
        assert isinstance(error, ConfigurationError)
        assert "does not speak TLS" in str(error)
        assert "redis:// in place of rediss://" in str(error)


@pytest.mark.parametrize("kind", ["ConnectionPool", "BlockingConnectionPool"])
def test_an_empty_pool(servers: Servers, namespace: str, kind: str) -> None:
    server = servers.get(NAME)
    options: dict[str, Any] = {"path": server.socket_path, "max_connections": 1}
    if kind == "BlockingConnectionPool":
        options["timeout"] = 0.1
    pool = getattr(redis, kind)(connection_class=redis.UnixDomainSocketConnection, **options)
    taken = taken_from(pool)
    with pytest.raises(StoreUnavailable) as raised:
        RedisCheckpointer(redis.Redis(connection_pool=pool), namespace=namespace, retry_seconds=0)
    pool.release(taken)
    pool.disconnect()
    check_pool(raised.value)


@pytest.mark.parametrize("kind", ["ConnectionPool", "BlockingConnectionPool"])
async def test_an_empty_pool_of_asyncio(servers: Servers, namespace: str, kind: str) -> None:
    server = servers.get(NAME)
    options: dict[str, Any] = {"path": server.socket_path, "max_connections": 1}
    if kind == "BlockingConnectionPool":
        options["timeout"] = 0.1
    pool = getattr(redis.asyncio, kind)(connection_class=redis.asyncio.UnixDomainSocketConnection, **options)
    taken = await taken_from(pool)
    store = AsyncRedisCheckpointer[Any, Any](
        redis.asyncio.Redis(connection_pool=pool), namespace=namespace, retry_seconds=0
    )
    with pytest.raises(StoreUnavailable) as raised:
        await store.open()
    await pool.release(taken)
    await pool.disconnect()
    check_pool(raised.value)


def check_pool(error: StoreUnavailable) -> None:
    assert "all connections of the client are in use" in str(error)
    assert "max_connections" in str(error)
    assert not [words for words in NO_HELP if words in str(error)]


def test_a_server_that_refuses_for_now_is_not_said_to_be_away(directory: str) -> None:
    """It says why, as here that a script runs for too long."""
    with (
        running(directory, "--lua-time-limit", "50") as node,
        connect(f"unix://{node.socket_path}", retry_seconds=0) as store,
    ):
        store.save_event(make_event("r", 1))
        thread = threading.Thread(target=_spin, args=(node.socket_path,), daemon=True)
        thread.start()
        said: list[str] = []

        def is_busy() -> bool:
            try:
                store.list_events("r")
            except StoreUnavailable as error:
                said.append(str(error))
            return bool(said)

        eventually(is_busy)
        node.raw.execute_command("SCRIPT", "KILL")
        thread.join()
        assert said[0].startswith("the server refuses it for now: ")
        assert "BUSY" in said[0]


def _spin(socket_path: str) -> None:
    with redis.Redis(unix_socket_path=socket_path) as client, suppress(redis.ResponseError):
        client.eval("while true do end", 0)
