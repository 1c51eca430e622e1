"""The fault proxy: what the server has and what the client gets, under every fault; and how it cuts bytes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis.backoff import NoBackoff
from redis.retry import Retry

from runstream.testing import Fault, FaultProxy
from runstream.testing.fault_proxy.resp import Framer, command_name
from tests.support.servers import DEADLINE_SECONDS, Server, Servers, eventually, needs_valkey, tcp_server

pytestmark = needs_valkey

ENDING = [fault for fault in Fault if fault is not Fault.DELAY]
APPLIED = {Fault.DROP_REPLY, Fault.CUT_REPLY, Fault.DELAY}


@pytest.fixture
def valkey(servers: Servers) -> Server:
    return servers.get("valkey")


@pytest.fixture
def key(valkey: Server, namespace: str) -> Iterator[str]:
    """A key that no other test uses; it is removed."""
    yield namespace
    valkey.raw.delete(namespace)


@pytest.fixture
def proxy(valkey: Server) -> Iterator[FaultProxy]:
    with FaultProxy(valkey.url) as proxy:
        yield proxy


Connect = Callable[..., Any]  # clients, whose methods' types differ between versions of redis-py


@pytest.fixture
def connect(proxy: FaultProxy) -> Iterator[Connect]:
    """Make clients of the proxy that never send anything twice; they are closed."""
    with ExitStack() as stack:

        def connect(**options: Any) -> Any:
            options = {"retry": Retry(NoBackoff(), 0), "socket_timeout": DEADLINE_SECONDS, **options}
            return stack.enter_context(redis.Redis.from_url(proxy.url, **options))

        yield connect


@pytest.fixture(params=[2, 3])
def client(request: pytest.FixtureRequest, connect: Connect) -> Any:
    """A client of the proxy, for each protocol."""
    return connect(protocol=request.param)


# -- faults


@pytest.mark.parametrize("fault", ENDING)
def test_a_fault_ends_the_connection_and_the_command_was_applied_once_or_not(
    fault: Fault, proxy: FaultProxy, client: Any, valkey: Server, key: str
) -> None:
    """Faults of the reply leave exactly one entry, faults of the request none; the next command goes through."""
    proxy.arm(fault)
    with pytest.raises(redis.ConnectionError):
        client.rpush(key, "once")
    assert valkey.raw.lrange(key, 0, -1) == ([b"once"] if fault in APPLIED else [])
    assert (proxy.struck, proxy.round_trips) == (1, 1 if fault in APPLIED else 0)
    assert client.rpush(key, "again") == (2 if fault in APPLIED else 1)
    assert proxy.struck == 1


@pytest.mark.parametrize("fault", ENDING)
@pytest.mark.parametrize("transaction", [True, False])
def test_all_commands_of_a_pipeline_are_applied_before_its_reply_is_lost(
    fault: Fault, transaction: bool, proxy: FaultProxy, client: Any, valkey: Server, key: str
) -> None:
    """Thirty commands, with and without MULTI. Of half a request, the commands in that half; of a MULTI none."""
    proxy.arm(fault)
    with client.pipeline(transaction=transaction) as pipeline:
        for number in range(30):
            pipeline.rpush(key, number)
        with pytest.raises(redis.ConnectionError):
            pipeline.execute()
    applied = 30 if fault in APPLIED else 0
    if fault is Fault.CUT_REQUEST and not transaction:
        applied = 15  # the first ten are a byte shorter each, so half of the bytes ends in the 16th
    entries: Any = valkey.raw.lrange(key, 0, -1)
    assert [int(entry) for entry in entries] == list(range(applied))
    assert proxy.struck == 1


@pytest.mark.one_in(2)
@pytest.mark.parametrize("fault", [Fault.DROP_REPLY, Fault.CUT_REPLY])
def test_the_reply_is_lost_only_when_the_last_command_was_applied(
    fault: Fault, proxy: FaultProxy, client: Any, valkey: Server, key: str
) -> None:
    """Also if the server takes its time in the middle of a pipeline."""
    proxy.arm(fault)
    with client.pipeline(transaction=False) as pipeline:
        pipeline.rpush(key, 1).blpop(f"{key}-none", timeout=0.2).rpush(key, 2)
        with pytest.raises(redis.ConnectionError):
            pipeline.execute()
    assert valkey.raw.llen(key) == 2


def test_what_nobody_asked_for_is_no_reply(proxy: FaultProxy, valkey: Server, key: str) -> None:
    """An invalidation of RESP3 comes through while the reply is awaited that will be dropped."""
    with socket.create_connection(("127.0.0.1", proxy.port), DEADLINE_SECONDS) as raw, raw.makefile("rb") as said:
        raw.sendall(
            request(b"HELLO", b"3") + request(b"CLIENT", b"TRACKING", b"ON") + request(b"GET", key.encode())
        )
        while said.readline() != b"_\r\n":
            pass
        proxy.arm(Fault.DROP_REPLY)
        raw.sendall(request(b"BLPOP", f"{key}-other".encode(), b"0"))
        valkey.raw.set(key, "changed")
        assert said.readline() == b">2\r\n"
        assert proxy.struck == 0
        valkey.raw.rpush(f"{key}-other", "x")
        assert said.read() == b"$10\r\ninvalidate\r\n" + request(key.encode())
    assert proxy.struck == 1


def test_a_delayed_reply_is_held_back_while_the_command_is_applied(
    proxy: FaultProxy, client: Any, valkey: Server, key: str
) -> None:
    """The client gets it after the delay, not before."""
    client.ping()
    proxy.arm(Fault.DELAY, delay_seconds=0.2)
    began = time.monotonic()
    assert client.rpush(key, "late") == 1
    assert time.monotonic() - began >= 0.2
    assert (proxy.struck, valkey.raw.llen(key)) == (1, 1)


def test_a_client_that_does_not_wait_for_a_delayed_reply_times_out(
    proxy: FaultProxy, connect: Connect, valkey: Server, key: str
) -> None:
    """The command was applied; the late reply does not reach the client's next command."""
    client = connect(socket_timeout=0.5)
    client.ping()
    proxy.arm(Fault.DELAY, delay_seconds=DEADLINE_SECONDS)
    with pytest.raises(redis.TimeoutError):
        client.rpush(key, "late")
    assert (proxy.struck, valkey.raw.llen(key)) == (1, 1)
    proxy.disarm()
    assert client.rpush(key, "next") == 2


