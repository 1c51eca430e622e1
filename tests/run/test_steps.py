"""Durable steps: a call whose result the run records once, across failures, leases, cancellation and archives."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import fakeredis
import pytest

from runstream import (
    AsyncRedisCheckpointer,
    ConfigurationError,
    DrainWorker,
    EncodingError,
    EventsArchived,
    InMemoryCheckpointer,
    LeaseLost,
    PayloadTooLarge,
    RedisCheckpointer,
    RunCancelled,
    StepFailed,
    StoreUnavailable,
    TieredCheckpointer,
    TooManyHotEvents,
)
from tests.run.run_tools import events_of, kinds
from tests.support.backends import Backend, FakeBackend, RedisBackend, Store
from tests.support.drain_tools import first_hot, open_hot
from tests.support.handles import BlockingRun, leave, open_run, restarted
from tests.support.line import Line
from tests.support.servers import DEADLINE_SECONDS


class Tool:
    """A call that counts how often it is made, and fails so many times at first."""

    def __init__(self, result: Any = "done", failures: int = 0) -> None:
        self.result = result
        self.failures = failures
        self.calls: list[Any] = []

    def __call__(self, *args: Any, **named: Any) -> Any:
        self.calls.append((args, named))
        if len(self.calls) <= self.failures:
            raise OSError(f"failure {len(self.calls)}")
        return self.result


class ByTheWayError(Exception):
    pass


@dataclass
class Found:
    """What a fallback makes plain data of."""

    names: list[str]


def beside(run: Any, call: Callable[[], Any]) -> Callable[[], Any]:
    """A call that may use stores of the same event loop, if the Run has one."""
    if not isinstance(run, BlockingRun):
        return call

    async def in_thread() -> Any:
        return await asyncio.to_thread(call)

    return in_thread


# -- once ------------------------------------------------------------------------------------------------


def test_a_call_is_made_once_whoever_asks_again(backend: Backend) -> None:
    """Its result is one event, and is given as it is recorded from the first time on."""
    store = backend.open()
    tool = Tool({"pair": (1, 2), "found": Found(["a"])})
    with open_run(store) as run:
        assert run.once("search", tool, "x", key="named like ours") == {"pair": (1, 2), "found": {"names": ["a"]}}
        assert tool.calls == [(("x",), {"key": "named like ours"})]
    store = restarted(backend, store)
    for lane_id in ("main", "other"):
        run = open_run(store, lane_id=lane_id)
        assert run.once("search", tool, "y") == {"pair": (1, 2), "found": {"names": ["a"]}}
    assert len(tool.calls) == 1
    (event,) = events_of(store)
    assert (event.kind, event.lane_id, event.seq) == ("tool.result", "main", 1)
    assert event.payload == {"step": "search", "attempt": 1, "result": {"pair": (1, 2), "found": {"names": ["a"]}}}


def test_a_failure_is_recorded_and_raised_and_tried_again_as_often_as_may_be(backend: Backend) -> None:
    store = backend.open()
    tool = Tool(None, failures=3)
    run = open_run(store)
    for _ in range(2):
        with pytest.raises(OSError, match="failure"):
            run.once("pay", tool, attempts=3)
    store = restarted(backend, store)
    run = open_run(store)
    failure = None
    try:
        with run:
            run.once("pay", tool, attempts=3)
    except OSError as error:
        failure = error
    assert failure is not None
    assert kinds(store) == ["tool.error", "tool.error", "agent.error"]  # which leaving the Run does not repeat
    run = open_run(store)
    with pytest.raises(StepFailed, match="has failed 3 times") as caught:
        run.once("pay", tool, attempts=3)
    assert (caught.value.run_id, caught.value.key, caught.value.attempts) == ("r", "pay", 3)
    assert len(tool.calls) == 3
    assert run.once("pay", tool, attempts=4, record_start=True) is None
    assert run.once("pay", tool, attempts=1) is None
    payloads = [event.payload for event in events_of(store)]
    assert payloads == [
        *({"step": "pay", "attempt": n, "error": f"failure {n}", "type": "OSError"} for n in (1, 2, 3)),
        {"step": "pay", "attempt": 4},
        {"step": "pay", "attempt": 4, "result": None},
    ]
    assert kinds(store)[3:] == ["tool.started", "tool.result"]


def test_many_failures_are_all_counted() -> None:
    store = InMemoryCheckpointer[Any, Any]()
    tool = Tool(failures=20)
    for _ in range(20):
        with pytest.raises(OSError, match="failure"):
            open_run(store).once("k", tool)
    assert open_run(store).once("k", tool) == "done"
    assert [event.payload["attempt"] for event in events_of(store)] == list(range(1, 22))


def test_the_id_of_a_step_is_the_same_everywhere_and_no_others() -> None:
    store = InMemoryCheckpointer[Any, Any]()
    run, again = open_run(store), open_run(store, lane_id="a")
    assert run.operation_id("pay") == again.operation_id("pay") == "7b76e9621bf0b2374c049788f0d3c49a"
    others = {
        open_run(store, run_id).operation_id(key) for run_id, key in (("r", "pa"), ("r:pay", ""), ("s", "pay"))
    }
    assert len(others | {run.operation_id("pay")}) == 4
    assert run.once("pay", Tool(), id=run.operation_id("pay")) == "done"


def test_a_step_that_cannot_be_is_refused_before_anything_is_called() -> None:
    store = InMemoryCheckpointer[Any, Any]()
    run, tool = open_run(store), Tool()
    run.once("k" * 490, tool)
    for error, key, options in (
        (EncodingError, "k" * 491, {}),
        (EncodingError, 1, {}),
        (ConfigurationError, "k", {"attempts": 0}),
        (ConfigurationError, "k", {"attempts": 1.5}),
    ):
        with pytest.raises(error):
            run.once(key, tool, **options)
    with pytest.raises(ConfigurationError, match="pass the function"):
        run.once("k", "search()")

    async def search() -> str:
        return "x"

    with pytest.raises(ConfigurationError, match="is a coroutine function"):
        run.once("k", search)
    store.append("r", [events_of(store)[0]], keys=["once:mine"])
    store.append("r", [events_of(store)[0].__class__("r", kind="mine")], keys=["once:other"])
    assert run.once("mine", tool) == "done"
    with pytest.raises(ConfigurationError, match="event 3 of run 'r' has the key 'once:other'"):
        run.once("other", tool)
    assert len(tool.calls) == 1


# -- results that are not recorded -------------------------------------------------------------------------


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("result", "refused"), [(lambda: 1, EncodingError), ("x" * 900, PayloadTooLarge)])
def test_a_result_that_cannot_be_stored_is_told_with_the_error(
    backend: Backend, result: Any, refused: type[EncodingError]
) -> None:
    """The effect is there; nothing else is, and the call is made again."""
    store = backend.open(max_event_bytes=500)
    run, tool = open_run(store), Tool(result)
    for _ in range(2):
        with pytest.raises(refused, match=r"step 'k' was made and has returned error\.result") as caught:
            run.once("k", tool)
        assert caught.value.result is result
        assert "payload" in caught.value.path
    assert pickle.loads(pickle.dumps(caught.value)).result is None
    assert len(tool.calls) == 2
    assert kinds(store) == []
    tool.result = "short"
    assert run.once("k", tool) == "short"


@pytest.fixture
def line(fake: FakeBackend) -> tuple[RedisCheckpointer[Any, Any], Line]:
    store = open_hot(fake, retry_seconds=0.0)
    return store, Line(store)


@pytest.mark.parametrize("cut", ["request", "reply"])
@pytest.mark.parametrize("how", ["again", "resend"])
def test_a_result_whose_fate_is_unknown_is_recorded_without_another_call(
    line: tuple[RedisCheckpointer[Any, Any], Line], cut: str, how: str
) -> None:
    store, wire = line
    run, tool = open_run(store), Tool({"n": 1})

    def call() -> Any:
        wire.cut(cut, cut)
        return tool()

    with pytest.raises(StoreUnavailable, match=r"this Run has kept it: the same once\(\.\.\.\)") as caught:
        run.once("k", call)
    assert caught.value.result == {"n": 1}
    assert caught.value.resend is not None
    with pytest.raises(StoreUnavailable, match="was lost"):
        run.once("k", call)
    assert (caught.value.resend() if how == "resend" else run.once("k", call)) == {"n": 1}
    assert run.once("k", call) == {"n": 1}
    assert len(tool.calls) == 1
    assert kinds(store) == ["tool.result"]


def test_a_result_that_is_refused_for_now_is_kept_until_it_can_be_recorded(
    fake: FakeBackend, archives: list[Any]
) -> None:
    store, tool = open_hot(fake, max_hot_events=1), Tool()
    run = open_run(store)
    run.emit("agent.started")
    for _ in range(2):
        with pytest.raises(TooManyHotEvents, match=r"has returned error\.result") as caught:
            run.once("k", tool)
        assert caught.value.result == "done"
    DrainWorker(open_hot(fake), archives, trim="archived").drain_once()
    assert run.once("k", tool) == run.once("k", tool) == "done"
    assert len(tool.calls) == 1


@pytest.mark.parametrize("record_start", [False, True])
def test_a_step_that_could_not_begin_made_no_call(
    line: tuple[RedisCheckpointer[Any, Any], Line], record_start: bool
) -> None:
    store, wire = line
    run, tool = open_run(store), Tool()
    wire.cut(*([""] if record_start else []), "reply")
    with pytest.raises(StoreUnavailable, match="the call of the step was not made") as caught:
        run.once("k", tool, record_start=record_start)
    assert (caught.value.resend, caught.value.result, tool.calls) == (None, None, [])
    assert run.once("k", tool) == "done"


def test_a_failure_that_cannot_be_recorded_is_raised_all_the_same(
    line: tuple[RedisCheckpointer[Any, Any], Line],
) -> None:
    store, wire = line
    run, tool = open_run(store), Tool(failures=1)

    def call() -> Any:
        wire.cut("request")
        return tool()

    with pytest.raises(OSError, match="failure 1") as caught:
        run.once("k", call)
    assert any("the failure is not recorded: StoreUnavailable" in note for note in caught.value.__notes__)
    with pytest.raises(StoreUnavailable, match="the request was lost"):
        run.once("k", call)
    assert run.once("k", call) == "done"


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_who_is_interrupted_records_nothing(interrupt: type[BaseException]) -> None:
    store = InMemoryCheckpointer[Any, Any]()
    run = open_run(store)

    def call() -> None:
        raise interrupt

    with pytest.raises(interrupt):
        run.once("k", call)
    assert events_of(store) == []


# -- several at once -----------------------------------------------------------------------------------------


def test_of_two_that_make_the_call_the_first_result_counts(two_stores: tuple[Store, Store]) -> None:
    """Without a lease: whoever is second gives the first's."""
    ours, theirs = (open_run(store, lane_id=lane) for store, lane in zip(two_stores, "ab", strict=True))
    first = Tool("first")

    def second() -> str:
        assert ours.once("k", first) == "first"
        return "second"

    assert theirs.once("k", beside(theirs, second)) == "first"
    assert theirs.once("k", second) == ours.once("k", second) == "first"
    assert [(event.lane_id, event.payload["result"]) for event in events_of(two_stores[0])] == [("a", "first")]


