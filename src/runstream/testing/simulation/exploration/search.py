"""The search: depth first through the choices of a configuration's histories, each state once.

Stateless for the processes, which are played again from their beginning, and with a memory of the states that were
reached: orders of steps that commute lead to one state, which is gone on from once. (Both are in P. Godefroid,
Partial-Order Methods for the Verification of Concurrent Systems, 1996.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runstream.testing.simulation.exploration.tape import Tape

__all__ = ["Search"]


@dataclass
class _Crossing:
    """A state from which histories part: how many ways there are, which is gone, and how to come back to it."""

    ways: int
    saved: Any
    length: int
    way: int = 0


class Search:
    """Says which way each history goes, until all have been gone.

    Args:
        tape: What the steps of the history in hand gave.
        save: Save the state of what is shared.
        put_back: Put a saved state back.
    """

    def __init__(self, tape: Tape, save: Callable[[], Any], put_back: Callable[[Any], None]) -> None:
        self._tape, self._save, self._put_back = tape, save, put_back
        self._crossings: list[_Crossing] = []
        self._known: set[bytes] = set()
        self._at = 0
        self.steps = 0
        """How many steps were made: those of which all before have been gone are not made again."""

    @property
    def states(self) -> int:
        """How many states there were that have more than one way on, or none."""
        return len(self._known)

    @property
    def ways(self) -> list[int]:
        """The ways that the history in hand has gone."""
        return [crossing.way for crossing in self._crossings]

    def begin(self) -> None:
        """Begin the next history: as the one before up to its last crossing that has another way."""
        self._at = 0
        self._tape.rewind()

    def turn(self) -> bool:
        """Turn to the next way; False if there is none that was not gone."""
        while self._crossings and self._crossings[-1].way + 1 == self._crossings[-1].ways:
            self._crossings.pop()
        if self._crossings:
            self._crossings[-1].way += 1
        return bool(self._crossings)

    def choose(self, ways: int, state: Callable[[], bytes]) -> int | None:
        """Choose one of the ways that there are from a state; None: it is known, and so is all that follows."""
        if self._at < len(self._crossings):
            crossing = self._crossings[self._at]
            self._at += 1
            if self._at == len(self._crossings):  # all that follows is new
                self.steps += 1
                self._tape.cut(crossing.length)
                self._put_back(crossing.saved)
            return crossing.way
        self.steps += ways > 0
        if ways == 1:
            return 0
        if (digest := state()) in self._known:
            self.steps -= ways > 0
            return None
        self._known.add(digest)
        if ways:
            self._at += 1
            self._crossings.append(_Crossing(ways, self._save(), len(self._tape)))
        return 0
