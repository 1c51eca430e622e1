"""The stream of one run goes on after its last id, on any replica, wherever the run lies: each event once."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import runstream
import runstream.web
from runstream.web import frames
from tests.support.backends import Backend
from tests.support.servers import eventually, needs_valkey, primary_and_replica
from tests.support.web_server import Frame, asked, frames_of, serving
from tests.support.web_world import STREAM, World, received, world_of

KINDS = [
    pytest.param("fake", marks=pytest.mark.exhaustive),
    pytest.param("valkey", marks=needs_valkey),
    "sync",
]


@pytest.fixture(params=KINDS)
def world(
    request: pytest.FixtureRequest, make_backend: Callable[[str], Backend], tmp_path: Path
) -> Iterator[World]:
    """Over fakeredis and a real server, with the store for asyncio and the synchronous one."""
    with world_of(request.param, make_backend, tmp_path) as made:
        yield made


def offsets(found: list[Frame]) -> list[int]:
    return [frame.data["offset"] for frame in found if frame.name == "message"]


def test_a_reconnect_at_every_event_on_any_replica_gives_each_once(world: World) -> None:
    """While the run is written, drained, trimmed as soon as it may be, and retired at its end."""
    total, given, last_id = 24, [], ""
    with world.store.open_run("r") as run:
        for number in range(total):
            if number == total - 1:
                run.finish()
            else:
                run.emit("tool.result", number=number)
            if number % 5 == 4:
                run.checkpoint()
            if number % 3 == 2 or number == total - 1:
                world.drain(trim="archived", retire_after_seconds=0)
            for frame in received(world.replicas[number % 2], last_id, most=1):
                given.append(frame)
                last_id = frame.last_id
    assert offsets(given) == list(range(1, total + 1))
    assert [received(replica, last_id, most=1) for replica in world.replicas] == [
        [],
        [],
    ]  # 204: nothing more comes
    info = world.store.run_info("r")
    assert info is not None
    assert info.first_hot == total + 1
    recorded = [(item.offset, item.cursor) for item in world.archive.read("r")]
    assert [(frame.data["offset"], frame.last_id) for frame in given] == recorded
    # a reader who comes later has all of it from the archive
    assert offsets(received(world.replicas[1], "", most=total + 1)) == list(range(1, total + 1))


def test_a_reader_that_stays_gets_what_comes_and_the_end(world: World) -> None:
    given: list[Frame] = []
    with world.store.open_run("r") as run:
        run.emit("tool.result")
        with world.replicas[0].stream("GET", STREAM) as response:
            assert response.headers["x-accel-buffering"] == "no"
            assert "no-transform" in response.headers["cache-control"]
            for frame in frames_of(response):
                given.append(frame)
                if frame.name == "message" and frame.data["offset"] < 5:
                    run.emit("tool.result")
                elif frame.name == "message" and frame.data["offset"] == 5:
                    run.finish()
    assert [frame.name for frame in given] == ["message"] * 6 + ["end"]
    assert given[-1].data == {"run_id": "r", "status": "completed", "last_offset": 6}


@needs_valkey
def test_a_loss_is_told_and_the_run_given_anew(tmp_path: Path) -> None:
    """To a reader that stays, and to one that reconnects to a replica that has seen nothing."""
    with ExitStack() as opened:
        pair = opened.enter_context(primary_and_replica("valkey"))
        world = World(pair.url, tmp_path, opened)
        with world.store.open_run("r") as run:
            run.emit("tool.result", kept=True)
        stream = frames_of(opened.enter_context(world.replicas[0].stream("GET", STREAM)))
        with pair.losing(), runstream.connect(pair.url) as writer:
            writer.open_run("r").emit("tool.result", kept=False)
            writer.open_run("r").emit("tool.result", kept=False)
            given = [next(stream) for _ in range(3)]
        with runstream.connect(pair.url) as writer:
            writer.open_run("r").emit("tool.result", kept="new")
        given += [next(stream) for _ in range(3)]
        assert [frame.name for frame in given] == ["message"] * 3 + ["lost"] + ["message"] * 2
        assert given[3].data["run_id"] == "r"
        assert [frame.data["payload"]["kept"] for frame in given[4:]] == [True, "new"]
        again = received(world.replicas[1], given[2].last_id, most=3)
        assert [frame.name for frame in again] == ["lost", "message", "message"]
        assert offsets(again) == [1, 2]
        assert received(world.replicas[1], again[0].last_id, most=1)[0].name == "message"


@needs_valkey
def test_a_loss_that_the_archive_shows_too_ends_the_stream_with_what_it_is(tmp_path: Path) -> None:
    """The archive is ahead of Redis, until somebody decides: it is told, and not again and again."""
    with ExitStack() as opened:
        pair = opened.enter_context(primary_and_replica("valkey"))
        world = World(pair.url, tmp_path, opened)
        world.store.open_run("r").emit("tool.result")
        with pair.losing(), runstream.connect(pair.url) as writer:
            writer.open_run("r").emit("tool.result")
            runstream.DrainWorker(writer, [world.archive]).drain_once()
        (only,) = received(world.replicas[0], "", most=9)
        assert (only.name, only.data["title"]) == ("problem", "AcknowledgedWritesLost")


def test_a_filtered_stream_gives_what_is_wanted_and_goes_on_after_all(world: World) -> None:
    run = world.store.open_run("r")
    for number in range(20):
        run.emit("tool.result" if number % 5 == 0 else "agent.progress", number=number)
    run.finish()
    path = f"{STREAM}?kind=tool.result&visibility=public"
    found = received(world.replicas[0], "", most=5, path=path)
    assert [frame.data["payload"]["number"] for frame in found if frame.name == "message"] == [0, 5, 10, 15]
    assert found[-1].name == "end"
    assert received(world.replicas[1], found[-1].last_id, most=1, path=path) == []


def test_a_run_in_an_archive_alone_is_followed_until_it_ends(tmp_path: Path) -> None:
    with runstream.connect(f"sqlite:{tmp_path}/a.db") as store, store.open_run("r") as run:
        run.emit("tool.result")
        with serving(runstream.web.app(store)) as client:
            (first,) = received(client, "", most=1)
            run.finish()
            assert [frame.name for frame in received(client, "", most=9)] == ["message", "message", "end"]
            assert [frame.name for frame in received(client, first.last_id, most=9)] == ["message", "end"]


@pytest.mark.parametrize("last_id", ["x", "1-", "1-2-3", "-1", "99999999999999999999-1", "1;2"])
def test_an_id_that_is_none_is_refused(last_id: str) -> None:
    with runstream.InMemoryCheckpointer() as store:
        store.open_run("r").emit("tool.result")
        with serving(runstream.web.app(store)) as client:
            assert client.get(STREAM, headers={"Last-Event-ID": last_id}).status_code == 400


def test_a_run_that_is_deleted_ends_its_stream() -> None:
    url = f"fake:{uuid.uuid4().hex}"
    with runstream.connect(url) as store:
        store.open_run("r").emit("tool.result")
        with (
            serving(runstream.web.app(runstream.connect_async(url))) as client,
            client.stream("GET", STREAM) as response,
        ):
            stream = frames_of(response)
            next(stream)
            store.delete_run("r")
            names = [(frame.name, frame.data.get("status")) for frame in stream]
    assert names[-1] == ("end", "deleted")


def test_a_record_that_does_not_read_is_told_and_passed_over(make_backend: Callable[[str], Backend]) -> None:
    backend: Any = make_backend("fake")
    store = backend.open()
    with store.open_run("r") as run:
        first = run.emit("tool.result")
        second = run.emit("tool.result")
        run.finish()
    (stream,) = [key for key in backend.key_names() if key.endswith(":events")]
    backend.raw.xdel(stream, second.cursor)
    entries = backend.raw.xrange(stream)
    backend.raw.delete(stream)
    backend.raw.xadd(stream, entries[0][1], id=entries[0][0])
    backend.raw.xadd(stream, {next(iter(entries[0][1])): b"\x01damaged"}, id=second.cursor)
    backend.raw.xadd(stream, entries[1][1], id=entries[1][0])
    with serving(runstream.web.app(store)) as client:
        found = received(client, "", most=9)
    assert [frame.name for frame in found] == ["message", "unreadable", "message", "end"]
    assert (found[0].last_id, found[1].data["offset"], found[1].last_id) == (first.cursor, 2, second.cursor)


def test_a_silent_stream_is_kept_alive_and_notices_who_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runstream.web.run_stream.KEEP_ALIVE_SECONDS", 0.05)
    with runstream.InMemoryCheckpointer() as store:
        store.open_run("r").emit("tool.result")
        with serving(runstream.web.app(store, max_streams=1)) as client:
            with client.stream("GET", STREAM) as response:
                lines = response.iter_lines()
                assert next(lines) == "retry: 1000"
                while not next(lines).startswith(":"):
                    pass
                refused = client.get(STREAM)
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
            store.open_run("r").finish()
            eventually(lambda: client.get(STREAM).status_code == 200)


def test_a_stream_is_kept_alive_while_only_what_it_does_not_want_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runstream.web.run_stream.KEEP_ALIVE_SECONDS", 0.1)
    monkeypatch.setattr("runstream.web.run_stream._UNSENT", 10**9)
    is_over = threading.Event()
    with runstream.InMemoryCheckpointer() as store:
        run = store.open_run("r")

        def write() -> None:
            while not is_over.is_set():
                run.emit("agent.progress")
                time.sleep(0.001)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            with (
                serving(runstream.web.app(store)) as client,
                client.stream("GET", f"{STREAM}?kind=tool.result") as response,
            ):
                seen = [line for line, _ in zip(response.iter_lines(), range(12), strict=False)]
        finally:
            is_over.set()
            writer.join()
    positions = [line for line in seen if line.startswith("id: ")]
    assert len(set(positions)) == len(positions) > 1  # each goes on from further on


def test_a_client_that_does_not_read_holds_one_frame_and_no_more() -> None:
    """What is not taken from the app is not made: of a run of any length."""

    async def stalled() -> tuple[int, int]:
        sent, is_stalled, may_go_on = 0, asyncio.Event(), asyncio.Event()

        async def send(message: Any) -> None:
            nonlocal sent
            sent += message["type"] == "http.response.body"
            if sent >= 3:
                is_stalled.set()
                await may_go_on.wait()

        async def receive() -> Any:
            await asyncio.Event().wait()

        scope = {"type": "http", "method": "GET", "path": STREAM, "query_string": b"", "headers": [], "asgi": {}}

        async def serve() -> None:
            await runstream.web.app(store)({**scope, "http_version": "1.1"}, receive, send)

        reader = asyncio.create_task(serve())
        await is_stalled.wait()
        for _ in range(200):
            await asyncio.sleep(0)
        stopped_at = sent
        may_go_on.set()
        await reader
        return stopped_at, sent

    with runstream.InMemoryCheckpointer() as store:
        with store.open_run("r") as run:
            for _ in range(50):
                run.emit("tool.result", text="x" * 1000)
            run.finish()
        stopped_at, sent = asyncio.run(stalled())
    assert (stopped_at, sent) == (3, 1 + 51 + 1 + 1)  # its retry, its events, its end, and the last empty one


def test_a_frame_is_one_event_whatever_it_says() -> None:
    text = "a\n\ndata: x\r\nid: 5\u2028<script>"
    (line,) = [line for line in frames.frame({"t": text}).decode().split("\n") if line]
    assert line.startswith("data: {")
    assert "\r" not in line


class Raising(runstream.PAEvent):
    """An event of an application that cannot be told once it was read."""

    def to_dict(self) -> dict[str, Any]:
        if self.payload.get("is_read"):
            raise ArithmeticError("of the application")
        return super().to_dict()

    @classmethod
    def from_dict(cls, fields: Any) -> Any:
        made = super().from_dict(fields)
        made.payload["is_read"] = made.kind == "broken"
        return made


@pytest.mark.parametrize("path", [STREAM, "/stream"])
def test_a_stream_that_cannot_go_on_says_so_at_its_end(path: str) -> None:
    with runstream.connect(f"memory:{uuid.uuid4().hex}", event_type=Raising) as store:
        for kind in ("tool.result", "broken"):
            store.append("r", [Raising("r", kind=kind)])
        (answer,) = asyncio.run(asked(runstream.web.app(store), path))
    *_, last = [part for part in answer.text.split("\n\n") if part]
    assert last.startswith("event: problem")
    problem = json.loads(last.partition("data: ")[2])
    assert (problem["status"], "application" in answer.text) == (500, False)
