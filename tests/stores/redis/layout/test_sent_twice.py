"""P2 at the server: what is sent twice, because its reply was lost or its script was unknown, is applied once."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import redis
import redis.asyncio

from runstream.model.results import Appended
from runstream.operations.arguments import AppendOptions
from runstream.operations.operation import Exchange, Operation
from runstream.stores.redis.checkpointer import AsyncRedisCheckpointer, RedisCheckpointer
from runstream.stores.redis.operations.client import append
from tests.stores.redis.layout.raw_keys import clean, key_of
from tests.support.backends import RedisBackend, latest
from tests.support.cluster import server_transport
from tests.support.kinds import on_every_server
from tests.support.operations import session_of
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import Server


def send_twice(store: RedisCheckpointer[Any, Any], operation: Operation[Any], between: Callable[[], Any]) -> Any:
    """Run an operation, send its first exchange once more, and give its result from the second replies."""
    exchange = next(operation)
    assert isinstance(exchange, Exchange)
    first = store._driver.exchange(exchange)
    between()
    second = store._driver.exchange(exchange)
    assert second == first
    with pytest.raises(StopIteration) as stopped:
        operation.send(second)
    return stopped.value.value


def nothing() -> None:
    pass


@on_every_server
@pytest.mark.parametrize("how", ["at once", "after others", "trimmed"])
def test_an_append_that_is_sent_twice_is_applied_once(
    redis_backend: RedisBackend, store: RedisCheckpointer[Any, Any], raw: Any, how: str
) -> None:
    """The resend gets the first reply: also after others have appended, or its entries have been trimmed."""
    other = redis_backend.open()
    other.save_event(make_event("r", 1))
    between: Callable[[], Any] = {
        "at once": nothing,
        "after others": lambda: other.save_events(make_events("r", 2, first=4)),
        "trimmed": lambda: raw.xtrim(key_of(redis_backend, "r", "events"), maxlen=0, approximate=False),
    }[how]
    operation = append.append(
        session_of(store), "r", make_events("r", 2, first=2), AppendOptions(expected_offset=1)
    )
    appended = send_twice(store, operation, between).appended
    assert appended[:2] == (2, 3)
    info = store.run_info("r")
    assert info is not None
    assert info.last_offset == (5 if how == "after others" else 3)
    if how != "trimmed":
        assert [event.seq for event in store.list_events("r")] == list(range(1, info.last_offset + 1))
        assert Appended(2, 3, list(store.read("r"))[2].cursor) == appended


@on_every_server
def test_a_snapshot_that_is_sent_twice_is_saved_once(
    redis_backend: RedisBackend, store: RedisCheckpointer[Any, Any]
) -> None:
    store.save_snapshot("r", make_state("r", data={"a": 1}))
    operation = append.append(
        session_of(store), "r", make_events("r", 2), AppendOptions(snapshot=make_state("r", data={"a": 2, "b": 3}))
    )
    assert send_twice(store, operation, nothing).appended[:2] == (1, 2)
    snapshot = store.load_snapshot("r")
    assert snapshot is not None
    assert (snapshot.revision, snapshot.offset, snapshot.state.data) == (2, 2, {"a": 2, "b": 3})
    store.save_snapshot("r", make_state("r", data={"b": 3}))
    assert latest(store, "r").data == {"b": 3}


@on_every_server
def test_batches_of_several_runs_that_are_sent_twice_are_applied_once(store: RedisCheckpointer[Any, Any]) -> None:
    groups = {run_id: make_events(run_id, 2) for run_id in "abc"}
    send_twice(store, append.save_events(session_of(store), groups), nothing)
    assert [len(store.list_events(run_id)) for run_id in "abc"] == [2, 2, 2]


def test_a_call_that_was_broken_off_does_not_lend_its_number_to_another(
    store: RedisCheckpointer[Any, Any],
) -> None:
    """What was sent last may have been applied or not; the next append is another batch all the same."""
    operation = append.append(session_of(store), "r", [make_event("r", 1)], AppendOptions())
    exchange = next(operation)
    assert isinstance(exchange, Exchange)
    store._driver.exchange(exchange)
    operation.close()
    assert store.append("r", [make_event("r", 2)])[:2] == (2, 2)
    assert [event.seq for event in store.list_events("r")] == [1, 2]


def test_a_script_that_the_server_does_not_know_is_sent_to_it(
    store: RedisCheckpointer[Any, Any], raw: Any
) -> None:
    store.save_event(make_event("r", 1))
    raw.script_flush()
    store.save_events([make_event("r", 2), make_event("q", 1)])
    raw.script_flush()
    store.append("r", [make_event("r", 3)], snapshot=make_state("r"))
    assert [event.seq for event in store.list_events("r")] == [1, 2, 3]


def test_a_script_that_the_server_did_not_know_reads_at_the_moment_of_all_else(
    redis_backend: RedisBackend, store: RedisCheckpointer[Any, Any], raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot that comes meanwhile takes no event away from one that was read before."""
    store.append("r", [make_event("r", seq) for seq in range(1, 21)])
    sender = server_transport(store, key_of(redis_backend, "r", "meta"))._sender
    execute = sender.execute_command

    def meanwhile(*command: Any) -> Any:
        if command[:2] == (b"SCRIPT", b"LOAD"):
            monkeypatch.undo()
            store.append("r", [make_event("r", 21)], snapshot=make_state("r"))
        return execute(*command)

    raw.script_flush()
    monkeypatch.setattr(sender, "execute_command", meanwhile)
    recovery = store.recover("r")
    assert (recovery.offset, recovery.events) == (21, [])


