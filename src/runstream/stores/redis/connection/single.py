"""One server, over a client of redis-py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from typing import Any, cast

import redis
import redis.asyncio
from redis import exceptions

from runstream.model.errors import ConfigurationError
from runstream.operations.forks import starts_anew
from runstream.operations.operation import Command, Exchange, News, Refusal, Replies, Wait, WaitAny, mark_unsent
from runstream.stores.redis.connection.async_followers_hub import AsyncFollowersHub
from runstream.stores.redis.connection.client_settings import client_like, renew_locks, socket_timeout_of
from runstream.stores.redis.connection.errors import (
    doubtful_keys,
    is_denied,
    is_full,
    is_of_replica,
    is_passing,
    is_right_refused,
    redirection_of,
    refusal_of,
    translate,
)
from runstream.stores.redis.connection.fake_servers import hold_over_fork
from runstream.stores.redis.connection.followers_hub import hub_of
from runstream.stores.redis.connection.gathering import Gatherer, gathers
from runstream.stores.redis.connection.kept_cancellation import CancellationKept
from runstream.stores.redis.connection.loop_clients import LoopClient, LoopClients
from runstream.stores.redis.connection.pinned_connections import piped, sender_of
from runstream.stores.redis.connection.rights import refused, rights_of
from runstream.stores.redis.scripts.script import Script, script_of

__all__ = ["AsyncSingleServerTransport", "SingleServerTransport"]

_LONGEST_BLOCK_SECONDS = 5.0
_MOST_LOOKS = 10

_of_parents: list[Any] = []
"""Clients of the process that this one was forked from: kept, as giving them up would use their connections."""


def _check_client(client: Any) -> None:
    if client.connection_pool.connection_kwargs.get("decode_responses"):
        raise ConfigurationError("the client has decode_responses=True; records are bytes: pass one without it")


class SingleServerTransport:
    """Sends to one server over a :class:`redis.Redis`, of which connections stay pinned between exchanges.

    Args:
        client: The client.
        is_of_cluster: What the server says of another one of its cluster (MOVED, ASK) is a reply, not an error.
    """

    def __init__(self, client: redis.Redis, *, is_of_cluster: bool = False) -> None:
        _check_client(client)
        self._client: Any = client  # redis-py's stubs cover neither names nor arguments as bytes
        self._is_of_cluster = is_of_cluster
        self._gatherer = Gatherer()
        self._sender = sender_of(client)
        self._rights = rights_of(client)
        self.max_block_seconds = _block_seconds(client)
        self.is_fake = _is_fake(client)
        self.place, self.user = _place_of(client), self._rights.user
        self._is_tls = _speaks_tls(client)
        self.hub = hub_of(client, self.max_block_seconds)
        """What its followers wait in."""
        hold_over_fork(client)
        starts_anew(self)

    def _start_anew(self) -> None:
        """Connect anew: redis-py does so by itself, once no dead thread has its locks."""
        renew_locks(self._client)
        if self._client.connection is not None:  # the one connection of a client that has no other
            _of_parents.append(self._client)
            self._client = self._sender = redis.Redis(connection_pool=self._client.connection_pool)

    def exchange(self, exchange: Exchange) -> Replies:
        """Send an exchange once; see :meth:`Transport.exchange`."""
        if gathers(exchange):
            return self._gatherer.exchange(exchange, self._exchange)
        return self._exchange(exchange)

    def _exchange(self, exchange: Exchange) -> Replies:
        exchange = _confirmed(exchange)
        commands = exchange.commands
        try:
            if not self._rights.cover(commands):
                answers = self._send(self._rights.question(commands), atomic=False)
                if (missing := self._rights.hear(commands, answers)) is not None:
                    return refused(missing, exchange)
            if len(commands) == 1:
                try:
                    return [self._sender.execute_command(*commands[0])]
                except exceptions.ResponseError as error:
                    replies: Replies = [error]
            else:
                replies = self._send(commands, atomic=exchange.atomic)
                if not _have_error(replies):
                    return replies
            if unknown := _unknown_scripts(replies):
                self._send_again(unknown, exchange, replies)
            self._rights.doubt(replies)
            keys = doubtful_keys(commands, replies)
            types = self._send([(b"TYPE", key) for key in keys], atomic=False) if keys else ()
            return _tolerated(replies, exchange, dict(zip(keys, types, strict=True)), self._is_of_cluster)
        except (exceptions.RedisError, OSError) as error:
            if self._is_of_cluster and (redirection := redirection_of(error)) is not None:
                return [redirection] * len(commands)
            if is_of_replica(error) and self._sender is not self._client:
                self._sender.leave()
            raise translate(error, is_tls=self._is_tls) from error

    def _send_again(self, unknown: Sequence[int], exchange: Exchange, replies: Replies) -> None:
        """Load the scripts of these commands, send them again, and put their replies in place of the others."""
        commands = exchange.commands
        for script in {_script(commands[index]) for index in unknown}:
            self._sender.execute_command(b"SCRIPT", b"LOAD", script.source)
        again = _sent_again(unknown, exchange)
        found = self._send([commands[index] for index in again], atomic=exchange.atomic)
        for index, reply in zip(again, found, strict=True):
            replies[index] = reply

    def _send(self, commands: Sequence[Command], *, atomic: bool) -> Replies:
        try:
            if self._sender is self._client:
                return piped(self._client, commands, atomic=atomic)
            return cast("Replies", self._sender.execute_all(commands, atomic=atomic))
        except exceptions.OutOfMemoryError:  # it queues nothing, be it a read
            for _ in range(_MOST_LOOKS):
                if (seen := _seen_at_once(self._send([*commands, *commands], atomic=False))) is not None:
                    return seen
            raise

    def wait(self, wait: Wait) -> News | None:
        """Wait until there may be something new in a stream; see :meth:`Transport.wait`."""
        return self.hub.wait(wait)

    def wait_any(self, wait: WaitAny) -> Mapping[int, News | None]:
        """Wait until there may be something new in one of several streams; see :meth:`Transport.wait_any`."""
        return self.hub.wait_any(wait)

    def turn(self) -> AbstractContextManager[object]:
        """What a follower is in while it sends."""
        return self.hub.turn

    def close(self) -> None:
        """Close the client's connections, and those of its followers."""
        self.hub.close()
        self._client.close()


