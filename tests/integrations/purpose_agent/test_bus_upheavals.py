"""A StoreBus where runs are deleted under its subscribers, processes fork, and much is there to be read."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from purpose_agent.runtime import EventKind, PAEvent

from runstream import (
    AcknowledgedWritesLost,
    ConfigurationError,
    DrainWorker,
    SQLiteCheckpointer,
    StoreUnavailable,
    connect,
)
from runstream.integrations.purpose_agent import StoreBus
from tests.support.backends import info_of
from tests.support.servers import eventually

PAGE = 256


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Any]:
    with connect(f"memory:{tmp_path}", event_type=PAEvent) as opened:
        yield opened


def tools(run_id: str, first: int, last: int, **fields: Any) -> list[PAEvent]:
    return [PAEvent(run_id, seq=seq, kind=EventKind.TOOL_RESULT, **fields) for seq in range(first, last + 1)]


def emit(bus: StoreBus[Any], events: list[PAEvent]) -> None:
    for event in events:
        bus.emit(event)
    bus.flush()


async def taken(subscription: Any, count: int | None = None) -> list[int]:
    """The numbers of so many events, or of all until it ends."""
    found: list[int] = []
    async with asyncio.timeout(20):
        while len(found) != count:
            try:
                found.append((await anext(subscription)).event.seq)
            except StopAsyncIteration:
                break
    return found


# -- runs that go ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", [{"run_id": "r"}, {"after": 0}], ids=str)
async def test_a_run_that_is_deleted_and_begun_anew_is_given_from_its_beginning(
    scope: dict[str, Any], store: Any
) -> None:
    """Also where it has the offsets of what was given of the one before."""
    with StoreBus(store) as bus, StoreBus(store) as other:
        here, elsewhere = bus.deliveries(**scope), other.deliveries(**{"after": 0, **scope})
        emit(bus, tools("r", 1, 5, session_id="s"))
        assert await taken(elsewhere, 5) == [1, 2, 3, 4, 5]
        found = await taken(here, 5) if "after" in scope else []  # else they wait there
        store.delete_run("r")
        store.append("r", tools("r", 11, 13, session_id="s"))
        found += await taken(here, 8 - len(found))
        assert found == [1, 2, 3, 4, 5, 11, 12, 13]
        assert await taken(elsewhere, 3) == [11, 12, 13]
        emit(bus, tools("r", 14, 16, session_id="s"))
        assert await taken(here, 3) == await taken(elsewhere, 3) == [14, 15, 16]
        store.append("r", [PAEvent("r", seq=17, session_id="s", kind=EventKind.RUN_FINISHED)])
        assert await taken(elsewhere, 1) == [17]


@pytest.mark.parametrize("known", [0, 3], ids=["new to him", "known to him"])
async def test_one_that_is_begun_anew_after_it_was_looked_for_is_given_once(
    known: int, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = store.read

    def another(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(store, "read", read)
        store.delete_run("r")
        store.append("r", tools("r", 11, 13))
        return read(*args, **options)

    with StoreBus(store) as bus:
        deliveries = bus.deliveries(run_id="r", after=0)
        store.append("r", tools("r", 1, 3))
        assert await taken(deliveries, known) == [1, 2, 3][:known]
        monkeypatch.setattr(store, "read", another)
        store.append("r", tools("r", 4, 5))
        assert await taken(deliveries, 3) == [11, 12, 13]
        store.append("r", [PAEvent("r", seq=14, kind=EventKind.RUN_FINISHED)])
        assert await taken(deliveries) == [14]


async def test_what_is_emitted_to_one_that_is_begun_anew_comes_in_order(store: Any) -> None:
    store.append("r", tools("r", 1, 5))
    with StoreBus(store, max_queue_size=1) as bus:
        deliveries = bus.deliveries(run_id="r", after=0)
        assert await taken(deliveries, 5) == [1, 2, 3, 4, 5]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(deliveries), 0.07)
        with deliveries._fetching:  # it does not look meanwhile
            store.delete_run("r")
            store.append("r", tools("r", 11, 13))
            emit(bus, tools("r", 14, 15))
            assert await taken(deliveries, 1) == [14]
            emit(bus, tools("r", 16, 16))
        assert await taken(deliveries, 5) == [11, 12, 13, 15, 16]


@pytest.mark.parametrize("why", ["deleted", "another session"])
async def test_what_the_store_has_no_more_keeps_no_subscription_from_its_end(why: str, store: Any) -> None:
    bus = StoreBus(store, max_queue_size=2)
    store.append("r", tools("r", 1, 1, session_id="s"))
    session_id = "other" if why == "another session" else None
    deliveries = bus.deliveries(session_id=session_id)
    emit(bus, tools("r", 2, 9, session_id=session_id or "s"))
    if why == "deleted":
        store.delete_run("r")
    assert await taken(deliveries, 2) == [2, 3]
    bus.close()
    assert await taken(deliveries) == []


async def test_what_a_server_has_lost_is_said(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same run, and shorter than what was given of it."""
    store.append("r", tools("r", 1, 3))
    with StoreBus(store) as bus:
        deliveries = bus.deliveries(run_id="r", after=0)
        assert await taken(deliveries, 3) == [1, 2, 3]
        created_at = store.run_info("r").created_at
        store.delete_run("r")
        store.append("r", tools("r", 1, 1))
        run_info = store.run_info
        monkeypatch.setattr(
            store, "run_info", lambda run_id: dataclasses.replace(run_info(run_id), created_at=created_at)
        )
        with pytest.raises(AcknowledgedWritesLost):
            await taken(deliveries, 1)


