"""One archive of each kind with a worker that drains to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.drain.sink_failures.scene import Scene
from tests.support.backends import Backend, RedisBackend


@pytest.fixture(params=["sqlite", "jsonl"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def scene(kind: str, tmp_path: Path, make_backend: Callable[[str], Backend]) -> Iterator[Scene]:
    """A worker on an archive of either kind."""
    backend = make_backend("fake")
    assert isinstance(backend, RedisBackend)
    (tmp_path / "disk").mkdir()
    with closing(Scene(kind, backend, tmp_path / "disk")) as scene:
        yield scene


@pytest.fixture
def sqlite_scene(tmp_path: Path, make_backend: Callable[[str], Backend]) -> Iterator[Scene]:
    """A worker on a SQLite file."""
    backend = make_backend("fake")
    assert isinstance(backend, RedisBackend)
    with closing(Scene("sqlite", backend, tmp_path)) as scene:
        yield scene


@pytest.fixture
def jsonl_scene(tmp_path: Path, make_backend: Callable[[str], Backend]) -> Iterator[Scene]:
    """A worker on a JSONL directory."""
    backend = make_backend("fake")
    assert isinstance(backend, RedisBackend)
    with closing(Scene("jsonl", backend, tmp_path)) as scene:
        yield scene
