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
from runstream.stores.redis.connection.slots import slot_of_key
from tests.support.certificates import Authority, Pair, needs_tls
from tests.support.cluster import cluster_of
from tests.support.commands import run
from tests.support.samples import make_event, make_events
from tests.support.sentinels import watched
from tests.support.servers import DEADLINE_SECONDS, Node

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
        return "&".join([self.url.replace("rediss", scheme), pair.query, *options])


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="runstream-") as directory:
        authority = Authority(Path(directory), "authority")
        node = Node("redis70", directory, tls=authority.serving(authority.sign("server")))
        rule = acl_rule(Role.OPERATOR, "all", server=(7, 0))
        node.raw.execute_command("ACL", "SETUSER", "operator", ">p", *rule)
        try:
            yield Place(
                f"rediss://localhost:{node.port}?ssl_ca_certs={authority.certificate}&retry_seconds=0",
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


# -- several servers ---------------------------------------------------------------------------------------

PATIENT = "&partitions=8&retry_seconds=20&socket_timeout=5"
RUNS = [f"run{number}" for number in range(12)]


class Certified(NamedTuple):
    """An authority, and by which options a client trusts it and is trusted."""

    authority: Authority
    serving: list[str]
    query: str


@pytest.fixture
def certified(tmp_path: Path) -> Certified:
    authority = Authority(tmp_path, "authority")
    query = f"ssl_ca_certs={authority.certificate}&{authority.sign('client').query}"
    return Certified(authority, authority.serving(authority.sign("server")), query)


def _write_and_follow(url: str, seq: int) -> None:
    """In both façades; each run's event of that number, after those before it."""
    runs = {"sync": RUNS[::2], "async": RUNS[1::2]}

    async def write() -> None:
        async with connect_async(url) as store:
            await store.save_events([make_event(run_id, seq) for run_id in runs["async"]])
            async for item in store.follow(RUNS[0], after=seq - 1, idle_timeout=DEADLINE_SECONDS):
                assert item.event.seq == seq
                break

    with connect(url) as store:
        store.save_events([make_event(run_id, seq) for run_id in runs["sync"]])
        asyncio.run(write())
        assert [
            item.event.seq
            for item in islice(store.follow(RUNS[1], after=seq - 1, idle_timeout=DEADLINE_SECONDS), 1)
        ] == [seq]
        for run_id in RUNS:
            assert [event.seq for event in store.list_events(run_id)] == [*range(1, seq + 1)]


@pytest.mark.exhaustive
def test_a_cluster_is_reached_and_its_servers_find_each_other(certified: Certified, tmp_path: Path) -> None:
    """By their host's name, as their certificates are of that one; also where a slot has moved."""
    with cluster_of("redis70", tls=certified.serving) as cluster:
        url = f"{cluster.url}?{certified.query}{PATIENT}"
        _write_and_follow(url, 1)
        assert all(node.raw.dbsize() for node in cluster.primaries)
        with connect(url) as store:
            key = "{runstream:0}"
            source = cluster.primary_of(key)
            target = next(node for node in cluster.primaries if node is not source)
            cluster.move(slot_of_key(key), target)
            store.save_events([make_event(run_id, 2) for run_id in RUNS])
        _write_and_follow(url, 3)
        assert run("drain", "--url", url, "--to", f"sqlite:{tmp_path}/a.db", "--once").code == 0
        with pytest.raises(ConfigurationError, match="certificate is refused"):
            connect(url.replace("localhost", "127.0.0.1"))
        with pytest.raises(RunstreamError, match=r"ssl_certfile=FILE&ssl_keyfile=FILE"):
            connect(f"{cluster.url}?ssl_ca_certs={certified.authority.certificate}&retry_seconds=0")


@pytest.mark.exhaustive
def test_sentinels_are_asked_and_the_primary_that_they_name_is_reached(certified: Certified) -> None:
    """By its host's name; and so is the one that takes its place."""
    with watched("redis70", tls=certified.serving) as sentinels:
        url = f"{sentinels.url}&{certified.query}{PATIENT}"
        with connect(url) as store:
            _write_and_follow(url, 1)
            sentinels.fail_over()
            store.save_events([make_event(run_id, 2) for run_id in RUNS])
        _write_and_follow(url, 3)
        for stranger in (connect, lambda url: asyncio.run(_open_async(url))):
            with pytest.raises(ConfigurationError, match="certificate is refused"):
                stranger(f"{sentinels.url}&retry_seconds=0")
