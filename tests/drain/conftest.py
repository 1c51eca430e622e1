"""A store in Redis on every kind of server."""

from __future__ import annotations

import pytest

from tests.support.backends import RedisBackend
from tests.support.drain_tools import Hot, open_hot


@pytest.fixture
def hot(redis_backend: RedisBackend) -> Hot:
    """A store on every kind of server."""
    return open_hot(redis_backend)
