"""What commands print at a terminal of 80 columns: it fits, nothing is in a box, names are never folded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from uuid import UUID

import pytest
from typer.testing import CliRunner

from runstream import connect
from runstream.cli import app
from tests.support.commands import at_terminal, run
from tests.support.samples import make_event, make_state

IDS = [str(UUID(int=number << 100 | 7)) for number in (1, 2, 3)]
BOX = re.compile("[─-╿]")
COMMANDS = ["demo", "drain", "runs", "show", "tail", "export", "import", "status", "archives"]
COMMANDS += ["unpark", "resolve", "quarantine", "restore", "verify", "agent"]


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


@pytest.mark.parametrize("arguments", [["runs"], ["show", IDS[0]], ["status"]])
def test_no_table_is_in_a_box_or_wider_than_the_terminal_and_no_color_is_no_style(
    url: str, arguments: list[str]
) -> None:
    assert "\x1b[1m" in at_terminal(*arguments, "--url", url)
    plain = at_terminal(*arguments, "--url", url, NO_COLOR="1")
    assert "\x1b" not in plain, "bold neither"
    assert not BOX.search(plain)
    assert max(map(len, plain.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_in_no_box_and_its_examples_can_be_copied(name: str) -> None:
    """They are not folded."""
    shown = at_terminal(name, "-h")
    assert shown.startswith(f"Usage: runstream {name} [OPTIONS]")
    assert not BOX.search(shown)
    examples = shown.partition("Examples:")[2].split("\n\n")[1:]
    assert [line.split()[:2] for line in examples if "runstream" in line] == [["runstream", name]] * len(
        re.findall(f"runstream {name}", " ".join(examples))
    )


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
    assert completed("runstream show 0", RUNSTREAM_URL="sqlite:/nowhere") == []
    assert "--install-completion" in run("-h").out
