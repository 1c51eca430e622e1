"""Connections of a client's pool, pinned between exchanges.

For each command redis-py takes a connection out of its pool, asks the operating system whether the server has
closed it, measures, and puts it back: a sixth of the time of an append, and more than half of that of a pipeline.
Exchanges that follow closely upon each other need none of that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from weakref import WeakSet, WeakValueDictionary

import redis

from runstream.operations.forks import starts_anew
from runstream.stores.redis.connection.client_settings import LEAST_CONNECTIONS, are_commands_watched
from runstream.stores.redis.connection.transactions import executed, in_transaction

__all__ = ["piped", "sender_of"]

_MOST = 16
"""So many connections of one pool are pinned at most, and half of those that it may have."""

_TRUSTED_SECONDS = 0.05
"""For how long a connection is taken to be open without checking."""


class _Holder:
    """A client that is bound to a pinned connection, and when that was last looked at (monotonic seconds)."""

    __slots__ = ("__weakref__", "checked", "client")

    def __init__(self, client: Any) -> None:
        self.client = client
        self.checked = 0.0


class _PinnedConnections:
    """Sends commands over pinned connections, or, while as many are in use as may be, as the client does.

    All stores over one pool share them: there are as many as were in use at once. They go back into the pool with
    the last of these stores, and also, closed, after every error but a reply of the server: a reply that is still
    on its way must never be taken for the reply to another command. For the same reason a connection is new when
    it is pinned.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._pool = client.connection_pool  # kept, so that no other pool gets its identity
        self._most = min(_MOST, self._pool.max_connections // 2)
        self._begin()
        starts_anew(self)

    def _begin(self) -> None:
        self._free: list[_Holder] = []  # those that are not in use
        # in use or not; an interrupt that loses one takes it out
        self._pinned: WeakSet[_Holder] = WeakSet()

    def _start_anew(self) -> None:
        """Pin none: those that are pinned are the parent's."""
        for holder in self._free:
            # it does not go back into the pool, and redis-py closes no more of it than this process's descriptor
            connection, holder.client.connection = holder.client.connection, None
            connection.disconnect()
        self._begin()

    def execute_command(self, *command: Any) -> Any:
        """Send a command whose reply redis-py leaves alone, and return or raise what the client would."""
        if (holder := self._take()) is None:
            return self._client.execute_command(*command)
        return self._exchanged(holder, partial(_reply_to, command=command))

    def execute_all(self, commands: Sequence[tuple[Any, ...]], *, atomic: bool) -> list[Any]:
        """Send such commands at once, and return or raise what a pipeline of the client would."""
        if (holder := self._take()) is None:
            return piped(self._client, commands, atomic=atomic)
        replies: list[Any] = self._exchanged(holder, partial(_replies_to, commands=commands, atomic=atomic))
        return replies

    def leave(self) -> None:
        """Connect anew for what comes next: the address may lead to another server by now."""
        left = []
        with suppress(IndexError):  # the others are in use
            while True:
                left.append(self._free.pop())  # as in _take
        for holder in left:
            holder.client.connection.disconnect()
            self._give_back(holder)

    def _take(self) -> _Holder | None:
        """A pinned connection; None while all that may be are in use."""
        try:
            return self._free.pop()  # one step, so threads need no lock
        except IndexError:
            return self._pin()

    def _exchanged(self, holder: _Holder, exchange: Callable[[Any], Any]) -> Any:
        connection = holder.client.connection
        try:
            now = time.monotonic()
            if now - holder.checked > _TRUSTED_SECONDS:
                holder.checked = now
                _close_if_unfit(connection)
            try:
                reply = exchange(connection)
            except (redis.RedisError, OSError) as error:  # the client's retries decide whether to send again
                reply = _retried(connection, exchange, error)
        except redis.ResponseError:
            self._give_back(holder)
            raise
        except BaseException:  # an interrupt is one too: the pool does not notice a reply that comes after it
            self._pinned.discard(holder)
            connection.disconnect()
            holder.client.close()
            raise
        self._give_back(holder)
        return reply

    def _give_back(self, holder: _Holder) -> None:
        if holder in self._pinned:
            self._free.append(holder)
        else:  # the process was forked meanwhile
            holder.client.close()

    def _pin(self) -> _Holder | None:
        """A new connection, or None if there are as many as may be.

        There is no lock: an interrupt could leave it locked, and a signal handler would wait at it for the thread
        that the signal interrupted. If several threads come at once, there may be a few more of them.
        """
        if len(self._pinned) >= self._most:
            return None
        holder = _Holder(self._client.client())
        holder.client.connection.disconnect()
        self._pinned.add(holder)
        return holder


def _reply_to(connection: Any, command: tuple[Any, ...]) -> Any:
    connection.send_packed_command(connection.pack_command(*command))
    return connection.read_response()


def _replies_to(connection: Any, commands: Sequence[tuple[Any, ...]], *, atomic: bool) -> list[Any]:
    commands = in_transaction(commands) if atomic else commands
    connection.send_packed_command(connection.pack_commands(commands))
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(connection.read_response())
        except redis.ResponseError as error:  # the replies after it are read, too
            replies.append(error)
    return executed(replies) if atomic else replies


def piped(client: Any, commands: Sequence[tuple[Any, ...]], *, atomic: bool) -> list[Any]:
    """The replies to commands that are sent at once in a pipeline of a client, errors among them.

    Args:
        client: The client.
        commands: The commands.
        atomic: Let nothing of anybody else's come between them.

    Raises:
        ResponseError: The server did not take a command, and so none, where they are ``atomic``.
    """
    with client.pipeline(transaction=atomic) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[Any] = pipeline.execute(raise_on_error=False)
        return replies


def _retried(connection: Any, exchange: Callable[[Any], Any], error: Exception) -> Any:
    """The reply after the client's own retries: the attempt that failed with this error was the first."""
    failed = [error]

    def attempt() -> Any:
        if failed:
            raise failed.pop()
        return exchange(connection)

    return connection.retry.call_with_retry(attempt, lambda _: connection.disconnect())


def _close_if_unfit(connection: Any) -> None:
    """Close a connection that the server has closed or moves elsewhere, or that has data to read.

    Its next use opens it again.
    """
    connection.connect()  # if the client has closed it; an error of this is no reason to connect once more
    is_to_move = getattr(connection, "should_reconnect", bool)  # redis-py has it from 7.0 on
    try:
        if not connection.can_read() and not is_to_move():
            return
    except (redis.RedisError, OSError):
        pass
    connection.disconnect()


_PINNED: WeakValueDictionary[int, _PinnedConnections] = WeakValueDictionary()
"""By the identity of the pool, which lives as long as its pinned connections."""


def sender_of(client: Any) -> Any:
    """What to send a client's commands with: pinned connections of its pool, or the client itself.

    A client or pool of another class than redis-py's plain ones may do more than take a connection, and commands
    may be traced or measured: such a client sends every command itself.
    """
    pool = client.connection_pool
    if (
        type(client) is not redis.Redis
        or type(pool) is not redis.ConnectionPool
        or pool.max_connections < LEAST_CONNECTIONS
        or client.connection is not None  # it has one of its own
        or "execute_command" in vars(client)
        or are_commands_watched(redis.Redis, redis.client)
        or pool.connection_kwargs.get("credential_provider") is not None  # new tokens reach what is given back
    ):
        return client
    return _PINNED.setdefault(id(pool), _PinnedConnections(client))
