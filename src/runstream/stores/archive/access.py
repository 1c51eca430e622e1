"""Who may read and write an archive: the permissions and the group of the files and directories that are made.

What holds a run may hold anything, so a new archive is its owner's alone; but in a directory that a group may
write to, it is the group's. What exists keeps what it has, and what is made in it takes after it.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from runstream.model.errors import ConfigurationError

__all__ = [
    "Access",
    "access_for",
    "check_mode",
    "give_access",
    "make_directories",
    "make_directory",
    "make_file",
    "open_file",
]

_OWNER, _ALL, _GROUP_WRITE, _OTHERS_WRITE = 0o600, 0o666, 0o020, 0o002


class Access(NamedTuple):
    """What is given to new files and directories: the files' permissions, and a group (None: the creator's)."""

    mode: int
    group: int | None = None

    @property
    def directory_mode(self) -> int:
        """The permissions of a directory: who may read may enter; what is made in it is the group's too."""
        return self.mode | (self.mode & 0o444) >> 2 | (0 if self.group is None else stat.S_ISGID)


def check_mode(mode: int | None) -> None:
    """Raise ConfigurationError for permissions that a file of an archive cannot have."""
    if mode is None:
        return
    if isinstance(mode, bool) or not isinstance(mode, int) or mode & ~_ALL or mode & _OWNER != _OWNER:
        raise ConfigurationError("mode: pass the permissions of files, from 0o600 to 0o666 (0o640)")


def access_for(directory: Path, mode: int | None = None, like: Path | None = None) -> Access:
    """What is given to what is made in a directory.

    Args:
        directory: The directory.
        mode: The permissions that were asked for; None: none were.
        like: A file or directory after which it takes, if it is there and no permissions were asked for.
    """
    facts = directory.stat()
    is_shared = facts.st_mode & _GROUP_WRITE and not facts.st_mode & _OTHERS_WRITE  # not one such as /tmp
    group = facts.st_gid if is_shared or facts.st_mode & stat.S_ISGID else None
    if mode is None and like is not None:
        with suppress(FileNotFoundError):
            mode = like.stat().st_mode & _ALL | _OWNER
    if mode is None:
        mode = 0o660 if is_shared else _OWNER
    return Access(mode, group)


def make_directory(path: Path, access: Access) -> None:
    """Make a directory. Raises FileExistsError where there is something already."""
    path.mkdir(0o700)
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _give(handle, access, access.directory_mode)
    finally:
        os.close(handle)


def make_directories(path: Path, mode: int | None) -> None:
    """Make a directory that is not there, and those above it that are not there either."""
    if not path.parent.exists():
        make_directories(path.parent, mode)
    if not path.exists():
        with suppress(FileExistsError):
            make_directory(path, access_for(path.parent, mode))
    path.mkdir(exist_ok=True)  # raises what it is if it is no directory


def open_file(path: Path, flags: int, like: Path | None = None) -> int:
    """Open a file; one that is made by that takes after ``like``, if that is there, or after its directory.

    Args:
        path: The file.
        flags: As for :func:`os.open`. A symbolic link is not followed, and no other program inherits the handle.
        like: The file that it is to replace.

    Returns:
        The handle.
    """
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    if not flags & os.O_CREAT:
        return os.open(path, flags)
    while True:
        if not flags & os.O_EXCL:
            with suppress(FileNotFoundError):
                return os.open(path, flags & ~os.O_CREAT)
        try:
            handle = os.open(path, flags | os.O_EXCL, _OWNER)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            continue  # somebody else has made it meanwhile
        try:
            after = path.parent if like is None or not like.exists() else like
            _give(handle, access := access_for(path.parent, like=after), access.mode)
        except BaseException:  # an interrupt too: nobody else would close it
            os.close(handle)
            raise
        return handle


def make_file(path: Path, mode: int | None) -> None:
    """Make an empty file if there is none, with its permissions from the first moment on, or leave it undone.

    It is not opened at its own name: to close any handle of it gives up the locks that the process has on it.
    """
    prepared = path.with_name(f"{path.name[:200]}.new-{secrets.token_hex(8)}")
    with suppress(OSError):  # whoever opens the file makes it, or says why it cannot be made
        if path.exists():
            return
        handle = os.open(prepared, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OWNER)
        try:
            _give(handle, access := access_for(path.parent, mode), access.mode)
        finally:
            os.close(handle)
            try:
                os.link(prepared, path)
            finally:
                prepared.unlink()


def give_access(path: Path, access: Access) -> None:
    """Give it to a file that was made just now, and that nobody knows yet."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _give(handle, access, access.mode)
    finally:
        os.close(handle)


def _give(handle: int, access: Access, mode: int) -> None:
    """Give a new file or directory its group and its permissions; without the group it is its owner's alone."""
    facts = os.fstat(handle)
    if access.group is not None and facts.st_gid != access.group:
        try:
            os.fchown(handle, -1, access.group)
        except PermissionError:
            mode &= 0o700
    os.fchmod(handle, mode)
