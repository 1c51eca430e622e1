"""The followers' hub of a client: connections of its own, on which threads wait for all of its followers.

A follower that waits tells the hub after which entry of which stream, and sleeps. For each partition that is
followed one thread waits on one connection for all that is watched there
(:mod:`~runstream.stores.redis.connection.watched_streams`), wakes whom it concerns, and hands them the entries
that came, and where their run stands. For those who are busy meanwhile nothing is kept: they fetch it themselves,
over the client's pool, so that a slow one holds up nobody. A connection that fails wakes all of them: they find
out whether the server is there. A thread and its connection end when nobody has waited for a moment.

One XREAD has the streams of one partition and no others, as they lie in one slot of a cluster.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from redis import exceptions

from runstream.operations.forks import starts_anew
from runstream.operations.operation import News, Wait, WaitAny
from runstream.stores.redis.connection.client_settings import breaker_of, connection_beside
from runstream.stores.redis.connection.errors import is_passing
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

__all__ = [
    "FollowersHub",
    "Watch",
    "by_partition",
    "hub_of",
    "is_refusal",
    "most_sending",
    "raise_unexpected",
    "rest_seconds",
    "wait_in_any",
]

_MOST_SENDING = 8
_CLOSE_SECONDS = 2.0


def most_sending(pool: Any) -> int:
    """How many followers send at a time over a client's pool, so that it has connections for writers."""
    has = getattr(pool, "max_connections", None) or 2 * _MOST_SENDING
    return max(1, min(_MOST_SENDING, has // 2))


def rest_seconds(failures: int) -> float:
    """For how long to leave a server alone after so many failures in a row; followers look for themselves."""
    return min(1.0, 0.01 * 2.0**failures)


def by_partition(waiters: Iterable[Waiter]) -> dict[str, list[Waiter]]:
    """The waiters of each partition, by its hash tag."""
    found: dict[str, list[Waiter]] = {}
    for waiter in waiters:
        found.setdefault(hash_tag(waiter.wait.stream), []).append(waiter)
    return found


def raise_unexpected(waiters: Iterable[Waiter]) -> None:
    """Raise why nobody waits for these any more, if that is something that nobody expected."""
    for waiter in waiters:
        if waiter.error is not None:
            raise waiter.error


def is_refusal(error: Exception) -> bool:
    """Whether the server will not take the same question later either."""
    return isinstance(error, exceptions.ResponseError) and not is_passing(error)


class Watch:
    """One connection, and the thread that waits on it.

    Args:
        make: Makes the connection.
        look_seconds: How often to look at each run.
    """

    def __init__(self, make: Callable[[], Any], look_seconds: float) -> None:
        self._make = make
        self._look_seconds = look_seconds
        self._lock = threading.Lock()
        self._called = threading.Condition(self._lock)
        self._streams = WatchedStreams(look_seconds)
        self._thread: threading.Thread | None = None
        self._connection: Any = None
        self._break_off: Callable[[], None] | None = None
        self._is_broken_off = False
        self._ends_at = 0.0  # when the XREAD under way ends; 0 for none

    def wait(self, wait: Wait) -> News | None:
        """Wait in the caller's thread; see :meth:`FollowersHub.wait`."""
        sleeping = threading.Lock()
        sleeping.acquire()
        waiter = Waiter(wait, sleeping.release)
        try:
            with self._lock:
                if self._streams.join(waiter, time.monotonic()):
                    self._ask_anew()
            sleeping.acquire(timeout=-1 if wait.seconds is None else min(wait.seconds, threading.TIMEOUT_MAX))
        finally:
            with self._lock:
                self._streams.leave(waiter, time.monotonic())
        if waiter.error is not None:
            raise waiter.error
        if waiter.is_refused:
            raise RefusedTogether
        return waiter.news

    def join(self, waiters: Sequence[Waiter]) -> None:
        """Let these be woken, from now on."""
        now = time.monotonic()
        with self._lock:
            if self._streams.join_all(waiters, now):
                self._ask_anew()

    def leave(self, waiters: Sequence[Waiter]) -> None:
        """Let these be woken no more."""
        now = time.monotonic()
        with self._lock:
            for waiter in waiters:
                self._streams.leave(waiter, now)

    def _ask_anew(self) -> None:
        """Let the thread ask for a stream that has just come, soon if not at once."""
        if self._thread is None:
            thread = threading.Thread(target=self._serve, name="runstream-followers", daemon=True)
            thread.start()
            self._thread = thread
        elif self._ends_at - time.monotonic() > JOIN_SECONDS:
            self._interrupt()
        else:
            self._called.notify()

    def _interrupt(self) -> None:
        """Break off what is under way; the next thing is asked for over a new connection."""
        self._ends_at, self._is_broken_off = 0.0, True
        if self._break_off is not None:
            self._break_off()

    def _serve(self) -> None:
        """Wait for as long as there are followers, in a thread of its own."""
        error: BaseException | None = None
        connection: Any = None
        try:
            connection = self._connection = self._make()
            failures = 0
            while self._goes_on():
                failures = 0 if self._round_ends_well(connection) else failures + 1
                if failures:
                    with self._called:
                        self._called.wait_for(self._is_over, rest_seconds(failures))
        except BaseException as unexpected:  # noqa: BLE001 - every follower raises it
            error = unexpected
        finally:
            if connection is not None:
                connection.disconnect()
            with self._lock:
                if not self._is_over():
                    self._thread = None
                    self._streams.end(error=error)

    def _is_over(self) -> bool:
        """Whether this thread is to end, as the hub was closed."""
        return self._thread is not threading.current_thread()

    def _goes_on(self) -> bool:
        """Whether there is something to wait for, within a moment."""
        with self._called:
            if not self._streams:
                self._called.wait_for(lambda: self._streams or self._is_over(), IDLE_SECONDS)
            if self._streams and not self._is_over():
                return True
            if not self._is_over():
                self._thread = None
            return False

    def _round_ends_well(self, connection: Any) -> bool:
        """Ask once, and wake whom the replies concern; after a failure all. Returns False after a failure."""
        try:
            self._round(connection)
        except (exceptions.RedisError, OSError) as error:
            connection.disconnect()
            with self._lock:
                if self._is_broken_off:
                    self._is_broken_off = False
                    return True
                self._streams.end(is_refused=is_refusal(error))
            return False
        return True

    def _round(self, connection: Any) -> None:
        connection.connect()
        with self._lock:
            self._break_off = breaker_of(connection)
            longest = self._look_seconds if self._break_off is not None else JOIN_SECONDS
            question = self._streams.ask(time.monotonic(), longest)
            if question is None:
                return
            self._ends_at = time.monotonic() + question.seconds
        try:
            news, heads = self._replies(connection, question)
        finally:
            with self._lock:
                self._ends_at = 0.0
        with self._lock:
            self._streams.take_news(news, heads, time.monotonic())

    def _replies(self, connection: Any, question: Question) -> tuple[Sequence[Arrivals], Mapping[Look, Any]]:
        """Send what is to be asked, take the replies to the looks, return what is new and where its runs stand."""
        connection.send_packed_command(connection.pack_commands(question.commands), check_health=False)
        patience = 2 * self._look_seconds
        for look in question.looks:
            reply = _reply_or_error(connection, patience)
            with self._lock:
                self._streams.take_look(look, reply, time.monotonic())
        news = parse_news(_reply(connection, patience + question.seconds))
        heads = question.heads
        if news and not heads and (heads := self._locked_heads_of(news)):
            connection.send_packed_command(connection.pack_commands(commands_of(heads)), check_health=False)
        return news, {head: _reply_or_error(connection, patience) for head in heads}

    def _locked_heads_of(self, news: Sequence[Arrivals]) -> Sequence[Look]:
        with self._lock:
            return self._streams.heads_of(news)

    def start_anew(self) -> None:
        """Give up the connection, in a forked child: it is the parent's."""
        if self._connection is not None:
            with suppress(Exception):  # the parent's thread may have been in the midst of anything
                self._connection.disconnect()

    def close(self) -> None:
        """End the thread and the connection. Who waits is woken; who waits again begins anew."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._streams.end()
            self._interrupt()
            self._called.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_CLOSE_SECONDS)


def _reply(connection: Any, seconds: float) -> Any:
    if not connection.can_read(seconds):
        raise exceptions.TimeoutError("the server does not answer")
    return connection.read_response()


def _reply_or_error(connection: Any, seconds: float) -> Any:
    try:
        return _reply(connection, seconds)
    except exceptions.ResponseError as error:
        return error


def wait_in_any(watch_of: Callable[[str], Watch], wait: WaitAny) -> Mapping[int, News | None]:
    """Wait until there may be something new in one of several streams; what came, by the indexes of these.

    Args:
        watch_of: What waits for a partition, by its hash tag.
        wait: What to wait for.
    """
    woken: list[int] = []
    called = threading.Event()

    def wake(index: int) -> None:
        woken.append(index)
        called.set()

    waiters = [Waiter(one, partial(wake, index)) for index, one in enumerate(wait.waits)]
    together = [(watch_of(tag), group) for tag, group in by_partition(waiters).items()]
    try:
        for watch, group in together:
            watch.join(group)
        called.wait(None if wait.seconds is None else min(wait.seconds, threading.TIMEOUT_MAX))
    finally:
        for watch, group in together:
            watch.leave(group)
    raise_unexpected(waiters)
    return {index: waiters[index].news for index in woken}


class FollowersHub:
    """What the followers of one client wait in. Threads may share it.

    Args:
        client: A :class:`redis.Redis`.
        look_seconds: How often to look whether something is new that comes in no stream, and for how long the
            server blocks at most.
    """

    def __init__(self, client: Any, look_seconds: float) -> None:
        self._pool = client.connection_pool  # kept, so that no other pool gets its identity
        self._make = partial(connection_beside, client)
        self._look_seconds = look_seconds
        self._begin()
        starts_anew(self)

    def _begin(self) -> None:
        self.turn = threading.Semaphore(most_sending(self._pool))
        """What a follower is in while it sends."""
        self._watches: dict[str, Watch] = {}  # by the hash tag of the partition

    def _start_anew(self) -> None:
        """Begin anew: the threads stayed with the parent, and the connections are its own."""
        for watch in self._watches.values():
            watch.start_anew()
        self._begin()

    def wait(self, wait: Wait) -> News | None:
        """Wait until there may be something new in a stream.

        Returns:
            What has come, where it was brought.

        Raises:
            RefusedTogether: The server refused to wait for this stream and others.
        """
        return self.watch(hash_tag(wait.stream)).wait(wait)

    def wait_any(self, wait: WaitAny) -> Mapping[int, News | None]:
        """Wait until there may be something new in one of several streams; what came, by the indexes of these."""
        return wait_in_any(self.watch, wait)

    def watch(self, tag: str) -> Watch:
        """What waits for all that is followed of a partition, by its hash tag."""
        watch = self._watches.get(tag)
        if watch is None:
            # one step, if several threads come at once
            watch = self._watches.setdefault(tag, Watch(self._make, self._look_seconds))
        return watch

    def close(self) -> None:
        """End the threads and close the connections."""
        for watch in tuple(self._watches.values()):
            watch.close()


_HUBS: WeakValueDictionary[int, FollowersHub] = WeakValueDictionary()
"""By the identity of the pool, which lives as long as its hub."""


def hub_of(client: Any, look_seconds: float) -> FollowersHub:
    """The hub of all followers of a client; the stores over one pool share it."""
    return _HUBS.setdefault(id(client.connection_pool), FollowersHub(client, look_seconds))
