"""In a cluster: opened by URL and by client, each command at the server that has its slot, and several at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.cluster

from runstream import (
    AsyncRedisCheckpointer,
    ConfigurationError,
    DrainWorker,
    LeaseLost,
    RedisCheckpointer,
    SQLiteCheckpointer,
    StoreUnavailable,
    connect,
    connect_async,
)
from runstream.operations.operation import Command, Exchange, Operation, Replies, Resent
from runstream.stores.redis.access import Role
from runstream.stores.redis.connection.cluster import ClusterTransport
from runstream.stores.redis.connection.every_server import least
from runstream.stores.redis.connection.single import AsyncSingleServerTransport, SingleServerTransport
from runstream.stores.redis.connection.slots import slot_of_key
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.worker.sweep import BEGINNING
from runstream.stores.redis.replies import parse_info
from runstream.stores.redis.scripts.library import RIGHTS
from runstream.stores.redis.scripts.script import script_call
from tests.support.backends import AsyncRedisBackend, Backend, Store
from tests.support.cluster import Cluster, ClusterBackend
from tests.support.commands import run
from tests.support.kinds import CLUSTER
from tests.support.operations import perform, session_of
from tests.support.roles import VERSIONS
from tests.support.samples import make_event
from tests.support.servers import DEADLINE_SECONDS, Node, Server, eventually, free_port, needs_server

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
    how: dict[str, Any] = {"read_from_replicas": True}
    if (strategies := getattr(redis.cluster, "LoadBalancingStrategy", None)) is not None:  # from redis-py 5.3 on
        how = {"load_balancing_strategy": strategies.ROUND_ROBIN}
    with closing(redis.RedisCluster(**cluster.startup, **how)) as client:
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


@pytest.mark.parametrize("opens", [connect, connect_async])
async def test_what_some_servers_have_answered_is_not_sent_again(
    cluster: Cluster, backend: ClusterBackend, opens: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another one cannot be reached, which is asked until it answers."""
    options = f"?namespace={backend.namespace}&socket_timeout=0.2&retry_seconds=20"
    keys = [f"{{{backend.namespace}:{number}}}:config" for number in range(16)]
    count = Exchange([(b"HINCRBY", key, "counted", 1) for key in keys])
    async with AsyncExitStack() as opened:
        if opens is connect:
            store: Any = opened.enter_context(opens(cluster.url + options))
            send: Any = partial(asyncio.to_thread, store._driver.exchange, count)
        else:
            store = await opened.enter_async_context(opens(cluster.url + options))
            send = partial(store._driver.exchange, count)
        driver = store._driver
        tries: list[Exchange] = []
        once = driver.exchange_once

        def noted(sent: Exchange) -> Any:
            tries.append(sent)
            return once(sent)

        monkeypatch.setattr(driver, "exchange_once", noted)
        late = cluster.primary_of(keys[0])
        with late.stopped():
            sending = asyncio.ensure_future(send())
            await asyncio.to_thread(eventually, lambda: len(tries) >= 3)
        replies = await sending
    cluster.await_whole()  # the others may have taken it for gone
    assert isinstance(replies, Resent)
    elsewhere = [reply for key, reply in zip(keys, replies, strict=True) if cluster.primary_of(key) is not late]
    assert set(elsewhere) == {1}
    assert len(elsewhere) < len(keys)


# -- a slot that moves -------------------------------------------------------------------------------------


