"""One connection that the tasks of an event loop share: what they ask in one turn of the loop takes few writes.

With a connection for each, as redis-py's pool gives it, every exchange costs a write, a read and several timers.
Here replies come in the order in which commands were written, and so each finds who asked. A task that is
cancelled gives up its own reply, and nothing of others. When the connection breaks, all who wait for a reply are
told: what became of their commands is unknown, as where connections of their own break, and each sends again in
its own way.

What may be long to write or to read goes over the pool; so does everything while many bytes are under way here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import redis.asyncio
from redis import exceptions

from runstream.operations.operation import Command, Exchange, Replies
from runstream.stores.redis.connection.client_settings import (
    LEAST_CONNECTIONS,
    are_commands_watched,
    connection_beside,
    let_go,
)
from runstream.stores.redis.connection.packing import packed
from runstream.stores.redis.connection.shared_link import CLOSED, UNASKED, Packed, SharedLink, Unsent
from runstream.stores.redis.connection.transactions import executed, in_transaction

__all__ = ["SharedConnection", "shared_connection_of"]

_LARGEST_BYTES = 65_536
"""An exchange of more bytes goes over the pool, where nobody waits for it to be written."""

_MOST_BYTES = 524_288
"""While commands of so many bytes are without a reply, what else is asked goes over the pool."""


class SharedConnection:
    """The connection that the tasks of one event loop share. It is opened when it is needed, and not there.

    Args:
        client: A :class:`redis.asyncio.Redis`, for its settings.
    """

    def __init__(self, client: Any) -> None:
        self._make = partial(connection_beside, client)
        self._link: SharedLink | None = None
        self._opening: asyncio.Task[SharedLink] | None = None

    @property
    def connections(self) -> list[Any]:
        """The connection that it has."""
        return [] if self._link is None else [self._link.connection]

    def pack(self, exchange: Exchange) -> Packed | None:
        """An exchange as it is sent here; None for one that goes over the pool."""
        if exchange.is_long:
            return None
        is_atomic = exchange.atomic and len(exchange.commands) > 1
        commands = in_transaction(exchange.commands) if is_atomic else exchange.commands
        try:
            content = b"".join(map(packed, commands))
        except (exceptions.DataError, UnicodeError):  # redis-py says so
            return None
        under_way = 0 if self._link is None else self._link.bytes_under_way
        if len(content) > _LARGEST_BYTES or under_way + len(content) > _MOST_BYTES:
            return None
        return Packed(content, len(commands), is_atomic)

    async def ask(self, asked: Packed) -> Replies:
        """Send an exchange, and give the replies, errors of the server among them.

        Raises:
            RedisError: The connection cannot be opened, or it broke.
            ResponseError: The server did not take a command of an atomic one, and so none.
        """
        replies = await self._sent(lambda link: link.ask(asked))
        return executed(replies) if asked.is_atomic else replies

    def takes(self, append: Command) -> bool:
        """Whether an append of one event goes here, rather than over the pool."""
        under_way = 0 if self._link is None else self._link.bytes_under_way
        size = len(append[-1])  # its record: what is beside it is short
        return size < _LARGEST_BYTES and under_way + size < _MOST_BYTES

    async def join(self, append: Command) -> Replies:
        """Send an append of one event together with others to its run, and give its reply.

        Raises:
            RedisError: As ``ask``.
        """
        return await self._sent(lambda link: link.join(append))

    async def _sent(self, send: Callable[[SharedLink], asyncio.Future[Replies]]) -> Replies:
        link = self._link
        if link is None or not link.is_taking:
            link = await self._opened()
        try:
            return await send(link)
        except Unsent:  # it was closed before, and nobody had noticed
            return await send(await self._opened())

    async def _opened(self) -> SharedLink:
        """The connection, opened if it is not; who waits for that may be cancelled, and others go on waiting."""
        if self._opening is None:
            if self._link is not None and self._link.is_taking:
                return self._link
            self._opening = asyncio.get_running_loop().create_task(self._open(), name="runstream-connecting")
            self._opening.add_done_callback(_heard)
        opening = self._opening
        await asyncio.wait([opening])
        if opening.cancelled():
            raise exceptions.ConnectionError("the store was closed meanwhile")
        link = opening.result()
        if not link.is_taking:
            raise exceptions.ConnectionError(CLOSED)
        return link

    async def _open(self) -> SharedLink:
        connection = self._make()
        try:
            await connection.connect()
            self._link = SharedLink(connection)
        except BaseException:
            let_go(connection)
            raise
        finally:
            self._opening = None
        return self._link

    async def close(self) -> None:
        """Close it; who waits for a reply gets an error. Who asks again opens it again."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        link, self._link = self._link, None
        if link is not None:
            link.end()


def _heard(opening: asyncio.Task[SharedLink]) -> None:
    """Let nobody complain of an error that nobody waits for any more."""
    if not opening.cancelled():
        opening.exception()


def shared_connection_of(client: Any) -> SharedConnection | None:
    """The connection that tasks share beside a client's pool; None where all goes over the pool.

    A pool of few connections gets none beside it. Commands may be traced or measured; new tokens, and looks
    whether the server is there, reach what lies in the pool. And what the server says unasked must be told from
    replies.
    """
    pool = client.connection_pool
    settings = pool.connection_kwargs
    if (
        UNASKED is None
        or pool.max_connections < LEAST_CONNECTIONS
        or are_commands_watched(redis.asyncio.Redis, redis.asyncio.client)
        or settings.get("credential_provider") is not None
        or settings.get("health_check_interval")
    ):
        return None
    return SharedConnection(client)
