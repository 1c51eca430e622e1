"""A directory for an embedded server, processes that use it, and a check that none outlives its test."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.stores.redis.embedded.users import User, servers_below


@pytest.fixture(autouse=True)
def _no_server_outlives_its_test(tmp_path: Path) -> Iterator[None]:
    yield
    left = servers_below(tmp_path)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory that is not there yet."""
    return tmp_path / "data"


@pytest.fixture
def user(directory: Path) -> Iterator[Callable[..., User]]:
    """A function that starts another user of the directory."""
    users: list[User] = []

    def start(**options: object) -> User:
        users.append(User(directory, **options))  # type: ignore[arg-type]  # handed through
        return users[-1]

    yield start
    for one in users:
        if one.process.returncode is None:
            one.kill()