class Mover:
    """Moves the one slot of a namespace."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._key = f"{{{namespace}:0}}:config"
        self.slot = slot_of_key(self._key)

    @property
    def places(self) -> tuple[Node, Node]:
        """Where it is, and where it goes."""
        source = self._cluster.primary_of(self._key)
        return source, next(node for node in self._cluster.primaries if node is not source)

    def said(self, word: str) -> int:
        """How often a server has refused something in that way."""
        return self._cluster.errors_said().get(word, 0)

    def move(self) -> None:
        self._cluster.move(self.slot, self.places[1])

    @contextmanager
    def moving(self) -> Iterator[Callable[[], object]]:
        """It is on its way; gives what moves its keys."""
        source, target = self.places
        with self._cluster.moving(self.slot, source, target):
            yield partial(self._cluster.move_keys, self.slot, source, target)


@pytest.fixture
def mover(backend: ClusterBackend) -> Mover:
    return Mover(backend.cluster, backend.namespace)


@pytest.fixture(params=["cluster", "async-cluster"])
def one_slot(
    request: pytest.FixtureRequest, backend: ClusterBackend, loop_thread: Any
) -> Iterator[Callable[..., Store]]:
    """Opens stores over a namespace that lies in one slot, both facades."""
    place: Backend = backend
    if request.param == "async-cluster":
        place = AsyncRedisBackend(backend, loop_thread)
    yield partial(place.open, partitions=1)
    place.close()


def test_a_slot_that_has_moved_is_found(one_slot: Callable[..., Store], mover: Mover) -> None:
    store = one_slot(retry_seconds=0)
    for number in range(4):
        store.append("r", [make_event("r", number)], keys=[str(number)])
        mover.move()
    assert [event.seq for event in store.list_events("r")] == [0, 1, 2, 3]
    assert store.find("r", ["3", "4"]) == [4, None]


def test_what_has_moved_ahead_of_its_slot_is_asked_for_there(one_slot: Callable[..., Store], mover: Mover) -> None:
    """By queries of one key, and by scripts that the other server does not know yet."""
    store = one_slot(retry_seconds=0)
    store.append("r", [make_event("r", 1)], keys=["k"])
    run = session_of(store).keys.run("r")
    queries = [(b"HGET", run.keys, "k"), (b"XLEN", run.events), script_call(RIGHTS, (run.meta,), ("GET",))]

    def ask() -> Operation[Replies]:
        replies: Replies = yield Exchange(queries)
        return replies

    before = perform(store, ask())
    with mover.moving() as move_keys:
        assert perform(store, ask()) == before
        move_keys()
        asked = mover.said("ASK")
        assert perform(store, ask()) == before
        assert mover.said("ASK") == asked + len(queries)
    assert perform(store, ask()) == before


@pytest.mark.parametrize("role", [Role.READER, Role.AGENT])
def test_who_has_the_rule_of_a_role_is_let_go_on_while_a_slot_moves(
    backend: ClusterBackend, cluster: Cluster, mover: Mover, role: Role
) -> None:
    """The servers deny nothing, neither of those that have the slot and will have it."""
    backend.open(partitions=1).append("r", [make_event("r", 1)], keys=["k"])
    user, version = f"{role}{backend.namespace}", VERSIONS[cluster.name]
    named = ("--role", role, "--namespace", backend.namespace, "--user", user, "--server-version", version)
    rule = run("acl", *named).out.split()
    for node in cluster.primaries:
        node.raw.execute_command(*rule, ">p")
        node.raw.execute_command("ACL", "LOG", "RESET")
    place = f"{cluster.url.replace('//', f'//{user}:p@')}?namespace={backend.namespace}&retry_seconds=20"
    with connect(place) as store:
        keys = session_of(store).keys.run("r")
        queries: list[Command] = [(b"HGET", keys.keys, "k"), (b"XRANGE", keys.events, "-", "+")]
        if role is Role.AGENT:
            queries.append(script_call(RIGHTS, (keys.partition.rights,), ("HGET",)))

        def ask() -> Operation[Replies]:
            replies: Replies = yield Exchange(queries)
            return replies

        before = perform(store, ask())
        with mover.moving() as move_keys:
            move_keys()
            asked, waited = mover.said("ASK"), mover.said("TRYAGAIN")
            assert perform(store, ask()) == before
            assert mover.said("ASK") == asked + len(queries)
            written = threading.Thread(target=store.save_event, args=(make_event("r", 2),))
            if role is Role.AGENT:
                written.start()
                eventually(lambda: mover.said("TRYAGAIN") > waited + 1)
        if role is Role.AGENT:
            written.join(DEADLINE_SECONDS)
        assert [event.seq for event in store.list_events("r")] == [1, 2][: 1 + (role is Role.AGENT)]
    denied = [entry for node in cluster.primaries for entry in node.raw.acl_log()]
    for node in cluster.primaries:
        node.raw.execute_command("ACL", "DELUSER", user)
    assert not denied


def test_what_needs_more_than_has_moved_is_refused_whole(one_slot: Callable[..., Store], mover: Mover) -> None:
    """And is applied once when it is sent again."""
    store = one_slot(retry_seconds=0)
    store.append("r", [make_event("r", 1), make_event("r", 2)])
    event = make_event("r", 3)
    with mover.moving() as move_keys:
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="a slot of the cluster is being moved"):
                store.append("r", [event])
            move_keys()
        with pytest.raises(StoreUnavailable, match="a slot of the cluster is being moved"):
            store.find("r", ["k"])
    assert [item.seq for item in store.list_events("r")] == [1, 2]
    assert store.append("r", [event])[:2] == (3, 3)
    assert [item.seq for item in store.list_events("r")] == [1, 2, 3]


def test_a_write_waits_for_its_slot(one_slot: Callable[..., Store], mover: Mover) -> None:
    store = one_slot(retry_seconds=20)
    store.save_event(make_event("r", 1))
    written = threading.Thread(target=store.save_event, args=(make_event("r", 2),))
    with mover.moving() as move_keys:
        before = mover.said("TRYAGAIN")
        move_keys()
        written.start()
        eventually(lambda: mover.said("TRYAGAIN") > before + 1)
    written.join(DEADLINE_SECONDS)
    assert [item.seq for item in store.list_events("r")] == [1, 2]


def test_who_follows_goes_on_where_the_slot_has_gone(one_slot: Callable[..., Store], mover: Mover) -> None:
    store, other = one_slot(), one_slot()
    store.save_event(make_event("r", 1))
    seen: list[int] = []

    def follow() -> None:
        for item in other.follow("r"):
            seen.append(item.event.seq)
            if len(seen) == 4:
                return

    def has_seen(count: int) -> bool:
        return len(seen) == count

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    for seq in (2, 3, 4):
        eventually(partial(has_seen, seq - 1))
        mover.move()
        store.save_event(make_event("r", seq))
    follower.join(DEADLINE_SECONDS)
    assert seen == [1, 2, 3, 4]


def test_all_runs_of_several_servers_are_followed(backend: ClusterBackend) -> None:
    store, other = backend.open(), backend.open()
    store.save_events([make_event(run_id, 1) for run_id in RUNS])
    seen: set[str] = set()
    for run_id, item in other.follow_runs(idle_timeout=DEADLINE_SECONDS):
        seen.add(f"{run_id}/{item.event.seq}")
        if len(seen) == len(RUNS):
            store.save_events([make_event(run_id, 2) for run_id in RUNS])
        if len(seen) == 2 * len(RUNS):
            break
    assert seen == {f"{run_id}/{seq}" for run_id in RUNS for seq in (1, 2)}


def test_a_lease_ends_where_its_run_comes_to_another_server(one_slot: Callable[..., Store], mover: Mover) -> None:
    store = one_slot()
    lease = store.lease("r", owner="a", ttl=60)
    lease.save_event(make_event("r", 1))
    mover.move()
    with pytest.raises(LeaseLost):
        lease.save_event(make_event("r", 2))
    assert store.lease("r", owner="b", ttl=60).epoch > lease.epoch
    assert [item.seq for item in store.list_events("r")] == [1]


def test_all_servers_are_asked_at_once(backend: ClusterBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    store = backend.open()
    store.save_events([make_event(run_id, 1) for run_id in RUNS])
    together = threading.Barrier(len(backend.cluster.primaries))
    exchange = SingleServerTransport.exchange

    def wait_for_the_others(self: SingleServerTransport, asked: Exchange) -> Replies:
        together.wait(DEADLINE_SECONDS)
        return exchange(self, asked)

    monkeypatch.setattr(SingleServerTransport, "exchange", wait_for_the_others)
    store.save_events([make_event(run_id, 2) for run_id in RUNS])
    assert not together.broken


async def test_all_servers_are_asked_at_once_by_tasks(
    backend: ClusterBackend, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connect_async(url) as store:
        await store.save_events([make_event(run_id, 1) for run_id in RUNS])
        together = asyncio.Barrier(len(backend.cluster.primaries))
        exchange = AsyncSingleServerTransport.exchange

        async def wait_for_the_others(self: AsyncSingleServerTransport, asked: Exchange) -> Replies:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await together.wait()
            return await exchange(self, asked)

        monkeypatch.setattr(AsyncSingleServerTransport, "exchange", wait_for_the_others)
        await store.save_events([make_event(run_id, 2) for run_id in RUNS])
        assert not together.broken
        monkeypatch.undo()


def test_a_worker_drains_all_servers(backend: ClusterBackend, tmp_path: Path, mover: Mover) -> None:
    """Its sweep too looks at all keys, on every server, and begins anew where a slot has moved."""
    store = backend.open()
    store.save_events([make_event(run_id, 1, kind="run.finished") for run_id in RUNS])
    with SQLiteCheckpointer[Any, Any](tmp_path / "a.db") as archive:
        worker = DrainWorker(store, [archive], trim="archived", retire_after_seconds=0)
        mover.move()
        report = worker.drain_once()
        assert report.parked == 0
        assert {run_id: len(archive.list_events(run_id)) for run_id in RUNS} == dict.fromkeys(RUNS, 1)
        worker.drain_once()
        assert not [key for key in backend.key_names() if key.endswith(":events")]
    assert namespace_of(store).status().due == 0


def test_a_scan_that_sees_a_slot_move_begins_anew(backend: ClusterBackend, mover: Mover) -> None:
    """So no key is missed that went where the scan had been."""
    store = backend.open()
    store.save_events([make_event(run_id, 1) for run_id in RUNS])
    seen: set[str] = set()
    position, pages = BEGINNING, 0
    transport = store._driver._transport  # type: ignore[attr-defined]  # of the sync store
    while pages == 0 or position != BEGINNING:
        page = (b"SCAN", position, b"MATCH", f"{{{backend.namespace}:*", b"COUNT", 1000)
        ((position, found),) = transport.exchange(Exchange([page]))
        seen |= {key.decode() for key in found}
        pages += 1
        if pages == 2:
            mover.move()
    assert seen >= set(backend.key_names()) - {f"{{{backend.namespace}}}:config"}
    assert pages > len(backend.cluster.primaries)


def test_a_scan_ends_though_a_slot_has_gone_to_and_fro(backend: ClusterBackend, mover: Mover) -> None:
    """It is away when the last server was scanned, and back when the next page is asked for."""
    transport = backend.open()._driver._transport  # type: ignore[attr-defined]  # of the sync store

    def page(position: bytes) -> bytes:
        ((position, _),) = transport.exchange(Exchange([(b"SCAN", position, b"COUNT", 10_000)]))
        return position

    position = BEGINNING
    for number in range(len(backend.cluster.primaries)):
        if number == len(backend.cluster.primaries) - 1:
            mover.move()
        position = page(position)
    assert position != BEGINNING
    mover.move()
    transport.exchange(Exchange([(b"EXISTS", f"{{{backend.namespace}:0}}:config")]))  # which tells of it
    for _ in backend.cluster.primaries:
        position = page(position)
    assert position == BEGINNING


def test_a_cluster_is_as_full_as_its_fullest_server() -> None:
    """One that has no limit is never full."""

    def info(used: int, most: int) -> bytes:
        return f"redis_version:7.0.0\r\nused_memory:{used}\r\nmaxmemory:{most}\r\n".encode()

    whole = parse_info(least((b"INFO",), [info(10, 100), info(50, 100), info(40, 0)]))
    assert (whole["used_memory"], whole["maxmemory"]) == ("100", "200")
    assert parse_info(least((b"INFO",), [info(10, 0), info(50, 0)]))["maxmemory"] == "0"
