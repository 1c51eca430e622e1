"""The process of an embedded server: start it, ask whether it serves, end it.

It is asked for no more than whether it serves commands and which process it is.
"""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runstream.model.errors import ConfigurationError, StoreUnavailable
from runstream.stores.redis.connection.server_binary import executable, find_server_program
from runstream.stores.redis.connection.server_directory import ServerDirectory

__all__ = ["POLL_SECONDS", "ServerProcess"]

POLL_SECONDS = 0.01
_ANSWER_SECONDS = 1.0  # one that is busy for longer is asked again
_STOP_SECONDS = 10.0  # for the last fsync, on a slow disk
_REPLY_BYTES = 65_536  # INFO server takes 1,500

# Only what Redis 6.2 knows too. No logfile: what a program says on stdout before it opens one is wanted most.
_OPTIONS = ["--port", "0", "--unixsocketperm", "700", "--maxmemory-policy", "noeviction"]
_OPTIONS += ["--appendonly", "yes", "--save", ""]
_SYNC_ALWAYS = "sync-always"
"""A file in a directory whose server syncs what is written before it replies, and not once a second."""

# pid -> DIR of the servers that this process started. It belongs to the process because only a parent can
# reap a child, and the object that started a server may be gone by the time that it ends.
_children: dict[int, str] = {}


class ServerProcess:
    """The server process of a directory, whoever started it. Its starter and stopper hold the start lock.

    Args:
        directory: Where the server keeps its data and listens.
        start_timeout_seconds: For how many seconds openers wait for it; errors name it.
    """

    def __init__(self, directory: ServerDirectory, start_timeout_seconds: float) -> None:
        self._directory = directory
        self._start_timeout_seconds = start_timeout_seconds

    @property
    def pid(self) -> int | None:
        """The process id, as the server says; None if it does not run or does not answer."""
        try:
            found = re.search(rb"process_id:(\d+)", self._ask("INFO server", _ANSWER_SECONDS))
        except OSError:
            return None
        return int(found[1]) if found else None

    def serves(self, deadline: float, *, has_ended: Callable[[], bool] = lambda: True) -> bool:
        """Wait until commands are served.

        Args:
            deadline: Until when to wait, in seconds of the monotonic clock.
            has_ended: Asked when nobody listens: whether no process is there that will.

        Returns:
            Whether commands are served; False if nobody listens and no process will.

        Raises:
            StoreUnavailable: The deadline passed first.
        """
        while (answer := self._ping()) != "+PONG":
            if answer is None and has_ended():
                return False
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"the server in {self._directory.path} is not ready after {self._start_timeout_seconds} s"
                    f" (PING: {answer or 'no answer'}); see {self._directory.file('server.log')}, and raise"
                    " start_timeout_seconds if it only needs longer to load its data"
                )
            time.sleep(POLL_SECONDS)
        return True

    def start(self, program: str | None, deadline: float) -> None:
        """Start a server, and wait until it serves commands. If it does not, its process is ended.

        Args:
            program: The server program; None: the one that is found.
            deadline: Until when to wait, in seconds of the monotonic clock.

        Raises:
            ConfigurationError: There is no program that can be run.
            StoreUnavailable: The server ended at once, or was not ready in time.
        """
        path = executable(program, "program=") if program else find_server_program()
        self.end_child()
        process: subprocess.Popen[bytes] | None = None
        with self._directory.private_file("server.log") as log:
            log_begin = log.seek(0, io.SEEK_END)
            try:
                with _ctrl_c_held_back():  # until we know which process to end on Ctrl-C
                    process = self._spawn(path, log)
                if self.serves(deadline, has_ended=lambda: process is None or process.poll() is not None):
                    _children[process.pid] = self._directory.path
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
            f"{path} ended at once (status {process.returncode}); its log, {self._directory.file('server.log')},"
            f" says:{self._log_since(log_begin)}"
        )

    def _spawn(self, program: str, log: io.FileIO) -> subprocess.Popen[bytes]:
        policy = "always" if Path(self._directory.file(_SYNC_ALWAYS)).exists() else "everysec"
        options = [*_OPTIONS, "--appendfsync", policy, "--unixsocket", self._directory.socket_path]
        if Path(self._directory.file("appendonlydir")).exists():
            # the default of those who know it; Redis 6.2 does not, and refuses to start, where it would else
            # overlook the data and start empty
            options += ["--appenddirname", "appendonlydir"]
        try:
            return subprocess.Popen(  # noqa: S603  the program is the user's choice, the options are ours
                [program, *options],
                cwd=self._directory.path,
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

    def sync_always(self) -> None:
        """Let the server sync what is written before it replies, from now on, whoever starts it again."""
        self._directory.private_file(_SYNC_ALWAYS).close()
        self._ask("CONFIG SET appendfsync always", _ANSWER_SECONDS)

    def stop(self) -> None:
        """End the server, which nobody uses any more; when this returns, the process is gone.

        Raises StoreUnavailable if the server is there and does not end.
        """
        try:
            # answered by nothing but the end of the connection, which comes with the end of the process
            answer = self._ask("SHUTDOWN NOSAVE", _STOP_SECONDS)
        except (FileNotFoundError, ConnectionError):  # nobody listens, or it went without reading all
            answer = b""
        except OSError as error:
            answer = str(error).encode()
        if answer or self._ping() is not None:
            raise StoreUnavailable(
                f"the server in {self._directory.path} (process {self.pid}) does not end"
                f" ({answer.decode(errors='replace').strip() or 'it still listens'}); see"
                f" {self._directory.file('server.log')}, end it with kill, and close again"
            )
        self.end_child()
        self._directory.remove_link()

    def end_child(self) -> None:
        """Reap the servers that this process started and that have ended; kill this directory's if it has not.

        It is called when nobody listens: a server that still runs has lost its socket, which was removed by hand
        or with the directory, and is of use to nobody. What it acknowledged is with the kernel, so it may be
        killed.
        """
        for pid, directory in list(_children.items()):
            # reaped by another thread, or by the parent that this process was forked from
            with suppress(ChildProcessError, ProcessLookupError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    if directory != self._directory.path:
                        continue
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
            _children.pop(pid, None)

    def _log_since(self, begin: int) -> str:
        with Path(self._directory.file("server.log")).open("rb") as log:
            log.seek(max(begin, log.seek(0, io.SEEK_END) - 2_000))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n  ".join(["", *lines[-10:]]) if lines else " nothing"

    def _ping(self) -> str | None:
        """The server's answer to PING; None if nobody listens."""
        try:
            answer = self._ask("PING", _ANSWER_SECONDS)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:  # it is there, too busy or on its way out
            return str(error)
        return answer.partition(b"\r\n")[0].decode(errors="replace")

    def _ask(self, command: str, timeout_seconds: float) -> bytes:
        """Send one command; return all that the server sends until it closes the connection."""
        answer = b""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_seconds)
            connection.connect(self._directory.socket_path)
            connection.sendall(f"{command}\r\nQUIT\r\n".encode())
            while len(answer) < _REPLY_BYTES and (part := connection.recv(_REPLY_BYTES)):
                answer += part
        return answer.removesuffix(b"+OK\r\n")  # to QUIT


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Let Ctrl-C raise only when this is left."""
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
