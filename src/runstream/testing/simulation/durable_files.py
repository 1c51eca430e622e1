"""What of a directory is left when the machine loses power."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["DurableFiles"]

_NOT_KEPT = ".locks"


def _least(_: int) -> int:
    return 0


class DurableFiles:
    """What was fsynced, under names that were: so much is left of a directory at least.

    All that is there at first is on the disk. Lock files are not looked at: there is nothing in them.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[int, dict[str, int]] = {}  # inode of a directory -> its names on the disk
        self._contents: dict[int, bytes] = {}
        self._held: dict[int, int] = {}
        self._begin()

    def hold(self, path: Any) -> int:
        """The file's inode, which from here on is given to no other."""
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        inode = os.fstat(handle).st_ino
        if self._held.setdefault(inode, handle) != handle:
            os.close(handle)
        return inode

    def note_sync(self, handle: int) -> None:
        """What is there now stays there."""
        path = Path(f"/proc/self/fd/{handle}").resolve()
        if path.is_relative_to(self.root.resolve()):
            self._note(path)

    def left(self, below: Callable[[int], int] = _least) -> dict[str, bytes | None]:
        """What is left, content by name, None for a directory.

        Args:
            below: Chooses one of so many ways, for each name and each content that was not fsynced: 0, it is
                lost; 1, it is there all the same; of content also 2, a part of it is.
        """
        found = self._left(self.hold(self.root), self.root, "", below)
        return {name: content for name, content in found if _NOT_KEPT not in name}

    def is_behind(self) -> bool:
        """Whether there is more now than would be left."""
        there = {str(path.relative_to(self.root)): path for path in self.root.rglob("*")}
        return self.left() != {
            name: None if path.is_dir() else path.read_bytes()
            for name, path in there.items()
            if _NOT_KEPT not in name
        }

    def lose_power(self, below: Callable[[int], int] = _least) -> None:
        """Let only what is left be there; see :meth:`left`."""
        left = self.left(below)
        for child in self.root.iterdir():
            if child.is_dir() and child.name != _NOT_KEPT:
                shutil.rmtree(child)
            elif not child.is_dir():
                child.unlink()
        for name, content in left.items():
            if content is None:
                (self.root / name).mkdir()
            else:
                (self.root / name).write_bytes(content)
        self.close()
        self._begin()

    def close(self) -> None:
        """Hold no file any more."""
        for handle in self._held.values():
            os.close(handle)
        self._held, self._names, self._contents = {}, {}, {}

    def _begin(self) -> None:
        self._note(self.root)
        for path in self.root.rglob("*"):
            self._note(path)

    def _note(self, path: Path) -> None:
        inode = self.hold(path)
        if path.is_dir():
            self._names[inode] = {child.name: self.hold(child) for child in path.iterdir()}
        else:
            self._contents[inode] = path.read_bytes()

    def _left(
        self, inode: int, now: Path | None, prefix: str, below: Callable[[int], int]
    ) -> Iterator[tuple[str, bytes | None]]:
        durable = self._names.get(inode, {})
        there = {} if now is None else {path.name: self.hold(path) for path in now.iterdir()}
        for name in sorted(durable.keys() | there.keys()):
            if name == _NOT_KEPT:
                continue
            child = durable.get(name)
            if there.get(name) != child and below(2):
                child = there.get(name)
            if child is None:
                continue
            path = Path(f"/proc/self/fd/{self._held[child]}")
            if path.is_dir():
                yield prefix + name, None
                yield from self._left(child, path.resolve() if path.exists() else None, f"{prefix}{name}/", below)
            else:
                yield prefix + name, self._content(child, path, below)

    def _content(self, inode: int, path: Path, below: Callable[[int], int]) -> bytes:
        durable, there = self._contents.get(inode, b""), path.read_bytes()
        way = 0 if durable == there else below(3)
        if way == 2:  # the disk has written some sectors of it
            return (
                there[: len(durable) + (len(there) - len(durable)) // 2] if len(there) > len(durable) else durable
            )
        return there if way else durable
