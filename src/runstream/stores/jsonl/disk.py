"""Files that are on the disk when a call returns, and locks between processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from runstream.model.errors import StoreUnavailable

__all__ = ["LOCKS", "Locks", "names_in", "sync", "sync_directory", "unavailable", "write_all", "write_file"]

LOCKS = ".locks"
_STRIPES = 64
_WAIT_SECONDS = 30.0
_LONGEST_PAUSE_SECONDS = 0.02


@contextlib.contextmanager
def unavailable(place: Path) -> Iterator[None]:
    """Turn an OSError into StoreUnavailable."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(
            f"{place}: {error.strerror or error}; free space or give access, then send the same call again"
        ) from error


def sync(handle: int) -> None:
    """Return when the file's content is on the disk."""
    if sys.platform == "darwin":
        fcntl.fcntl(handle, fcntl.F_FULLFSYNC)  # fsync leaves it in the drive's own memory there
    else:
        os.fsync(handle)


def sync_directory(directory: Path) -> None:
    """Return when the names in a directory are on the disk."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_all(handle: int, data: bytes) -> None:
    """Write the whole: nearly always one write."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def write_file(path: Path, data: bytes) -> None:
    """Make or replace a file, and return when its content is on the disk; its name may not be yet."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(path, flags, 0o666)
    try:
        write_all(handle, data)
        sync(handle)
    finally:
        os.close(handle)


def names_in(directory: Path) -> list[str]:
    """The names in a directory; none where there is no directory."""
    try:
        return [entry.name for entry in directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


class Locks:
    """Locks between processes, by name, in ``DIR/.locks``.

    Names share a fixed number of lock files, so a batch of any number of runs holds a bounded number of
    handles; and the files stay when a run's directory goes, so that nobody waits on a lock that is no
    longer the run's.
    """

    def __init__(self, base_dir: Path) -> None:
        self._directory = base_dir / LOCKS

    @contextlib.contextmanager
    def held(self, names: Iterable[str]) -> Iterator[None]:
        """Hold the locks of these names. Raises StoreUnavailable if others hold them for half a minute."""
        deadline = time.monotonic() + _WAIT_SECONDS
        with contextlib.ExitStack() as stack:
            # in one order everywhere, or two writers could wait for each other
            for stripe in sorted({zlib.crc32(name.encode()) % _STRIPES for name in names}):
                stack.enter_context(self._one(self._directory / f"{stripe:02x}", deadline))
            yield

    @contextlib.contextmanager
    def _one(self, path: Path, deadline: float) -> Iterator[None]:
        with unavailable(path):
            handle = self._open(path)
        try:
            with unavailable(path):
                _lock(handle, path, deadline)
            try:
                yield
            finally:
                # said outright: a process forked meanwhile has this handle too, and closing ours would not do
                fcntl.flock(handle, fcntl.LOCK_UN)
        finally:
            os.close(handle)

    def _open(self, path: Path) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(path, flags, 0o666)
        except FileNotFoundError:
            self._directory.mkdir(exist_ok=True)
            return os.open(path, flags, 0o666)


def _lock(handle: int, path: Path, deadline: float) -> None:
    pause = 0.0005
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"another process has held {path} for {_WAIT_SECONDS:.0f} seconds; see whether it is stopped,"
                    " then send the same call again"
                ) from error
        else:
            return
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
