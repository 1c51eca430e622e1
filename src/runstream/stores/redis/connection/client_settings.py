"""What is asked of a client of redis-py beyond sending commands: its timeout, its like, connections of our own.

And itself, after a fork.

What redis-py has no public name for is here and nowhere else; where another version has it not, it is left alone.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import FunctionType
from typing import Any

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from runstream.model.errors import ConfigurationError

__all__ = [
    "LEAST_CONNECTIONS",
    "abandon",
    "are_commands_watched",
    "breaker_of",
    "client_like",
    "connection_beside",
    "connections_of",
    "let_go",
    "own_settings",
    "renew_locks",
    "socket_timeout_of",
    "take_over",
    "unconnected",
]

LEAST_CONNECTIONS = 16
"""A pool that may have fewer connections has none to spare."""

# what a pool or a client of a cluster adds to the arguments of connections: one of the same settings adds its own
_OF_ITS_POOL = frozenset(
    {"event_dispatcher", "himport_registry", "maint_notifications_pool_handler"}
    | {"oss_cluster_maint_notifications_handler", "response_callbacks"}
)
_OWN_POOLS = (redis.asyncio.ConnectionPool, redis.asyncio.BlockingConnectionPool)
_LOCKS = (type(threading.Lock()), type(threading.RLock()))


def unconnected(client: Any) -> Any:
    """A connection as the client's pool makes them, which is not connected.

    Raises what redis-py raises at the first call for options that no connection takes.
    """
    pool = client.connection_pool
    return pool.connection_class(**pool.connection_kwargs)


def connection_beside(client: Any) -> Any:
    """A connection with the client's own settings that is none of its pool's, and tries everything once.

    Raises:
        ConfigurationError: The client's pool makes its connections in a way of its own.
    """
    try:
        connection = unconnected(client)
    except TypeError as error:
        raise ConfigurationError(
            f"followers need connections like those of the client's {type(client.connection_pool).__qualname__},"
            " and its connection_class does not take its connection_kwargs: pass a client with another pool"
        ) from error
    retry: Any = AsyncRetry if isinstance(client, redis.asyncio.Redis) else Retry
    connection.retry = retry(NoBackoff(), 0)
    return connection


def breaker_of(connection: Any) -> Callable[[], None] | None:
    """What breaks off a connection, sync or async, while a reply is waited for: the waiting fails at once.

    A thread other than the one that waits may call it. None for a connection without a socket (of fakeredis).
    """
    opened = getattr(connection, "_sock", None)
    if isinstance(opened, socket.socket):
        # of the base class: that of a TLS socket would take from the other thread what it reads with
        return partial(_shut_down, opened)
    transport = getattr(getattr(connection, "_writer", None), "transport", None)
    breaker: Callable[[], None] | None = getattr(transport, "abort", None)
    return breaker


def _shut_down(opened: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        socket.socket.shutdown(opened, socket.SHUT_RDWR)


def socket_timeout_of(client: Any) -> float | None:
    """For how many seconds the client waits for a reply; None: for ever.

    A connection is asked, as the pool's arguments lack what redis-py takes by default.
    """
    try:
        timeout: float | None = unconnected(client).socket_timeout
    except Exception:  # noqa: BLE001 - a pool of the caller's own may make its connections another way
        timeout = client.connection_pool.connection_kwargs.get("socket_timeout", 5.0)
    return timeout


def client_like(client: Any) -> Any:
    """A client for asyncio with the settings of another, and connections of its own.

    Raises:
        ConfigurationError: Its pool is of a class of the caller's own.
    """
    pool = client.connection_pool
    if type(pool) not in _OWN_POOLS:
        raise ConfigurationError(
            f"the client's {type(pool).__qualname__} serves the event loop that it was first used in, and no other"
            " can be made like it: open a store in this loop, or with runstream.connect_async(url)"
        )
    settings = own_settings(pool.connection_kwargs)
    if isinstance(pool, redis.asyncio.BlockingConnectionPool):
        settings["timeout"] = pool.timeout
    alike = type(pool)(connection_class=pool.connection_class, max_connections=pool.max_connections, **settings)
    is_plain = type(client).__init__ is redis.asyncio.Redis.__init__
    return (type(client) if is_plain else redis.asyncio.Redis)(connection_pool=alike)


def own_settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a caller has set of the arguments of connections: without what their pool has added."""
    return {
        name: value
        for name, value in arguments.items()
        if name not in _OF_ITS_POOL and not name.startswith("orig_")
    }


def renew_locks(client: Any) -> None:
    """Make the locks of a client's pool new, in a forked child: a thread of the parent may have held them.

    redis-py gives the pool new connections itself, when it sees that the process is another one.
    """
    pool = client.connection_pool
    parts = [part for part in (*vars(pool).values(), *pool.connection_kwargs.values()) if _is_of_redis(part)]
    for thing in (pool, *parts):
        for name, value in vars(thing).items():
            if isinstance(value, _LOCKS):
                setattr(thing, name, threading.RLock())


def take_over(
    connection: Any, protocol: asyncio.BufferedProtocol
) -> tuple[asyncio.Transport, Callable[[str], Exception]]:
    """Let a protocol have what comes over a connection for asyncio that was just connected.

    Args:
        connection: The connection, which is kept and given up by :func:`let_go`.
        protocol: The protocol.

    Returns:
        What to write to, and what makes an error of what the server says.

    Raises:
        ConnectionError: The server has said something of itself already, or has gone.
    """
    transport = connection._writer.transport
    if connection._reader._buffer or connection._reader.at_eof() or transport.is_closing():
        raise exceptions.ConnectionError("Connection closed by server.")
    transport.set_protocol(protocol)
    return transport, connection._parser.parse_error


def let_go(connection: Any) -> None:
    """Close a connection for asyncio at once, connected or not."""
    writer, connection._writer, connection._reader = connection._writer, None, None
    if writer is not None:
        writer.transport.abort()


def are_commands_watched(kind: Any, module: Any) -> bool:
    """Whether a tracer has replaced the method of a client by which it sends, or redis-py measures commands.

    Args:
        kind: The class of the client.
        module: redis-py's own module that has it.
    """
    execute: Any = kind.execute_command
    if type(execute) is not FunctionType or execute.__globals__ is not vars(module):
        return True
    measuring = sys.modules.get("redis.observability.providers")  # from 7.2 on redis-py imports it itself
    return measuring is not None and measuring.get_observability_instance().is_enabled()


def _is_of_redis(part: Any) -> bool:
    return type(part).__module__.partition(".")[0] == "redis" and hasattr(part, "__dict__")


def connections_of(client: Any) -> Iterable[Any]:
    """The connections that an asyncio client's pool has."""
    pool = client.connection_pool
    return (*getattr(pool, "_available_connections", ()), *getattr(pool, "_in_use_connections", ()))


def abandon(connections: Iterable[Any]) -> None:
    """Give up this process's part in asyncio connections, in a forked child, and send nothing.

    The descriptors go to the null device. Not closed: another file would get the number, and an event loop's
    epoll is the parent's too, from which closing a transport would take the parent's connection.
    """
    with suppress(OSError):
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            for number in _descriptors(connections):
                os.dup2(null, number, inheritable=False)
        finally:
            os.close(null)


def _descriptors(connections: Iterable[Any]) -> Iterator[int]:
    for connection in connections:
        writer = getattr(connection, "_writer", None)
        opened = None if writer is None else writer.get_extra_info("socket")
        if opened is not None and opened.fileno() >= 0:
            yield opened.fileno()
