"""The AG-UI adapters and the sse_generator of purpose-agent over a store: live, replayed, taken up again."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from purpose_agent.protocols.agui import AGUIAdapter
from purpose_agent.runtime import EventKind, PAEvent, Visibility, create_event
from purpose_agent.streaming_v3 import agui_stream, sse_format

from runstream import ConfigurationError, HistoryDiverged, StoreUnavailable
from runstream.integrations.purpose_agent import StoreBus, agui_sse, connect, connect_async
from tests.support.drain_tools import drain_to
from tests.support.servers import eventually, needs_server

URLS = ["memory:", "sqlite:{dir}/runs.db", "jsonl:{dir}/runs", "fake:{dir}", "fake:{dir} sqlite:{dir}/archive.db"]


def on(*numbers: int) -> pytest.MarkDecorator:
    """A test on these of them."""
    return pytest.mark.parametrize("urls", [URLS[n] for n in numbers], indirect=True, ids=name_of)


def name_of(urls: str) -> str:
    return urls.replace("{dir}", "")


@pytest.fixture(params=URLS, ids=name_of)
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The URL of a store, and that of its archive if it has one."""
    return [
        url.format(dir=tmp_path) + (str(tmp_path) if url == "memory:" else "") for url in request.param.split()
    ]


def opened(urls: list[str]) -> Any:
    return connect(urls[0], archive=urls[1] if urls[1:] else None)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Any]:
    with connect(f"memory:{tmp_path}") as store:
        yield store


def text(seq: int, **fields: Any) -> PAEvent:
    return PAEvent("r", seq=seq, kind=EventKind.TEXT_DELTA, payload={"n": seq}, **fields)


def finished() -> PAEvent:
    return create_event("r", EventKind.RUN_FINISHED, seq=99, n=99)


def some_events() -> list[Any]:
    """Two of them are not for users."""
    return [
        create_event("r", EventKind.RUN_STARTED, seq=1, n=1),
        text(2),
        text(3, visibility=Visibility.INTERNAL),
        PAEvent("r", seq=4, kind="my.kind", payload={"n": 4}),
        text(5, visibility=Visibility.DEBUG),
        create_event("r", EventKind.HUMAN_APPROVAL_REQUESTED, seq=6, n=6),
        finished(),
    ]


async def all_of(texts: AsyncIterator[Any], count: int | None = None) -> list[Any]:
    """So many texts, or all; what is cut off is closed, as a server does."""
    found: list[str] = []
    async with asyncio.timeout(20), aclosing(texts) as open_texts:  # type: ignore[type-var] # it is a generator
        while len(found) != count:
            try:
                found.append(await anext(open_texts))
            except StopAsyncIteration:
                break
    return found


def parts(sse: str) -> tuple[str | None, dict[str, Any]]:
    """The id and the data that a browser reads."""
    assert sse.endswith("\n\n")
    fields = dict(line.split(": ", 1) for line in sse[:-2].split("\n"))
    assert set(fields) <= {"id", "data"}
    data: dict[str, Any] = json.loads(fields["data"], parse_constant=pytest.fail)
    return fields.get("id"), data


def numbers(texts: list[str]) -> list[int]:
    return [parts(sse)[1]["data"]["n"] for sse in texts]


# -- theirs, as they are ---------------------------------------------------------------------------------


async def test_theirs_give_the_same_from_a_store_as_from_a_list(urls: list[str]) -> None:
    """Replayed from a bus, from a store and from one for asyncio; kinds that they do not know included."""
    events = some_events()
    adapter = AGUIAdapter()
    shown = [events[0], events[1], replace(events[3], kind=EventKind.TEXT_DONE), *events[5:]]
    expected = [adapter.format_sse_batch([event]) for event in shown]
    expected[2] = expected[2].replace("text.done", "custom.my_kind")
    with opened(urls) as store:
        store.append("r", events)
    with opened(urls) as store, StoreBus(store) as bus:
        assert adapter.format_sse_batch(store.list_events("r")) == "".join(expected)
        replayed = await asyncio.gather(
            all_of(adapter.sse_generator(bus.subscribe(run_id="r", after=0))),
            all_of(adapter.sse_generator(bus.subscribe(run_id="r", after=2))),
            all_of(adapter.stream(bus.subscribe(run_id="r", after=4))),
            all_of(agui_stream(bus.subscribe(run_id="r", after=5))),
        )
        assert (replayed[0], replayed[1]) == (expected, expected[2:])
        assert [event.to_sse() for event in replayed[2]] == expected[3:]
        assert [event.type for event in replayed[3]] == ["custom.human_input_needed", "lifecycle.run_finished"]
        assert numbers(list(sse_format(item.event for item in store.read("r", 3)))) == [4, 6, 99]
    async with connect_async(urls[0], archive=urls[1] if urls[1:] else None) as store:
        assert await all_of(adapter.sse_generator(item.event async for item in store.read("r"))) == expected


