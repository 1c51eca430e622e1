"""The server behind ``embedded:DIR``: a real Valkey or Redis that its users start, share and end themselves.

What it is for: a store that needs no server of the user's own. Its data is an append-only file in DIR, its
door a unix socket there.

What it promises: all who name the same DIR, by any spelling, share one server. The first to ``open`` starts
it, the last to ``close`` ends it, also when they do so at the same moment. Whoever is killed, the next open
finds what was acknowledged.

What it leaves to others: connecting, with any client, and judging whether the server is new enough. It talks
to the server only to ask whether it is up and which process it is, and to end it.

How it works: ``DIR/users.lock`` is held shared by everyone who has the server open. ``DIR/start.lock`` is
held, alone, by whoever starts the server or finds out whether it was the last user: so nobody joins a server
that is about to end, and nobody starts a second one. Both are flocks, which the kernel drops with the process
that held them. Neither file is ever removed: a lock on a removed file keeps nobody out.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import io
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from runstream.model.errors import ConfigurationError, RunstreamError, StoreUnavailable
from runstream.stores.redis.connection.server_binary import executable, find_server_program

__all__ = ["EmbeddedServer"]

_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107  # what bind() takes, without the closing zero
# not tempfile.gettempdir(), which may be long
_SHORT_DIRECTORY = "/tmp"  # noqa: S108  only for a directory of this user alone, which is checked
_POLL_SECONDS = 0.01
_ANSWER_SECONDS = 1.0  # one that is busy for longer is asked again
_STOP_SECONDS = 10.0  # for the last fsync, on a slow disk
_REPLY_BYTES = 65_536  # INFO server takes 1,500

# Only what Redis 6.2 knows too. No logfile: what a program says on stdout before it opens one is wanted most.
_OPTIONS = ["--port", "0", "--unixsocketperm", "700", "--maxmemory-policy", "noeviction"]
_OPTIONS += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]

# pid -> DIR of the servers that this process started. It belongs to the process because only a parent can
# reap a child, and the object that started a server may be gone by the time that it ends.
_children: dict[int, str] = {}


class EmbeddedServer:
    """One user's share of the server of a directory; a context manager.

    ``directory`` keeps data, socket, locks and ``server.log``. It is created with mode 0700. One that exists
    is made 0700 if it is empty or was used for this before, else refused if others may write to it.
    ``program`` is what ``open`` starts, None for what :mod:`~runstream.stores.redis.connection.server_binary`
    finds; it does not matter to those who join. ``start_timeout_seconds`` is how long ``open`` waits, for other
    openers and for data to be loaded.

    Threads may share an object or have one each. It belongs to the process that opened it and counts as not open
    in a forked child. ``close`` there leaves the parent's share alone; a child that goes on using the server calls
    ``open``, for a share of its own, or the server may end under it.

    A process that exits without ``close`` is closed by :mod:`atexit`. One that is killed is not: then the others
    go on, or the server goes on alone, and the next to open joins it and the last to close ends it.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, program: str | None = None, start_timeout_seconds: float = 30.0
    ) -> None:
        self._directory = os.path.realpath(directory)
        self._program = program
        self._start_timeout_seconds = start_timeout_seconds
        self._share: io.FileIO | None = None
        self._opened_in = 0  # the pid whose share it is
        # Where DIR is too long, a symlink to it is short enough. The socket lies in DIR all the same, so
        # processes that see another /tmp (containers, systemd's PrivateTmp) still meet at one server.
        self._link: Path | None = None
        self._socket_path = self._file("server.sock")
        if len(os.fsencode(self._socket_path)) > _SOCKET_PATH_BYTES:
            name = hashlib.sha256(os.fsencode(self._directory)).hexdigest()[:16]
            self._link = Path(_SHORT_DIRECTORY, f"runstream-{os.geteuid()}", name)
            self._socket_path = f"{self._link}/server.sock"

    @property
    def socket_path(self) -> str:
        """Where clients connect: at most 107 bytes (macOS: 103), the same for all users of the directory."""
        return self._socket_path

    @property
    def pid(self) -> int | None:
        """The process id of the server, as it says itself; None when it does not run (or does not answer)."""
        try:
            found = re.search(rb"process_id:(\d+)", self._ask("INFO server", _ANSWER_SECONDS))
        except OSError:
            return None
        return int(found[1]) if found else None

    def open(self) -> None:
        """Take a share of the server and start it if it does not run; when it returns, commands are served.

        On an open object it only starts a server that has died. Raises ConfigurationError if the directory
        cannot be used or there is no program to start, StoreUnavailable if the server ends at once or is not
        ready in time. Whatever it raises, it has taken no share and leaves no server that nobody uses.
        """
        deadline = time.monotonic() + self._start_timeout_seconds
        if self._share is not None and self._opened_in != os.getpid():
            self._forget(self._share)
        share: io.FileIO | None = None
        try:
            with self._directory_usable():
                self._prepare_directory()
                with self._start_lock(deadline):
                    if self._link is not None:
                        self._prepare_link(self._link)
                    if self._share is None:
                        share = self._private_file("users.lock")
                        fcntl.flock(share, fcntl.LOCK_SH)  # no wait: who wants it alone has the start lock
                    if not self._answers(deadline, has_ended=lambda: True):
                        self._start(deadline)
                    if share is not None:
                        atexit.register(self.close)
                        self._share, self._opened_in = share, os.getpid()
        except BaseException:  # Ctrl-C too: it leaves no server that nobody uses
            if share is not None:
                with suppress(RunstreamError):  # why it did not open says more
                    self._leave(share)
                self._forget(share)
            raise

    def close(self) -> None:
        """Give the share back. The last user ends the server, and this returns when it is gone.

        Nothing happens if this object is not open, or not in this process. Raises StoreUnavailable if the
        server is there and does not end, ConfigurationError if the directory can no longer be read; it may
        then be called again.
        """
        share = self._share
        if share is None:
            return
        if self._opened_in == os.getpid():
            self._leave(share)
        else:
            self._forget(share)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # shares and locks

    def _leave(self, share: io.FileIO) -> None:
        with self._directory_usable():
            try:
                with self._start_lock(time.monotonic() + self._start_timeout_seconds):
                    if share.closed:  # another thread that closes this object came first
                        return
                    # unlocked, not only closed: a child forked in the meantime holds a copy of the descriptor
                    fcntl.flock(share, fcntl.LOCK_UN)
                    if self._is_unused():
                        self._stop()
                    self._forget(share)
            except FileNotFoundError:  # DIR was removed, and with it the way to a server that may still run
                self._end_child()
                self._forget(share)

    def _forget(self, share: io.FileIO) -> None:
        share.close()  # in a forked child this closes a copy, and the lock stays with the parent
        if self._share is share:
            self._share = None
            atexit.unregister(self.close)

    def _is_unused(self) -> bool:
        # asked of the file that is there now: if DIR was replaced, its server is not the one that we used
        with self._private_file("users.lock") as users:
            return _lock_alone(users)

    @contextmanager
    def _start_lock(self, deadline: float) -> Iterator[None]:
        with self._private_file("start.lock") as lock:
            while not _lock_alone(lock):
                if time.monotonic() > deadline:
                    raise StoreUnavailable(
                        f"others were starting or ending the server in {self._directory} all the while;"
                        " try again, or see who holds start.lock there (lsof)"
                    )
                time.sleep(_POLL_SECONDS)
            try:
                yield
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)  # as in _leave

    # the directory

    def _file(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def _private_file(self, name: str) -> io.FileIO:
        # 0600: a lock that others can open is a lock that others can hold
        return io.FileIO(self._file(name), "ab", opener=lambda path, flags: os.open(path, flags, 0o600))

    @contextmanager
    def _directory_usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigurationError(
                f"{self._directory} cannot be used for an embedded server: {error.strerror or error};"
                " name a directory that you may write to, on a disk of this machine"
            ) from error

    def _prepare_directory(self) -> None:
        # Nobody else may be able to put a socket, a lock or a log there. A directory that is plainly meant
        # for this is made safe; the mode of one with other things in it is its owner's business.
        directory = Path(self._directory)
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

    def _prepare_link(self, link: Path) -> None:
        link.parent.mkdir(mode=0o700, exist_ok=True)
        status = link.parent.lstat()  # /tmp is everybody's: it may be somebody else's directory, or a symlink
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise ConfigurationError(
                f"{self._directory} is too long for a unix socket, and {link.parent}, the short way to it, is"
                " not a directory of yours with mode 0700; remove that, or name a shorter directory"
            )
        with suppress(FileExistsError):  # the name is a hash of DIR, so it is the right one
            link.symlink_to(self._directory)

    # the server process

    def _start(self, deadline: float) -> None:
        program = executable(self._program, "program=") if self._program else find_server_program()
        self._end_child()
        process: subprocess.Popen[bytes] | None = None
        with self._private_file("server.log") as log:
            log_begin = log.seek(0, io.SEEK_END)
            try:
                with _ctrl_c_held_back():  # until we know which process to end on Ctrl-C
                    process = self._spawn(program, log)
                if self._answers(deadline, has_ended=lambda: process is None or process.poll() is not None):
                    _children[process.pid] = self._directory
                    # From here on it is known by its pid. Popen would warn of a child that outlives it, which
                    # is what this one is for.
                    process.returncode = 0
                    return
            except BaseException:  # Ctrl-C too: nobody else knows of it yet
                if process is not None:
                    process.kill()
                    process.wait()
                raise
        raise StoreUnavailable(
            f"{program} ended at once (status {process.returncode}); its log, {self._file('server.log')},"
            f" says:{self._log_since(log_begin)}"
        )

    def _spawn(self, program: str, log: io.FileIO) -> subprocess.Popen[bytes]:
        options = [*_OPTIONS, "--unixsocket", self._socket_path]
        if Path(self._file("appendonlydir")).exists():
            # the default of those who know it; Redis 6.2 does not, and refuses to start, where it would else
            # overlook the data and start empty
            options += ["--appenddirname", "appendonlydir"]
        try:
            return subprocess.Popen(  # noqa: S603  the program is the user's choice, the options are ours
                [program, *options],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for its users
                umask=0o077,
            )
        except OSError as error:
            raise ConfigurationError(
                f"{program} cannot be run: {error.strerror or error}; name another server in RUNSTREAM_SERVER"
            ) from error

    def _answers(self, deadline: float, *, has_ended: Callable[[], bool]) -> bool:
        """Wait until commands are served; False if nobody listens and there is no process that will."""
        while (answer := self._ping()) != "+PONG":
            if answer is None and has_ended():
                return False
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"the server in {self._directory} is not ready after {self._start_timeout_seconds} s"
                    f" (PING: {answer or 'no answer'}); see {self._file('server.log')}, and raise"
                    " start_timeout_seconds if it only needs longer to load its data"
                )
            time.sleep(_POLL_SECONDS)
        return True

    def _stop(self) -> None:
        """End the server that nobody uses, under the start lock; when it returns, the process is gone."""
        try:
            # answered by nothing but the end of the connection, which comes with the end of the process
            answer = self._ask("SHUTDOWN NOSAVE", _STOP_SECONDS)
        except (FileNotFoundError, ConnectionError):  # nobody listens, or it went without reading all
            answer = b""
        except OSError as error:
            answer = str(error).encode()
        if answer or self._ping() is not None:
            raise StoreUnavailable(
                f"the server in {self._directory} (process {self.pid}) does not end"
                f" ({answer.decode(errors='replace').strip() or 'it still listens'}); see"
                f" {self._file('server.log')}, end it with kill, and close again"
            )
        self._end_child()
        if self._link is not None:
            self._link.unlink(missing_ok=True)

    def _end_child(self) -> None:
        """Reap the servers that this process started and that have ended; end this DIR's if it has not.

        Called when nobody listens: what is not dead yet has lost its socket, with DIR or removed by hand, and
        is of use to nobody. What it acknowledged is with the kernel, so it may be killed.
        """
        for pid, directory in list(_children.items()):
            # reaped by another thread, or by the parent that this process was forked from
            with suppress(ChildProcessError, ProcessLookupError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    if directory != self._directory:
                        continue
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
            _children.pop(pid, None)

    def _log_since(self, begin: int) -> str:
        with Path(self._file("server.log")).open("rb") as log:
            log.seek(max(begin, log.seek(0, io.SEEK_END) - 2_000))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n  ".join(["", *lines[-10:]]) if lines else " nothing"

    # talking to it

    def _ping(self) -> str | None:
        """Return what the server answers to PING; None if nobody listens."""
        try:
            answer = self._ask("PING", _ANSWER_SECONDS)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:  # it is there, too busy or on its way out
            return str(error)
        return answer.partition(b"\r\n")[0].decode(errors="replace")

    def _ask(self, command: str, timeout_seconds: float) -> bytes:
        """Send one command; return what is said until the connection is closed, within the time per reply."""
        answer = b""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_seconds)
            connection.connect(self._socket_path)
            connection.sendall(f"{command}\r\nQUIT\r\n".encode())
            while len(answer) < _REPLY_BYTES and (part := connection.recv(_REPLY_BYTES)):
                answer += part
        return answer.removesuffix(b"+OK\r\n")  # to QUIT


def _lock_alone(file: io.FileIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield  # nothing can be raised here
        return
    held_back: list[int] = []
    try:
        signal.signal(signal.SIGINT, lambda number, _: held_back.append(number))
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if held_back:
            signal.raise_signal(signal.SIGINT)
