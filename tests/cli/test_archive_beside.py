"""The archive beside an embedded server is read by the commands that read runs, as soon as there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from runstream import connect
from runstream.cli.support.options import open_to_read
from tests.cli.test_columns import completed
from tests.support.commands import Said, run
from tests.support.drain_tools import drain_to
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import needs_embedded_server

pytestmark = needs_embedded_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The URL of an embedded server, with a run of three events."""
    url = f"embedded:{tmp_path}/state"
    with connect(url) as store:
        store.append("trip", make_events("trip", 3), snapshot=make_state("trip", current_step=3))
        yield url


def files(url: str) -> list[str]:
    return sorted(path.name for path in Path(url.partition(":")[2]).glob("*.db"))


def shown(url: str, *options: str) -> list[int]:
    said = fine("show", "trip", "--url", url, "--json", *options)
    assert said.document["archived_up_to"] == 0
    return [event["offset"] for event in said.document["events"]]


def fine(*arguments: str) -> Said:
    said = run(*arguments)
    assert said.code == 0, said.err
    return said


def listed(url: str, *options: str) -> list[str]:
    return [info["run_id"] for info in fine("runs", "--url", url, "--json", *options).document["runs"]]


def test_before_a_drain_nothing_is_made(server: str) -> None:
    assert (shown(server), listed(server)) == ([1, 2, 3], ["trip"])
    assert run("tail", "trip", "--url", server, "--idle-timeout", "0.01").code == 1
    assert files(server) == []


def test_after_a_drain_they_read_all(server: str, tmp_path: Path) -> None:
    fine("drain", "--url", server, "--trim", "archived", "--once")
    with connect(server) as store:
        store.append("trip", [make_event("trip", 4, kind="run.finished")])
    assert files(server) == ["archive.db"]
    assert shown(server) == [1, 2, 3, 4]
    assert shown(server, "--at", "2") == [1, 2]
    tailed = fine("tail", "trip", "--url", server, "--json")
    assert [line.count('"offset"') for line in tailed.out.splitlines()] == [1, 1, 1, 1]
    fine("export", "trip", "--url", server, "--to", str(tmp_path / "trip.jsonl"))
    assert len((tmp_path / "trip.jsonl").read_text().splitlines()) == 4


def test_what_redis_has_forgotten_is_listed_and_completed(server: str) -> None:
    with connect(server) as store:
        store.append("trip", [make_event("trip", 4, kind="run.finished")])
        for _ in range(2):
            fine("drain", "--url", server, "--once", "--retire-after", "0", "--forget-after", "0")
        assert store.list_runs() == []
    assert listed(server) == ["trip"]
    assert shown(server) == [1, 2, 3, 4]
    assert completed("runstream show t", RUNSTREAM_URL=server) == ["trip"]
    assert completed("runstream answer t", RUNSTREAM_URL=server) == []


def test_each_namespace_has_its_own(server: str) -> None:
    fine("drain", "--url", server, "--trim", "archived", "--once")
    dev = f"{server}?namespace=dev"
    assert listed(dev) == []
    with connect(dev) as store:
        store.append("trip", make_events("trip", 1))
        fine("drain", "--url", dev, "--trim", "archived", "--once")
        assert (shown(dev), shown(server)) == ([1], [1, 2, 3])


def test_another_archive_takes_its_place(server: str, tmp_path: Path) -> None:
    with connect(f"sqlite:{tmp_path}/state/archive.db"):
        pass
    drain_to(server, f"sqlite:{tmp_path}/other.db")
    said = run("show", "trip", "--url", server)
    assert (said.code, said.out) == (1, "")
    assert "neither tier" in said.err
    assert shown(server, "--archive", f"sqlite:{tmp_path}/other.db") == [1, 2, 3]
    assert listed(server, "--archive", f"sqlite:{tmp_path}/other.db") == ["trip"]


def test_a_store_that_follows_reads_what_was_made_later(server: str, tmp_path: Path) -> None:
    with ExitStack() as opened:
        store: Any = opened.enter_context(open_to_read(server, follows=True))
        events = opened.enter_context(closing(store.follow("trip", idle_timeout=5.0)))
        assert next(events).offset == 1
        drain_to(server, f"sqlite:{tmp_path}/state/archive.db")
        with connect(server) as other:
            other.append("trip", make_events("trip", 1000, first=4))
            drain_to(server, f"sqlite:{tmp_path}/state/archive.db")
            other.append("trip", [make_event("trip", 1004, kind="run.finished")])
        assert [item.offset for item in events] == list(range(2, 1005))
