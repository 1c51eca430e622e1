"""States at any offset, which snapshots are kept, and the runs that a run shares its history with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph.types import Command

import runstream
import runstream.web
from runstream.integrations.langgraph import RunstreamSaver
from runstream.web.path_ids import path_id
from tests.integrations.langgraph import graphs
from tests.integrations.langgraph.checkpoints import checkpoint, config_of, save
from tests.support.commands import run
from tests.support.web_server import asked, serving


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path}/runs.db"


@pytest.fixture
def store(url: str) -> Iterator[Any]:
    with runstream.connect(url) as store:
        yield store


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    """A client of an app over the same archive, which tells nothing of the run ``root``."""
    app = runstream.web.app(runstream.connect_async(url), authorize=lambda _, __, run: run.run_id != "root")
    with serving(app) as client:
        yield client


def test_the_snapshots_that_are_kept_come_page_by_page_the_newest_first(tmp_path: Path) -> None:
    hot, archive = f"fake:kept-{tmp_path}", tmp_path / "archive.db"
    sink = runstream.SQLiteCheckpointer(archive)
    with runstream.connect(hot) as store, sink, store.open_run("r") as run:
        for step in range(5):
            run.emit("tool.result")
            run.state.data["step"] = step
            run.checkpoint()
            runstream.DrainWorker(store, [sink]).drain_once()
        with serving(runstream.web.app(runstream.connect_async(hot, archive=f"sqlite:{archive}"))) as client:
            check_snapshots(client)


def check_snapshots(client: httpx.Client) -> None:
    query, seen = "?limit=2", []
    while query:
        page = client.get(f"/runs/{path_id('r')}/snapshots{query}").json()
        seen += [one["offset"] for one in page["snapshots"]]
        query = page["next"]
    assert seen == [5, 4, 3, 2, 1]
    for offset in seen:
        state = client.get(f"/runs/{path_id('r')}/state", params={"at": offset}).json()
        assert (state["offset"], state["state"]["data"]["step"]) == (offset, offset - 1)
    assert client.get(f"/runs/{path_id('r')}/snapshots?before=1").json()["snapshots"] == []


def fill_branch(store: Any) -> None:
    store.append("root", [runstream.create_event("root", "tool.result", session_id="s") for _ in range(4)])
    store.fork("root", "fork", at=3)
    store.fork("fork", "leaf", at=2)
    store.append("root", [runstream.create_event("root", "tool.result", session_id="s")])


def test_a_branch_is_told_with_the_offsets_at_which_runs_part(tmp_path: Path) -> None:
    hot, archive = f"fake:branch-{tmp_path}", tmp_path / "archive.db"
    with (
        runstream.connect(hot) as store,
        runstream.SQLiteCheckpointer(archive) as sink,
        runstream.connect(f"memory:{tmp_path}") as memory,
    ):
        fill_branch(store)
        runstream.DrainWorker(store, [sink]).drain_once()
        fill_branch(memory)
        apps = [
            runstream.web.app(runstream.connect_async(hot)),
            runstream.web.app(runstream.connect_async(hot, archive=f"sqlite:{archive}")),
            runstream.web.app(store),
            runstream.web.app(sink),
            runstream.web.app(runstream.connect_async(f"memory:{tmp_path}")),
        ]
        for app in apps:
            with serving(app) as client:
                found = client.get(f"/runs/{path_id('fork')}/forks").json()
            assert [(one["run_id"], one["offset"]) for one in found["ancestors"]] == [("root", 3)]
            assert [(one["run_id"], one["offset"]) for one in found["forks"]] == [("leaf", 2)]


def test_a_branch_tells_nothing_of_runs_that_the_reader_may_not_see(client: httpx.Client, store: Any) -> None:
    fill_branch(store)
    found = client.get(f"/runs/{path_id('leaf')}/forks").json()
    assert [one["run_id"] for one in found["ancestors"]] == ["fork"]
    assert client.get(f"/runs/{path_id('root')}/forks").status_code == 404


def test_a_langgraph_thread_is_read_at_any_offset_with_what_it_asks(client: httpx.Client, url: str) -> None:
    config: Any = {"configurable": {"thread_id": "asks"}}
    with RunstreamSaver.from_url(url) as saver:
        graph = graphs.approval().compile(checkpointer=saver)
        graph.invoke({"said": ["begin"]}, config)
        path = f"/runs/{path_id('asks')}"
        asked_at = client.get(path).json()["last_offset"]
        graph.invoke(Command(resume="yes"), config)
    (lane,) = (one["lane_id"] for one in client.get(f"{path}/lanes").json()["lanes"] if one["snapshot_offset"])
    query: dict[str, Any] = {"lane": lane, "readable": "true"}
    then = client.get(f"{path}/state", params={**query, "at": asked_at}).json()["state"]
    now = client.get(f"{path}/state", params=query).json()["state"]
    assert then["asks"] == [{"question": "send it?", "draft": "draft after 1"}]
    assert "asks" not in now
    assert then["said"] == now["said"][: len(then["said"])]
    events = client.get(f"{path}/events", params={"readable": "true"}).json()["events"]
    assert any(event["payload"].get("said") == ["draft"] for event in events)
    assert "$bytes" not in str([event["payload"].get("said") for event in events])


def test_what_a_checkpoint_asks_is_found_before_the_one_that_precedes_it(tmp_path: Path) -> None:
    url, path = f"sqlite:{tmp_path}/runs.db", f"/runs/{path_id('t')}/state?lane=main&readable=true"
    with RunstreamSaver.from_url(url) as saver:
        later = checkpoint({"said": ["b"]}, {"said": 2})
        saver.put_writes(config_of("t", later["id"]), [("__interrupt__", [{"value": "go on?"}])], "task")
        first = save(saver, "t", {"said": ["a"]}, 0)
        saver.put(config_of("t", first), later, {"source": "loop", "step": 1, "parents": {}}, {"said": 2})
        kinds = [item.event.kind for item in saver.store.read("t")]
    assert kinds == ["checkpoint.writes", "checkpoint.saved", "checkpoint.saved"]
    with runstream.connect(url) as store:
        for answer in asyncio.run(asked(runstream.web.app(store), path, f"{path}&at=3")):
            assert answer.json()["state"]["asks"] == ["go on?"]
    for options in ([], ["--at", "3"]):
        assert "go on?" in run("show", "t", "--url", url, *options).out.partition("state of")[2]


def test_what_no_checkpointer_wrote_under_its_kinds_is_given_as_it_is() -> None:
    fields = {"checkpoint": {"id": "x"}, "metadata": {}, "channels": {"c": 1, "d": [[1, 2]], "e": "f"}}
    payloads: list[Any] = [
        {"checkpoint": "x", "channels": {"c": 1}, "values": {"c": 5}, "metadata": {}},
        {"checkpoint": "x", "channels": 1, "values": [], "metadata": None},
        {**fields, "values": {"c": 5}},
    ]
    with runstream.connect("memory:") as store:
        for payload in payloads:
            event = runstream.create_event("r", "checkpoint.saved", **payload)
            state = runstream.RunState("r")
            state.data.update(fields)
            store.append("r", [event], snapshot=state, lane_id="main")
        for writes in (["a"], 1, [[0, "c", 5]]):
            event = runstream.create_event("r", "checkpoint.writes", checkpoint="x", writes=writes)
            store.append("r", [event])
        path = f"/runs/{path_id('r')}"
        queries = ["events?", "state?lane=main&", "state?lane=main&at=6&"]
        answers = asyncio.run(
            asked(runstream.web.app(store), *(f"{path}/{query}readable=true" for query in queries))
        )
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [event["payload"] for event in answers[0].json()["events"]][:2] == payloads[:2]
