"""A list of runs tells what each says last: as it is now, on a line, and without waiting for what is slow."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import httpx
import pytest

import runstream
import runstream.web
from runstream.model.results import RunInfo
from runstream.web import last_events
from runstream.web.last_events import LastEvents, line_of


async def test_a_list_tells_the_last_event_of_each_run_and_what_comes_then(tmp_path: Any) -> None:
    name = f"fake:{uuid.uuid4().hex}"
    archive = f"sqlite:{tmp_path}/a.db"
    async with runstream.connect_async(name) as hot:
        for run_id, text in (("long", "a" * 500), ("said", "two\n lines")):
            await hot.append(run_id, [runstream.create_event(run_id, "text.done", text=text)])
        app = runstream.web.app(runstream.connect_async(name, archive=archive))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://runs") as client:

            async def lasts() -> dict[str, Any]:
                found = (await client.get("/runs", params={"last": "true"})).json()["runs"]
                return {run["run_id"]: run["last"] for run in found}

            first = await lasts()
            assert first["said"] == {"offset": 1, "lane_id": "main", "kind": "text.done", "text": "two lines"}
            assert first["long"]["text"] == "a" * 199 + "…"
            await hot.append("said", [runstream.create_event("said", "tool.result", room=101)])
            assert (await lasts())["said"] == {
                "offset": 2,
                "lane_id": "main",
                "kind": "tool.result",
                "text": "room: 101",
            }
            assert "last" not in (await client.get("/runs")).json()["runs"][0]


class Slow:
    """A store that gives the last event of some runs, and keeps others waiting."""

    def __init__(self, *quick: str) -> None:
        self.quick = set(quick)
        self.asked: list[str] = []

    async def read(self, run_id: str, **_: Any) -> Any:
        self.asked.append(run_id)
        if run_id not in self.quick:
            await asyncio.Event().wait()
        event = runstream.create_event(run_id, "tool.result", n=len(self.asked))
        yield runstream.Recorded(1, "1-1", event)


def info_of(run_id: str) -> RunInfo:
    return RunInfo(run_id, "", "running", 1, 0, 1, 0.0, 0.0)


async def test_what_is_slow_is_not_waited_for_and_what_is_known_is_not_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(last_events, "_READ_SECONDS", 0.15)
    store, last = Slow("a", "b"), LastEvents()
    infos = [info_of(run_id) for run_id in ("a", "stuck", "b")]
    for _ in range(2):
        found = await last.of(store, infos)
        assert [one and one["offset"] for one in found] == [1, None, 1]
    assert sorted(store.asked) == ["a", "b", "stuck", "stuck"]
    monkeypatch.setattr(last_events, "_KNOWN_SECONDS", 0.0)
    forgetful, read = LastEvents(), Slow("a")
    for _ in range(2):
        await forgetful.of(read, infos[:1])
    assert read.asked == ["a", "a"]  # some of it may be erased by then


@pytest.mark.parametrize(
    ("payload", "line"),
    [
        ({"question": "Go on?", "id": 7}, "Go on?"),
        ({"tool": "search", "n": 3, "deep": {"not": "told"}}, "tool: search, n: 3"),
        ({"step": 1, "messages": [{"content": "hello"}, {"content": "hi there"}]}, "hi there"),
        ({}, ""),
        (b"\x00", ""),
    ],
)
def test_what_an_event_says_is_its_text_or_its_plain_values(payload: Any, line: str) -> None:
    assert line_of(payload) == line
