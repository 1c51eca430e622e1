"""What one store object knows of its runs: how far it knows each history without a hole.

A snapshot covers the history that its writer recovered and appended itself, never what somebody else
appended in between. To cover too little is safe: a recovery then gives events that the state already
has. To cover too much would lose them. So whatever is not known for sure is not covered.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from runstream.model.results import Cursor

__all__ = ["Coverage", "CoverageBook", "Covered"]

_MAX_AHEAD = 1024
_MAX_RUNS = 4096


class Covered(NamedTuple):
    """The offset up to which a writer knows a history, and the history that is: its start's chain."""

    offset: int = 0
    history: int | None = None


@dataclass(slots=True)
class Coverage:
    """The offset up to which a writer knows a run, or one lane of it.

    ``history`` is the chain of the run's start, which is another one for every run that is created.
    Threads of one store object may append at once, so replies can arrive out of order: a stretch that
    is ahead of what is covered waits in ``ahead`` until the hole before it is closed.
    """

    history: int
    covered: int = 0
    ahead: dict[int, int] = field(default_factory=dict)

    def appended(self, before: int, last: int) -> None:
        """Note own events up to ``last``, with ``before`` the offset of the event before the first of them."""
        if before > self.covered:
            if len(self.ahead) < _MAX_AHEAD:
                self.ahead[before] = last
            return
        self.covered = max(self.covered, last)
        while self.ahead and self.covered in self.ahead:
            self.covered = self.ahead.pop(self.covered)


@dataclass(slots=True)
class _Stretch:
    """Own events of one lane, one right after the other, that are noted up to ``first`` and go up to ``last``."""

    run_id: str
    lane_id: str
    start: Cursor
    first: int
    last: int


class CoverageBook:
    """The coverage of every run and lane that a store object writes; bounded, and safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pages: OrderedDict[tuple[str, str | None], Coverage] = OrderedDict()
        self._open: _Stretch | None = None

    def covered(self, run_id: str, lane_id: str | None) -> Covered:
        """What a snapshot saved now would cover."""
        with self._lock:
            self._note_open()
            page = self._pages.get((run_id, lane_id))
            return Covered() if page is None else Covered(page.covered, page.history)

    def appended_one(self, run_id: str, lane_id: str, start: Cursor, before: int, lane_before: int) -> None:
        """Note an append of one event, after these offsets in its run and in its lane.

        Where that goes on from the one before, as it nearly always does, it is noted later, with what follows.
        """
        with self._lock:
            stretch = self._open
            if (
                stretch is not None
                and stretch.last == before == lane_before
                and stretch.lane_id == lane_id
                and stretch.run_id == run_id
                and stretch.start == start
            ):
                stretch.last = before + 1
                return
            self._note_open()
            self._appended(run_id, start, before, before + 1, {lane_id: (lane_before, before + 1)})
            self._open = _Stretch(run_id, lane_id, start, before + 1, before + 1)

    def _note_open(self) -> None:
        stretch, self._open = self._open, None
        if stretch is not None:
            run_id, first, last = stretch.run_id, stretch.first, stretch.last
            self._appended(run_id, stretch.start, first, last, {stretch.lane_id: (first, last)})

    def appended(
        self, run_id: str, start: Cursor, former: int, last: int, lanes: Mapping[str, tuple[int, int]]
    ) -> None:
        """Note an append: the run went from ``former`` to ``last``, each lane from its first to its second."""
        with self._lock:
            self._note_open()
            self._appended(run_id, start, former, last, lanes)

    def _appended(
        self, run_id: str, start: Cursor, former: int, last: int, lanes: Mapping[str, tuple[int, int]]
    ) -> None:
        self._page(run_id, None, start).appended(former, last)
        for lane_id, (before, lane_last) in lanes.items():
            self._page(run_id, lane_id, start).appended(before, lane_last)

    def recovered(self, run_id: str, lane_id: str | None, start: Cursor, offset: int) -> None:
        """Note that the history up to ``offset`` was read in order to go on from there."""
        with self._lock:
            self._note_open()
            page = self._page(run_id, lane_id, start)
            page.covered = max(page.covered, offset)

    def loaded(self, run_id: str, lane_id: str | None, start: Cursor, offset: int) -> None:
        """Note that a snapshot was loaded. A writer that is at work already learns nothing from that."""
        with self._lock:
            self._note_open()
            known = self._pages.get((run_id, lane_id))
            if known is None or known.history != start.chain:
                self._page(run_id, lane_id, start).covered = offset

    def forget(self, run_id: str) -> None:
        """Know nothing of a run any more."""
        with self._lock:
            self._note_open()
            for place in [place for place in self._pages if place[0] == run_id]:
                del self._pages[place]

    def _page(self, run_id: str, lane_id: str | None, start: Cursor) -> Coverage:
        page = self._pages.get((run_id, lane_id))
        if page is None or page.history != start.chain:  # new here, or deleted and created anew
            page = self._pages[run_id, lane_id] = Coverage(start.chain, start.offset)
            if len(self._pages) > _MAX_RUNS:
                self._pages.popitem(last=False)
        self._pages.move_to_end((run_id, lane_id))
        return page
