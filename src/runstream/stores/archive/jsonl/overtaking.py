"""Notice that another program, which knows no locks, was faster: its lines stand before a batch that was planned.

The batch's offsets are those lines', so it must be made again; until it is blanked, no reader counts it (see
:mod:`~runstream.stores.archive.jsonl.log_index`).
"""

from __future__ import annotations

import os
from pathlib import Path

from runstream.stores.archive.access import open_file
from runstream.stores.archive.durable_files import sync, sync_directory
from runstream.stores.archive.jsonl.file_locks import write_all
from runstream.stores.archive.jsonl.growing_files import pieces

__all__ = ["Overtaken", "blank", "keep_aside", "let_finish", "written_before"]


class Overtaken(Exception):
    """Lines that count were appended between the planning and the writing of a batch, which was taken back."""


def written_before(handle: int, end: int, text: bytes) -> bytes:
    """What others have written after ``end`` (bytes) before this text, which was appended just now."""
    return os.pread(handle, os.lseek(handle, 0, os.SEEK_CUR) - len(text) - end, end)


def let_finish(path: Path, begin: int) -> None:
    """Wait for a write that is half done: readers see what it has come to, a writer comes after it.

    Args:
        path: The file.
        begin: Where in it a byte is to be written again (bytes).
    """
    handle = open_file(path, os.O_RDWR)
    try:
        os.pwrite(handle, os.pread(handle, 1, begin), begin)
    finally:
        os.close(handle)


def keep_aside(path: Path, begin: int, length: int, aside: Path) -> None:
    """Copy a stretch of a file to a new file, which is on the disk then."""
    handle = open_file(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, path)
    try:
        with path.open("rb") as file:
            for part in pieces(file, begin, begin + length):
                write_all(handle, part)
        sync(handle)
        sync_directory(aside.parent)
    finally:
        os.close(handle)


def blank(path: Path, begin: int, length: int) -> bytes:
    """Make a stretch of a file one blank line, in place, as others go on appending. Returns that line."""
    line = b" " * (length - 1) + b"\n"
    handle = open_file(path, os.O_WRONLY)
    try:
        os.pwrite(handle, line, begin)
        sync(handle)
    finally:
        os.close(handle)
    return line
