"""The simulated disk: the real files, each change of which is a step with a fate."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from runstream.testing.simulation.scheduler import Scheduler

__all__ = ["Disk"]

_CHANGES = ("pwrite", "fsync", "ftruncate", "replace", "rename", "unlink", "mkdir")
_MAY_FAIL = ("fsync", "write")
_MADE, _KILLED, _FAILS = 0, 1, 2


class Disk:
    """Stands between the archives and the operating system.

    Args:
        scheduler: Lets others go on before each change.
        fates: The weights of what becomes of a change: it is made, the process is killed before it (in the middle
            of a write), it fails.
    """

    def __init__(self, scheduler: Scheduler, fates: Callable[[], list[int]]) -> None:
        self._scheduler, self._fates = scheduler, fates

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let each change that a task makes be a step."""
        real = {name: getattr(os, name) for name in (*_CHANGES, "write")}
        for name in _CHANGES:
            setattr(os, name, self._watched(name, real[name]))
        os.write = self._write(real["write"])
        try:
            yield
        finally:
            for name, call in real.items():
                setattr(os, name, call)

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **options: Any) -> Any:
            if self._scheduler.is_simulated() and self._fate(name) == _FAILS:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return call(*args, **options)

        return change

    def _write(self, call: Callable[[int, Any], int]) -> Callable[[int, Any], int]:
        def write(handle: int, data: Any, /) -> int:
            if not self._scheduler.is_simulated():
                return call(handle, data)
            half = len(data) // 2
            fate = self._fate("write", lambda: call(handle, data[:half]))
            if fate == _FAILS:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(handle, data)

        return write

    def _fate(self, name: str, do_half: Callable[[], object] = lambda: None) -> int:
        scheduler = self._scheduler
        scheduler.step()
        fate = scheduler.choices.among(self._fates())
        if fate == _FAILS and name not in _MAY_FAIL:
            fate = _MADE
        if fate:
            scheduler.note(f"{name}: {('', 'the process is killed at it', 'it fails')[fate]}")
        if fate == _KILLED:
            do_half()
            scheduler.kill(scheduler.process)
            scheduler.step()
        return fate
