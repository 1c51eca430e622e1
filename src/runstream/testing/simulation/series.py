"""A series of games: each plan with one seed after the other, in as many processes as are asked for."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from itertools import count, islice
from typing import NamedTuple

from runstream.testing.simulation.choices import Choices
from runstream.testing.simulation.coverage import Taken, noted
from runstream.testing.simulation.game import play
from runstream.testing.simulation.plan import Finding
from runstream.testing.simulation.plans import PLANS

__all__ = ["be_quiet", "play_series"]

_GAMES_AT_ONCE = 16  # of each process: few enough that a bad end is soon told


class _Entry(NamedTuple):
    """A game: its plan, its seed, and whether to note which branches of scripts are taken in it."""

    plan: str
    seed: int
    notes_branches: bool


def play_series(
    names: Sequence[str], seed: int, steps: int, jobs: int = 1, *, taken: set[Taken] | None = None
) -> Iterator[tuple[str, Finding]]:
    """Play until so many steps were made.

    Args:
        names: The names of the plans.
        seed: The first seed; each plan is played with it, then with the next one.
        steps: How many steps to make in all.
        jobs: How many processes play at once. What is found is the same, in the same order.
        taken: Gets the branches of the scripts that were taken.

    Yields:
        The name of the plan and what was found, of each game; the story only of one that ends badly.
    """
    entries = (_Entry(name, number, taken is not None) for number in count(seed) for name in names)
    for entry, finding, branches in _played(entries, jobs):
        if taken is not None:
            taken.update(branches)
        yield entry.plan, finding
        steps -= finding.steps
        if steps <= 0:
            return


def _played(entries: Iterator[_Entry], jobs: int) -> Iterator[tuple[_Entry, Finding, Collection[Taken]]]:
    if jobs == 1:
        yield from map(_play, entries)
        return
    # spawned, not forked: one that plays a game has greenlets
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=be_quiet) as pool:
        while True:
            some = list(islice(entries, jobs * _GAMES_AT_ONCE))
            yield from pool.map(_play, some)


def be_quiet() -> None:
    """Let nothing be logged in this process: troubles are what it is about."""
    logging.disable(logging.CRITICAL)


def _play(entry: _Entry) -> tuple[_Entry, Finding, Collection[Taken]]:
    with noted() if entry.notes_branches else nullcontext(()) as taken:
        finding = play(PLANS[entry.plan], Choices(entry.seed))
    if not finding.faults:
        finding.story.clear()  # nobody reads it
    return entry, finding, taken
