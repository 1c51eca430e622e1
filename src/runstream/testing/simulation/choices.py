"""The choices of a history: made by chance, or as they were made before."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

__all__ = ["Choices", "Dice"]

T = TypeVar("T")


class Choices:
    """Makes one choice after the other, and notes them.

    Args:
        seed: Chance begins there.
        former: Choices that were made before: they are made again first. None: all are made by chance; where there
            are some, the ordinary choice is made after them.
    """

    def __init__(self, seed: int, former: Sequence[int] | None = None) -> None:
        self.seed = seed
        self.made: list[int] = []
        self._dice = random.Random(seed)
        self._former = former

    def below(self, count: int) -> int:
        """Choose one of so many; the first is the ordinary one."""
        return self.among([1] * count)

    def one_of(self, options: Sequence[T]) -> T:
        """Choose one of these; the first is the ordinary one."""
        return options[self.below(len(options))]

    def among(self, weights: Sequence[int]) -> int:
        """Choose an index, each as often as its weight says; the first is the ordinary one."""
        number, chosen = len(self.made), 0
        if self._former is None:
            chosen = 0 if len(weights) == 1 else self._by_chance(weights)
        elif number < len(self._former) and self._former[number] < len(weights):
            chosen = self._former[number]
        self.made.append(chosen)
        return chosen

    def _by_chance(self, weights: Sequence[int]) -> int:
        at = self._dice.randrange(sum(weights))
        for index, weight in enumerate(weights):
            if at < weight:
                return index
            at -= weight
        raise AssertionError("unreachable: the weights add up to more")


class Dice:
    """Chance as an agent uses it, made of the game's choices."""

    def __init__(self, choices: Choices) -> None:
        self._choices = choices

    def choice(self, options: Sequence[Any]) -> Any:
        """One of these."""
        return self._choices.one_of(options)

    def randrange(self, stop: int) -> int:
        """A number below."""
        return self._choices.below(stop)

    def random(self) -> float:
        """A number from 0 to 1."""
        return self._choices.below(20) / 20

    def uniform(self, low: float, high: float) -> float:
        """A number between."""
        return low + (high - low) * self.random()
