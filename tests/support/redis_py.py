"""Where the versions of redis-py differ in what tests ask of it."""

from __future__ import annotations

import inspect
from typing import Any

import redis

__all__ = ["taken_from"]

_NAMED = inspect.signature(redis.ConnectionPool.get_connection).parameters.get("command_name")
_OF_COMMAND = ("_",) if _NAMED is not None and _NAMED.default is inspect.Parameter.empty else ()


def taken_from(pool: Any) -> Any:
    """A connection that is taken out of a pool; of one for asyncio, what is awaited to have it.

    Before 5.3 redis-py wants the name of a command, and later none.
    """
    return pool.get_connection(*_OF_COMMAND)
