"""A real server that is there and serves nothing, or not this run, for now: it is waited for, up to a deadline.

LOADING, CLUSTERDOWN, TRYAGAIN; for READONLY and MASTERDOWN see the failover folder. A node of a cluster is asked
by a client that knows no cluster: the node has all slots, so that nothing lies elsewhere.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from runstream import ConfigurationError, RunStore, StoreUnavailable, connect, connect_async
from tests.support.backends import Blocking, LoopThread
from tests.support.samples import make_events
from tests.support.servers import DEADLINE_SECONDS, PROGRAMS, Node, eventually, needs_server

pytestmark = needs_server

Hot = RunStore[Any, Any]
_SLOTS = 16_384


class Unready:
    """A server under an address that stays the same, and stores that write to it."""

    def __init__(self, name: str, is_async: bool, loop: LoopThread, opened: ExitStack) -> None:
        self.name = name
        self._is_async, self._loop, self._opened = is_async, loop, opened
        self.directory = opened.enter_context(tempfile.TemporaryDirectory(prefix="runstream-"))
        self._link = Path(self.directory, "server.sock")

    def start(self, *options: str) -> Node:
        """Start a server, and let the address lead to it."""
        node = self.start_beside(*options)
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(node.socket_path)
        return node

    def start_beside(self, *options: str) -> Node:
        """Start a server at an address of its own."""
        node = Node(self.name, self.directory, *options)
        self._opened.callback(node.end)
        return node

    def start_cluster(self) -> Node:
        """Start a cluster of one node, which has all slots."""
        node = self.start(*self._of_cluster("first"))
        node.raw.execute_command("CLUSTER", "ADDSLOTS", *range(_SLOTS))
        eventually(lambda: b"cluster_state:ok" in node.raw.execute_command(b"CLUSTER", b"INFO"))
        return node

    def join(self, node: Node) -> bytes:
        """Start another node of the cluster, which has no slots; gives its id."""
        other = self.start_beside(*self._of_cluster("second"))
        name: bytes = other.raw.execute_command("CLUSTER", "MYID")
        node.raw.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port)
        eventually(lambda: name in node.raw.execute_command(b"CLUSTER", b"NODES"))
        return name

    @staticmethod
    def _of_cluster(name: str) -> list[str]:
        return ["--cluster-enabled", "yes", "--cluster-config-file", name, "--cluster-node-timeout", "1000"]

    def open(self, retry_seconds: float = DEADLINE_SECONDS) -> Hot:
        """Open a store."""
        url = f"unix://{self._link}?retry_seconds={retry_seconds}"
        if not self._is_async:
            return self._opened.enter_context(connect(url))

        async def open_async() -> Any:
            return await connect_async(url)

        store: Any = Blocking(self._loop, self._loop.run(open_async()))  # its methods are the sync one's
        opened: Hot = self._opened.enter_context(store)
        return opened


@pytest.fixture(params=["sync", "async"])
def is_async(request: pytest.FixtureRequest) -> bool:
    """Both drivers wait."""
    return bool(request.param == "async")


@pytest.fixture
def make_unready(is_async: bool, loop_thread: LoopThread) -> Iterator[Callable[[str], Unready]]:
    """Make a place for a server of that name."""
    with ExitStack() as opened:
        yield lambda name: Unready(name, is_async, loop_thread, opened)


@pytest.fixture(params=PROGRAMS)
def unready(request: pytest.FixtureRequest, make_unready: Callable[[str], Unready]) -> Unready:
    """A place for a server, of every one that there is."""
    return make_unready(request.param)


def refusals(node: Node, word: str) -> int:
    """How often the server has refused something with this word."""
    counted = node.raw.info("errorstats").get(f"errorstat_{word}", {"count": 0})
    count: int = counted["count"]
    return count


def waits_for(node: Node, word: str, hot: Hot, make_ready: Callable[[], object]) -> None:
    """An append after the third event is refused with this word, and applied, once, when the server is ready."""
    refused = refusals(node, word)
    with ThreadPoolExecutor(1) as thread:
        appending = thread.submit(hot.append, "r", make_events("r", 2))
        eventually(lambda: refusals(node, word) > refused)
        assert not appending.done()
        make_ready()
        assert appending.result(DEADLINE_SECONDS)[:2] == (4, 5)
    assert len(hot.list_events("r")) == 5


def slot_of(node: Node) -> int:
    """The slot of the run."""
    (meta,) = node.raw.keys("*:run:r:meta")
    slot: int = node.raw.execute_command("CLUSTER", "KEYSLOT", meta)
    return slot


@pytest.mark.exhaustive
@pytest.mark.one_in(6)
def test_a_server_that_loads_what_it_has(unready: Unready) -> None:
    """After it was killed: it answers LOADING to everything until it has read its file."""
    node = unready.start()
    hot = unready.open()
    hot.append("r", make_events("r", 3))
    filler = os.urandom(100_000)
    node.raw.mset({f"filler:{number}": filler for number in range(400)})
    node.raw.save()
    node.end()
    # it looks for clients at every 2 MiB, twenty times; three milliseconds for each key make a second of it
    node = unready.start("--key-load-delay", "3000")
    waits_for(node, "LOADING", hot, lambda: None)


@pytest.mark.exhaustive
@pytest.mark.one_in(6)
def test_a_cluster_that_has_lost_a_slot(unready: Unready) -> None:
    """It answers CLUSTERDOWN until somebody has the slot; an append waits no longer than it was told."""
    node = unready.start_cluster()
    hot, hasty = unready.open(), unready.open(0.2)
    hot.append("r", make_events("r", 3))
    slot = slot_of(node)
    node.raw.execute_command("CLUSTER", "DELSLOTS", slot)
    events = make_events("r", 4)
    with pytest.raises(StoreUnavailable, match="send the same events again"):
        hasty.append("r", events)
    waits_for(node, "CLUSTERDOWN", hot, lambda: node.raw.execute_command("CLUSTER", "ADDSLOTS", slot))
    assert hasty.append("r", events)[:2] == (6, 9)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "redis62"])  # it answers ASK
def test_a_slot_that_is_being_moved(make_unready: Callable[[str], Unready], name: str) -> None:
    """Where some of the keys that a script names are not there, the answer is TRYAGAIN."""
    unready = make_unready(name)
    node = unready.start_cluster()
    hot = unready.open()
    hot.append("r", make_events("r", 3))
    slot, other = slot_of(node), unready.join(node)
    node.raw.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", other)
    waits_for(node, "TRYAGAIN", hot, lambda: node.raw.execute_command("CLUSTER", "SETSLOT", slot, "STABLE"))


@pytest.mark.exhaustive
@pytest.mark.one_in(6)
def test_a_slot_that_has_moved_is_not_waited_for(unready: Unready) -> None:
    """A client that knows one node does not find it, and the error says so."""
    node = unready.start_cluster()
    hot = unready.open()
    hot.append("r", make_events("r", 3))
    slot, other = slot_of(node), unready.join(node)
    node.raw.delete(*node.raw.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100))  # as after they were copied
    node.raw.execute_command("CLUSTER", "SETSLOT", slot, "NODE", other)
    with pytest.raises(ConfigurationError, match="another server of a cluster"):
        hot.append("r", make_events("r", 2))
