"""One connection of a client's pool, held between appends.

For each command redis-py takes a connection out of its pool, asks the system whether the server has closed it,
measures, and puts it back: a sixth of what an append takes. Appends that follow closely upon each other need none
of that.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import FunctionType
from typing import Any
from weakref import WeakValueDictionary, ref

import redis

__all__ = ["sender_of"]

_TRUSTED_SECONDS = 0.05
"""For how long a connection is taken to be open without a look at it."""

_LEAST_CONNECTIONS = 16
"""A pool that may have fewer has none to spare."""


class _HeldConnection:
    """Sends commands over the held connection, or, while that is in use, as the client does.

    All stores over one pool share it, so that together they hold one connection. It goes back into the pool with
    the last of them, or, closed, after any error but what the server replies: a reply that is on its way still
    must never be taken for another's. What begins to be held is a new connection for the same reason.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._pool = client.connection_pool  # kept, so that no other pool gets its identity
        self._start_anew()

    def _start_anew(self) -> None:
        self._free: list[Any] = []  # the one, by the client that is bound to it, while it is not in use
        self._held: Callable[[], Any] = _nothing  # the one, in use or not; what an interrupt has lost is none
        self._looked = 0.0
        self._process = os.getpid()  # the last: by it, other threads see that the rest is this process's

    def execute_command(self, *command: Any) -> Any:
        """As the client's own, of a command to whose reply redis-py does nothing."""
        if os.getpid() != self._process:
            self._start_anew()  # the connection is the parent's
        try:
            holder = self._free.pop()  # one step, so threads need no lock
        except IndexError:
            holder = self._hold()
            if holder is None:
                return self._client.execute_command(*command)
        connection = holder.connection
        try:
            now = time.monotonic()
            if now - self._looked > _TRUSTED_SECONDS:
                self._looked = now
                _close_if_unfit(connection)
            try:
                reply = _reply_to(connection, command)
            except (
                redis.RedisError,
                OSError,
            ) as error:  # whether it is to be sent again, the client's retries know
                reply = _retried(connection, command, error)
        except redis.ResponseError:
            self._give_back(holder)
            raise
        except BaseException:  # an interrupt is one too: the pool's look does not see a reply that comes after it
            self._held = _nothing
            connection.disconnect()
            holder.close()
            raise
        self._give_back(holder)
        return reply

    def _give_back(self, holder: Any) -> None:
        if self._held() is holder:
            self._free.append(holder)
        else:  # another thread's is held by now
            holder.close()

    def _hold(self) -> Any:
        """A connection to hold, or None if there is one, which is in use.

        There is no lock, which an interrupt could leave locked, and at which a signal's handler would wait for the
        thread that it interrupts. Of threads that come at once, one's connection stays held.
        """
        if self._held() is not None:
            return None
        holder = self._client.client()
        holder.connection.disconnect()
        if self._held() is None:
            self._held = ref(holder)
        return holder


def _nothing() -> None:
    """As a reference to what is gone."""


def _reply_to(connection: Any, command: tuple[Any, ...]) -> Any:
    connection.send_command(*command)
    return connection.read_response()


def _retried(connection: Any, command: tuple[Any, ...], error: Exception) -> Any:
    """The reply, by the client's retries, of whose attempts the one that failed with this error was the first."""
    failed = [error]

    def attempt() -> Any:
        if failed:
            raise failed.pop()
        return _reply_to(connection, command)

    return connection.retry.call_with_retry(attempt, lambda _: connection.disconnect())


def _close_if_unfit(connection: Any) -> None:
    """Close a connection that the server has closed or moves elsewhere, or that has data to read.

    Its next use opens it again.
    """
    connection.connect()  # if the client has closed it; what this raises is no reason to connect once more
    is_to_move = getattr(connection, "should_reconnect", bool)  # redis-py has it from 7.0 on
    try:
        if not connection.can_read() and not is_to_move():
            return
    except (redis.RedisError, OSError):
        pass
    connection.disconnect()


_HELD: WeakValueDictionary[int, _HeldConnection] = WeakValueDictionary()
"""By the identity of the pool, which is there as long as what holds its connection."""


def sender_of(client: Any) -> Any:
    """What sends a client's frequent commands: itself, or, of a plain one, a connection of its pool that is held.

    A client or pool of another class may do more than take a connection, and a command may be traced or measured:
    such a client is asked for each command.
    """
    pool = client.connection_pool
    if (
        type(client) is not redis.Redis
        or type(pool) is not redis.ConnectionPool
        or pool.max_connections < _LEAST_CONNECTIONS
        or client.connection is not None  # it holds one itself
        or "execute_command" in vars(client)
        or _are_commands_watched()
        or pool.connection_kwargs.get("credential_provider") is not None  # new tokens reach what is given back
    ):
        return client
    return _HELD.setdefault(id(pool), _HeldConnection(client))


def _are_commands_watched() -> bool:
    """Whether a tracer has put itself in the place of redis-py's own, or redis-py measures for OpenTelemetry."""
    execute: Any = redis.Redis.execute_command
    if type(execute) is not FunctionType or execute.__globals__ is not vars(redis.client):
        return True
    measuring = sys.modules.get("redis.observability.providers")  # from 7.2 on redis-py imports it itself
    return measuring is not None and measuring.get_observability_instance().is_enabled()
