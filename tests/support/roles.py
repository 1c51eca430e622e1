"""What an agent, a worker, a reader and an operator do: the whole of each one's business, in one namespace.

Each function takes the URL of whoever does it, and a directory with the archives; ``prepare`` has been there.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    DrainWorker,
    EventKind,
    EventsArchived,
    JSONLCheckpointer,
    SQLiteCheckpointer,
    connect,
    connect_async,
)
from runstream.stores.redis.access import Role
from tests.support.commands import run
from tests.support.samples import make_event, make_events, make_state

__all__ = ["BUSINESS", "VERSIONS", "prepare"]

VERSIONS = {"valkey": "7.2", "redis70": "7.0", "redis62": "6.2"}
"""By server, the version for which ``runstream acl`` prints its rules."""


def prepare(url: str, place: Path) -> None:
    """Make the runs that the others work with, and archive some of them."""
    with connect(url) as store:
        for name in ("done", "gone"):
            store.append(name, [make_event(name, 1, kind=EventKind.RUN_FINISHED)])
        _drain(store, place, trim="archived")
        store.append("r", make_events("r", 3, session_id="s"), keys=["a", "b", "c"], snapshot=make_state("r"))
        store.append("tagged", make_events("tagged", 4), tags={"user": "u"})
        store.fork("tagged", "branch", at=2)
        store.append("asks", make_events("asks", 1))
        _drain(store, place, trim="never")
        store.append("erased", make_events("erased", 3), keys=["k", "l", "m"])
        store.erase("erased", [2])


def _drain(store: Any, place: Path, **options: Any) -> None:
    with (
        closing(SQLiteCheckpointer[Any, Any](place / "archive.db")) as sqlite,
        closing(JSONLCheckpointer[Any, Any](place / "archive")) as jsonl,
    ):
        DrainWorker(store, [sqlite, jsonl], **options).drain_once()


def _says(*arguments: str) -> str:
    said = run(*arguments)
    assert said.code == 0, (arguments, said.err)
    return said.out


def read(url: str, place: Path) -> None:
    """All that reads, through both façades and the commands."""
    archive = f"sqlite:{place}/archive.db"
    with connect(url) as store:
        assert len(list(store.read("r"))) == len(list(store.read("r", reverse=True))) >= 3
        assert len(store.list_events("r")) == len(store.list_events("r", 1)) + 1
        assert store.recover("r").offset >= 3
        assert store.recover("tagged", lane_id="main").events
        assert store.load_snapshot("r") is not None
        assert store.load_latest("none") is None
        with pytest.raises(EventsArchived, match=re.escape(str(place))):
            list(store.read("done"))
        assert store.find("r", ["a", "z"]) == [1, None]
        assert [item.offset for item in store.read_at("r", [2, 3])] == [2, 3]
        assert store.lanes("r")
        assert store.erasures("r") is not None
        assert store.diff("tagged", "branch").shared_offset == 2
        assert {info.run_id for info in store.runs()} == {*store.list_runs()}
        assert [info.run_id for info in store.runs(tags={"user": "u"})]
        assert [info.run_id for info in store.runs(session_id="s", updated_after=1.0)] == ["r"]
        with pytest.raises(TimeoutError):
            list(store.follow("r", idle_timeout=0.01))
        with pytest.raises(TimeoutError):
            list(store.follow_runs(["r", "tagged"], idle_timeout=0.01))
        with pytest.raises(TimeoutError):
            list(store.follow_runs(tags={"user": "u"}, idle_timeout=0.01))
    with connect(url, archive=archive) as store:
        assert len(store.recover("done").events) == 1
        assert [item.offset for item in store.read("r", limit=1)] == [1]
    asyncio.run(_read_async(url))
    for arguments in (
        ("runs",),
        ("show", "r"),
        ("show", "r", "--lanes"),
        ("show", "r", "--at", "1"),
        ("erasures", "r"),
    ):
        _says(*arguments, "--url", url)
        _says(*arguments, "--url", url, "--archive", archive)
    _says("runs", "--url", url, "--tag", "user=u")
    _says("diff", "tagged", "branch", "--url", url)
    _says("tail", "done", "--url", url)
    _says("export", "r", "--url", url, "--to", "-", "--format", "jsonl")


async def _read_async(url: str) -> None:
    async with await connect_async(url) as store:
        assert len([item async for item in store.read("r")]) >= 3
        assert (await store.recover("r")).offset >= 3
        with pytest.raises(TimeoutError):
            async for _ in store.follow("r", idle_timeout=0.01):
                pass


def write(url: str, place: Path) -> None:
    """All that an agent does: it reads, too, asks people, forks, and has content erased."""
    read(url, place)
    with connect(url, resend_lost=True, max_hot_events=100) as store:
        store.append("r", make_events("r", 2, first=4), keys=["d", "e"])
    with connect(url, require_lease=True) as store, store.lease("r", owner="o", wait=0.1) as lease:
        lease.save_event(make_event("r", 6))
    with connect(url) as store:
        store.recover("r")
        store.save_event(make_event("r", 7))
        store.save_events([make_event("r", 8), make_event("other", 1)])
        store.save_snapshot("r", make_state("r"))
        store.update_state("r", lambda state: state)
        store.append("r", [], tags={"user": "v", "team": "t"})
        store.append("r", [], tags={"team": None})
        lane = make_events("r", 2, lane_id="x")
        store.append("r", lane, expected_offset=8, snapshots={"x": make_state("r"), None: make_state("r")})
        store.append("r", [], end_lanes=["x"])
        with store.open_run("asks", lane_id="y", session_id="s", lease_ttl=30, owner="o") as opened:
            opened.emit("a", key="k")
            opened.checkpoint()
            opened.once("step", lambda: 1)
            opened.pause("what?")
            store.answer("asks", "this")
            assert opened.wait()
        store.request_cancel("asks", "enough")
        store.fork("r", "forked", at=2)
        store.fork("forked", "forked again", tags={"user": "w"})
        store.append("forked", make_events("forked", 1))
        store.erase("forked", [3], drop_snapshots=True)
        assert store.erase("r", [3], drop_snapshots=True).places[0].done is not None
        store.truncate("tagged", before=2, detach=True)
        assert not list(store.read("none"))
    asyncio.run(_write_async(url))
    _says("fork", "r", "by command", "--url", url)

    _says("cancel", "r", "--url", url)
    _says("erase", "asks", "--offset", "1", "--url", url, "--drop-snapshots")
    _says("truncate", "asks", "--before", "2", "--url", url)


async def _write_async(url: str) -> None:
    async with await connect_async(url) as store:
        await store.save_event(make_event("r", 20))
        async with store.lease("other", owner="o") as lease:
            await lease.save_event(make_event("other", 2))


def drain(url: str, place: Path) -> None:
    """All that a worker does: archive, erase, retire, forget, sweep, mend, report, and say how things stand."""
    with connect(url) as store:
        for _ in range(2):
            _drain(store, place, retire_after_seconds=0, forget_after_seconds=0)
        assert "done" not in store.list_runs()
    archives = ("--to", f"sqlite:{place}/archive.db", "--to", f"jsonl:{place}/archive")
    _says("drain", "--url", url, *archives, "--once")
    with connect(f"sqlite:{place}/archive.db") as archive:
        assert [item.offset for item in archive.read("erased")] == [1, 3]
    _says("status", "--url", url)
    _says("archives", "--url", url)


def operate(url: str, place: Path) -> None:
    """All that the others do, and what is done by hand."""
    archive, both = (
        f"sqlite:{place}/archive.db",
        ("--to", f"sqlite:{place}/archive.db", "--to", f"jsonl:{place}/archive"),
    )
    write(url, place)
    drain(url, place)
    with connect(url) as store:
        assert store.delete_run("branch")
        assert store.delete_run("r", detach=True)
    _says("restore", "r", "--from", archive, "--to", url, "--whole")
    _says("unpark", "--all", "--url", url)
    drain(url, place)
    _says("archives", "add", f"sqlite:{place}/third.db", "--copy-from", archive, "--url", url)
    _says("archives", "drop", f"sqlite:{place}/third.db", "--yes", "--url", url)
    assert run("resolve", "r", *both, "--url", url).code == 0
    _says("trim", "--all", "--policy", "archived", *both, "--url", url)
    _says("verify", "other", "--url", url, "--archive", archive, "--repair")
    _says("quarantine", "--url", archive)


BUSINESS: Mapping[Role, Callable[[str, Path], None]] = {
    Role.READER: read,
    Role.AGENT: write,
    Role.WORKER: drain,
    Role.OPERATOR: operate,
}
