"""The connections of a client's pool that are held between appends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from functools import partial, wraps
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.credentials import UsernamePasswordCredentialProvider
from redis.retry import Retry

from runstream.stores.redis.connection import pinned_connections
from runstream.stores.redis.connection.pinned_connections import piped, sender_of
from runstream.stores.redis.connection.single import SingleServerTransport
from runstream.testing import Fault, FaultProxy
from tests.support.servers import Server, eventually


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    """A client that sends nothing again by itself."""
    with server.client(retry=Retry(NoBackoff(), 0)) as client:
        yield client


@pytest.fixture
def sender(client: Any) -> Any:
    """What holds a connection of the client's pool, which it has not yet."""
    return sender_of(client)


def connection_id(sender: Any) -> int:
    number: int = sender.execute_command(b"CLIENT", b"ID")
    return number


def pool_state(client: Any) -> tuple[int, int]:
    """How many connections lie in the pool, and how many are out."""
    pool: Any = client.connection_pool
    return len(pool._available_connections), len(pool._in_use_connections)


def ended(server: Server, number: int) -> bool:
    listed: Any = server.raw.client_list()
    return all(int(one["id"]) != number for one in listed)


def is_looked_at_again(sender: Any) -> None:
    """Wait until the next command looks at the connection first."""
    eventually(lambda: time.monotonic() > sender._free[-1].checked + pinned_connections._TRUSTED_SECONDS)


def interrupt_next_read(connection: Any) -> None:
    """A command of this connection is sent, and interrupted before its reply is read."""

    def interrupt() -> None:
        del connection.read_response
        raise KeyboardInterrupt

    connection.read_response = interrupt


def test_stores_over_one_pool_hold_one_connection_until_the_last_is_gone(client: Any) -> None:
    """The second store's client is another one, over the same pool."""
    other = redis.Redis(connection_pool=client.connection_pool)
    senders = [SingleServerTransport(one)._sender for one in (client, other)]
    numbers = {connection_id(sender) for sender in senders for _ in range(3)}
    assert len(numbers) == 1
    assert pool_state(client) == (0, 1)
    del senders[0]
    assert pool_state(client) == (0, 1)
    senders.clear()
    assert pool_state(client) == (1, 0)
    assert connection_id(client) in numbers


@pytest.mark.parametrize(("most", "then"), [(16, (0, 2)), (1, (1, 1))])
def test_another_thread_does_not_wait_for_it(
    client: Any, sender: Any, monkeypatch: pytest.MonkeyPatch, most: int, then: tuple[int, int]
) -> None:
    """It has another; where no more may be held, commands go over the pool's others, which go back at once."""
    monkeypatch.setattr(sender, "_most", most)
    held = connection_id(sender)
    waits = threading.Thread(target=sender.execute_command, args=(b"BLPOP", b"{none}", b"2"))
    waits.start()
    try:
        eventually(lambda: not sender._free)
        others = {connection_id(sender) for _ in range(3)}
        assert len(others) == 1
        assert held not in others
        assert waits.is_alive()
        assert pool_state(client) == then
    finally:
        client.execute_command(b"CLIENT", b"UNBLOCK", held)
        waits.join()
    assert connection_id(sender) == held


