"""The runs that were checked lately."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

__all__ = ["RecentRuns"]

_SECONDS = 10.0
_MAX_RUNS = 16_384


class RecentRuns:
    """The runs that were checked within the last ten seconds, at most 16,384 of them. Threads may share one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._checked: OrderedDict[str, float] = OrderedDict()

    def __contains__(self, run_id: str) -> bool:
        checked = self._checked.get(run_id)
        return checked is not None and time.monotonic() - checked < _SECONDS

    def add(self, run_id: str) -> None:
        """Note that a run was checked just now."""
        with self._lock:
            self._checked[run_id] = time.monotonic()
            self._checked.move_to_end(run_id)
            if len(self._checked) > _MAX_RUNS:
                self._checked.popitem(last=False)

    def discard(self, run_id: str) -> None:
        """Let a run be checked again."""
        with self._lock:
            self._checked.pop(run_id, None)
