"""Where a server hides commands, keeps rights back or ends idle connections, as managed services do, all works."""

from __future__ import annotations

import asyncio
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from runstream import ConfigurationError, DrainWorker, RunstreamError, SQLiteCheckpointer, connect, connect_async
from runstream.stores.redis.operations.client.open_namespace import check_server
from tests.support.drain_tools import running
from tests.support.idle_proxy import IdleProxy
from tests.support.kinds import REAL
from tests.support.roles import operate, prepare
from tests.support.samples import make_event, make_events
from tests.support.servers import Node, Server, eventually, needs_server, needs_valkey

pytestmark = needs_server

HIDDEN = [
    "CONFIG",
    "KEYS",
    "FLUSHALL",
    "FLUSHDB",
    "DEBUG",
    "SHUTDOWN",
    "MONITOR",
    "SAVE",
    "BGSAVE",
    "BGREWRITEAOF",
    "CLIENT",
    "REPLICAOF",
    "SLAVEOF",
    "MIGRATE",
    "ACL",
    "MODULE",
    "SWAPDB",
    "SYNC",
    "PSYNC",
    "LATENCY",
    "SLOWLOG",
    "COMMAND",
    "EVAL",
]
SERVICES = {
    "rename-command": (HIDDEN, ""),
    "rights": ([], "+@all -@admin -@dangerous +info"),
}
"""How a service keeps something back: commands that it renames away, and the rights of its users."""

on_each_server = pytest.mark.parametrize(
    "program",
    [pytest.param(name, marks=() if name == REAL[0] else pytest.mark.exhaustive) for name in REAL],
)


@pytest.mark.one_in(2)
@on_each_server
@pytest.mark.parametrize("service", SERVICES)
def test_all_works_where_a_service_keeps_something_back(program: str, service: str, tmp_path: Path) -> None:
    """All business of all roles: what is for the service alone, such as CONFIG and CLIENT, is done without."""
    hidden, rights = SERVICES[service]
    with tempfile.TemporaryDirectory(prefix="runstream-") as directory, ExitStack() as opened:
        renamed = [word for command in hidden for word in ("--rename-command", command, "")]
        node = Node(program, directory, *renamed)
        opened.callback(node.end)
        user = ""
        if rights:
            node.raw.execute_command("ACL", "SETUSER", "u", "on", ">p", "~*", *rights.split())
            user = "u:p@"
        url = f"unix://{user}{node.socket_path}?namespace=dev"
        prepare(url, tmp_path)
        operate(url, tmp_path)


@pytest.fixture(params=[True, False], ids=["closes", "forgets"])
def proxied(
    request: pytest.FixtureRequest, server: Server, make_backend: Callable[[str], Any], namespace: str
) -> Iterator[tuple[IdleProxy, str]]:
    """A proxy that ends what is idle for a tenth of a second, and the URL of a namespace behind it."""
    make_backend(server.name)
    with IdleProxy(server.socket_path, idle_seconds=0.1, tells=request.param) as proxy:
        yield proxy, f"{proxy.url}?namespace={namespace}&socket_timeout=0.8"


on_one_server = pytest.mark.parametrize("server", REAL[:1], indirect=True)


def idle(proxy: IdleProxy) -> None:
    """Wait until one more connection has ended for want of anything to say."""
    before = proxy.ended
    eventually(lambda: proxy.ended > before)


@on_one_server
def test_a_store_goes_on_after_its_connection_was_idle(proxied: tuple[IdleProxy, str]) -> None:
    """Each event is there once; a lease and a run go on."""
    proxy, url = proxied
    with connect(url) as store, store.open_run("r", lease_ttl=30, owner="o") as run:
        for seq in range(3):
            run.emit("k", {"seq": seq})
            idle(proxy)
        assert [item.offset for item in store.read("r")] == [1, 2, 3]

    async def write() -> None:
        async with connect_async(url) as other:
            for seq in range(4, 7):
                await other.save_event(make_event("r", seq))
                await asyncio.to_thread(idle, proxy)
            assert len(await other.list_events("r")) == 6

    asyncio.run(write())


@pytest.mark.one_in(2)
@on_one_server
def test_followers_go_on_through_connections_that_end(proxied: tuple[IdleProxy, str], server: Server) -> None:
    """They wait for longer than a connection lives, and get each event once."""
    proxy, url = proxied
    found: dict[str, list[int]] = {"sync": [], "async": []}

    def follow() -> None:
        with connect(url) as store:
            for item in store.follow("r"):
                found["sync"].append(item.offset)

    async def follow_async() -> None:
        async with connect_async(url) as store:
            async for item in store.follow("r"):
                found["async"].append(item.offset)

    threads = [threading.Thread(target=follow), threading.Thread(target=lambda: asyncio.run(follow_async()))]
    with connect(url) as store:
        store.append("r", make_events("r", 1))
        for thread in threads:
            thread.start()
        for offset in (2, 3):
            eventually(lambda: all(len(offsets) == offset - 1 for offsets in found.values()))  # noqa: B023 - at once
            idle(proxy)
            idle(proxy)
            store.append("r", [make_event("r", offset, kind="run.finished" if offset == 3 else "k")])
    for thread in threads:
        thread.join()
    assert found == {"sync": [1, 2, 3], "async": [1, 2, 3]}


