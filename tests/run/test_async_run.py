"""The async handle: as the sync one, and cancellation takes no number twice."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import fakeredis
import pytest

from runstream import (
    AsyncRedisCheckpointer,
    EventKind,
    PAEvent,
    Recorded,
)
from runstream.run import AsyncRun, Run
from tests.run.run_tools import ModelGaveUpError


@pytest.fixture
def hot() -> AsyncRedisCheckpointer[Any, Any]:
    return AsyncRedisCheckpointer(fakeredis.FakeAsyncRedis())


async def recorded_of(hot: AsyncRedisCheckpointer[Any, Any]) -> list[Recorded[PAEvent]]:
    return [item async for item in hot.read("r")]


async def test_an_async_run_is_entered_or_awaited(hot: AsyncRedisCheckpointer[Any, Any]) -> None:
    async with hot.open_run("r", lease_ttl=30, owner="us") as run:
        recorded = await run.emit("one", n=1)
        assert isinstance(run, AsyncRun)
        assert await recorded_of(hot) == [recorded]
    assert run.lease is not None
    assert run.lease.lost
    run = await hot.open_run("r")
    await run.finish()
    await run.close()
    assert [item.event.seq async for item in run.follow()] == [1, 2]


async def test_tasks_share_an_async_run(hot: AsyncRedisCheckpointer[Any, Any]) -> None:
    """The numbers of the lane are those of the log."""
    run = await hot.open_run("r")

    async def work() -> None:
        for _ in range(10):
            await run.emit("x")
            await run.emit_many(["y", "z"])

    await asyncio.gather(*(work() for _ in range(4)))
    assert [item.event.seq for item in await recorded_of(hot)] == list(range(1, 121))


async def test_a_number_that_was_cancelled_on_its_way_is_not_used_again(
    hot: AsyncRedisCheckpointer[Any, Any],
) -> None:
    """Cancelled before its reply came, it is there; nobody else has its number, and cancelling records nothing."""
    applied = asyncio.Event()
    run = await hot.open_run("r")
    runner: Any = run._runner
    run_operation = runner.run

    async def hold_reply(operation: Any) -> Any:
        result = await run_operation(operation)
        applied.set()
        await asyncio.Event().wait()
        return result

    async def work(run: AsyncRun[Any, Any]) -> None:
        async with run:
            await run.emit("one")

    runner.run = hold_reply  # the reply that is on its way
    task = asyncio.create_task(work(run))
    await applied.wait()
    runner.run = run_operation
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await run.emit("two")).event.seq == 2
    assert [item.event.kind for item in await recorded_of(hot)] == ["one", "two"]


async def test_a_run_that_runs_out_of_time_records_nothing(hot: AsyncRedisCheckpointer[Any, Any]) -> None:
    """A time limit is a cancellation inside, and gives the lease back."""
    applied = asyncio.Event()

    async def work() -> None:
        async with asyncio.timeout(None) as limit, hot.open_run("r", lease_ttl=30) as run:
            await run.emit("one")
            applied.set()
            limit.reschedule(0)  # which was long ago
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await work()
    assert applied.is_set()
    assert [item.event.kind for item in await recorded_of(hot)] == ["one"]
    await (await hot.open_run("r", lease_ttl=30)).close()


async def test_an_async_run_that_is_left_with_an_exception_records_it(
    hot: AsyncRedisCheckpointer[Any, Any],
) -> None:

    async def work() -> None:
        async with hot.open_run("r"):
            raise ModelGaveUpError("no")

    with pytest.raises(ModelGaveUpError):
        await work()
    (recorded,) = await recorded_of(hot)
    assert (recorded.event.kind, recorded.event.payload["error"]) == (EventKind.AGENT_ERROR, "no")


# -- the public face -------------------------------------------------------------------------------------


def methods(kind: type[Any]) -> dict[str, Any]:
    return {name: value for name, value in vars(kind).items() if callable(value) and not name.startswith("_")}


def test_run_and_async_run_differ_only_in_the_waiting() -> None:
    """The same methods with the same parameters, each with a docstring."""
    mine, theirs = methods(Run), methods(AsyncRun)
    assert list(mine) == list(theirs)
    for name, method in mine.items():
        awaited = theirs[name]
        assert [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()] == [
            (p.name, p.kind, p.default) for p in inspect.signature(awaited).parameters.values()
        ]
        assert method.__doc__
        assert awaited.__doc__
        assert inspect.iscoroutinefunction(awaited) == (name != "follow")
