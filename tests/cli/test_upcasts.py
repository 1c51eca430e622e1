"""``--upcasts``: commands that show events and states read them by a program's own rules."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runstream import connect
from tests.support.commands import run
from tests.support.samples import make_event
from tests.support.schema import UPCASTS, new_event, old_event, old_state
from tests.support.servers import needs_server

RULES = "tests.support.schema:UPCASTS"


def fill(url: str) -> None:
    """An event of version 1 with its state, one of version 3, and the end."""
    with connect(url) as store:
        store.append("r", [old_event(1)], snapshot=old_state(1))
    with connect(url, upcasts=UPCASTS) as store:
        store.append("r", [new_event(2), make_event("r", 3, kind="run.finished")])


@pytest.fixture
def archive(tmp_path: Path) -> str:
    url = f"sqlite:{tmp_path}/archive.db"
    fill(url)
    return url


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory, of whose modules Python knows nothing before and after."""
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield directory
    for name in set(sys.modules) - before:
        del sys.modules[name]


def shown(*arguments: str) -> Any:
    said = run("show", "r", *arguments, "--json")
    assert said.code == 0, said.err
    return said.document


def test_show_reads_events_and_states_by_the_rules(archive: str) -> None:
    old = shown("--url", archive)
    assert [event["kind"] for event in old["events"]] == ["tool.called", "tool.started", "run.finished"]
    assert old["snapshots"][0]["state"]["current_step"] == 0
    new = shown("--url", archive, "--upcasts", RULES)
    assert [event["kind"] for event in new["events"]] == ["tool.started", "tool.started", "run.finished"]
    assert [event["payload"] for event in new["events"][:2]] == [{"arguments": [1]}, {"arguments": [2]}]
    assert new["snapshots"][0]["state"]["current_step"] == 1
    assert shown("--url", archive, "--upcasts", RULES, "--at", "1")["snapshots"][0]["state"]["current_step"] == 1


@needs_server
def test_tail_chooses_by_the_new_kind(tmp_path: Path) -> None:
    url = f"embedded:{tmp_path}/server"
    fill(url)
    said = run("tail", "r", "--url", url, "--upcasts", RULES, "--kind", "tool.started", "--json")
    assert said.code == 0, said.err
    assert [json.loads(line)["payload"] for line in said.out.splitlines()] == [
        {"arguments": [1]},
        {"arguments": [2]},
    ]


def test_a_newer_version_than_the_rules_know_ends_the_command(archive: str, here: Path) -> None:
    (here / "older_rules.py").write_text("from runstream import Upcasts\nupcasts = Upcasts(version=2)\n")
    said = run("show", "r", "--url", archive, "--upcasts", "older_rules:upcasts")
    assert (said.code, said.out) == (1, "")
    assert "event 2 of run 'r' has schema version 3; the Upcasts here know up to 2" in said.err


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("no_such_module:upcasts", "it cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("breaks:upcasts", "it cannot be imported: ZeroDivisionError: division by zero"),
        ("other:nothing", "it cannot be imported: AttributeError: module 'other' has no attribute 'nothing'"),
        ("other:number", "that is an int, not Upcasts"),
        ("other", "name them as MODULE:NAME"),
        (":number", "name them as MODULE:NAME"),
        ("other:", "name them as MODULE:NAME"),
        ("../other:number", "it cannot be imported"),
    ],
)
@pytest.mark.parametrize("name", ["show", "tail"])
def test_rules_that_cannot_be_imported_are_a_mistake_in_usage(
    archive: str, here: Path, name: str, named: str, why: str
) -> None:
    (here / "breaks.py").write_text("1 / 0\n")
    (here / "other.py").write_text("number = 5\n")
    said = run(name, "r", "--url", archive, "--upcasts", named)
    assert (said.code, said.out) == (2, "")
    assert why in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("name", ["drain", "verify", "restore", "export", "import", "quarantine", "resolve"])
def test_what_handles_stored_bytes_takes_no_rules(name: str) -> None:
    assert "--upcasts" not in run(name, "--help", COLUMNS="200").out


@needs_server
def test_a_rule_that_fails_ends_neither_show_nor_tail(make_backend: Any, here: Path) -> None:
    """What it is for is passed over and said; the rest is shown."""
    (here / "broken.py").write_text(
        "from runstream import Upcasts\n"
        "RULES = Upcasts(version=3)\n"
        "@RULES.event('tool.called', since=1)\n"
        "@RULES.state(since=1)\n"
        "def fails(fields):\n"
        "    raise KeyError('args')\n"
    )
    backend = make_backend("valkey")
    url = f"{backend.server.url}?namespace={backend.namespace}"
    fill(url)
    document = shown("--url", url, "--upcasts", "broken:RULES")
    assert [event["offset"] for event in document["events"]] == [2, 3]
    assert (document["unreadable"], document["snapshots"]) == ([1], [])
    tailed = run("tail", "r", "--url", url, "--since", "0", "--upcasts", "broken:RULES", "--idle-timeout", "5")
    assert (tailed.code, len(tailed.out.splitlines())) == (0, 2)
    assert "the rule fails fails: KeyError: 'args'" in tailed.err
