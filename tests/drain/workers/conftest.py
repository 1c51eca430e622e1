"""A real server, and a store that reaches it through a proxy which a test breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from runstream import RedisCheckpointer
from runstream.testing import FaultProxy
from tests.support.backends import Backend, ServerBackend
from tests.support.drain_tools import Hot


@pytest.fixture
def real(make_backend: Callable[[str], Backend]) -> ServerBackend:
    backend = make_backend("valkey")
    assert isinstance(backend, ServerBackend)
    return backend


@pytest.fixture
def proxied(real: ServerBackend) -> Iterator[tuple[FaultProxy, Hot]]:
    """A store that reaches a real server through a proxy, and gives up at once."""
    with (
        FaultProxy(real.server.url) as proxy,
        redis.Redis(port=proxy.port, retry=Retry(NoBackoff(), 0)) as client,
    ):
        yield proxy, RedisCheckpointer[Any, Any](client, namespace=real.namespace, retry_seconds=0)
