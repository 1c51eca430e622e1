"""The Redis store, sync and async: the two facades over its operations and a client of redis-py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from runstream.codec.event_codec import DEFAULT_MAX_EVENT_BYTES, Codec
from runstream.codec.fallback import plain_data
from runstream.codec.upcasts import Upcasts
from runstream.model.protocols import Fallback
from runstream.model.results import E, S
from runstream.operations.runners import AsyncRunner, SyncRunner
from runstream.operations.tasks import TaskLock
from runstream.stores.async_facade import AsyncStore
from runstream.stores.facade import Store
from runstream.stores.lifecycle import own, own_async, place_at
from runstream.stores.redis.connection.clients import AsyncClient, Client
from runstream.stores.redis.connection.driver import DEFAULT_RETRY_SECONDS, AsyncDriver, SyncDriver
from runstream.stores.redis.connection.topology import async_transport_of, has_own_connections, transport_of
from runstream.stores.redis.connection.transport import AsyncTransport, Transport
from runstream.stores.redis.namespace import Namespace
from runstream.stores.redis.operations.client.open_namespace import open_namespace
from runstream.stores.redis.operations.redis_operations import RedisOperations
from runstream.stores.redis.session.session import Session
from runstream.stores.trace_context import traceparent_source

__all__ = ["AsyncRedisCheckpointer", "RedisCheckpointer", "rejoin_after_fork"]


class RedisCheckpointer(Store[E, S]):
    """Runs in Redis, shared by any number of processes.

    One connection of the client's pool is held between calls, by all stores over it together, unless the pool is
    small or of a class of its own. A call that finds no server, or one that fails over, is repeated with growing
    pauses before it raises StoreUnavailable; then too the caller may repeat it: an append is applied once. So is
    the opening.

    What a drain worker has retired is listed still and may be appended to; reading it raises EventsArchived, which
    names the archives. Until it is forgotten its callers' keys stay known: about 100 bytes per key.

    Args:
        client: A :class:`redis.Redis` without ``decode_responses``; it is never closed or reconfigured. Of a
            :class:`redis.RedisCluster` the settings are taken over: connections to the servers of its cluster are
            the store's own, and are closed with it. (Or a transport over one; see
            :mod:`~runstream.stores.redis.connection.topology`.)
        namespace: Separates what shares a server.
        partitions: Into how many parts the namespace is divided, fixed when it is created. None: what it has; 16
            when it is new.
        durability: How durable what is written is when a call returns: ``"primary"`` has it; ``"fsync"``: it is on
            the primary's disk; ``"replicated=N"``: N replicas have it, on their disks where they say so.
        event_type: The class of the events that reads give; None: :class:`~runstream.PAEvent`.
        state_type: The class of the states that are loaded; None: :class:`~runstream.RunState`.
        fallback: What becomes of values that cannot be stored as they are; None: an EncodingError.
        max_event_bytes: The size in bytes of the largest encoded event.
        upcasts: The program's schema version, and its rules to read what older versions of it wrote; None: what is
            stored is given as it is.
        retry_seconds: For how many seconds a call, the opening too, is repeated that cannot reach the server.
        require_lease: Refuse what is written without a lease.
        resend_lost: Keep the last 16 MiB of events that this object appended, and where a server comes back
            without some of them, let the next append put those back first: once, in order, as new offsets. What
            that cannot make up for (events of others that this object had seen, or more than it holds) raises
            AcknowledgedWritesLost or HistoryDiverged all the same.
        max_hot_events: The most events of one run in Redis: an append that would leave more raises
            TooManyHotEvents, which is better than a server that is full for all; a snapshot alone is never
            refused. None: no limit.
        trace_context: Record with each event the span of OpenTelemetry that its writer is in (``traceparent``).

    Raises:
        ConfigurationError: The client, an option, the server or the namespace does not fit.
        StoreUnavailable: The server cannot be reached.
    """

    _operations: RedisOperations[E, S]

    def __init__(
        self,
        client: Client | Transport,
        *,
        namespace: str = "runstream",
        partitions: int | None = None,
        durability: str = "primary",
        event_type: type[E] | None = None,
        state_type: type[S] | None = None,
        fallback: Fallback | None = plain_data,
        max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES,
        upcasts: Upcasts | None = None,
        retry_seconds: float = DEFAULT_RETRY_SECONDS,
        require_lease: bool = False,
        resend_lost: bool = False,
        max_hot_events: int | None = None,
        trace_context: bool = False,
    ) -> None:
        transport = transport_of(client)
        driver = SyncDriver(transport, retry_seconds)
        session = Session.make(
            Codec(
                event_type,
                state_type,
                fallback,
                max_event_bytes,
                upcasts=upcasts,
                traceparent=traceparent_source(wanted=trace_context),
            ),
            namespace,
            partitions,
            durability,
            require_lease=require_lease,
            resend_lost=resend_lost,
            max_hot_events=max_hot_events,
            longest_wait=transport.max_block_seconds,
        )
        runner = SyncRunner(driver.exchange, driver.follow, driver.wait)
        once = SyncRunner(driver.exchange_once)
        runner.run(open_namespace(session, is_fake=transport.is_fake))
        super().__init__(RedisOperations(session), runner, [Namespace(session.keys, runner, once)])
        place_at(self, f"{transport.place}, namespace {namespace!r}")
        if has_own_connections(client):
            own(self, transport.close)
        self._driver = driver


class AsyncRedisCheckpointer(AsyncStore[E, S]):
    """Runs in Redis, shared by any number of processes, for asyncio.

    The server is checked at the first call, or by ``async with``, and raises there what does not fit. A call that
    finds no server, or one that fails over, is repeated with growing pauses before it raises StoreUnavailable;
    then too the caller may repeat it: an append is applied once. So is the opening.

    What a drain worker has retired is listed still and may be appended to; reading it raises EventsArchived, which
    names the archives. Until it is forgotten its callers' keys stay known: about 100 bytes per key.

    Args:
        client: A :class:`redis.asyncio.Redis` without ``decode_responses``; it is never closed or reconfigured. It
            serves the event loop in which it is used first; for other loops, and in a forked process, clients of
            the same settings are made, and closed with their loop or with the store; and of a
            :class:`redis.asyncio.RedisCluster` for the servers of its cluster. (Or a transport.)
        namespace: Separates what shares a server.
        partitions: Into how many parts the namespace is divided, fixed when it is created. None: what it has; 16
            when it is new.
        durability: How durable what is written is when a call returns: ``"primary"`` has it; ``"fsync"``: it is on
            the primary's disk; ``"replicated=N"``: N replicas have it, on their disks where they say so.
        event_type: The class of the events that reads give; None: :class:`~runstream.PAEvent`.
        state_type: The class of the states that are loaded; None: :class:`~runstream.RunState`.
        fallback: What becomes of values that cannot be stored as they are; None: an EncodingError.
        max_event_bytes: The size in bytes of the largest encoded event.
        upcasts: The program's schema version, and its rules to read what older versions of it wrote; None: what is
            stored is given as it is.
        retry_seconds: For how many seconds a call, the opening too, is repeated that cannot reach the server.
        require_lease: Refuse what is written without a lease.
        resend_lost: Keep the last 16 MiB of events that this object appended, and where a server comes back
            without some of them, let the next append put those back first: once, in order, as new offsets. What
            that cannot make up for (events of others that this object had seen, or more than it holds) raises
            AcknowledgedWritesLost or HistoryDiverged all the same.
        max_hot_events: The most events of one run in Redis: an append that would leave more raises
            TooManyHotEvents, which is better than a server that is full for all; a snapshot alone is never
            refused. None: no limit.
        trace_context: Record with each event the span of OpenTelemetry that its writer is in (``traceparent``).

    Raises:
        ConfigurationError: The client or an option does not fit.
    """

    _operations: RedisOperations[E, S]

    def __init__(
        self,
        client: AsyncClient | AsyncTransport,
        *,
        namespace: str = "runstream",
        partitions: int | None = None,
        durability: str = "primary",
        event_type: type[E] | None = None,
        state_type: type[S] | None = None,
        fallback: Fallback | None = plain_data,
        max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES,
        upcasts: Upcasts | None = None,
        retry_seconds: float = DEFAULT_RETRY_SECONDS,
        require_lease: bool = False,
        resend_lost: bool = False,
        max_hot_events: int | None = None,
        trace_context: bool = False,
    ) -> None:
        transport = async_transport_of(client)
        self._is_fake = transport.is_fake
        self._driver = AsyncDriver(transport, retry_seconds)
        self._session = Session.make(
            Codec(
                event_type,
                state_type,
                fallback,
                max_event_bytes,
                upcasts=upcasts,
                traceparent=traceparent_source(wanted=trace_context),
            ),
            namespace,
            partitions,
            durability,
            require_lease=require_lease,
            resend_lost=resend_lost,
            max_hot_events=max_hot_events,
            longest_wait=transport.max_block_seconds,
        )
        self._opening = TaskLock()
        driver = self._driver
        runner = AsyncRunner(driver.exchange, driver.follow, driver.wait, self._open_once)
        super().__init__(RedisOperations(self._session), runner)
        place_at(self, f"{transport.place}, namespace {namespace!r}")
        if transport is not client:
            own_async(self, transport.close)

    async def open(self) -> Self:
        """Check the server and the namespace, once; every other call does so too.

        Returns:
            The store itself.

        Raises:
            ConfigurationError: The server or the namespace does not fit.
            StoreUnavailable: The server cannot be reached.
        """
        await self._open_once()
        return self

    async def __aenter__(self) -> Self:
        return await self.open()

    async def _open_once(self) -> None:
        if self._session.opened is None:
            async with self._opening:
                if self._session.opened is None:
                    await AsyncRunner(self._driver.exchange).run(
                        open_namespace(self._session, is_fake=self._is_fake)
                    )


def rejoin_after_fork(
    store: RedisCheckpointer[E, S] | AsyncRedisCheckpointer[E, S], rejoin: Callable[[], None]
) -> None:
    """Set what a forked process has to do before it uses a store."""
    store._driver.after_fork = rejoin
