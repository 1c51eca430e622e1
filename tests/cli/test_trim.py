"""``runstream trim``: what is archived leaves Redis at once; ``status`` and the metrics say what has not."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import RunState
from runstream.cli.support.exit_codes import ExitCode
from runstream.stores.redis.namespace import namespace_of
from tests.support.commands import Place, Worker, run
from tests.support.servers import eventually, needs_server

pytestmark = needs_server


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Archived, and all of it in Redis still: one run that a snapshot covers, one that none does."""
    with closing(Place(tmp_path)) as place:
        place.emit("covered", 4)
        place.store.append("covered", [], snapshot=RunState(run_id="covered"))
        place.emit("bare", 3)
        assert run("drain", *place.drain, "--trim", "never", "--once").code == 0
        yield place


def trim(place: Place, *arguments: str) -> Any:
    said = run("trim", "--url", place.url, *arguments, "--json")
    assert said.code == 0, said.err
    return said.document


def hot(place: Place) -> dict[str, int]:
    return {run_id: place.node.raw.xlen(namespace_of(place.store).keys.run(run_id).events) for run_id in RUNS}


RUNS = ("covered", "bare")


def test_all_runs_or_those_that_are_named_are_trimmed(place: Place) -> None:
    """By the snapshots, or whatever is archived; by the archives that are required, or those that are named."""
    found = trim(place, "--all")
    assert (found["policy"], found["runs"], found["report"]["trimmed"], found["held"]) == ("covered", 1, 4, [])
    assert hot(place) == {"covered": 0, "bare": 3}
    found = trim(place, "bare")
    assert found["held"] == [{"run_id": "bare", "events": 3, "reason": "no snapshot covers it"}]
    said = run("trim", "bare", "--url", place.url)
    assert "no snapshot covers it" in said.out
    with Worker(*place.drain, "--trim", "never") as worker:
        worker.says("begins")
        place.emit("bare", 2, first=4)
        found = trim(place, "bare", "--policy", "archived", "--to", place.jsonl, "--to", place.sqlite)
        assert found["held"] == []
        assert hot(place) == {"covered": 0, "bare": 0}
    said = run("trim", "--all", "--policy", "archived", "--url", place.url)
    assert (said.code, "nothing may leave Redis" in said.err) == (0, True)


def test_a_run_of_which_an_archive_has_lost_something_is_parked_and_is_1(place: Place) -> None:
    with closing(sqlite3.connect(place.directory / "a.db")) as connection, connection:
        connection.execute("DELETE FROM events WHERE run_id = 'bare' AND offset = 2")
    said = run("trim", "--all", "--policy", "archived", "--url", place.url)
    assert said.code == ExitCode.DOES_NOT_HOLD
    assert f"{place.sqlite} does not hold event 2 any more" in said.out
    assert hot(place) == {"covered": 0, "bare": 3}


def test_mistakes_are_named(place: Place) -> None:
    for arguments, code in (
        ((), ExitCode.USAGE),
        (("bare", "--all"), ExitCode.USAGE),
        (("no such run",), ExitCode.NO_SUCH_RUN),
        (("bare", "--to", place.jsonl), ExitCode.USAGE),
        (("bare", "--policy", "never"), ExitCode.USAGE),
    ):
        assert run("trim", "--url", place.url, *arguments).code == code, arguments
    assert run("trim", "bare", "--url", place.sqlite).code == ExitCode.USAGE
    assert hot(place) == {"covered": 4, "bare": 3}


def test_status_says_what_is_archived_and_still_in_redis_and_why(place: Place) -> None:
    found = run("status", "--url", place.url, "--json").document["held"]
    assert (found["events"], found["runs"], found["looked_at"]) == (7, 2, 2)
    assert found["by"] == {"trim": 4, "no snapshot": 3}
    first, second = found["largest"]
    assert (first["run_id"], first["events"], first["covered"]) == ("covered", 4, 4)
    assert (first["reason"], second["reason"]) == ("no worker reports that would trim it", "no snapshot covers it")
    with Worker(*place.drain, "--trim", "never", "--metrics-port", "0") as worker:
        worker.says("begins")
        eventually(lambda: "(--trim never)" in run("status", "--url", place.url).out)
        said = run("status", "--url", place.url).out
        assert "7 events of 2 runs" in said
        assert "no snapshot covers it" in said
        eventually(lambda: 'runstream_drain_held_events{by="trim"} 4.0' in worker.get("/metrics")[1])
        assert 'runstream_drain_held_events{by="no snapshot"} 3.0' in worker.get("/metrics")[1]
