"""A store for asyncio, for what reads histories in a thread: its Redis is asked in the loop, its archive here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, TypeVar

from runstream.operations.operation import Operation
from runstream.operations.runners import AsyncRunner, SyncRunner
from runstream.stores.async_facade import AsyncStore
from runstream.stores.capabilities import part_of
from runstream.stores.redis.namespace import Namespace
from runstream.stores.redis.operations.redis_operations import RedisOperations
from runstream.stores.tiered.late_archive import ArchiveToCome

__all__ = ["BesideLoop"]

T = TypeVar("T")


class BesideLoop:
    """What :func:`~runstream.stores.capabilities.part_of` finds the parts of a store for asyncio in.

    Args:
        store: The store.
        loop: The loop that it is used in, which goes on meanwhile.
    """

    def __init__(self, store: AsyncStore[Any, Any], loop: asyncio.AbstractEventLoop) -> None:
        self._store, self._loop = store, loop
        parts: list[Any] = list(store._parts)
        hot: RedisOperations[Any, Any] | None = part_of(store, RedisOperations)
        if hot is not None:
            runner = _InLoop(store._runner, loop)
            parts.append(Namespace(hot.session.keys, runner, runner))
        late: ArchiveToCome[Any, Any] | None = part_of(store, ArchiveToCome)
        if late is not None and (archive := late.find()) is not None:
            parts += archive._parts
        self._parts = tuple(parts)

    def read(self, run_id: str, after: int | str = 0, *, limit: int) -> Iterator[Any]:
        """The next events after an offset, all at once."""

        async def read() -> list[Any]:
            return [item async for item in self._store.read(run_id, after, limit=limit)]

        return iter(asyncio.run_coroutine_threadsafe(read(), self._loop).result())


class _InLoop(SyncRunner):
    """Lets a loop run operations, and waits for each."""

    def __init__(self, runner: AsyncRunner, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._awaiting, self._loop = runner, loop

    def run(self, operation: Operation[T]) -> T:
        """Run an operation and return its result."""
        return asyncio.run_coroutine_threadsafe(self._awaiting.run(operation), self._loop).result()
