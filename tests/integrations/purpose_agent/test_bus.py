"""StoreBus beside purpose-agent's own EventBus: what is the same, and what a store adds."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from purpose_agent.runtime import EventBus, EventKind, PAEvent, Visibility, create_event
from redis.backoff import NoBackoff
from redis.retry import Retry

import runstream
from runstream import (
    ConfigurationError,
    DrainWorker,
    EncodingError,
    RedisCheckpointer,
    SQLiteCheckpointer,
    StoreUnavailable,
    TooManyPending,
    connect,
)
from runstream.integrations.purpose_agent import Deliveries, Delivery, StoreBus, Subscription
from runstream.testing import Fault, FaultProxy
from tests.support.servers import eventually, needs_server, needs_valkey

Open = Callable[..., StoreBus[Any]]

in_memory = pytest.mark.parametrize("store", ["memory"], indirect=True)
"""For what has nothing to do with where the runs are."""


@pytest.fixture(params=["memory", "fake", "sqlite", "jsonl"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Its events are purpose-agent's own."""
    place = tmp_path / "runs" if request.param in {"sqlite", "jsonl"} else tmp_path.name + request.node.name
    with connect(f"{request.param}:{place}", event_type=PAEvent) as opened:
        yield opened


@pytest.fixture
def open_bus() -> Iterator[Open]:
    buses = []

    def open_(store: Any, **options: Any) -> StoreBus[Any]:
        buses.append(StoreBus(store, **options))
        return buses[-1]

    yield open_
    for bus in buses:
        if bus._writer.failure is None:
            bus.close()


def tool(run_id: str, seq: int, **fields: Any) -> PAEvent:
    return PAEvent(run_id, seq=seq, kind=EventKind.TOOL_RESULT, payload={"n": seq}, **fields)


def finished(run_id: str, seq: int = 99) -> PAEvent:
    return create_event(run_id, EventKind.RUN_FINISHED, seq=seq)


@in_memory
async def test_a_subscription_has_a_type_and_says_how_it_is_read(store: Any, open_bus: Open) -> None:
    bus = open_bus(store)
    events, deliveries = bus.subscribe(after=0), bus.deliveries(after=0)
    assert (type(events), type(deliveries)) == (Subscription, Deliveries)
    for items in (events, deliveries):
        with pytest.raises(ConfigurationError, match="async for"):
            list(items)  # type: ignore[call-overload]  # the mistake
    bus.emit(finished("r"))
    assert type((await taken(deliveries, 1))[0]) is Delivery


async def taken(subscription: Any, count: int | None = None) -> list[Any]:
    """So many events, or all until it ends."""
    found: list[Any] = []
    async with asyncio.timeout(20):
        while len(found) != count:
            try:
                found.append(await anext(subscription))
            except StopAsyncIteration:
                break
    return found


async def begun(*subscriptions: Any) -> None:
    """Until all of them know where the runs end that there are."""
    await asyncio.to_thread(eventually, lambda: all(each._deliveries._has_begun for each in subscriptions))


def seqs(events: Any) -> list[int]:
    return [event.seq for event in events]


# -- as an EventBus --------------------------------------------------------------------------------------


