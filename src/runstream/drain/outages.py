"""Outages as episodes: each is logged when it begins and when it ends, and not in between."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

from runstream.drain.stats import REDIS, Progress
from runstream.model.errors import RunstreamError
from runstream.model.results import Failure

__all__ = ["Episodes"]

_log = logging.getLogger("runstream.drain")

_SHORTEST_SECONDS = 0.01
_LONGEST_SECONDS = 30.0
_LASTING_ATTEMPTS = 3
_MOST_DOUBLINGS = 16  # more would not change the pause, and at some point not fit into a float


class _Episode:
    """One outage: since when, by the clock that never jumps, and how many attempts have failed."""

    __slots__ = ("attempts", "since")

    def __init__(self) -> None:
        self.attempts = 0
        self.since = time.monotonic()


class Episodes:
    """What fails at the moment, by the archive's location or ``"redis"``.

    ``shortest_seconds`` is the first pause; each is twice as long as the one before, up to half a minute.
    ``changed`` is called when an episode begins or ends.
    """

    def __init__(
        self, worker: str, progress: Progress, shortest_seconds: float, changed: Callable[[], None]
    ) -> None:
        self._worker = worker
        self._progress = progress
        self._shortest_seconds = max(_SHORTEST_SECONDS, shortest_seconds)
        self._changed = changed
        self._episodes: dict[str, _Episode] = {}

    def failed(self, what: str, error: RunstreamError) -> float:
        """Note a failed attempt, and tell how many seconds to wait before the next."""
        episode = self._episodes.get(what)
        if episode is None:
            episode = self._episodes[what] = _Episode()
            self._progress.failing[what] = Failure(time.time(), str(error))
            _log.warning(
                "drain %s: %s fails: %s; nothing is trimmed, and it is tried again until the cause is gone",
                self._worker,
                _named(what),
                error,
                extra={"archive": None if what == REDIS else what, "error": str(error)},
            )
            self._changed()
        episode.attempts += 1
        self._progress.retries += 1
        longest = min(_LONGEST_SECONDS, self._shortest_seconds * 2.0 ** min(episode.attempts, _MOST_DOUBLINGS))
        # chance keeps workers from coming back all at one moment
        return longest * random.uniform(0.5, 1)  # noqa: S311 - nothing secret hangs on it

    @property
    def have_lasted(self) -> bool:
        """Whether an archive has failed several times, so that it may be one run that it fails for."""
        return any(
            what != REDIS and episode.attempts >= _LASTING_ATTEMPTS for what, episode in self._episodes.items()
        )

    def over(self, what: str) -> None:
        """Note that it works: the end of its episode, if there is one."""
        episode = self._episodes.pop(what, None)
        if episode is None:
            return
        del self._progress.failing[what]
        _log.info(
            "drain %s: %s works again, after %.1f s",
            self._worker,
            _named(what),
            time.monotonic() - episode.since,
            extra={"archive": None if what == REDIS else what},
        )
        self._changed()


def _named(what: str) -> str:
    return "Redis" if what == REDIS else f"archive {what}"
