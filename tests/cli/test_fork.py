"""``runstream fork`` makes a fork, and ``show`` draws the branch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runstream import DrainWorker, SQLiteCheckpointer, connect
from tests.support.backends import FakeBackend
from tests.support.commands import run
from tests.support.samples import make_events, make_state


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:{tmp_path}/runs.db"
    with connect(url) as store:
        store.append("trip", make_events("trip", 5), snapshot=make_state("trip"), tags={"user": "42"})
    return url


def test_a_fork_is_made_at_an_offset_with_the_tags_that_are_given(url: str) -> None:
    said = run("fork", "trip", "again", "--at", "3", "--url", url)
    assert said.code == 0, said.err
    assert ["again", "trip", "3", "3"] in [line.split() for line in said.out.splitlines()]
    document = run("fork", "trip", "other", "--url", url, "--tag", "user=7", "--json").document
    assert (document["parent"], document["tags"]) == ({"run_id": "trip", "offset": 5}, {"user": "7"})
    assert run("fork", "trip", "again", "--at", "3", "--url", url).code == 0
    assert [event["offset"] for event in run("show", "again", "--url", url, "--json").document["events"]] == [
        1,
        2,
        3,
    ]


def test_what_cannot_be_forked_is_said_with_its_exit_code(url: str) -> None:
    assert run("fork", "nobody", "again", "--url", url).code == 4
    assert run("fork", "trip", "again", "--at", "6", "--url", url).code == 2
    assert run("fork", "trip", "trip", "--url", url).code == 2
    assert run("fork", "trip", "again", "--tag", "user", "--url", url).code == 2


def test_show_draws_where_a_run_comes_from_and_what_was_forked_from_it(url: str) -> None:
    with connect(url) as store:
        store.fork("trip", "b", at=4)
        store.append("b", make_events("b", 3))
        for name, at in (("b-late", 6), ("b-early", 5)):
            store.fork("b", name, at=at)
    lines = [" ".join(line.split()) for line in run("show", "b", "--url", url).out.splitlines()]
    at = lines.index("branch parts after offset")
    assert lines[at + 1 : at + 5] == ["trip", "└─ b * 4", "├─ b-early 5", "└─ b-late 6"]
    last = [" ".join(line.split()) for line in run("show", "b-late", "--url", url).out.splitlines()]
    assert last[last.index("branch parts after offset") + 3] == "└─ b-late * 6"
    document = run("show", "b", "--url", url, "--json").document
    assert document["forks"] == [{"run_id": "b-early", "at": 5}, {"run_id": "b-late", "at": 6}]
    with connect(url) as store:
        store.append("alone", make_events("alone", 1))
    assert "branch" not in run("show", "alone", "--url", url).out


def test_a_run_in_redis_is_forked_with_what_its_archive_has(fake: FakeBackend, tmp_path: Path) -> None:
    """And the forks that are noted in Redis are drawn."""
    name = tmp_path.name
    url, archive = f"fake:{name}", f"sqlite:{tmp_path}/archive.db"
    with connect(url) as hot, SQLiteCheckpointer[Any, Any](tmp_path / "archive.db") as sink:
        hot.append("trip", make_events("trip", 5), snapshot=make_state("trip"))
        DrainWorker(hot, [sink], trim="archived").drain_once()
        assert run("fork", "trip", "again", "--at", "3", "--url", url).code == 1
        assert run("fork", "trip", "again", "--at", "3", "--url", url, "--archive", archive).code == 0
        found: Any = run("show", "trip", "--url", url, "--archive", archive, "--json").document
        assert found["forks"] == [{"run_id": "again", "at": 3}]
