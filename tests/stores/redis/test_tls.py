"""A server that takes TLS alone, and clients with certificates alone, is reached with these, and not without."""

from __future__ import annotations

import asyncio
import inspect
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis.asyncio

from runstream import ConfigurationError, RunstreamError, StoreUnavailable, connect, connect_async
from runstream.stores.redis.access import Role, acl_rule
from tests.support.certificates import Authority, Pair, needs_tls
from tests.support.commands import run
from tests.support.samples import make_event, make_events
from tests.support.servers import Node, free_port

pytestmark = needs_tls

PASSWORD = "hunter2"


class Place(NamedTuple):
    """A server, and the certificates that there are."""

    url: str
    client: Pair
    locked: Pair
    stranger: Pair

    def url_with(self, pair: Pair, *options: str, scheme: str = "rediss") -> str:
        """The URL of a client with a certificate."""
        files = [f"ssl_certfile={pair.certificate}", f"ssl_keyfile={pair.key}", *options]
        return "&".join([self.url.replace("rediss", scheme), *files])


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="runstream-") as directory:
        authority, port = Authority(Path(directory), "authority"), free_port()
        own = authority.sign("server")
        files = ["--tls-cert-file", own.certificate, "--tls-key-file", own.key]
        files += ["--tls-ca-cert-file", authority.certificate, "--tls-auth-clients", "yes"]
        node = Node("redis70", directory, "--tls-port", str(port), *files)
        rule = acl_rule(Role.OPERATOR, "all", server=(7, 0))
        node.raw.execute_command("ACL", "SETUSER", "operator", ">p", *rule)
        try:
            yield Place(
                f"rediss://localhost:{port}?ssl_ca_certs={authority.certificate}&retry_seconds=0",
                authority.sign("client"),
                authority.sign("locked", password=PASSWORD),
                Authority(Path(directory), "another").sign("stranger"),
            )
        finally:
            node.end()


def _open(url: str) -> None:
    with connect(url) as store:
        store.save_event(make_event("r"))


async def _open_async(url: str) -> None:
    async with connect_async(url) as store:
        await store.save_event(make_event("r"))


@pytest.fixture(params=["sync", "async"])
def opens(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """Open a store, and write."""
    return _open if request.param == "sync" else lambda url: asyncio.run(_open_async(url))


def test_a_client_with_a_certificate_does_all(place: Place, tmp_path: Path) -> None:
    """It writes, reads and follows, in both façades; a worker drains; all of it as a user with no more rights."""
    url = place.url_with(place.client, "namespace=all").replace("localhost", "operator:p@localhost")
    with connect(url) as store, store.lease("r", owner="o") as lease:
        lease.save_events(make_events("r", 3))
        assert [item.offset for item in islice(store.follow("r"), 3)] == [1, 2, 3]
        with pytest.raises(TimeoutError):
            list(store.follow("r", after=3, idle_timeout=0.01))
    asyncio.run(_follow_async(url))
    assert run("drain", "--url", url, "--to", f"sqlite:{tmp_path}/a.db", "--once").code == 0
    assert len(run("show", "r", "--url", f"sqlite:{tmp_path}/a.db", "--json").document["events"]) == 3


async def _follow_async(url: str) -> None:
    async with connect_async(url) as store:
        with pytest.raises(TimeoutError):
            async for _ in store.follow("r", after=3, idle_timeout=0.01):
                pass


def test_a_key_may_have_a_password(place: Place, opens: Callable[[str], Any]) -> None:
    known = inspect.signature(redis.asyncio.SSLConnection).parameters
    if opens is not _open and "ssl_password" not in known:
        pytest.skip("under asyncio redis-py takes one from 7 on")
    opens(place.url_with(place.locked, f"ssl_password={PASSWORD}"))


def test_a_version_of_tls_may_be_asked_for(place: Place, opens: Callable[[str], Any]) -> None:
    opens(place.url_with(place.client, "ssl_min_version=772"))


def test_without_a_certificate_that_the_server_takes_nothing_is_written(
    place: Place, opens: Callable[[str], Any]
) -> None:
    """And it is said by which options one is given, whatever of it the client hears."""
    for url in (place.url, place.url_with(place.stranger)):
        with pytest.raises(RunstreamError, match=r"ssl_certfile=FILE&ssl_keyfile=FILE") as caught:
            opens(url)
        assert isinstance(caught.value, ConfigurationError | StoreUnavailable)


@pytest.mark.parametrize("options", ["", "&ssl_check_hostname=true"])
def test_a_certificate_of_another_host_is_refused(place: Place, opens: Callable[[str], Any], options: str) -> None:
    """Unless that is asked for, whatever redis-py takes by default."""
    url = place.url_with(place.client).replace("localhost", "127.0.0.1")
    with pytest.raises(ConfigurationError, match=r"certificate is refused: .*match"):
        opens(url + options)
    opens(url + "&ssl_check_hostname=false")
    opens(url + "&ssl_cert_reqs=none")


def test_files_that_are_no_certificates_are_refused_at_once(
    place: Place, opens: Callable[[str], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """Before a connection is made; and nobody is asked for a password."""
    client, locked = place.client, place.locked
    for url, said in (
        (place.url_with(Pair(client.certificate, locked.key)), "ssl_password"),
        (place.url_with(Pair(client.certificate, place.stranger.key)), "with its own key"),
        (place.url_with(locked), "ssl_password"),
        (place.url_with(locked, "ssl_password=hunter3"), "ssl_password"),
        (place.url + f"&ssl_certfile={client.certificate}", "its own key"),
        (place.url + f"&ssl_keyfile={client.key}", "ssl_certfile"),
        (f"rediss://localhost?ssl_ca_certs={client.key}", "ssl_ca_certs"),
        (place.url_with(client, scheme="redis"), "without TLS"),
    ):
        with pytest.raises(ConfigurationError, match=said) as caught:
            opens(url)
        assert "hunter" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
