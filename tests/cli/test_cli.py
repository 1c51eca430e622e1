"""The command line over an archive: help, exit codes, what is shown, and output that cannot be written."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest

from runstream import (
    ConcurrencyConflict,
    ConfigurationError,
    CorruptRecordError,
    EventRefused,
    InvalidRunId,
    RunstreamError,
    StoreUnavailable,
    connect,
)
from runstream.cli.support.exit_codes import EXIT_CODES, ExitCode, NoSuchRun, exit_code_of
from runstream.cli.support.output import ago, bytes_text, printable
from tests.support.commands import QUIET, command, run, spawn
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import DEADLINE_SECONDS, free_port

COMMANDS = ["demo", "drain", "runs", "show", "tail", "status", "archives"]
COMMANDS += ["unpark", "resolve", "quarantine", "agent"]


@pytest.fixture
def archive(tmp_path: Path) -> str:
    """A SQLite archive with two runs, one of which has two lanes and snapshots."""
    url = f"sqlite:{tmp_path}/archive.db"
    with connect(url) as store:
        store.save_event(make_event("older", 1, session_id="monday"))
        events = make_events("orders", 3, lane_id="planner", session_id="tuesday")
        store.append("orders", events, snapshot=make_state("orders", current_step=3), lane_id="planner")
        store.append("orders", [make_event("orders", 1, lane_id="searcher", payload={"body": b"\x00\xff"})])
        store.append("orders", [make_event("orders", 4, lane_id="planner", kind="run.finished")])
    return url


# -- help


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself_with_an_example(name: str) -> None:
    said = run(name, "--help", COLUMNS="200")
    assert said.code == 0
    assert said.err == ""
    assert "--json" in said.out
    assert f"runstream {name}" in said.out.partition("Examples:")[2]


@pytest.mark.parametrize("name", sorted({*COMMANDS} - {"demo"}))
def test_each_command_on_a_store_names_the_variable_that_stands_for_its_url(name: str) -> None:
    assert "RUNSTREAM_URL" in run(name, "--help", COLUMNS="200").out


def test_the_help_lists_all_commands_and_the_exit_codes() -> None:
    said = run("--help")
    assert said.code == 0
    assert all(f"\n  {name} " in said.out for name in COMMANDS)
    assert EXIT_CODES in " ".join(said.out.split())
    for code in ExitCode:
        assert f" {code.value} " in EXIT_CODES


@pytest.mark.exhaustive
def test_the_version_is_printed() -> None:
    for said in (run("--version"), spawn("--version")):
        assert (said.code, said.out.split()[:2], said.err) == (0, ["runstream", version("runstream")], "")
        assert all(f"{name} {version(name)}" in said.out for name in ("redis", "hiredis", "msgpack"))
        assert f"Python {platform.python_version()} on " in said.out


@pytest.mark.exhaustive
def test_the_process_ends_with_the_codes_of_its_commands(archive: str) -> None:
    said = spawn("show", "nobody", "--url", archive)
    assert (said.code, said.out) == (4, "")
    assert said.err.startswith("runstream: error: ")
    said = spawn("show", "orders", "--url", archive, "--json")
    assert (said.code, said.document["run"]["run_id"], said.err) == (0, "orders", "")


# -- exit codes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("x"), 2),
        (InvalidRunId("x"), 2),
        (StoreUnavailable("x"), 3),
        (NoSuchRun("x"), 4),
        (CorruptRecordError("x", run_id="r", offset=1), 1),
        (EventRefused("x", run_id="r", offset=1, event_type="Mine"), 1),
        (ConcurrencyConflict("x", expected=1, actual=2), 1),
    ],
)
def test_each_class_of_error_has_its_exit_code(error: RunstreamError, code: int) -> None:
    assert exit_code_of(error) == code


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs"],
        ["runs", "--url", "gopher://somewhere"],
        ["runs", "--url", "redis://localhost?partitions=many"],
        ["show", "", "--url", "memory:"],
        ["drain", "--url", "memory:", "--to", "sqlite:{tmp}/a.db"],
        ["drain", "--url", "fake:", "--to", "sqlite:{tmp}/a.db", "--to", "sqlite:{tmp}/a.db", "--once"],
        ["agent", "--url", "memory:", "--run", "r", "--lane", "l", "--journal", "{tmp}/none/j", "--steps", "1"],
    ],
)
def test_a_mistake_of_configuration_is_one_line_and_2(arguments: list[str], tmp_path: Path) -> None:
    said = run(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("runstream: error: ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["show"],
        ["runs", "--limit", "0", "--url", "memory:"],
        ["runs", "--status", "asleep", "--url", "memory:"],
        ["drain", "--url", "fake:"],
        ["drain", "--url", "fake:", "--to", "sqlite:x.db", "--trim", "all"],
    ],
)
def test_a_mistake_of_usage_is_2(arguments: list[str]) -> None:
    said = run(*arguments)
    assert (said.code, said.out) == (2, "")
    assert "--help" in said.err


def test_a_drain_to_something_else_than_an_archive_says_which_schemes_are_archives() -> None:
    said = run("drain", "--url", "fake:", "--to", "redis://localhost")
    assert (said.code, said.out) == (2, "")
    assert all(scheme in said.err for scheme in ("sqlite:PATH", "jsonl:DIR"))


@pytest.mark.parametrize(
    "name",
    [
        "runs",
        "status --start-timeout 0",
        "tail r --start-timeout 0",
        "show r",
        "drain --once --start-timeout 0 --to sqlite:{tmp}/a.db",
    ],
)
def test_a_server_that_is_down_is_one_line_and_3(name: str, tmp_path: Path) -> None:
    said = run(*name.format(tmp=tmp_path).split(), "--url", f"redis://localhost:{free_port()}?retry_seconds=0")
    assert (said.code, said.out) == (3, "")
    assert said.err.startswith("runstream: error: ")
    assert said.err.count("\n") == 1


def test_a_run_that_is_not_there_is_one_line_and_4(archive: str) -> None:
    said = run("show", "nobody", "--url", archive, "--json")
    assert (said.code, said.out) == (4, "")
    assert said.err.startswith("runstream: error: there is no run 'nobody'")


@pytest.mark.parametrize("scheme", ["sqlite", "jsonl", "embedded"])
@pytest.mark.parametrize("name", ["runs", "status", "show r"])
def test_looking_at_a_path_that_is_not_there_creates_nothing(scheme: str, name: str, tmp_path: Path) -> None:
    said = run(*name.split(), "--url", f"{scheme}:{tmp_path}/typo")
    assert said.code == 2
    assert list(tmp_path.iterdir()) == []


def test_the_traceback_comes_with_debug_only(archive: str) -> None:
    assert "Traceback" not in run("show", "nobody", "--url", archive).err
    for said in (
        run("--debug", "show", "nobody", "--url", archive),
        run("show", "nobody", "--url", archive, RUNSTREAM_DEBUG="1"),
    ):
        assert said.code == 4
        assert "Traceback" in said.err


# -- runs, show, status


def test_runs_are_listed_newest_first_and_the_table_says_what_the_json_says(archive: str) -> None:
    found = run("runs", "--url", archive, "--json").document
    assert [one["run_id"] for one in found["runs"]] == ["orders", "older"]
    first = found["runs"][0]
    assert (first["session_id"], first["status"], first["last_offset"]) == ("tuesday", "completed", 5)
    assert first["created_at"].endswith("Z")
    assert first["archived_offset"] is None  # it is the archive
    header, *rows = run("runs", RUNSTREAM_URL=archive).out.splitlines()
    assert header.split() == ["run", "session", "status", "events", "updated"]
    assert rows[0].split()[:4] == ["orders", "tuesday", "completed", "5"]
    assert rows[1].split()[0] == "older"


def test_a_path_is_spelled_as_sqlalchemy_does(
    archive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative after three slashes, absolute after four, to whatever looks at the file first."""
    monkeypatch.chdir(tmp_path)
    path = Path(archive.removeprefix("sqlite:"))
    for url in (f"sqlite:///{path.relative_to(tmp_path)}", f"sqlite:///{path}"):
        assert run("runs", "--url", url, "--json").out == run("runs", "--url", archive, "--json").out
    said = run("runs", "--url", "sqlite://archive.db")
    assert said.code == 2
    assert "sqlite:///archive.db" in said.err


