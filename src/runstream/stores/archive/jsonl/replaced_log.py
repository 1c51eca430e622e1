"""Put another log in the place of one, while other programs, which know no locks, go on appending to it."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from runstream.stores.archive.access import open_file
from runstream.stores.archive.durable_files import sync, sync_directory
from runstream.stores.archive.jsonl.file_locks import write_all
from runstream.stores.archive.jsonl.file_names import REWRITTEN
from runstream.stores.archive.jsonl.growing_files import pieces

__all__ = ["replace_log"]

_LONGEST_WAIT_SECONDS, _PAUSE_SECONDS = 0.5, 0.001


def replace_log(path: Path, file: BinaryIO, content: Iterable[bytes], end: int) -> None:
    """Replace the file at a path, atomically, by one of this content.

    What others append to the former one comes after that, also what is appended by who had it open when it was
    replaced.

    Args:
        path: The file.
        file: The same, open.
        content: What takes the place of its bytes up to ``end``.
        end: The bytes of it that ``content`` stands for.
    """
    rewritten = path.with_name(REWRITTEN)
    handle = open_file(rewritten, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, path)
    try:
        for part in content:
            write_all(handle, part)
        end = _copy(file, end, handle, _last_break(file, end))
        sync(handle)
        rewritten.replace(path)
        sync_directory(path.parent)
        _let_close(file.fileno())
        if os.fstat(file.fileno()).st_size > end:
            _copy(file, end, handle, os.fstat(file.fileno()).st_size)
            sync(handle)
    finally:
        os.close(handle)


def _copy(file: BinaryIO, begin: int, handle: int, end: int) -> int:
    for part in pieces(file, begin, end):
        write_all(handle, part)
    return max(begin, end)


def _last_break(file: BinaryIO, begin: int) -> int:
    """Where the last line that came whole ends in a file; ``begin`` if none has come since then."""
    at = begin
    for part in pieces(file, begin):
        found = part.rfind(b"\n")
        begin, at = begin + len(part), at if found < 0 else begin + found + 1
    return at


def _let_close(handle: int) -> None:
    """Wait, for a moment, until nobody else has a file open that has no name any more, where the system tells."""
    until = time.monotonic() + _LONGEST_WAIT_SECONDS
    while hasattr(fcntl, "F_SETLEASE"):
        try:
            fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as error:
            if error.errno != errno.EAGAIN or time.monotonic() > until:
                return
            time.sleep(_PAUSE_SECONDS)
        else:
            fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            return