@pytest.mark.parametrize("how", ["disarm", "cut", "close"])
def test_what_is_delayed_is_let_go(
    how: str, proxy: FaultProxy, connect: Connect, valkey: Server, key: str
) -> None:
    """Disarming delivers it at once; cutting and closing end the connection at once."""
    client = connect()
    proxy.arm(Fault.DELAY, delay_seconds=1000)
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(client.rpush, key, "late")
        eventually(lambda: proxy.struck)
        assert valkey.raw.llen(key) == 1
        assert not reply.done()
        getattr(proxy, how)()
        if how == "disarm":
            assert reply.result(DEADLINE_SECONDS) == 1
        else:
            with pytest.raises(redis.ConnectionError):
                reply.result(DEADLINE_SECONDS)


def test_a_fault_strikes_at_the_round_trip_that_was_chosen(
    proxy: FaultProxy, connect: Connect, valkey: Server, key: str
) -> None:
    """The third and fourth of the named command, whatever lies between and on whichever connection."""
    clients = [connect(), connect(protocol=2)]
    proxy.arm(Fault.DROP_REPLY, at=3, times=2, commands={"rpush"})
    lost = []
    for number in range(6):
        client = clients[number % 2]
        client.llen(key)
        try:
            assert client.rpush(key, number) == number + 1
        except redis.ConnectionError:
            lost.append(number)
    assert lost == [2, 3]
    assert (proxy.struck, valkey.raw.llen(key)) == (2, 6)


def test_a_command_may_be_anywhere_in_a_matching_round_trip(
    proxy: FaultProxy, client: Any, valkey: Server, key: str
) -> None:
    """A pipeline that contains it is struck, one that does not is not."""
    proxy.arm(Fault.DROP_REQUEST, commands=("RPUSH",))
    assert client.pipeline(transaction=False).llen(key).exists(key).execute() == [0, 0]
    with pytest.raises(redis.ConnectionError):
        client.pipeline().llen(key).rpush(key, "x").execute()
    assert valkey.raw.llen(key) == 0