class AsyncSingleServerTransport:
    """Sends to one server over :class:`redis.asyncio.Redis`; line for line as the sync one.

    Args:
        client: A client of the caller's, for the first event loop that uses it; other loops get clients like it.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._begin(client, partial(client_like, client), client)

    @classmethod
    def over(
        cls, make: Callable[[], redis.asyncio.Redis], *, is_of_cluster: bool = False
    ) -> AsyncSingleServerTransport:
        """A transport over clients of its own, which it makes and closes; ``is_of_cluster``: as the sync one's."""
        transport = cls.__new__(cls)
        transport._begin(make(), make)
        transport._is_of_cluster = is_of_cluster
        return transport

    def _begin(self, client: redis.asyncio.Redis, make: Callable[[], Any], lent: Any = None) -> None:
        _check_client(client)
        self._is_of_cluster = False
        self._rights = rights_of(client)
        self.max_block_seconds = _block_seconds(client)
        self.is_fake = _is_fake(client)
        shares = lent is None and not self.is_fake
        self._clients = LoopClients(make, self.max_block_seconds, lent, shares=shares)
        self.place = _place_of(client)
        self._is_tls = _speaks_tls(client)
        hold_over_fork(client)

    async def exchange(self, exchange: Exchange) -> Replies:
        """Send an exchange once; see :meth:`Transport.exchange`."""
        exchange = _confirmed(exchange)
        commands = exchange.commands
        try:
            of_loop = self._clients.found() or await self._begun()
            if not self._rights.cover(commands):
                answers = await _send(of_loop, Exchange(self._rights.question(commands)))
                if (missing := self._rights.hear(commands, answers)) is not None:
                    return refused(missing, exchange)
            replies = await _send(of_loop, exchange)
            if not _have_error(replies):
                return replies
            if unknown := _unknown_scripts(replies):
                for script in {_script(commands[index]) for index in unknown}:
                    await of_loop.load(script)
                again = _sent_again(unknown, exchange)
                found = await _send(of_loop, exchange._replace(commands=[commands[index] for index in again]))
                for index, reply in zip(again, found, strict=True):
                    replies[index] = reply
            self._rights.doubt(replies)
            keys = doubtful_keys(commands, replies)
            types = await _send(of_loop, Exchange([(b"TYPE", key) for key in keys])) if keys else ()
            return _tolerated(replies, exchange, dict(zip(keys, types, strict=True)), self._is_of_cluster)
        except (exceptions.RedisError, OSError) as error:
            if self._is_of_cluster and (redirection := redirection_of(error)) is not None:
                return [redirection] * len(commands)
            raise translate(error, is_tls=self._is_tls) from error

    async def _begun(self) -> LoopClient:
        """What the loop that runs has from now on."""
        try:
            return await self._clients.get()
        except ConfigurationError as error:  # this loop can have none
            mark_unsent(error)
            raise

    async def wait(self, wait: Wait) -> News | None:
        """Wait until there may be something new in a stream; see :meth:`Transport.wait`."""
        return await (await self.hub()).wait(wait)

    async def wait_any(self, wait: WaitAny) -> Mapping[int, News | None]:
        """Wait until there may be something new in one of several streams; see :meth:`Transport.wait_any`."""
        return await (await self.hub()).wait_any(wait)

    async def turn(self) -> AbstractAsyncContextManager[object]:
        """What a follower is in while it sends."""
        return (await self.hub()).turn

    async def hub(self) -> AsyncFollowersHub:
        """What followers wait in, in the loop that runs."""
        return (await self._clients.get()).hub

    async def close(self) -> None:
        """Close the connections, but for those of the caller's client."""
        await self._clients.close()


