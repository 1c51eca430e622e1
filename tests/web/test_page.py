"""The page's files are served as what they are, and run nothing that stands in the page itself."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

import runstream
import runstream.web
from runstream.model.errors import StoreUnavailable
from runstream.operations.arguments import RunsQuery
from runstream.web.health import Health
from runstream.web.waiting import WaitingRuns
from tests.support.web_server import serving

ASSETS = Path(runstream.web.__file__).parent / "assets"
MOST_BYTES = 150_000  # of all files, gzipped


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Any]:
    with runstream.connect(f"fake:page-{tmp_path}") as store:
        yield store


@pytest.fixture
def client(store: Any) -> Iterator[httpx.Client]:
    """A client of an app that is mounted below a path."""
    with serving(Starlette(routes=[Mount("/api", runstream.web.app(store))])) as client:
        client.base_url = client.base_url.join("/api")
        yield client


def test_the_page_and_the_files_that_it_names_are_served_wherever_the_app_is_mounted(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    kinds = {}
    for name in re.findall(r'(?:src|href)="\./([^"]+)"', page.text):
        response = client.get(name)
        assert response.content == (ASSETS / name).read_bytes()
        kinds[name] = response.headers["content-type"].partition(";")[0]
    assert kinds == {"page.js": "text/javascript", "page.css": "text/css", "icon.svg": "image/svg+xml"}
    assert {one.name for one in ASSETS.iterdir()} == {"index.html", *kinds}
    assert sum(len(gzip.compress(one.read_bytes())) for one in ASSETS.iterdir()) < MOST_BYTES


def test_a_browser_that_has_a_file_is_told_that_it_is_the_newest(client: httpx.Client) -> None:
    first = client.get("page.js")
    again = client.get("page.js", headers={"if-none-match": f'"old", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert first.headers["cache-control"] == "no-cache"
    assert client.get("page.js", headers={"if-none-match": '"old"'}).status_code == 200


def test_the_page_has_no_script_and_no_style_of_its_own(client: httpx.Client) -> None:
    page = client.get("/")
    assert "unsafe" not in page.headers["content-security-policy"]
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page.text))
    assert "<style" not in page.text
    assert "style=" not in page.text


def test_runs_are_found_by_a_part_of_their_id(client: httpx.Client, store: Any) -> None:
    for run_id in ("trip/1", "trip/2", "talk"):
        store.open_run(run_id).emit("tool.result")
    found = client.get("/runs", params={"contains": "ip/"}).json()
    assert {run["run_id"] for run in found["runs"]} == {"trip/1", "trip/2"}
    assert found["more"] is False
    query, seen = "?contains=t&page=&limit=1", []
    while query:
        page = client.get(f"/runs{query}").json()
        seen += [run["run_id"] for run in page["runs"]]
        query = page["next"]
    assert sorted(seen) == ["talk", "trip/1", "trip/2"]


def test_runs_that_wait_for_an_answer_are_found_behind_those_updated_since(
    client: httpx.Client, store: Any
) -> None:
    with store.open_run("asks") as run:
        run.pause("Go on?")
        for run_id in ("a", "b"):
            store.open_run(run_id).emit("tool.result")
        last, waiting = (
            client.get("/runs", params={"limit": 1, "waiting": wanted}).json() for wanted in ("false", "true")
        )
    assert (last["runs"][0]["waiting_for"], last["more"]) == ([], True)
    assert ([one["run_id"] for one in waiting["runs"]], waiting["more"]) == (["asks"], False)


async def test_who_waits_is_known_without_looking_through_all_runs_each_time(tmp_path: Path) -> None:
    name = f"fake:waits-{tmp_path}"
    with runstream.connect(name) as store:
        runs = [store.open_run(run_id) for run_id in ("a", "b", "c")]
        for run in runs:
            run.emit("tool.result")
        async with runstream.connect_async(name) as shown:
            looked: list[Any] = []

            class Watched:
                run_info = shown.run_info

                def runs(self, **asked: Any) -> Any:
                    looked.append(asked["updated_after"])
                    return shown.runs(**asked)

            waiting, watched = WaitingRuns(), Watched()

            async def told(**asked: Any) -> list[str]:
                return [one.run_id async for one in waiting.of(watched, RunsQuery(**asked)) if one is not None]

            assert await told() == []
            runs[0].pause("Go on?")
            runs[1].pause("Go on?")
            assert await told() == ["b", "a"]
            assert await told(status="running") == []
            store.answer("a", "yes")
            assert await told() == ["b"]
            store.delete_run("b")
            assert await told() == []
            assert looked[0] is None
            assert None not in looked[1:]
    for run in runs:
        run.close()


def test_health_tells_that_nobody_archives_what_is_due_and_names_no_run(client: httpx.Client, store: Any) -> None:
    store.open_run("secret").emit("tool.result")
    found = client.get("/health")
    assert found.json()["alarms"] == ["no-worker"]
    assert (found.json()["due"], found.json()["backlog_events"], found.json()["workers"]) == (1, 1, 0)
    assert "secret" not in found.text


def test_a_server_that_is_away_is_asked_once_by_all_who_look() -> None:
    class Away:
        times = 0

        async def store(self) -> Any:
            return self

        async def archiving_health(self) -> Any:
            self.times += 1
            raise StoreUnavailable("away")

    async def look(access: Any) -> list[Any]:
        health, request = Health(access), Request({"type": "http", "query_string": b"", "headers": []})
        return await asyncio.gather(*(health.health(request) for _ in range(3)), return_exceptions=True)

    away = Away()
    assert [type(answer) for answer in asyncio.run(look(away))] == [StoreUnavailable] * 3
    assert away.times == 1


def test_an_archive_alone_has_nothing_that_waits(tmp_path: Path) -> None:
    with runstream.connect(f"sqlite:{tmp_path}/a.db") as store, serving(runstream.web.app(store)) as client:
        assert client.get("/health").json()["alarms"] == []
