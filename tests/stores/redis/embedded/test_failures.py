"""What is left when opening an embedded server is interrupted, hangs, or cannot be done."""

from __future__ import annotations

import io
import os
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runstream.model.errors import ConfigurationError, StoreUnavailable
from runstream.stores.redis.connection import embedded_server, server_directory
from runstream.stores.redis.connection.embedded_server import EmbeddedServer
from runstream.stores.redis.connection.server_process import ServerProcess
from tests.stores.redis.embedded.users import (
    User,
    assert_nothing_left,
    client_of,
    pid_of,
    script,
    servers_below,
)
from tests.support.servers import DEADLINE_SECONDS, eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@pytest.mark.one_in(2)
@pytest.mark.parametrize("moment", ["users.lock", "server.log", "server.sock", "process"])
def test_interrupted_open_leaves_nothing(moment: str, directory: Path, user: Callable[..., User]) -> None:
    """Ctrl-C at any moment of an open leaves neither a server nor a lock."""
    one = user()
    one.tell("open")
    eventually(lambda: servers_below(directory) if moment == "process" else (directory / moment).exists())
    one.process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in one.process.communicate()[1]
    assert_nothing_left(directory)


def test_interrupt_between_birth_and_pid(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the server is being born does not lose it: it is ended before open raises."""
    spawn = ServerProcess._spawn

    def interrupted_spawn(self: ServerProcess, *arguments: object) -> object:
        process = spawn(self, *arguments)  # type: ignore[arg-type]  # handed through
        os.kill(os.getpid(), signal.SIGINT)
        return process

    monkeypatch.setattr(ServerProcess, "_spawn", interrupted_spawn)
    server = EmbeddedServer(directory)
    with pytest.raises(KeyboardInterrupt):
        server.open()
    assert_nothing_left(directory)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_program_that_ends_at_once(directory: Path, tmp_path: Path) -> None:
    """The error has the last words of the program, its status and the path of its log, and no older words."""
    for word in ("earlier", "later"):
        program = script(tmp_path / "server", f"echo 'something {word} is missing' >&2; exit 3")
        with pytest.raises(StoreUnavailable, match=f"status 3.*\n  something {word} is missing") as caught:
            EmbeddedServer(directory, program=program).open()
        assert str(directory / "server.log") in str(caught.value)
    assert "earlier" not in str(caught.value)
    assert_nothing_left(directory)


def test_program_that_never_answers(directory: Path, tmp_path: Path) -> None:
    """A program that is not ready in time is ended again, and the error says what can be done."""
    server = EmbeddedServer(
        directory, program=script(tmp_path / "server", "exec sleep 60"), start_timeout_seconds=0.2
    )
    with pytest.raises(StoreUnavailable, match="start_timeout_seconds"):
        server.open()
    assert_nothing_left(directory)


@pytest.mark.exhaustive
def test_hung_server_is_not_doubled(directory: Path) -> None:
    """A server that accepts but does not answer is waited for, never replaced by a second one."""
    with EmbeddedServer(directory) as server:
        pid = pid_of(server)
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailable, match=r"not ready after 0\.1 s"):
                EmbeddedServer(directory, start_timeout_seconds=0.1).open()
            assert servers_below(directory) == [pid]
        finally:
            os.kill(pid, signal.SIGCONT)
        assert server.pid == pid


def test_server_that_does_not_end(directory: Path) -> None:
    """Closing raises while the server still listens, can be repeated, and passes once the server is gone."""
    server = EmbeddedServer(directory)
    directory.mkdir()
    with socket.create_server(server.socket_path, family=socket.AF_UNIX) as listener:

        def answer_ping_only() -> None:
            while True:
                connection, _ = listener.accept()
                with connection:
                    if (command := connection.recv(100)).startswith(b"PING"):
                        connection.sendall(b"+PONG\r\n+OK\r\n")
                    elif command == b"end":
                        return

        stubborn = threading.Thread(target=answer_ping_only)
        stubborn.start()
        server.open()
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="still listens"):
                server.close()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(server.socket_path)
            connection.sendall(b"end")
        stubborn.join()
    server.close()
    assert_nothing_left(directory)


def test_start_lock_that_is_never_given_back(directory: Path) -> None:
    """An open that cannot get its turn gives up in time, and says which lock it waited for."""
    server = EmbeddedServer(directory)
    with server, server._start_lock(time.monotonic()), pytest.raises(StoreUnavailable, match=r"start\.lock"):
        EmbeddedServer(directory, start_timeout_seconds=0.1).open()
    assert_nothing_left(directory)


@pytest.mark.parametrize("target", ["file", "file/below", "/proc/nothing/here"])
def test_directory_that_cannot_be_one(target: str, tmp_path: Path) -> None:
    """A file, a path below a file, and a place where nothing can be made are refused by name."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=f"{target} cannot be used"):
        EmbeddedServer(tmp_path / target).open()


def test_mode_of_an_existing_directory(directory: Path) -> None:
    """An empty directory is made safe; another one keeps its mode, and is refused if it is unsafe."""
    directory.mkdir()
    directory.chmod(0o777)
    with EmbeddedServer(directory):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for name in ("start.lock", "users.lock"):
        (directory / name).unlink()
    directory.chmod(0o755)
    with EmbeddedServer(directory):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o755
        assert not [path for path in directory.iterdir() if path.stat().st_mode & 0o077]
    (directory / "start.lock").unlink()
    directory.chmod(0o777)
    with pytest.raises(ConfigurationError, match="chmod go-w"):
        EmbeddedServer(directory).open()


def test_directory_too_long_for_a_socket(tmp_path: Path) -> None:
    """Where the path is too long, users meet by a short one, which is gone when they are."""
    directory = tmp_path.joinpath(*["long" * 10] * 4)
    with EmbeddedServer(directory) as server, EmbeddedServer(directory / ".") as second:
        assert len(server.socket_path) <= 107 < len(f"{directory}/server.sock")
        assert (server.socket_path, server.pid) == (second.socket_path, second.pid)
        short = Path(server.socket_path).parent
        assert short.readlink() == directory
        assert stat.S_IMODE(short.parent.stat().st_mode) == 0o700
        with client_of(server) as client:
            assert client.ping()
    assert not short.is_symlink()
    assert_nothing_left(directory)


def test_short_path_goes_while_an_opener_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An opener that had to wait for the last close finds the short path gone, and makes it anew."""
    directory = tmp_path.joinpath(*["long" * 10] * 4)
    leaver, opener, waiting = EmbeddedServer(directory), EmbeddedServer(directory), threading.Event()
    lock_alone = embedded_server._lock_alone

    def tell_when_waiting(file: io.FileIO) -> bool:
        if lock_alone(file):
            return True
        waiting.set()
        return False

    leaver.open()
    with ThreadPoolExecutor(1) as threads:
        with leaver._start_lock(time.monotonic()):
            monkeypatch.setattr(embedded_server, "_lock_alone", tell_when_waiting)
            opening = threads.submit(opener.open)
            assert waiting.wait(DEADLINE_SECONDS)
            leaver._process.stop()
        opening.result()
    assert opener.pid == leaver.pid is not None
    leaver.close()
    opener.close()
    assert_nothing_left(directory)


def test_short_path_is_not_taken_from_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short directory that others can write to, or that only points somewhere, is refused."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setattr(server_directory, "_SHORT_DIRECTORY", short)
        server = EmbeddedServer(tmp_path.joinpath(*["long" * 10] * 4))
        trap = Path(short, f"runstream-{os.geteuid()}")
        trap.mkdir()
        trap.chmod(0o770)
        with pytest.raises(ConfigurationError, match="shorter directory"):
            server.open()
        trap.rmdir()
        trap.symlink_to(tmp_path)
        with pytest.raises(ConfigurationError, match="shorter directory"):
            server.open()
