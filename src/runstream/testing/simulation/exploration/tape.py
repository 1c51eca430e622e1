"""What the steps of a history gave: it is played again from there, and nothing is done twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from runstream.model.errors import RunstreamError

__all__ = ["Given", "Tape"]


class Given(NamedTuple):
    """What a step gave.

    Attributes:
        sign: Equal for two steps only if they gave the same.
        value: The result.
        error: What it raised in place of a result.
    """

    sign: str
    value: Any = None
    error: RunstreamError | None = None


class Tape:
    """The steps of the history in hand, each with what it gave."""

    def __init__(self) -> None:
        self._given: list[Given] = []
        self._at = 0

    def __len__(self) -> int:
        return self._at

    def rewind(self) -> None:
        """Play a history again: its steps give what they gave."""
        self._at = 0

    def cut(self, length: int) -> None:
        """Forget all but so many steps: those that follow are made."""
        del self._given[length:]

    def play(self, make: Callable[[], Given]) -> Given:
        """Make a step, or give what it gave."""
        if self._at == len(self._given):
            self._given.append(make())
        self._at += 1
        return self._given[self._at - 1]
