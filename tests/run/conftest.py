"""Stores as the tests of runs need them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.run.run_tools import LEASING, SHARED_LEASING
from tests.support.backends import Backend, Store
from tests.support.handles import Appends
from tests.support.kinds import short


@pytest.fixture
def appends(store: Store) -> Appends:
    return Appends(store)


@pytest.fixture(params=short(LEASING))
def leasing(request: pytest.FixtureRequest, make_backend: Callable[[str], Backend]) -> Store:
    """A store of every kind that gives leases."""
    return make_backend(request.param).open()


@pytest.fixture(params=short(SHARED_LEASING))
def two_leasing(request: pytest.FixtureRequest, make_backend: Callable[[str], Backend]) -> tuple[Store, Store]:
    """Two processes' stores over one place that gives leases."""
    backend = make_backend(request.param)
    return backend.open(), backend.open()
