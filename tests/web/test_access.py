"""A reader sees, and does, what ``authorize`` says: in lists, pages and streams alike."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Mount

import runstream
import runstream.web
from runstream.web import reading
from runstream.web.path_ids import path_id
from runstream.web.token_guard import guarded
from tests.support.web_server import asked, frames_of, serving

MINE, THEIRS = f"/runs/{path_id('mine')}", f"/runs/{path_id('theirs')}"


async def authorize(request: Request, action: str, info: runstream.RunInfo) -> bool:
    """A user reads one session, and may act on the run that is its own."""
    user = request.headers.get("x-user")
    if user is None:
        raise HTTPException(401, "log in first", {"WWW-Authenticate": "Bearer"})
    return info.session_id == user and (action == "read" or info.run_id == "mine")


@pytest.fixture
def store() -> Iterator[Any]:
    with runstream.connect(f"fake:{uuid.uuid4().hex}") as store:
        for run_id, session in (("mine", "anna"), ("other", "anna"), ("theirs", "ben")):
            with store.open_run(run_id, session_id=session) as run:
                run.emit("tool.result", text="secret")
                run.pause("Go on?", key="q")
        yield store


@pytest.fixture
def client(store: Any) -> Iterator[httpx.Client]:
    """Anna's, of an app that is mounted in another one, at a path of its own."""
    inner = runstream.web.app(
        store, authorize=authorize, actions=["answer", "cancel", "fork"], origins=["https://friend.example"]
    )
    with serving(Starlette(routes=[Mount("/api", inner)])) as client:
        client.base_url = client.base_url.join("/api")
        client.headers["x-user"] = "anna"
        yield client


def test_a_fork_names_no_run_that_its_reader_may_not_see() -> None:
    with runstream.connect("memory:") as store:
        store.append("root", [runstream.create_event("root", "tool.result")])
        for child, parent in (("fork", "root"), ("leaf", "fork")):
            store.fork(parent, child, at=1)
        app = runstream.web.app(store, authorize=lambda _, __, run: run.run_id != "root")
        fork, leaf, runs = asyncio.run(asked(app, f"/runs/{path_id('fork')}", f"/runs/{path_id('leaf')}", "/runs"))
        everything = runstream.web.app(store)
        (whole,) = asyncio.run(asked(everything, f"/runs/{path_id('fork')}"))
    assert (fork.json()["parent"], leaf.json()["parent"]["run_id"]) == (None, "fork")
    assert "root" not in runs.text
    assert whole.json()["parent"]["run_id"] == "root"


def test_a_list_looks_at_so_many_runs_whoever_may_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_SCANNED_RUNS", 3)
    asked_of = []

    def may(_: Any, __: str, info: runstream.RunInfo) -> bool:
        asked_of.append(info.run_id)
        return info.run_id in {"run-4", "run-5"}

    with runstream.connect("memory:") as store:
        for number in range(8):
            store.append(f"run-{number}", [runstream.create_event(f"run-{number}", "tool.result")])
        app, query, seen = runstream.web.app(store, authorize=may), "?page=", []
        assert (asyncio.run(asked(app, "/runs"))[0].json()["more"], len(asked_of)) == (True, 3)
        while query:
            (answer,) = asyncio.run(asked(app, f"/runs{query}"))
            seen += [run["run_id"] for run in answer.json()["runs"]]
            query = answer.json()["next"]
            assert not query or not any(f"run-{number}" in query for number in (0, 1, 2, 3, 6, 7))
    assert seen == ["run-4", "run-5"]


def test_a_reader_of_one_session_sees_nothing_of_another(client: httpx.Client, store: Any) -> None:
    assert {run["run_id"] for run in client.get("/runs").json()["runs"]} == {"mine", "other"}
    assert client.get("/runs?session=ben").json()["runs"] == []
    nobody = f"/runs/{path_id('nobodys')}"
    for end in ("", "/events", "/state", "/lanes", "/stream"):
        told, other = client.get(THEIRS + end), client.get(nobody + end)
        assert told.status_code == other.status_code == 404
        assert told.text.replace("theirs", "nobodys") == other.text
    for end, body in (("answer", {"answer": 1}), ("cancel", {}), ("fork", {"run_id": "new"})):
        assert client.post(f"{THEIRS}/{end}", json=body).status_code == 404
    with client.stream("GET", "/stream") as response:
        stream = frames_of(response)
        seen = {next(stream).data["run_id"] for _ in range(4)}
        for session in ("ben", "anna"):
            store.open_run(f"new-{session}", session_id=session).emit("tool.result")
        seen.add(next(stream).data["run_id"])
    assert seen == {"mine", "other", "new-anna"}


def test_a_run_that_comes_to_another_session_is_given_no_more(client: httpx.Client, store: Any) -> None:
    with client.stream("GET", f"{MINE}/stream") as response:
        stream = frames_of(response)
        for _ in range(2):
            next(stream)
        store.delete_run("mine")
        store.open_run("mine", session_id="ben").emit("tool.result", text="of ben")
        rest = list(stream)
    assert "of ben" not in str(rest)
    assert rest[-1].name == "end"


def test_a_stream_whose_permission_has_run_out_ends_with_what_the_application_says(store: Any) -> None:
    allowed = iter([True])

    def once(*_: object) -> bool:
        if next(allowed, False):
            return True
        raise HTTPException(401, "log in again")

    app = runstream.web.app(store, authorize=once)
    with serving(app) as client, client.stream("GET", f"{MINE}/stream") as response:
        (only,) = frames_of(response)
    assert (only.name, only.data["detail"]) == ("problem", "log in again")


