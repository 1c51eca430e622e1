"""The app's JSON documents: pages both ways, states, ids of any form, and what is wrong as a problem."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

import runstream
import runstream.web
from runstream.web import reading
from runstream.web.path_ids import path_id
from tests.support.web_server import fits, serving

HOSTILE = ["a/../b", "..", ".", "a b?c#d%2e", "ä" * 256, "<script>alert(1)</script>", "\x00\n", "x" * 512]


@cache
def schemas_of(client: httpx.Client) -> Any:
    """The types of an app's documents."""
    return client.get("/openapi.json").json()["components"]["schemas"]


def checked(name: str, client: httpx.Client, path: str, **query: Any) -> Any:
    """A response's document, which has the type that the app says."""
    response = client.get(path, params=query or None)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert fits(response.json(), schemas_of(client)[name], schemas_of(client))
    return response.json()


LATER = ("fake", "sqlite", "memory")


@pytest.fixture(
    scope="module",
    params=["tiered", "sync", *(pytest.param(kind, marks=pytest.mark.exhaustive) for kind in LATER)],
)
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of an app over a store of each kind, with a run of 30 events, a state at 10, and hostile ids."""
    place = tmp_path_factory.mktemp("web")
    name = f"web-{request.param}-{place.name}"
    url = f"sqlite:{place}/runs.db" if request.param == "sqlite" else f"fake:{name}"
    with runstream.InMemoryCheckpointer() if request.param == "memory" else runstream.connect(url) as store:
        fill(store)
        if request.param == "tiered":
            with runstream.SQLiteCheckpointer(place / "archive.db") as archive:
                runstream.DrainWorker(store, [archive]).drain_once()
        served: Any = store
        if request.param not in {"memory", "sync"}:
            served = runstream.connect_async(
                url, archive=f"sqlite:{place}/archive.db" if request.param == "tiered" else None
            )
        with serving(runstream.web.app(served)) as client:
            yield client


def fill(store: Any) -> None:
    with store.open_run("r", session_id="s", tags={"user": "42"}) as run:
        for number in range(10):
            run.emit("tool.result", number=number)
        run.state.data["seen"] = {1, 2}
        run.checkpoint()
        for number in range(10, 29):
            run.emit("agent.progress", number=number)
        run.finish()
    for run_id in HOSTILE:
        store.open_run(run_id, session_id="hostile").emit("tool.result", text=run_id)


RUN = f"/runs/{path_id('r')}"


def pages(client: httpx.Client, path: str, **query: Any) -> Iterator[Any]:
    """A page after the other."""
    following: str | None = "?" + urlencode(query)
    while following is not None:
        page = checked("EventPage", client, path + following)
        yield page
        following = page["next"]


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_give_each_event_once_in_either_direction(client: httpx.Client, order: str) -> None:
    found = [
        event["offset"]
        for page in pages(client, f"{RUN}/events", order=order, limit=7)
        for event in page["events"]
    ]
    assert found == sorted(range(1, 31), reverse=order == "desc")


def test_pages_keep_their_filter_and_their_bounds(client: httpx.Client) -> None:
    asked = {"kind": "agent.progress", "limit": 5, "after": 12, "before": 28}
    found = [event for page in pages(client, f"{RUN}/events", **asked) for event in page["events"]]
    assert [event["offset"] for event in found] == list(range(13, 28))
    assert {event["kind"] for event in found} == {"agent.progress"}


def test_a_page_has_so_many_bytes_and_goes_on(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_MOST_BYTES", 1000)
    found = list(pages(client, f"{RUN}/events"))
    assert len(found) > 1
    assert [event["offset"] for page in found for event in page["events"]] == list(range(1, 31))


def test_a_page_goes_on_after_a_cursor_of_this_history_and_of_no_other(client: httpx.Client) -> None:
    (page,) = pages(client, f"{RUN}/events")
    third = page["events"][2]["cursor"]
    assert next(pages(client, f"{RUN}/events", after=third))["events"][0]["offset"] == 4
    offset, _, chain = third.partition("-")
    other = client.get(f"{RUN}/events", params={"after": f"{offset}-{int(chain) ^ 1}"})
    assert (other.status_code, other.json()["title"]) == (409, "HistoryDiverged")
    assert client.get(f"{RUN}/events", params={"after": third}).status_code == 200  # others are not concerned


def test_the_state_at_an_offset_is_the_newest_that_covers_no_more(client: httpx.Client) -> None:
    latest = checked("StateAt", client, f"{RUN}/state")
    assert latest["state"]["status"] == "completed"
    assert latest["state"]["data"] == {"seen": {"$set": [1, 2]}}
    assert checked("StateAt", client, f"{RUN}/state", at=30)["offset"] == latest["offset"]
    assert checked("StateAt", client, f"{RUN}/state", at=9)["state"] is None


def test_what_is_known_of_runs_is_typed_and_filtered(client: httpx.Client) -> None:
    found = checked("RunPage", client, "/runs", session="s", tag="user=42")
    assert [run["run_id"] for run in found["runs"]] == ["r"]
    assert checked("RunFacts", client, RUN) == found["runs"][0]
    assert [lane["lane_id"] for lane in checked("LaneList", client, f"{RUN}/lanes")["lanes"]] == ["main"]


def test_runs_come_page_by_page_each_once(client: httpx.Client) -> None:
    found, following = [], "?session=hostile&page=&limit=3"
    while following:
        page = checked("RunPage", client, "/runs" + following)
        found += [run["run_id"] for run in page["runs"]]
        following = page["next"]
    assert sorted(found) == sorted(HOSTILE)


def test_a_run_of_any_id_is_reached_by_its_name_in_paths(client: httpx.Client) -> None:
    for run_id in HOSTILE:
        (page,) = pages(client, f"/runs/{path_id(run_id)}/events")
        assert page["events"][0]["payload"] == {"text": run_id}
        assert checked("RunFacts", client, f"/runs/{path_id(run_id)}")["id"] == path_id(run_id)


NO_RUNS = [
    "/runs/r", f"{RUN}=", f"/runs/{path_id('r')[:-1]}x", "/runs/..%2f..%2fetc", "/runs/%00",
    "/runs/" + "A" * 700, "/no",
    f"/runs/{path_id('nobody')}", f"/runs/{path_id('nobody')}/events", f"/runs/{path_id('nobody')}/stream",
]  # fmt: skip


def test_what_names_no_run_is_not_found(client: httpx.Client) -> None:
    for path in NO_RUNS:
        response = client.get(path)
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["status"] == 404


REFUSED = [
    "limit=0", "limit=1001", "limit=-1", "limit=x", "limit=1&limit=2", "after=1-x", "after=١", "before=1-2",
    "order=up", "nobody=1", "after=99999999999999999999", "after=",
]  # fmt: skip


def test_a_query_that_cannot_be_is_refused_by_name(client: httpx.Client) -> None:
    for query in REFUSED:
        response = client.get(f"{RUN}/events?{query}")
        assert response.status_code == 400
        assert query.partition("=")[0] in response.json()["detail"]


def test_every_answer_lets_no_script_of_a_run_run(client: httpx.Client) -> None:
    for path in ("/runs", RUN, f"{RUN}/stream", "/no", "/openapi.json", "/runs/x", f"{RUN}/events?x=1"):
        with client.stream("GET", path) as response:
            policy = response.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert response.headers["x-content-type-options"] == "nosniff"
            assert "text/html" not in response.headers["content-type"]


def test_the_openapi_document_names_what_there_is(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/runs", "/runs/{id}", "/runs/{id}/events", "/runs/{id}/lanes", "/runs/{id}/state",
        "/runs/{id}/stream", "/runs/{id}/summary", "/runs/{id}/snapshots", "/runs/{id}/forks", "/health",
        "/runs/{id}/export",
        "/stream",
    }  # fmt: skip
    names = set(document["components"]["schemas"])
    referred = {text.split('"')[0] for text in json.dumps(document).split("#/components/schemas/")[1:]}
    assert referred <= names
    for methods in document["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            assert {"200", "default"} <= set(operation["responses"])


def test_a_store_of_redis_alone_says_where_the_rest_is(tmp_path: Path) -> None:
    name = f"fake:web-hot-{tmp_path}"
    with runstream.connect(name) as store, runstream.SQLiteCheckpointer(tmp_path / "a.db") as archive:
        fill(store)
        runstream.DrainWorker(store, [archive], trim="archived").drain_once()
        with serving(runstream.web.app(runstream.connect_async(name))) as client:
            response = client.get(f"{RUN}/events")
            assert response.status_code == 410
            assert response.json()["first_hot"] == 31
            assert str(tmp_path) not in response.text


def test_an_app_asks_for_what_it_needs() -> None:
    with runstream.InMemoryCheckpointer() as store:
        with pytest.raises(runstream.ConfigurationError, match="no store"):
            runstream.web.app("redis://localhost")  # type: ignore[arg-type]
        with pytest.raises(runstream.ConfigurationError, match="authorize"):
            runstream.web.app(store, actions=["fork"])
        with pytest.raises(runstream.ConfigurationError, match="actions"):
            runstream.web.app(store, actions=["delete"], authorize=lambda *_: True)  # type: ignore[list-item]
        with pytest.raises(runstream.ConfigurationError, match="max_streams"):
            runstream.web.app(store, max_streams=0)
