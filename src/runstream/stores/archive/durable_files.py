"""Make files durable, and make reads come from the disk."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

__all__ = ["drop_from_cache", "sync", "sync_directory"]


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


def drop_from_cache(handle: int, begin: int = 0, length: int = 0) -> None:
    """Let a stretch of a file (a length of 0: up to its end) be read from the disk again, where the system can.

    After an fsync that failed, the system's memory may hold what the disk never got.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, begin, length, os.POSIX_FADV_DONTNEED)
