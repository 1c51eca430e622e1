"""The followers' hub of an asyncio client; line for line as the sync one, with a task for each connection.

See :mod:`~runstream.stores.redis.connection.followers_hub`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from redis import exceptions

from runstream.operations.operation import News, Wait, WaitAny
from runstream.stores.redis.connection.client_settings import breaker_of, connection_beside
from runstream.stores.redis.connection.followers_hub import (
    by_partition,
    is_refusal,
    most_sending,
    raise_unexpected,
    rest_seconds,
)
from runstream.stores.redis.connection.watched_streams import (
    IDLE_SECONDS,
    JOIN_SECONDS,
    Arrivals,
    Look,
    Question,
    RefusedTogether,
    Waiter,
    WatchedStreams,
    commands_of,
)
from runstream.stores.redis.keys import hash_tag
from runstream.stores.redis.replies import parse_news

__all__ = ["AsyncFollowersHub", "Watch", "async_hub_of", "wait_in_any"]


class Watch:
    """One connection, and the task that waits on it.

    Args:
        make: Makes the connection.
        look_seconds: How often to look at each run.
    """

    def __init__(self, make: Callable[[], Any], look_seconds: float) -> None:
        self._make = make
        self._look_seconds = look_seconds
        self._called = asyncio.Event()
        self._streams = WatchedStreams(look_seconds)
        self._task: asyncio.Task[None] | None = None
        self.connection: Any = None
        self._break_off: Callable[[], None] | None = None
        self._is_broken_off = False
        self._ends_at = 0.0  # when the XREAD under way ends; 0 for none

    async def wait(self, wait: Wait) -> News | None:
        """Wait in the caller's task; see :meth:`AsyncFollowersHub.wait`."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = Waiter(wait, partial(_set, woken))
        if self._streams.join(waiter, time.monotonic()):
            self._ask_anew()
        try:
            await asyncio.wait([woken], timeout=wait.seconds)  # not wait_for, which may lose a cancellation
        finally:
            self._streams.leave(waiter, time.monotonic())
        if waiter.error is not None:
            raise waiter.error
        if waiter.is_refused:
            raise RefusedTogether
        return waiter.news

    def join(self, waiters: Sequence[Waiter]) -> None:
        """Let these be woken, from now on."""
        now = time.monotonic()
        if self._streams.join_all(waiters, now):
            self._ask_anew()

    def leave(self, waiters: Sequence[Waiter]) -> None:
        """Let these be woken no more."""
        now = time.monotonic()
        for waiter in waiters:
            self._streams.leave(waiter, now)

    def _ask_anew(self) -> None:
        """Let the task ask for a stream that has just come, soon if not at once."""
        if self._task is None or self._task.done():  # done if it was cancelled before it had begun
            self._task = asyncio.get_running_loop().create_task(self._serve(), name="runstream-followers")
        elif self._ends_at - time.monotonic() > JOIN_SECONDS:
            self._ends_at, self._is_broken_off = 0.0, True
            if self._break_off is not None:
                self._break_off()
        else:
            self._called.set()

    async def _serve(self) -> None:
        """Wait for as long as there are followers, in a task of its own."""
        error: BaseException | None = None
        connection: Any = None
        try:
            connection = self.connection = self._make()
            failures = 0
            # redis-py may lose a cancellation that comes just as a reply does
            while not _is_cancelled() and await self._goes_on():
                failures = 0 if await self._round_ends_well(connection) else failures + 1
                if failures:
                    await asyncio.sleep(rest_seconds(failures))
        except asyncio.CancelledError:  # as its loop ends, or the hub is closed: who waits nevertheless looks
            raise
        except BaseException as unexpected:  # noqa: BLE001 - every follower raises it
            error = unexpected
        finally:
            if self._task is asyncio.current_task():
                self._task = None
            self._streams.end(error=error)
            if connection is not None:
                await connection.disconnect(nowait=True)

    async def _goes_on(self) -> bool:
        """Whether there is something to wait for, within a moment."""
        if not self._streams:
            self._called.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(IDLE_SECONDS):
                    await self._called.wait()
        return bool(self._streams)

    async def _round_ends_well(self, connection: Any) -> bool:
        """Ask once, and wake whom the replies concern; after a failure all. Returns False after a failure."""
        try:
            await self._round(connection)
        except (exceptions.RedisError, OSError) as error:
            await connection.disconnect(nowait=True)
            if self._is_broken_off:
                self._is_broken_off = False
                return True
            self._streams.end(is_refused=is_refusal(error))
            return False
        return True

    async def _round(self, connection: Any) -> None:
        await connection.connect()
        self._break_off = breaker_of(connection)
        longest = self._look_seconds if self._break_off is not None else JOIN_SECONDS
        question = self._streams.ask(time.monotonic(), longest)
        if question is None:
            return
        self._ends_at = time.monotonic() + question.seconds
        try:
            news, heads = await self._replies(connection, question)
        finally:
            self._ends_at = 0.0
        self._streams.take_news(news, heads, time.monotonic())

    async def _replies(self, connection: Any, question: Question) -> tuple[Sequence[Arrivals], Mapping[Look, Any]]:
        """Send what is to be asked, take the replies to the looks, return what is new and where its runs stand."""
        await connection.send_packed_command(connection.pack_commands(question.commands), check_health=False)
        patience = 2 * self._look_seconds
        for look in question.looks:
            reply = await _reply_or_error(connection, patience)
            self._streams.take_look(look, reply, time.monotonic())
        news = parse_news(await _reply(connection, patience + question.seconds))
        heads = question.heads
        if news and not heads and (heads := self._streams.heads_of(news)):
            await connection.send_packed_command(connection.pack_commands(commands_of(heads)), check_health=False)
        return news, {head: await _reply_or_error(connection, patience) for head in heads}

    async def close(self) -> None:
        """End the task and the connection. Who waits is woken; who waits again begins anew."""
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.wait([task])
            self._streams.end()


