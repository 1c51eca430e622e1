"""One server, over a client of redis-py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis
import redis.asyncio
from redis import exceptions

from runstream.model.errors import ConfigurationError
from runstream.operations.operation import Command, Exchange, Refusal, Replies
from runstream.stores.redis.connection.errors import is_passing, translate
from runstream.stores.redis.connection.pinned_connection import sender_of
from runstream.stores.redis.scripts.script import Script, script_of

__all__ = ["AsyncSingleServerTransport", "SingleServerTransport"]

_LONGEST_BLOCK_SECONDS = 5.0


def _check_client(client: Any) -> None:
    if client.connection_pool.connection_kwargs.get("decode_responses"):
        raise ConfigurationError("the client has decode_responses=True; records are bytes: pass one without it")


class SingleServerTransport:
    """Sends to one server over a :class:`redis.Redis`; frequent exchanges over a connection that it pins."""

    def __init__(self, client: redis.Redis) -> None:
        _check_client(client)
        self._client: Any = client  # redis-py's stubs cover neither names nor arguments as bytes
        self._sender = sender_of(client)
        self.max_block_seconds = _block_seconds(client)

    def exchange(self, exchange: Exchange) -> Replies:
        """Send an exchange once; see :meth:`Transport.exchange`."""
        commands = exchange.commands
        try:
            if len(commands) == 1:
                try:
                    sender = self._sender if exchange.frequent else self._client
                    return [sender.execute_command(*commands[0])]
                except exceptions.ResponseError as error:
                    replies: Replies = [error]
            else:
                replies = self._send(commands, atomic=exchange.atomic)
                if not _have_error(replies):
                    return replies
            if unknown := _unknown_scripts(replies):
                for script in {_script(commands[index]) for index in unknown}:
                    self._client.execute_command(b"SCRIPT", b"LOAD", script.source)
                again = self._send([commands[index] for index in unknown], atomic=False)
                for index, reply in zip(unknown, again, strict=True):
                    replies[index] = reply
            return _tolerated(replies, exchange)
        except (exceptions.RedisError, OSError) as error:
            raise translate(error) from error

    def _send(self, commands: Sequence[Command], *, atomic: bool) -> Replies:
        with self._client.pipeline(transaction=atomic) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: Replies = pipeline.execute(raise_on_error=False)
            return replies

    def close(self) -> None:
        """Close the client's connections."""
        self._client.close()


class AsyncSingleServerTransport:
    """Sends to one server over a :class:`redis.asyncio.Redis`; line for line as the sync one."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        _check_client(client)
        self._client: Any = client  # redis-py's stubs cover neither names nor arguments as bytes
        self.max_block_seconds = _block_seconds(client)

    async def exchange(self, exchange: Exchange) -> Replies:
        """Send an exchange once; see :meth:`Transport.exchange`."""
        commands = exchange.commands
        try:
            if len(commands) == 1:
                try:
                    return [await self._client.execute_command(*commands[0])]
                except exceptions.ResponseError as error:
                    replies: Replies = [error]
            else:
                replies = await self._send(commands, atomic=exchange.atomic)
                if not _have_error(replies):
                    return replies
            if unknown := _unknown_scripts(replies):
                for script in {_script(commands[index]) for index in unknown}:
                    await self._client.execute_command(b"SCRIPT", b"LOAD", script.source)
                again = await self._send([commands[index] for index in unknown], atomic=False)
                for index, reply in zip(unknown, again, strict=True):
                    replies[index] = reply
            return _tolerated(replies, exchange)
        except (exceptions.RedisError, OSError) as error:
            raise translate(error) from error

    async def _send(self, commands: Sequence[Command], *, atomic: bool) -> Replies:
        async with self._client.pipeline(transaction=atomic) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: Replies = await pipeline.execute(raise_on_error=False)
            return replies

    async def close(self) -> None:
        """Close the client's connections."""
        await self._client.aclose()


def _block_seconds(client: Any) -> float:
    timeout = client.connection_pool.connection_kwargs.get("socket_timeout")
    return _LONGEST_BLOCK_SECONDS if timeout is None else min(_LONGEST_BLOCK_SECONDS, timeout / 2)


def _have_error(replies: Sequence[Any]) -> bool:
    for reply in replies:  # noqa: SIM110 - any() over a generator takes three times as long
        if isinstance(reply, exceptions.RedisError):
            return True
    return False


def _unknown_scripts(replies: Sequence[Any]) -> list[int]:
    """The indexes of the commands whose script the server did not know."""
    return [index for index, reply in enumerate(replies) if isinstance(reply, exceptions.NoScriptError)]


def _script(command: Command) -> Script:
    script = script_of(command)
    if script is None:
        raise ConfigurationError(f"the server does not know a script that {command[0]!r} needs")
    return script


def _tolerated(replies: Replies, exchange: Exchange) -> Replies:
    """The replies, errors among them as refusals where they are tolerated, and raised where not."""
    for index, reply in enumerate(replies):
        if isinstance(reply, exceptions.RedisError):
            # what passes is no refusal: the same commands will be taken a little later, or by another node
            if not exchange.tolerant or is_passing(reply):
                raise reply
            replies[index] = Refusal(translate(reply))
    return replies
