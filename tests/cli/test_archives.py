"""``runstream archives``: archives that a namespace requires are listed, added and dropped."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from runstream import DrainWorker, JSONLCheckpointer, SQLiteCheckpointer
from runstream.cli import app
from runstream.stores.redis.namespace import namespace_of
from tests.support.archive_check import check_archives
from tests.support.backends import Backend, ServerBackend
from tests.support.drain_tools import emit, open_hot
from tests.support.servers import needs_valkey


@needs_valkey
def test_the_command_lists_adds_and_drops(make_backend: Callable[[str], Backend], tmp_path: Path) -> None:
    """One story: an archive is added with what it lacks, the workers get it, the old one is dropped."""
    backend = make_backend("valkey")
    assert isinstance(backend, ServerBackend)
    hot = open_hot(backend, partitions=4)
    url = f"{backend.server.url}?namespace={backend.namespace}"
    old, new = f"sqlite:{tmp_path}/old.db", f"jsonl:{tmp_path}/new"

    def run(*arguments: str, answer: str = "") -> Any:
        done = CliRunner().invoke(app, ["archives", *arguments, "--url", url], input=answer)
        return done.exit_code, done.stdout, done.stderr

    def listed() -> dict[str, int]:
        code, out, _ = run("--json")
        assert code == 0
        return {one["location"]: one["partitions"] for one in json.loads(out)["archives"]}

    assert listed() == {}
    acknowledged = {"r": emit(hot, "r", 5)}
    with closing(SQLiteCheckpointer(tmp_path / "old.db")) as archive:
        DrainWorker(hot, [archive], trim="archived").drain_once()
    assert listed() == {old: 4}
    code, _, err = run("add", new)
    assert (code, "--copy-from" in err) == (2, True)
    assert listed() == {old: 4}
    code, out, err = run("add", new, "--copy-from", old)
    assert code == 0
    assert sorted(line.split()[1:] for line in out.splitlines()[1:]) == [[new, "4"], [old, "4"]]
    assert "copied 5 events of run 'r'" in err
    assert "workers that have it go on" in err
    assert listed() == {old: 4, new: 4}
    code, _, err = run("drop", old, answer="n\n")
    assert (code, "It keeps what it holds" in err) == (1, True)
    assert listed() == {old: 4, new: 4}
    assert run("drop", old, answer="y\n")[0] == 0
    assert listed() == {new: 4}
    code, _, err = run("drop", new, "--yes")
    assert (code, "no other archive" in err) == (2, True)
    code, _, err = run("drop", "sqlite:nowhere.db", "--yes")
    assert (code, new in err) == (2, True)
    with closing(JSONLCheckpointer(tmp_path / "new")) as copy:
        DrainWorker(hot, [copy]).drain_once()
        check_archives([copy], acknowledged)
    assert namespace_of(hot).status().backlog_events == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add"], "take one archive"),
        (["drop"], "take one archive"),
        (["list", "sqlite:x"], "take one archive"),
        (["drop", "sqlite:x", "--copy-from", "sqlite:y"], "goes with add"),
        (["add", "memory:"], "is not an archive"),
        (["add", "sqlite:x", "--copy-from", "sqlite:nowhere"], "nothing at that path"),
        (["enlarge"], "enlarge"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str, monkeypatch: Any, tmp_path: Path) -> None:
    """Exit code 2, and nothing was changed."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["archives", *arguments, "--url", "fake:"])
    assert done.exit_code == 2
    assert message in done.stderr


def test_an_archive_requires_no_archives(tmp_path: Path) -> None:
    """The command is about a Redis store."""
    SQLiteCheckpointer(tmp_path / "a.db").close()
    done = CliRunner().invoke(app, ["archives", "--url", f"sqlite:{tmp_path}/a.db"])
    assert (done.exit_code, "works on Redis" in done.stderr) == (2, True)
