"""What commands print at a terminal of 80 columns: it fits, nothing is in a box, names are never folded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from runstream import SQLiteCheckpointer, connect
from runstream.cli import app
from runstream.cli.support.output import console, make_table
from tests.support.commands import Terminal, at_terminal, run
from tests.support.samples import make_event, make_state

IDS = [str(UUID(int=number << 100 | 7)) for number in (1, 2, 3)]
BOX = re.compile("[─-╿]")
COMMANDS = ["demo", "drain", "runs", "show", "tail", "export", "import", "status", "archives"]
COMMANDS += [
    "unpark",
    "resolve",
    "quarantine",
    "restore",
    "verify",
    "agent",
    "answer",
    "cancel",
    "trim",
    "explain",
]


@pytest.fixture
def url() -> Iterator[str]:
    """A hot store, where a table has most columns: three runs, whose ids are UUIDs; nothing of it is archived."""
    url = "fake:columns"
    with connect(url) as store:
        for run_id in IDS:
            store.append(run_id, [make_event(run_id, 1)], snapshot=make_state(run_id))
        yield url
        for run_id in store.list_runs():
            store.delete_run(run_id)


def test_runs_take_a_line_each(url: str) -> None:
    header, *rows = at_terminal("runs", "--url", url, NO_COLOR="1").splitlines()
    assert header.split() == ["run", "status", "events", "archived", "updated"], "none is in a session"
    assert [row.split()[0] for row in rows] == IDS[::-1], "whole: there is room"
    assert max(map(len, [header, *rows])) <= 80


def test_where_there_is_no_room_names_are_cut_and_nothing_else(url: str) -> None:
    session, long = str(UUID(int=2**127)), "r" * 100
    with connect(url) as store:
        store.append(long, [make_event(long, 1, session_id=session)])
    first, *others = at_terminal("runs", "--url", url, NO_COLOR="1").splitlines()[1:]
    run_id, session_id, *rest = first.split()
    assert run_id == "r" * (len(run_id) - 1) + "…"
    assert session_id == session[: len(session_id) - 1] + "…"
    assert rest[1:] == ["1", "0", "0s", "ago"]
    assert len(others) == 3, "one line each"
    for text in (run("runs", "--url", url).out, at_terminal("runs", "--url", url, "--wide", NO_COLOR="1")):
        assert {*IDS, long, session} <= set(text.split()), "whole where nobody reads it at a terminal, and if wide"
    assert "created" in at_terminal("runs", "--url", url, "--wide")


def test_a_question_is_whole_where_it_is_looked_for(url: str) -> None:
    question = "May I book the hotel for 420 EUR, in two rooms, for three nights?"
    with connect(url) as store, store.open_run(IDS[0]) as waiting:
        waiting.pause(question)
    lines = at_terminal("runs", "--url", url, NO_COLOR="1").splitlines()
    assert (len(lines), max(map(len, lines))) == (4, 80)
    assert "May I book" in lines[1]
    looked_for = at_terminal("runs", "--url", url, "--status", "paused", NO_COLOR="1").splitlines()
    assert len(looked_for) > 2
    assert question in run("runs", "--url", url).out


@pytest.mark.parametrize("length", [36, 500])
def test_an_id_is_never_folded(length: int) -> None:
    """Beside a text that is, and beside numbers, which are whole. One that is longer than others can be is cut."""
    run_id, reason = "r" * length, "the archive has another history " * 4
    screen = Terminal()
    with redirect_stdout(screen):
        console(screen).print(make_table(["run", "offset", "reason"], [[run_id, 12345, reason]]), width=80)
    _, first, *others = screen.getvalue().splitlines()
    assert first.split()[:2] == [run_id if length == 36 else "r" * 39 + "…", "12345"]
    assert "".join(others).count("r" * 3) == 0
    assert " ".join(" ".join([first, *others]).split()[2:]) == reason.strip()


def test_what_is_beside_an_id_is_there_however_long_the_id_is(url: str, tmp_path: Path) -> None:
    """Why a run's events are in Redis still, what was answered, where an archive is: whose own id is whole."""
    long, archive = "r" * 100, tmp_path / "a.db"
    with connect(url) as store, store.open_run(long, lane_id="l" * 100) as waiting:
        waiting.pause("which?", key="k" * 100)
    assert run("drain", "--url", url, "--to", f"sqlite:{archive}", "--once", "--trim", "never").code == 0
    held = at_terminal("status", "--url", url, NO_COLOR="1").split("\narchived, still in Redis ")[-1]
    assert held.split()[:2] == ["events", "why"]
    assert "no worker reports" in held
    verified = at_terminal("verify", "--url", url, "--archive", f"sqlite:{archive}", NO_COLOR="1")
    assert re.search(r"\nr+… +sqlite:/\S{8}", verified), "as wide as the id, and not what that has left"
    answered = at_terminal("answer", "rrr", "yes", "--url", url, NO_COLOR="1").splitlines()
    assert answered[0].split() == ["run", "lane", "question", "answer", "offset"]
    assert (len(answered), max(map(len, answered))) == (2, 80)
    assert re.search(r"r… +l+… +k+… +\"yes\" +2", answered[1])
    with SQLiteCheckpointer[Any, Any](archive) as opened:
        assert opened.archive_id in at_terminal("archives", "--url", url, NO_COLOR="1")


