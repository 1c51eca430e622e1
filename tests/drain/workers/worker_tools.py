"""What the tests of long-lived workers look at."""

from __future__ import annotations

from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.admin.status import NamespaceStatus, WorkerReport
from tests.support.drain_tools import Hot


def status_of(hot: Hot) -> NamespaceStatus:
    return namespace_of(hot).status()


def reported(hot: Hot) -> dict[str, WorkerReport]:
    return {worker.name: worker for worker in status_of(hot).workers}