def test_who_is_second_and_cannot_read_the_first_result_asks_again(
    line: tuple[RedisCheckpointer[Any, Any], Line],
) -> None:
    store, wire = line
    run, tool = open_run(store), Tool("second")

    def call() -> Any:
        open_run(store, lane_id="a").once("k", Tool("first"))
        wire.cut("", "request")
        return tool()

    with pytest.raises(StoreUnavailable) as caught:
        run.once("k", call)
    assert caught.value.resend is not None
    assert (caught.value.resend(), run.once("k", call), len(tool.calls)) == ("first", "first", 1)


@pytest.mark.one_in(2)
def test_failures_at_once_have_each_their_number(two_stores: tuple[Store, Store]) -> None:
    ours, theirs = (open_run(store, lane_id=lane) for store, lane in zip(two_stores, "ab", strict=True))

    def fail() -> None:
        with pytest.raises(OSError, match="failure 1"):
            ours.once("k", Tool(failures=1))
        raise ByTheWayError

    with pytest.raises(ByTheWayError):
        theirs.once("k", beside(theirs, fail))
    assert [event.payload["attempt"] for event in events_of(two_stores[0])] == [1, 2]
    with pytest.raises(StepFailed):
        ours.once("k", fail, attempts=2)


def test_the_result_of_a_stale_worker_is_refused(leasing: Store) -> None:
    """It has it in the error; where it knows before, it makes no call."""
    stale = open_run(leasing, lease_ttl=30, owner="us")

    def call() -> str:
        with open_run(leasing, lease_ttl=30, owner="us") as run:  # as after a restart
            assert run.once("k", Tool("theirs")) == "theirs"
            assert run.once("other", Tool("theirs")) == "theirs"
        return "stale"

    with pytest.raises(LeaseLost, match="step 'k' was made") as caught:
        stale.once("k", beside(stale, call))
    assert caught.value.result == "stale"
    tool = Tool()
    with pytest.raises(LeaseLost):
        stale.once("new", tool)
    assert tool.calls == []
    assert stale.once("other", tool) == "theirs"
    assert [event.payload["result"] for event in events_of(leasing)] == ["theirs", "theirs"]


