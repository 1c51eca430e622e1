"""Simulated time, and what else of a process's surroundings is chance: it takes the place of the real ones."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

__all__ = ["Clock", "in_place"]

_BEGAN = 1_800_000_000.0  # Unix time in seconds
_WITH_THREADS = ("runstream.drain.", "runstream.run.")


class Clock:
    """Time that passes when the simulation says so."""

    def __init__(self) -> None:
        self._offset = _BEGAN
        self.begin()

    def begin(self) -> None:
        """Let time begin anew."""
        self._monotonic = 1_000.0

    def monotonic(self) -> float:
        """Seconds since some time."""
        return self._monotonic

    def time(self) -> float:
        """Unix time in seconds, as a process's clock shows it."""
        return self._monotonic + self._offset

    def pass_until(self, monotonic: float) -> None:
        """Let time pass."""
        self._monotonic = max(self._monotonic, monotonic)


class _Time:
    """What the module ``time`` has, of simulated time where a task asks, and of the real one for others."""

    def __init__(self, clock: Clock, sleep: Callable[[float], None], skew: Callable[[], float]) -> None:
        self._clock, self._skew = clock, skew
        self.sleep = sleep
        self.monotonic = clock.monotonic
        self.perf_counter = clock.monotonic

    def time(self) -> float:
        return self._clock.time() + self._skew()

    def time_ns(self) -> int:
        return int(self.time() * 1e9)

    def monotonic_ns(self) -> int:
        return int(self._clock.monotonic() * 1e9)

    def clock_gettime_ns(self, _: int) -> int:
        return self.monotonic_ns()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@contextmanager
def in_place(
    clock: Clock, seed: int, sleep: Callable[[float], None], skew: Callable[[], float], threads: Any
) -> Iterator[random.Random]:
    """Put simulated time, chance of this seed and simulated threads where the library and fakeredis use real ones.

    Args:
        clock: The time.
        seed: Chance begins there.
        sleep: Sleeps so many seconds.
        skew: How far the clock of whoever asks is ahead, in seconds.
        threads: What workers, leases and Runs get as the module ``threading``.

    Yields:
        The chance of the operating system.
    """
    simulated = _Time(clock, sleep, skew)
    dice = random.Random(seed)
    replaced: list[tuple[Any, str, Any]] = []

    def replace(place: Any, name: str, value: Any) -> None:
        replaced.append((place, name, getattr(place, name)))
        setattr(place, name, value)

    for module in _modules():
        if getattr(module, "time", None) is time:
            replace(module, "time", simulated)
        if module.__name__.startswith(_WITH_THREADS) and getattr(module, "threading", None) is threading:
            replace(module, "threading", threads)
    replace(os, "urandom", dice.randbytes)
    replace(random, "_urandom", dice.randbytes)
    state = random.getstate()
    random.seed(seed)
    try:
        yield dice
    finally:
        random.setstate(state)
        for place, name, value in reversed(replaced):
            setattr(place, name, value)


def _modules() -> list[ModuleType]:
    return [
        module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in ("runstream", "fakeredis")
        and not name.startswith("runstream.testing.simulation")
    ]