@pytest.mark.parametrize("arguments", [["runs"], ["show", IDS[0]], ["status"]])
def test_no_table_is_in_a_box_or_wider_than_the_terminal_and_no_color_is_no_style(
    url: str, arguments: list[str]
) -> None:
    assert "\x1b[1m" in at_terminal(*arguments, "--url", url)
    plain = at_terminal(*arguments, "--url", url, NO_COLOR="1")
    assert "\x1b" not in plain, "bold neither"
    assert not BOX.search(plain)
    assert max(map(len, plain.splitlines())) <= 80


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_in_no_box_and_its_examples_can_be_copied(name: str) -> None:
    """They are not folded."""
    shown = at_terminal(name, "-h")
    assert shown.startswith(f"Usage: runstream {name} [OPTIONS]")
    assert not BOX.search(shown)
    group: Any = get_command(app)  # typer's own classes, which its types do not show
    examples = [line for line in group.commands[name].epilog.splitlines() if line.startswith("runstream ")]
    assert examples
    assert all(f"\n  {line}\n" in shown for line in examples)


def test_the_list_of_commands_says_in_whole_words_what_each_does() -> None:
    shown = at_terminal("-h")
    assert shown == at_terminal("--help")
    commands = shown[shown.index("Commands:") : shown.index("Exit codes:")]
    assert "..." not in commands
    assert all(f"\n  {name} " in commands for name in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs", "--status", "asleep"],
        ["quarantine", "lst"],
        ["drain", "--to", "sqlite:x.db", "--trim", "all"],
        ["tail", "r", "--visibility", "x"],
    ],
)
def test_a_word_that_is_none_of_a_choice_is_answered_with_the_choice(arguments: list[str]) -> None:
    """In our words alone, whichever library checks them."""
    said = run(*arguments)
    assert said.code == 2
    assert "is not one of" in said.err
    assert "Value error" not in said.err
    assert not BOX.search(said.err)


# -- completion by a shell


def completed(words: str, **environment: str) -> list[str]:
    environment |= {"_RUNSTREAM_COMPLETE": "complete_bash", "COMP_WORDS": words}
    runner = CliRunner(env={**environment, "COMP_CWORD": str(len(words.split(" ")) - 1)})
    return runner.invoke(app, [], prog_name="runstream").stdout.split()


def test_a_shell_completes_commands_options_and_runs(url: str) -> None:
    assert completed("runstream ta") == ["tail"]
    assert completed("runstream runs --lim") == ["--limit"]
    assert completed(f"runstream show {IDS[0][:7]}", RUNSTREAM_URL=url) == [IDS[0]]
    assert sorted(completed(f"runstream tail --url {url} 0")) == IDS
    for command in ("trim", "unpark", "verify"):
        assert completed(f"runstream {command} {IDS[1][:7]}", RUNSTREAM_URL=url) == [IDS[1]]
    assert completed("runstream trim r 0", RUNSTREAM_URL=url) == completed("runstream show 0", RUNSTREAM_URL=url)
    assert completed(f"runstream quarantine show --url {url} {IDS[2][:7]}") == [IDS[2]]
    assert completed(f"runstream restore --from {url} {IDS[2][:7]}") == [IDS[2]]
    assert completed("runstream show 0", RUNSTREAM_URL="sqlite:/nowhere") == []
    assert "--install-completion" in run("-h").out