class LossyProxy:
    """Stands between a client and a server; when told to, swallows the next reply and hangs up."""

    def __init__(self, server: Server, path: Path) -> None:
        self._server = server
        self.path = str(path)
        self.swallow = threading.Event()
        self.swallowed = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as upstream, selectors.DefaultSelector() as selector:
            upstream.connect(self._server.socket_path)
            selector.register(client, selectors.EVENT_READ, upstream)
            selector.register(upstream, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    source = cast("socket.socket", key.fileobj)
                    try:
                        data = source.recv(65536)
                        if not data:
                            return
                        if source is upstream and self.swallow.is_set():
                            self.swallow.clear()
                            self.swallowed += 1
                            return
                        key.data.sendall(data)
                    except ConnectionError:
                        return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


@contextmanager
def lossy_proxy(server: Server, tmp_path: Path) -> Iterator[LossyProxy]:
    with closing(LossyProxy(server, tmp_path / "s")) as proxy:
        yield proxy


WRITES: dict[str, Callable[[Any], Any]] = {
    "save_event": lambda store: store.save_event(make_event("r", 2)),
    "save_events": lambda store: store.save_events([make_event("r", 2), make_event("other", 1)]),
    "append": lambda store: store.append("r", [make_event("r", 2)], expected_offset=1, snapshot=make_state("r")),
}


@pytest.mark.parametrize("how", WRITES)
def test_an_append_whose_reply_is_lost_is_applied_once(
    server: Server, namespace: str, tmp_path: Path, how: str
) -> None:
    """redis-py sends a command again, of its own accord, when a connection ends before the reply."""
    with (
        lossy_proxy(server, tmp_path) as proxy,
        redis.Redis(unix_socket_path=proxy.path) as client,
        clean(server, namespace),
    ):
        store = RedisCheckpointer[Any, Any](client, namespace=namespace)
        store.save_event(make_event("r", 1))
        proxy.swallow.set()
        WRITES[how](store)
        assert proxy.swallowed == 1
        assert [event.seq for event in store.list_events("r")] == [1, 2]
        if how == "append":
            snapshot = store.load_snapshot("r")
            assert snapshot is not None
            assert (snapshot.revision, snapshot.offset) == (1, 2)
        if how == "save_events":
            assert len(store.list_events("other")) == 1


@pytest.mark.parametrize("how", WRITES)
async def test_an_append_whose_reply_is_lost_is_applied_once_by_the_async_store(
    server: Server, namespace: str, tmp_path: Path, how: str
) -> None:
    with lossy_proxy(server, tmp_path) as proxy, clean(server, namespace):
        async with (
            redis.asyncio.Redis(unix_socket_path=proxy.path) as client,
            AsyncRedisCheckpointer[Any, Any](client, namespace=namespace) as store,
        ):
            await store.save_event(make_event("r", 1))
            proxy.swallow.set()
            await WRITES[how](store)
            assert proxy.swallowed == 1
            assert [event.seq for event in await store.list_events("r")] == [1, 2]
