"""Commands as a transaction, which is sent whole, and the replies to it."""

from __future__ import annotations

from collections.abc import Sequence

import redis

from runstream.operations.operation import Command, Replies

__all__ = ["executed", "in_transaction"]


def in_transaction(commands: Sequence[Command]) -> Sequence[Command]:
    """The commands that execute these with nothing of anybody else's between them."""
    return [(b"MULTI",), *commands, (b"EXEC",)]


def executed(replies: Replies) -> Replies:
    """The replies to the commands of a transaction, of the replies to all that was sent of it.

    Raises:
        ResponseError: The server did not take a command, and so none.
    """
    for reply in replies:  # the first error is the reason for that of EXEC
        if isinstance(reply, redis.ResponseError):
            raise reply
    of_commands: Replies = replies[-1]
    return of_commands
