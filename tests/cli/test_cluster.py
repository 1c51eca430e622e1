"""Every command over a cluster, and a namespace that moves to more partitions by the steps of the page."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from runstream import DrainWorker, EventKind, SQLiteCheckpointer, connect
from runstream.cli import app
from runstream.stores.redis.connection.slots import slot_of_key
from runstream.stores.redis.namespace import namespace_of
from runstream.web.path_ids import path_id
from tests.cli.test_web import serving
from tests.support.backends import Backend
from tests.support.cluster import ClusterBackend
from tests.support.commands import Said, run
from tests.support.kinds import CLUSTER
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import needs_server
from tests.support.web_server import frames_of

pytestmark = needs_server
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operations.md").read_text("utf-8")
RUNS = [f"run{number}" for number in range(12)]
NO_SERVER = {"acl", "demo", "agent", "explain"}
"""These call none, start one of their own, or are part of the demo."""
SLOTS = 16_384


@pytest.fixture
def backend(make_backend: Callable[[str], Backend]) -> ClusterBackend:
    made = make_backend(*CLUSTER)
    assert isinstance(made, ClusterBackend)
    return made


def addresses(backend: ClusterBackend) -> list[str]:
    return backend.cluster.url.partition("://")[2].split(",")


@pytest.mark.exhaustive
def test_every_command_works_on_a_cluster(backend: ClusterBackend, tmp_path: Path) -> None:
    url, archive = f"{backend.cluster.url}?namespace={backend.namespace}", f"sqlite:{tmp_path}/a.db"
    called: set[str] = set()

    def do(name: str, *arguments: str, code: int = 0, where: str = "--url") -> Said:
        called.add(name)
        said = run(name, *arguments, where, url)
        assert said.code == code, (name, said.out, said.err)
        return said

    with connect(url) as store:
        for run_id in RUNS:
            store.append(run_id, make_events(run_id, 4), snapshot=make_state(run_id))
        with store.open_run("asks") as agent:
            agent.pause("Ship it?")
    assert all(run_id in do("runs").out for run_id in RUNS)
    do("answer", "asks", "yes")
    do("cancel", "asks")
    do("fork", RUNS[0], "branch", "--at", "2")
    do("diff", RUNS[0], "branch")
    do("tail", RUNS[1], "--idle-timeout", "0.1", code=1)
    do("export", RUNS[1], "--to", f"{tmp_path}/run.jsonl")
    do("drain", "--to", archive, "--once", "--trim", "never")
    assert "runs" in do("status", "--check").out
    do("archives")
    do("trim", RUNS[2], "--policy", "archived")
    do("show", RUNS[2], "--archive", archive)
    do("resolve", RUNS[3])
    do("unpark", "--all")
    do("erase", RUNS[4], "--offset", "1", "--drop-snapshots")
    do("truncate", RUNS[5], "--before", "2")
    do("drain", "--to", archive, "--once")
    do("erasures", RUNS[4])
    do("verify", "--archive", archive)
    do("restore", RUNS[2], "--from", archive, where="--to")
    with SQLiteCheckpointer[Any, Any](tmp_path / "other.db") as other:
        other.append("imported", [make_event("imported", 1)])
    do("import", f"{tmp_path}/other.db")
    examined = json.loads(do("doctor", "--samples", "5", "--json", code=5).out)["nodes"]
    assert {node["place"] for node in examined} == {f"redis://{one}/0" for one in addresses(backend)}
    assert all(node["latency"]["samples"] == 5 for node in examined)
    called |= {"quarantine", "web"}  # of an archive alone; and a server, which the test below starts
    assert "imported" in do("runs").out
    commands: Any = get_command(app)
    assert called == set(commands.commands) - NO_SERVER


@pytest.mark.exhaustive
def test_runs_of_a_cluster_are_served_and_answered_over_http(backend: ClusterBackend) -> None:
    """Of all its servers: they are listed, one is streamed while it is written to, and one is answered."""
    url = f"{backend.cluster.url}?namespace={backend.namespace}"
    with connect(url) as store:
        for run_id in RUNS:
            store.append(run_id, make_events(run_id, 2))
        with store.open_run("asks") as agent:
            agent.pause("Ship it?")
            with serving("--url", url, "--allow", "answer") as (entry, client):
                client.get(entry, headers={"accept": "text/html"}, follow_redirects=True)
                listed = client.get("/runs").json()["runs"]
                assert {one["run_id"] for one in listed} == {*RUNS, "asks"}
                with client.stream("GET", f"/runs/{path_id(RUNS[3])}/stream") as response:
                    frames = frames_of(response)
                    assert [next(frames).data["offset"] for _ in range(2)] == [1, 2]
                    store.append(RUNS[3], make_events(RUNS[3], 1, first=3))
                    assert next(frames).data["offset"] == 3
                headers = {"origin": str(client.base_url).rstrip("/")}
                said = client.post(f"/runs/{path_id('asks')}/answer", json={"answer": "yes"}, headers=headers)
                assert said.is_success, said.text
            assert agent.wait(timeout=10) == "yes"


def told_of(store: Any) -> dict[str, Any]:
    """What a store tells of each run but for how much of it is archived and hot, and when it was written to."""
    known = {"archived_offset": 0, "first_hot": 0, "updated_at": 0.0}
    return {info.run_id: replace(info, **known) for info in store.runs()}


def test_a_namespace_moves_to_more_partitions_by_the_steps_of_the_page(
    backend: ClusterBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is there afterwards, and goes on: tags, forks, questions, and what was retired, too."""
    monkeypatch.chdir(tmp_path)
    old, new = f"{backend.cluster.url}?namespace={backend.namespace}", f"{backend.cluster.url}"
    monkeypatch.setenv("OLD", old)
    monkeypatch.setenv("NEW", new)
    states = {run_id: make_state(run_id) for run_id in RUNS}
    with connect(old) as hot, SQLiteCheckpointer[Any, Any]("runs.db") as archive:
        for name in ("ended", "left"):
            hot.append(name, make_events(name, 2), keys=["a", "b"], tags={"user": name}, snapshot=make_state(name))
        hot.append("ended", [make_event("ended", 3, kind=EventKind.RUN_FINISHED)])
        DrainWorker(hot, [archive], retire_after_seconds=0, retire_idle_seconds=0).drain_once()  # both are retired
    with connect(old, archive="sqlite:runs.db") as store:
        for run_id in RUNS:
            keys = [f"{run_id}/{number}" for number in range(4)]
            store.append(run_id, make_events(run_id, 4), keys=keys, snapshot=states[run_id], tags={"user": run_id})
        store.append(RUNS[0], [], tags={"user": "another"})
        with store.open_run("asks") as agent:
            agent.pause("Ship it?")
        store.fork(RUNS[1], "fork", at=2, tags={"branch": "1"})
        store.append("fork", make_events("fork", 2, first=3))
        store.fork("fork", "of the fork", at=3)
        names = [*RUNS, "asks", "fork", "of the fork", "ended", "left"]
        events = {run_id: list(store.read(run_id)) for run_id in names}
        told = told_of(store)
        assert told.keys() == set(names)
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (steps,) = (block for block in blocks if "$NEW" in block)
    moved = f"{backend.namespace}.moved"
    for line in steps.replace("namespace=agents", f"namespace={moved}").splitlines():
        said = run(*shlex.split(os.path.expandvars(line))[1:])
        assert said.code == 0, (line, said.out, said.err)
    try:
        with connect(f"{new}?namespace={moved}", archive="sqlite:runs.db") as store:
            assert told_of(store) == told
            assert {run_id: list(store.read(run_id)) for run_id in names} == events
            for tag in ({"user": "another"}, {"branch": "1"}, {"user": "left"}):
                having = {run_id for run_id, info in told.items() if tag.items() <= info.tags.items()}
                assert having
                assert {info.run_id for info in store.runs(tags=tag)} == having
            for run_id in RUNS:
                assert store.append(run_id, [make_event(run_id, 5)], keys=[f"{run_id}/0"])[:2] == (1, 1)
                assert store.append(run_id, [make_event(run_id, 5)])[:2] == (5, 5)
                assert store.load_latest(run_id) == states[run_id]
            assert store.append("left", [make_event("left", 3)], keys=["b"])[:2] == (2, 2)
            assert store.append("left", [make_event("left", 3)])[:2] == (3, 3)
            assert store.append("of the fork", [make_event("of the fork", 4)])[:2] == (4, 4)
            assert store.fork("fork", "later", at=4).last_offset == 4
            store.answer("asks", "yes")
        with connect(f"{new}?namespace={moved}") as hot:
            assert namespace_of(hot).status().partitions == 64
    finally:
        there = ClusterBackend(backend.cluster, moved)
        there.close()


def test_the_table_of_partitions_is_what_slots_give() -> None:
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+)(?:: ([\d.]+) times[^|]*)? \|$", PAGE, re.MULTILINE)
    assert len(rows) == 6
    for servers, partitions, fullest, times in rows:
        count, size = int(servers), int(partitions)
        by_server = Counter(slot_of_key(f"{{runstream:{number}}}") * count // SLOTS for number in range(size))
        assert max(by_server.values()) == int(fullest)
        assert times == "" or float(times) == round(int(fullest) * count / size, 2)