def test_threads_take_steps_at_the_same_time_and_one_step_once() -> None:
    store = InMemoryCheckpointer[Any, Any]()
    run = open_run(store)
    together = threading.Barrier(3)
    made: list[int] = []

    def call(number: int) -> int:
        together.wait(DEADLINE_SECONDS)
        made.append(number)
        return number

    with ThreadPoolExecutor(9) as pool:
        steps = [pool.submit(run.once, f"step-{number % 3}", call, number % 3) for number in range(9)]
        assert [step.result() for step in steps] == [0, 1, 2] * 3
    assert sorted(made) == [0, 1, 2]
    assert [event.seq for event in events_of(store)] == [1, 2, 3]


async def test_tasks_take_steps_at_the_same_time_and_one_step_once() -> None:
    store = AsyncRedisCheckpointer[Any, Any](fakeredis.FakeAsyncRedis())
    run = await store.open_run("r")
    together = asyncio.Barrier(3)
    made: list[int] = []

    async def call(number: int) -> int:
        await together.wait()
        made.append(number)
        return number

    for _ in range(2):  # the second time as after a restart
        steps = [run.once(f"step-{number % 3}", call, number % 3) for number in range(9)]
        assert await asyncio.wait_for(asyncio.gather(*steps), DEADLINE_SECONDS) == [0, 1, 2] * 3
        run = await store.open_run("r")
    assert sorted(made) == [0, 1, 2]
    assert await run.once("plain", len, "abc") == 3