def test_runs_can_be_chosen_by_session_status_and_number(archive: str) -> None:
    def chosen(*options: str) -> tuple[list[str], bool]:
        found = run("runs", "--url", archive, "--json", *options).document
        return [one["run_id"] for one in found["runs"]], found["more"]

    assert chosen("--session", "monday") == (["older"], False)
    assert chosen("--status", "completed") == (["orders"], False)
    assert chosen("--status", "failed") == ([], False)
    assert chosen("--limit", "1") == (["orders"], True)


def test_a_run_is_shown_with_its_snapshots_and_its_events_in_order(archive: str) -> None:
    said = run("show", "orders", "--url", archive, "--json")
    assert said.err == ""
    shown = said.document
    assert shown["run"]["run_id"] == "orders"
    (snapshot,) = shown["snapshots"]
    assert (snapshot["lane_id"], snapshot["offset"], snapshot["state"]["current_step"]) == ("planner", 3, 3)
    assert [event["offset"] for event in shown["events"]] == [1, 2, 3, 4, 5]
    assert shown["events"][3]["payload"] == {"body": {"$bytes": "AP8="}}
    assert (shown["archived_up_to"], shown["next_after"], shown["unreadable"]) == (0, None, [])
    text = run("show", "orders", "--url", archive).out
    assert "lane planner" in text
    assert "run.finished" in text


