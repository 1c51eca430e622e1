"""What a Run has written and is not as durable as was asked for is there: it goes on, and says so once."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import runstream.web
from runstream import (
    AsyncStore,
    DeltaBuffer,
    DrainWorker,
    DurabilityNotReached,
    RunCancelled,
    RunStatus,
    SQLiteCheckpointer,
    StoreUnavailable,
    connect,
    connect_async,
)
from runstream.integrations.langgraph import RunstreamSaver
from runstream.integrations.purpose_agent import StoreBus
from runstream.testing import Fault, FaultProxy
from runstream.web.path_ids import path_id
from tests.integrations.langgraph.checkpoints import config_of, save
from tests.support.backends import Blocking, LoopThread, Store
from tests.support.commands import run
from tests.support.handles import leave, open_run
from tests.support.samples import make_event
from tests.support.servers import Pair, eventually
from tests.support.web_server import serving

SHORT = "partitions=1&durability=replicated=1&socket_timeout=0.3&retry_seconds=0"
HELD = DeltaBuffer(max_milliseconds=1_000_000)


@pytest.fixture(params=["sync", "async"])
def open_durable(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Store]]:
    """Open stores whose writes are on the replica, too, when a call returns."""
    loop = LoopThread()
    opened: list[Any] = []

    def open_one(url: str) -> Any:
        if request.param == "sync":
            opened.append(connect(f"{url}?{SHORT}"))
        else:

            async def connected() -> AsyncStore[Any, Any]:
                return await connect_async(f"{url}?{SHORT}")

            opened.append(Blocking(loop, loop.run(connected())))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()
    loop.close()


@pytest.fixture
def store(pair: Pair, open_durable: Callable[[str], Store]) -> Store:
    return open_durable(pair.url)


def written(store: Store, run_id: str = "r") -> list[tuple[int, str]]:
    """The number of each event, and its text or kind."""
    items = [item.event for item in store.read(run_id)]
    return [(event.seq, event.payload.get("text") or str(event.kind)) for event in items]


def resend(store: Store, error: StoreUnavailable) -> Any:
    """Send again, and once more where a busy machine let the reply come too late."""
    while True:
        assert error.resend is not None
        try:
            result = error.resend()
            return store._loop.run(result) if isinstance(store, Blocking) else result
        except StoreUnavailable as late:
            error = late


def test_text_that_is_held_back_is_written_once_and_what_comes_with_it_too(pair: Pair, store: Store) -> None:
    """The call that finds it out has done what it is for; the next one has nothing to send again."""
    run = open_run(store, deltas=HELD)
    with pair.replica.stopped():
        run.emit_delta("a")
        with pytest.raises(DurabilityNotReached) as caught:
            run.emit("agent.progress")
        run.emit_delta("b")
        with pytest.raises(DurabilityNotReached):
            run.flush()
        run.flush()  # it was told, and nothing is held
        failure = ValueError()
        run.emit_delta("c")
        assert leave(run, failure) is failure
    assert caught.value.offset == 2
    assert ["DurabilityNotReached" in note for note in failure.__notes__] == [True]
    of_run = [(1, "a"), (2, "agent.progress"), (3, "b"), (4, "c"), (5, "agent.error")]
    assert written(store) == of_run
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_text_that_was_sent_in_the_background_is_told_by_the_next_call_unless_that_is_durable(
    pair: Pair, store: Store
) -> None:
    run = open_run(store, deltas=DeltaBuffer(max_milliseconds=1))
    with pair.replica.stopped():
        run.emit_delta("a")
        eventually(lambda: written(store) == [(1, "a")])
        with pytest.raises(DurabilityNotReached):
            run.flush()
        run.emit_delta("b")
        eventually(lambda: len(written(store)) == 2)
    run.emit("agent.progress")  # what comes after it is on the replica, so it is too
    assert leave(run) is None
    assert written(store) == [(1, "a"), (2, "b"), (3, "agent.progress")]


def test_an_end_is_there_once_and_to_ask_for_it_again_waits_again(pair: Pair, store: Store) -> None:
    run = open_run(store)
    run.emit("agent.progress")
    with pair.replica.stopped():
        for _ in range(2):
            with pytest.raises(DurabilityNotReached):
                run.finish()
        assert run.state.status == RunStatus.COMPLETED, "as it was saved"
    assert run.finish().offset == 2
    assert written(store) == [(1, "agent.progress"), (2, "run.finished")]


@pytest.mark.parametrize("what", ["run", "lane"])
def test_nothing_is_recorded_behind_an_end_of_which_only_that_is_wrong(
    pair: Pair, store: Store, what: str
) -> None:
    """A lane that has ended is not opened again by what its own end has raised."""
    run = open_run(store, lane_id="a")
    run.emit("agent.progress")
    with pair.replica.stopped():
        with pytest.raises(DurabilityNotReached) as caught:
            run.finish() if what == "run" else run.finish_lane()
        assert leave(run, caught.value) is caught.value
    assert [kind for _, kind in written(store)] == ["agent.progress", "run.finished"][: 1 + (what == "run")]
    assert [lane.ended for lane in store.lanes("r")] == [what == "lane"]


def test_a_question_is_there_and_the_state_waits_as_it_was_saved(pair: Pair, store: Store) -> None:
    run = open_run(store)
    with pair.replica.stopped(), pytest.raises(DurabilityNotReached):
        run.pause("go on?", key="q")
    run.checkpoint()
    assert (info := store.run_info("r")) is not None
    assert (info.status, run.state.status) == ("paused", RunStatus.PAUSED)
    store.answer("r", True)
    assert run.wait() is True


def test_a_step_is_recorded_and_its_call_is_made_once(pair: Pair, store: Store) -> None:
    calls: list[int] = []

    def returns() -> int:
        calls.append(1)
        return 7

    def fails() -> None:
        calls.append(0)
        raise ValueError

    run = open_run(store)
    with pair.replica.stopped():
        with pytest.raises(DurabilityNotReached, match="a result is recorded, which") as caught:
            run.once("k", returns, record_start=True)
        assert caught.value.result == 7
        assert run.once("k", returns) == 7
        with pytest.raises(ValueError) as failed:  # noqa: PT011 - the very one that the call raises
            run.once("f", fails, attempts=1)
        assert [note.split(":")[1] for note in failed.value.__notes__] == [" DurabilityNotReached"]
        leave(run, failed.value)
    assert calls == [1, 0]
    assert [kind for _, kind in written(store)] == ["tool.started", "tool.result", "agent.error"]


def test_a_run_that_is_cancelled_undoes_and_ends_once(pair: Pair, store: Store) -> None:
    run = open_run(store)
    run.emit("agent.progress")
    store.request_cancel("r")
    with pytest.raises(RunCancelled) as caught:
        run.emit("agent.progress")
    with pair.replica.stopped():
        leave(run, caught.value)
    assert [note.split(":")[1] for note in caught.value.__notes__] == [" DurabilityNotReached"], "it has ended"
    assert [kind for _, kind in written(store)][2:] == ["run.error"]


def test_a_resend_waits_like_the_first(pair: Pair, open_durable: Callable[[str], Store]) -> None:
    with FaultProxy(pair.url) as proxy:
        store = open_durable(proxy.url)
        run = open_run(store)
        run.emit("agent.progress")
        for call in (lambda: run.emit("agent.progress"), run.checkpoint, run.finish):
            pair.replicate()
            with pair.replica.stopped():
                proxy.arm(Fault.DROP_REPLY)
                with pytest.raises(StoreUnavailable) as caught:
                    call()
                for _ in range(2):
                    with pytest.raises(DurabilityNotReached):
                        resend(store, caught.value)
            resend(store, caught.value)
        assert [kind for _, kind in written(store)] == ["agent.progress", "agent.progress", "run.finished"]


async def test_a_bus_goes_on_and_tells_of_it_when_it_is_flushed(pair: Pair) -> None:
    """What is written is given to those who listen, and left to nobody to write again."""
    with connect(f"{pair.url}?{SHORT}") as store:
        bus = StoreBus(store)
        deliveries = bus.deliveries(run_id="r", after=0, durable=True)
        with pair.replica.stopped():
            bus.emit(make_event("r", 1))
            with pytest.raises(DurabilityNotReached):
                await asyncio.to_thread(bus.flush)
            await asyncio.to_thread(bus.flush)  # it was told
            bus.emit(make_event("r", 2))
            assert [event.seq for event in await asyncio.to_thread(lambda: list(bus.replay("r")))] == [1, 2]
            assert bus.unwritten == []
        bus.emit(make_event("r", 3))
        await asyncio.to_thread(bus.close)  # what came last is on the replica
        given = [(delivery.event.seq, delivery.offset) async for delivery in deliveries]
        assert given == [(1, 1), (2, 2), (3, 3)]
        assert [event.seq for event in store.list_events("r")] == [1, 2, 3]


def test_what_people_say_over_http_is_written_and_answered_with_how_durable_it_is(pair: Pair) -> None:

    async def authorize(*_: Any) -> bool:
        return True

    with connect(f"{pair.url}?{SHORT}") as store:
        open_run(store).pause("go on?")
        app = runstream.web.app(store, authorize=authorize, actions=["answer", "cancel", "fork"])
        bodies = {"answer": {"answer": 1}, "fork": {"run_id": "fork"}, "cancel": {}}
        with serving(app) as client:
            for action, body in bodies.items():
                with pair.replica.stopped():
                    response = client.post(f"/runs/{path_id('r')}/{action}", json=body)
                assert response.status_code == 200
                assert response.json()["durability"] == {"wanted": "replicated=1", "reached": "primary"}
            again = client.post(f"/runs/{path_id('r')}/answer", json=bodies["answer"]).json()
        assert (again["event"]["offset"], "durability" in again) == (2, False)
        assert store.list_runs() == ["r", "fork"]


def test_a_run_is_deleted_from_its_archive_too(pair: Pair, tmp_path: Path) -> None:
    path, here = tmp_path / "runs.db", f"{pair.url}?{SHORT}"
    archive: SQLiteCheckpointer[Any, Any] = SQLiteCheckpointer(path)
    with archive, connect(here) as hot, connect(here, archive=f"sqlite:{path}") as store:
        hot.append("r", [make_event("r", 1)])
        pair.replicate()
        DrainWorker(hot, [archive]).drain_once()
        assert archive.run_info("r") is not None
        with pair.replica.stopped(), pytest.raises(DurabilityNotReached):
            store.delete_run("r")
        assert (hot.run_info("r"), archive.run_info("r")) == (None, None)


def test_an_import_goes_on_after_what_it_has_written(pair: Pair, tmp_path: Path) -> None:
    with SQLiteCheckpointer[Any, Any](tmp_path / "other.db") as other:
        other.append("r", [make_event("r", 1)])
    command = "import", str(tmp_path / "other.db"), "--url", f"{pair.url}?{SHORT}"
    run(*command, "--dry-run")  # opens the namespace
    with pair.replica.stopped():
        said = run(*command)
    assert (said.code, "reached durability 'primary'" in said.err, "refused" in said.out) == (1, True, False)
    said = run(*command)
    assert (said.code, "refused" in said.out) == (0, False)


def test_what_a_task_wrote_is_there_though_another_has_taken_its_number(pair: Pair) -> None:
    """What is under that number is the other's: that it is not as durable says nothing of this one."""
    with connect(f"{pair.url}?{SHORT}") as store, connect(f"{pair.url}?{SHORT}") as others:
        saver, other = RunstreamSaver(store), RunstreamSaver(others)
        first = save(saver, "t", {"messages": ["a"]}, -1)
        save(saver, "t", {"messages": ["a", "b"]}, 0, first)
        place = config_of("t", first)
        saver.put_writes(place, [("messages", "c")], "task-1")
        other.put_writes(place, [("messages", "d")], "task-2")
        saver.put_writes(place, [("messages", "e")], "task-3")
        with pair.replica.stopped(), pytest.raises(DurabilityNotReached):
            other.put_writes(place, [("messages", "f")], "task-4")
        saved = saver.get_tuple(place)
        assert saved is not None
        assert sorted(value for _, _, value in saved.pending_writes or ()) == ["c", "d", "e", "f"]
