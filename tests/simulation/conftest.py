"""What the tests of the simulation share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _loud() -> Iterator[None]:
    """Whoever plays games from the command line is not told what stores log: other tests look at that."""
    yield
    logging.disable(logging.NOTSET)