def test_the_handshake_is_struck_only_when_it_is_named(proxy: FaultProxy, connect: Connect, key: str) -> None:
    """HELLO, CLIENT and PING pass an armed fault by, and do not count."""
    proxy.arm(Fault.DROP_REQUEST)
    client = connect(client_name="somebody", db=1, health_check_interval=1)
    assert client.ping() is True
    assert (proxy.struck, proxy.round_trips) == (0, 0)
    proxy.arm(Fault.DROP_REPLY, commands=["PING"])
    with pytest.raises(redis.ConnectionError):
        client.ping()
    assert (proxy.struck, proxy.round_trips) == (1, 0)


def test_disarming_lets_everything_through(proxy: FaultProxy, client: Any, key: str) -> None:
    """What was armed and has not struck does not strike."""
    proxy.arm(Fault.DROP_REQUEST, times=5)
    proxy.disarm()
    assert client.rpush(key, 1) == 1
    assert proxy.struck == 0


@pytest.mark.parametrize(
    "wrong", [{"at": 0}, {"times": 0}, {"delay_seconds": -1}, {"commands": "GET"}, {"commands": []}], ids=str
)
def test_arming_refuses_what_means_nothing(wrong: dict[str, Any], proxy: FaultProxy) -> None:
    """A name instead of a collection of names would never match."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        proxy.arm(Fault.DELAY, **wrong)


# -- counting


def test_round_trips_are_counted_not_commands(proxy: FaultProxy, client: Any, key: str) -> None:
    """One each for a command, a pipeline, a transaction and a WATCH; reset counts anew."""
    client.rpush(key, 1)
    assert proxy.round_trips == 1
    client.pipeline(transaction=False).rpush(key, 2).rpush(key, 3).execute()
    assert proxy.round_trips == 2
    client.pipeline(transaction=True).rpush(key, 4).rpush(key, 5).execute()
    assert proxy.round_trips == 3
    with client.pipeline() as watched:
        watched.watch(key)
        watched.multi()
        watched.rpush(key, 6)
        watched.execute()
    assert proxy.round_trips == 5
    proxy.reset()
    assert proxy.round_trips == 0


@pytest.mark.one_in(2)
def test_a_pipeline_that_is_sent_in_many_pieces_is_one_round_trip(
    proxy: FaultProxy, client: Any, valkey: Server, key: str
) -> None:
    """redis-py sends after every 6,000 bytes, and before every command that is longer, between whole commands."""
    proxy.quiet_seconds = 0.3
    for transaction in (True, False):
        with client.pipeline(transaction=transaction) as pipeline:
            for size in (1, 7000, 1, 100_000, *[500] * 50):
                pipeline.rpush(key, "x" * size)
            pipeline.execute()
    assert proxy.round_trips == 2
    assert valkey.raw.llen(key) == 108


def test_a_transaction_that_is_sent_in_pieces_with_pauses_is_one_round_trip(
    proxy: FaultProxy, valkey: Server, key: str
) -> None:
    """Nothing is passed on before EXEC, however long the client is quiet in between."""
    proxy.arm(Fault.DROP_REQUEST)
    with socket.create_connection(("127.0.0.1", proxy.port), DEADLINE_SECONDS) as raw:
        for command in (["MULTI"], ["RPUSH", key, "x"], ["EXEC"]):
            raw.sendall(request(*(word.encode() for word in command)))
            time.sleep(proxy.quiet_seconds * 3)  # the pause is what is tested
        assert raw.recv(100) == b""
    assert (proxy.struck, proxy.round_trips, valkey.raw.llen(key)) == (1, 0, 0)


def test_a_client_that_waits_in_a_transaction_gets_its_replies(
    proxy: FaultProxy, connect: Connect, key: str
) -> None:
    """A transaction that is sent command by command is slow, and as many round trips as the client makes."""
    with connect(single_connection_client=True) as client:
        assert client.execute_command("MULTI") == b"OK"
        assert client.execute_command("RPUSH", key, "x") == b"QUEUED"
        assert client.execute_command("EXEC") == [1]
    assert proxy.round_trips == 3


# -- connections


@pytest.mark.parametrize("fault", [None, Fault.DROP_REPLY, Fault.CUT_REPLY])
def test_large_requests_and_replies(
    fault: Fault | None, proxy: FaultProxy, client: Any, valkey: Server, key: str
) -> None:
    """A megabyte each way goes through unchanged, or is lost as a whole."""
    value = bytes(range(256)) * 4096
    assert client.set(key, value) is True
    if fault is None:
        assert client.get(key) == value
        with client.pipeline(transaction=False) as pipeline:
            assert pipeline.get(key).strlen(key).get(key).execute() == [value, len(value), value]
        return
    proxy.arm(fault)
    with pytest.raises(redis.ConnectionError):
        client.getset(key, b"other")
    assert valkey.raw.get(key) == b"other"


def test_a_blocked_command_holds_up_nobody_else(proxy: FaultProxy, connect: Connect, key: str) -> None:
    """Others read and write while XREAD waits, and what they write ends the wait."""
    reader, writer = connect(protocol=2), connect()
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(reader.xread, {key: "$"}, block=int(DEADLINE_SECONDS * 1000))
        eventually(lambda: proxy.round_trips == 1)
        assert [writer.llen("none") for _ in range(10)] == [0] * 10
        assert not read.done()
        eventually(lambda: writer.xadd(key, {"a": "b"}) and read.done())
        assert read.result()


def test_a_blocked_command_ends_at_the_server_when_its_client_goes(
    proxy: FaultProxy, connect: Connect, valkey: Server, key: str
) -> None:
    """A client that stops waiting leaves no blocked client behind, also while a fault waits for the reply."""
    for armed in (False, True):
        if armed:
            proxy.arm(Fault.DROP_REPLY)
        with pytest.raises(redis.TimeoutError):
            connect(socket_timeout=0.3).blpop([key], timeout=0)
        eventually(lambda: valkey.raw.info("clients")["blocked_clients"] == 0)
    assert proxy.struck == 0


def test_a_command_whose_client_leaves_at_once_is_passed_on(proxy: FaultProxy, valkey: Server, key: str) -> None:
    """As without a proxy: a process that is killed after it sent has sent."""
    with socket.create_connection(("127.0.0.1", proxy.port), DEADLINE_SECONDS) as raw:
        raw.sendall(request(b"RPUSH", key.encode(), b"x"))
    eventually(lambda: valkey.raw.llen(key) == 1)


def test_cutting_ends_every_connection_and_new_ones_are_taken(
    proxy: FaultProxy, connect: Connect, valkey: Server, key: str
) -> None:
    """A command that waits fails at once, and at the server nothing of it is left."""
    clients = [connect(), connect()]
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(client.blpop, [key], timeout=0) for client in clients]
        eventually(lambda: valkey.raw.info("clients")["blocked_clients"] == 2)
        proxy.cut()
        for reply in waiting:
            with pytest.raises(redis.ConnectionError):
                reply.result(DEADLINE_SECONDS)
    eventually(lambda: valkey.raw.info("clients")["blocked_clients"] == 0)
    assert clients[0].llen(key) == 0


def test_new_connections_are_refused_until_they_are_restored(
    proxy: FaultProxy, connect: Connect, valkey: Server, key: str
) -> None:
    """Those that there are go on; at the same port they are taken again."""
    old, new = connect(), connect()
    assert old.llen(key) == 0
    for _ in range(2):
        proxy.refuse()
        proxy.refuse()
        with pytest.raises(redis.ConnectionError, match="refused"):
            new.llen(key)
        assert old.llen(key) == 0
        proxy.restore()
        proxy.restore()
        assert new.llen(key) == 0
        new.close()


def test_a_server_that_is_not_there_ends_the_connection(connect: Connect) -> None:
    """The client sees a connection that ends, whichever way the server would be reached."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        for upstream in (f"redis://127.0.0.1:{taken.getsockname()[1]}", "unix:///nowhere/at/all"):
            with (
                FaultProxy(upstream) as proxy,
                redis.Redis.from_url(proxy.url, retry=Retry(NoBackoff(), 0)) as client,
                pytest.raises(redis.ConnectionError),
            ):
                client.llen("x")


