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
from collections import deque
from functools import partial
from typing import Any, NamedTuple

import hiredis
import redis.asyncio
from redis import exceptions

from runstream.operations.operation import Exchange, Replies
from runstream.stores.redis.connection.client_settings import (
    LEAST_CONNECTIONS,
    are_commands_watched,
    connection_beside,
    let_go,
    take_over,
)
from runstream.stores.redis.connection.errors import is_of_replica
from runstream.stores.redis.connection.packing import packed
from runstream.stores.redis.connection.transactions import executed, in_transaction

__all__ = ["SharedConnection", "shared_connection_of"]

_LARGEST_BYTES = 65_536
"""An exchange of more bytes goes over the pool, where nobody waits for it to be written."""

_MOST_BYTES = 524_288
"""While commands of so many bytes are without a reply, what else is asked goes over the pool."""

_AT_ONCE = 8
"""So many exchanges are written before the turn ends: the server works on them while tasks make the next ones."""

_BUFFER_BYTES = 65_536
_NOT_YET = object()
_UNASKED = getattr(hiredis, "PushNotification", None)  # hiredis has it from 3.2 on
_CLOSED = "Connection closed by server."


class _Unsent(exceptions.ConnectionError):
    """The connection was closed before anything of this was written."""


class Packed(NamedTuple):
    """An exchange as bytes.

    Attributes:
        content: What is sent.
        replies: How many replies it has.
        is_atomic: Whether it is a transaction.
    """

    content: bytes
    replies: int
    is_atomic: bool


class _Asked(NamedTuple):
    """What was asked, the replies that have come, and what waits for all of them."""

    packed: Packed
    replies: Replies
    waits: asyncio.Future[Replies]


class _Link(asyncio.BufferedProtocol):
    """The connection while it is open: writes commands, and hands on their replies.

    Args:
        connection: A connection of redis-py that is connected, and that nobody else uses.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.is_taking = True
        """Whether it takes further exchanges."""
        self.bytes_under_way = 0
        self._loop = asyncio.get_running_loop()
        self._unwritten: list[_Asked] = []
        self._unanswered: deque[_Asked] = deque()
        self._buffer = bytearray(_BUFFER_BYTES)
        self._patience: float | None = connection.socket_timeout
        self._heard_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._transport, error_of = take_over(connection, self)
        self._replies: Any = hiredis.Reader(
            protocolError=exceptions.InvalidResponse, replyError=error_of, notEnoughData=_NOT_YET
        )

    def ask(self, asked: Packed) -> asyncio.Future[Replies]:
        """Send an exchange, with what others ask in this turn of the loop; gives the replies."""
        waits: asyncio.Future[Replies] = self._loop.create_future()
        self._unwritten.append(_Asked(asked, [], waits))
        self.bytes_under_way += len(asked.content)
        if len(self._unwritten) == 1:
            self._loop.call_soon(self._write)
        elif len(self._unwritten) == _AT_ONCE:
            self._write()
        return waits

    def _write(self) -> None:
        unwritten, self._unwritten = self._unwritten, []
        written = [asked for asked in unwritten if not asked.waits.done()]
        if len(written) < len(unwritten):  # who was cancelled before anything was sent
            self.bytes_under_way -= sum(len(asked.packed.content) for asked in unwritten if asked.waits.done())
        if written:
            if not self._unanswered:
                self._begin_to_wait()
            self._unanswered.extend(written)
            self._transport.write(b"".join([asked.packed.content for asked in written]))

    # -- what comes ------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - asyncio's
        """Where to put what has come."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what has come, and hand on the replies that are whole."""
        self._heard_at = self._loop.time()
        replies, unanswered = self._replies, self._unanswered
        try:
            replies.feed(self._buffer, 0, nbytes)
            while (reply := replies.gets()) is not _NOT_YET:
                if type(reply) is _UNASKED:  # the server is about to move, or to close
                    self.is_taking = False
                    continue
                if is_of_replica(reply):
                    self.is_taking = False  # whoever asks again may find the primary elsewhere
                asked = unanswered[0]
                asked.replies.append(reply)
                if len(asked.replies) == asked.packed.replies:
                    unanswered.popleft()
                    self.bytes_under_way -= len(asked.packed.content)
                    if not asked.waits.done():
                        asked.waits.set_result(asked.replies)
        except (exceptions.InvalidResponse, IndexError) as error:  # no protocol, or what nobody has asked
            self.end(said=f"what the server sends is no reply: {error}")
        if not self.is_taking and not unanswered and not self._unwritten:
            self.end()

    def eof_received(self) -> None:
        """The server has closed it."""
        self.end()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whomever."""
        self.end(said=_CLOSED if exc is None else f"{_CLOSED.rstrip('.')}: {exc}")

    def end(self, kind: type[Exception] = exceptions.ConnectionError, said: str = _CLOSED) -> None:
        """Close it; each who waits for a reply gets an error of this kind."""
        self.is_taking = False
        if self._timer is not None:
            self._timer.cancel()
        for asked in self._unanswered:
            if not asked.waits.done():
                asked.waits.set_exception(kind(said))
        for asked in self._unwritten:
            if not asked.waits.done():
                asked.waits.set_exception(_Unsent(_CLOSED))
        self._unanswered.clear()
        self._unwritten.clear()
        let_go(self.connection)

    # -- how long to wait ------------------------------------------------------------------------------

    def _begin_to_wait(self) -> None:
        self._heard_at = self._loop.time()
        if self._patience is not None and self._timer is None:
            self._timer = self._loop.call_later(self._patience, self._look)

    def _look(self) -> None:
        """Whether the server has said anything for as long as redis-py would wait for a reply."""
        assert self._patience is not None, "unreachable: there is no timer then"  # noqa: S101 - for mypy
        self._timer = None
        if not self._unanswered:
            return
        left = self._heard_at + self._patience - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self.end(exceptions.TimeoutError, "Timeout reading from the server")


class SharedConnection:
    """The connection that the tasks of one event loop share. It is opened when it is needed, and not there.

    Args:
        client: A :class:`redis.asyncio.Redis`, for its settings.
    """

    def __init__(self, client: Any) -> None:
        self._make = partial(connection_beside, client)
        self._link: _Link | None = None
        self._opening: asyncio.Task[_Link] | None = None

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
        link = self._link
        if link is None or not link.is_taking:
            link = await self._opened()
        try:
            replies = await link.ask(asked)
        except _Unsent:  # it was closed before, and nobody had noticed
            replies = await (await self._opened()).ask(asked)
        return executed(replies) if asked.is_atomic else replies

    async def _opened(self) -> _Link:
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
            raise exceptions.ConnectionError(_CLOSED)
        return link

    async def _open(self) -> _Link:
        connection = self._make()
        try:
            await connection.connect()
            self._link = _Link(connection)
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


def _heard(opening: asyncio.Task[_Link]) -> None:
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
        _UNASKED is None
        or pool.max_connections < LEAST_CONNECTIONS
        or are_commands_watched(redis.asyncio.Redis, redis.asyncio.client)
        or settings.get("credential_provider") is not None
        or settings.get("health_check_interval")
    ):
        return None
    return SharedConnection(client)
