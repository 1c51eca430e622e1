"""Threads of langgraph-checkpoint-sqlite's files are imported with all of their history, once, by the command."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver

from runstream.integrations.langgraph import RunstreamSaver
from tests.integrations.langgraph.observing import THREAD, Play, plain
from tests.integrations.langgraph.places import Theirs
from tests.integrations.langgraph.stories import STORIES
from tests.support.commands import run

THREADS = ["thread", "a", "b"]


def written(path: Path, story: str, runner: asyncio.Runner | None = None) -> None:
    """Tell a story on langgraph's own saver."""
    make, tell = STORIES[story]
    place = Theirs(runner, path)
    with ExitStack() as opened:

        def reopen() -> None:
            opened.close()
            play.reopen(opened.enter_context(place.open()))

        play = Play(place, opened.enter_context(place.open()), make, "sync")
        tell(play, reopen)


def held(saver: Any, thread_id: str) -> dict[tuple[str, str], Any]:
    """All that a saver has of a thread, exactly, by namespace and id."""
    found = saver.list({"configurable": {"thread_id": thread_id}})
    return {
        (one.config["configurable"]["checkpoint_ns"], one.checkpoint["id"]): (
            plain(one),
            one.checkpoint["ts"],
            one.checkpoint["channel_versions"],
            one.checkpoint["versions_seen"],
        )
        for one in found
    }


def imported(path: Path, url: str, *options: str) -> list[dict[str, Any]]:
    """Run the command, and give what it says of each thread."""
    said = run("import", str(path), "--url", url, "--json", *options)
    assert said.code == 0, said.err
    runs: list[dict[str, Any]] = said.document["runs"]
    return runs


@pytest.mark.one_in(5, exhaustively=2)
@pytest.mark.parametrize("story", STORIES)
def test_a_thread_is_read_after_an_import_as_it_was_before(story: str, tmp_path: Path) -> None:
    path, url = tmp_path / "theirs.db", f"sqlite:{tmp_path}/ours.db"
    written(path, story)
    for told in imported(path, url):
        assert told["added"] == told["events"] > 0
    with SqliteSaver.from_conn_string(str(path)) as theirs, RunstreamSaver.from_url(url) as ours:
        for thread_id in THREADS:
            assert held(ours, thread_id) == held(theirs, thread_id)
            config: Any = {"configurable": {"thread_id": thread_id}}
            assert plain(ours.get_tuple(config)) == plain(theirs.get_tuple(config))


def test_an_import_goes_on_where_the_file_has_grown_and_adds_nothing_twice(tmp_path: Path) -> None:
    path, url = tmp_path / "theirs.db", f"sqlite:{tmp_path}/ours.db"
    with asyncio.Runner() as runner:
        written(path, "a person says no and then yes", runner)
    (first,) = imported(path, url)
    (again,) = imported(path, url)
    assert (again["added"], again["there"]) == (0, first["added"])
    written(path, "steps one by one")
    (third,) = imported(path, url, "--dry-run")
    assert third["there"] == first["added"] > 0
    assert imported(path, url) == [third]
    with SqliteSaver.from_conn_string(str(path)) as theirs, RunstreamSaver.from_url(url) as ours:
        assert held(ours, "thread") == held(theirs, "thread")


def test_a_graph_goes_on_with_an_imported_thread_and_the_file_is_refused_from_then_on(tmp_path: Path) -> None:
    """What it has besides belongs before what the thread has had since."""
    path, url = tmp_path / "theirs.db", f"sqlite:{tmp_path}/ours.db"
    written(path, "steps one by one")
    imported(path, url)
    make, _ = STORIES["steps one by one"]
    with RunstreamSaver.from_url(url) as saver:
        graph = make(saver)
        before = len(list(graph.get_state_history(THREAD)))
        graph.invoke({"said": ["on our saver"]}, THREAD)
        assert len(list(graph.get_state_history(THREAD))) == before + 5
    assert [told["added"] for told in imported(path, url)] == [0]
    written(path, "steps one by one")
    said = run("import", str(path), "--url", url)
    assert said.code == 1
    assert "has gone on there" in said.err


def test_values_of_classes_that_are_not_there_are_taken_over_as_they_are(tmp_path: Path) -> None:
    """And what does not read is said, and holds up nothing else."""
    path, url = tmp_path / "theirs.db", f"sqlite:{tmp_path}/ours.db"
    written(path, "a chat of many turns")
    with closing(sqlite3.connect(path)) as connection, connection:
        rows = connection.execute(
            "SELECT checkpoint, checkpoint_id FROM checkpoints ORDER BY checkpoint_id"
        ).fetchall()
        renamed = [(data.replace(b"AIMessage", b"XYMessage"), name) for data, name in rows]
        connection.executemany("UPDATE checkpoints SET checkpoint = ? WHERE checkpoint_id = ?", renamed)
        connection.execute("UPDATE checkpoints SET type = 'pickle' WHERE checkpoint_id = ?", rows[0][1:])
    said = run("import", str(path), "--url", url, "--json")
    assert said.code == 1
    (told,) = said.document["runs"]
    assert told["unreadable"] == 1
    with SqliteSaver.from_conn_string(str(path)) as theirs, RunstreamSaver.from_url(url) as ours:
        kept = held(ours, "thread")
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("DELETE FROM checkpoints WHERE type = 'pickle'")
        assert kept == held(theirs, "thread")
