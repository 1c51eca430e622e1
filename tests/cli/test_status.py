"""``runstream status`` beside workers, and kept on screen: on pipes, at a terminal, through an outage."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from runstream import PAEvent, SQLiteCheckpointer, connect
from runstream.cli.support.exit_codes import ExitCode
from runstream.stores.redis.connection.embedded_server import EmbeddedServer
from runstream.stores.redis.namespace import namespace_of
from tests.support.commands import QUIET, Place, Worker, command, put_damaged, run
from tests.support.processes.template import Python
from tests.support.servers import DEADLINE_SECONDS, eventually, needs_server

pytestmark = needs_server


def facts(place: Place, *arguments: str) -> Any:
    said = run("status", "--url", place.url, *arguments, "--json")
    assert said.code == 0, said.err
    return said.document


# -- alarms


def report(
    place: Place, name: str, archives: dict[str, str], partitions: list[int] | None = None, failing: Any = None
) -> None:
    """Say what a worker says of itself."""
    facts = {"archives": list(archives.values()), "archive_ids": list(archives), "events": 0}
    namespace_of(place.store).report(name, {**facts, "partitions": partitions, "failing": failing or {}})


def alarms(place: Place, *arguments: str) -> list[str]:
    """The names of the alarms."""
    said = run("status", "--url", place.url, "--check", *arguments, "--json")
    names = [alarm["name"] for alarm in said.document["alarms"]]
    assert said.code == (1 if names else 0), said.err
    return names


def test_work_that_nobody_does_is_an_alarm(place: Place) -> None:
    """Also where workers drain other partitions, or have died some time ago."""
    assert alarms(place) == []
    place.emit("r", 3)
    assert alarms(place) == ["no-worker"]
    keys = namespace_of(place.store).keys
    number = keys.partitions.index(keys.run("r").partition)
    report(place, "w1", {"a": "sqlite:a.db"}, [one for one in range(16) if one != number])
    assert alarms(place) == ["no-worker"]
    assert f"in partition {number}," in run("status", "--url", place.url).out
    report(place, "w2", {"a": "sqlite:a.db"})
    assert alarms(place) == []
    told = json.loads(place.node.raw.hget(keys.workers, "w2"))
    place.node.raw.hset(keys.workers, "w2", json.dumps({**told, "seen_at": told["seen_at"] - 61}))
    assert alarms(place) == ["no-worker"]
    report(place, "w3", {"a": "sqlite:a.db"}, failing={"archives": {"since": 0, "error": "it waits"}})
    assert alarms(place) == ["no-worker"]
    namespace_of(place.store).claim(None, 16, 30)
    assert alarms(place) == [], "it is claimed"


def test_a_backlog_that_is_too_old_is_an_alarm(place: Place) -> None:
    report(place, "w", {})
    place.emit("r", 3)
    assert alarms(place, "--max-age", "60") == []
    time.sleep(0.02)
    assert alarms(place, "--max-age", "0.01") == ["backlog"]


def test_an_archive_that_no_worker_has_is_an_alarm(place: Place) -> None:
    """By its UUID: a location may be written in two ways, or be another file at another host."""
    namespace_of(place.store).enlist({"a": "sqlite:a.db", "b": "jsonl:b"})
    assert alarms(place) == [], "nobody is at work, and nothing is to be done"
    report(place, "w1", {"a": "sqlite:/elsewhere/a.db", "c": "jsonl:b"})
    assert alarms(place) == ["archive"]
    report(place, "w2", {"b": "jsonl:b"}, list(range(15)))
    assert alarms(place) == ["archive"], "of the last partition nobody has it"
    report(place, "w3", {"b": "jsonl:b"}, [15])
    assert alarms(place) == []


def test_what_waits_for_a_person_is_an_alarm(place: Place) -> None:
    place.emit("r", 3)
    (loaded,) = namespace_of(place.store).load_runs(["r"])
    assert loaded is not None
    namespace_of(place.store).park(loaded.header, "for a test", 600)
    assert alarms(place) == ["parked"]
    place.node.raw.set(namespace_of(place.store).keys.partitions[0].retire, "x")
    assert alarms(place) == ["parked", "damaged"]
    said = run("status", "--url", place.url, "--check")
    assert said.code == 1
    assert {"parked", "damaged"} <= {line.split()[0] for line in said.out.splitlines() if line}
    assert run("status", "--url", place.url).code == 0


def test_what_cannot_be_checked_is_refused(place: Place) -> None:
    with closing(SQLiteCheckpointer[Any, Any](place.directory / "a.db")):
        assert run("status", "--url", place.sqlite, "--check").code == ExitCode.USAGE
    assert run("status", "--url", place.url, "--check", "--watch").code == ExitCode.USAGE


# -- one look


def test_it_shows_the_backlog_in_runs_events_and_seconds(place: Place) -> None:
    place.emit("a", 7)
    place.emit("b", 5)
    found = facts(place)
    assert (found["due"], found["backlog_events"]) == (2, 12)
    assert 0 < found["oldest_due_seconds"] < DEADLINE_SECONDS
    text = run("status", "--url", place.url).out
    assert ["backlog", "12", "events"] in [line.split() for line in text.splitlines()]


@pytest.mark.exhaustive
def test_it_shows_who_drains_and_what_holds_them_up(place: Place) -> None:
    """A file that lies where a directory belongs is an archive that fails."""
    with Worker(*place.drain, "--name", "w1", "--partitions", "0-14") as worker:
        worker.says("begins")
        eventually(lambda: facts(place)["workers"])
        (shown,) = facts(place)["workers"]
        assert (shown["name"], shown["failing"], shown["events"]) == ("w1", {}, 0)
        assert shown["archives"] == [place.jsonl, place.sqlite]
        assert shown["partitions"] == list(range(15))
        assert 0 <= facts(place)["now"] - shown["seen_at"] < DEADLINE_SECONDS
        keys = namespace_of(place.store).keys
        run_id = next(name for name in map(str, range(100)) if keys.run(name).partition is keys.partitions[3])
        (place.directory / "jsonl" / run_id).write_text("a file where the run's directory belongs")
        place.emit(run_id, 5)
        eventually(lambda: facts(place)["workers"][0]["failing"])
        failure = facts(place)["workers"][0]["failing"][place.jsonl]
        assert failure["error"]
        assert 0 <= time.time() - failure["since"] < 2 * DEADLINE_SECONDS
        rows = [line.split() for line in run("status", "--url", place.url).out.splitlines()]
        assert any(row[:2] == ["w1", place.jsonl] and "ago" in row for row in rows)
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
    assert facts(place)["workers"] == []


def test_it_shows_what_archives_hold_and_what_they_have_kept_aside(place: Place) -> None:
    place.emit("r", 3)
    put_damaged(place, "r")
    run("drain", *place.drain, "--once")
    given = ["--archive", place.sqlite, "--archive", place.jsonl]
    found = facts(place, *given)
    for held, url in zip(found["contents"], (place.sqlite, place.jsonl), strict=True):
        assert held["archive"] in found["archives"]
        assert (held["location"], held["runs"], held["events"], held["quarantined"]) == (url, 1, 4, 1)
    rows = [line.split() for line in run("status", "--url", place.url, *given).out.splitlines()]
    assert [place.sqlite, "1", "4", "1"] in rows
    assert run("status", "--url", place.sqlite, "--archive", place.jsonl, "--json").document["contents"]


def test_an_archive_that_is_none_or_not_there_is_refused(place: Place) -> None:
    for url in ("memory:", place.url, f"sqlite:{place.directory}/none.db"):
        said = run("status", "--url", place.url, "--archive", url)
        assert said.code == 2, url
    assert not (place.directory / "none.db").exists()


# -- on and on


@contextmanager
def watching(url: str, *arguments: str, out: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    with Python(
        command("status", "--url", url, "--watch", "--every", "0.2", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        env={**QUIET, "TERM": "xterm", "COLUMNS": "100"},
    ) as watcher:
        try:
            yield watcher
        finally:
            watcher.kill()


def read_until(watcher: subprocess.Popen[str], key: str) -> Any:
    """The next document that has this key."""
    assert watcher.stdout is not None
    deadline = time.monotonic() + 2 * DEADLINE_SECONDS
    while time.monotonic() < deadline:
        line = watcher.stdout.readline()
        assert line, "it has ended"
        document = json.loads(line)
        if key in document:
            return document
    raise AssertionError(f"no {key} came")


def test_on_a_pipe_it_prints_a_document_a_line_and_ends_by_ctrl_c(place: Place) -> None:
    with watching(place.url, "--json") as watcher:
        assert read_until(watcher, "runs")["runs"] == 0
        place.emit("r", 5)
        eventually(lambda: read_until(watcher, "runs")["backlog_events"] == 5)
        watcher.send_signal(signal.SIGINT)
        _, err = watcher.communicate(timeout=DEADLINE_SECONDS)
    assert (watcher.returncode, err) == (ExitCode.INTERRUPTED, "")


def test_it_goes_on_through_an_outage_and_shows_it(place: Place) -> None:
    """The server is killed; another one takes its place."""
    with watching(f"{place.url}?retry_seconds=0.1", "--json") as watcher:
        read_until(watcher, "runs")
        place.kill_server()
        assert "cannot reach the server" in read_until(watcher, "error")["error"]
        place.start_server()
        assert read_until(watcher, "runs")["runs"] == 0


def test_what_is_seen_is_printed_at_once(place: Place) -> None:
    """Not when a buffer is full, which would be minutes later."""
    with watching(place.url, "--json", "--every", "3600") as watcher:
        read_until(watcher, "runs")


@pytest.mark.exhaustive
def test_an_embedded_server_that_is_killed_is_started_again(tmp_path: Path) -> None:
    """Who watches opens the store anew, as any other user of that server would."""
    with EmbeddedServer(tmp_path / "server") as server:
        url = f"embedded:{tmp_path}/server"
        with watching(f"{url}?retry_seconds=0.1", "--json") as watcher, connect(url) as store:
            store.save_event(PAEvent("r"))
            eventually(lambda: read_until(watcher, "runs")["runs"] == 1)
            with closing(redis.Redis(unix_socket_path=server.socket_path)) as client:
                pid = client.info("server")["process_id"]
            os.kill(pid, signal.SIGKILL)
            read_until(watcher, "error")
            assert read_until(watcher, "runs")["runs"] == 1
            watcher.send_signal(signal.SIGINT)
            assert watcher.wait(DEADLINE_SECONDS) == ExitCode.INTERRUPTED


@pytest.mark.exhaustive
def test_it_can_begin_in_an_outage(place: Place) -> None:
    place.kill_server()
    with watching(f"{place.url}?retry_seconds=0.1", "--json") as watcher:
        read_until(watcher, "error")
        place.start_server()
        read_until(watcher, "runs")


def test_a_mistake_is_no_outage(place: Place) -> None:
    said = run("status", "--url", f"sqlite:{place.directory}/none.db", "--watch")
    assert said.code == 2


def test_as_text_on_a_pipe_it_prints_the_tables_again_and_again(place: Place) -> None:
    with watching(place.url) as watcher:
        assert watcher.stdout is not None
        seen: list[str] = []
        while sum("due now" in line for line in seen) < 2:
            line = watcher.stdout.readline()
            assert line, "it has ended"
            seen.append(line)
    assert not any("\x1b" in line for line in seen)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_reader_that_goes_away_ends_it(place: Place, options: tuple[str, ...]) -> None:
    with watching(place.url, *options) as watcher:
        assert watcher.stdout is not None
        watcher.stdout.readline()
        watcher.stdout.close()
        assert watcher.wait(DEADLINE_SECONDS) == ExitCode.READER_GONE
        assert watcher.stderr is not None
        assert watcher.stderr.read() == ""


class Screen:
    """A terminal, and what was written to it."""

    def __init__(self) -> None:
        self._master, self.terminal = pty.openpty()
        os.set_blocking(self._master, False)
        self.text = ""

    def shows(self, text: str) -> bool:
        """Whether that has been written since the last time that this was true."""
        with suppress(BlockingIOError):
            while data := os.read(self._master, 65_536):
                self.text += data.decode()
        if text not in self.text:
            return False
        self.text = self.text.partition(text)[2]
        return True

    def close(self) -> None:
        os.close(self._master)
        os.close(self.terminal)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_at_a_terminal_it_stays_in_place_and_gives_the_cursor_back(place: Place, number: int) -> None:
    with closing(Screen()) as screen, watching(place.url, out=screen.terminal) as watcher:
        eventually(lambda: screen.shows("\x1b[?25l"))  # the cursor is hidden
        eventually(lambda: screen.shows("0 events"))
        place.emit("r", 5)
        eventually(lambda: screen.shows("5 events"))
        eventually(lambda: screen.shows("\x1b[1A"))  # up again, over what was there
        watcher.send_signal(number)
        assert watcher.wait(DEADLINE_SECONDS) == 128 + number
        eventually(lambda: screen.shows("\x1b[?25h"))


@pytest.mark.exhaustive
def test_at_a_terminal_an_outage_is_shown_above_what_was_seen_last(place: Place) -> None:
    with closing(Screen()) as screen, watching(place.url, out=screen.terminal):
        place.emit("r", 5)
        eventually(lambda: screen.shows("5 events"))
        place.kill_server()
        eventually(lambda: screen.shows("cannot reach the server"))
        eventually(lambda: screen.shows("5 events"))
        place.start_server()
        eventually(lambda: screen.shows("0 events"))