def test_a_server_at_a_port_and_a_password() -> None:
    """Clients log in through the proxy, and faults count after that."""
    with (
        tcp_server("secret") as port,
        FaultProxy(f"redis://127.0.0.1:{port}") as proxy,
        redis.Redis.from_url(proxy.url, password="secret", retry=Retry(NoBackoff(), 0)) as client,
    ):
        proxy.arm(Fault.DROP_REPLY)
        with pytest.raises(redis.ConnectionError):
            client.rpush("list", "x")
        assert client.lrange("list", 0, -1) == [b"x"]


@pytest.mark.parametrize("upstream", ["rediss://localhost", "unix://", "redis://", "127.0.0.1:6379"])
def test_an_upstream_that_is_none_is_refused(upstream: str) -> None:
    """Only what it can reach."""
    with pytest.raises(ValueError, match="upstream must be"):
        FaultProxy(upstream)


@pytest.mark.parametrize("protocol", [2, 3])
def test_subscribers_are_piped_through(
    protocol: int, proxy: FaultProxy, connect: Connect, valkey: Server, key: str
) -> None:
    """What is published arrives, though no reply belongs to it; an armed fault waits for another."""
    proxy.arm(Fault.DROP_REPLY)
    with connect(protocol=protocol).pubsub() as subscriber:
        subscriber.subscribe(key)
        eventually(lambda: valkey.raw.publish(key, "news") == 1)
        eventually(lambda: (subscriber.get_message(timeout=1) or {}).get("data") == b"news")
    assert proxy.struck == 0


