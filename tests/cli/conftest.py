"""What the tests of commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.commands import Place
from tests.support.servers import PROGRAMS


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A server, and a directory for archives."""
    if not PROGRAMS:
        pytest.skip("needs a real server")
    with closing(Place(tmp_path)) as place:
        yield place
