"""Send exchanges until the server takes them: retries over a transport, sync and async.

Every exchange may be sent again: an append carries its producer's number, so that it is applied once, and all else
leaves the same state however often it is sent.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext

from redis.backoff import FullJitterBackoff

from runstream.model.errors import ConfigurationError, StoreUnavailable
from runstream.model.identifiers import shown
from runstream.operations.forks import starts_anew
from runstream.operations.operation import Exchange, Replies, Resent, Wait, WaitAny, Waited, sent_again
from runstream.stores.redis.connection.errors import is_full
from runstream.stores.redis.connection.transport import AsyncTransport, Transport
from runstream.stores.redis.connection.watched_streams import RefusedTogether, news_query

__all__ = ["DEFAULT_RETRY_SECONDS", "AsyncDriver", "SyncDriver"]

DEFAULT_RETRY_SECONDS = 5.0
"""For how long an exchange is sent again while the server cannot be reached."""

_LONGEST_AFTER = 10  # failures: the pauses grow no further
_AT_ONCE: nullcontext[None] = nullcontext()


class _Backoff:
    """The pauses before an exchange is sent again: growing, with full jitter, up to a deadline."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._backoff = FullJitterBackoff(base=0.02, cap=0.5)
        self._failures = 0

    def pause(self, error: StoreUnavailable) -> float:
        """Seconds to wait. Raises the error if the deadline would pass, or waiting would not help."""
        if is_full(error.__cause__):
            raise error
        self._failures = min(self._failures + 1, _LONGEST_AFTER)  # redis-py computes 2.0 to the power of it
        seconds: float = self._backoff.compute(self._failures)
        if time.monotonic() + seconds > self._deadline:
            raise error
        return seconds


def _check_retry_seconds(retry_seconds: float) -> None:
    if not isinstance(retry_seconds, int | float) or not 0 <= retry_seconds < math.inf:
        raise ConfigurationError(f"retry_seconds={shown(retry_seconds)}: pass seconds, 0 or more")


class SyncDriver:
    """Sends exchanges over a transport, and again while the server cannot be reached.

    Args:
        transport: Sends an exchange once.
        retry_seconds: For how many seconds an exchange is sent again; 0: not at all.

    Raises:
        ConfigurationError: ``retry_seconds`` is no such number.
    """

    def __init__(self, transport: Transport, retry_seconds: float) -> None:
        _check_retry_seconds(retry_seconds)
        self._transport = transport
        self._retry_seconds = retry_seconds
        self.after_fork: Callable[[], None] | None = None
        """Called in a forked process before its first exchange."""
        self._join: Callable[[], None] | None = None
        starts_anew(self)

    def _start_anew(self) -> None:
        """Join the server as a user of its own, at the first exchange: a fork may be idle for ever."""
        self._join = self.after_fork

    def exchange(self, exchange: Exchange, turn: AbstractContextManager[object] = _AT_ONCE) -> Replies:
        """One round trip; sent again while the server cannot be reached, until the deadline has passed.

        Args:
            exchange: What to send.
            turn: Entered for each try.

        Returns:
            The replies; :class:`Resent` if it was sent more than once.
        """
        backoff, began = None, time.monotonic()
        while True:
            try:
                with turn:
                    replies = self.exchange_once(exchange)
                return Resent(replies) if backoff else replies
            except StoreUnavailable as error:
                backoff = backoff or _Backoff(began + self._retry_seconds)
                time.sleep(backoff.pause(error))
                exchange = sent_again(exchange, error)

    def follow(self, exchange: Exchange) -> Replies:
        """As ``exchange``, for a follower: few of them send at a time, as a writer needs connections, too."""
        return self.exchange(exchange, self._transport.turn())

    def wait(self, wait: Wait | WaitAny) -> Waited:
        """Wait until there may be something new in a stream, or in one of several: in those with these indexes."""
        if isinstance(wait, WaitAny):
            return self._transport.wait_any(wait)
        try:
            return self._transport.wait(wait)
        except RefusedTogether:  # of those one may be the reason
            self.follow(Exchange([news_query(wait)]))
            return None

    def exchange_once(self, exchange: Exchange) -> Replies:
        """One round trip. Every exchange of a store passes here."""
        if (join := self._join) is not None:
            join()
            self._join = None
        return self._transport.exchange(exchange)


class AsyncDriver:
    """Sends exchanges over an async transport, and again while the server cannot be reached.

    Args:
        transport: Sends an exchange once.
        retry_seconds: For how many seconds an exchange is sent again; 0: not at all.

    Raises:
        ConfigurationError: ``retry_seconds`` is no such number.
    """

    def __init__(self, transport: AsyncTransport, retry_seconds: float) -> None:
        _check_retry_seconds(retry_seconds)
        self._transport = transport
        self._retry_seconds = retry_seconds
        self.after_fork: Callable[[], None] | None = None
        """Called in a forked process before its first exchange, in a thread."""
        self._join: Callable[[], None] | None = None
        starts_anew(self)

    def _start_anew(self) -> None:
        """Join the server as a user of its own, at the first exchange: a fork may be idle for ever."""
        self._join = self.after_fork

    async def exchange(self, exchange: Exchange, turn: AbstractAsyncContextManager[object] = _AT_ONCE) -> Replies:
        """One round trip; sent again while the server cannot be reached, until the deadline has passed.

        Args:
            exchange: What to send.
            turn: Entered for each try.

        Returns:
            The replies; :class:`Resent` if it was sent more than once.
        """
        backoff, began = None, time.monotonic()
        while True:
            try:
                async with turn:
                    replies = await self.exchange_once(exchange)
                return Resent(replies) if backoff else replies
            except StoreUnavailable as error:
                backoff = backoff or _Backoff(began + self._retry_seconds)
                await asyncio.sleep(backoff.pause(error))
                exchange = sent_again(exchange, error)

    async def follow(self, exchange: Exchange) -> Replies:
        """As ``exchange``, for a follower: few of them send at a time, as a writer needs connections, too."""
        return await self.exchange(exchange, await self._transport.turn())

    async def wait(self, wait: Wait | WaitAny) -> Waited:
        """Wait until there may be something new in a stream, or in one of several: in those with these indexes."""
        if isinstance(wait, WaitAny):
            return await self._transport.wait_any(wait)
        try:
            return await self._transport.wait(wait)
        except RefusedTogether:  # of those one may be the reason
            await self.follow(Exchange([news_query(wait)]))
            return None

    async def exchange_once(self, exchange: Exchange) -> Replies:
        """One round trip. Every exchange of a store passes here."""
        if (join := self._join) is not None:
            await asyncio.to_thread(join)
            self._join = None
        return await self._transport.exchange(exchange)