async def test_theirs_are_fed_live_by_follow(urls: list[str]) -> None:
    async with connect_async(urls[0], archive=urls[1] if urls[1:] else None) as store:
        adapter = AGUIAdapter(include_internal=True)
        live = asyncio.create_task(all_of(adapter.sse_generator(item.event async for item in store.follow("r"))))
        ours = asyncio.create_task(all_of(agui_sse(store.follow("r"), adapter)))
        for event in some_events():
            await asyncio.sleep(0.002)
            await store.append("r", [event])
        assert numbers(await live) == numbers(await ours) == [1, 2, 3, 4, 6, 99]
        assert numbers(await all_of(agui_sse(store.read("r", 4), adapter))) == [6, 99]


@on(0, 1)
async def test_theirs_are_fed_live_by_a_bus_of_another_process(urls: list[str]) -> None:
    with opened(urls) as store, opened(urls) as others, StoreBus(store) as bus, StoreBus(others) as other:
        live = asyncio.create_task(all_of(AGUIAdapter().sse_generator(bus.subscribe(run_id="r", after=0))))
        for event in some_events():
            await asyncio.sleep(0.002)
            other.emit(event)
        assert numbers(await live) == [1, 2, 4, 6, 99]


# -- taken up again --------------------------------------------------------------------------------------


async def test_it_is_their_text_with_an_id(store: Any) -> None:
    store.append("r", some_events())
    cursors = {item.event.seq: item.cursor for item in store.read("r")}
    with StoreBus(store) as bus:
        theirs = await all_of(AGUIAdapter().sse_generator(bus.subscribe(run_id="r", after=0)))
        ours = await all_of(agui_sse(bus.deliveries(run_id="r", after=0)))
        assert ours == [f"id: {cursors[n]}\n{sse}" for n, sse in zip((1, 2, 4, 6, 99), theirs, strict=True)]
        adapter = AGUIAdapter(include_internal=True)
        assert numbers(await all_of(agui_sse(bus.deliveries(run_id="r", after=0), adapter))) == [1, 2, 3, 4, 6, 99]


async def test_after_a_restart_it_goes_on_with_each_event_once(urls: list[str]) -> None:
    """Cut off after each one, by whichever store is open then, on both sides of a drain."""
    with opened(urls) as store:
        store.append("r", [text(seq) for seq in range(1, 9)])
    seen: list[int] = []
    last: str | None = None
    for turn in range(1, 20):
        with opened(urls) as store, StoreBus(store) as bus:
            (sse,) = await all_of(agui_sse(bus.deliveries(run_id="r", after=last or 0)), 1)
            if turn == 4 and urls[1:]:
                assert drain_to(*urls).trimmed == 8
            if turn == 6:
                store.append("r", [text(9), finished()])
        last, data = parts(sse)
        seen.append(data["data"]["n"])
        if seen[-1] == 99:
            break
    assert seen == [*range(1, 10), 99]
    with opened(urls) as store, StoreBus(store) as bus:
        assert await all_of(agui_sse(bus.deliveries(run_id="r", after=last))) == []


@on(1, 2, 4)
async def test_in_the_process_that_emits_too_with_durable(urls: list[str]) -> None:
    """Clients that are cut off after some events, while two processes write."""
    with opened(urls) as store, opened(urls) as others, StoreBus(store) as bus, StoreBus(others) as other:

        async def client(length: int) -> list[int]:
            seen, last = [], None
            while 99 not in seen:
                texts = agui_sse(bus.deliveries(run_id="r", after=last or 0, durable=True))
                for sse in await all_of(texts, length):
                    last, data = parts(sse)
                    assert last is not None
                    seen.append(data["data"]["n"])
            return seen

        clients = [asyncio.create_task(client(length)) for length in (7, 1000)]
        for seq in range(1, 41):
            await asyncio.sleep(0)
            (bus if seq % 2 else other).emit(text(seq))
        await asyncio.to_thread(other.flush)
        bus.emit(finished())
        one, two = await asyncio.gather(*clients)
        assert one == two == [event.payload["n"] for event in store.list_events("r")]
        assert sorted(one) == [*range(1, 41), 99]
        assert bus.subscriber_count == 0


