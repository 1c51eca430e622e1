"""The embedded server is shared: one for all who open its directory, until the last of them is gone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runstream.stores.redis.connection.embedded_server import EmbeddedServer
from tests.stores.redis.embedded.users import (
    User,
    assert_nothing_left,
    client_of,
    pid_of,
    servers_below,
    state_of,
)
from tests.support.servers import DEADLINE_SECONDS, eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


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


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
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


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
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


@pytest.mark.exhaustive
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
