"""The store of an app: opened at its first use if need be, and a synchronous one in threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

from runstream.history.beside_loop import BesideLoop
from runstream.model.awaitable import AsyncItems, Opening
from runstream.model.errors import ConfigurationError
from runstream.model.identifiers import shown
from runstream.stores.async_facade import AsyncStore
from runstream.stores.facade import Store

__all__ = ["OpenedStore"]

_CALLS = 8
_THREADED_STREAMS = 64
_LEAVE_SECONDS = 5.0  # after which a thread finds out that its stream's reader has gone
_AT_ONCE = 100
_END: Any = object()


class OpenedStore:
    """The store that an app reads.

    Args:
        store: A store for asyncio, what ``connect_async`` gives, or a synchronous store.

    Attributes:
        most_streams: How many streams it can give at a time; None: it makes no thread for each.

    Raises:
        ConfigurationError: It is no store.
    """

    def __init__(self, store: Any) -> None:
        if not isinstance(store, AsyncStore | Opening | Store):
            raise ConfigurationError(
                f"{shown(store)} is no store: pass what runstream.connect_async(url) or connect(url) gives"
            )
        self.most_streams = _THREADED_STREAMS if isinstance(store, Store) else None
        self._store: Any = _InThreads(store) if isinstance(store, Store) else store
        self._is_own = isinstance(store, Opening)
        self._lock = asyncio.Lock()

    async def get(self) -> Any:
        """The store, with the methods of an :class:`~runstream.stores.async_facade.AsyncStore`."""
        if isinstance(self._store, Opening):
            async with self._lock:
                if isinstance(self._store, Opening):
                    self._store = await self._store
        return self._store

    async def in_thread(self) -> Any:
        """The store as what reads histories in a thread takes it."""
        store = await self.get()
        return store.sync if isinstance(store, _InThreads) else BesideLoop(store, asyncio.get_running_loop())

    async def close(self) -> None:
        """Close what was opened here."""
        if self._is_own and not isinstance(self._store, Opening):
            await self._store.close()
        elif isinstance(self._store, _InThreads):
            self._store.end()


class _InThreads:
    """A synchronous store behind ``await``: of its calls some are made at a time, and each stream has a thread.

    Attributes:
        sync: The store.
    """

    def __init__(self, store: Store[Any, Any]) -> None:
        self.sync: Any = store
        self._calls = ThreadPoolExecutor(_CALLS, thread_name_prefix="runstream-web")
        self._streams = ThreadPoolExecutor(_THREADED_STREAMS, thread_name_prefix="runstream-web-stream")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """A method, awaited."""
        return partial(self._call, getattr(self.sync, name))

    def end(self) -> None:
        """Let the threads end, each after the call that it makes."""
        for pool in (self._calls, self._streams):
            pool.shutdown(wait=False)

    def runs(self, **query: Any) -> AsyncItems[Any]:
        """As the store's."""
        return AsyncItems(self._items(self.sync.runs(**query)))

    def read(self, run_id: str, after: int | str = 0, **query: Any) -> AsyncItems[Any]:
        """As the store's."""
        return AsyncItems(self._items(self.sync.read(run_id, after, **query)))

    def follow(self, run_id: str, after: int | str = 0) -> AsyncItems[Any]:
        """As the store's, of all events."""
        positions: dict[str, int | str] = {run_id: after}
        return AsyncItems(
            self._live(
                lambda: self.sync.follow(run_id, positions[run_id], idle_timeout=_LEAVE_SECONDS),
                lambda item: positions.update({run_id: item.cursor}),
            )
        )

    def follow_runs(self, run_ids: list[str], *, after: dict[str, int | str]) -> AsyncItems[Any]:
        """As the store's, of runs that are named."""
        positions = dict(after)
        return AsyncItems(
            self._live(
                lambda: self.sync.follow_runs(run_ids, after=positions, idle_timeout=_LEAVE_SECONDS),
                lambda pair: positions.update({pair[0]: pair[1].cursor}),
            )
        )

    async def _call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._calls, partial(method, *args, **options))

    async def _items(self, items: Iterator[Any]) -> AsyncGenerator[Any, None]:
        error: Exception | None = None
        while error is None:
            some, error = await self._call(_some_of, items)
            for item in some:
                yield item
            if not some:
                break
        if error is not None:
            raise error

    async def _live(
        self, begin: Callable[[], Iterator[Any]], note: Callable[[Any], None]
    ) -> AsyncGenerator[Any, None]:
        """The items of a follower, begun anew where it was whenever it was idle for a while."""
        while True:
            items: Any = begin()
            try:
                while (item := await self._next(items)) is not _END:
                    note(item)
                    yield item
            except TimeoutError:
                continue
            return

    async def _next(self, items: Any) -> Any:
        job: Future[Any] = self._streams.submit(next, items, _END)
        try:
            return await asyncio.wrap_future(job)
        except (asyncio.CancelledError, GeneratorExit):
            job.add_done_callback(lambda _: items.close())  # not while the thread is in it
            raise


def _some_of(items: Iterator[Any]) -> tuple[list[Any], Exception | None]:
    """The next items, and what was raised after them."""
    found: list[Any] = []
    try:
        found.extend(islice(items, _AT_ONCE))
    except Exception as error:  # noqa: BLE001 - it is raised when they were given
        return found, error
    return found, None
