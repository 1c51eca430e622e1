"""The simulated disk: the real files, each change of which is a step with a fate.

Of JSONL archives each call that changes a file is one, of SQLite archives the beginning and the commit of each
transaction. Where the power is lost, what was not fsynced may be gone; SQLite's own files are as the last commit
left them, as it fsyncs each (``synchronous=FULL``).
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runstream.testing.simulation.durable_files import DurableFiles
from runstream.testing.simulation.scheduler import Process, Scheduler

__all__ = ["Disk"]

_CHANGES = ("pwrite", "fsync", "ftruncate", "replace", "rename", "unlink", "mkdir")
_MAY_FAIL = ("fsync", "write", "BEGIN", "COMMIT")
_MADE, _KILLED, _FAILS = 0, 1, 2
_BUSY_SECONDS, _PAUSE_SECONDS = 30.0, 0.02


class Disk:
    """Stands between the archives and the operating system.

    Args:
        scheduler: Lets others go on before each change.
        fates: The weights of what becomes of a change: it is made, the process is killed before it (in the middle
            of a write), it fails.
    """

    def __init__(self, scheduler: Scheduler, fates: Callable[[], list[int]]) -> None:
        self._scheduler, self._fates = scheduler, fates
        self._durable: DurableFiles | None = None
        self._is_off = False
        self.users: list[Process] = []
        """The processes that have files open."""

    def watch(self, directory: Path) -> None:
        """Note from here on what of a directory would be left if the power were lost."""
        self._durable = DurableFiles(directory)

    def lose_power(self) -> None:
        """Kill all who have files open, and let of the files be there what was fsynced, and chance."""
        for process in self.users:
            self._scheduler.kill(process)
        self.users.clear()
        if self._durable is not None:
            with self.at_one_moment():
                self._durable.lose_power(self._scheduler.choices.below)

    @contextmanager
    def at_one_moment(self) -> Iterator[None]:
        """Let what is changed in this context be no step."""
        self._is_off = True
        try:
            yield
        finally:
            self._is_off = False

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let each change that a task makes be a step."""
        real = {name: getattr(os, name) for name in (*_CHANGES, "write")}
        connect: Any = sqlite3.connect
        for name in _CHANGES:
            setattr(os, name, self._watched(name, real[name]))
        os.write = self._write(real["write"])
        sqlite3.connect = self._connect(connect)  # type: ignore[assignment] # all of its overloads
        try:
            yield
        finally:
            sqlite3.connect = connect
            for name, call in real.items():
                setattr(os, name, call)
            if self._durable is not None:
                self._durable.close()

    def _is_watched(self) -> bool:
        return self._scheduler.is_simulated() and not self._is_off

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **options: Any) -> Any:
            if self._is_watched() and self._fate(name) == _FAILS:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            result = call(*args, **options)
            if name == "fsync" and self._durable is not None:
                self._durable.note_sync(args[0])
            return result

        return change

    def _write(self, call: Callable[[int, Any], int]) -> Callable[[int, Any], int]:
        def write(handle: int, data: Any, /) -> int:
            if not self._is_watched():
                return call(handle, data)
            half = len(data) // 2
            fate = self._fate("write", lambda: call(handle, data[:half]))
            if fate == _FAILS:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(handle, data)

        return write

    def _connect(self, connect: Callable[..., sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
        """Connections that wait for each other in simulated time."""
        scheduler = self._scheduler
        fate = self._fate

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                if not scheduler.is_simulated():
                    return super().execute(sql, *parameters)
                word = sql.partition(" ")[0]
                # what SQLite fails at in a transaction it has not done, and the transaction is rolled back
                if word in _MAY_FAIL and sql != "BEGIN" and fate(word) == _FAILS:
                    raise _full()
                waited = 0.0
                while True:
                    try:
                        result = super().execute(sql, *parameters)
                        break
                    except sqlite3.OperationalError as error:
                        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or waited >= _BUSY_SECONDS:
                            raise
                    scheduler.wait(_PAUSE_SECONDS)
                    waited += _PAUSE_SECONDS
                if word == "COMMIT":
                    scheduler.step()
                return result

        def connected(*args: Any, **options: Any) -> sqlite3.Connection:
            if scheduler.is_simulated():
                options |= {"timeout": 0.0, "factory": Connection}
            return connect(*args, **options)

        return connected

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


def _full() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_FULL, "SQLITE_FULL"
    return error
