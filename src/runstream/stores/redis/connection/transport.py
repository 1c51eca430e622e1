"""The transports, over which a driver sends exchanges: one implementation per topology of servers.

A transport sends an exchange once. Retries, deadlines and pauses are the driver's
(:mod:`~runstream.stores.redis.connection.driver`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Protocol, runtime_checkable

from runstream.operations.operation import Exchange, News, Replies, Wait, WaitAny

__all__ = ["AsyncTransport", "Transport"]


@runtime_checkable
class Transport(Protocol):
    """A way to the servers of one topology."""

    max_block_seconds: float
    """How long one command may block at the server, in seconds: well within the client's own timeout. Followers
    look as often whether something is new that comes in no stream."""
    is_fake: bool
    """Whether it leads to fakeredis, which has no INFO: it has no age, evicts nothing and never fails over."""
    place: str
    """Where it leads, for people to read; without user and password."""
    user: str
    """The name of the user as whom it asks."""

    def exchange(self, exchange: Exchange) -> Replies:
        """Send an exchange once, and once more those of its commands whose script the server did not know.

        Args:
            exchange: Commands for one round trip.

        Returns:
            The replies as the protocol brought them, a Refusal for each error that is tolerated.

        Raises:
            StoreUnavailable: The server cannot be reached, or refuses commands for now: whether they were applied
                is unknown.
            ConfigurationError: The server refused a command for good.
        """

    def wait(self, wait: Wait) -> News | None:
        """Wait until there may be something new in a stream, over a connection that many followers share.

        Returns:
            What has come, where it was brought.

        Raises:
            RefusedTogether: The server refused to wait for this stream and others: then ask for this one alone.
        """

    def wait_any(self, wait: WaitAny) -> Mapping[int, News | None]:
        """Wait until there may be something new in one of several streams.

        Returns:
            What has come, where it was brought, by the indexes of the waits that have ended. Refused ones are
            among them: whoever follows these looks.
        """

    def turn(self) -> AbstractContextManager[object]:
        """What a follower is in while it sends: few of them at a time."""

    def close(self) -> None:
        """Close the connections."""


@runtime_checkable
class AsyncTransport(Protocol):
    """A way to the servers of one topology, for asyncio."""

    max_block_seconds: float
    is_fake: bool
    place: str

    async def exchange(self, exchange: Exchange) -> Replies:
        """Send an exchange once, and once more those of its commands whose script the server did not know.

        Args:
            exchange: Commands for one round trip.

        Returns:
            The replies as the protocol brought them, a Refusal for each error that is tolerated.

        Raises:
            StoreUnavailable: The server cannot be reached, or refuses commands for now: whether they were applied
                is unknown.
            ConfigurationError: The server refused a command for good.
        """

    async def wait(self, wait: Wait) -> News | None:
        """Wait until there may be something new in a stream, over a connection that many followers share.

        Returns:
            What has come, where it was brought.

        Raises:
            RefusedTogether: The server refused to wait for this stream and others: then ask for this one alone.
        """

    async def wait_any(self, wait: WaitAny) -> Mapping[int, News | None]:
        """Wait until there may be something new in one of several streams.

        Returns:
            What has come, where it was brought, by the indexes of the waits that have ended. Refused ones are
            among them: whoever follows these looks.
        """

    async def turn(self) -> AbstractAsyncContextManager[object]:
        """What a follower is in while it sends: few of them at a time."""

    async def close(self) -> None:
        """Close the connections."""
