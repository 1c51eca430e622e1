"""Outages of Redis and of archives: which backend failed, since when, and when to try it again.

Each outage is logged when it begins and when it ends, and not in between.
"""

from __future__ import annotations

import logging
import random
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runstream.drain.stats import ARCHIVES, REDIS, DrainStats
from runstream.model.errors import StoreUnavailable
from runstream.model.results import Failure

__all__ = ["Outages"]

_log = logging.getLogger("runstream.drain")

_SHORTEST_SECONDS = 0.01
_LONGEST_SECONDS = 30.0
_LASTING_ATTEMPTS = 3
_NAMES = {REDIS: "Redis", ARCHIVES: "its archives"}
_FAILS = "drain %s: %s fails: %s; nothing is trimmed, and it is tried again until the cause is gone"
_WAITS = "drain %s waits until %s are those that are required: %s"
_REQUIRED = "drain %s goes on: %s are those that are required, after %.1f s"
_WORKS = "drain %s: %s works again, after %.1f s"
_MOST_DOUBLINGS = 16  # more would not change the pause, and at some point not fit into a float


class _Outage:
    """One outage: since when, by the clock that never jumps, and how many attempts have failed."""

    __slots__ = ("attempts", "since")

    def __init__(self) -> None:
        self.attempts = 0
        self.since = time.monotonic()


class Outages:
    """The backends that fail at the moment.

    A backend is an archive, by its location, ``"redis"``, or ``"archives"``: those that are required are others.

    Args:
        worker: Gives the worker's name, which is another after a fork.
        stats: Where failures and retries are noted.
        shortest_seconds: The first pause; each is twice as long as the one before, up to half a minute.
        on_change: Called when an outage begins or ends.
    """

    def __init__(
        self, worker: Callable[[], str], stats: DrainStats, shortest_seconds: float, on_change: Callable[[], None]
    ) -> None:
        self._worker = worker
        self._stats = stats
        self._shortest_seconds = max(_SHORTEST_SECONDS, shortest_seconds)
        self._on_change = on_change
        self._outages: dict[str, _Outage] = {}
        self._archives: weakref.WeakKeyDictionary[StoreUnavailable, str] = weakref.WeakKeyDictionary()

    @contextmanager
    def using(self, location: str) -> Iterator[None]:
        """Remember that a StoreUnavailable raised in this context came from the archive at this location."""
        try:
            yield
        except StoreUnavailable as error:
            self._archives[error] = location
            raise

    def backend_of(self, error: StoreUnavailable) -> str:
        """The backend that raised an error: the location of an archive that was in use, else ``"redis"``."""
        return self._archives.get(error, REDIS)

    def failed(self, backend: str, reason: str) -> float:
        """Note a failed attempt, and why. Returns how many seconds to wait before the next."""
        outage = self._outages.get(backend)
        if outage is None:
            outage = self._outages[backend] = _Outage()
            self._stats.failing[backend] = Failure(time.time(), reason)
            text = _WAITS if backend == ARCHIVES else _FAILS
            fields = {"archive": _archive(backend), "error": reason}
            _log.warning(text, self._worker(), _named(backend), reason, extra=fields)
            self._on_change()
        outage.attempts += 1
        self._stats.retries += 1
        longest = min(_LONGEST_SECONDS, self._shortest_seconds * 2.0 ** min(outage.attempts, _MOST_DOUBLINGS))
        # chance keeps workers from coming back all at one moment
        return longest * random.uniform(0.5, 1)  # noqa: S311 - nothing secret hangs on it

    @property
    def have_lasted(self) -> bool:
        """Whether an archive has failed several times, so that it may be one run that it fails for."""
        return any(
            backend not in _NAMES and outage.attempts >= _LASTING_ATTEMPTS
            for backend, outage in self._outages.items()
        )

    def over(self, backend: str) -> None:
        """Note that a backend works: the end of its outage, if there is one."""
        outage = self._outages.pop(backend, None)
        if outage is None:
            return
        del self._stats.failing[backend]
        _log.info(
            _REQUIRED if backend == ARCHIVES else _WORKS,
            self._worker(),
            _named(backend),
            time.monotonic() - outage.since,
            extra={"archive": _archive(backend)},
        )
        self._on_change()


def _named(backend: str) -> str:
    return _NAMES.get(backend, f"archive {backend}")


def _archive(backend: str) -> str | None:
    return None if backend in _NAMES else backend