def test_threads_that_come_at_once_have_one_each(client: Any, sender: Any) -> None:
    """Each is made before any of them is held; all commands get replies."""
    together, replies = threading.Barrier(8), []
    connect = client.client
    client.client = lambda: (connect(), together.wait())[0]
    threads = [threading.Thread(target=lambda: replies.append(connection_id(sender))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.client = connect
    assert len(set(replies)) == 8
    assert len(sender._free) == 8
    assert connection_id(sender) in replies
    assert pool_state(client) == (0, 8)


def test_as_many_are_held_as_are_used_at_once(client: Any, sender: Any) -> None:
    """And no more than half of what the pool may have."""
    for _ in range(20):
        connection_id(sender)
    assert pool_state(client) == (0, 1)
    small = redis.ConnectionPool(max_connections=20, connection_class=client.connection_pool.connection_class)
    assert sender_of(redis.Redis(connection_pool=small))._most == 10
    assert sender._most == 16


def test_a_handler_may_send_while_the_connection_is_being_made(client: Any, sender: Any) -> None:
    """As a signal's does, in the thread that it interrupts: it must not wait for that."""
    connect, handled = client.client, []

    def connect_interrupted() -> Any:
        client.client = connect
        handled.append(connection_id(sender))
        return connect()

    client.client = connect_interrupted
    assert connection_id(sender)
    assert len(handled) == 1


def test_a_fork_has_its_own(sender: Any) -> None:
    """Parent and child send at once; either gets the replies to what it sent."""
    held = connection_id(sender)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            replies = [sender.execute_command(b"ECHO", b"c%d" % number) for number in range(300)]
            own = replies == [b"c%d" % number for number in range(300)] and connection_id(sender) != held
            status = 0 if own and len(sender._free) == 1 else 2
        finally:
            os._exit(status)
    replies = [sender.execute_command(b"ECHO", b"p%d" % number) for number in range(300)]
    assert os.waitpid(child, 0)[1] == 0
    assert replies == [b"p%d" % number for number in range(300)]
    assert connection_id(sender) == held


def test_an_interrupted_calls_reply_is_never_taken_for_anothers(client: Any, sender: Any) -> None:
    """It comes after the pool has looked, so that only closing the connection helps."""
    connection_id(sender)
    interrupt_next_read(sender._free[0].client.connection)
    with pytest.raises(KeyboardInterrupt):
        sender.execute_command(b"BLPOP", b"{none}", b"0.2")
    assert client.execute_command(b"ECHO", b"next") == b"next"
    assert sender.execute_command(b"ECHO", b"and next") == b"and next"


@pytest.mark.parametrize("atomic", [True, False])
def test_several_commands_are_answered_as_in_a_pipeline(
    client: Any, sender: Any, namespace: str, atomic: bool
) -> None:
    """With errors among the replies, or the reason why none was taken; the next command gets its own reply."""
    key = namespace.encode()
    sent: list[list[tuple[Any, ...]]] = [
        [(b"SET", key, b"1"), (b"INCR", key), (b"LPUSH", key, b"2"), (b"EVALSHA", b"0" * 40, 0), (b"GET", key)],
        [(b"GET", key), (b"NONE",), (b"INCR", key)],
    ]
    for commands in sent:
        answers: list[Any] = []
        for ask in (partial(sender.execute_all, atomic=atomic), partial(piped, client, atomic=atomic)):
            try:
                answers.append([type(each) if isinstance(each, Exception) else each for each in ask(commands)])
            except redis.ResponseError as error:
                answers.append([type(error)])
            client.delete(key)
        assert answers[0] == answers[1]
        assert sender.execute_command(b"ECHO", b"next") == b"next"
    assert pool_state(client)[1] == 1


def test_an_interrupt_between_two_replies_leaves_none_for_another_call(client: Any, sender: Any) -> None:
    connection_id(sender)
    connection = sender._free[0].client.connection
    read = connection.read_response

    def read_one() -> Any:
        interrupt_next_read(connection)
        return read()

    connection.read_response = read_one
    with pytest.raises(KeyboardInterrupt):
        sender.execute_all([(b"ECHO", b"a"), (b"ECHO", b"b")], atomic=True)
    assert client.execute_command(b"ECHO", b"next") == b"next"
    assert sender.execute_all([(b"ECHO", b"and"), (b"ECHO", b"next")], atomic=True) == [b"and", b"next"]


def test_what_an_interrupt_has_lost_is_held_anew(client: Any, sender: Any) -> None:
    """It came as the connection was taken: that is back in the pool, and the next call holds it again."""
    connection_id(sender)
    sender._free.pop()
    assert pool_state(client) == (1, 0)
    held = connection_id(sender)
    assert pool_state(client) == (0, 1)
    assert connection_id(sender) == held


def test_a_connection_that_the_server_closed_is_noticed(server: Server, sender: Any) -> None:
    """After the time for which it is trusted, by a client that does not send again."""
    held = connection_id(sender)
    server.raw.client_kill_filter(_id=str(held))
    eventually(lambda: ended(server, held))
    is_looked_at_again(sender)
    assert connection_id(sender) != held


@pytest.mark.skipif(not hasattr(redis.Connection, "mark_for_reconnect"), reason="redis-py has it from 7.0 on")
def test_a_connection_that_is_to_move_does(client: Any, sender: Any) -> None:
    """A server that is about to go says so, redis-py marks what is in use, and a busy writer makes no pause."""
    held = connection_id(sender)
    sender._free[0].client.connection.mark_for_reconnect()
    eventually(lambda: connection_id(sender) != held)
    moved = connection_id(sender)
    is_looked_at_again(sender)
    assert connection_id(sender) == moved
    assert pool_state(client) == (0, 1)


def count_once(sender: Any, _: Any, key: bytes) -> None:
    sender.execute_command(b"INCR", key)


def count_twice(sender: Any, client: Any, key: bytes) -> None:
    commands = [(b"INCR", key), (b"INCR", key)]
    if sender is client:
        piped(client, commands, atomic=True)
    else:
        sender.execute_all(commands, atomic=True)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("retries", [0, 1, 3])
@pytest.mark.parametrize("fault", [Fault.DROP_REPLY, Fault.DROP_REQUEST])
@pytest.mark.parametrize("several", [False, True])
def test_it_sends_again_as_often_as_the_client(
    server: Server, namespace: str, retries: int, fault: Fault, several: bool
) -> None:
    """Counted by the server, as what the client itself does; what is held after that is sound."""
    counts: list[list[Any]] = []
    with FaultProxy(server.url, quiet_seconds=0.001) as proxy:
        for way in (sender_of, lambda client: client):
            # redis-py before 6 sends again only what it is told to
            told: dict[str, Any] = {"retry_on_error": [redis.ConnectionError]}
            with redis.Redis(port=proxy.port, retry=Retry(NoBackoff(), retries), **told) as client:
                sender, key = way(client), f"{namespace}:{len(counts)}".encode()
                ask = partial(count_twice if several else count_once, sender, client, key)
                sender.execute_command(b"ECHO", b"warm")
                proxy.reset()
                proxy.arm(fault, times=retries + 1)
                with pytest.raises(redis.ConnectionError):
                    ask()
                struck = [proxy.struck, server.raw.get(key)]
                if retries:
                    proxy.arm(fault, times=retries)
                ask()
                counts.append([*struck, proxy.struck, server.raw.getdel(key)])
                assert sender.execute_command(b"ECHO", b"next") == b"next"
    assert counts[0] == counts[1]
    assert counts[0][0] == retries + 1


def test_it_sends_again_what_the_client_would_send_again(server: Server) -> None:
    """Also what the server refuses, where the client was told to."""
    refused = []
    with server.client(retry_on_error=[redis.ResponseError], retry=Retry(NoBackoff(), 2)) as client:
        for sender in (sender_of(client), client):
            server.raw.config_resetstat()
            with pytest.raises(redis.ResponseError):
                sender.execute_command(b"EVALSHA", b"0" * 40, 0)
            refused.append(server.raw.info("commandstats")["cmdstat_evalsha"]["calls"])
        assert sender_of(client).execute_command(b"ECHO", b"next") == b"next"
    assert refused == [3, 3]


def test_a_closed_client_opens_it_again(client: Any, sender: Any) -> None:
    held = connection_id(sender)
    client.close()
    assert connection_id(sender) != held
    assert pool_state(client) == (0, 1)


def test_what_the_server_refuses_leaves_it_held(client: Any, sender: Any) -> None:
    held = connection_id(sender)
    with pytest.raises(redis.ResponseError):
        sender.execute_command(b"NONE")
    assert pool_state(client) == (0, 1)
    assert connection_id(sender) == held


def test_what_is_held_was_nobodys_before(client: Any, sender: Any) -> None:
    """Whoever used a connection of the pool before may have been interrupted, and a reply still come."""
    number = connection_id(client)
    assert pool_state(client) == (1, 0)
    assert connection_id(sender) != number
    assert pool_state(client) == (0, 1)


def test_traced_or_measured_commands_are_left_alone(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As tracers do it, which put their own in the class; and redis-py, for OpenTelemetry."""
    execute: Any = redis.Redis.execute_command

    def traced(self: Any, *command: Any, **options: Any) -> Any:
        return execute(self, *command, **options)

    for tracer in (traced, wraps(execute)(traced), Proxy(execute)):
        monkeypatch.setattr(redis.Redis, "execute_command", tracer)
        assert sender_of(client) is client
    monkeypatch.undo()
    assert sender_of(client) is not client
    providers = pytest.importorskip("redis.observability.providers", reason="redis-py measures from 7.2 on")
    config = pytest.importorskip("redis.observability.config")
    measuring = providers.get_observability_instance().init(config.OTelConfig())
    try:
        assert sender_of(client) is client
    finally:
        measuring.shutdown()
    assert sender_of(client) is not client


class Proxy:
    """What wrapt puts in the place of a function: it says of itself what the function would."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)


class OwnClient(redis.Redis):
    """Of a class of its own."""


class OwnPool(redis.ConnectionPool):
    """Of a class of its own."""


def test_what_may_do_more_than_take_a_connection_is_left_alone(server: Server) -> None:
    """Small pools, other classes, patched instances, one connection only, credentials that may be renewed."""
    place: dict[str, Any] = {"connection_class": redis.UnixDomainSocketConnection, "path": server.socket_path}
    blocking: Any = redis.BlockingConnectionPool
    patched: Any = server.client()
    patched.execute_command = patched.execute_command
    left_alone = [
        server.client(max_connections=15),
        OwnClient(unix_socket_path=server.socket_path),
        redis.Redis(connection_pool=OwnPool(**place)),
        redis.Redis(connection_pool=blocking(**place)),
        patched,
        server.client(single_connection_client=True),
        server.client(credential_provider=UsernamePasswordCredentialProvider("default", "none")),
    ]
    for client in left_alone:
        assert sender_of(client) is client
        client.close()
    with server.client(max_connections=16) as plain:
        assert sender_of(plain) is not plain
