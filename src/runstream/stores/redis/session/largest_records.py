"""How large the records of runs are, as the server told a store object last."""

from __future__ import annotations

from typing import NamedTuple

from runstream.model.run_head import RunHead

__all__ = ["LargestRecords", "Told"]

_MAX_RUNS = 16_384


class Told(NamedTuple):
    """What meta told of a run: up to ``offset`` no record has more than ``largest`` bytes; None: nothing."""

    offset: int = 0
    largest: int | None = None


_NOTHING = Told()


class LargestRecords:
    """By it a page is sized before meta is read: of 16,384 runs at most; after that it begins anew.

    It may be of a run that was deleted, and made anew since. Then a page is larger than it should be, once.
    """

    def __init__(self) -> None:
        self._told: dict[str, Told] = {}  # each use of it is one step: it needs no lock

    def get(self, run_id: str) -> Told:
        """What was told of a run last."""
        return self._told.get(run_id, _NOTHING)

    def note(self, run_id: str, head: RunHead) -> None:
        """Note where a run stands."""
        if len(self._told) >= _MAX_RUNS:
            self._told.clear()
        self._told[run_id] = Told(head.last.offset, head.largest)
