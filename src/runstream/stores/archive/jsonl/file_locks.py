"""Write files completely, and locks between processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from runstream.model.errors import StoreUnavailable
from runstream.stores.archive.access import Access, access_for, make_directory, open_file
from runstream.stores.archive.durable_files import sync
from runstream.stores.archive.jsonl import file_names

__all__ = ["Locks", "directories_in", "is_at", "names_in", "unavailable", "write_all", "write_file"]

_STRIPES = 64
_LONGEST_PAUSE_SECONDS = 0.02


@contextlib.contextmanager
def unavailable(path: Path) -> Iterator[None]:
    """Turn an OSError into StoreUnavailable."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(
            f"{path}: {error.strerror or error}; free space or give access, then send the same call again"
        ) from error


def write_all(handle: int, data: bytes) -> None:
    """Write all of the data: nearly always in one write."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def write_file(path: Path, data: bytes, replaces: Path | None = None, *, durable: bool = True) -> None:
    """Make or replace a file, and (``durable``) return when its content is on the disk; its name may not be yet.

    It takes after the file that it will replace, if that is there, or else after its directory.
    """
    handle = open_file(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, replaces)
    try:
        write_all(handle, data)
        if durable:
            sync(handle)
    finally:
        os.close(handle)


def names_in(directory: Path) -> list[str]:
    """The names in a directory; none where there is no directory."""
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []


def directories_in(directory: Path) -> list[str]:
    """The names of the directories in a directory, symbolic links left out; none where there is no directory."""
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def is_at(path: Path, handle: int) -> bool:
    """Whether the open file is the one at this path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


class Locks:
    """Locks between processes, by name, in ``DIR/.locks``.

    Names share a fixed number of lock files, so a batch of any number of runs holds a bounded number of
    handles; and the files stay when a run's directory goes, so that nobody waits on a lock that is no
    longer the run's.
    """

    def __init__(self, base_dir: Path, wait_seconds: float, access: Callable[[], Access] | None = None) -> None:
        self._directory = base_dir / file_names.LOCKS
        self._wait_seconds = wait_seconds
        self._access = access or partial(access_for, base_dir)

    @contextlib.contextmanager
    def held(self, names: Iterable[str]) -> Iterator[None]:
        """Hold the locks of these names. Raises StoreUnavailable if others hold them for too long."""
        deadline = time.monotonic() + self._wait_seconds
        with contextlib.ExitStack() as stack:
            # in one order everywhere, or two writers could wait for each other
            for stripe in sorted({zlib.crc32(name.encode()) % _STRIPES for name in names}):
                stack.enter_context(self._one(self._directory / f"{stripe:02x}", deadline))
            yield

    @contextlib.contextmanager
    def _one(self, path: Path, deadline: float) -> Iterator[None]:
        with unavailable(path):
            handle = self._take(path, deadline)
        try:
            yield
        finally:
            # said outright: a process forked meanwhile has this handle too, and closing ours would not do
            fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)

    def _take(self, path: Path, deadline: float) -> int:
        """Open and lock the file at this path. Returns its handle."""
        while True:
            handle = self._open(path)
            try:
                self._lock(handle, path, deadline)
                if is_at(path, handle):
                    return handle
            except BaseException:  # an interrupt too: the lock goes with the handle
                os.close(handle)
                raise
            # somebody has removed the file: who comes later locks another one
            os.close(handle)

    def _lock(self, handle: int, path: Path, deadline: float) -> None:
        pause = 0.0005
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise StoreUnavailable(
                        f"another process has held {path} for {self._wait_seconds:g} seconds; see whether it is"
                        " stopped, then send the same call again"
                    ) from error
            else:
                return
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _open(self, path: Path) -> int:
        flags = os.O_RDWR | os.O_CREAT
        try:
            return open_file(path, flags)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                make_directory(self._directory, self._access())
            return open_file(path, flags)
