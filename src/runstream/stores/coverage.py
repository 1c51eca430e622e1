"""What one store object knows of its runs: how far it knows each history without a hole.

A snapshot covers the history that its writer recovered and appended itself, never what somebody else
appended in between. To cover too little is safe: a recovery then gives events that the state already
has. To cover too much would lose them. So whatever is not known for sure is not covered.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

__all__ = ["Coverage", "CoverageBook"]

_MAX_AHEAD = 1024
_MAX_RUNS = 4096


@dataclass(slots=True)
class Coverage:
    """The offset up to which a writer knows a run, or one lane of it.

    Threads of one store object may append at once, so replies can arrive out of order: a stretch that
    is ahead of what is covered waits in ``ahead`` until the hole before it is closed.
    """

    covered: int = 0
    ahead: dict[int, int] = field(default_factory=dict)

    def appended(self, before: int, last: int) -> None:
        """Note own events up to ``last``, with ``before`` the offset of the event before the first of them."""
        if before > self.covered:
            if len(self.ahead) < _MAX_AHEAD:
                self.ahead[before] = last
            return
        self.covered = max(self.covered, last)
        while self.covered in self.ahead:
            self.covered = self.ahead.pop(self.covered)


class CoverageBook:
    """The coverage of every run and lane that a store object writes; bounded, and safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pages: OrderedDict[tuple[str, str | None], Coverage] = OrderedDict()

    def covered(self, run_id: str, lane_id: str | None) -> int:
        """The offset that a snapshot saved now would cover."""
        with self._lock:
            page = self._pages.get((run_id, lane_id))
            return 0 if page is None else page.covered

    def appended(self, run_id: str, former: int, last: int, lanes: dict[str, tuple[int, int]]) -> None:
        """Note an append: the run went from ``former`` to ``last``, each lane from its first to its second."""
        with self._lock:
            page = self._page(run_id, None)
            if former < page.covered:  # the run is not the one that was known
                page = self._pages[run_id, None] = Coverage()
            page.appended(former, last)
            for lane_id, (before, lane_last) in lanes.items():
                self._page(run_id, lane_id).appended(before, lane_last)

    def recovered(self, run_id: str, lane_id: str | None, offset: int) -> None:
        """Note that the history up to ``offset`` was read in order to go on from there."""
        with self._lock:
            page = self._page(run_id, lane_id)
            page.covered = max(page.covered, offset)

    def loaded(self, run_id: str, lane_id: str | None, offset: int) -> None:
        """Note that a snapshot was loaded. A writer that is at work already learns nothing from that."""
        with self._lock:
            if (run_id, lane_id) not in self._pages:
                self._page(run_id, lane_id).covered = offset

    def forget(self, run_id: str) -> None:
        """Know nothing of a run any more."""
        with self._lock:
            for place in [place for place in self._pages if place[0] == run_id]:
                del self._pages[place]

    def _page(self, run_id: str, lane_id: str | None) -> Coverage:
        page = self._pages.setdefault((run_id, lane_id), Coverage())
        self._pages.move_to_end((run_id, lane_id))
        if len(self._pages) > _MAX_RUNS:
            self._pages.popitem(last=False)
        return page
