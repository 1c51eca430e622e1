"""One connection of a client's pool, held between calls.

redis-py takes a connection out of its pool for each command, asks the system whether the server has closed it, and
puts it back: a tenth of what an append takes. Calls that follow closely upon each other need none of that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
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
        self._used = 0.0
        self._process = os.getpid()  # the last: by it, other threads see that the rest is this process's

    def execute_command(self, *command: Any) -> Any:
        """As the client's own."""
        if os.getpid() != self._process:
            self._start_anew()  # the connection is the parent's
        try:
            holder = self._free.pop()  # one step, so threads need no lock
        except IndexError:
            holder = self._hold()
            if holder is None:
                return self._client.execute_command(*command)
        try:
            now = time.monotonic()
            if now - self._used > _TRUSTED_SECONDS:
                _reconnect_if_closed(holder.connection)
            self._used = now
            reply = holder.execute_command(*command)
        except redis.ResponseError:
            self._give_back(holder)
            raise
        except BaseException:  # an interrupt is one too: the pool's look does not see a reply that comes after it
            self._held = _nothing
            holder.connection.disconnect()
            holder.close()
            raise
        if self._held() is holder:  # as in _give_back
            self._free.append(holder)
        else:
            holder.close()
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


def _reconnect_if_closed(connection: Any) -> None:
    """Close a connection that the server has closed, or that has data to read: its next use opens it again."""
    connection.connect()  # if the client has closed it; what this raises is no reason to connect once more
    try:
        if not connection.can_read():
            return
    except (redis.RedisError, OSError):
        pass
    connection.disconnect()


_HELD: WeakValueDictionary[int, _HeldConnection] = WeakValueDictionary()
"""By the identity of the pool, which is there as long as what holds its connection."""


def sender_of(client: Any) -> Any:
    """What sends a client's frequent commands: itself, or, of a plain one, a connection of its pool that is held.

    A client or pool of another class may do more than take a connection: it is asked for each command.
    """
    pool = client.connection_pool
    if (
        type(client) is not redis.Redis
        or type(pool) is not redis.ConnectionPool
        or pool.max_connections < _LEAST_CONNECTIONS
        or client.connection is not None  # it holds one itself
        or "execute_command" in vars(client)
        or pool.connection_kwargs.get("credential_provider") is not None  # new tokens reach what is given back
    ):
        return client
    return _HELD.setdefault(id(pool), _HeldConnection(client))
