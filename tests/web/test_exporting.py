"""A run that is saved from the app is the file that ``runstream export`` writes, byte for byte, or breaks off."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

import runstream
import runstream.web
from runstream.web.path_ids import path_id
from tests.support.commands import run
from tests.support.web_server import serving


class Served(NamedTuple):
    """Runs that an app serves, which shows none of ``secret``."""

    client: httpx.Client
    options: tuple[str, ...]
    archive: Path


@pytest.fixture(params=["tiered", "archive", "sync"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """A run of which the beginning is in an archive, with keys, an erased event and a fork; or all of it."""
    url, archive = f"fake:{uuid.uuid4().hex}", tmp_path / "a.db"
    with runstream.connect(url) as hot, runstream.SQLiteCheckpointer(archive) as sink:
        fill(hot)
        runstream.DrainWorker(hot, [sink], trim="archived").drain_once()
        both: tuple[Any, ...] = (url, f"sqlite:{archive}")
        if request.param == "archive":
            both = (f"sqlite:{archive}", None)
        else:
            hot.append(
                "r", [runstream.create_event("r", "tool.result", n=n) for n in range(3)], keys=["x", "y", "z"]
            )
        opened: Any = (runstream.connect if request.param == "sync" else runstream.connect_async)(
            both[0], archive=both[1]
        )
        app = runstream.web.app(opened, authorize=lambda _, __, info: info.run_id != "secret")
        with serving(app) as client:
            options = ("--url", both[0], *(("--archive", both[1]) if both[1] else ()))
            yield Served(client, options, archive)
        if request.param == "sync":
            opened.close()


def fill(store: Any) -> None:
    values = [{"bytes": b"\x00", "set": {1, 2}}, {"big": 2**70}, {"erased": "x" * 50}, {"text": "ä\u2028\n"}]
    for run_id in ("r", "secret"):
        events = [runstream.create_event(run_id, "tool.result", value=value) for value in values]
        store.append(run_id, events, keys=["a", "b", "c", "d"])
    store.erase("r", [3])
    store.fork("r", "r/fork", at=2)
    store.append("r/fork", [runstream.create_event("r/fork", "run.finished")])


def test_it_is_what_the_command_writes(served: Served, tmp_path: Path) -> None:
    for number, run_id in enumerate(("r", "r/fork")):
        path = tmp_path / f"{number}.jsonl"
        assert run("export", run_id, *served.options, "--to", str(path)).code == 0
        saved = served.client.get(f"/runs/{path_id(run_id)}/export")
        assert saved.content == path.read_bytes()
        assert saved.content.count(b"\n") >= 3
        assert saved.headers["content-type"] == "application/x-ndjson"
        name = "r" if run_id == "r" else path_id(run_id)
        assert saved.headers["content-disposition"] == f'attachment; filename="{name}.jsonl"'
    assert served.client.get(f"/runs/{path_id('secret')}/export").status_code == 404


@pytest.mark.parametrize("served", ["archive"], indirect=True)
def test_it_breaks_off_where_a_record_does_not_read_or_leaves_that_out(served: Served) -> None:
    with sqlite3.connect(served.archive) as connection:
        connection.execute("UPDATE events SET data = 'no' WHERE run_id = 'r' AND offset = 2")
    connection.close()
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        served.client.get(f"/runs/{path_id('r')}/export")
    rest = served.client.get(f"/runs/{path_id('r')}/export", params={"skip_corrupt": "true"})
    assert [line[:11] for line in rest.text.split("\n") if line] == [f'{{"offset":{n}' for n in (1, 3, 4)]


def test_a_store_without_a_history_of_its_own_says_so() -> None:
    store = runstream.InMemoryCheckpointer()
    store.save_event(runstream.create_event("r", "tool.result"))
    with serving(runstream.web.app(store)) as client:
        assert client.get(f"/runs/{path_id('r')}/export").status_code == 501
