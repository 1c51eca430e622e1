"""Run operations over redis-py: the only place that waits, sync or async.

A driver sends an exchange and gives back its replies. It turns redis-py's errors into ours, loads a
script that the server does not know, and leaves replies as the protocol brought them.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, TypeVar

import redis
import redis.asyncio
from redis import exceptions as errors
from redis.backoff import FullJitterBackoff

from runstream.model.errors import ConfigurationError, RunstreamError, StoreUnavailable
from runstream.stores.redis.connection.pinned_connection import sender_of
from runstream.stores.redis.exchange import (
    Command,
    Exchange,
    Items,
    Operation,
    Refusal,
    Replies,
    Script,
    Stream,
    script_of,
)

__all__ = ["AsyncDriver", "SyncDriver"]

T = TypeVar("T")

_LONGEST_BLOCK_SECONDS = 5.0

# refused for now: the server is there, but this node cannot serve it at this moment. Redis 6.2 wraps what a
# script is refused in a text of its own, so the text is looked at too.
_PASSING = (
    errors.ConnectionError,
    errors.TimeoutError,
    errors.BusyLoadingError,
    errors.ReadOnlyError,
    errors.ClusterDownError,
    errors.MasterDownError,
    errors.TryAgainError,
    OSError,
)
_PASSING_TEXT = re.compile(
    r"\b(LOADING|READONLY|CLUSTERDOWN|MASTERDOWN|TRYAGAIN|NOREPLICAS|BUSY|MISCONF|UNBLOCKED)\b"
)
_FULL_TEXT = re.compile(r"\bOOM\b|used memory > 'maxmemory'")


def _is_full(error: BaseException | None) -> bool:
    return isinstance(error, errors.OutOfMemoryError) or (
        isinstance(error, errors.ResponseError) and _FULL_TEXT.search(str(error)) is not None
    )


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, _PASSING) or (
        isinstance(error, errors.ResponseError) and _PASSING_TEXT.search(str(error)) is not None
    )


def _our_error(error: Exception) -> RunstreamError:
    """Ours in place of redis-py's."""
    if isinstance(error, errors.AuthenticationError):  # a ConnectionError too, but waiting does not help
        return ConfigurationError(f"the server refused the user name or password: {error}")
    if isinstance(error, errors.NoPermissionError):
        return ConfigurationError(f"the user has no permission for that: {error}")
    if isinstance(error, errors.MaxConnectionsError):
        return StoreUnavailable(
            "all connections of the client are in use: nothing was sent; give it a larger max_connections, or a"
            " pool that waits (redis.BlockingConnectionPool)"
        )
    if _is_full(error):
        return StoreUnavailable(
            f"the server is full ({error}); nothing was written: drain it, or give it more memory, and send again"
        )
    if isinstance(error, errors.ResponseError) and not _is_passing(error):
        return _refused(error)
    said = str(error).rstrip(".")
    return StoreUnavailable(f"cannot reach the server: {said}; it is safe to send the same call again")


def _refused(error: errors.ResponseError) -> RunstreamError:
    text = str(error)
    if isinstance(error, errors.AskError):  # MovedError is one too
        return ConfigurationError(
            f"the key lies at another node of a cluster ({text}), and this client knows one server only:"
            " use a server that is no cluster, or one node that has all slots"
        )
    if "WRONGTYPE" in text or "equal or smaller" in text:
        return ConfigurationError(
            f"a key of this namespace holds data of another program ({text}); use another namespace"
        )
    if "unknown command" in text and "HELLO" in text:
        return ConfigurationError(
            f"the server is older than Redis 6 ({text}); runstream needs Redis 6.2 or Valkey"
        )
    return ConfigurationError(f"the server refused a command: {text}")


def _unknown_script(command: Command) -> Script:
    script = script_of(command)
    if script is None:
        raise ConfigurationError(f"the server does not know a script that {command[0]!r} needs")
    return script


