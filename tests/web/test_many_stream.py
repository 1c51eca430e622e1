"""The stream of many runs goes on after its last id, on any replica: each event of each run once."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import runstream
import runstream.web
from runstream.web import followed
from runstream.web.path_ids import path_id
from runstream.web.tokens import MOST_OPEN
from tests.support.backends import Backend
from tests.support.servers import eventually, needs_valkey, primary_and_replica
from tests.support.web_server import Frame, frames_of, serving
from tests.support.web_world import World, received, world_of

STREAM = "/stream?session=s"


KINDS = [
    "fake",
    pytest.param("valkey", marks=[needs_valkey, pytest.mark.exhaustive]),
    pytest.param("sync", marks=pytest.mark.exhaustive),
]


@pytest.fixture(params=KINDS)
def world(
    request: pytest.FixtureRequest, make_backend: Callable[[str], Backend], tmp_path: Path
) -> Iterator[World]:
    """Two replicas over fakeredis or a real server, for asyncio or not."""
    with world_of(request.param, make_backend, tmp_path) as made:
        yield made


def events(found: list[Frame]) -> list[tuple[str, int]]:
    return [(frame.data["run_id"], frame.data["offset"]) for frame in found if frame.name == "message"]


def test_reconnects_on_any_replica_give_each_event_of_each_run_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While runs begin, end, are drained and retired; ended ones leave the token, and are not given again."""
    monkeypatch.setattr(followed, "_SLACK_SECONDS", 0.3)
    given: list[Frame] = []
    expected: set[tuple[str, int]] = set()
    last_id = ""
    world.store.open_run("other", session_id="t").emit("tool.result")

    def catch_up(replica: int) -> None:
        nonlocal last_id
        while not expected <= set(events(given)):
            for frame in received(world.replicas[replica], last_id, most=1, path=STREAM):
                given.append(frame)
                last_id = frame.last_id

    long = world.store.open_run("long", session_id="s")
    for number in range(8):
        long.emit("tool.result", number=number)
        expected.add(("long", number + 1))
        catch_up(number % 2)  # so the stream knows a position before what comes next
        with world.store.open_run(f"run/{number}", session_id="s") as run:
            run.emit("tool.result")
            run.finish()
        expected |= {(f"run/{number}", 1), (f"run/{number}", 2)}
        catch_up((number + 1) % 2)
        world.drain(trim="archived", retire_after_seconds=0)
    assert sorted(events(given)) == sorted(expected)
    for run_id, _ in expected:
        of_run = [offset for one, offset in events(given) if one == run_id]
        assert of_run == sorted(of_run)

    def has_let_go() -> bool:
        """What has ended leaves the token, which has 17 bytes for each run that is held."""
        long.emit("tool.result")
        expected.add(("long", 1 + max(offset for run_id, offset in expected if run_id == "long")))
        catch_up(0)
        return len(last_id) < 4 * 17 * 4 / 3

    eventually(has_let_go)


