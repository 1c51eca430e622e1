"""Processes that use an embedded server, and how a test sees what they leave behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import redis

from runstream.stores.redis.connection.embedded_server import EmbeddedServer
from tests.support.processes.template import Python
from tests.support.servers import eventually


def servers_below(directory: Path) -> list[int]:
    """Return the processes that write to a log in the directory, as servers do from birth to end."""
    place, found = os.path.realpath(directory) + "/", []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            output = str((process / "fd/1").readlink())
            if output.startswith(place) and "server.log" in output:
                found.append(int(process.name))
    return found


def state_of(pid: int) -> str:
    """Return the state that /proc shows (Z: ended, but not reaped), or "" for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_locked(file: Path) -> bool:
    """Return whether anybody holds a lock on it."""
    status = file.stat()
    name = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    return any(line.split()[5] == name for line in Path("/proc/locks").read_text().splitlines())


def assert_nothing_left(directory: Path) -> None:
    eventually(lambda: not servers_below(directory))
    assert not is_locked(directory / "start.lock")
    assert not is_locked(directory / "users.lock")


@contextlib.contextmanager
def client_of(server: EmbeddedServer) -> Iterator[redis.Redis]:
    client = redis.Redis(unix_socket_path=server.socket_path, decode_responses=True)
    try:
        yield client
    finally:
        client.close()


# -- other processes that use one

USER = """
import sys
from runstream.stores.redis.connection.embedded_server import EmbeddedServer
server = EmbeddedServer(sys.argv[1])
for line in sys.stdin:
    command, *arguments = line.split()
    if command == "open":
        server.open()
        print(server.pid)
    elif command == "close":
        server.close()
        print("closed")
    elif command == "count":
        import redis
        for _ in range(int(arguments[0])):
            with server:
                client = redis.Redis(unix_socket_path=server.socket_path)
                client.incr("count")
                client.close()
        print("counted")
    sys.stdout.flush()
"""


class User:
    """Another process with one EmbeddedServer, where a warning is an error; it is told what to do."""

    def __init__(self, directory: Path, *, script: str = USER, own_session: bool = False) -> None:
        self.process = Python(
            [sys.executable, "-W", "error", "-c", script, str(directory)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=own_session,
        )

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")

    def hear(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        return line.strip()

    def ask(self, command: str) -> str:
        self.tell(command)
        return self.hear()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> None:
        """Let it exit; it must have nothing to complain about, not even when its objects are collected."""
        errors = self.process.communicate()[1]
        assert (self.process.returncode, errors) == (0, "")


def pid_of(server: EmbeddedServer) -> int:
    pid = server.pid
    assert pid is not None
    return pid


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)
