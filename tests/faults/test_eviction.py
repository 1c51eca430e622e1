"""A server that is let evict keys later is refused before it drops what was acknowledged."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    ConfigurationError,
    DrainWorker,
    RedisCheckpointer,
    SQLiteCheckpointer,
    StoreUnavailable,
    connect,
)
from tests.support.samples import make_event, make_state
from tests.support.servers import PROGRAMS, Node, eventually, needs_server

pytestmark = needs_server

Hot = RedisCheckpointer[Any, Any]


@pytest.fixture(params=PROGRAMS)
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """A server whose settings are its test's own."""
    with tempfile.TemporaryDirectory(prefix="runstream-") as directory:
        node = Node(request.param, directory)
        yield node
        node.end()


@pytest.fixture
def hot(node: Node) -> Iterator[Any]:
    with connect(f"unix://{node.socket_path}") as store:
        yield store


def test_after_it_was_full(node: Node, hot: Hot) -> None:
    """The usual reason to change the policy; what it has room for then is not acknowledged."""
    hot.save_event(make_event("r"))
    node.raw.config_set("maxmemory", 1)
    with pytest.raises(StoreUnavailable, match="full"):
        hot.save_event(make_event("r"))
    node.raw.config_set("maxmemory", 0)  # before the policy: it would begin to evict at once
    node.raw.config_set("maxmemory-policy", "allkeys-lru")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="allkeys-lru"):
            hot.save_event(make_event("r"))
    with pytest.raises(ConfigurationError, match="allkeys-lru"):
        hot.save_snapshot("r", make_state("r"))
    node.raw.config_set("maxmemory-policy", "volatile-lru")
    hot.save_event(make_event("r"))
    assert len(hot.list_events("r")) == 2


def test_while_a_lease_is_renewed(node: Node, hot: Hot) -> None:
    """By ``check``, and by the renewal in the background: the next write under the lease raises it."""
    lease = hot.lease("r", owner="a", ttl=0.6)
    node.raw.config_set("maxmemory-policy", "allkeys-random")
    with pytest.raises(ConfigurationError, match="allkeys-random"):
        lease.check()
    with pytest.raises(ConfigurationError, match="allkeys-random"):
        lease.save_event(make_event("r"))
    node.raw.config_set("maxmemory-policy", "noeviction")
    lease.check()
    lease.save_event(make_event("r"))
    node.raw.config_set("maxmemory-policy", "allkeys-lfu")
    eventually(lambda: lease._refusal is not None)
    with pytest.raises(ConfigurationError, match="allkeys-lfu"):
        lease.save_event(make_event("r"))


def test_while_a_worker_drains(node: Node, hot: Hot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends, with the reason."""
    monkeypatch.setattr("runstream.drain.worker._SECONDS_BETWEEN_CHECKS", 0.0)
    failures: list[Exception] = []
    with SQLiteCheckpointer[Any, Any](tmp_path / "a.db") as archive:
        worker = DrainWorker(hot, [archive], poll_seconds=0.01)

        def drain() -> None:
            try:
                worker.run(threading.Event())
            except ConfigurationError as error:
                failures.append(error)

        thread = threading.Thread(target=drain)
        thread.start()
        hot.save_event(make_event("r"))
        node.raw.config_set("maxmemory-policy", "allkeys-lru")
        thread.join(20)
    assert "allkeys-lru" in str(failures[0])
