"""The two runners: one makes the steps of operations by waiting, the other by awaiting.

What a step raises is thrown into the operation, at the ``yield`` that waits for the step's result: so an operation
notes what got no reply, and may go on another way. An operation that is broken off is closed at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from runstream.model.awaitable import AsyncItems
from runstream.operations.operation import (
    Call,
    Exchange,
    Items,
    Operation,
    Pause,
    Replies,
    Step,
    Stream,
    Wait,
    WaitAny,
    Waited,
)

__all__ = ["AsyncRunner", "SyncRunner"]

T = TypeVar("T")


def _no_server(step: Exchange | Wait | WaitAny) -> Any:
    raise AssertionError(f"unreachable: a store without a server has no use for {step!r:.80}")


class SyncRunner:
    """Makes the steps of operations, and waits for each.

    Args:
        exchange: Makes one round trip to the server; left out for stores that have none, as what follows is.
        follow: Makes one for a follower.
        wait: Waits for what a follower waits for.
    """

    def __init__(
        self,
        exchange: Callable[[Exchange], Replies] = _no_server,
        follow: Callable[[Exchange], Replies] = _no_server,
        wait: Callable[[Wait | WaitAny], Waited] = _no_server,
    ) -> None:
        self._exchange = exchange
        self._follow = follow
        self._wait = wait

    def run(self, operation: Operation[T]) -> T:
        """Run an operation and return its result."""
        try:
            step = next(operation)
            while True:
                try:
                    result = self._exchange(step) if type(step) is Exchange else self._make(step)
                except BaseException as error:  # noqa: BLE001 - the operation decides what to do about it
                    step = operation.throw(error)
                else:
                    step = operation.send(result)
        except StopIteration as stop:
            outcome: T = stop.value
            return outcome
        finally:
            operation.close()  # now, not when its last reference goes: it notes what got no reply

    def iterate(self, stream: Stream) -> Iterator[Any]:
        """The stream's items, as they come."""
        return self._iterate(stream, self._exchange)

    def follow(self, stream: Stream) -> Iterator[Any]:
        """The items of a stream that goes on while something comes: of such there may be many at a time."""
        return self._iterate(stream, self._follow)

    def _iterate(self, stream: Stream, exchange: Callable[[Exchange], Replies]) -> Iterator[Any]:
        try:
            step = next(stream)
            while True:
                try:
                    result: Any = None
                    if isinstance(step, Items):
                        yield from step.items
                    elif type(step) is Exchange:
                        result = exchange(step)
                    elif isinstance(step, Wait | WaitAny):
                        result = self._wait(step)
                    else:
                        result = self._make(step)
                except BaseException as error:  # noqa: BLE001 - as above
                    step = stream.throw(error)
                else:
                    step = stream.send(result)
        except StopIteration:
            return
        finally:
            stream.close()

    @staticmethod
    def _make(step: Step) -> Any:
        if type(step) is Call:
            return step.make()
        if type(step) is Pause:
            return time.sleep(step.seconds)
        raise AssertionError(f"unreachable: {step!r:.80} is for streams, which are iterated over")


class _OwnThread:
    """A thread for one stream's blocking calls, which is there from the first of them on."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None

    async def run(self, call: Callable[[], Any]) -> Any:
        """What a call returns that is made in the thread."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="runstream-pages")
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def give_back(self) -> None:
        """End the thread, after the call that it makes, if there is one."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)


class AsyncRunner:
    """Makes the steps of operations, awaiting each; blocking calls are made in threads.

    Args:
        exchange: Makes one round trip to the server; left out for stores that have none, as what follows is.
        follow: Makes one for a follower.
        wait: Waits for what a follower waits for.
        prepare: Awaited before each operation, for a store that opens at its first use.
    """

    def __init__(
        self,
        exchange: Callable[[Exchange], Awaitable[Replies]] = _no_server,
        follow: Callable[[Exchange], Awaitable[Replies]] = _no_server,
        wait: Callable[[Wait | WaitAny], Awaitable[Waited]] = _no_server,
        prepare: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._exchange = exchange
        self._follow = follow
        self._wait = wait
        self._prepare = prepare

    async def prepare(self) -> None:
        """Open the store, if it is one that opens at its first use."""
        if self._prepare is not None:
            await self._prepare()

    async def run(self, operation: Operation[T]) -> T:
        """Run an operation and return its result."""
        try:
            await self.prepare()
            step = next(operation)
            while True:
                try:
                    if type(step) is Exchange:
                        result: Any = await self._exchange(step)
                    else:
                        result = await self._make(step)
                except BaseException as error:  # noqa: BLE001 - the operation decides what to do about it
                    step = operation.throw(error)
                else:
                    step = operation.send(result)
        except StopIteration as stop:
            outcome: T = stop.value
            return outcome
        finally:
            operation.close()  # now, not when its last reference goes: it notes what got no reply

    def iterate(self, stream: Stream) -> AsyncIterator[Any]:
        """The stream's items, as they come.

        Its blocking calls are made in a thread of its own: followers wait, and asyncio has few threads.
        """
        return AsyncItems(self._iterate(stream, self._exchange))

    def follow(self, stream: Stream) -> AsyncIterator[Any]:
        """The items of a stream that goes on while something comes: of such there may be many at a time."""
        return AsyncItems(self._iterate(stream, self._follow))

    async def _iterate(
        self, stream: Stream, exchange: Callable[[Exchange], Awaitable[Replies]]
    ) -> AsyncGenerator[Any, None]:
        thread = _OwnThread()
        try:
            await self.prepare()
            step = next(stream)
            while True:
                try:
                    result: Any = None
                    if isinstance(step, Items):
                        for item in step.items:
                            yield item
                    elif type(step) is Exchange:
                        result = await exchange(step)
                    elif isinstance(step, Wait | WaitAny):
                        thread.give_back()  # of those who only wait there are many
                        result = await self._wait(step)
                    else:
                        result = await self._make(step, thread)
                except BaseException as error:  # noqa: BLE001 - as above
                    step = stream.throw(error)
                else:
                    step = stream.send(result)
        except StopIteration:
            return
        finally:
            stream.close()
            thread.give_back()

    @staticmethod
    async def _make(step: Step, thread: _OwnThread | None = None) -> Any:
        if type(step) is Call:
            return await (asyncio.to_thread(step.make) if thread is None else thread.run(step.make))
        if type(step) is Pause:
            return await asyncio.sleep(step.seconds)
        raise AssertionError(f"unreachable: {step!r:.80} is for streams, which are iterated over")
