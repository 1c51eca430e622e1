"""One reading of a run across the tiers, while the boundary between them moves.

Dense offsets are the proof: whoever reads towards the boundary may find that it has gone on, and goes back to the
archive for what has left Redis meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from runstream.model.errors import AcknowledgedWritesLost, EventsArchived
from runstream.model.protocols import OnCorrupt
from runstream.model.results import RunInfo
from runstream.operations.messages import lost
from runstream.run.steps import Steps
from runstream.stores.tiered.boundary import Tiered, Tiers, offset_of
from runstream.stores.tiered.pouring import Pour, Pouring

__all__ = ["Patience", "Reading"]


class Reading:
    """One reading of a run, from ``low + 1`` to ``high``."""

    def __init__(
        self,
        tiered: Tiered,
        run_id: str,
        tiers: Tiers,
        low: int,
        high: int,
        limit: int | None = None,
        on_corrupt: OnCorrupt = "raise",
        *,
        wanted: Callable[[Any], bool] | None = None,
        clock: Patience | None = None,
    ) -> None:
        self.tiered = tiered
        self.run_id = run_id
        self.first_hot = tiers.first_hot
        self.is_hot = tiers.is_hot
        self.low = max(low, tiers.base)
        self.high = high
        self.left = limit
        self.on_corrupt = on_corrupt
        self.wanted = wanted
        self.clock = clock
        self.place: int | str = low
        """Where the reading has come to, forwards."""

    def forward(self, place: int | str) -> Pouring:
        """From the lowest on; ``place`` is where that is, with its chain if the reader knows that."""
        self.place = place
        while self.left != 0 and self.low < self.high:
            if self.low + 1 < self.first_hot:
                yield from self._from_archive()
                continue
            poured = self._pour(self.tiered.hot, self.place)
            try:
                yield poured
            except EventsArchived as moved:
                self._reached(poured)
                if moved.first_hot <= self.low + 1:
                    raise
                self.first_hot = moved.first_hot
            except AcknowledgedWritesLost:
                self._reached(poured)
                if not (yield from self._has_left()):
                    raise
            else:
                self._reached(poured)
                if not (yield from self._has_vanished(self.low, self.high)):
                    self._complete(self.high)
                    return

    def backward(self, place: int | str) -> Pouring:
        """From the highest on."""
        if self.is_hot and self.low + 1 < self.first_hot:
            yield from self._check(self.first_hot - 1)
        while self.is_hot and self.left != 0 and self.low < self.high and self.first_hot <= self.high:
            lowest = max(self.low, self.first_hot - 1)
            poured = self._pour(self.tiered.hot, max(place, lowest, key=offset_of), reverse=True)
            try:
                yield poured
            except EventsArchived as moved:
                if moved.first_hot <= self.first_hot:
                    raise
                self.first_hot = moved.first_hot
                self._reached_back(poured)
            except AcknowledgedWritesLost:
                self._reached_back(poured)
                if not (yield from self._has_left()):
                    raise
            else:
                self._reached_back(poured)
                if not (yield from self._has_vanished(self.high, lowest)):
                    self.high = lowest
        if self.left != 0 and self.low < self.high:
            yield from self._check(self.high)
            yield self._pour(self.tiered.archive, place, reverse=True)

    def _from_archive(self) -> Pouring:
        """Up to where Redis begins."""
        end = min(self.first_hot - 1, self.high)
        yield from self._check(end)
        poured = self._pour(self.tiered.archive, self.place, before=end + 1)
        yield poured
        self._reached(poured)
        if self.left != 0:
            self._complete(end)

    def _complete(self, end: int) -> None:
        """All up to there has been given; the last of it may have been erased, or skipped."""
        if self.low < end:
            self.low = self.place = end

    def _has_vanished(self, reached: int, end: int) -> Steps[bool]:
        """Whether Redis gave less because the run has left it; then the archive has the rest.

        Raises AcknowledgedWritesLost if the rest is nowhere.
        """
        if self.left == 0 or reached == end:
            return False
        info: RunInfo | None = yield partial(self.tiered.hot.run_info, self.run_id)
        last = 0 if info is None else info.last_offset
        if last >= max(reached, end):
            return False
        if not (yield from self._has_left()):
            raise lost(self.run_id, max(reached, end), last)
        return True

    def _has_left(self) -> Steps[bool]:
        """Whether the archive has all that is left to read of a run which Redis does not have any more."""
        tiers = yield from self.tiered.left(self.run_id)
        if tiers is None or tiers.last < self.high:
            return False
        self.is_hot, self.first_hot = False, tiers.first_hot
        return True

    def _pour(self, store: Any, place: int | str, *, before: int | None = None, reverse: bool = False) -> Pour:
        options = {"limit": self.left, "reverse": reverse, "on_corrupt": self.on_corrupt}
        poured = Pour(store.read(self.run_id, place, before=before or self.high + 1, **options), self.wanted)
        return poured if self.clock is None else self.clock.watch(poured)

    def _reached(self, poured: Pour) -> None:
        self._count(poured)
        self.low, self.place = poured.reached(self.low, self.place)

    def _reached_back(self, poured: Pour) -> None:
        self._count(poured)
        if poured.last is not None:
            self.high = poured.last.offset - 1

    def _count(self, poured: Pour) -> None:
        if self.left is not None:
            self.left -= poured.given

    def _check(self, end: int) -> Steps[None]:
        return self.tiered.check(self.run_id, end, self.first_hot, is_hot=self.is_hot)


class Patience:
    """For how long a follower waits for an event that it gives, whatever tier it waits in."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._poured: Pour | None = None
        self._began = time.monotonic()

    def watch(self, poured: Pour) -> Pour:
        """Count from when this gives something, once it does."""
        self._note()
        self._poured = poured
        return poured

    @property
    def left(self) -> float | None:
        """Seconds to wait, 0 for no more; None to wait for ever."""
        self._note()
        return None if self._seconds is None else max(0.0, self._began + self._seconds - time.monotonic())

    def _note(self) -> None:
        if self._poured is not None and self._poured.given_at is not None:
            self._began = max(self._began, self._poured.given_at)