@pytest.mark.parametrize("durable", [False, True])
async def test_what_is_not_durable_has_no_id(store: Any, durable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``durable`` it is not given."""
    may_write = threading.Event()
    append = store.append

    def held(*args: Any) -> Any:
        assert may_write.wait(20)
        return append(*args)

    monkeypatch.setattr(store, "append", held)
    with StoreBus(store) as bus:
        texts = agui_sse(bus.deliveries(run_id="r", durable=durable))
        bus.emit(text(1))
        first = asyncio.ensure_future(anext(texts))
        await asyncio.wait({first}, timeout=0.1)
        assert first.done() is not durable
        may_write.set()
        name, data = parts(await first)
        assert data["data"]["n"] == 1
        assert (name is not None) is durable
        bus.emit(finished())
        assert numbers(await all_of(texts)) == [99]


# -- the end of a client ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cancelled", "closed", "dropped"])
@pytest.mark.parametrize("feed", ["theirs", "ours", "follow"])
async def test_a_client_that_goes_leaves_nothing(feed: str, how: str, store: Any, tmp_path: Path) -> None:
    store.append("r", [text(1)])
    tasks = asyncio.all_tasks()
    with StoreBus(store) as bus:
        async with connect_async(f"memory:{tmp_path}") as for_asyncio:
            threads = set(threading.enumerate())
            make: dict[str, Callable[[], AsyncIterator[str]]] = {
                "theirs": lambda: AGUIAdapter().sse_generator(bus.subscribe(run_id="r", after=0)),
                "ours": lambda: agui_sse(bus.deliveries(run_id="r", after=0)),
                "follow": lambda: agui_sse(for_asyncio.follow("r")),
            }
            texts: Any = make[feed]()
            assert numbers([await anext(texts)]) == [1]
            if feed != "follow":
                assert bus.subscriber_count == 1
            if how == "cancelled":
                waiting = asyncio.ensure_future(anext(texts))
                await asyncio.sleep(0.02)
                waiting.cancel()
                with suppress(asyncio.CancelledError):
                    await waiting
                del waiting
            elif how == "closed":
                await texts.aclose()
            del texts
            async with asyncio.timeout(20):
                # what was being read is read to its end, and the loop closes what was dropped
                while bus.subscriber_count or asyncio.all_tasks() != tasks:
                    assert not bus.subscriber_count or (feed, how) != ("ours", "closed")
                    await asyncio.sleep(0.005)
            # the loop's and the bus's, which end with them, and that of all stores here
            pools = ("asyncio_", "runstream-bus-reader", "runstream-pages")
            left = {thread for thread in threading.enumerate() if not thread.name.startswith(pools)}
            assert left <= threads


async def test_a_client_that_goes_in_an_outage_leaves_no_error_behind(
    store: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.append("r", [text(1)])
    is_asked, may_fail = threading.Event(), threading.Event()
    with StoreBus(store) as bus, caplog.at_level(logging.ERROR, "asyncio"):
        deliveries = bus.deliveries(run_id="r", after=0)
        texts = agui_sse(deliveries)
        assert numbers([await anext(texts)]) == [1]

        def run_info(_: str) -> Any:
            is_asked.set()
            assert may_fail.wait(20)
            raise StoreUnavailable("away")

        monkeypatch.setattr(store, "run_info", run_info)
        waiting = asyncio.ensure_future(anext(texts))
        await asyncio.to_thread(is_asked.wait, 20)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        may_fail.set()
        fetch: Any = deliveries._fetch
        await asyncio.wait({fetch}, timeout=20)
        del texts, waiting, deliveries, fetch
        gc.collect()
        assert caplog.text == ""
        eventually(lambda: bus.subscriber_count == 0)  # the thread that was reading lets go of it


# -- values, and what is refused -------------------------------------------------------------------------


async def test_a_browser_can_read_all_that_a_store_takes(store: Any) -> None:
    """Theirs ends with an error at a key that is a tuple, and writes NaN, which no browser reads."""
    deep: Any = 0
    for _ in range(190):
        deep = [deep]
    payloads: list[dict[Any, Any]] = [
        {"n": 1, "by": {(1, 2): "x"}},
        {"n": 2, "score": float("nan")},
        {"n": 3, "line": "one\ntwo\r\n\u2028", "bytes": b"x", "ints": {1: 2}},
        {"n": 4, "deep": deep},
    ]
    store.append("r", [PAEvent("r", seq=n, payload=payload) for n, payload in enumerate(payloads, 1)])
    store.append("r", [finished()])
    with StoreBus(store) as bus:
        with pytest.raises(TypeError):
            await all_of(AGUIAdapter().sse_generator(bus.subscribe(run_id="r", after=0)))
        found = await all_of(agui_sse(bus.deliveries(run_id="r", after=0)))
        assert numbers(found) == [1, 2, 3, 4, 99]
        third = parts(found[2])[1]["data"]
        assert third == {"n": 3, "line": "one\ntwo\r\n\u2028", "bytes": "b'x'", "ints": {"1": 2}}
        assert parts(found[1])[1]["type"] == "custom.agent_progress"


async def test_what_a_client_sends_is_checked(store: Any) -> None:
    store.append("r", [text(1), text(2)])
    cursor = next(iter(store.read("r"))).cursor
    with StoreBus(store) as bus:
        for sent in ("nowhere", "1", "1-zz", "\x00", "9" * 5000):
            with pytest.raises(ConfigurationError):
                bus.deliveries(run_id="r", after=sent)
        store.delete_run("r")
        store.append("r", [text(1), text(2)])
        with pytest.raises(HistoryDiverged):
            await all_of(agui_sse(bus.deliveries(run_id="r", after=cursor)))


async def test_what_has_no_cursor_is_refused_by_name(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append("r", [text(1)])
    with StoreBus(store) as bus:
        with pytest.raises(ConfigurationError, match="deliveries"):
            await all_of(agui_sse(bus.subscribe(run_id="r", after=0)))
        for given in (store.read("r"), None, [1]):
            with pytest.raises(ConfigurationError, match="async for"):
                agui_sse(given)  # type: ignore[arg-type]
        monkeypatch.setitem(sys.modules, "purpose_agent.protocols.agui", None)
        with pytest.raises(ConfigurationError, match="pip install purpose-agent"):
            agui_sse(bus.deliveries(run_id="r"))


# -- processes -------------------------------------------------------------------------------------------

EMITTER = """
import sys
from purpose_agent.runtime import EventKind, create_event
from runstream.integrations.purpose_agent import StoreBus, connect

with connect(sys.argv[1]) as store, StoreBus(store, run_id="r") as bus:
    while (seq := bus.next_seq()) < 20_000:
        bus.emit(create_event("r", EventKind.TEXT_DELTA, seq=seq, n=seq))
        if seq % 100 == 0:
            bus.flush()
            if seq % 1000 == 0:
                print(seq, flush=True)
"""


def emit_until_killed(url: str) -> None:
    emitter = subprocess.Popen([sys.executable, "-c", EMITTER, url], stdout=subprocess.PIPE, text=True)
    assert emitter.stdout is not None
    assert emitter.stdout.readline()
    emitter.kill()
    emitter.communicate()


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "place", [pytest.param("embedded:{dir}", marks=needs_server), "sqlite:{dir}/runs.db", "jsonl:{dir}/runs"]
)
async def test_a_client_has_each_event_once_through_kills_and_reconnects(place: str, tmp_path: Path) -> None:
    url = place.format(dir=tmp_path)

    async def client() -> list[int]:
        seen: list[int] = []
        last = None
        while not seen or seen[-1] != -1:
            with connect(url) as store, StoreBus(store) as bus:
                for sse in await all_of(agui_sse(bus.deliveries(run_id="r", after=last or 0)), 333):
                    last, data = parts(sse)
                    seen.append(data["data"]["n"])
        return seen

    reading = asyncio.create_task(client())
    for _ in range(3):
        await asyncio.to_thread(emit_until_killed, url)
    with connect(url) as store:
        store.append("r", [create_event("r", EventKind.RUN_FINISHED, seq=0, n=-1)])
        recorded = [event.payload["n"] for event in store.list_events("r")]
    assert await reading == recorded
    assert recorded == [*range(1, len(recorded)), -1]
    assert len(recorded) > 3000
