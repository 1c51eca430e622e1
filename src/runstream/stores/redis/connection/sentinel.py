"""Clients of whichever server is the primary now, as sentinels say: ``redis+sentinel://HOST:PORT,…/SERVICE``.

Each connection asks the sentinels where the primary is when it connects, and closes when its server says that it
is none any more. Nothing else differs from one server: pools, followers and shared connections are the same. See
https://redis.io/docs/latest/develop/reference/sentinel-clients/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode

import redis
import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from runstream.model.errors import ConfigurationError
from runstream.stores.redis.connection.errors import is_of_replica
from runstream.stores.redis.connection.url_options import addresses_in

__all__ = ["SENTINEL_SCHEMES", "Sentinels", "asking_sentinels", "split_sentinels"]

SENTINEL_SCHEMES: Mapping[str, str] = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
"""By scheme, the one of a server that is found there."""

_PORT = 26379
_SENTINEL: Any = Sentinel  # redis-py has no types for them
_ASYNC_SENTINEL: Any = AsyncSentinel
_IS_A_REPLICA = "the server that was the primary is a replica by now"
_OF_SENTINELS = {"sentinel_username": "username", "sentinel_password": "password"}


class Sentinels(NamedTuple):
    """Who knows where a primary is.

    Attributes:
        addresses: Host and port of each sentinel.
        service: The name of the primary.
        options: How sentinels are connected to.
    """

    addresses: tuple[tuple[str, int], ...]
    service: str
    options: Mapping[str, Any]

    def like(self, pool: Any) -> Sentinels:
        """The same, who are connected to as a pool's connections are: with their timeouts, and over TLS."""
        shared = {
            name: value for name, value in pool.connection_kwargs.items() if name.startswith(("ssl", "socket_"))
        }
        is_tls = issubclass(pool.connection_class, redis.SSLConnection | redis.asyncio.SSLConnection)
        return self._replace(options={**shared, **self.options, "ssl": is_tls})

    @property
    def place(self) -> str:
        """Where they are, for people to read."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.addresses)
        scheme = "rediss+sentinel" if self.options.get("ssl") else "redis+sentinel"
        return f"{scheme}://{hosts}/{self.service}"

    def primary(self) -> tuple[str, int]:
        """Host and port of the primary. Raises ConnectionError if no sentinel knows of one that is well."""
        once = Retry(NoBackoff(), 0)  # the next one is asked, and in the end the driver repeats all of it
        asked: Any = _SENTINEL(self.addresses, sentinel_kwargs={**self.options, "retry": once})
        try:
            host, port = asked.discover_master(self.service)
            return str(host), int(port)
        except exceptions.ConnectionError:  # of the error's own kind redis-py has two
            said = [_said(one.sentinel_masters) for one in asked.sentinels]
        finally:
            for one in asked.sentinels:
                one.close()
        raise self._why_unknown(said)

    async def async_primary(self) -> tuple[str, int]:
        """The same under asyncio."""
        once = AsyncRetry(NoBackoff(), 0)
        asked: Any = _ASYNC_SENTINEL(self.addresses, sentinel_kwargs={**self.options, "retry": once})
        try:
            host, port = await asked.discover_master(self.service)
            return str(host), int(port)
        except exceptions.ConnectionError:  # of the error's own kind redis-py has two
            said = [await _async_said(one.sentinel_masters) for one in asked.sentinels]
        finally:
            for one in asked.sentinels:
                await one.aclose()
        raise self._why_unknown(said)

    def _why_unknown(self, said: Sequence[object]) -> exceptions.ConnectionError:
        """Why none of them has named the primary; redis-py shows all its settings instead, and of no error why."""
        failures = [one for one in said if isinstance(one, Exception)]
        if len(failures) < len(said):
            return exceptions.ConnectionError(
                f"no sentinel knows of a primary {self.service!r} that is well; see SENTINEL MASTERS for"
                " those that they watch"
            )
        for refused in failures:
            if isinstance(refused, exceptions.AuthenticationError):
                return refused
        error = exceptions.ConnectionError(f"no sentinel says where {self.service!r} is: {failures[0]}")
        error.__cause__ = failures[0]
        return error


def _said(ask: Callable[[], Any]) -> Any:
    """What a sentinel says, or why it says nothing."""
    try:
        return ask()
    except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
        return error


async def _async_said(ask: Callable[[], Any]) -> Any:
    try:
        return await ask()
    except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
        return error


def split_sentinels(url: str) -> tuple[Sentinels | None, str]:
    """What a URL says of sentinels, and the URL of the server without that, whose host they will tell.

    Raises:
        ConfigurationError: It names no sentinel, or no service.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in SENTINEL_SCHEMES:
        return None, url
    place, _, query_text = rest.partition("?")
    netloc, _, path = place.partition("/")
    user, at, hosts = netloc.rpartition("@")
    service, _, database = path.partition("/")
    addresses = addresses_in(hosts, _PORT)
    if not service or addresses is None:
        raise ConfigurationError(
            f"{scheme}: names sentinels and the primary that they watch: {scheme}://host:26379,host:26379/mymaster"
        )
    query = parse_qsl(query_text, keep_blank_values=True)
    options = {_OF_SENTINELS[name]: text for name, text in query if name in _OF_SENTINELS}
    others = urlencode([(name, text) for name, text in query if name not in _OF_SENTINELS])
    server = f"{SENTINEL_SCHEMES[scheme]}://{user}{at}localhost/{database}" + (f"?{others}" if others else "")
    return Sentinels(addresses, unquote(service), options), server


def asking_sentinels(kind: type[Any], sentinels: Sentinels) -> type[Any]:
    """A class of connections that asks sentinels for its host and port each time that it connects.

    Args:
        kind: The class of redis-py's connections, sync or asyncio.
        sentinels: Who is asked.
    """
    mixed = _AsyncPrimary if issubclass(kind, redis.asyncio.Connection) else _Primary
    return type(f"Primary{kind.__name__}", (mixed, kind), {"sentinels": sentinels, "place": sentinels.place})


class _Primary:
    """Mixed into a class of connections."""

    sentinels: Sentinels

    def _connect(self: Any) -> Any:
        self.host, self.port = self.sentinels.primary()
        return super()._connect()  # type: ignore[misc]  # of the class that this is mixed into

    def read_response(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().read_response(*args, **kwargs)  # type: ignore[misc]  # of the class that this is mixed into
        except exceptions.ResponseError as error:
            if not is_of_replica(error):
                raise
            self.disconnect()
            raise exceptions.ConnectionError(_IS_A_REPLICA) from error


class _AsyncPrimary:
    """The same for asyncio."""

    sentinels: Sentinels

    async def _connect(self: Any) -> Any:
        self.host, self.port = await self.sentinels.async_primary()
        return await super()._connect()  # type: ignore[misc]  # of the class that this is mixed into

    async def read_response(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().read_response(*args, **kwargs)  # type: ignore[misc]  # of the class that this is mixed into
        except exceptions.ResponseError as error:
            if not is_of_replica(error):
                raise
            await self.disconnect()
            raise exceptions.ConnectionError(_IS_A_REPLICA) from error