async def _reply(connection: Any, seconds: float) -> Any:
    async with asyncio.timeout(seconds):  # with a timeout of its own, redis-py gives None
        return await connection.read_response(timeout=math.inf)


async def _reply_or_error(connection: Any, seconds: float) -> Any:
    try:
        return await _reply(connection, seconds)
    except exceptions.ResponseError as error:
        return error


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _set(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


async def wait_in_any(watch_of: Callable[[str], Watch], wait: WaitAny) -> Mapping[int, News | None]:
    """As the sync one; see :func:`~runstream.stores.redis.connection.followers_hub.wait_in_any`."""
    woken: list[int] = []
    called: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(index: int) -> None:
        woken.append(index)
        _set(called)

    waiters = [Waiter(one, partial(wake, index)) for index, one in enumerate(wait.waits)]
    together = [(watch_of(tag), group) for tag, group in by_partition(waiters).items()]
    try:
        for watch, group in together:
            watch.join(group)
        await asyncio.wait([called], timeout=wait.seconds)  # as above
    finally:
        for watch, group in together:
            watch.leave(group)
    raise_unexpected(waiters)
    return {index: waiters[index].news for index in woken}


class AsyncFollowersHub:
    """What the followers of one asyncio client wait in.

    Args:
        client: A :class:`redis.asyncio.Redis`.
        look_seconds: How often to look whether something is new that comes in no stream, and for how long the
            server blocks at most.
    """

    def __init__(self, client: Any, look_seconds: float) -> None:
        self._pool = client.connection_pool  # kept, so that no other pool gets its identity
        self._make = partial(connection_beside, client)
        self._look_seconds = look_seconds
        self.turn = asyncio.Semaphore(most_sending(self._pool))
        """What a follower is in while it sends."""
        self._watches: dict[str, Watch] = {}  # by the hash tag of the partition

    @property
    def connections(self) -> list[Any]:
        """The connections that it has."""
        return [watch.connection for watch in self._watches.values() if watch.connection]

    async def wait(self, wait: Wait) -> News | None:
        """Wait until there may be something new in a stream.

        Returns:
            What has come, where it was brought.

        Raises:
            RefusedTogether: The server refused to wait for this stream and others.
        """
        return await self.watch(hash_tag(wait.stream)).wait(wait)

    async def wait_any(self, wait: WaitAny) -> Mapping[int, News | None]:
        """Wait until there may be something new in one of several streams; what came, by the indexes of these."""
        return await wait_in_any(self.watch, wait)

    def watch(self, tag: str) -> Watch:
        """What waits for all that is followed of a partition, by its hash tag."""
        watch = self._watches.get(tag)
        if watch is None:
            watch = self._watches[tag] = Watch(self._make, self._look_seconds)
        return watch

    async def close(self) -> None:
        """End the tasks and close the connections."""
        for watch in tuple(self._watches.values()):
            await watch.close()


_HUBS: WeakValueDictionary[tuple[int, asyncio.AbstractEventLoop], AsyncFollowersHub] = WeakValueDictionary()
"""By the identity of the pool, which lives as long as its hub, and by the loop."""


def async_hub_of(client: Any, look_seconds: float) -> AsyncFollowersHub:
    """The hub of all followers of a client in the loop that runs; the stores over one pool share it."""
    key = id(client.connection_pool), asyncio.get_running_loop()
    return _HUBS.setdefault(key, AsyncFollowersHub(client, look_seconds))