def test_new_runs_join_a_reader_that_stays_and_ends_are_told(world: World) -> None:
    world.store.open_run("a", session_id="s").emit("tool.result")
    given: list[tuple[str, str, Any]] = []
    with world.replicas[0].stream("GET", STREAM) as response:
        for frame in frames_of(response):
            given.append((frame.name, frame.data["run_id"], frame.data.get("offset")))
            if given[-1] == ("message", "a", 1):
                with world.store.open_run("b", session_id="s") as run:
                    run.finish()
            if given[-1] == ("message", "b", 1):
                world.store.open_run("a").finish()
            if {("end", "a", None), ("end", "b", None)} <= set(given):
                break
    assert sorted(given) == [
        ("end", "a", None), ("end", "b", None), ("message", "a", 1), ("message", "a", 2), ("message", "b", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("knew", ["nothing", "a run"])
def test_what_has_begun_and_ended_while_a_reader_was_away_is_given(
    world: World, monkeypatch: pytest.MonkeyPatch, knew: str
) -> None:
    """However long that was, and also where the stream had no run to tell of."""
    monkeypatch.setattr(followed, "_SLACK_SECONDS", 0.0)
    if knew == "a run":
        world.store.open_run("ended", session_id="s").finish()
    with world.replicas[0].stream("GET", STREAM) as response:
        last_id = next(line for line in response.iter_lines() if line.startswith("id: "))[4:]
    for run_id in ("first", "second"):
        world.store.open_run(run_id, session_id="s").finish()
    found = received(world.replicas[1], last_id, most=2, path=STREAM)
    assert sorted(events(found)) == [("first", 1), ("second", 1)]


def test_more_open_runs_than_a_stream_has_are_refused_by_how_to_narrow_it() -> None:
    with runstream.InMemoryCheckpointer() as store:
        for number in range(MOST_OPEN + 1):
            event = runstream.PAEvent(f"r{number}", session_id="s", seq=1, kind="tool.result")
            store.append(f"r{number}", [event], tags={"part": str(number % 2)})
        with serving(runstream.web.app(store)) as client:
            refused = client.get(STREAM)
            assert refused.status_code == 413
            assert "tag=" in refused.json()["detail"]
            found = received(client, "", most=51, path=f"{STREAM}&tag=part=0")
            assert {run_id for run_id, _ in events(found)} == {f"r{number}" for number in range(0, 101, 2)}
            store.append("r0", [runstream.create_event("r0", "run.finished")])
            assert len(events(received(client, "", most=100, path=STREAM))) == 100


@needs_valkey
def test_a_loss_in_one_run_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    with ExitStack() as opened:
        pair = opened.enter_context(primary_and_replica("valkey"))
        world = World(pair.url, tmp_path, opened)
        for run_id in ("a", "b"):
            with world.store.open_run(run_id, session_id="s") as run:
                run.emit("tool.result")
        stream = frames_of(opened.enter_context(world.replicas[0].stream("GET", STREAM)))
        given = [next(stream) for _ in range(2)]
        with pair.losing(), runstream.connect(pair.url) as writer:
            writer.open_run("a").emit("tool.result")
            given.append(next(stream))
        with runstream.connect(pair.url) as writer:
            writer.open_run("b").emit("tool.result")
            while ("b", 2) not in events(given) or not any(frame.name == "lost" for frame in given):
                given.append(next(stream))
        (lost,) = [frame for frame in given if frame.name == "lost"]
        assert lost.data["run_id"] == "a"
        assert events(given).count(("b", 1)) == 1
        again = received(world.replicas[1], given[2].last_id, most=3, path=STREAM)
        assert sorted(frame.name for frame in again) == ["lost", "message", "message"]
        assert sorted(events(again)) == [("a", 1), ("b", 2)]


def test_a_run_that_cannot_be_read_holds_up_no_other(tmp_path: Path) -> None:
    """Its beginning has left Redis, and this app knows of no archive."""
    url = f"fake:{uuid.uuid4().hex}"
    with runstream.connect(url) as store, runstream.SQLiteCheckpointer(tmp_path / "a.db") as archive:
        store.open_run("moved", session_id="s").emit("tool.result")
        runstream.DrainWorker(store, [archive], trim="archived").drain_once()
        store.open_run("here", session_id="s").emit("tool.result")
        with serving(runstream.web.app(runstream.connect_async(url))) as client:
            with client.stream("GET", STREAM) as response:
                stream = frames_of(response)
                given = [next(stream) for _ in range(2)]
                store.open_run("here").emit("tool.result")
                given.append(next(stream))
            (alone,) = received(client, "", most=2, path=f"/runs/{path_id('moved')}/stream")
    assert sorted((frame.name, frame.data["run_id"], frame.data["offset"]) for frame in given) == [
        ("message", "here", 1), ("message", "here", 2), ("unreadable", "moved", 0),
    ]  # fmt: skip
    assert (alone.name, alone.data["first_hot"]) == ("problem", 2)


def test_a_position_of_another_kind_is_refused() -> None:
    with runstream.InMemoryCheckpointer() as store, serving(runstream.web.app(store)) as client:
        assert client.get(STREAM, headers={"Last-Event-ID": "5-77"}).status_code == 400
