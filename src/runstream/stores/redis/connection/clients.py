"""Clients of redis-py and fakeredis for the URLs that :mod:`runstream.connect` takes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from runstream.model.errors import ConfigurationError
from runstream.stores.redis.connection.client_settings import unconnected
from runstream.stores.redis.connection.packing import packing_in_c
from runstream.stores.redis.connection.sentinel import Sentinels, asking_sentinels, split_sentinels
from runstream.stores.redis.connection.url_options import check_url_options

__all__ = [
    "AsyncClient",
    "Client",
    "fake_client_maker",
    "open_async_client",
    "open_client",
    "open_fake_client",
]

Client: TypeAlias = redis.Redis | redis.RedisCluster
"""A client of redis-py."""

AsyncClient: TypeAlias = redis.asyncio.Redis | redis.asyncio.RedisCluster
"""A client of redis-py for asyncio."""

# The options of the clients that we make ourselves; a caller's client is taken as it is. Every exchange can be
# sent again, by redis-py or by a driver: an append is known by its producer's number, the rest leaves the same
# state.
_CLIENT_OPTIONS: dict[str, Any] = {
    "socket_connect_timeout": 5.0,
    "socket_timeout": 5.0,
    # as many as there are threads, tasks and followers: each call takes one while it lasts
    "max_connections": 10_000,
}


def open_client(url: str) -> redis.Redis:
    """Make a client of redis-py. It connects when it is first used.

    Args:
        url: A ``redis://``, ``rediss://``, ``unix://`` or ``redis+sentinel://`` URL, with redis-py's own options
            in its query.

    Returns:
        The client; it does not repeat commands by itself.

    Raises:
        ConfigurationError: redis-py does not take the URL.
    """
    sentinels, url = split_sentinels(url)
    with _client_options(url) as options:
        retry = Retry(NoBackoff(), 0)  # the driver repeats, after more errors and up to a deadline
        client = redis.Redis.from_url(url, retry=retry, **options)
        _set_connections(client.connection_pool, sentinels)
        unconnected(client)
        return client


def open_async_client(url: str) -> redis.asyncio.Redis:
    """As :func:`open_client`, for asyncio."""
    sentinels, url = split_sentinels(url)
    with _client_options(url) as options:
        retry = AsyncRetry(NoBackoff(), 0)
        client = redis.asyncio.Redis.from_url(url, retry=retry, **options)
        _set_connections(client.connection_pool, sentinels)
        unconnected(client)
        return client


def _set_connections(pool: Any, sentinels: Sentinels | None) -> None:
    """Let a pool make connections that pack in C, and that ask sentinels where to."""
    version = pool.connection_kwargs.get("ssl_min_version")
    if isinstance(version, str):  # redis-py before 8 leaves what stands in the URL as it is
        pool.connection_kwargs["ssl_min_version"] = int(version)
    pool.connection_class = packing_in_c(pool.connection_class)
    if sentinels is not None:
        pool.connection_class = asking_sentinels(pool.connection_class, sentinels.like(pool))


@contextmanager
def _client_options(url: str) -> Iterator[Mapping[str, Any]]:
    """The options of a client beside its URL's; within, one error for all that redis-py does not take."""
    query = parse_qsl(url.partition("?")[2], keep_blank_values=True)
    # redis-py before 6 looks whether the certificate is that of the host only where it is told to
    checks_host = url.startswith("rediss:") and dict(query).get("ssl_cert_reqs") != "none"
    try:
        check_url_options(url)
        yield {**_CLIENT_OPTIONS, **({"ssl_check_hostname": True} if checks_host else {})}
    except (ValueError, TypeError, AttributeError, redis.RedisError) as error:
        # neither the URL nor redis-py's own message: both may contain the password
        names = ", ".join(name for name, text in query if "@" not in name + text)
        raise ConfigurationError(
            f"redis-py does not take this {url.partition(':')[0]}: URL ({type(error).__name__});"
            f" see its host, its port and the options in its query ({names or 'it has none'})"
        ) from None


def open_fake_client(name: str) -> redis.Redis:
    """Make a client of fakeredis.

    Args:
        name: Clients of one name share a server within the process; "": a server of its own.

    Raises:
        ConfigurationError: fakeredis or its Lua extra is not installed.
    """
    fakeredis = _fakeredis()
    server = None if name else fakeredis.FakeServer()
    client: redis.Redis = fakeredis.FakeRedis(server=server, host=name or "localhost")
    return client


def fake_client_maker(name: str) -> Callable[[], redis.asyncio.Redis]:
    """What makes clients of fakeredis for asyncio, all of one server; see :func:`open_fake_client`."""
    fakeredis = _fakeredis()
    server = None if name else fakeredis.FakeServer()
    return partial(fakeredis.FakeAsyncRedis, server=server, host=name or "localhost")


def _fakeredis() -> Any:
    try:
        importlib.import_module("lupa")
        return importlib.import_module("fakeredis")
    except ImportError as error:
        raise ConfigurationError(
            "fake: needs fakeredis with its Lua extra; run: pip install 'runstream[testing]'"
        ) from error
