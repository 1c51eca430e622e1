"""What workers, leases and Runs use of ``threading``, with tasks for threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from runstream.testing.simulation.scheduler import FOR_EVER_SECONDS, Scheduler

__all__ = ["Threads"]


class Threads:
    """Stands for the module ``threading``."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def Event(self) -> _Event:  # noqa: N802 - as threading has it
        """An event."""
        return _Event(self._scheduler)

    def RLock(self) -> _RLock:  # noqa: N802 - as threading has it
        """A lock."""
        return _RLock(self._scheduler)

    Lock = RLock

    def Timer(self, interval: float, function: Callable[[], None]) -> _Timer:  # noqa: N802 - as threading has it
        """A thread that waits before it calls a function."""
        return _Timer(self._scheduler, interval, function)

    def Thread(  # noqa: N802 - as above
        self, target: Callable[..., None], args: Sequence[Any] = (), name: str = "thread", **_: Any
    ) -> _Thread:
        """A thread."""
        return _Thread(self._scheduler, partial(target, *args), name)


class _Event:
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._is_set:
            self._scheduler.wait(FOR_EVER_SECONDS if timeout is None else timeout, self.is_set)
        return self._is_set


class _RLock:
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._holder: object = None
        self._times = 0

    def acquire(self) -> bool:
        me = self._scheduler.current or self
        while self._holder not in (None, me):
            self._scheduler.wait(FOR_EVER_SECONDS, lambda: self._holder is None)
        self._holder = me
        self._times += 1
        return True

    def release(self) -> None:
        self._times -= 1
        if self._times == 0:
            self._holder = None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class _Thread:
    daemon = True

    def __init__(self, scheduler: Scheduler, target: Callable[[], None], name: str) -> None:
        self._scheduler, self._target, self._name = scheduler, target, name
        self._process = scheduler.process
        self._has_ended: Callable[[], bool] | None = None

    def start(self) -> None:
        name = f"{self._process.name}'s {self._name}"
        self._has_ended = self._scheduler.spawn(self._process, name, self._target)

    def join(self, timeout: float | None = None) -> None:
        if self._has_ended is not None:
            self._scheduler.wait(FOR_EVER_SECONDS if timeout is None else timeout, self._has_ended)


class _Timer(_Thread):
    def __init__(self, scheduler: Scheduler, interval: float, function: Callable[[], None]) -> None:
        super().__init__(scheduler, self._run, "timer")
        self._interval, self._function = interval, function
        self._is_cancelled = _Event(scheduler)

    def cancel(self) -> None:
        self._is_cancelled.set()

    def _run(self) -> None:
        if not self._is_cancelled.wait(self._interval):
            self._function()