@in_memory
@pytest.mark.parametrize("kind", ["theirs", "ours"])
async def test_a_program_for_their_bus_does_the_same_on_ours(
    kind: str, store: Any, open_bus: Open, caplog: pytest.LogCaptureFixture
) -> None:
    bus: Any = EventBus() if kind == "theirs" else open_bus(store)
    subscription = bus.subscribe(kinds={EventKind.TOOL_RESULT, EventKind.RUN_FINISHED})
    first = asyncio.create_task(anext(subscription))
    await asyncio.sleep(0)
    emitted = [
        tool("r", bus.next_seq("a"), lane_id="a"),
        tool("r", bus.next_seq(), visibility=Visibility.INTERNAL),
    ]
    emitted += [create_event("r", EventKind.TEXT_DELTA, seq=bus.next_seq()), finished("r", bus.next_seq())]
    with caplog.at_level(logging.WARNING):
        bus.emit(create_event("r", EventKind.REASONING_SUMMARY, raw_cot="so I think"))
    assert "chain" in caplog.text
    for event in emitted[:2]:
        bus.emit(event)
    for event in emitted[2:]:
        bus.emit_sync(event)
    found = [await first, *await taken(subscription)]
    assert [found.index(event) for event in (emitted[0], emitted[1], emitted[3])] == [0, 1, 2]
    assert all(one is other for one, other in zip(found, (emitted[0], emitted[1], emitted[3]), strict=True))
    assert seqs(emitted) == [1, 1, 2, 3]
    assert bus.replay() == bus.replay("r") == emitted
    assert bus.replay("r", "main", 2) == emitted[3:]
    assert bus.replay("other") == []
    assert bus.history_size == 4
    replayed = bus.replay("r")
    assert all(event.kind is EventKind(event.kind.value) for event in replayed)
    bus.close()


@in_memory
async def test_a_visibility_names_who_looks(store: Any, open_bus: Open) -> None:
    """Theirs lets an internal viewer see what is public, and a public one see debug, by comparing texts."""
    bus, other = open_bus(store), open_bus(store)
    levels = {1: "public", 2: "internal", 3: "debug"}
    viewers = {name: bus.subscribe(name, run_id="r") for name in levels.values()}
    elsewhere = {name: other.subscribe(name, run_id="r", after=0) for name in levels.values()}
    for seq, name in levels.items():
        bus.emit(tool("r", seq, visibility=Visibility(name)))
    bus.emit(finished("r"))
    expected = {"public": [1, 99], "internal": [1, 2, 99], "debug": [1, 2, 3, 99]}
    for name, wanted in expected.items():
        assert seqs(await taken(viewers[name])) == wanted
        assert seqs(await taken(elsewhere[name])) == wanted
        assert seqs(bus.replay("r", visibility=name)) == wanted


# -- what a store adds -----------------------------------------------------------------------------------


async def test_what_is_emitted_here_comes_at_once_and_once_and_without_an_offset(
    store: Any, open_bus: Open
) -> None:
    bus = open_bus(store)
    deliveries = bus.deliveries(run_id="r")
    for seq in range(1, 4):
        bus.emit(tool("r", seq))
    assert [(item.event.seq, item.offset, item.cursor) for item in await taken(deliveries, 3)] == [
        (seq, None, None) for seq in range(1, 4)
    ]
    bus.flush()
    store.append("r", [tool("r", 4)])  # as another process does
    (item,) = await taken(deliveries, 1)
    assert (item.event.seq, item.offset, item.cursor) == (4, 4, list(store.read("r"))[-1].cursor)
    bus.emit(finished("r"))
    assert [(item.event.seq, item.offset) for item in await taken(deliveries)] == [(99, None)]
    assert seqs(store.list_events("r")) == [1, 2, 3, 4, 99]


