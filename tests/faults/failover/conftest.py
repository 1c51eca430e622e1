"""A primary and a replica of every kind of server, and stores that write through a failover."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from runstream import (
    RedisCheckpointer,
    connect,
)
from tests.faults.failover.failover_tools import Hot
from tests.support.kinds import REAL, short
from tests.support.servers import Pair, primary_and_replica


@pytest.fixture(params=short(REAL))
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A primary and a replica, of every server that there is."""
    with primary_and_replica(request.param) as pair:
        yield pair


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """What is closed when the test is over."""
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def open_hot(pair: Pair, opened: ExitStack) -> Callable[..., Hot]:
    """Open stores at the primary: each is another process, for all that it knows."""

    def open_one(**options: Any) -> Hot:
        store = opened.enter_context(connect(pair.url, partitions=1, **options))
        assert isinstance(store, RedisCheckpointer)
        return store

    return open_one


@pytest.fixture
def hot(open_hot: Callable[..., Hot]) -> Hot:
    return open_hot()