def test_what_is_not_resp_is_piped_through(proxy: FaultProxy, key: str) -> None:
    """The server says itself what it thinks of it; inline commands work."""
    with socket.create_connection(("127.0.0.1", proxy.port), DEADLINE_SECONDS) as raw, raw.makefile("rb") as said:
        raw.sendall(request(b"LLEN", key.encode()) + b"EXISTS " + key.encode() + b"\r\n")
        assert [said.readline(), said.readline()] == [b":0\r\n", b":0\r\n"]
        raw.sendall(b"*x\r\n")
        assert said.readline().startswith(b"-ERR Protocol error")
        assert said.readline() == b""


def test_nothing_is_left_when_it_is_closed(valkey: Server, key: str) -> None:
    """No thread, no connection at the server; and it may be closed again."""
    before = set(threading.enumerate())
    with FaultProxy(valkey.url) as proxy:
        name = f"proxied-{key}"
        clients = [redis.Redis.from_url(proxy.url, client_name=name) for _ in range(5)]
        for client in clients:
            client.llen(key)
    proxy.close()
    eventually(lambda: set(threading.enumerate()) <= before)
    eventually(lambda: not [there for there in valkey.raw.client_list() if there["name"] == name])
    for client in clients:
        client.close()


def test_many_threads_meet_exactly_the_faults_that_were_armed(
    proxy: FaultProxy, connect: Connect, valkey: Server, key: str
) -> None:
    """Of 400 appends from 8 threads, 20 lose their replies, and none is lost or doubled."""
    proxy.arm(Fault.DROP_REPLY, at=50, times=20)

    def push(_: int) -> int:
        client, lost = connect(), 0
        for number in range(50):
            try:
                client.rpush(key, number)
            except redis.ConnectionError:
                lost += 1
        return lost

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(push, range(8))) == 20
    assert (proxy.struck, proxy.round_trips, valkey.raw.llen(key)) == (20, 400, 400)


# -- framing