async def test_a_step_that_is_cancelled_as_it_is_recorded_makes_no_other_call() -> None:
    store = AsyncRedisCheckpointer[Any, Any](fakeredis.FakeAsyncRedis())
    run, tool = await store.open_run("r"), Tool()
    driver: Any = store._driver
    exchange_once, stuck = driver.exchange_once, asyncio.Event()

    async def lose_reply(exchange: Any) -> Any:
        replies = await exchange_once(exchange)
        if tool.calls:
            stuck.set()
            await asyncio.Event().wait()
        return replies

    driver.exchange_once = lose_reply
    step = asyncio.create_task(run.once("k", tool))
    await stuck.wait()
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    driver.exchange_once = exchange_once
    assert await run.once("k", tool) == "done"
    assert len(tool.calls) == 1
    assert [item.event.payload["result"] async for item in store.read("r")] == ["done"]


# -- a run that is to be cancelled -----------------------------------------------------------------------------


def test_what_came_of_a_call_is_recorded_in_a_run_that_is_to_be_cancelled(live: Store) -> None:
    run = open_run(live)
    run.emit("agent.started")

    def call() -> str:
        live.request_cancel("r", "too dear")
        return "paid"

    with pytest.raises(RunCancelled, match="and that is recorded") as caught:
        run.once("pay", beside(run, call))
    assert (caught.value.result, caught.value.reason) == ("paid", "too dear")
    assert run.once("pay", call) == "paid"
    assert leave(run, caught.value) is caught.value
    assert kinds(live)[2:] == ["tool.result", "run.error"]


