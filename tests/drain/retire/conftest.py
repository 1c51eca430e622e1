"""A store in Redis on every kind of server, and the client that looks into it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.drain.retire.retiring_tools import Hot, open_hot
from tests.support.backends import RedisBackend


@pytest.fixture
def hot(redis_backend: RedisBackend) -> Hot:
    return open_hot(redis_backend)


@pytest.fixture
def raw(redis_backend: RedisBackend) -> Any:
    return redis_backend.raw