async def _send(of_loop: LoopClient, exchange: Exchange) -> Replies:
    """The replies to an exchange over the connection that tasks share, or over one of the client's pool."""
    shared, commands = of_loop.shared, exchange.commands
    try:
        if shared is not None and gathers(exchange) and shared.takes(commands[0]):
            return await shared.join(commands[0])
        if shared is not None and (packed := shared.pack(exchange)) is not None:
            return await shared.ask(packed)
        return await _piped(of_loop.client, commands, atomic=exchange.atomic)
    except exceptions.OutOfMemoryError:  # it queues nothing, be it a read
        for _ in range(_MOST_LOOKS):
            twice = await _piped(of_loop.client, [*commands, *commands], atomic=False)
            if (seen := _seen_at_once(twice)) is not None:
                return seen
        raise


async def _piped(client: Any, commands: Sequence[Command], *, atomic: bool) -> Replies:
    """The same over the pool. redis-py's stubs cover neither names nor arguments as bytes."""
    with CancellationKept():
        if len(commands) == 1:
            try:
                return [await client.execute_command(*commands[0])]
            except exceptions.ResponseError as error:
                return [error]
        async with client.pipeline(transaction=atomic) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: Replies = await pipeline.execute(raise_on_error=False)
            return replies


def _confirmed(exchange: Exchange) -> Exchange:
    """The exchange with what confirms it as its last commands, which nobody else is to wait for."""
    if not exchange.confirm:
        return exchange
    return exchange._replace(commands=(*exchange.commands, *exchange.confirm), is_long=True)


def _sent_again(unknown: Sequence[int], exchange: Exchange) -> Sequence[int]:
    """The indexes of the commands to send again: those whose script was unknown, and what goes with them."""
    if exchange.atomic:
        return range(len(exchange.commands))
    count = len(exchange.commands)
    return [*unknown, *range(count - len(exchange.confirm), count)]


def _speaks_tls(client: Any) -> bool:
    kind = getattr(client.connection_pool, "connection_class", None)  # a pool of the caller's own may have none
    return isinstance(kind, type) and issubclass(kind, redis.SSLConnection | redis.asyncio.SSLConnection)


def _block_seconds(client: Any) -> float:
    timeout = socket_timeout_of(client)
    return _LONGEST_BLOCK_SECONDS if timeout is None else min(_LONGEST_BLOCK_SECONDS, timeout / 2)


def _is_fake(client: Any) -> bool:
    connection_class: type = client.connection_pool.connection_class
    return any(base.__module__.partition(".")[0] == "fakeredis" for base in connection_class.__mro__)


def _place_of(client: Any) -> str:
    settings = client.connection_pool.connection_kwargs
    if _is_fake(client):
        return "fake:"
    if (place := getattr(client.connection_pool.connection_class, "place", None)) is not None:
        return str(place)
    if (path := settings.get("path")) is not None:
        return f"unix://{path}"
    scheme = "rediss" if _speaks_tls(client) else "redis"
    host, port = settings.get("host", "localhost"), settings.get("port", 6379)
    return f"{scheme}://{host}:{port}/{settings.get('db') or 0}"


def _have_error(replies: Sequence[Any]) -> bool:
    for reply in replies:  # noqa: SIM110 - any() over a generator takes three times as long
        if isinstance(reply, exceptions.RedisError):
            return True
    return False


def _seen_at_once(twice: Replies) -> Replies | None:
    """The replies to queries of which each was sent twice, all once before any again; None: something has changed.

    Where nothing has, all of it was so at one time, between the two.
    """
    first, second = twice[: len(twice) // 2], twice[len(twice) // 2 :]
    return first if list(map(_comparable, first)) == list(map(_comparable, second)) else None


def _comparable(reply: Any) -> Any:
    return (type(reply), str(reply)) if isinstance(reply, exceptions.RedisError) else reply


def _unknown_scripts(replies: Sequence[Any]) -> Sequence[int]:
    """The indexes of the commands whose script the server did not know."""
    return [index for index, reply in enumerate(replies) if isinstance(reply, exceptions.NoScriptError)]


def _script(command: Command) -> Script:
    script = script_of(command)
    if script is None:
        raise ConfigurationError(f"the server does not know a script that {command[0]!r} needs")
    return script


def _tolerated(
    replies: Replies, exchange: Exchange, types: Mapping[str, Any], leaves_redirections: bool
) -> Replies:
    """The replies, errors among them as refusals where they are tolerated, and raised where not.

    ``types`` are those of the keys that may be the reason.
    ``leaves_redirections``: what is of another server stays.
    """
    for index, reply in enumerate(replies):
        if isinstance(reply, exceptions.RedisError):
            if leaves_redirections and (redirection := redirection_of(reply)) is not None:
                replies[index] = redirection
                continue
            # what passes is no refusal: the same commands will be taken a little later, or by another node
            if is_passing(reply):
                raise reply
            refusal = refusal_of(reply, exchange.commands[index], types)
            lacks_right = is_denied(reply) or is_right_refused(reply)
            if not (exchange.permissive or (exchange.tolerant and not lacks_right)):
                raise refusal from reply
            replies[index] = Refusal(refusal, is_full(reply), is_denied(reply))
    return replies
