"""``runstream web``: runs over HTTP for who has the token, until a signal ends it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

import runstream
import runstream.web
from runstream.cli.web import _listen
from runstream.web.path_ids import path_id
from tests.support.commands import QUIET, Place, command, run
from tests.support.processes.template import Python
from tests.support.servers import DEADLINE_SECONDS, needs_embedded_server
from tests.support.web_server import frames_of


@contextmanager
def serving(
    *arguments: str, number: int = signal.SIGTERM, **environment: str
) -> Iterator[tuple[str, httpx.Client]]:
    """``runstream web`` as a process, which a signal ends with code 0; gives what it printed, and a client."""
    process = Python(
        command("web", "--port", "0", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**QUIET, **environment},
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://\S+?(?=;)", line)
        assert found is not None, line + process.stderr.read()
        parts = urlsplit(found[0])
        with httpx.Client(base_url=f"{parts.scheme}://{parts.netloc}", timeout=DEADLINE_SECONDS) as client:
            yield found[0], client
            process.send_signal(number)
            assert process.wait(DEADLINE_SECONDS) == 0
            assert process.stderr.read() == ""
    finally:
        process.kill()
        process.wait(DEADLINE_SECONDS)
        if process.stderr is not None:
            process.stderr.close()


def test_it_serves_whoever_has_the_url_that_it_prints_and_nobody_else(place: Place) -> None:
    """It reads, and does nothing else; a signal ends it while a stream is open."""
    with place.store.open_run("r") as agent:
        agent.emit("tool.result")
        agent.pause("Go on?")
    with serving("--url", place.url, "--archive", _drained(place)) as (url, client):
        assert "//127.0.0.1:" in url
        assert client.get("/runs").status_code == 401
        entered = client.get(url, headers={"accept": "text/html"}, follow_redirects=True)
        assert '<div id="page">' in entered.text
        assert [one["run_id"] for one in client.get("/runs").json()["runs"]] == ["r"]
        assert "token" not in str(entered.url)
        body = {"answer": "yes"}
        assert client.post(f"/runs/{path_id('r')}/answer", json=body).status_code == 404
        with client.stream("GET", f"/runs/{path_id('r')}/stream") as response:
            assert next(frames_of(response)).data["offset"] == 1


def _drained(place: Place) -> str:
    with runstream.connect(place.sqlite) as archive:
        runstream.DrainWorker(place.store, [archive]).drain_once()  # type: ignore[list-item]  # connect gives any store
    return place.sqlite


@needs_embedded_server
def test_it_does_what_it_is_told_to_allow_and_reads_the_archive_beside(tmp_path: Path) -> None:
    url = f"embedded:{tmp_path}/state"
    with runstream.connect(url) as store, store.open_run("r") as agent:
        agent.emit("tool.result")
        agent.pause("Go on?")
        token = {"authorization": "Bearer a-token-of-mine"}
        options = ["--url", url, "--allow", "answer"]
        with serving(*options, number=signal.SIGINT, RUNSTREAM_WEB_TOKEN="a-token-of-mine") as (_, client):
            said = client.post(f"/runs/{path_id('r')}/answer", json={"answer": "yes"}, headers=token)
            assert said.json()["holds"] is True
            assert agent.wait(timeout=DEADLINE_SECONDS) == "yes"
            assert client.post(f"/runs/{path_id('r')}/cancel", json={}, headers=token).status_code == 404
            assert run("drain", "--url", url, "--once", "--trim", "archived").code == 0
            events = client.get(f"/runs/{path_id('r')}/events", headers=token).json()["events"]
            assert [event["offset"] for event in events] == [1, 2, 3]
            lines = client.get(f"/runs/{path_id('r')}/export", headers=token).text.splitlines()
            assert [json.loads(line)["offset"] for line in lines] == [1, 2, 3]


async def test_a_frame_does_not_wait_until_the_one_before_is_acknowledged() -> None:
    is_sent_at_once = asyncio.get_running_loop().create_future()

    def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        is_sent_at_once.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0)
        writer.close()

    with _listen("127.0.0.1", 0) as listener:
        async with await asyncio.start_server(note, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            assert await asyncio.wait_for(is_sent_at_once, DEADLINE_SECONDS)
            writer.close()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--url", "sqlite:nowhere.db"], 2, "nothing at that path"),
        (["--url", "memory:x", "--token", "short"], 2, "--token"),
        (["--url", "memory:x", "--port", "0", "--allow", "delete"], 2, "answer, cancel, fork"),
        (["--url", "memory:x", "--host", "192.0.2.1"], 2, "cannot listen"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_served(arguments: list[str], code: int, says: str) -> None:
    said = run("web", *arguments)
    assert said.code == code
    assert says in said.err


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("starlette", "starlette.requests", "uvicorn"):
        monkeypatch.setitem(sys.modules, module, None)
    for module in [name for name in sys.modules if name.startswith("runstream.web.")]:
        monkeypatch.delitem(sys.modules, module)
    said = run("web", "--url", "memory:x")
    assert said.code == 2
    assert "pip install 'runstream[web]'" in said.err
    with pytest.raises(runstream.ConfigurationError, match=r"runstream\[web\]"):
        runstream.web.app(runstream.InMemoryCheckpointer())
