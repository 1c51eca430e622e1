"""Commands that are started before their server: as when a machine starts, and all begins at once."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import QUIET, command, run
from tests.support.processes.template import Python
from tests.support.servers import DEADLINE_SECONDS, PROGRAMS, Node, eventually, free_port, needs_server

pytestmark = needs_server

NAME = next(iter(PROGRAMS), "")


class Started:
    """A command that was started, with what it has said on stderr so far."""

    def __init__(self, directory: str, *arguments: str) -> None:
        self._err = Path(directory, "err")
        with self._err.open("w", encoding="utf-8") as err:
            self.process = Python(
                command(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
                env=QUIET,
            )

    @property
    def err(self) -> str:
        return self._err.read_text(encoding="utf-8")

    def out(self) -> str:
        return self.process.communicate(timeout=DEADLINE_SECONDS)[0]

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="runstream-") as path:
        yield path


def server_at(port: int, directory: str) -> Node:
    return Node(NAME, directory, "--port", str(port))


def wait_to_be_told(started: Started) -> None:
    """It says in one line that it waits, and does so."""
    eventually(lambda: "; waits " in started.err)
    time.sleep(0.2)
    assert started.process.poll() is None
    assert started.err.count("waits") == started.err.count("\n") == 1


@pytest.mark.exhaustive
def test_a_drain_worker_waits_for_its_server_for_ever(directory: str) -> None:
    """And then works; a signal meanwhile ends it in good order."""
    port = free_port()
    arguments = ["drain", "--url", f"redis://127.0.0.1:{port}", "--to", f"sqlite:{directory}/a.db", "--json"]
    impatient = Started(directory, *arguments)
    try:
        wait_to_be_told(impatient)
        assert "until it is there" in impatient.err
        impatient.process.send_signal(signal.SIGTERM)
        assert impatient.process.wait(DEADLINE_SECONDS) == 0
    finally:
        impatient.end()
    worker = Started(directory, *arguments)
    try:
        wait_to_be_told(worker)
        node = server_at(port, directory)
        try:
            eventually(lambda: "begins" in worker.err)
            worker.process.send_signal(signal.SIGTERM)
            assert json.loads(worker.out())["report"]["events"] == 0
            assert worker.process.returncode == 0
        finally:
            node.end()
    finally:
        worker.end()


OTHERS = ["status", "tail r --wait --idle-timeout 0.1", "drain --once --to sqlite:{tmp}/a.db"]


@pytest.mark.parametrize("name", OTHERS)
def test_others_wait_for_a_stated_time(name: str, directory: str) -> None:
    arguments = [*name.format(tmp=directory).split(), "--url", f"redis://127.0.0.1:{free_port()}"]
    given_up = run(*arguments, "--start-timeout", "0.3")
    assert given_up.code == 3
    assert given_up.err.count("waits for at most 0.3 s") == 1
    assert "--start-timeout" in run(arguments[0], "--help").out


@pytest.mark.exhaustive
@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", OTHERS)
def test_others_go_on_when_their_server_is_there(name: str, directory: str) -> None:
    port = free_port()
    waiting = Started(directory, *name.format(tmp=directory).split(), "--url", f"redis://127.0.0.1:{port}")
    try:
        wait_to_be_told(waiting)
        assert "for at most 30 s" in waiting.err
        node = server_at(port, directory)
        try:
            waiting.out()
            assert waiting.process.returncode == (1 if name.startswith("tail") else 0), waiting.err
        finally:
            node.end()
    finally:
        waiting.end()


def test_what_waiting_would_not_help_is_said_at_once(directory: str) -> None:
    node = Node(NAME, directory)
    try:
        said = run("drain", "--url", f"unix://{node.socket_path}?db=999", "--to", f"sqlite:{directory}/a.db")
        assert said.code == 2
        assert "no database of that number" in said.err
        assert "waits" not in said.err
    finally:
        node.end()
