"""The servers of fakeredis, which lie in this process: shared by their name, and whole in a forked child."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from runstream.operations.forks import HeldLock, held_over_fork
from runstream.stores.redis.connection.client_settings import unconnected

__all__ = ["hold_over_fork"]

_locks: WeakKeyDictionary[Any, HeldLock] = WeakKeyDictionary()


def hold_over_fork(client: Any) -> None:
    """Let no fork happen in the middle of a command, if this is a client of fakeredis."""
    if not client.connection_pool.connection_class.__module__.startswith("fakeredis"):
        return
    server = unconnected(client)._server
    if server not in _locks:
        lock = _locks[server] = HeldLock(server.lock)
        held_over_fork(lock)
