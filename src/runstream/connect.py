"""From a URL to a store: :func:`connect` and :func:`connect_async`.

A URL's scheme chooses the store, its query gives options. The overloads keep the types of the caller's events and
states.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Unpack, overload
from urllib.parse import quote, unquote, urlencode

from runstream.model.awaitable import Opening
from runstream.model.errors import ConfigurationError
from runstream.model.events import PAEvent
from runstream.model.results import E, S
from runstream.model.state import RunState
from runstream.operations.runners import AsyncRunner
from runstream.stores.archive.facade import ArchiveStore
from runstream.stores.archive.jsonl import JSONLCheckpointer
from runstream.stores.archive.sqlite import SQLiteCheckpointer
from runstream.stores.async_facade import AsyncSnapshotStore, AsyncStore
from runstream.stores.facade import SnapshotStore, Store
from runstream.stores.lifecycle import own, own_async, place_at, place_like, reopen_with
from runstream.stores.local.memory import InMemoryCheckpointer
from runstream.stores.options import StoreOptions, options_in_url
from runstream.stores.redis.checkpointer import AsyncRedisCheckpointer, RedisCheckpointer, rejoin_after_fork
from runstream.stores.redis.connection.embedded_server import EmbeddedServer
from runstream.stores.redis.connection.topology import SERVER_SCHEMES, open_async_transport, open_transport
from runstream.stores.redis.connection.transport import Transport
from runstream.stores.tiered import AsyncTieredCheckpointer, TieredCheckpointer
from runstream.stores.urls import check_is_text, path_in, split_query, url_in, with_path

__all__ = ["ARCHIVE_SCHEMES", "SERVER_SCHEMES", "connect", "connect_async", "open_server"]

ARCHIVE_SCHEMES = ("sqlite", "jsonl")
_PATHS = ("embedded", *ARCHIVE_SCHEMES)
_SCHEMES = (*SERVER_SCHEMES, *_PATHS, "fake", "memory")
_OBJECTS = ("event_type", "state_type", "fallback", "upcasts")


@overload
def connect(
    url: str | None = None,
    *,
    archive: str,
    event_type: type[E] | None = None,
    state_type: type[S] | None = None,
    **options: Unpack[StoreOptions],
) -> SnapshotStore[E, S]: ...
@overload
def connect(
    url: str | None = None,
    *,
    archive: None = None,
    event_type: None = None,
    state_type: None = None,
    **options: Unpack[StoreOptions],
) -> Store[PAEvent, RunState]: ...
@overload
def connect(
    url: str | None = None,
    *,
    archive: None = None,
    event_type: type[E],
    state_type: None = None,
    **options: Unpack[StoreOptions],
) -> Store[E, RunState]: ...
@overload
def connect(
    url: str | None = None,
    *,
    archive: None = None,
    event_type: None = None,
    state_type: type[S],
    **options: Unpack[StoreOptions],
) -> Store[PAEvent, S]: ...
@overload
def connect(
    url: str | None = None,
    *,
    archive: None = None,
    event_type: type[E],
    state_type: type[S],
    **options: Unpack[StoreOptions],
) -> Store[E, S]: ...
def connect(url: str | None = None, *, archive: str | None = None, **options: Any) -> Any:
    """Open the store that a URL names.

    The schemes: ``redis://``, ``rediss://`` and ``unix://`` for a Redis or Valkey server;
    ``redis+sentinel://HOST:PORT,HOST:PORT/NAME`` (``rediss+sentinel://`` with TLS) for the one that sentinels take
    for the primary; ``redis+cluster://HOST:PORT,HOST:PORT`` (``rediss+cluster://``) for a cluster, by some of its
    servers; ``embedded:DIR`` for a server of its own, which all processes that name DIR share;
    ``fake:NAME`` for fakeredis, in tests; ``sqlite:PATH`` and ``jsonl:DIR``; ``memory:NAME``. After three slashes
    comes a relative path, after four an absolute one, as SQLAlchemy has it (``sqlite:///runs.db``). ``fake:`` and
    ``memory:`` stores of one name are shared within the process; without a name each is alone. All options but
    ``event_type``, ``state_type``, ``fallback`` and ``upcasts`` may stand in the query instead
    (``?namespace=dev``); in that of a Redis URL, what is none of these is an option of redis-py.

    Closing the store, or leaving it as a context manager, closes what was opened here. It is pickled by its URL,
    in which paths are absolute. In a forked process it starts anew: with connections of its own, whatever the
    parent's threads were doing; its leases are the parent's.

    Args:
        url: The URL; None takes the one in the environment variable ``RUNSTREAM_URL``. ``@FILE``: the one in that
            file.
        archive: The ``sqlite:`` or ``jsonl:`` URL of the archive that a drain worker writes from that server: the
            store is then tiered, and reads a run as one, from the archive and from Redis
            (:class:`~runstream.stores.tiered.TieredCheckpointer`). None: no archive.
        **options: What the scheme's store takes, as it takes it. All: ``event_type``, ``state_type``,
            ``fallback``, ``upcasts``, ``max_event_bytes``. Redis: ``namespace``, ``partitions``, ``durability``,
            ``retry_seconds`` (in seconds), ``resend_lost``, ``max_hot_events``, ``trace_context``. Redis, memory
            and SQLite: ``require_lease``. SQLite and JSONL: ``keep_snapshots``, ``mode``. JSONL: ``plain_names``.

    Returns:
        The store, typed by ``event_type`` and ``state_type``.

    Raises:
        ConfigurationError: A URL, an option or the server does not fit.
        StoreUnavailable: The server cannot be reached.
    """
    target = _Target.parse(url, options)
    archive = _everywhere(archive)
    beside = None if archive is None else _archive_beside(target, archive)
    with ExitStack() as opened:
        store = target.open()  # first: where there is no server, no new archive is left
        if beside is not None:
            hot = opened.enter_context(store)
            store = TieredCheckpointer(hot, opened.enter_context(beside.open()))
            own(store, opened.pop_all().close)
    return reopen_with(store, _reopen, target.url, archive, options)


@contextmanager
def open_server(url: str | None = None) -> Iterator[tuple[Transport, str, Mapping[str, Any]]]:
    """The way to the server that a URL names, its place, and the store's options in the URL; no store is opened.

    Raises:
        ConfigurationError: The URL does not fit, or names no server.
    """
    target = _Target.parse(url, {})
    if target.scheme in _LOCAL:
        raise ConfigurationError(
            f"{target.scheme}: is no server: give the URL of one; an archive is checked by `runstream verify`"
        )
    with ExitStack() as opened:
        transport, server = target.reach(opened)
        yield transport, transport.place if server is None else f"embedded:{target.name}", target.options


@overload
def connect_async(
    url: str | None = None,
    *,
    archive: str,
    event_type: type[E] | None = None,
    state_type: type[S] | None = None,
    **options: Unpack[StoreOptions],
) -> Opening[AsyncSnapshotStore[E, S]]: ...
@overload
def connect_async(
    url: str | None = None,
    *,
    archive: None = None,
    event_type: None = None,
    state_type: None = None,
    **options: Unpack[StoreOptions],
) -> Opening[AsyncStore[PAEvent, RunState]]: ...
@overload
def connect_async(
    url: str | None = None,
    *,
    archive: None = None,
    event_type: type[E],
    state_type: None = None,
    **options: Unpack[StoreOptions],
) -> Opening[AsyncStore[E, RunState]]: ...
@overload
def connect_async(
    url: str | None = None,
    *,
    archive: None = None,
    event_type: None = None,
    state_type: type[S],
    **options: Unpack[StoreOptions],
) -> Opening[AsyncStore[PAEvent, S]]: ...
@overload
def connect_async(
    url: str | None = None,
    *,
    archive: None = None,
    event_type: type[E],
    state_type: type[S],
    **options: Unpack[StoreOptions],
) -> Opening[AsyncStore[E, S]]: ...
def connect_async(url: str | None = None, *, archive: str | None = None, **options: Any) -> Opening[Any]:
    """Open the store that a URL names, for asyncio: the URLs and the options are those of :func:`connect`.

    Closing the store, or leaving its ``async with``, closes what was opened here. It is pickled by its URL, in
    which paths are absolute. It may be used in any event loops, also in several at once: each has connections of
    its own, which are closed with it. In a forked process it starts anew. The calls of ``sqlite:`` and ``jsonl:``
    stores, and of archives, are made in threads.

    Args:
        url: The URL; None takes the one in the environment variable ``RUNSTREAM_URL``. ``@FILE``: the one in that
            file.
        archive: The ``sqlite:`` or ``jsonl:`` URL of the archive that a drain worker writes from that server: the
            store is then tiered, and reads a run as one, from the archive and from Redis
            (:class:`~runstream.stores.tiered.AsyncTieredCheckpointer`). None: no archive.
        **options: What the scheme's store takes, as it takes it. All: ``event_type``, ``state_type``,
            ``fallback``, ``upcasts``, ``max_event_bytes``. Redis: ``namespace``, ``partitions``, ``durability``,
            ``retry_seconds`` (in seconds), ``resend_lost``, ``max_hot_events``, ``trace_context``. Redis, memory
            and SQLite: ``require_lease``. SQLite and JSONL: ``keep_snapshots``, ``mode``. JSONL: ``plain_names``.

    Returns:
        What is awaited, or entered with ``async with``, to have the store, typed by ``event_type`` and
        ``state_type``.

    Raises:
        ConfigurationError: A URL, an option or the server does not fit.
        StoreUnavailable: The server cannot be reached.
    """
    target = _Target.parse(url, options)
    return Opening(partial(_open_async, target.url, _everywhere(archive), options))


def _everywhere(archive: str | None) -> str | None:
    """The archive's URL as it means the same in every working directory."""
    return None if archive is None else _Target.parse(archive, {}).url


async def _open_async(url: str, archive: str | None, options: dict[str, Any]) -> AsyncStore[Any, Any]:
    target = _Target.parse(url, options)
    beside = None if archive is None else _archive_beside(target, archive)
    # joining an embedded server, or opening a file, waits; a thread does that
    store = await asyncio.to_thread(target.build_async)
    try:
        await store._runner.prepare()  # first: where there is no server, no new archive is left
        if beside is not None:
            store = _tiered_async(store, await asyncio.to_thread(beside.open))
    except BaseException:  # whatever it is, connections and server are given back
        await store.close()
        raise
    return reopen_with(store, _reopen_async, url, archive, options)


def _reopen(url: str, archive: str | None, options: dict[str, Any]) -> Store[Any, Any]:
    return connect(url, archive=archive, **options)


def _reopen_async(url: str, archive: str | None, options: dict[str, Any]) -> AsyncStore[Any, Any]:
    target = _Target.parse(url, options)
    with ExitStack() as opened:
        archived = None if archive is None else opened.enter_context(_archive_beside(target, archive).open())
        store = target.build_async()
        if archived is not None:
            store = _tiered_async(store, archived)
            opened.pop_all()
    return reopen_with(store, _reopen_async, url, archive, options)


def _tiered_async(hot: Any, archive: ArchiveStore[Any, Any]) -> AsyncStore[Any, Any]:
    store: AsyncStore[Any, Any] = AsyncTieredCheckpointer(hot, archive)
    own_async(store, partial(_close_both, hot, archive))
    return store


async def _close_both(hot: AsyncStore[Any, Any], archive: Store[Any, Any]) -> None:
    await hot.close()
    await asyncio.to_thread(archive.close)


def _archive_beside(hot: _Target, url: str) -> _Target:
    """The archive of a tiered store, with the event and state types of its hot part."""
    target = _Target.parse(url, {name: hot.options[name] for name in _OBJECTS if name in hot.options})
    if hot.scheme in _LOCAL or target.scheme not in ARCHIVE_SCHEMES:
        raise ConfigurationError(
            "a tiered store is a Redis store (redis:, rediss:, unix:, embedded:, fake:) with an archive that is"
            f" sqlite: or jsonl:, not {hot.scheme}: with {target.scheme}:"
        )
    return target


class _Target:
    """A URL in parts: scheme, what it names, and the store's options."""

    def __init__(self, url: str, scheme: str, name: str, options: dict[str, Any]) -> None:
        self.url = url
        self.scheme = scheme
        self.name = name
        self.options = options

    @classmethod
    def parse(cls, url: str | None, options: Mapping[str, Any]) -> _Target:
        """The parts of a URL. Raises ConfigurationError for a scheme or option that there is not."""
        url = os.environ.get("RUNSTREAM_URL") if url is None else url
        check_is_text(url)
        if not url:
            raise ConfigurationError("no URL: pass one, or set RUNSTREAM_URL (for example redis://localhost)")
        url = url_in(url)
        scheme, colon, rest = url.partition(":")
        if not colon or scheme not in _SCHEMES:
            raise ConfigurationError(
                # no more of it than that: whatever this is, it may have a password in it
                f"the URL's scheme is none of {', '.join(_SCHEMES)};"
                " for example redis://localhost, embedded:./state, sqlite:runs.db"
            )
        known = options_in_url(scheme)
        name, _, query = rest.partition("?")
        ours, others = split_query(scheme, query, known, takes_others=scheme in SERVER_SCHEMES)
        for option in options:
            if option not in known and option not in _OBJECTS:
                raise ConfigurationError(
                    f"{scheme}: has no option {option!r}; it has {', '.join((*known, *_OBJECTS))}"
                )
        if scheme in SERVER_SCHEMES:
            name = f"{scheme}:{name}" + (f"?{urlencode(others)}" if others else "")
        elif scheme in _PATHS:
            name = path_in(scheme, name)
            url = with_path(scheme, name, query)  # a process with another working directory opens the same
        else:
            name = unquote(name)
        return cls(url, scheme, name, {**ours, **options})

    def open(self) -> Any:
        """The sync store."""
        if self.scheme in _LOCAL:
            return _LOCAL[self.scheme](self.name, self.options)
        with ExitStack() as opened:
            transport, server = self.reach(opened)
            store: RedisCheckpointer[Any, Any] = RedisCheckpointer(transport, **self.options)
            if server is not None:
                # a fork is a user of the server from its first call on, and not before: it may be idle for ever
                rejoin_after_fork(store, server.open)
                place_at(store, self._server_place())
            own(store, opened.pop_all().close)
            return store

    def reach(self, opened: ExitStack) -> tuple[Transport, EmbeddedServer | None]:
        """The way to the server until ``opened`` is closed, and the embedded one that this joins."""
        server = self._join_server(opened)
        transport = open_transport(self._server_url(server))
        opened.callback(transport.close)
        return transport, server

    def build_async(self) -> Any:
        """The async store, not yet checked. A local one runs in threads."""
        if self.scheme in _LOCAL:
            return self._open_local_async()
        with ExitStack() as opened:
            server = self._join_server(opened)
            transport = open_async_transport(self._server_url(server))
            store: AsyncRedisCheckpointer[Any, Any] = AsyncRedisCheckpointer(transport, **self.options)
            if server is not None:
                rejoin_after_fork(store, server.open)
                place_at(store, self._server_place())
            leave = opened.pop_all().close

        async def release() -> None:
            await transport.close()
            await asyncio.to_thread(leave)

        own_async(store, release)
        return store

    def _open_local_async(self) -> AsyncStore[Any, Any]:
        """A local store for asyncio: the same operations, whose calls are made in threads."""
        local = self.open()
        store: AsyncStore[Any, Any] = AsyncStore(local._operations, AsyncRunner())
        place_like(store, local)
        own_async(store, partial(asyncio.to_thread, local.close))
        return store

    def _join_server(self, opened: ExitStack) -> EmbeddedServer | None:
        """The embedded server, joined until ``opened`` is closed; None for every other scheme."""
        if self.scheme != "embedded":
            return None
        sync_always = self.options.get("durability") == "fsync"
        return opened.enter_context(EmbeddedServer(self.name, sync_always=sync_always))

    def _server_place(self) -> str:
        """Where an embedded server's store is, by what the user knows it: not by its socket."""
        return f"embedded:{self.name}, namespace {self.options.get('namespace', 'runstream')!r}"

    def _server_url(self, embedded: EmbeddedServer | None) -> str:
        if embedded is not None:
            return f"unix://{quote(embedded.socket_path)}"
        return f"fake:{self.name}" if self.scheme == "fake" else self.name


_LOCAL: Mapping[str, Callable[[str, dict[str, Any]], Any]] = {
    "memory": lambda name, options: InMemoryCheckpointer(name=name, **options),
    "sqlite": lambda path, options: SQLiteCheckpointer(path, **options),
    "jsonl": lambda directory, options: JSONLCheckpointer(directory, **options),
}
