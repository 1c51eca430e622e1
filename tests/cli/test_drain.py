"""The worker as a process: how it ends, how two share a cron table, what it logs, which partitions it drains.

Each test has a server of its own, and archives on disk; what a worker left is judged by ``archive_check``.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sqlite3
import subprocess
import threading
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, Self

import pytest
import typer

from runstream import JSONLCheckpointer, PAEvent, SQLiteCheckpointer, connect
from runstream.cli.support.log_formats import logging_to_stderr
from runstream.cli.support.partitions import parse_partitions
from runstream.cli.support.signals import stopping_on_signals
from runstream.stores.redis.namespace import namespace_of
from tests.support.archive_check import check_archives
from tests.support.commands import QUIET, Place, Said, Worker, command, put_damaged, run, spawn
from tests.support.processes.template import Python
from tests.support.servers import DEADLINE_SECONDS, eventually, needs_server, tcp_server

pytestmark = needs_server

SIGNALS = [signal.SIGTERM, signal.SIGINT]
# well below the half minute for which a worker waits for a locked file
SOON_SECONDS = 10.0


def check(place: Place, acknowledged: dict[str, list[PAEvent]]) -> None:
    """Drain what is left, and judge the archives: each event once, in order, and nothing is due any more."""
    eventually(lambda: not namespace_of(place.store).status().later)  # claims run out
    said = run("drain", *place.drain, "--once", "--json")
    assert said.code == 0, said.err
    jsonl, sqlite = JSONLCheckpointer(place.directory / "jsonl"), SQLiteCheckpointer(place.directory / "a.db")
    with jsonl, sqlite:
        check_archives([jsonl, sqlite], acknowledged)
    found = namespace_of(place.store).status()
    assert (found.due, found.later, found.parked) == (0, 0, {})
    for run_id, events in acknowledged.items():
        info = place.store.run_info(run_id)
        assert info is not None
        assert info.first_hot == len(events) + 1, "all is trimmed"


class Held:
    """A worker with a batch in hand: it is in JSONL, and waits for the SQLite file, which is locked."""

    def __init__(self, place: Place, *arguments: str) -> None:
        self._opened = ExitStack()
        with ExitStack() as opened:
            self.worker = opened.enter_context(Worker(*place.drain, "--claim", "2", *arguments))
            self.worker.says("begins")
            path = place.directory / "a.db"
            self._lock = opened.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
            self._lock.execute("BEGIN IMMEDIATE")
            self.events = place.emit("r", 10)
            eventually(lambda: place.in_jsonl("r") >= 10)
            self._opened = opened.pop_all()

    def let_go(self) -> None:
        """Unlock the file."""
        self._lock.execute("ROLLBACK")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()


# -- ending


@pytest.mark.one_in(2)
@pytest.mark.parametrize("number", SIGNALS)
def test_a_worker_that_is_told_to_end_finishes_the_batch_in_hand(place: Place, number: int) -> None:
    """It hears the signal while it waits for the file, not when it has got it; then it settles and ends."""
    with Held(place) as held:
        began = time.monotonic()
        held.worker.signal(number)
        assert time.monotonic() - began < SOON_SECONDS
        place.emit("other", 5)  # not in hand: it is for the next worker
        held.let_go()
        assert held.worker.end() == 0, held.worker.err
        assert held.worker.document["report"]["events"] == 10
    assert place.archived("r") == 10
    assert place.archived("other") == 0
    assert run("status", "--url", place.url, "--json").document["later"] == 0, "no claim is left behind"


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_a_worker_at_once_with_its_batch_in_hand(place: Place, number: int) -> None:
    """The file stays locked, and nobody waits for it. The next worker does the batch again, and loses nothing."""
    with Held(place) as held:
        held.worker.signal(signal.SIGTERM)
        began = time.monotonic()
        held.worker.process.send_signal(number)
        assert held.worker.end() == 128 + number
        assert time.monotonic() - began < SOON_SECONDS
        assert place.archived("r") == 0
    check(place, {"r": held.events})


@pytest.mark.exhaustive
def test_a_worker_that_cannot_end_in_time_ends_by_itself(place: Place) -> None:
    """The file stays locked for longer than the grace."""
    with Held(place, "--grace", "1") as held:
        began = time.monotonic()
        held.worker.signal(signal.SIGTERM)
        assert held.worker.end() == 3
        assert 0.9 < time.monotonic() - began < SOON_SECONDS
        assert "not ended within 1 s of SIGTERM" in held.worker.err
        assert place.archived("r") == 0
    check(place, {"r": held.events})


@pytest.mark.exhaustive
def test_the_grace_begins_with_the_signal_and_not_before(place: Place) -> None:
    """A batch may take longer than the grace, as long as nobody wants the worker to end."""
    with Held(place, "--grace", "0.5") as held:
        with pytest.raises(subprocess.TimeoutExpired):
            held.worker.process.wait(1)
        held.let_go()
        eventually(lambda: place.archived("r") == 10)
        held.worker.signal(signal.SIGTERM)
        assert held.worker.end() == 0


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize("how", ["grace", "second signal"])
def test_a_worker_whose_server_hangs_between_proof_and_settling_ends_in_time(place: Place, how: str) -> None:
    """Both archives have the batch, and Redis does not know it; nothing is archived twice later."""
    with Held(place, "--grace", "1" if how == "grace" else "60") as held:
        with place.node.stopped():
            held.let_go()
            with closing(SQLiteCheckpointer(place.directory / "a.db")) as archive:
                eventually(lambda: archive.position("r") is not None)
            began = time.monotonic()
            held.worker.signal(signal.SIGTERM)
            if how == "second signal":
                held.worker.process.send_signal(signal.SIGTERM)
            assert held.worker.end() == (3 if how == "grace" else 143)
            assert time.monotonic() - began < SOON_SECONDS
        assert place.archived("r") == 0
    check(place, {"r": held.events})


def test_a_worker_whose_server_comes_back_in_time_settles(place: Place) -> None:
    """The batch in hand is settled when the server answers again, if that is within the grace."""
    with Held(place) as held:
        with place.node.stopped():
            held.let_go()
            held.worker.signal(signal.SIGTERM)
            with closing(SQLiteCheckpointer(place.directory / "a.db")) as archive:
                eventually(lambda: archive.position("r") is not None)
        assert held.worker.end() == 0, held.worker.err
        assert held.worker.document["report"]["events"] == 10
    assert place.archived("r") == 10


def test_a_worker_that_waits_for_its_server_ends_with_0(place: Place) -> None:
    """It has nothing in hand: there is nothing to settle, and no server to tell."""
    with Worker(*place.drain, "--url", f"{place.url}?retry_seconds=0.1") as worker:
        worker.says("begins")
        place.kill_server()
        worker.says("level=warning")
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0, worker.err
        assert worker.document["report"]["events"] == 0


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize("how", ["grace", "second signal"])
def test_who_does_not_read_the_log_cannot_keep_a_worker_from_ending(place: Place, how: str) -> None:
    """Its stderr is a pipe that is full: the first line that it logs holds up whoever writes it, for ever."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    grace = "1" if how == "grace" else "60"
    with Python(
        command("drain", *place.drain, "--grace", grace), stdout=subprocess.DEVNULL, stderr=writer, env=QUIET
    ) as process:
        os.close(writer)
        try:
            eventually((place.directory / "a.db").exists)  # so it takes signals by now
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            if how == "second signal":
                process.send_signal(signal.SIGINT)
            # the system delivers two signals that are pending in an order of its own
            assert process.wait(DEADLINE_SECONDS) in ({3} if how == "grace" else {130, 143})
            assert time.monotonic() - began < SOON_SECONDS
        finally:
            process.kill()
            os.close(reader)


