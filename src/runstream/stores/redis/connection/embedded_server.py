"""The server behind ``embedded:DIR``: a real Valkey or Redis that its users start, share and end themselves.

It is for a store that needs no server of the user's own. Its data is an append-only file in DIR, and it listens on
a unix socket there. All who name the same DIR, by any spelling, share one server. The first to ``open`` starts it,
the last to ``close`` ends it, also when they do so at the same moment. Whoever is killed, the next open finds what
was acknowledged.

How it works: everyone who has the server open holds a shared lock on ``DIR/users.lock``. Whoever starts the
server, or finds out whether it was the last user, holds an exclusive lock on ``DIR/start.lock``: so nobody joins a
server that is about to end, and nobody starts a second one. Both are flocks, which the kernel drops with the
process that held them. Neither file is ever removed: a lock on a removed file keeps nobody out.
"""

from __future__ import annotations

import atexit
import fcntl
import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Self

from runstream.model.errors import RunstreamError, StoreUnavailable
from runstream.operations.forks import starts_anew
from runstream.stores.redis.connection.server_directory import ServerDirectory
from runstream.stores.redis.connection.server_process import POLL_SECONDS, ServerProcess

__all__ = ["EmbeddedServer"]


class EmbeddedServer:
    """One user's share of the server of a directory; a context manager.

    Threads may share an object or have one each. It belongs to the process that opened it and counts as not open
    in a forked child. ``close`` there leaves the parent's share alone; a child that goes on using the server calls
    ``open``, for a share of its own, or the server may end under it.

    A process that exits without ``close`` is closed by :mod:`atexit`. One that is killed is not: then the others
    go on, or the server goes on alone, and the next to open joins it and the last to close ends it.

    Args:
        directory: Keeps data, socket, locks and ``server.log``. It is created with mode 0700. One that exists is
        made
            0700 if it is empty or was used for this before, else refused if others may write to it.
        program: The server program that ``open`` starts; None: the one that
            :mod:`~runstream.stores.redis.connection.server_binary` finds. It does not matter to those who join.
        start_timeout_seconds: How long ``open`` waits, for other openers and for data to be loaded.
        sync_always: Let the server of that directory sync what is written before it replies, from now on, and not
            once a second.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        program: str | None = None,
        start_timeout_seconds: float = 30.0,
        sync_always: bool = False,
    ) -> None:
        self._directory = ServerDirectory(directory)
        self._process = ServerProcess(self._directory, start_timeout_seconds)
        self._program = program
        self._sync_always = sync_always
        self._start_timeout_seconds = start_timeout_seconds
        self._share: io.FileIO | None = None
        starts_anew(self)

    def _start_anew(self) -> None:
        """Have no share: the parent's is left alone, of which this process has copies of descriptors."""
        if self._share is not None:
            self._forget(self._share)

    @property
    def socket_path(self) -> str:
        """Where clients connect: at most 107 bytes (macOS: 103), the same for all users of the directory."""
        return self._directory.socket_path

    @property
    def pid(self) -> int | None:
        """The process id of the server, as it says itself; None if it does not run or does not answer."""
        return self._process.pid

    def open(self) -> None:
        """Take a share of the server and start it if it does not run; when this returns, commands are served.

        On an open object it only starts a server that has died. If it raises, it has taken no share and leaves no
        server that nobody uses.

        Raises:
            ConfigurationError: The directory cannot be used, or there is no program to start.
            StoreUnavailable: The server ended at once or was not ready in time.
        """
        deadline = time.monotonic() + self._start_timeout_seconds
        share: io.FileIO | None = None
        try:
            with self._directory.usable():
                self._directory.prepare()
                with self._start_lock(deadline):
                    self._directory.prepare_link()
                    if self._share is None:
                        share = self._directory.private_file("users.lock")
                        fcntl.flock(share, fcntl.LOCK_SH)  # no wait: who wants it alone has the start lock
                    if not self._process.serves(deadline):
                        self._process.start(self._program, deadline)
                    if self._sync_always:
                        self._process.sync_always()
                    if share is not None:
                        atexit.register(self.close)
                        self._share = share
        except BaseException:  # Ctrl-C too: it leaves no server that nobody uses
            if share is not None:
                with suppress(RunstreamError):  # why it did not open says more
                    self._leave(share)
                self._forget(share)
            raise

    def close(self) -> None:
        """Give the share back. The last user ends the server, and this returns when it is gone.

        Nothing happens if this object is not open, or not in this process. After an error it may be called again.

        Raises:
            StoreUnavailable: The server is there and does not end.
            ConfigurationError: The directory can no longer be read.
        """
        if self._share is not None:
            self._leave(self._share)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _leave(self, share: io.FileIO) -> None:
        with self._directory.usable():
            try:
                with self._start_lock(time.monotonic() + self._start_timeout_seconds):
                    if share.closed:  # another thread that closes this object came first
                        return
                    # unlocked, not only closed: a child forked in the meantime holds a copy of the descriptor
                    fcntl.flock(share, fcntl.LOCK_UN)
                    if self._is_unused():
                        self._process.stop()
                    self._forget(share)
            except FileNotFoundError:  # DIR was removed, and with it the way to a server that may still run
                self._process.end_child()
                self._forget(share)

    def _forget(self, share: io.FileIO) -> None:
        share.close()  # in a forked child this closes a copy, and the lock stays with the parent
        if self._share is share:
            self._share = None
            atexit.unregister(self.close)

    def _is_unused(self) -> bool:
        # asked of the file that is there now: if DIR was replaced, its server is not the one that we used
        with self._directory.private_file("users.lock") as users:
            return _lock_alone(users)

    @contextmanager
    def _start_lock(self, deadline: float) -> Iterator[None]:
        with self._directory.private_file("start.lock") as lock:
            while not _lock_alone(lock):
                if time.monotonic() > deadline:
                    raise StoreUnavailable(
                        f"others were starting or ending the server in {self._directory.path} all the while;"
                        " try again, or see who holds start.lock there (lsof)"
                    )
                time.sleep(POLL_SECONDS)
            try:
                yield
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)  # as in _leave


def _lock_alone(file: io.FileIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