def request(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


lines = st.text(st.characters(exclude_characters="\r\n", codec="utf-8")).map(str.encode)
blobs = st.binary(max_size=50) | st.just(b"\r\n$5\r\n*3\r\n")
leaves = st.one_of(
    st.builds(lambda kind, line: kind + line + b"\r\n", st.sampled_from([b"+", b"-"]), lines),
    st.builds(lambda kind, number: kind + b"%d\r\n" % number, st.sampled_from([b":", b"("]), st.integers()),
    st.floats().map(lambda number: b",%s\r\n" % str(number).encode()),
    st.sampled_from([b"_\r\n", b"#t\r\n", b"#f\r\n", b"$-1\r\n", b"*-1\r\n", b",inf\r\n"]),
    st.builds(
        lambda kind, blob: kind + b"%d\r\n%s\r\n" % (len(blob), blob), st.sampled_from([b"$", b"=", b"!"]), blobs
    ),
)


def containers(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Everything that holds other values, an attribute with the value that it precedes among them."""

    def pairs(count: int) -> st.SearchStrategy[list[bytes]]:
        return st.lists(inner, min_size=2 * count, max_size=2 * count)

    some = st.lists(inner, max_size=4)
    count = st.integers(0, 3)
    return st.one_of(
        st.builds(
            lambda kind, items: kind + b"%d\r\n" % len(items) + b"".join(items),
            st.sampled_from([b"*", b"~"]),
            some,
        ),
        count.flatmap(pairs).map(lambda items: b"%%%d\r\n" % (len(items) // 2) + b"".join(items)),
        st.builds(
            lambda items, value: b"|%d\r\n" % (len(items) // 2) + b"".join(items) + value,
            count.flatmap(pairs),
            inner,
        ),
    )


values = st.recursive(leaves, containers, max_leaves=10)
pushes = st.lists(values, max_size=3).map(lambda items: b">%d\r\n" % len(items) + b"".join(items))


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    """The stream in pieces, cut at these places."""
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[begin:end] for begin, end in pairwise(places)]


@pytest.mark.exhaustive
@given(st.lists(values | pushes, max_size=8), st.lists(st.integers(0, 10_000), max_size=20))
def test_a_stream_is_cut_into_its_values_whatever_pieces_it_comes_in(sent: list[bytes], cuts: list[int]) -> None:
    """Each value comes out whole, in order, and as soon as its last byte is there."""
    framer, got, fed = Framer(), list[bytes](), 0
    for piece in pieces(b"".join(sent), cuts):
        got += framer.feed(piece)
        fed += len(piece)
        assert sum(map(len, got)) + len(framer.rest) == fed
        assert len(got) == len([n for n in range(len(sent)) if sum(map(len, sent[: n + 1])) <= fed])
    assert got == sent
    assert framer.rest == b""


@given(st.lists(st.lists(blobs, min_size=1, max_size=5), max_size=5))
def test_commands_are_told_apart_byte_by_byte_and_named(commands: list[list[bytes]]) -> None:
    """Words may hold anything, also what looks like the protocol."""
    framer = Framer()
    stream = b"".join(request(*words) for words in commands)
    got = [value for byte in stream for value in framer.feed(bytes([byte]))]
    assert got == [request(*words) for words in commands]
    names = [command_name(value) for value in got]
    assert names == [words[0].decode("ascii", "replace").upper() for words in commands]


@given(st.lists(values, max_size=4), st.binary(min_size=1).filter(lambda junk: junk[0] not in b"+-:_#,($!=*~>%|"))
def test_what_is_not_resp_is_an_error_that_loses_no_byte(sent: list[bytes], junk: bytes) -> None:
    """All that was fed and not given back is in the rest."""
    framer = Framer()
    with pytest.raises(ValueError, match="no RESP value"):
        framer.feed(b"".join(sent) + junk)
    assert framer.rest == b"".join(sent) + junk


@pytest.mark.parametrize("value", [b"+PING\r\n", b"*0\r\n", b"*-1\r\n", b"*1\r\n:1\r\n", b"*1\r\n*0\r\n"])
def test_what_is_no_array_of_blobs_has_no_name(value: bytes) -> None:
    """RESP, but nothing that a client sends as a command."""
    assert Framer().feed(value) == [value]
    with pytest.raises(ValueError, match=r"."):
        command_name(value)


def test_a_large_value_is_cut_in_linear_time() -> None:
    """A million bytes in small pieces, as one blob and as many integers: no byte is looked at again and again."""
    blob = b"$1000000\r\n" + b"x" * 1_000_000 + b"\r\n"
    array = b"*200000\r\n" + b":123\r\n" * 200_000
    for value in (blob, array):
        framer, got = Framer(), list[bytes]()
        began = time.monotonic()
        for at in range(0, len(value), 100):
            got += framer.feed(value[at : at + 100])
        assert got == [value]
        assert time.monotonic() - began < 10  # quadratic: minutes