def _have_error(replies: Sequence[Any]) -> bool:
    for reply in replies:  # noqa: SIM110 - any() over a generator takes three times as long
        if isinstance(reply, errors.RedisError):
            return True
    return False


def _tolerated(replies: Replies, exchange: Exchange) -> Replies:
    """The replies, with refusals as values where they are tolerated and raised where not."""
    for index, reply in enumerate(replies):
        if isinstance(reply, errors.RedisError):
            # what passes is no refusal: the same commands will be taken a little later, or by another node
            if not exchange.tolerant or _is_passing(reply):
                raise reply
            replies[index] = Refusal(_our_error(reply))
    return replies


def _unknown_scripts(replies: Sequence[Any]) -> list[int]:
    return [index for index, reply in enumerate(replies) if isinstance(reply, errors.NoScriptError)]


def _block_seconds(client: Any) -> float:
    """How long a read of this client may block: well within its own timeout."""
    timeout = client.connection_pool.connection_kwargs.get("socket_timeout")
    return _LONGEST_BLOCK_SECONDS if timeout is None else min(_LONGEST_BLOCK_SECONDS, timeout / 2)


def _check_client(client: Any, retry_seconds: float) -> None:
    if not isinstance(retry_seconds, int | float) or not 0 <= retry_seconds < math.inf:
        raise ConfigurationError(f"retry_seconds={retry_seconds!r:.80}: pass seconds, 0 or more")
    if client.connection_pool.connection_kwargs.get("decode_responses"):
        raise ConfigurationError("the client has decode_responses=True; records are bytes: pass one without it")


class _Patience:
    """How long to wait before an exchange is sent again. Every exchange may be: appends know their batch."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._backoff = FullJitterBackoff(base=0.02, cap=0.5)
        self._failures = 0

    def pause(self, error: StoreUnavailable) -> float:
        """Seconds to wait. Raises the error where the deadline would pass, or waiting would not help."""
        if _is_full(error.__cause__):
            raise error
        self._failures += 1
        seconds: float = self._backoff.compute(self._failures)
        if time.monotonic() + seconds > self._deadline:
            raise error
        return seconds


class SyncDriver:
    """Runs operations over a :class:`redis.Redis`."""

    def __init__(self, client: redis.Redis, retry_seconds: float) -> None:
        _check_client(client, retry_seconds)
        self._client: Any = client  # redis-py's stubs cover neither names nor arguments as bytes
        self._sender = sender_of(client)
        self._process = os.getpid()
        self._retry_seconds = retry_seconds
        self.max_block_seconds = _block_seconds(client)
        self.after_fork: Callable[[], None] | None = None
        """What a forked process has to do before its first exchange."""

    def run(self, operation: Operation[T], *, once: bool = False) -> T:
        """The operation's result; with ``once``, an exchange that fails is not sent again."""
        exchange = self._exchange_once if once else self.exchange
        replies: Any = None
        try:
            while True:
                replies = exchange(operation.send(replies))
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            operation.close()  # now, not when its last reference goes: it notes what got no reply

    def iterate(self, stream: Stream) -> Iterator[Any]:
        """The stream's items, as they come."""
        replies: Any = None
        while True:
            try:
                step = stream.send(replies)
            except StopIteration:
                return
            if isinstance(step, Items):
                yield from step.items
                replies = None
            else:
                replies = self.exchange(step)

    def exchange(self, exchange: Exchange) -> Replies:
        """One round trip; sent again while the server cannot be reached, until the deadline has passed."""
        patience, began = None, time.monotonic()
        while True:
            try:
                return self._exchange_once(exchange)
            except StoreUnavailable as error:
                patience = patience or _Patience(began + self._retry_seconds)
                time.sleep(patience.pause(error))

    def _exchange_once(self, exchange: Exchange) -> Replies:
        """One round trip, and another for scripts that the server did not know."""
        if self.after_fork is not None and os.getpid() != self._process:
            self.after_fork()
            self._process = os.getpid()
        commands = exchange.commands
        try:
            if len(commands) == 1:
                try:
                    sender = self._sender if exchange.frequent else self._client
                    return [sender.execute_command(*commands[0])]
                except errors.ResponseError as error:
                    replies: Replies = [error]
            else:
                replies = self._send(commands, atomic=exchange.atomic)
                if not _have_error(replies):
                    return replies
            if unknown := _unknown_scripts(replies):
                for script in {_unknown_script(commands[index]) for index in unknown}:
                    self._client.execute_command(b"SCRIPT", b"LOAD", script.source)
                again = self._send([commands[index] for index in unknown], atomic=False)
                for index, reply in zip(unknown, again, strict=True):
                    replies[index] = reply
            return _tolerated(replies, exchange)
        except (errors.RedisError, OSError) as error:
            raise _our_error(error) from error

    def _send(self, commands: Sequence[Command], *, atomic: bool) -> Replies:
        with self._client.pipeline(transaction=atomic) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: Replies = pipeline.execute(raise_on_error=False)
            return replies

    def close(self) -> None:
        """Close the client's connections."""
        self._client.close()


