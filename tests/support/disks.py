"""Small disks that fill up, and files that may not be written: the real thing where a test may have it."""

from __future__ import annotations

import functools
import os
import resource
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["DISKS", "SmallDisk", "can_mount", "small_disk", "without_privileges"]

_TMPFS_BYTES = 4 << 20
_NOBODY = 65534


def _mount(*arguments: str) -> bool:
    if shutil.which("mount") is None or os.geteuid() != 0:
        return False
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@functools.cache
def can_mount() -> bool:
    """Whether this process may mount a file system: in most containers, and for most users, it may not."""
    place = tempfile.mkdtemp(prefix="runstream-mount-")
    try:
        if _mount("-t", "tmpfs", "-o", "size=64k", "none", place):
            subprocess.run(["umount", place], check=True)
            return True
        return False
    finally:
        Path(place).rmdir()


DISKS = ["tmpfs", "limit"] if can_mount() else ["limit"]
"""The kinds of small disk that this machine has: a limit on the size of files works everywhere."""


class SmallDisk(ABC):
    """A place for files that can be filled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def fill(self, but: int = 0) -> None:
        """Take all room that is left, but for so many bytes, where the room is counted in all."""

    @abstractmethod
    def make_room(self) -> None:
        """Give it back."""


class _Tmpfs(SmallDisk):
    """A file system of its own of 4 MiB: ENOSPC, as on any disk."""

    def fill(self, but: int = 0) -> None:
        with suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        os.truncate(self._ballast, self._ballast.stat().st_size - but)

    def make_room(self) -> None:
        self._ballast.unlink()

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"


class _Limit(SmallDisk):
    """A limit on the size of a file of this process: EFBIG, and SIGXFSZ, which Python ignores."""

    def fill(self, but: int = 0) -> None:
        largest = max((path.stat().st_size for path in self.path.rglob("*") if path.is_file()), default=0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    def make_room(self) -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@contextmanager
def small_disk(kind: str, place: Path) -> Iterator[SmallDisk]:
    """A small disk of this kind, at this place, where nothing is yet."""
    place.mkdir()
    if kind == "limit":
        disk = _Limit(place)
        try:
            yield disk
        finally:
            disk.make_room()
        return
    with mounted(place, f"size={_TMPFS_BYTES}"):
        yield _Tmpfs(place)


@contextmanager
def mounted(place: Path, options: str) -> Iterator[None]:
    """A tmpfs at this place."""
    assert _mount("-t", "tmpfs", "-o", options, "none", str(place))
    try:
        yield
    finally:
        # lazily: after a test that failed something may be open there
        subprocess.run(["umount", "-l", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    """Mount what is mounted there with other options."""
    assert _mount("-o", f"remount,{options}", str(place))


@contextmanager
def without_privileges() -> Iterator[Path]:
    """A directory of one's own, as a user whom permissions stop: they do not stop root."""
    was_root = os.geteuid() == 0
    place = Path(tempfile.mkdtemp(prefix="runstream-nobody-"))
    place.chmod(0o777)
    if was_root:
        os.chown(place, _NOBODY, -1)
        os.seteuid(_NOBODY)
    try:
        yield place
    finally:
        if was_root:
            os.seteuid(0)
        for path in (place, *place.rglob("*")):
            path.chmod(0o700)
        shutil.rmtree(place)