@pytest.mark.one_in(2)
@on_one_server
def test_a_worker_goes_on_through_connections_that_end(proxied: tuple[IdleProxy, str], tmp_path: Path) -> None:
    """It archives what comes, each event once."""
    proxy, url = proxied
    with (
        connect(url) as hot,
        connect(url) as store,
        closing(SQLiteCheckpointer[Any, Any](tmp_path / "a.db")) as archive,
    ):
        with running(DrainWorker(hot, [archive])):
            for offset in (1, 2):
                store.append("r", [make_event("r", offset)])
                eventually(lambda: len(archive.list_events("r")) == offset)  # noqa: B023 - at once
                idle(proxy)
        assert [item.offset for item in archive.read("r")] == [1, 2]


# -- the page --------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs/operations.md"
ROWS = dict(re.findall(r"^\| ([^|]*) \| [^|]* \| [^|]* \| `([^`]*)` \|$", PAGE.read_text("utf-8"), re.MULTILINE))
"""What is said where the server lacks what a promise takes, by the promise."""


class Lacking:
    """A server that lacks this or that."""

    def __init__(self, directory: str) -> None:
        self.node = Node("valkey", directory, "--appendonly", "yes", "--appendfsync", "everysec")
        self.url = f"unix://{self.node.socket_path}?retry_seconds=0"

    def user(self, *rules: str) -> str:
        """The URL of a user without these rights."""
        self.node.raw.execute_command("ACL", "SETUSER", "u", "reset", "on", ">p", "~*", "+@all", *rules)
        return self.url.replace("unix://", "unix://u:p@")

    def evicts(self) -> None:
        self.node.raw.config_set("maxmemory-policy", "allkeys-lru")
        connect(self.url)

    def is_old(self) -> None:
        check_server({"redis_version": "6.0.20", "maxmemory_policy": "noeviction", "master_replid": "x"})

    def has_no_info(self) -> None:
        connect(self.user("-info"))

    def has_no_scripts(self) -> None:
        connect(self.user("-evalsha")).save_event(make_event("r"))

    def is_a_replica(self) -> None:
        self.node.raw.replicaof("127.0.0.1", 1)
        connect(self.url)

    def syncs_once_a_second(self) -> None:
        connect(self.url, durability="fsync")

    def has_no_replica(self) -> None:
        connect(self.url, durability="replicated=1")

    def is_full(self) -> None:
        store = connect(self.url)
        self.node.raw.config_set("maxmemory", 1)
        store.save_event(make_event("r"))

    def takes_no_large_values(self) -> None:
        store = connect(self.url)
        self.node.raw.config_set("proto-max-bulk-len", 1_048_576)
        store.save_event(make_event("r", payload={"text": "x" * 1_100_000}))

    def keeps_what_is_erased(self) -> None:
        store = connect(self.user("-bgrewriteaof"))
        store.save_event(make_event("r"))
        raise ConfigurationError(store.erase("r", [1]).places[0].reason)


PROVOKED = {
    "acknowledged events stay": Lacking.evicts,
    "all of it": Lacking.is_old,
    "leases end with a failover, and eviction is noticed": Lacking.has_no_info,
    "each step is whole, and applied once": Lacking.has_no_scripts,
    "writes find the one history": Lacking.is_a_replica,
    "`durability=fsync`": Lacking.syncs_once_a_second,
    "`durability=replicated=N`": Lacking.has_no_replica,
    "what does not fit is refused whole": Lacking.is_full,
    "a large event is taken or refused, and nothing in between": Lacking.takes_no_large_values,
    "what is erased is in no file": Lacking.keeps_what_is_erased,
}


def test_the_page_has_what_is_said_of_each_promise() -> None:
    assert ROWS.keys() == PROVOKED.keys()


@needs_valkey
@pytest.mark.parametrize("promise", PROVOKED)
def test_a_server_that_lacks_what_a_promise_takes_is_told_of(promise: str) -> None:
    """As the page has it."""
    with tempfile.TemporaryDirectory(prefix="runstream-") as directory:
        lacking = Lacking(directory)
        try:
            with pytest.raises(RunstreamError, match=re.escape(ROWS[promise])):
                PROVOKED[promise](lacking)
        finally:
            lacking.node.end()