# -- much to read ----------------------------------------------------------------------------------------


async def test_no_more_waits_for_a_subscriber_than_a_page_over_his_room(store: Any) -> None:
    runs = [f"r{number}" for number in range(4)]
    for run_id in runs:
        store.append(run_id, tools(run_id, 1, 300))
    with StoreBus(store, max_queue_size=10) as bus:
        deliveries = bus.deliveries(after=0)
        found = [await anext(deliveries)]
        with deliveries._fetching:  # it has read as much as it would
            pass
        while len(found) < 1200:
            assert len(deliveries._ready) < 10 + PAGE
            found.append(await anext(deliveries))
        for run_id in runs:
            assert [item.offset for item in found if item.event.run_id == run_id] == list(range(1, 301))
        store.append("r0", tools("r0", 301, 301))
        assert await taken(deliveries, 1) == [301]


async def test_an_error_of_a_subscription_that_is_given_up_is_no_noise(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_fail, complaints = threading.Event(), []

    def run_info(_: str) -> Any:
        assert may_fail.wait(20)
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "run_info", run_info)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    with StoreBus(store) as bus:
        deliveries = bus.deliveries(run_id="r")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(deliveries), 0.05)
        fetch = deliveries._fetch
        assert fetch is not None
        may_fail.set()
        await asyncio.wait({fetch})
    del deliveries, fetch
    gc.collect()
    assert complaints == []


def test_a_run_that_may_not_have_so_many_events_in_redis_is_written_as_there_is_room(tmp_path: Path) -> None:
    url, sink = f"fake:{tmp_path}", SQLiteCheckpointer(tmp_path / "archive.db")
    with connect(url, max_hot_events=5) as store, connect(url) as hot, sink, StoreBus(store) as bus:
        emit(bus, tools("r", 1, 1))
        for event in tools("r", 2, 7):
            bus.emit(event)
        for last in (5, 7):
            eventually(lambda last=last: info_of(hot, "r").last_offset == last)  # type: ignore[misc]
            DrainWorker(hot, [sink], trim="archived").drain_once()
        bus.flush(20)
        assert bus.unwritten == []
        assert [event.seq for event in sink.list_events("r")] == list(range(1, 8))


# -- threads and processes -------------------------------------------------------------------------------


async def test_the_threads_of_the_loop_are_left_to_the_program(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the subscriptions wait for."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    before = {*threading.enumerate()}
    append, may_go = store.append, threading.Event()
    monkeypatch.setattr(store, "append", lambda *args: may_go.wait(20) and append(*args))
    with StoreBus(store) as bus:
        bus.emit(tools("r", 2, 2)[0])
        eventually(lambda: bus._writer._writing)
        append("r", tools("r", 1, 1))
        waiting = asyncio.create_task(taken(bus.deliveries(run_id="r", after=0), 2))
        await asyncio.sleep(0.05)
        try:
            await asyncio.wait_for(asyncio.to_thread(int), 5)
        finally:
            may_go.set()
        assert await waiting == [1, 2]
    eventually(
        lambda: not any(each.name.startswith("runstream-bus") for each in {*threading.enumerate()} - before)
    )


def test_a_forked_process_is_told_to_make_a_bus_of_its_own(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no thread in it that would ever write what waits."""
    with StoreBus(store) as bus:
        calls: list[Callable[[], Any]] = [
            lambda: bus.emit(tools("r", 1, 1)[0]),
            bus.flush,
            bus.replay,
            bus.next_seq,
            bus.subscribe,
        ]
        with monkeypatch.context() as patched:
            own = os.getpid()
            patched.setattr(os, "getpid", lambda: own + 1)
            for call in calls:
                with pytest.raises(ConfigurationError, match="fork"):
                    call()
            bus.close()
        bus.emit(tools("r", 1, 1)[0])


def test_the_number_of_a_lane_waits_for_no_other_lane(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    append, may_go = store.append, threading.Event()
    with StoreBus(store, run_id="r") as bus:
        assert bus.next_seq() == 1
        monkeypatch.setattr(store, "append", lambda *args: may_go.wait(20) and append(*args))
        bus.emit(tools("r", 1, 1)[0])
        found: list[int] = []
        asking = [threading.Thread(target=lambda: found.append(bus.next_seq("b"))) for _ in range(2)]
        for thread in asking:
            thread.start()
        eventually(lambda: len(bus._writer._has_written._waiters) == 2)  # type: ignore[attr-defined]
        other = threading.Thread(target=lambda: found.append(bus.next_seq()))
        other.start()
        other.join(5)
        assert found == [2]
        may_go.set()
        for thread in asking:
            thread.join(20)
        assert sorted(found[1:]) == [1, 2]
