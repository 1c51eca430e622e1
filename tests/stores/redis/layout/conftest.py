"""A store in Redis, and the client that looks at what it wrote."""

from __future__ import annotations

from typing import Any, cast

import pytest

from runstream.stores.redis.checkpointer import RedisCheckpointer
from tests.support.backends import RedisBackend


@pytest.fixture
def store(redis_backend: RedisBackend) -> RedisCheckpointer[Any, Any]:
    """A sync store on every kind of server."""
    return cast("RedisCheckpointer[Any, Any]", redis_backend.open())


@pytest.fixture
def raw(redis_backend: RedisBackend) -> Any:
    """A client that looks at what the store wrote. Replies are bytes."""
    return redis_backend.raw
