"""What the tests of long-lived workers look at."""

from __future__ import annotations

import pytest

from runstream.stores.redis.operations.admin.status import NamespaceStatus, WorkerReport, namespace_status
from tests.support.drain_tools import Hot
from tests.support.servers import PROGRAMS

needs_server = pytest.mark.skipif("valkey" not in PROGRAMS, reason="needs a real server")


def status_of(hot: Hot) -> NamespaceStatus:
    return hot.perform(namespace_status(hot.context.keys))


def reported(hot: Hot) -> dict[str, WorkerReport]:
    return {worker.name: worker for worker in status_of(hot).workers}