def test_leaving_in_time_leaves_no_handler_and_no_thread_behind() -> None:
    """What was there before is there again; a signal is then the process's own affair."""
    before = [signal.getsignal(number) for number in SIGNALS], threading.active_count()
    with stopping_on_signals(60) as stop:
        assert [signal.getsignal(number) for number in SIGNALS] != before[0]
        signal.raise_signal(signal.SIGTERM)
        assert stop.wait(DEADLINE_SECONDS)
    assert ([signal.getsignal(number) for number in SIGNALS], threading.active_count()) == before
    assert signal.set_wakeup_fd(-1) == -1


# -- cron


@pytest.mark.exhaustive
def test_two_at_once_do_no_harm(place: Place) -> None:
    """Four of them, on the same archives, from their making on: each event is archived by one of them."""
    acknowledged = {run_id: place.emit(run_id, 40) for run_id in (f"r{number}" for number in range(20))}
    workers = [Worker(*place.drain, "--once", "--batch", "10", "--claim", "2") for _ in range(4)]
    with ExitStack() as opened:
        for worker in workers:
            opened.enter_context(worker)
        for worker in workers:
            assert worker.end() == 0, worker.err
        reports = [worker.document["report"] for worker in workers]
    assert sum(report["events"] for report in reports) <= 800
    check(place, acknowledged)