def test_an_error_of_the_application_is_a_problem(client: httpx.Client) -> None:
    del client.headers["x-user"]
    for path in (MINE, "/stream"):
        response = client.get(path)
        assert (response.status_code, response.json()["detail"]) == (401, "log in first")
        assert response.headers["www-authenticate"] == "Bearer"


def test_a_question_is_answered_once(client: httpx.Client, store: Any) -> None:
    response = client.post(f"{MINE}/answer", json={"answer": {"ok": True}})
    assert response.status_code == 200
    assert response.json()["holds"] is True
    again = client.post(f"{MINE}/answer", json={"answer": "no", "question_id": "q", "lane_id": "main"}).json()
    assert again["holds"] is False
    assert again["event"]["payload"]["answer"] == {"ok": True}
    with store.open_run("mine") as run:
        run.pause("Go on?", key="q")
        assert run.wait(timeout=5) == {"ok": True}


def test_a_run_is_asked_to_stop_and_forked(client: httpx.Client, store: Any) -> None:
    fork = client.post(f"{MINE}/fork", json={"run_id": "fork", "at": 1, "tags": {"try": "2"}}).json()
    assert (fork["run_id"], fork["parent"]) == ("fork", {"run_id": "mine", "offset": 1})
    assert [item.offset for item in store.read("fork")] == [1]
    said = client.post(f"{MINE}/cancel", json={"reason": "too dear"})
    assert said.json()["event"]["payload"]["reason"] == "too dear"
    with pytest.raises(runstream.RunCancelled, match="too dear"), store.open_run("mine") as run:
        run.emit("tool.result")


def test_what_somebody_may_read_and_not_act_on_is_forbidden(client: httpx.Client) -> None:
    response = client.post(f"/runs/{path_id('other')}/cancel", json={})
    assert response.status_code == 403
    assert "cancel" in response.json()["detail"]


REFUSED: list[tuple[dict[str, str], bytes, int]] = [
    ({"content-type": "text/plain"}, b"{}", 415),
    ({"content-type": "application/x-www-form-urlencoded"}, b"reason=x", 415),
    ({"origin": "https://evil.example"}, b"{}", 403),
    ({"origin": "null"}, b"{}", 403),
    ({"sec-fetch-site": "cross-site"}, b"{}", 403),
    ({"sec-fetch-site": "same-site"}, b"{}", 403),
    ({}, b"no json", 400),
    ({}, b"[]", 400),
    ({}, b'{"reason": 5}', 400),
    ({}, b'{"reason": "x", "other": 1}', 400),
    ({}, b'{"reason": NaN}', 400),
    ({}, b"[" * 100_000, 400),
    ({}, b'{"reason": "' + b"x" * 2**20 + b'"}', 413),
]


def test_nothing_acts_that_another_site_could_send_or_that_is_no_such_document(
    client: httpx.Client, store: Any
) -> None:
    for headers, content, status in REFUSED:
        sent = {"content-type": "application/json", **headers}
        assert client.post(f"{MINE}/cancel", headers=sent, content=content).status_code == status, (
            headers,
            status,
        )
    assert [item.event.kind for item in store.read("mine")][-1] == "human.approval.requested"
    own = str(client.base_url).removesuffix("/api/")
    for origin in (own, "https://friend.example"):
        assert client.post(f"{MINE}/cancel", json={}, headers={"origin": origin}).status_code == 200


def test_what_an_app_was_not_given_is_not_there(store: Any) -> None:
    with serving(runstream.web.app(store, authorize=lambda *_: True, actions=["cancel"])) as client:
        assert client.post(f"{MINE}/answer", json={"answer": 1}).status_code == 404
        assert client.post(f"{MINE}/fork", json={"run_id": "x"}).status_code == 404
        assert set(client.get("/openapi.json").json()["paths"]) & {
            "/runs/{id}/answer", "/runs/{id}/fork", "/runs/{id}/cancel",
        } == {"/runs/{id}/cancel"}  # fmt: skip
        assert client.delete(MINE).status_code == 405


def test_what_may_be_left_out_of_a_document_is_not_required_by_its_type(store: Any) -> None:
    with serving(runstream.web.app(store, authorize=lambda *_: True, actions=["answer", "fork"])) as client:
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
    required = [schemas[name]["required"] for name in ("AnswerBody", "ForkBody", "ParentFacts")]
    assert required == [["answer"], ["run_id"], ["offset", "run_id"]]
    assert "last" in set(schemas["RunFacts"]["properties"]) - set(schemas["RunFacts"]["required"])


def test_a_token_opens_an_app_once_it_is_known(store: Any) -> None:
    with serving(guarded(runstream.web.app(store), "s3cret t+k&n")) as client:
        for headers in ({}, {"authorization": "Bearer other"}, {"cookie": "runstream-00000000=x"}):
            refused = client.get("/runs", headers=headers)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert "default-src 'none'" in refused.headers["content-security-policy"]
        known = {"token": "s3cret t+k&n"}
        assert client.get("/runs", params={"token": "wrong"}).status_code == 401
        assert client.get("/runs", headers={"authorization": f"Bearer {known['token']}"}).status_code == 200
        found = client.get("/runs", params={**known, "session": "ben"}).json()["runs"]
        assert [run["run_id"] for run in found] == ["theirs"]
        page = f"{client.base_url}//evil.example/runs"
        entered = client.get(page, params={**known, "limit": 1}, headers={"accept": "text/html"})
        assert (entered.status_code, entered.headers["location"]) == (303, "/evil.example/runs?limit=1")
        cookie = entered.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert client.get("/runs").status_code == 200  # by the cookie
