"""Every kind of store that has leases."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.stores.leases.lease_tools import LEASING, SHARED_LEASING
from tests.support.backends import Backend, Store
from tests.support.kinds import short


@pytest.fixture(params=short(LEASING))
def backend(request: pytest.FixtureRequest, make_backend: Callable[[str], Backend]) -> Backend:
    """A place with leases, of every kind that there is."""
    return make_backend(request.param)


@pytest.fixture
def store(backend: Backend) -> Store:
    """A store with leases, of every kind that there is."""
    return backend.open()


@pytest.fixture(params=short(SHARED_LEASING))
def two_stores(request: pytest.FixtureRequest, make_backend: Callable[[str], Backend]) -> tuple[Store, Store]:
    """Two writers with leases: stores over one place, of every kind that allows it."""
    shared = make_backend(request.param)
    return shared.open(), shared.open()
