"""A failover, as what is left of it in a namespace."""

from __future__ import annotations

from tests.support.backends import RedisBackend

__all__ = ["Failover"]


class Failover:
    """A server that comes back with an earlier state of a namespace, as an old replica would."""

    def __init__(self, backend: RedisBackend) -> None:
        self._backend = backend
        self._kept: dict[str, bytes] = {}

    def keep(self) -> None:
        """What the replica has."""
        self._kept = {key: self._backend.raw.dump(key) for key in self._backend.key_names()}

    def promote(self) -> None:
        """All else is lost."""
        for key in self._backend.key_names():
            self._backend.raw.delete(key)
        for key, value in self._kept.items():
            self._backend.raw.restore(key, 0, value)
