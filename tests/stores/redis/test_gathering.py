"""Appends that wait for each other go together, and each is as if it had been sent alone."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runstream import LeaseHeld, connect, connect_async
from runstream.model.errors import RunstreamError, StoreUnavailable
from runstream.operations.operation import Exchange, Resent
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.connection.gathering import Gatherer
from runstream.stores.redis.operations.client import append
from runstream.stores.redis.scripts.calls import GATHER, gather_call, gathers_with
from tests.stores.redis.test_fast_path import plain, what_lies_there
from tests.support.backends import RedisBackend
from tests.support.operations import session_of
from tests.support.samples import make_event
from tests.support.servers import Server, eventually

WRITERS = 5
LANES = ("main", "a", "b")
MANY = 16

calls = st.lists(
    st.tuples(st.integers(0, WRITERS - 1), st.sampled_from(LANES), st.integers(0, 9)),
    min_size=1,
    max_size=WRITERS,
    unique_by=lambda call: call[0],
)
rounds = st.lists(
    st.one_of(
        calls,
        calls,
        st.sampled_from(
            [
                "look",
                "lease",
                "release",
                "settled",
                "cancel",
                "far",
                "forget",
                "large",
                "session",
                "another second",
            ]
        ),
    ),
    max_size=8,
)
ONE_EACH = [(writer, "main", writer) for writer in range(WRITERS)]


class Played:
    """Rounds of appends of several writers to one run, each round at once."""

    def __init__(self, raw: Any, namespace: str) -> None:
        self.raw = raw
        self.stores = [RedisCheckpointer[Any, Any](raw, namespace=namespace) for _ in range(WRITERS)]
        self.seq, self.size, self.session = 0, 0, ""
        self.lease: Any = None
        self.results: list[Any] = []
        for store in self.stores:  # the run knows all of them
            store.save_event(self.event("main", 0))

    def event(self, lane: str, seq: int) -> Any:
        self.seq += 1
        number, size, self.size = self.seq, self.size, 0
        payload = {"number": number, "text": "x" * size}
        return make_event("r", seq, lane_id=lane, session_id=self.session, ts=1.0, span_id="s", payload=payload)

    def begin(self, round_: Any) -> dict[int, tuple[Any, Any]]:
        """The operations of a round, by writer, and the calls that they ask for."""
        begun = {}
        for writer, lane, seq in round_:
            operation = append.save_event(session_of(self.stores[writer]), self.event(lane, seq))
            exchange = next(operation)
            assert isinstance(exchange, Exchange)
            begun[writer] = operation, exchange
        return begun

    def finish(self, operation: Any, reply: Any) -> None:
        try:
            step = operation.send([reply])
            while True:
                step = operation.send([self.raw.execute_command(*command) for command in step.commands])
        except StopIteration as stop:
            recorded = stop.value
            self.results.append(recorded and plain(recorded.last))
        except RunstreamError as error:
            self.results.append(type(error))

    def do(self, what: str) -> None:
        """What comes between two rounds."""
        store, raw, keys = self.stores[0], self.raw, session_of(self.stores[0]).keys.run("r")
        if what in ("lease", "release"):
            if self.lease is not None:
                self.lease.release()
            self.lease = store.lease("r", owner="o", lane_id="a") if what == "lease" else None
        elif what == "look":
            for each in self.stores:
                list(each.read("r"))
        elif what == "settled":
            raw.zrem(keys.partition.due, "r")
            raw.hset(keys.meta, "mark", raw.hget(keys.meta, "last"))
        elif what == "far":
            store.append("r", [self.event("far", seq) for seq in range(70)])
        elif what in ("large", "session"):
            self.size, self.session = (9000, self.session) if what == "large" else (self.size, "s")
        elif what == "forget":
            # of several lanes: then all that is remembered of producers lies in one place
            store.append("r", [self.event("main", 1), self.event("b", 1)])
            pool = session_of(self.stores[3]).producers
            raw.hdel(keys.producers, *(producer.name for producer in pool._free.values()))
        else:
            self.alter[what](raw, keys)

    alter: ClassVar[dict[str, Any]] = {
        "cancel": lambda raw, keys: raw.hset(keys.meta, "cancel", "1 enough"),
        "another second": lambda raw, keys: raw.hincrby(keys.meta, "updated", -(10**6)),
        "removed": lambda raw, keys: raw.delete(keys.events),
    }

    def close(self) -> None:
        if self.lease is not None:
            self.lease.release()

    def read(self) -> Any:
        try:
            return [(item.offset, item.event) for item in self.stores[0].read("r")]
        except RunstreamError as error:
            return type(error)


def together(raw: Any, exchanges: Sequence[Exchange]) -> list[bytes]:
    """The replies to appends that are sent in one call."""
    commands = [exchange.commands[0] for exchange in exchanges]
    assert len(set(map(gathers_with, commands))) == 1
    replies: list[bytes] = raw.execute_command(*gather_call(commands))
    return replies


def play(played: Played, script: Sequence[Any], orders: list[list[int]] | None) -> list[list[int]]:
    """Play; without orders, each round is sent together, and what is not taken then alone. Gives the orders."""
    made = []
    for round_ in script:
        if isinstance(round_, str):
            played.do(round_)
            continue
        begun = played.begin(round_)
        if orders is None:
            replies = together(played.raw, [exchange for _, exchange in begun.values()])
            of_writer = dict(zip(begun, replies, strict=True))
            order = sorted(begun, key=lambda writer: not of_writer[writer])
        else:
            of_writer, order = {}, orders.pop(0)
        for writer in order:
            operation, exchange = begun[writer]
            played.finish(operation, of_writer.get(writer) or played.raw.execute_command(*exchange.commands[0]))
        made.append(order)
    played.close()
    return made


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=rounds)
@example(script=[ONE_EACH, ONE_EACH, "look", ONE_EACH])
@example(script=[[(0, "a", 1)], "lease", [(1, "a", 1), (2, "main", 1), (3, "b", 5)], "release", ONE_EACH])
@example(script=["far", [(0, "main", 3), (1, "far", 9)], "settled", [(1, "far", 2), (2, "far", 8), (3, "a", 1)]])
@example(script=[ONE_EACH, "forget", ONE_EACH, "large", ONE_EACH, "cancel", ONE_EACH])
@example(script=["session", ONE_EACH, "another second", ONE_EACH, "removed", ONE_EACH])
def test_they_leave_what_each_alone_would_leave(redis_backend: RedisBackend, script: list[Any]) -> None:
    raw = redis_backend.raw
    raw.script_load(GATHER.source)
    namespaces = [f"{redis_backend.namespace}-{name}" for name in ("together", "alone")]
    try:
        one, other = (Played(raw, namespace) for namespace in namespaces)
        orders = play(one, script, None)
        play(other, script, orders)
        assert one.results == other.results
        assert what_lies_there(raw, namespaces[0]) == what_lies_there(raw, namespaces[1])
        assert one.read() == other.read()
    finally:
        raw.delete(*(key for namespace in namespaces for key in raw.keys(f"{{{namespace}*")))


def test_all_are_taken_together_but_one_that_is_sent_again(redis_backend: RedisBackend) -> None:
    """Whoever has seen an older event of the run is taken, too."""
    raw = redis_backend.raw
    raw.script_load(GATHER.source)
    played = Played(raw, redis_backend.namespace)
    begun = played.begin(ONE_EACH)
    exchanges = [exchange for _, exchange in begun.values()]
    first = together(raw, exchanges)
    assert all(first)
    assert together(raw, exchanges) == [b""] * WRITERS
    assert [raw.execute_command(*exchange.commands[0]) for exchange in exchanges] == first
    for (operation, _), reply in zip(begun.values(), first, strict=True):
        played.finish(operation, reply)
    assert [item.offset for item in played.stores[0].read("r")] == list(range(1, 2 * WRITERS + 1))


@contextmanager
def held_up(server: Server) -> Iterator[None]:
    """The server makes no write until this is left."""
    raw: Any = server.raw
    raw.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
    try:
        yield
    finally:
        raw.execute_command("CLIENT", "UNPAUSE")


def script_calls(server: Server) -> int:
    stats: Any = server.raw.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


def blocked(server: Server) -> int:
    clients: Any = server.raw.info("clients")
    return int(clients["blocked_clients"])


def test_threads_that_wait_for_one_are_sent_together(server: Server, namespace: str) -> None:
    """Each has its own refusal."""
    url = f"{server.url}?namespace={namespace}"
    with connect(url) as store, connect(url) as other:
        for _ in range(2):  # then the run knows their producers, and the server the scripts
            assert append_at_once(store, server) == []
        with other.lease("r", owner="o", lane_id="7"):
            before = script_calls(server)
            assert append_at_once(store, server) == [7]
            assert script_calls(server) - before == 3  # the first, the others, and the one that is to be refused
        assert [item.offset for item in store.read("r")] == list(range(1, 3 * MANY))
        lanes = [item.event.lane_id for item in store.read("r", after=2 * MANY)]
        assert sorted(lanes, key=int) == [f"{lane}" for lane in range(MANY) if lane != 7]
    server.raw.flushall()


def append_at_once(store: Any, server: Server) -> list[int]:
    """Append to many lanes, one before all others, which wait for it; gives those that were refused."""
    refused: list[int] = []
    with held_up(server):
        first = begun(store, 0, refused)
        eventually(lambda: blocked(server) == 1)
        others = [begun(store, lane, refused) for lane in range(1, MANY)]
        eventually(lambda: waiting(store) == MANY - 1)
    for thread in (first, *others):
        thread.join()
    return refused


def begun(store: Any, lane: int, refused: list[int]) -> threading.Thread:
    """A thread that appends an event to a lane."""

    def work() -> None:
        try:
            store.save_event(make_event("r", 0, lane_id=f"{lane}"))
        except LeaseHeld:
            refused.append(lane)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def waiting(store: Any) -> int:
    """How many appends wait for their turn."""
    return sum(map(len, store._driver._transport._gatherer._lines.values()))


def test_a_signal_handler_appends_while_its_thread_waits(server: Server, namespace: str) -> None:
    """It would wait for what it has interrupted."""
    url = f"{server.url}?namespace={namespace}"
    with connect(url) as store:
        store.save_event(make_event("r", 0))
        handled: list[int] = []

        def handle(*_: object) -> None:
            handled.append(0)
            with timer(0, signal.SIG_IGN):
                release.set()
                store.save_event(make_event("r", 2))
            handled.append(1)

        release = threading.Event()

        def hold() -> None:
            with held_up(server):
                started.append(begun(store, 1, []))
                eventually(lambda: blocked(server) == 1)
                holding.set()
                release.wait()

        started: list[threading.Thread] = []
        holding = threading.Event()
        holder = threading.Thread(target=hold)
        holder.start()
        holding.wait()
        with timer(0.05, handle):
            store.save_event(make_event("r", 1))  # waits for the other's, and is interrupted
        holder.join()
        started[0].join()
        assert handled == [0, 1]
        assert len(list(store.read("r"))) == 4
    server.raw.flushall()


@contextmanager
def timer(seconds: float, handle: Any) -> Iterator[None]:
    """Call a handler in the main thread after that time."""
    former = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def test_who_breaks_off_leaves_the_others_their_turn() -> None:
    """The one that was to send all that wait is interrupted: the others send by themselves."""
    gatherer, sent = Gatherer(), []
    exchange = Exchange([(b"EVALSHA", "append", 1, "key", *range(8), b"record")], may_gather=True)
    go_on = threading.Event()

    def send(what: Exchange) -> list[Any]:
        sent.append(what)
        go_on.wait()
        return [b"reply" if what is exchange else [b"reply"] * ((len(what.commands[0]) - 6) // 7)]

    replies: list[Any] = []
    threads = [
        threading.Thread(target=lambda: replies.append(gatherer.exchange(exchange, send))) for _ in range(4)
    ]
    threads[0].start()
    eventually(lambda: sent)
    (key,) = gatherer._lines
    gone = gatherer._line_up(key, exchange)
    assert gone is not None
    for thread in threads[1:]:
        thread.start()
    eventually(lambda: len(gatherer._lines[key]) == 4)
    go_on.set()
    threads[0].join()
    gatherer._leave(key, gone)
    for thread in threads[1:]:
        thread.join()
    assert replies == [[b"reply"]] * 4
    assert gatherer._lines == {}


@pytest.mark.parametrize("error", [StoreUnavailable("it is away"), None])
def test_each_has_an_error_of_its_own(error: StoreUnavailable | None) -> None:
    """What is noted of one is not noted of another."""
    gatherer = Gatherer()
    exchange = Exchange([(b"EVALSHA", "append", 1, "key", *range(8), b"record")], may_gather=True)
    first, errors, replies = threading.Event(), [], []

    def send(what: Exchange) -> list[Any]:
        first.wait()
        if what is exchange:
            return [b"alone"]
        if error is not None:
            raise error
        return [None]  # as a refusal: each is sent alone

    def work() -> None:
        try:
            replies.append(gatherer.exchange(exchange, send))
        except StoreUnavailable as raised:
            errors.append(raised)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: sum(map(len, gatherer._lines.values())) == 3)
    first.set()
    for thread in threads:
        thread.join()
    assert len({id(one) for one in errors}) == (3 if error else 0)
    assert replies == [[b"alone"]] * (1 if error else 4)
    # where nobody knows whether they were applied with the others, they were sent before
    assert sum(isinstance(one, Resent) for one in replies) == (0 if error else 3)


async def test_tasks_that_append_in_one_turn_are_sent_together(server: Server, namespace: str) -> None:
    """Each has its own refusal."""
    url = f"{server.url}?namespace={namespace}"
    async with connect_async(url) as store, connect_async(url) as other:
        for _ in range(2):
            await asyncio.gather(*(store.save_event(make_event("r", 0, lane_id=f"{n}")) for n in range(MANY)))
        async with other.lease("r", owner="o", lane_id="7"):
            before = script_calls(server)
            done = await asyncio.gather(
                *(store.save_event(make_event("r", 1, lane_id=f"{lane}")) for lane in range(MANY)),
                return_exceptions=True,
            )
            assert script_calls(server) - before == 2  # all, and the one that is to be refused
        assert [index for index, one in enumerate(done) if isinstance(one, LeaseHeld)] == [7]
        assert [item.offset async for item in store.read("r")] == list(range(1, 3 * MANY))
    server.raw.flushall()
