"""The points at which a drain worker can die: each operation of it is watched, and so is what reaches the disk.

A point lies between two operations: commands to Redis, statements of SQLite, calls that change a file. What is
after the one is before the next, so a worker of N operations has N + 1 points. A write to a file is two
operations, so that it is torn at one of them. What is watched stays so: the process is a victim's and ends as one.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import redis

from runstream.stores.redis.connection.single import SingleServerTransport
from runstream.testing.simulation.durable_files import DurableFiles

__all__ = ["Points", "insist", "watch_files", "watch_redis", "watch_sqlite", "watch_writes"]


class Points:
    """Notes what the worker does, and has something happen at each point of it."""

    def __init__(self, happen: Callable[[Points], None]) -> None:
        self.labels: list[str] = []
        """The operations before which there was a point; the last one is that of the point in hand."""
        self.is_asleep = False
        self._happen = happen
        self._thread = threading.get_ident()  # what other threads do comes when it comes, and is no point

    def between(self, label: str) -> None:
        """Pass a point; the label names the operation that comes next."""
        if self.is_asleep or threading.get_ident() != self._thread:
            return
        self.labels.append(label)
        with self.asleep():
            self._happen(self)

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """What is done here is no doing of the worker's."""
        was, self.is_asleep = self.is_asleep, True
        try:
            yield
        finally:
            self.is_asleep = was


def watch_redis(points: Points, meddle: Callable[[tuple[Any, ...]], None]) -> None:
    """Each command is sent alone and is an operation, and so is each transaction; ``meddle`` sees it before."""
    send = SingleServerTransport._send
    execute: Any = redis.Redis.execute_command

    def execute_one(client: Any, *command: Any, **options: Any) -> Any:
        if not points.is_asleep:
            points.between("Redis: " + b" ".join(map(_as_bytes, command[:5])).decode(errors="replace"))
            with points.asleep():
                meddle(command)
        return execute(client, *command, **options)

    def send_singly(transport: SingleServerTransport, commands: Any, *, atomic: bool) -> Any:
        if points.is_asleep:
            return send(transport, commands, atomic=atomic)
        if atomic:  # all of it happens at once
            points.between("Redis: MULTI " + b" ".join(map(_as_bytes, commands[0][:4])).decode(errors="replace"))
            with points.asleep():
                for command in commands:
                    meddle(command)
                return send(transport, commands, atomic=True)
        return [_reply(transport, command) for command in commands]

    _replace(SingleServerTransport, "_send", send_singly)
    _replace(redis.Redis, "execute_command", execute_one)


def _reply(transport: SingleServerTransport, command: Any) -> Any:
    try:
        return transport._client.execute_command(*command)
    except redis.ResponseError as error:
        return error


def _as_bytes(part: Any) -> bytes:
    return part if isinstance(part, bytes) else str(part).encode()


def _replace(place: Any, name: str, call: Callable[..., Any]) -> None:
    setattr(place, name, call)


def watch_sqlite(points: Points) -> None:
    """Each statement is an operation, once for each row that it is given, and so are open and close."""
    connect: Any = sqlite3.connect

    class Connection(sqlite3.Connection):
        def close(self) -> None:  # also where a store closes its file
            points.between("SQLite: close")
            super().close()

    def watched_connect(*args: Any, **options: Any) -> sqlite3.Connection:
        points.between("SQLite: open")
        connection: sqlite3.Connection = connect(*args, factory=Connection, **options)
        connection.set_trace_callback(lambda statement: points.between(f"SQLite: {statement[:90]}"))
        return connection

    _replace(sqlite3, "connect", watched_connect)


CHANGES = ("rename", "replace", "unlink", "remove", "mkdir", "rmdir", "truncate", "ftruncate", "link", "symlink")


def watch_files(points: Points, disk: DurableFiles) -> None:
    """Each call that changes a file is an operation."""
    open_, fsync = os.open, os.fsync

    def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watching(*args: Any, **options: Any) -> Any:
            points.between(f"{name} {' '.join(map(str, args))}")
            with points.asleep():
                return call(*args, **options)

        return watching

    def watched_open(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if points.is_asleep or not flags & (os.O_CREAT | os.O_TRUNC):
            return open_(path, flags, *args, **options)
        points.between(f"open {path}")
        with points.asleep():
            handle = open_(path, flags, *args, **options)
            disk.hold(path)
        return handle

    def watched_fsync(handle: int) -> None:
        points.between("fsync")
        fsync(handle)
        disk.note_sync(handle)

    for name in CHANGES:
        _replace(os, name, watched(name, getattr(os, name)))
    _replace(os, "open", watched_open)
    _replace(os, "fsync", watched_fsync)


def watch_writes(points: Points, full_at: int | None) -> None:
    """Each write is two operations, for each half of it. In the middle of one of them the disk is full."""
    write = os.write
    writes = count(1)

    def watched_write(handle: int, data: Any) -> int:
        if points.is_asleep:
            return write(handle, data)
        points.between(f"write {len(data)} bytes")
        half = len(data) // 2
        written = write(handle, data[:half])
        if next(writes) == full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        points.between(f"the other half of {len(data)} bytes")
        return written + write(handle, data[half:])

    _replace(os, "write", watched_write)


def insist(points: Points, directory: Path) -> None:
    """End the process at a change of a file that is not counted, so that nothing is left out."""
    changes = {f"os.{name}" for name in CHANGES}

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if points.is_asleep or (event != "open" and event not in changes):
            return
        makes = event != "open" or (isinstance(args[2], int) and args[2] & (os.O_CREAT | os.O_TRUNC))
        if makes and str(args[0]).startswith(str(directory)):
            traceback.print_stack()
            print(f"{event} of {args[0]} is not counted", file=sys.stderr, flush=True)
            os._exit(3)

    sys.addaudithook(audit)
