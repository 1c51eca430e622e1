"""A namespace of fakeredis, and an archive of each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.repair.restore.restoring_tools import KINDS
from tests.support.archive_check import Archive
from tests.support.backends import Backend, RedisBackend
from tests.support.random_runs import one_archive


@pytest.fixture
def backend(make_backend: Callable[[str], Backend]) -> RedisBackend:
    """fakeredis."""
    made = make_backend("fake")
    assert isinstance(made, RedisBackend)
    return made


@pytest.fixture(params=KINDS)
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Archive]:
    """An archive of each kind."""
    with one_archive(request.param, tmp_path) as archive:
        yield archive
