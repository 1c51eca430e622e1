"""The command line over a real server: draining, retiring, status, and processes that are ended or killed."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from runstream import (
    RedisCheckpointer,
    connect,
)
from runstream.stores.redis.connection.embedded_server import EmbeddedServer
from runstream.stores.redis.namespace import namespace_of
from tests.support.backends import info_of
from tests.support.commands import QUIET, command, run, spawn
from tests.support.processes.template import Python
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import DEADLINE_SECONDS, eventually, needs_embedded_server


@dataclass
class Place:
    """An embedded server in a directory, with a store on it, and where its archives go."""

    directory: Path
    server: EmbeddedServer
    store: RedisCheckpointer[Any, Any]

    @property
    def url(self) -> str:
        return f"embedded:{self.directory}/server"

    @property
    def archives(self) -> list[str]:
        return [f"sqlite:{self.directory}/a.db", f"jsonl:{self.directory}/jsonl"]

    @property
    def to(self) -> list[str]:
        return [part for url in self.archives for part in ("--to", url)]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with EmbeddedServer(tmp_path / "server") as server, connect(f"embedded:{tmp_path}/server") as store:
        assert isinstance(store, RedisCheckpointer)
        yield Place(tmp_path, server, store)


NONE_RETIRED = {"retired": 0, "forgotten": 0}


@needs_embedded_server
def test_drain_once_archives_everything_and_says_so(place: Place) -> None:
    for run_id in ("a", "b"):
        place.store.append(run_id, make_events(run_id, 5, lane_id="l"), snapshot=make_state(run_id), lane_id="l")
    said = run("drain", "--url", place.url, *place.to, "--once", "--json", "--name", "w1")
    assert said.code == 0
    assert said.document["name"] == "w1"
    assert sorted(said.document["archives"].values()) == sorted(place.archives, reverse=False)
    report = said.document["report"]
    assert report == {
        "runs": 2,
        "events": 10,
        "snapshots": 2,
        "quarantined": 0,
        "parked": 0,
        "trimmed": 10,
        **NONE_RETIRED,
    }
    assert all(line.startswith("time=") and " level=info " in line for line in said.err.splitlines())
    for url in place.archives:
        shown = run("show", "a", "--url", url, "--json").document
        assert [event["offset"] for event in shown["events"]] == [1, 2, 3, 4, 5]
    table = run("drain", "--url", place.url, *place.to, "--once").out
    assert ["events", "0"] in [line.split() for line in table.splitlines()]


@needs_embedded_server
def test_show_of_a_run_that_has_moved_says_where_it_is(place: Place) -> None:
    place.store.append("r", make_events("r", 5, lane_id="l"), snapshot=make_state("r"), lane_id="l")
    assert run("drain", "--url", place.url, *place.to, "--once").code == 0
    said = run("show", "r", "--url", place.url, "--json")
    assert (said.code, said.document["archived_up_to"], said.document["events"]) == (0, 5, [])
    assert "offsets up to 5 of this run are in the archive" in said.err
    place.store.save_events(make_events("r", 2, first=6, lane_id="l"))
    said = run("show", "r", "--url", place.url, "--json")
    assert said.document["archived_up_to"] == 5
    assert [event["offset"] for event in said.document["events"]] == [6, 7]
    assert [snapshot["lane_id"] for snapshot in said.document["snapshots"]] == ["l"]
    assert run("show", "r", "--url", place.url, "--after", "5").err == ""
    row = run("runs", "--url", place.url, "--wide").out.splitlines()[1].split()
    assert (row[:4], row[-1]) == (["r", "running", "7", "5"], "6")


@needs_embedded_server
def test_status_shows_what_waits_and_where_it_goes(place: Place) -> None:
    place.store.save_events([make_event("a", 1), make_event("b", 1)])
    facts = run("status", "--url", place.url, "--json").document
    assert (facts["runs"], facts["due"], facts["later"], facts["archives"]) == (2, 2, 0, {})
    assert facts["oldest_due_seconds"] > 0
    assert facts["used_memory_bytes"] > 0
    assert facts["version"]
    run("drain", "--url", place.url, *place.to, "--once")
    (loaded,) = namespace_of(place.store).load_runs(["a"])
    assert loaded is not None
    namespace_of(place.store).park(loaded.header, "for a test", 60)
    facts = run("status", "--url", place.url, "--json").document
    assert (facts["due"], facts["later"], facts["oldest_due_seconds"]) == (0, 1, 0)
    assert facts["parked"] == {"a": "for a test"}
    assert sorted(facts["archives"].values()) == sorted(place.archives)
    text = run("status", "--url", place.url).out
    assert "for a test" in text
    assert place.archives[0] in text


@needs_embedded_server
def test_drain_once_ends_with_1_if_a_run_is_parked(place: Place) -> None:
    place.store.save_events(make_events("r", 5))
    assert run("drain", "--url", place.url, *place.to, "--once").code == 0
    place.store.delete_run("r")
    place.store.save_event(make_event("r", 1))  # of the same name, with a history of its own
    said = run("drain", "--url", place.url, *place.to, "--once", "--json")
    assert said.code == 1
    assert said.document["report"]["parked"] == 1
    assert list(said.document["parked"]) == ["r"]
    assert "level=error" in said.err


@needs_embedded_server
def test_drain_retires_and_forgets_when_it_is_told_to(place: Place) -> None:
    place.store.save_events([*make_events("r", 4), make_event("r", 5, kind="run.finished")])
    drain = ("drain", "--url", place.url, *place.to, "--once", "--json", "--retire-after")
    assert run(*drain, "60").document["report"]["retired"] == 0
    assert run(*drain, "0").document["report"]["retired"] == 1
    said = run("show", "r", "--url", place.url, "--json")
    assert (said.code, said.document["archived_up_to"], said.document["events"]) == (0, 5, [])
    assert run(*drain, "0", "--forget-after", "0").document["report"]["forgotten"] == 1
    assert run("show", "r", "--url", place.url).code == 4
    place.store.save_event(make_event("waits", 1))
    assert run(*drain, "0").document["report"]["retired"] == 0
    assert run(*drain, "0", "--retire-idle", "0").document["report"]["retired"] == 1
    assert info_of(place.store, "waits").first_hot == 2
    refused = run("drain", "--url", place.url, *place.to, "--once", "--forget-after", "5")
    assert (refused.code, refused.out) == (2, "")
    assert "retire" in refused.err


@contextmanager
def draining_worker(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with Python(
        command("drain", *arguments, "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=QUIET,
    ) as worker:
        try:
            yield worker
        finally:
            worker.kill()


@pytest.mark.one_in(2)
@needs_embedded_server
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_told_to_end_settles_reports_and_ends_with_0(place: Place, number: int) -> None:
    def archived(run_id: str) -> int:
        info = place.store.run_info(run_id)
        return 0 if info is None else info.archived_offset

    with draining_worker("--url", place.url, *place.to) as worker:
        place.store.save_events(make_events("r", 10))
        eventually(lambda: archived("r") == 10)
        place.store.save_events(make_events("r", 10, first=11))  # it goes on after the first
        eventually(lambda: archived("r") == 20)
        worker.send_signal(number)
        out, err = worker.communicate(timeout=DEADLINE_SECONDS)
    assert worker.returncode == 0, err
    assert json.loads(out)["report"]["events"] == 20
    assert signal.Signals(number).name in err
    assert run("status", "--url", place.url, "--json").document["due"] == 0


@needs_embedded_server
def test_a_second_signal_ends_a_worker_that_hangs_and_loses_nothing(place: Place) -> None:
    with Valve(place.server.socket_path) as valve, draining_worker("--url", valve.url, *place.to) as worker:
        assert worker.stderr is not None
        assert "begins" in worker.stderr.readline()
        valve.shut()
        eventually(lambda: valve.held)  # from now on it waits for a reply
        worker.send_signal(signal.SIGTERM)
        assert "SIGTERM" in worker.stderr.readline()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(DEADLINE_SECONDS) == 143
    place.store.save_events(make_events("r", 5))
    assert run("drain", "--url", place.url, *place.to, "--once", "--json").document["report"]["events"] == 5


class Valve:
    """Passes bytes between a TCP port and a unix socket, until it is shut; then it keeps what clients send."""

    def __init__(self, socket_path: str) -> None:
        self._target = socket_path
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self.held = False
        self._is_shut = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def shut(self) -> None:
        self._is_shut.set()

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self._listener, *self._sockets):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join(DEADLINE_SECONDS)

    def _start(self, function: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target)
            self._sockets += [client, server]
            self._start(self._pass_on, client, server, True)
            self._start(self._pass_on, server, client, False)

    def _pass_on(self, source: socket.socket, target: socket.socket, is_request: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if is_request and self._is_shut.is_set():
                    self.held = True
                    continue
                target.sendall(data)


# -- the example agent


@needs_embedded_server
def test_an_agent_that_is_killed_goes_on_where_it_was(place: Place) -> None:
    journal = place.directory / "journal"
    options = ["--url", place.url, "--run", "r", "--lane", "l", "--steps", "6", "--leader", "--json"]
    options += ["--journal", str(journal)]
    with Python(command("agent", *options, "--pace", "0.02"), env=QUIET) as agent:
        try:
            eventually(lambda: journal.exists() and len(journal.read_bytes().splitlines()) > 40)
        finally:
            agent.kill()
    said = spawn("agent", *options, "--pace", "0")
    assert said.code == 0
    assert said.document["resumed"]["step"] >= 4
    assert said.document["steps"] == 6
    assert [item.event.seq for item in place.store.read("r")] == list(range(1, said.document["events"] + 1))
    again = run("agent", *options[:-3], "--pace", "0")  # all is done already
    assert "resumed at step 6" in again.out
    assert place.store.run_info("r").last_offset == said.document["events"]  # type: ignore[union-attr]  # it is there


def test_ctrl_c_ends_an_agent_quietly_with_130(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    options = ["--run", "r", "--lane", "l", "--pace", "60", "--journal", str(journal)]
    with Python(
        command("agent", "--url", "memory:", *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=QUIET,
    ) as agent:
        try:
            eventually(lambda: journal.exists() and journal.stat().st_size)
            agent.send_signal(signal.SIGINT)
            out, err = agent.communicate(timeout=DEADLINE_SECONDS)
        finally:
            agent.kill()
    assert (agent.returncode, out, err) == (130, "", "")
