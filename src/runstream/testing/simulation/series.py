"""A series of games: each plan with one seed after the other, in as many processes as are asked for."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import count, islice
from typing import TypeAlias

from runstream.testing.simulation.choices import Choices
from runstream.testing.simulation.game import play
from runstream.testing.simulation.plan import Finding
from runstream.testing.simulation.plans import PLANS

__all__ = ["be_quiet", "play_series"]

_GAMES_AT_ONCE = 16  # of each process: few enough that a bad end is soon told

_Entry: TypeAlias = tuple[str, int]


def play_series(names: Sequence[str], seed: int, steps: int, jobs: int = 1) -> Iterator[tuple[str, Finding]]:
    """Play until so many steps were made.

    Args:
        names: The names of the plans.
        seed: The first seed; each plan is played with it, then with the next one.
        steps: How many steps to make in all.
        jobs: How many processes play at once. What is found is the same, in the same order.

    Yields:
        The name of the plan and what was found, of each game; the story only of one that ends badly.
    """
    entries = ((name, number) for number in count(seed) for name in names)
    for (name, _), finding in _played(entries, jobs):
        yield name, finding
        steps -= finding.steps
        if steps <= 0:
            return


def _played(entries: Iterator[_Entry], jobs: int) -> Iterator[tuple[_Entry, Finding]]:
    if jobs == 1:
        yield from ((entry, _play(entry)) for entry in entries)
        return
    # spawned, not forked: one that plays a game has greenlets
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=be_quiet) as pool:
        while True:
            some = list(islice(entries, jobs * _GAMES_AT_ONCE))
            yield from zip(some, pool.map(_play, some), strict=True)


def be_quiet() -> None:
    """Let nothing be logged in this process: troubles are what it is about."""
    logging.disable(logging.CRITICAL)


def _play(entry: _Entry) -> Finding:
    name, seed = entry
    finding = play(PLANS[name], Choices(seed))
    if not finding.faults:
        finding.story.clear()  # nobody reads it
    return finding
