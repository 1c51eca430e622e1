"""The directory of an embedded server: its data, its socket, its locks and its log."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runstream.model.errors import ConfigurationError

__all__ = ["ServerDirectory"]

_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107  # what bind() takes, without the closing zero
# not tempfile.gettempdir(), which may be long
_SHORT_DIRECTORY = "/tmp"  # noqa: S108  only for a directory of this user alone, which is checked


class ServerDirectory:
    """The directory DIR of ``embedded:DIR``, by its real path.

    Attributes:
        path: The real path of DIR.
        socket_path: Where the server listens: at most 107 bytes (macOS: 103), the same for all users of DIR.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.path = os.path.realpath(directory)
        # If DIR is too long, a symlink to it is short enough. The socket lies in DIR all the same, so processes
        # that see another /tmp (containers, systemd's PrivateTmp) still meet at one server.
        self._link: Path | None = None
        self.socket_path = self.file("server.sock")
        if len(os.fsencode(self.socket_path)) > _SOCKET_PATH_BYTES:
            name = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
            self._link = Path(_SHORT_DIRECTORY, f"runstream-{os.geteuid()}", name)
            self.socket_path = f"{self._link}/server.sock"

    def file(self, name: str) -> str:
        """The path of a file in the directory."""
        return f"{self.path}/{name}"

    def private_file(self, name: str) -> io.FileIO:
        """Open a file for appending that only this user can open: who can open a lock can hold it."""
        return io.FileIO(self.file(name), "ab", opener=lambda path, flags: os.open(path, flags, 0o600))

    @contextmanager
    def usable(self) -> Iterator[None]:
        """Raise ConfigurationError for what the operating system refuses while this is entered."""
        try:
            yield
        except OSError as error:
            raise ConfigurationError(
                f"{self.path} cannot be used for an embedded server: {error.strerror or error};"
                " name a directory that you may write to, on a disk of this machine"
            ) from error

    def prepare(self) -> None:
        """Create the directory if it is not there, and make sure that nobody else can put files there.

        One that was plainly meant for a server, empty or with a server's lock, gets mode 0700; the mode of one
        with other things in it is left to its owner.

        Raises:
            ConfigurationError: Others may write to it.
        """
        directory = Path(self.path)
        if not directory.exists():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status, names = directory.stat(), {path.name for path in directory.iterdir()}
        if status.st_uid == os.geteuid() and (not names or "start.lock" in names):
            if stat.S_IMODE(status.st_mode) != 0o700:
                directory.chmod(0o700)
        elif status.st_mode & 0o022:
            raise ConfigurationError(
                f"{directory} holds other things and others may write to it; name a new or empty directory of"
                " yours, or take that right from the others (chmod go-w)"
            )

    def prepare_link(self) -> None:
        """Create the short link to a directory that is too long for a socket. The caller holds the start lock."""
        link = self._link
        if link is None:
            return
        link.parent.mkdir(mode=0o700, exist_ok=True)
        status = link.parent.lstat()  # /tmp is everybody's: it may be somebody else's directory, or a symlink
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise ConfigurationError(
                f"{self.path} is too long for a unix socket, and {link.parent}, the short way to it, is"
                " not a directory of yours with mode 0700; remove that, or name a shorter directory"
            )
        with suppress(FileExistsError):  # the name is a hash of DIR, so it is the right one
            link.symlink_to(self.path)

    def remove_link(self) -> None:
        """Remove the short way again. The caller holds the start lock."""
        if self._link is not None:
            self._link.unlink(missing_ok=True)