@in_memory
async def test_an_event_whose_append_has_not_returned_yet_is_not_given_again(
    store: Any, open_bus: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader finds it in the store before the writer knows its offset."""
    store.append("r", [tool("r", 1)])
    append, may_return = store.append, threading.Event()

    def late(*args: Any, **options: Any) -> Any:
        appended = append(*args, **options)
        assert may_return.wait(20)
        return appended

    monkeypatch.setattr(store, "append", late)
    bus = open_bus(store)
    deliveries = bus.deliveries(run_id="r", after=0)
    found = await taken(deliveries, 1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(deliveries), 0.1)
    bus.emit(tool("r", 2))
    found += await taken(deliveries, 1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(deliveries), 0.2)
    may_return.set()
    bus.emit(finished("r"))
    found += await taken(deliveries)
    assert [(item.event.seq, item.offset) for item in found] == [(1, 1), (2, None), (99, None)]


async def test_others_get_it_live_and_replayed(store: Any, open_bus: Open) -> None:
    """By run, session, lane and kind; from the beginning, from a cursor, and from now on."""
    bus, other = open_bus(store), open_bus(store)
    for seq in (1, 2):
        bus.emit(tool("r", seq, session_id="monday"))
        bus.emit(tool("s", seq, lane_id="b", session_id="sunday"))
    bus.flush()
    cursor = next(iter(store.read("r"))).cursor
    live = {
        "run": other.subscribe(run_id="r"),
        "from the beginning": other.subscribe(run_id="r", after=0),
        "from a cursor": other.subscribe(run_id="r", after=cursor),
        "session": other.subscribe(session_id="sunday"),
        "session from the beginning": other.subscribe(session_id="sunday", after=0),
        "lane": other.subscribe(lane_id="b"),
        "kind": other.subscribe(kinds={EventKind.TEXT_DELTA}),
        "all": other.subscribe(after=0),
    }
    counts = {
        "run": 2,
        "from the beginning": 4,
        "from a cursor": 3,
        "session": 2,
        "session from the beginning": 4,
        "lane": 1,
        "kind": 1,
        "all": 7,
    }
    waiting = {name: asyncio.create_task(taken(live[name], count)) for name, count in counts.items()}
    await begun(*live.values())
    bus.emit(tool("s", 3, lane_id="b"))
    bus.emit(create_event("s", EventKind.TEXT_DELTA, seq=4))
    bus.emit(finished("r"))
    found = {name: seqs(await task) for name, task in waiting.items() if name != "run"}
    assert sorted(found.pop("all")) == [1, 1, 2, 2, 3, 4, 99]
    assert found == {
        "from the beginning": [1, 2, 99],
        "from a cursor": [2, 99],
        "session": [3, 4],
        "session from the beginning": [1, 2, 3, 4],
        "lane": [3],
        "kind": [4],
    }
    assert seqs(await waiting["run"]) == [99]  # it ends with its run


@in_memory
async def test_what_a_slow_subscriber_has_no_room_for_he_gets_from_the_store_in_order(
    store: Any, open_bus: Open
) -> None:
    bus = open_bus(store, max_queue_size=10)
    deliveries = bus.deliveries(run_id="r")
    for seq in range(1, 701):
        bus.emit(tool("r", seq))
    bus.flush()
    found = await taken(deliveries, 700)
    assert [item.event.seq for item in found] == list(range(1, 701))
    assert [item.offset for item in found] == [None] * 10 + list(range(11, 701))
    bus.emit(tool("r", 701))
    (item,) = await taken(deliveries, 1)
    assert item.event.seq == 701
    bus.emit(finished("r"))
    assert [item.event.seq for item in await taken(deliveries)] == [99]


@pytest.mark.parametrize("store", ["fake", "sqlite"], indirect=True)
async def test_writers_on_all_sides_are_heard_once_each_and_their_own_in_order(store: Any, open_bus: Open) -> None:
    buses = [open_bus(store, max_queue_size=20) for _ in range(2)]
    heard = [asyncio.create_task(taken(bus.subscribe(run_id="r", after=0))) for bus in buses]

    def write(index: int) -> None:
        for seq in range(1, 201):
            buses[index].emit(tool("r", seq, lane_id=f"lane{index}"))

    await asyncio.gather(*(asyncio.to_thread(write, index) for index in range(2)))
    await asyncio.gather(*(asyncio.to_thread(bus.flush) for bus in buses))
    buses[0].emit(finished("r"))
    for events in await asyncio.gather(*heard):
        for index in range(2):
            assert seqs(event for event in events if event.lane_id == f"lane{index}") == list(range(1, 201))
        assert len(events) == 401


async def test_what_was_archived_and_trimmed_is_replayed_too(tmp_path: Path, open_bus: Open) -> None:
    url, archive = f"fake:{tmp_path.name}", f"sqlite:{tmp_path}/archive.db"
    with (
        connect(url, archive=archive, event_type=PAEvent) as store,
        connect(url) as hot,
        SQLiteCheckpointer(f"{tmp_path}/archive.db") as sink,
    ):
        bus = open_bus(store, max_queue_size=1)
        deliveries = bus.deliveries(run_id="r")
        for seq in range(1, 6):
            bus.emit(tool("r", seq))
        bus.flush()
        report = DrainWorker(hot, [sink], trim="archived").drain_once()
        assert report.trimmed == 5
        assert seqs(bus.replay("r")) == [1, 2, 3, 4, 5]
        assert seqs(bus.replay("r", since_seq=3)) == [4, 5]
        assert open_bus(store, run_id="r").next_seq() == 6
        assert [(item.event.seq, item.offset) for item in await taken(deliveries, 5)] == [
            (1, None),
            *[(seq, seq) for seq in range(2, 6)],
        ]
        bus.emit(finished("r"))
        assert seqs(await taken(bus.subscribe(run_id="r", after=2))) == [3, 4, 5, 99]


def test_numbers_go_on_after_a_restart(store: Any, open_bus: Open) -> None:
    bus = open_bus(store, run_id="r")
    assert [bus.next_seq(), bus.next_seq("b"), bus.next_seq()] == [1, 1, 2]
    for seq in (1, 2, 3):
        bus.emit(tool("r", seq))
    bus.emit(tool("r", 7, lane_id="b"))
    bus.emit(tool("s", 50))
    assert bus.next_seq() == 3
    bus.emit(tool("late", 9))
    assert bus.next_seq(run_id="late") == 10  # what waits counts
    bus.close()
    again = open_bus(store, run_id="r")
    assert [again.next_seq(), again.next_seq("b"), again.next_seq(run_id="s")] == [4, 8, 51]
    assert [open_bus(store).next_seq(), open_bus(store).next_seq("b"), open_bus(store).next_seq("c")] == [51, 8, 1]


@in_memory
async def test_an_event_is_recorded_as_it_was_emitted_or_refused_at_once(store: Any, open_bus: Open) -> None:
    bus = open_bus(store)
    deliveries = bus.deliveries()
    event = tool("r", 1)
    bus.emit(event)
    event.payload["n"] = 2
    bus.flush()
    assert store.list_events("r")[0].payload == {"n": 1}
    with pytest.raises(runstream.EncodingError):
        bus.emit(tool("r", 2, parent_span_id=object()))
    bus.close()
    assert len(await taken(deliveries)) == 1


# -- bounds and failures ---------------------------------------------------------------------------------


class Gate:
    """Holds up, or fails, every append of a store until it is opened."""

    def __init__(self, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_open = threading.Event()
        self.is_reached = threading.Event()
        self.errors: list[Exception] = []
        append = store.append

        def held(*args: Any, **options: Any) -> Any:
            self.is_reached.set()
            if self.errors:
                raise self.errors.pop()
            assert self.is_open.wait(20)
            return append(*args, **options)

        monkeypatch.setattr(store, "append", held)


@pytest.fixture
def gate(store: Any, monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(store, monkeypatch)


@in_memory
@pytest.mark.parametrize("bound", ["events", "bytes"])
async def test_at_the_bound_it_is_refused_before_anybody_is_given_it(
    bound: str, store: Any, open_bus: Open, gate: Gate
) -> None:
    options = {"events": {"max_pending_events": 3}, "bytes": {"max_pending_bytes": 3_100}}[bound]
    bus = open_bus(store, **options)
    deliveries = bus.deliveries()
    padding = {"text": "x" * 960}

    def event(seq: int) -> PAEvent:
        return PAEvent("r", seq=seq, payload=padding)

    for seq in (1, 2, 3):
        bus.emit(event(seq))
    with pytest.raises(TooManyPending) as refused:
        bus.emit(event(4))
    assert refused.value.events == 3
    assert 2_900 < refused.value.size <= 3_100
    assert seqs(bus.unwritten) == [1, 2, 3]
    gate.is_open.set()
    await asyncio.to_thread(bus.flush)
    assert bus.unwritten == []
    bus.emit(PAEvent("r", seq=5, payload={"text": "x" * 9_000}))  # alone, a larger one goes
    await asyncio.to_thread(bus.flush)
    gate.is_open.clear()
    for seq in (6, 7, 8):  # there is room again for as many as before
        bus.emit(event(seq))
    gate.is_open.set()
    bus.close()
    assert [item.event.seq for item in await taken(deliveries)] == [1, 2, 3, 5, 6, 7, 8]
    assert seqs(store.list_events("r")) == [1, 2, 3, 5, 6, 7, 8]


@in_memory
def test_emit_waits_for_nothing(store: Any, open_bus: Open, gate: Gate) -> None:
    bus = open_bus(store)
    began = time.monotonic()
    for seq in range(200):
        bus.emit(tool("r", seq))
    assert time.monotonic() - began < 2
    with pytest.raises(TimeoutError, match="wait to be written"):
        bus.flush(0.05)
    gate.is_open.set()
    bus.flush(20)
    assert seqs(store.list_events("r")) == list(range(200))


@in_memory
def test_an_outage_is_waited_out(store: Any, open_bus: Open, gate: Gate) -> None:
    gate.errors += [StoreUnavailable("away") for _ in range(3)]
    gate.is_open.set()
    bus = open_bus(store)
    bus.emit(tool("r", 1))
    assert gate.is_reached.wait(20)
    bus.emit(tool("r", 2))
    bus.flush(20)
    assert gate.errors == []
    assert seqs(store.list_events("r")) == [1, 2]


@in_memory
async def test_the_writers_failure_is_raised_by_what_comes_next(store: Any, open_bus: Open, gate: Gate) -> None:
    gate.errors += [StoreUnavailable("gone for good") for _ in range(1000)]
    bus = open_bus(store, retry_seconds=0.1)
    subscription = bus.subscribe(run_id="r")
    bus.emit(tool("r", 1))
    with pytest.raises(StoreUnavailable, match="gone for good"):
        await asyncio.to_thread(bus.flush)
    with pytest.raises(StoreUnavailable, match="gone for good"):
        bus.emit(tool("r", 2))
    assert await anext(subscription)
    with pytest.raises(StoreUnavailable, match="gone for good"):
        await asyncio.wait_for(anext(subscription), 20)
    assert seqs(bus.unwritten) == [1]
    with pytest.raises(StoreUnavailable, match="gone for good"):
        bus.close()
    bus.close()
    assert seqs(bus.unwritten) == [1]


@in_memory
@pytest.mark.parametrize("room", [1000, 5])
async def test_closing_writes_all_and_ends_the_subscriptions(store: Any, open_bus: Open, room: int) -> None:
    bus = open_bus(store, max_queue_size=room)
    subscription, waiting = bus.subscribe(session_id="s"), asyncio.create_task(taken(bus.subscribe(run_id="none")))
    await asyncio.sleep(0.05)
    assert bus.subscriber_count == 2
    for seq in range(50):
        bus.emit(tool("r", seq, session_id="s"))
    bus.close()
    assert seqs(store.list_events("r")) == seqs(await taken(subscription)) == list(range(50))
    assert await waiting == []
    with pytest.raises(ConfigurationError, match="closed"):
        bus.emit(tool("r", 51))
    bus.close()
    assert bus.subscriber_count == 0


@in_memory
async def test_an_error_of_the_store_ends_no_subscription(
    store: Any, open_bus: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append("r", [tool("r", 1)])
    bus = open_bus(store)
    subscription = bus.subscribe(run_id="r", after=0)
    with monkeypatch.context() as patched:

        def run_info(_: str) -> Any:
            raise StoreUnavailable("away")

        patched.setattr(store, "run_info", run_info)
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(anext(subscription), 20)
    assert seqs(await taken(subscription, 1)) == [1]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(subscription), 0.2)
    store.append("r", [tool("r", 2)])
    assert seqs(await taken(subscription, 1)) == [2]
    await subscription.aclose()
    assert await taken(subscription) == []


def test_what_fits_no_bus_is_refused_by_name(tmp_path: Path) -> None:
    with connect(f"memory:{tmp_path}") as store:
        bounds: list[dict[str, Any]] = [
            {"max_queue_size": 0},
            {"max_pending_events": True},
            {"max_pending_bytes": 1.5},
            *({"retry_seconds": seconds} for seconds in (None, "30", -1, float("nan"))),
        ]
        for options in bounds:
            with pytest.raises(ConfigurationError, match=next(iter(options))):
                StoreBus(store, **options)
        with pytest.raises(ConfigurationError, match="no store"):
            StoreBus("memory:x")  # type: ignore[arg-type]
        with StoreBus(store) as bus:
            for after in ("nowhere", "3-4", 5):
                with pytest.raises(ConfigurationError):
                    bus.subscribe(after=after)
            no_events: list[Any] = [None, 5, {"run_id": "r"}, [tool("r", 1)]]
            for event in no_events:
                with pytest.raises(EncodingError, match="an event has a run_id"):
                    bus.emit(event)
            assert repr(bus) == f"<StoreBus over {store!r}>"
        assert repr(bus) == f"<StoreBus over {store!r}, closed>"


# -- a real server ---------------------------------------------------------------------------------------


@needs_valkey
@pytest.mark.parametrize("fault", [Fault.DROP_REPLY, Fault.CUT_REQUEST])
def test_what_got_no_reply_is_recorded_once(fault: Fault, make_backend: Callable[[str], Any]) -> None:
    """The store itself sends nothing again."""
    backend = make_backend("valkey")
    with (
        FaultProxy(backend.server.url, quiet_seconds=0.001) as proxy,
        redis.Redis(port=proxy.port, retry=Retry(NoBackoff(), 0)) as client,
        RedisCheckpointer(client, namespace=backend.namespace, event_type=PAEvent) as store,
        StoreBus(store) as bus,
    ):
        bus.emit(tool("r", 1))
        bus.flush()
        proxy.arm(fault, times=3)
        for seq in range(2, 50):
            bus.emit(tool("r", seq))
        bus.flush(60)
        assert proxy.struck == 3
        assert seqs(store.list_events("r")) == list(range(1, 50))


EMITTER = """
import multiprocessing
import sys
from purpose_agent.runtime import EventKind, PAEvent, create_event
from runstream import connect
from runstream.integrations.purpose_agent import StoreBus

def emit():
    bus = StoreBus(connect(sys.argv[1], event_type=PAEvent), run_id="r")
    for _ in range(300):
        bus.emit(create_event("r", EventKind.TOOL_RESULT, seq=bus.next_seq()))
    print("emitted", flush=True)
    if sys.argv[2] == "end":
        bus.emit(create_event("r", EventKind.RUN_FINISHED, seq=bus.next_seq()))

if sys.argv[2] == "end":
    emit()
else:  # such a process ends without atexit
    child = multiprocessing.get_context("fork").Process(target=emit)
    child.start()
    child.join()
"""


@pytest.mark.exhaustive
@needs_server
async def test_another_process_is_followed_on_a_real_server_and_its_end_loses_nothing(tmp_path: Path) -> None:
    """It does not close its bus: the interpreter's end does."""
    url = f"embedded:{tmp_path}"
    with connect(url, event_type=PAEvent) as store, StoreBus(store) as bus:
        everything = asyncio.create_task(taken(bus.subscribe(run_id="r", after=0)))
        listener = bus.subscribe()
        of_all = asyncio.create_task(taken(listener, 601))
        await begun(listener)
        for word in ("go on", "end"):
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", EMITTER, url, word],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert (done.returncode, done.stdout, done.stderr) == (0, "emitted\n", "")
        assert seqs(await everything) == list(range(1, 602))
        assert seqs(await of_all) == list(range(1, 602))
        assert bus.next_seq(run_id="r") == 602
