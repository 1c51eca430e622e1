"""Text that a Run holds back: appended together, in order, in time, once; lost by nothing but a crash."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import fakeredis
import purpose_agent.runtime
import pytest

from runstream import (
    AsyncRedisCheckpointer,
    ConfigurationError,
    EncodingError,
    EventKind,
    InMemoryCheckpointer,
    PayloadTooLarge,
    StoreUnavailable,
)
from runstream.model.results import DeltaBuffer
from tests.run.run_tools import Line
from tests.support.backends import Backend, RedisBackend, Store
from tests.support.handles import Appends, leave, open_run
from tests.support.samples import make_event, make_state
from tests.support.servers import eventually

LARGE = DeltaBuffer(max_events=1000, max_bytes=1_000_000, max_milliseconds=1_000_000)
"""One that nothing but a flush empties."""

NO_REPLY = StoreUnavailable("no reply")


def texts(store: Store) -> list[str]:
    """The text of each delta, or the kind of what is none."""
    found = []
    for item in store.read("r"):
        kind = getattr(item.event.kind, "value", item.event.kind)
        found.append(item.event.payload["text"] if kind == "text.delta" else kind)
    return found


def seqs(store: Store) -> list[int]:
    return [item.event.seq for item in store.read("r")]


@pytest.fixture
def appends(store: Store) -> Appends:
    return Appends(store)


# -- holding back ----------------------------------------------------------------------------------------


def test_without_a_buffer_text_is_appended_at_once(store: Store) -> None:
    run = open_run(store)
    run.emit_delta("a", index=0)
    run.emit_delta(text="b")
    recorded = list(store.read("r"))
    assert [item.event.kind for item in recorded] == [EventKind.TEXT_DELTA] * 2
    assert [item.event.payload for item in recorded] == [{"text": "a", "index": 0}, {"text": "b"}]
    assert seqs(store) == [1, 2]


def test_held_text_is_appended_together(store: Store, appends: Appends) -> None:
    """In order, each as an event of its own, with the time at which it was emitted."""
    run = open_run(store, deltas=LARGE)
    run.emit("text.started")
    times: list[float] = []
    for text in "abc":
        run.emit_delta(text, index=len(times))
        times.append(time.time())
    assert texts(store) == ["text.started"]
    run.flush()
    assert texts(store) == ["text.started", "a", "b", "c"]
    assert seqs(store) == [1, 2, 3, 4]
    assert [len(batch) for batch in appends.batches] == [1, 3]
    deltas = [item.event for item in store.read("r", 1)]
    assert [event.payload["index"] for event in deltas] == [0, 1, 2]
    assert all(event.ts <= taken for event, taken in zip(deltas, times, strict=True))
    run.flush()
    assert len(appends.batches) == 2


def test_held_text_is_as_it_was_when_it_was_emitted(store: Store) -> None:
    """Whatever becomes of the values that were passed with it."""
    run = open_run(store, deltas=LARGE)
    tags = ["then"]
    run.emit_delta("a", tags=tags)
    tags.append("now")
    run.flush()
    (recorded,) = store.read("r")
    assert recorded.event.payload == {"text": "a", "tags": ["then"]}


BEFORE: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "emit": (lambda run: run.emit("x"), ["x"]),
    "emit_many": (lambda run: run.emit_many(["x", "y"]), ["x", "y"]),
    "emit nothing": (lambda run: run.emit_many([]), []),
    "checkpoint": (lambda run: run.checkpoint(), []),
    "finish": (lambda run: run.finish(), ["run.finished"]),
    "fail": (lambda run: run.fail("x"), ["run.error"]),
    "save_event": (lambda run: run.save_event(make_event("r", 9, kind="x")), ["x"]),
    "save_snapshot": (lambda run: run.save_snapshot("r", make_state("r")), []),
    "flush": (lambda run: run.flush(), []),
    "close": (lambda run: run.close(), []),
    "leave": (leave, []),
    "leave with an error": (lambda run: leave(run, ZeroDivisionError()), ["agent.error"]),
    "be interrupted": (lambda run: leave(run, KeyboardInterrupt()), []),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("call", BEFORE)
def test_text_goes_before_what_is_no_delta(store: Store, call: str) -> None:
    """Whatever that is; and the numbers rise."""
    write, after = BEFORE[call]
    run = open_run(store, deltas=LARGE)
    run.emit_delta("a")
    run.emit_delta("b")
    write(run)
    assert texts(store) == ["a", "b", *after]
    assert seqs(store) == sorted(set(seqs(store)))


def test_a_snapshot_covers_the_text_before_it(store: Store) -> None:
    run = open_run(store, deltas=LARGE)
    run.emit_delta("a")
    run.checkpoint()
    assert store.recover("r").events == []


def test_reading_sends_nothing(store: Store) -> None:
    run = open_run(store, deltas=LARGE)
    run.emit_delta("a")
    assert run.list_events("r") == []
    assert run.load_latest("r") is None
    assert texts(store) == []
    run.close()


# -- bounds ----------------------------------------------------------------------------------------------


def test_a_full_buffer_is_appended(store: Store, appends: Appends) -> None:
    """With the delta that fills it."""
    run = open_run(store, deltas=replace(LARGE, max_events=3))
    for text in "abcdefg":
        run.emit_delta(text)
    assert texts(store) == ["a", "b", "c", "d", "e", "f"]
    run.flush()
    assert [len(batch) for batch in appends.batches] == [3, 3, 1]


def test_bytes_of_text_fill_a_buffer(store: Store, appends: Appends) -> None:
    """Of UTF-8; a lone surrogate, half of a character that a model was cut off in, has some too."""
    run = open_run(store, deltas=replace(LARGE, max_bytes=6))
    run.emit_delta("日")
    run.emit_delta("no")
    assert texts(store) == []
    run.emit_delta("x")
    assert texts(store) == ["日", "no", "x"]
    run.emit_delta("a long one at once")
    run.emit_delta("\ud83d")
    run.emit_delta("\ude00")
    assert [len(batch) for batch in appends.batches] == [3, 1, 2]
    assert texts(store)[-2:] == ["\ud83d", "\ude00"]


def test_old_text_is_appended_by_itself(store: Store) -> None:
    """When its first delta is old enough, and then again."""
    run = open_run(store, deltas=replace(LARGE, max_milliseconds=20))
    run.emit_delta("a")
    eventually(lambda: texts(store) == ["a"])
    run.emit_delta("b")
    run.emit_delta("c")
    eventually(lambda: texts(store) == ["a", "b", "c"])
    run.emit("x")
    assert seqs(store) == [1, 2, 3, 4]


def test_text_that_was_sent_in_time_leaves_no_thread_behind() -> None:
    store = InMemoryCheckpointer()
    before = set(threading.enumerate())
    run = store.open_run("r", deltas=LARGE)
    run.emit_delta("a")
    (timer,) = set(threading.enumerate()) - before
    assert timer.daemon  # a program ends without it
    run.flush()
    timer.join(20)
    assert not timer.is_alive()


@pytest.mark.parametrize("bound", ["max_events", "max_bytes"])
def test_a_buffer_of_nothing_holds_nothing(store: Store, bound: str) -> None:
    run = open_run(store, deltas=replace(LARGE, **{bound: 0}))
    run.emit_delta("a")
    run.emit_delta("b")
    assert texts(store) == ["a", "b"]


# -- what cannot be stored -------------------------------------------------------------------------------


def test_text_that_cannot_be_stored_is_refused_at_once(backend: Backend) -> None:
    """It takes no number and holds up nothing."""
    store = backend.open(max_event_bytes=1000)
    run = open_run(store, deltas=LARGE)
    run.emit_delta("a")
    with pytest.raises(EncodingError):
        run.emit_delta("bad", value=object())
    with pytest.raises(PayloadTooLarge):
        run.emit_delta("x" * 1000)
    with pytest.raises(EncodingError) as caught:
        run.emit_delta(None)
    assert caught.value.path == "payload.text"
    run.emit_delta("b")
    run.flush()
    assert (texts(store), seqs(store)) == (["a", "b"], [1, 2])


def test_no_text_is_refused_without_a_buffer_too(store: Store) -> None:
    with pytest.raises(EncodingError):
        open_run(store).emit_delta(None)
    assert store.list_runs() == []


def test_text_is_held_as_an_event_of_ones_own_type(backend: Backend) -> None:
    store = backend.open(event_type=purpose_agent.runtime.PAEvent)
    with open_run(store, deltas=LARGE) as run:
        run.emit_delta("a")
        run.emit_delta("b", n=1)
    assert {type(item.event) for item in store.read("r")} == {purpose_agent.runtime.PAEvent}
    assert texts(store) == ["a", "b"]


# -- when the store cannot be reached --------------------------------------------------------------------


def test_text_that_could_not_be_sent_is_sent_again(store: Store, appends: Appends) -> None:
    """The call that could not send it has done nothing else; the next sends it as the same append, and goes on."""
    run = open_run(store, deltas=LARGE)
    run.emit_delta("a")
    run.emit_delta("b")
    appends.fail(NO_REPLY, times=2)
    for call in (lambda: run.emit("x"), run.flush):
        with pytest.raises(StoreUnavailable):
            call()
    assert run.emit("y").event.seq == 3
    assert texts(store) == ["a", "b", "y"]
    first, second, third, _ = appends.batches
    assert first == second == third


def test_nothing_joins_text_whose_outcome_is_unknown(store: Store, appends: Appends) -> None:
    """It goes out again as it was; what came after is an append of its own. What is refused was not taken."""
    run = open_run(store, deltas=LARGE)
    run.emit_delta("a")
    appends.fail(NO_REPLY, times=2)
    with pytest.raises(StoreUnavailable):
        run.flush()
    with pytest.raises(StoreUnavailable):
        run.emit_delta("b")
    run.emit_delta("c")
    assert texts(store) == ["a"]
    run.flush()
    assert (texts(store), seqs(store)) == (["a", "c"], [1, 2])
    assert [len(batch) for batch in appends.batches] == [1, 1, 1, 1]


def test_a_full_buffer_that_cannot_be_sent_is_the_next_calls_failure(store: Store, appends: Appends) -> None:
    """The text was taken, so the call that took it does not fail; the next does, once, and takes nothing."""
    run = open_run(store, deltas=replace(LARGE, max_events=2))
    appends.fail(NO_REPLY)
    run.emit_delta("a")
    run.emit_delta("b")
    with pytest.raises(StoreUnavailable):
        run.emit_delta("not taken")
    run.emit_delta("c")
    assert texts(store) == ["a", "b"]
    run.flush()
    assert (texts(store), seqs(store)) == (["a", "b", "c"], [1, 2, 3])


@pytest.mark.one_in(2)
@pytest.mark.parametrize("call", ["emit", "emit_many", "checkpoint", "save_snapshot", "flush", "finish"])
@pytest.mark.parametrize("failure", [NO_REPLY, ZeroDivisionError("a bug")])
def test_a_failure_in_the_background_is_raised_by_the_next_call(
    store: Store, appends: Appends, failure: Exception, call: str
) -> None:
    """Once, whatever it was, and that call has done nothing; no text is lost by it or there twice."""
    write, after = BEFORE[call]
    run = open_run(store, deltas=replace(LARGE, max_milliseconds=1))
    appends.fail(failure)
    run.emit_delta("a")
    eventually(lambda: appends.batches and kept_failure(run) is not None)
    with pytest.raises(type(failure)):
        write(run)
    assert texts(store) == []
    write(run)
    assert texts(store) == ["a", *after]
    assert store.load_latest("r") is None or call in {"checkpoint", "save_snapshot", "finish"}


def kept_failure(run: Any) -> Exception | None:
    failure: Exception | None = run._failure
    return failure


def test_what_has_failed_in_the_background_waits_for_the_next_call(store: Store, appends: Appends) -> None:
    """It is not tried over and over, neither then nor when it has been raised."""
    run = open_run(store, deltas=replace(LARGE, max_milliseconds=1))
    appends.fail(NO_REPLY, times=100)
    run.emit_delta("a")
    eventually(lambda: kept_failure(run) is not None)
    assert run._timer is None
    with pytest.raises(StoreUnavailable):
        run.flush()
    assert run._timer is None
    assert len(appends.batches) == 1
    appends.fail(NO_REPLY, times=0)
    run.close()
    assert texts(store) == ["a"]


def test_leaving_tries_once_more(store: Store, appends: Appends) -> None:
    """And says nothing of a failure that is past."""
    run = open_run(store, deltas=replace(LARGE, max_events=1))
    appends.fail(NO_REPLY)
    run.emit_delta("a")
    assert leave(run) is None
    assert texts(store) == ["a"]
    assert run.emit("x").event.seq == 2


def test_leaving_says_that_text_is_lost(make_backend: Callable[[str], Backend]) -> None:
    """By raising it, or, where there is an exception to raise already, by a note on that one."""
    for failure in (None, ZeroDivisionError("first")):
        store = InMemoryCheckpointer()
        appends = Appends(store)
        run = store.open_run("r", lease_ttl=30, deltas=LARGE)
        run.emit_delta("a")
        appends.fail(NO_REPLY)
        raised = leave(run, failure)
        if failure is None:
            assert raised is NO_REPLY
        else:
            assert raised is failure
            (note,) = failure.__notes__
            assert "text" in note
            assert "no reply" in note
            assert texts(store) == ["agent.error"]
        store.open_run("r", lease_ttl=30).close()


@pytest.mark.parametrize("lost", ["request", "reply"])
def test_text_whose_reply_was_lost_is_there_once(redis_backend: RedisBackend, lost: str) -> None:
    """Sent again as the same append, it is applied once, also if something else of the store came in between."""
    store = redis_backend.open(retry_seconds=0)
    run, line = open_run(store, deltas=LARGE), Line(store)
    for first, second in ("ab", "cd"):
        run.emit_delta(first)
        run.emit_delta(second)
        line.cut = lost
        with pytest.raises(StoreUnavailable):
            run.flush()
        if first == "c":
            store.save_event(make_event("r", 1, kind="other", lane_id="other"))
        run.flush()
    assert texts(store) == ["a", "b", "c", "d", "other"]
    assert [item.event.seq for item in store.read("r")] == [1, 2, 3, 4, 1]


# -- threads and tasks -----------------------------------------------------------------------------------


def test_threads_share_a_buffer(store: Store) -> None:
    """With a timer that fires all the while: the numbers are those of the log, each text is there once."""
    run = open_run(store, deltas=DeltaBuffer(max_events=7, max_milliseconds=1))

    def work(name: str) -> None:
        for number in range(50):
            run.emit_delta(f"{name}{number}")
            if number % 20 == 0:
                run.emit("x")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    run.close()
    assert seqs(store) == list(range(1, 160))
    for name in "abc":
        assert [text for text in texts(store) if text[0] == name] == [f"{name}{number}" for number in range(50)]


@pytest.fixture
def hot() -> AsyncRedisCheckpointer[Any, Any]:
    return AsyncRedisCheckpointer(fakeredis.FakeAsyncRedis())


async def texts_of(hot: AsyncRedisCheckpointer[Any, Any]) -> list[str]:
    return [item.event.payload["text"] async for item in hot.read("r")]


async def test_old_text_is_appended_by_a_task(hot: AsyncRedisCheckpointer[Any, Any]) -> None:
    """Which is gone when there is nothing for it to do."""
    before = asyncio.all_tasks()
    run = await hot.open_run("r", deltas=replace(LARGE, max_milliseconds=1))
    await run.emit_delta("a")
    (timer,) = asyncio.all_tasks() - before
    await timer
    assert await texts_of(hot) == ["a"]
    run = await hot.open_run("r", deltas=LARGE)
    await run.emit_delta("b")
    (timer,) = asyncio.all_tasks() - before
    await run.close()
    await asyncio.wait([timer])
    assert timer.cancelled()
    assert await texts_of(hot) == ["a", "b"]


async def test_text_whose_flush_was_cancelled_is_there_once(hot: AsyncRedisCheckpointer[Any, Any]) -> None:
    """Cancelled while its reply was on the way: it goes out again, and is applied once."""
    driver: Any = hot._driver
    exchange_once, sent = driver.exchange_once, asyncio.Event()

    async def hold_reply(exchange: Any) -> Any:
        replies = await exchange_once(exchange)
        sent.set()
        await asyncio.Event().wait()
        return replies

    run = await hot.open_run("r", deltas=LARGE)
    await run.emit_delta("a")
    driver.exchange_once = hold_reply
    flush = asyncio.create_task(run.flush())
    await sent.wait()
    driver.exchange_once = exchange_once
    flush.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flush
    await run.emit_delta("b")
    await run.close()
    assert await texts_of(hot) == ["a", "b"]


async def test_a_cancelled_task_loses_no_text(hot: AsyncRedisCheckpointer[Any, Any]) -> None:
    """What it held back is sent as it leaves; nothing else is recorded."""
    held = asyncio.Event()

    async def work() -> None:
        async with hot.open_run("r", deltas=LARGE) as run:
            await run.emit_delta("a")
            held.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await held.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await texts_of(hot) == ["a"]


def test_a_closed_store_is_the_next_calls_failure(make_backend: Callable[[str], Backend]) -> None:
    """Text that is too late for it is not lost silently."""
    store = make_backend("sqlite").open()
    run = open_run(store, deltas=replace(LARGE, max_milliseconds=1))
    run.emit("one")
    store.close()
    run.emit_delta("a")
    eventually(lambda: kept_failure(run) is not None)
    with pytest.raises(ConfigurationError):
        run.flush()
