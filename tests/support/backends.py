"""Every kind of store that the shared suite runs on, behind one way to open it.

The suite is written once, against the sync interface. Async stores run on an event loop in a thread of
its own, behind :class:`Blocking`.
"""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar, cast

import fakeredis
import redis
import redis.asyncio

from runstream.model.awaitable import Opening
from runstream.model.results import RunInfo
from runstream.operations.runners import AsyncRunner
from runstream.stores.archive.jsonl import JSONLCheckpointer
from runstream.stores.archive.sqlite import SQLiteCheckpointer
from runstream.stores.async_facade import AsyncStore
from runstream.stores.local.memory import InMemoryCheckpointer
from runstream.stores.protocol import RunStore
from runstream.stores.redis.checkpointer import AsyncRedisCheckpointer, RedisCheckpointer
from tests.support.servers import Server

Store: TypeAlias = RunStore[Any, Any]
T = TypeVar("T")

_END = object()


def latest(store: Store, run_id: str) -> Any:
    """The state of a run that has one."""
    state = store.load_latest(run_id)
    assert state is not None
    return state


def info_of(store: Store, run_id: str = "r") -> RunInfo:
    """What is known of a run that is there."""
    info = store.run_info(run_id)
    assert info is not None
    return info


def kept_replies(raw: Any, meta: Any, producers: Any) -> dict[bytes, bytes]:
    """What a run's producers are told who send their last batch again; of an ordinary append, meta tells it."""
    kept: dict[bytes, bytes] = raw.hgetall(producers)
    last, updated, start, by = raw.hmget(meta, "last", "updated", "start", "by")
    if by and b" " in by:
        producer, batch, former, before = by.split()
        kept[producer] = b" ".join((batch, former, last, b"0 0", start, updated, before))
    return kept


class LoopThread:
    """An event loop that runs in a thread until it is closed."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        """End the loop, the tasks that are left and the threads that it used."""
        self.run(_cancel_others())
        self.run(self._loop.shutdown_asyncgens())
        self.run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Blocking:
    """An async store, Lease or Run whose methods wait: what it lacks of a sync one, that behind it lacks too."""

    def __init__(self, loop: LoopThread, store: Any) -> None:
        self._loop = loop
        self._store = store

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if inspect.isawaitable(found):  # a count
            return self._loop.run(_awaited(found))
        return partial(self._call, found) if inspect.ismethod(found) else found

    def _call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        result = method(*args, **options)
        if isinstance(result, Opening):
            return Blocking(self._loop, self._loop.run(_awaited(result)))
        if hasattr(result, "__anext__"):
            return self._iterate(result)
        return self._loop.run(result) if inspect.iscoroutine(result) else result

    def __enter__(self) -> Self:
        self._loop.run(self._store.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.run(self._store.__aexit__(*error))

    def _iterate(self, iterator: Any) -> Iterator[Any]:
        async def step() -> Any:
            return await anext(iterator, _END)

        try:
            while (item := self._loop.run(step())) is not _END:
                yield item
        finally:
            self._loop.run(iterator.aclose())


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _awaited(opening: Awaitable[Any]) -> Any:
    return await opening


class Backend(ABC):
    """One place where runs are kept, and the stores that a test opens over it."""

    def __init__(self) -> None:
        self._opened = ExitStack()

    def open(self, **options: Any) -> Store:
        """Another store over this place."""
        return cast("Store", self._opened.enter_context(closing(self._open(options))))

    def close(self) -> None:
        """Close what was opened."""
        self._opened.close()

    @abstractmethod
    def _open(self, options: dict[str, Any]) -> Any: ...

    @abstractmethod
    def footprint(self) -> Any:
        """All that is kept there, in a form that can be compared."""


class MemoryBackend(Backend):
    def _open(self, options: dict[str, Any]) -> Any:
        self._store = InMemoryCheckpointer[Any, Any](**options)
        return self._store

    def footprint(self) -> Any:
        return self._store.list_runs()


class FileBackend(Backend):
    """A store below a directory; the test sees to it that nothing is written beside it."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory

    def files(self) -> dict[Path, bytes]:
        """Every file below the directory, with its content."""
        return {path: path.read_bytes() for path in sorted(self.directory.rglob("*")) if path.is_file()}


class JSONLBackend(FileBackend):
    def _open(self, options: dict[str, Any]) -> Any:
        return JSONLCheckpointer[Any, Any](self.directory, **options)

    def footprint(self) -> Any:
        # locks and the archive's identity are the store's own affair, and hidden
        return {path: content for path, content in self.files().items() if "/." not in str(path)}


