"""What the tests of the checkpointer share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integrations.langgraph.savers import Places
from tests.support.backends import Backend


@pytest.fixture
def places(make_backend: Callable[[str], Backend], tmp_path: Path) -> Places:
    """Where threads are kept, by name."""
    return Places(make_backend, tmp_path)
