"""The tally of a worker: what it has done, logged once a minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from runstream.model.results import DrainReport

__all__ = ["Tally"]

_log = logging.getLogger("runstream.drain")

_SECONDS = 60.0


class Tally:
    """Sums up what is done, and logs it once a minute: one line for each minute in which something was.

    Args:
        worker: Gives the worker's name, which is another after a fork.
    """

    def __init__(self, worker: Callable[[], str]) -> None:
        self._worker = worker
        self._sum = DrainReport()
        self._since = 0.0

    def add(self, report: DrainReport) -> None:
        """Add to it, and log it if it is time to."""
        if report != DrainReport():
            if self._sum == DrainReport():
                self._since = time.monotonic()
            self._sum += report
        self.tell()

    def tell(self) -> None:
        """Log it, if it began a minute ago, and begin another."""
        seconds = time.monotonic() - self._since
        if self._sum != DrainReport() and seconds >= _SECONDS:
            done, self._sum = self._sum, DrainReport()
            fields = {**done.to_dict(), "seconds": round(seconds, 1)}
            _log.info("drain %s: %s in %.0f s", self._worker(), done, seconds, extra=fields)
