"""Clients of redis-py and fakeredis for the URLs that :mod:`runstream.connect` takes."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from runstream.model.errors import ConfigurationError

__all__ = ["open_async_client", "open_async_fake_client", "open_client", "open_fake_client"]

# What the clients that we build ourselves do; a caller's client is taken as it is. Every exchange can be sent
# twice, by redis-py or by a driver: appends know their producer's batch, the rest leaves the same state.
_CLIENT_OPTIONS: dict[str, Any] = {
    "socket_connect_timeout": 5.0,
    "socket_timeout": 5.0,
    # as many as there are threads, tasks and followers: each call has one while it lasts
    "max_connections": 10_000,
}


def open_client(url: str) -> redis.Redis:
    """A client for ``redis://``, ``rediss://`` and ``unix://`` URLs, with redis-py's own options in the query.

    Raises ConfigurationError for a URL that redis-py does not take. Connects when it is first used.
    """
    with _client_options(url):
        retry = Retry(NoBackoff(), 0)  # the driver does that, for more errors and with a deadline
        client = redis.Redis.from_url(url, retry=retry, **_CLIENT_OPTIONS)
        _check_options(client)
        return client


def open_async_client(url: str) -> redis.asyncio.Redis:
    """As :func:`open_client`, for asyncio."""
    with _client_options(url):
        retry = AsyncRetry(NoBackoff(), 0)
        client = redis.asyncio.Redis.from_url(url, retry=retry, **_CLIENT_OPTIONS)
        _check_options(client)
        return client


def _check_options(client: Any) -> None:
    """Raise what redis-py raises for options that no connection takes, now and not at the first call."""
    client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)


@contextmanager
def _client_options(url: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, AttributeError) as error:
        # neither the URL nor what redis-py says of it: both may have the password in them
        names = ", ".join(name for name, _ in parse_qsl(url.partition("?")[2], keep_blank_values=True))
        raise ConfigurationError(
            f"redis-py does not take this {url.partition(':')[0]}: URL ({type(error).__name__});"
            f" see its host, its port and the options in its query ({names or 'it has none'})"
        ) from None


def open_fake_client(name: str) -> redis.Redis:
    """A client of fakeredis. Clients of one name share a server within the process; without a name, none does."""
    fakeredis = _fakeredis()
    server = None if name else fakeredis.FakeServer()
    client: redis.Redis = fakeredis.FakeRedis(server=server, host=name or "localhost")
    return client


def open_async_fake_client(name: str) -> redis.asyncio.Redis:
    """As :func:`open_fake_client`, for asyncio."""
    fakeredis = _fakeredis()
    server = None if name else fakeredis.FakeServer()
    client: redis.asyncio.Redis = fakeredis.FakeAsyncRedis(server=server, host=name or "localhost")
    return client


def _fakeredis() -> Any:
    try:
        importlib.import_module("lupa")
        return importlib.import_module("fakeredis")
    except ImportError as error:
        raise ConfigurationError(
            "fake: needs fakeredis with its Lua extra; run: pip install 'runstream[testing]'"
        ) from error