def test_a_cron_job_that_is_told_to_end_finishes_the_batch_in_hand(place: Place) -> None:
    """What else was due stays due, at once."""
    events = place.emit("first", 10)
    run("drain", *place.drain, "--once")  # so that the archives are there
    with closing(sqlite3.connect(place.directory / "a.db", isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        events += place.emit("first", 100, first=11)
        with Worker(*place.drain, "--once", "--batch", "7") as worker:
            eventually(lambda: place.in_jsonl("first") >= 17)
            worker.signal(signal.SIGTERM)
            lock.execute("ROLLBACK")
            assert worker.end() == 0, worker.err
            assert worker.document["report"]["events"] == 7
    assert run("status", "--url", place.url, "--json").document["due"] == 1
    check(place, {"first": events})


def test_a_cron_job_without_its_server_ends_with_3(place: Place) -> None:
    place.kill_server()
    said = spawn("drain", *place.drain, "--once", "--json", "--start-timeout", "0")
    assert (said.code, said.out) == (3, "")
    assert said.err.startswith("runstream: error: cannot reach the server")
    assert said.err.endswith(" [runstream explain StoreUnavailable]\n")


@pytest.mark.exhaustive
def test_a_cron_job_whose_archive_has_no_room_ends_with_3_and_trims_nothing(place: Place) -> None:
    """A limit to the size of files stands for the disk."""
    run("drain", *place.drain, "--once")
    events = place.emit("r", 500)
    limited = ["sh", "-c", 'ulimit -f 8; exec "$0" "$@"', *command("drain", *place.drain, "--once", "--json")]
    done = subprocess.run(
        limited, capture_output=True, text=True, env=QUIET, timeout=DEADLINE_SECONDS * 2, check=False
    )
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    assert place.archived("r") == 0
    assert namespace_of(place.store).status().due == 1
    check(place, {"r": events})


# -- what is logged


def test_json_lines_have_time_level_message_and_fields(place: Place) -> None:
    """Of every line a program can take its facts, and all lines are such lines."""
    place.emit("r", 5)
    said = spawn("drain", *place.drain, "--once", "--log-format", "json", "--log-level", "debug", "--name", "w")
    assert said.code == 0
    lines = [json.loads(line) for line in said.err.splitlines()]
    assert len(lines) >= 3
    for line in lines:
        assert list(line)[:3] == ["time", "level", "message"]
        assert line["worker"] == "w"
    settled = next(line for line in lines if line["message"].startswith("settled"))
    assert (settled["events"], settled["trimmed"]) == (5, 5)
    end = lines[-1]
    assert (end["level"], end["events"], end["runs"], end["trimmed"]) == ("info", 5, 1, 5)


def test_the_line_of_a_parked_run_names_the_run(place: Place) -> None:
    place.emit("a run", 5)
    assert run("drain", *place.drain, "--once").code == 0
    place.store.delete_run("a run")
    place.emit("a run", 1)  # of the same name, with a history of its own
    said = run("drain", *place.drain, "--once", "--log-format", "json")
    assert said.code == 1
    (line,) = (line for line in map(json.loads, said.err.splitlines()) if line["level"] == "error")
    assert line["run"] == "a run"
    assert line["reason"] in line["message"]
    assert "`runstream resolve 'a run'`" in line["reason"]


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs a limit that another process can set")
def test_the_lines_of_an_outage_name_the_archive(place: Place) -> None:
    """One when it begins, one when it is over, however often the worker tried."""
    with Worker(*place.drain, "--log-format", "json") as worker:
        worker.says("begins")
        _, hard = resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (1, hard))
        place.emit("r", 500)
        worker.says("fails")
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        worker.says("works again")
        lines = [json.loads(line) for line in worker.lines]
    begin, end = (line for line in lines if "archive" in line)
    assert (begin["level"], begin["archive"], end["level"], end["archive"]) == (
        "warning",
        place.jsonl,
        "info",
        place.jsonl,
    )
    assert begin["error"]


def test_the_error_that_ends_a_worker_is_a_json_line_too(place: Place) -> None:
    for arguments, code in ((["--url", place.sqlite], 2), (["--url", f"unix://{place.directory}/none"], 3)):
        said = run("drain", *arguments, "--to", place.jsonl, "--log-format", "json", "--start-timeout", "0")
        assert (said.code, said.out) == (code, "")
        line = json.loads(said.err)
        assert line["level"] == "error"
        assert line["message"]


def test_only_what_was_asked_for_is_logged(place: Place) -> None:
    place.emit("r", 5)
    assert run("drain", *place.drain, "--once", "--log-level", "warning").err == ""
    assert " level=info " in run("drain", *place.drain, "--once").err


def test_text_lines_are_one_line_whatever_is_in_them(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr("text", "debug"):
        log = logging.getLogger("runstream.drain")
        log.info('a "run"\n\x1b[2J', extra={"run": "r"})
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("failed")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith('level=info message="a \\"run\\"\\n\\x1b[2J"')
    assert 'level=error message="failed" exception="Traceback' in second
    assert "ValueError: why" in second


def test_a_json_lines_own_facts_win_over_fields_of_the_same_name(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr("json", "info") as fields:
        fields["worker"] = "w"
        extra: dict[str, Any] = {"level": "x", "time": 0, "run": "r\ud800\n", "archive": Path("a")}
        logging.getLogger("runstream.drain").warning("%d parked", 1, extra=extra)
    line = json.loads(capsys.readouterr().err)
    assert line.pop("time").endswith("Z")
    assert line == {"level": "warning", "message": "1 parked", "worker": "w", "run": "r\ud800\n", "archive": "a"}
    assert logging.getLogger("runstream").handlers == []


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_password_is_logged(tmp_path: Path, log_format: str) -> None:
    """Not at the start, not when the server goes away, not when it refuses the password; nor by --debug."""
    to = ["--to", f"jsonl:{tmp_path}/j", "--log-format", log_format, "--log-level", "debug"]
    with tcp_server("s3cret-word") as port:
        for url in (f"redis://:s3cret-word@127.0.0.1:{port}", f"redis://127.0.0.1:{port}?password=s3cret-word"):
            with connect(url) as store:
                store.save_event(PAEvent("r"))
            said = spawn("--debug", "drain", "--url", url, *to, "--once")
            assert said.code == 0, said.err
            assert "s3cret" not in said.out + said.err
        wrong = spawn("--debug", "drain", "--url", f"redis://:s3cret-wrong@127.0.0.1:{port}", *to, "--once")
        assert wrong.code == 2
        assert "s3cret" not in wrong.out + wrong.err
    gone = spawn(
        "--debug",
        "drain",
        "--url",
        f"redis://u:s3cret-word@127.0.0.1:{port}/0",
        *to,
        "--once",
        "--start-timeout",
        "0.2",
    )
    assert gone.code == 3
    assert "s3cret" not in gone.out + gone.err


# -- partitions


@pytest.mark.parametrize(
    ("text", "numbers"), [("0", {0}), ("0-3,7", {0, 1, 2, 3, 7}), (" 2 , 1-2", {1, 2}), ("4095", {4095})]
)
def test_partitions_are_numbers_and_ranges(text: str, numbers: set[int]) -> None:
    assert parse_partitions(text) == numbers


@pytest.mark.parametrize(
    "text", ["", ",", "a", "1-", "-1", "3-1", "1,,2", "1.5", "٣", "0-9999999999", "4096", "1--2"]
)
def test_what_names_no_partitions_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_partitions(text)
    said = run("drain", "--url", "fake:", "--to", "jsonl:/nowhere", "--partitions", text)
    assert (said.code, "--partitions" in said.err) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [["--to", "jsonl:/nowhere", "--partitions", "0,hunter2"], ["--to", "hunter2"], ["--to", "hunter2:x"]],
)
def test_a_value_that_is_none_is_not_shown(arguments: list[str]) -> None:
    """It may be a secret that was meant for another option."""
    said = run("drain", "--url", "fake:", *arguments)
    assert (said.code, "hunter2" in said.out + said.err) == (2, False)


def test_forgetting_what_is_never_retired_is_refused_in_the_words_of_the_command_line() -> None:
    said = run("drain", "--url", "fake:", "--to", "jsonl:/nowhere", "--forget-after", "5")
    assert (said.code, "--retire-after" in said.err) == (2, True)


def test_the_line_of_a_record_that_does_not_read_says_how_to_look_at_it(place: Place) -> None:
    """Once: a record that stays in Redis is not named again by the next drain."""
    place.emit("a run", 5)
    put_damaged(place, "a run")
    said = run("drain", *place.drain, "--once", "--log-format", "json")
    assert said.code == 0
    (line,) = (line for line in map(json.loads, said.err.splitlines()) if line["level"] == "warning")
    assert (line["run"], line["offset"]) == ("a run", 6)
    assert line["reason"] in line["message"]
    assert "`runstream quarantine show 'a run' 6`" in line["message"]
    place.emit("a run", 1, first=7)
    said = run("drain", *place.drain, "--once", "--log-level", "warning")
    assert (said.code, said.err) == (0, "")


def test_a_worker_drains_the_partitions_that_it_was_given(place: Place) -> None:
    """Two workers with a half each drain all of it; one with a half leaves the other."""
    acknowledged = {run_id: place.emit(run_id, 3) for run_id in (f"r{number}" for number in range(30))}
    keys = namespace_of(place.store).keys
    lower = {run_id for run_id in acknowledged if keys.run(run_id).partition in keys.partitions[:8]}
    assert 0 < len(lower) < 30

    def once(partitions: str) -> Said:
        return run("drain", *place.drain, "--once", "--json", "--partitions", partitions)

    assert once("0-7").document["report"]["runs"] == len(lower)
    assert {run_id for run_id in acknowledged if place.archived(run_id)} == lower
    assert once("8-14,15").document["report"]["runs"] == 30 - len(lower)
    assert once("16").code == 2
    check(place, acknowledged)
