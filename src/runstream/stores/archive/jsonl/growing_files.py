"""Read the lines of a file to which others append meanwhile, and in which they blank lines (see `overtaking`)."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from runstream.stores.archive.access import open_file
from runstream.stores.archive.jsonl.line_format import is_usual

__all__ = ["identity_of", "made", "pieces", "stable_lines", "until_cut"]

_BLOCK_BYTES = 1 << 20


def until_cut(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines up to the first that has no line break, that one included.

    A file that grows would give what its writer adds to that line as another line.
    """
    for line in lines:
        yield line
        if not line.endswith(b"\n"):
            return


def pieces(file: BinaryIO, begin: int, end: int = sys.maxsize) -> Iterator[bytes]:
    """A stretch of a file; up to its end, what others have appended meanwhile included, where none is given."""
    while begin < end:
        file.seek(begin)
        part = file.read(min(_BLOCK_BYTES, end - begin))
        if not part:
            return
        begin += len(part)
        yield part


def stable_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a log from the file's position on, none of them read while it was being blanked.

    A line is read in pieces and blanked in pieces: what is read may be half of either. So where not all lines are
    as we write them, they are read until they are the same twice. What is added to a cut line is no line.
    """
    begin = file.tell()
    while lines := file.readlines(_BLOCK_BYTES):
        if not all(map(is_usual, lines)):
            content = b"".join(lines)
            while (again := os.pread(file.fileno(), len(content), begin)) != content:
                content = again
            lines = io.BytesIO(content).readlines()
        begin += sum(map(len, lines))
        yield from lines
        if not lines[-1].endswith(b"\n"):
            return


def identity_of(handle: int) -> tuple[int, int]:
    """What names an open file: its device and its inode."""
    facts = os.fstat(handle)
    return facts.st_dev, facts.st_ino


def made(path: Path) -> tuple[int, int]:
    """Make an empty file, if there is none yet. Returns what names it."""
    handle = open_file(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        return identity_of(handle)
    finally:
        os.close(handle)