class AsyncDriver:
    """Runs operations over a :class:`redis.asyncio.Redis`; line for line the sync one, awaited."""

    def __init__(self, client: redis.asyncio.Redis, retry_seconds: float) -> None:
        _check_client(client, retry_seconds)
        self._client: Any = client  # redis-py's stubs cover neither names nor arguments as bytes
        self._retry_seconds = retry_seconds
        self.max_block_seconds = _block_seconds(client)

    async def run(self, operation: Operation[T], *, once: bool = False) -> T:
        """The operation's result; with ``once``, an exchange that fails is not sent again."""
        exchange = self._exchange_once if once else self.exchange
        replies: Any = None
        try:
            while True:
                replies = await exchange(operation.send(replies))
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            operation.close()  # now, not when its last reference goes: it notes what got no reply

    async def iterate(self, stream: Stream) -> AsyncIterator[Any]:
        """The stream's items, as they come."""
        replies: Any = None
        while True:
            try:
                step = stream.send(replies)
            except StopIteration:
                return
            if isinstance(step, Items):
                for item in step.items:
                    yield item
                replies = None
            else:
                replies = await self.exchange(step)

    async def exchange(self, exchange: Exchange) -> Replies:
        """One round trip; sent again while the server cannot be reached, until the deadline has passed."""
        patience, began = None, time.monotonic()
        while True:
            try:
                return await self._exchange_once(exchange)
            except StoreUnavailable as error:
                patience = patience or _Patience(began + self._retry_seconds)
                await asyncio.sleep(patience.pause(error))

    async def _exchange_once(self, exchange: Exchange) -> Replies:
        """One round trip, and another for scripts that the server did not know."""
        commands = exchange.commands
        try:
            if len(commands) == 1:
                try:
                    return [await self._client.execute_command(*commands[0])]
                except errors.ResponseError as error:
                    replies: Replies = [error]
            else:
                replies = await self._send(commands, atomic=exchange.atomic)
                if not _have_error(replies):
                    return replies
            if unknown := _unknown_scripts(replies):
                for script in {_unknown_script(commands[index]) for index in unknown}:
                    await self._client.execute_command(b"SCRIPT", b"LOAD", script.source)
                again = await self._send([commands[index] for index in unknown], atomic=False)
                for index, reply in zip(unknown, again, strict=True):
                    replies[index] = reply
            return _tolerated(replies, exchange)
        except (errors.RedisError, OSError) as error:
            raise _our_error(error) from error

    async def _send(self, commands: Sequence[Command], *, atomic: bool) -> Replies:
        async with self._client.pipeline(transaction=atomic) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: Replies = await pipeline.execute(raise_on_error=False)
            return replies

    async def close(self) -> None:
        """Close the client's connections."""
        await self._client.aclose()