def test_so_is_a_failure() -> None:
    store = InMemoryCheckpointer[Any, Any]()
    run = open_run(store)
    run.emit("agent.started")

    def call() -> None:
        store.request_cancel("r")
        raise ByTheWayError

    with pytest.raises(RunCancelled) as caught:
        run.once("pay", call)
    assert isinstance(caught.value.__cause__, ByTheWayError)
    leave(run, caught.value)
    assert kinds(store)[2:] == ["tool.error", "run.error"]


def test_a_call_that_is_itself_told_of_the_cancellation_has_not_failed() -> None:
    store = InMemoryCheckpointer[Any, Any]()
    run = open_run(store)
    run.emit("agent.started")
    store.request_cancel("r")
    with pytest.raises(RunCancelled):
        run.once("k", lambda: run.emit("agent.progress"))
    assert kinds(store)[2:] == []


# -- archives --------------------------------------------------------------------------------------------------


def test_a_result_that_has_left_redis_is_in_the_archive(redis_backend: RedisBackend, archives: list[Any]) -> None:
    """Redis alone says so, also to whoever comes second with one of its own; the call is not made again."""
    hot = open_hot(redis_backend)
    open_run(hot).once("k", Tool({"n": 1}))
    late = open_run(open_hot(redis_backend))
    with pytest.raises(OSError, match="failure"):
        late.once("flaky", Tool(failures=1))

    def archive() -> None:
        open_run(hot, lane_id="a").once("raced", Tool("first"))
        DrainWorker(hot, archives, trim="archived").drain_once()

    def come_second() -> str:
        archive()
        return "second"

    with pytest.raises(EventsArchived):
        late.once("raced", come_second)
    assert first_hot(hot, "r") == 4
    tool = Tool()
    with pytest.raises(EventsArchived):
        open_run(hot, lane_id="b").once("k", tool)
    for at in archives:
        tiered = open_run(TieredCheckpointer(open_hot(redis_backend), at))
        assert (tiered.once("k", tool), tiered.once("raced", tool)) == ({"n": 1}, "first")
        with pytest.raises(StepFailed):
            tiered.once("flaky", tool, attempts=1)
    assert tool.calls == []


def test_a_step_costs_a_look_and_an_append(redis_backend: RedisBackend) -> None:
    store: Any = redis_backend.open()
    run = open_run(store)
    run.once("before", Tool())
    exchanges: list[Any] = []
    exchange_once = store._driver.exchange_once

    def count(exchange: Any) -> Any:
        exchanges.append(exchange)
        return exchange_once(exchange)

    store._driver.exchange_once = count
    run.once("k", Tool())
    assert len(exchanges) == 2
    run.once("k", Tool())
    assert len(exchanges) == 4  # another look, and the event