class SQLiteBackend(FileBackend):
    @property
    def path(self) -> Path:
        return self.directory / "runs.db"

    def _open(self, options: dict[str, Any]) -> Any:
        self.directory.mkdir(exist_ok=True)
        return SQLiteCheckpointer[Any, Any](self.path, **options)

    def footprint(self) -> Any:
        with closing(sqlite3.connect(self.path)) as connection:
            # not the highest row number that was ever given out
            return [line for line in connection.iterdump() if "sqlite_sequence" not in line]


def behind_await(store: Store) -> AsyncStore[Any, Any]:
    """A local store for asyncio, as ``connect_async`` makes it: the same operations, their calls in threads."""
    inner: Any = store
    return AsyncStore(inner._operations, AsyncRunner())


class ThreadedBackend(Backend):
    """A local store behind ``await``."""

    def __init__(self, inner: Backend, loop: LoopThread) -> None:
        super().__init__()
        self._inner = inner
        self._loop = loop

    def _open(self, options: dict[str, Any]) -> Any:
        return Blocking(self._loop, behind_await(self._inner.open(**options)))

    def footprint(self) -> Any:
        return self._inner.footprint()

    def close(self) -> None:
        super().close()
        self._inner.close()


class RedisBackend(Backend):
    """A namespace of a server; what it holds is removed when it is closed."""

    def __init__(self, raw: redis.Redis | redis.RedisCluster, namespace: str) -> None:
        super().__init__()
        self.raw: Any = raw  # redis-py's stubs make every reply a union of sync and async
        self.namespace = namespace

    @abstractmethod
    def client(self) -> Any:
        """A new client, which the caller closes."""

    def async_client(self) -> Any:
        """The same for asyncio."""
        raise NotImplementedError

    def _open(self, options: dict[str, Any]) -> Any:
        client = self.client()
        self._opened.callback(client.close)
        return RedisCheckpointer[Any, Any](client, namespace=self.namespace, **options)

    def key_names(self) -> list[str]:
        """The names of all keys of the namespace."""
        patterns = (f"{{{self.namespace}:*", f"{{{self.namespace}}}*")
        found = [key.decode() for pattern in patterns for key in self.raw.scan_iter(pattern, count=1000)]
        return sorted(set(found))

    def footprint(self) -> Any:
        # what is remembered of a deletion, for a week, is no part of any run
        return {key: self._content(key) for key in self.key_names() if not key.endswith(":deleted")}

    def _content(self, key: str) -> Any:
        kind = self.raw.type(key)
        if kind == b"stream":
            return self.raw.xrange(key)
        return self.raw.hgetall(key) if kind == b"hash" else self.raw.zrange(key, 0, -1, withscores=True)

    def close(self) -> None:
        super().close()
        if keys := self.key_names():
            self.raw.delete(*keys)


class FakeBackend(RedisBackend):
    """fakeredis."""

    def __init__(self, namespace: str) -> None:
        self._server = fakeredis.FakeServer()
        super().__init__(fakeredis.FakeRedis(server=self._server), namespace)

    def client(self) -> Any:
        return fakeredis.FakeRedis(server=self._server)

    def async_client(self) -> Any:
        return fakeredis.FakeAsyncRedis(server=self._server)

    def close(self) -> None:
        super().close()
        self.raw.close()


class ServerBackend(RedisBackend):
    """A real server."""

    def __init__(self, server: Server, namespace: str, **client_options: Any) -> None:
        super().__init__(server.raw, namespace)
        self.server = server
        self._client_options = client_options

    def client(self) -> Any:
        return self.server.client(**self._client_options)

    def async_client(self) -> Any:
        return redis.asyncio.Redis(unix_socket_path=self.server.socket_path, **self._client_options)


class AsyncRedisBackend(Backend):
    """The async store over a server, fakeredis or a cluster."""

    def __init__(self, inner: RedisBackend, loop: LoopThread) -> None:
        super().__init__()
        self._inner = inner
        self._loop = loop

    def _open(self, options: dict[str, Any]) -> Any:
        client = self._inner.async_client()
        self._opened.callback(lambda: self._loop.run(client.aclose()))
        store = AsyncRedisCheckpointer[Any, Any](client, namespace=self._inner.namespace, **options)
        return Blocking(self._loop, self._loop.run(store.open()))

    def key_names(self) -> list[str]:
        """The names of all keys of the namespace."""
        return self._inner.key_names()

    def footprint(self) -> Any:
        return self._inner.footprint()

    def close(self) -> None:
        super().close()
        self._inner.close()
