"""A store in Redis, an archive of every kind, and the view over both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import RedisCheckpointer
from runstream.stores.archive.facade import ArchiveStore
from runstream.stores.tiered import TieredCheckpointer
from tests.stores.tiered.tiers import ARCHIVES, Hot, Tiered
from tests.support.backends import RedisBackend


@pytest.fixture
def hot(redis_backend: RedisBackend) -> Hot:
    store = redis_backend.open()
    assert isinstance(store, RedisCheckpointer)
    return store


@pytest.fixture(params=ARCHIVES)
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArchiveStore[Any, Any]]:
    with closing(ARCHIVES[request.param](tmp_path)) as opened:
        yield opened


@pytest.fixture
def tiered(hot: Hot, archive: ArchiveStore[Any, Any]) -> Tiered:
    return TieredCheckpointer(hot, archive)
