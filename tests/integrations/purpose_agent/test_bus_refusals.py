"""A run that is refused to a StoreBus is refused alone: the others go on, and nothing of them is dropped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from purpose_agent.runtime import EventKind, PAEvent

from runstream import DrainWorker, LeaseHeld, SQLiteCheckpointer, StoreUnavailable, TooManyHotEvents, connect
from runstream.integrations.purpose_agent import StoreBus
from runstream.stores.redis.append_result import TooOld
from tests.support.servers import eventually


@pytest.fixture(params=["memory", "fake"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A store in which the run "held" is somebody else's."""
    with connect(f"{request.param}:{tmp_path}", event_type=PAEvent) as opened, opened.lease("held", owner="other"):
        yield opened


@pytest.fixture
def gate(store: Any, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until it is set, every append waits."""
    opened, append = threading.Event(), store.append

    def late(*args: Any, **options: Any) -> Any:
        assert opened.wait(20)
        return append(*args, **options)

    monkeypatch.setattr(store, "append", late)
    return opened


@pytest.fixture
def bus(store: Any) -> Iterator[StoreBus[Any]]:
    bus = StoreBus(store, max_queue_size=3)
    yield bus
    if not bus._writer.is_closed:
        with pytest.raises(LeaseHeld):
            bus.close()


def emit(bus: StoreBus[Any], numbers: Iterable[int], *run_ids: str) -> None:
    for seq in numbers:
        for run_id in run_ids:
            bus.emit(PAEvent(run_id, seq=seq, kind=EventKind.TOOL_RESULT))


def seqs(events: Iterable[Any]) -> list[int]:
    return [event.seq for event in events]


def test_the_others_go_on(store: Any, bus: StoreBus[Any], gate: threading.Event) -> None:
    """Also what waits in the same batch, and in later ones: more than a batch is emitted before it is known."""
    emit(bus, range(1, 401), "held", "free")
    gate.set()
    for _ in range(2):
        with pytest.raises(LeaseHeld, match="held"):
            bus.flush(20)
    assert seqs(store.list_events("free")) == list(range(1, 401))
    assert [(event.run_id, event.seq) for event in bus.unwritten] == [("held", seq) for seq in range(1, 401)]
    with pytest.raises(LeaseHeld, match="held"):
        emit(bus, [401], "held")
    emit(bus, [401], "free", "new")
    assert bus.next_seq(run_id="free") == 402
    assert (seqs(bus.replay("free"))[-1], seqs(bus.replay("new"))) == (401, [401])
    of_it: list[Callable[[], object]] = [
        bus.replay,
        partial(bus.replay, "held"),
        lambda: bus.next_seq(run_id="held"),
    ]
    for ask in of_it:
        with pytest.raises(LeaseHeld):
            ask()
    emit(bus, [402], "free")
    with pytest.raises(LeaseHeld):
        bus.close()
    bus.close()
    assert seqs(store.list_events("free")) == list(range(1, 403))
    assert (store.run_info("held"), len(bus.unwritten)) == (None, 400)


def test_what_is_left_takes_no_room(store: Any, gate: threading.Event) -> None:
    bus = StoreBus(store, max_pending_events=4)
    emit(bus, range(1, 5), "held")
    gate.set()
    eventually(lambda: "held" in bus._writer.refused)
    gate.clear()
    emit(bus, range(1, 5), "free")
    gate.set()
    with pytest.raises(LeaseHeld):
        bus.close()
    assert (seqs(store.list_events("free")), seqs(bus.unwritten)) == ([1, 2, 3, 4], [1, 2, 3, 4])


async def test_subscriptions_of_that_run_raise_and_others_go_on(bus: StoreBus[Any], gate: threading.Event) -> None:
    """Of what was left, each has what he was given at once, and of the rest all."""
    held, free, everything = bus.subscribe(run_id="held"), bus.subscribe(run_id="free"), bus.subscribe()
    emit(bus, range(1, 21), "held", "free")
    gate.set()
    assert [(await anext(held)).seq for _ in range(3)] == [1, 2, 3]
    with pytest.raises(LeaseHeld):
        await asyncio.wait_for(anext(held), 20)
    emit(bus, range(21, 41), "free")
    with pytest.raises(LeaseHeld):
        await asyncio.to_thread(bus.close)
    async with asyncio.timeout(20):
        assert seqs([event async for event in free]) == list(range(1, 41))
        found = [(event.run_id, event.seq) async for event in everything]
    assert [seq for run_id, seq in found if run_id == "free"] == list(range(1, 41))
    assert [seq for run_id, seq in found if run_id == "held"] == [1, 2]  # in turn, until three had come


def test_a_run_that_stays_full_is_refused_alone(tmp_path: Path) -> None:
    with connect(f"fake:{tmp_path}", event_type=PAEvent, max_hot_events=10) as store:
        bus = StoreBus(store, retry_seconds=0.05)
        emit(bus, range(1, 11), "full", "other")
        emit(bus, [11], "full")
        with pytest.raises(TooManyHotEvents):
            bus.flush(20)
        emit(bus, [1], "new")
        with pytest.raises(TooManyHotEvents):
            bus.close()
        assert [len(store.list_events(run_id)) for run_id in ("full", "other", "new")] == [10, 10, 1]
        assert seqs(bus.unwritten) == [11]


def test_a_full_run_holds_up_no_other(tmp_path: Path) -> None:
    """While it waits for room, other runs are written, numbered and read; then all of it is written, in order."""
    archive = SQLiteCheckpointer(tmp_path / "archive.db", event_type=PAEvent)
    hot = connect(f"fake:{tmp_path}", event_type=PAEvent, max_hot_events=5)
    with hot as store, archive, StoreBus(store) as bus:
        emit(bus, range(1, 7), "full")
        emit(bus, range(1, 5), "other")
        assert seqs(bus.replay("other")) == [1, 2, 3, 4]
        emit(bus, range(7, 10), "full")
        assert (bus.next_seq(run_id="other"), seqs(bus.unwritten)) == (5, [6, 7, 8, 9])
        with pytest.raises(TimeoutError):
            bus.flush(0.01)
        DrainWorker(store, [archive], trim="archived").drain_once()
        bus.flush(20)
        assert seqs(archive.list_events("full")) + seqs(store.list_events("full", 5)) == list(range(1, 10))


def test_a_run_of_which_an_outcome_is_never_known_is_refused_alone(
    store: Any, bus: StoreBus[Any], gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store sends that batch no more; what it was is told, and all else is written."""
    append = store.append

    def too_late(run_id: str, *args: Any, **options: Any) -> Any:
        if run_id == "old":
            assert gate.wait(20)
            raise TooOld("nobody can tell")
        return append(run_id, *args, **options)

    monkeypatch.setattr(store, "append", too_late)
    emit(bus, range(1, 4), "held", "old", "free")
    gate.set()
    with pytest.raises((TooOld, LeaseHeld)):
        bus.flush(20)
    with pytest.raises(TooOld):
        emit(bus, [4], "old")
    emit(bus, [4], "free")
    assert seqs(bus.replay("free")) == [1, 2, 3, 4]
    assert [(event.run_id, event.seq) for event in bus.unwritten if event.run_id != "held"] == [
        ("old", seq) for seq in (1, 2, 3)
    ]
    with pytest.raises((TooOld, LeaseHeld)):
        bus.close()


def test_a_store_that_fails_fails_for_all(store: Any, bus: StoreBus[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    emit(bus, [1], "held")
    with pytest.raises(LeaseHeld):
        bus.flush(20)

    monkeypatch.setattr(store, "append", Mock(side_effect=StoreUnavailable("gone for good")))
    monkeypatch.setattr(bus._writer, "_bounds", bus._writer._bounds._replace(retry_seconds=0.0))
    emit(bus, [1], "free")
    asks: list[Callable[[], object]] = [partial(bus.flush, 20), partial(emit, bus, [2], "new"), bus.close]
    for ask in asks:
        with pytest.raises(StoreUnavailable, match="gone for good"):
            ask()
    assert [event.run_id for event in bus.unwritten] == ["held", "free"]
