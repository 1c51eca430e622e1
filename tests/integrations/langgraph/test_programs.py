"""Processes that share threads: killed in the middle, answered by others, with a drain at work meanwhile."""

from __future__ import annotations

import json
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command as Resume

from runstream.integrations.langgraph import RunstreamSaver
from tests.integrations.langgraph import graphs
from tests.integrations.langgraph.observing import THREAD, normalised, plain
from tests.integrations.langgraph.programs import BEGINNING, NODES, careful
from tests.support.processes.child import Child, Command
from tests.support.processes.journal import Diary
from tests.support.servers import DEADLINE_SECONDS, Servers, needs_valkey

pytestmark = needs_valkey


class Program(Child):
    """A process that runs a graph."""

    def __init__(self, name: str, **arguments: Any) -> None:
        self._start(
            name, ["-m", "tests.integrations.langgraph.programs", name, json.dumps(arguments)], subprocess.PIPE
        )


@pytest.fixture
def where(servers: Servers, namespace: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A server and an archive, and a worker that brings all from the one into the other and out of the first."""
    server = servers.get("valkey")
    url, archive = f"{server.url}?namespace={namespace}", f"sqlite:{tmp_path}/archive.db"
    options = ["--url", url, "--to", archive, "--trim", "archived", "--retire-idle", "0", "--end-with-parent"]
    with Command("drain", "drain", *options, log=tmp_path / "drain.log") as worker:
        yield {"url": url, "archive": archive}
        worker.end()
    if left := list(server.raw.scan_iter(f"{{{namespace}*", count=1000)):
        server.raw.delete(*left)


@pytest.fixture
def run(where: dict[str, str]) -> Iterator[Callable[..., Program]]:
    """Start a program there; one that still runs at the end is ended."""
    with ExitStack() as running:
        yield lambda name, **arguments: running.enter_context(Program(name, **where, **arguments))


def history_in_memory(durability: Any) -> list[Any]:
    """What a process sees in which nothing happens."""
    graph = careful(lambda _: None).compile(checkpointer=InMemorySaver())
    graph.invoke(BEGINNING, THREAD, durability=durability)
    return told(plain(list(graph.get_state_history(THREAD))))


def told(history: list[Any]) -> list[Any]:
    """A history without what each task gave: nobody waits for such a write, and a kill may lose it."""
    for one in history:
        for task in one["tasks"]:
            del task["result"]
    return normalised([("history", history)])


@pytest.mark.one_in(9, exhaustively=2)
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("stops_at", NODES)
def test_a_graph_that_was_killed_goes_on_in_another_process_as_if_nothing_had_been(
    stops_at: str, durability: str, run: Callable[..., Program], where: dict[str, str], tmp_path: Path
) -> None:
    """The history is that of a process that was not killed; what was saved is not done again."""
    options = {"durability": durability, "diary": str(tmp_path / "done")}
    with run("work", **options, stops_at=stops_at) as first:
        assert first.hear() == "here"
        first.kill()
    with run("work", **options, stops_at="") as second:
        history = json.loads(second.hear())
        second.end()
    with RunstreamSaver.from_url(where["url"], archive=where["archive"]) as saver:
        graph = careful(lambda _: None).compile(checkpointer=saver)
        assert plain(list(graph.get_state_history(THREAD))) == history
    assert told(history) == history_in_memory(durability)
    done = Counter(Diary(tmp_path / "done").lines())
    assert set(done) == set(NODES)
    if durability == "sync":
        side_by_side = {"left", "right"} if stops_at in {"left", "right"} else set()
        assert {name for name, times in done.items() if times > 1} <= {stops_at} | side_by_side


@pytest.mark.exhaustive
def test_what_one_process_asks_another_one_answers(run: Callable[..., Program]) -> None:
    """And a third one, that was told no, and each sees what one process alone would see."""
    graph: Any = graphs.approval().compile(checkpointer=InMemorySaver())
    for text in ("begin", "no", "yes"):
        asks = bool(graph.get_state(THREAD).interrupts)
        graph.invoke(Resume(resume=text) if asks else {"said": [text]}, THREAD)
        with run("answer", text=text) as program:
            seen = json.loads(program.hear())
            program.end()
        expected = plain(graph.get_state(THREAD))
        assert normalised([("history", [seen])]) == normalised([("history", [expected])])


def test_the_example_of_an_approval_goes_on_after_it_was_killed(tmp_path: Path) -> None:
    """It neither searches nor asks again; what it was killed in it does again."""
    url = f"sqlite:{tmp_path}/threads.db"
    with Program("example", url=url, step="ask") as program:
        assert [program.hear(), program.hear()] == ["  searches", "  asks: Book it?"]
        program.end()
    with Program("example", url=url, step="answer") as program:
        assert program.hear() == "  books"
        program.process.wait(DEADLINE_SECONDS)
        assert program.process.returncode == -signal.SIGKILL
    with Program("example", url=url, step="go on") as program:
        assert [program.hear(), program.hear()] == ["  books", "  has booked: Lisbon, 420 EUR"]
        program.end()