def test_a_part_of_a_run_is_shown(archive: str) -> None:
    shown = run("show", "orders", "--url", archive, "--json", "--after", "1", "--limit", "2").document
    assert [event["offset"] for event in shown["events"]] == [2, 3]
    assert shown["next_after"] == 3
    rest = run("show", "orders", "--url", archive, "--json", "--after", "3", "--limit", "2").document
    assert [event["offset"] for event in rest["events"]] == [4, 5]
    assert rest["next_after"] is None
    lane = run("show", "orders", "--url", archive, "--json", "--lane", "searcher").document
    assert [event["offset"] for event in lane["events"]] == [4]
    assert lane["snapshots"] == []
    assert "--after 2" in run("show", "orders", "--url", archive, "--limit", "2").err


def test_an_event_that_does_not_read_is_named_and_holds_up_no_other(archive: str) -> None:
    with closing(sqlite3.connect(archive.removeprefix("sqlite:"))) as database, database:
        database.execute("UPDATE events SET data = 'broken' WHERE run_id = 'orders' AND offset = 2")
    said = run("show", "orders", "--url", archive, "--json")
    assert said.code == 0
    assert [event["offset"] for event in said.document["events"]] == [1, 3, 4, 5]
    assert said.document["unreadable"] == [2]
    assert "offsets without an event that reads: 2" in said.err


def test_what_is_no_archive_is_one_line_and_2(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is neither a database nor a directory " * 100)
    for scheme in ("sqlite", "jsonl"):
        said = run("runs", "--url", f"{scheme}:{tmp_path}/text")
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith("runstream: error: ")


def test_what_a_terminal_would_obey_is_escaped(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/a.db"
    bad = "\x1b[2J\x9b\r\n\u202e"
    with connect(url) as store:
        store.save_event(
            make_event("run" + bad, 1, session_id=bad, lane_id=bad, kind="k" + bad, payload={bad: bad}, ts=1e300)
        )
    for arguments in (["runs"], ["show", "run" + bad]):
        said = run(*arguments, "--url", url)
        assert said.code == 0
        assert all(char.isprintable() or char == "\n" for char in said.out)
        assert "\\x1b[2J" in said.out


def test_status_of_an_archive_counts_runs_and_events(archive: str, tmp_path: Path) -> None:
    facts = run("status", "--url", archive, "--json").document
    assert (facts["runs"], facts["events"], facts["quarantined"]) == (2, 6, 0)
    assert facts["location"] == archive
    assert "events" in run("status", "--url", archive).out
    assert run("status", "--url", "memory:", "--json").document == {"runs": 0, "events": 0}


def test_status_of_a_server_that_says_nothing_of_itself_is_known_all_the_same() -> None:
    facts = run("status", "--url", "fake:", "--json").document
    assert (facts["version"], facts["used_memory_bytes"]) == (None, None)
    assert (facts["partitions"], facts["runs"], facts["due"]) == (16, 0, 0)
    assert "does not say" in run("status", "--url", "fake:").out


# -- texts


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s ago"),
        (0, "0s ago"),
        (99, "99s ago"),
        (100, "1m ago"),
        (5999, "99m ago"),
        (6000, "1h ago"),
        (172_800, "2d ago"),
    ],
)
def test_how_long_ago_something_was(seconds: float, text: str) -> None:
    assert ago(1_000_000 - seconds, now=1_000_000) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * 2**20, "3.0 MiB"), (2**41, "2048.0 GiB")],
)
def test_how_large_something_is(size: int, text: str) -> None:
    assert bytes_text(size) == text


@pytest.mark.parametrize(
    ("text", "shown"), [("plain ü", "plain ü"), ("a\nb\x1b", "a\\nb\\x1b"), ("\ud800", "\\ud800")]
)
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_reader_that_goes_away_is_no_error(archive: str, options: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            command("show", "orders", "--url", archive, *options),
            stdout=writer,
            stderr=subprocess.PIPE,
            env=QUIET,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (ExitCode.READER_GONE, b"")


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_output_that_cannot_be_written_is_one_line_and_1(archive: str, options: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command("runs", "--url", archive, *options),
            stdout=full,
            stderr=subprocess.PIPE,
            env=QUIET,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "runstream: error: [Errno 28] No space left on device\n"
