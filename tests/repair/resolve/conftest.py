"""A run in Redis and in two archives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runstream import (
    JSONLCheckpointer,
    SQLiteCheckpointer,
)
from tests.repair.resolve.world import World
from tests.support.archive_check import Archive
from tests.support.backends import Backend, RedisBackend
from tests.support.drain_tools import open_hot


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[[RedisBackend], World]]:
    made: list[Archive] = []

    def make(backend: RedisBackend, directory: str = "one") -> World:
        place = tmp_path / directory
        place.mkdir()
        archives: list[Archive] = [SQLiteCheckpointer(place / "a.db"), JSONLCheckpointer(place / "j")]
        made.extend(archives)
        return World(backend, open_hot(backend, partitions=2), archives)

    yield make
    for archive in made:
        archive.close()


@pytest.fixture
def world(make_backend: Callable[[str], Backend], make_world: Callable[[RedisBackend], World]) -> World:
    """On fakeredis."""
    backend = make_backend("fake")
    assert isinstance(backend, RedisBackend)
    return make_world(backend)


@pytest.fixture
def any_world(redis_backend: RedisBackend, make_world: Callable[[RedisBackend], World]) -> World:
    """On every kind of server."""
    return make_world(redis_backend)
