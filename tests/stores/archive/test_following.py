"""Followers of files that other processes write, and that a worker fills."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runstream import DrainWorker, connect, connect_async
from runstream.operations.arguments import FollowQuery
from runstream.operations.operation import Call, Pause
from tests.drain.watched_sink import Watched
from tests.stores.archive.snapshot_tools import KINDS, open_at
from tests.support.archive_check import Archive
from tests.support.backends import RedisBackend
from tests.support.drain_tools import open_hot
from tests.support.operations import operations_of
from tests.support.samples import make_event, make_events
from tests.support.servers import DEADLINE_SECONDS


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def archive(kind: str, tmp_path: Path) -> Archive:
    return open_at(kind, tmp_path / "followed")


_WRITER = """
import sys
from runstream import connect, create_event
with connect(sys.argv[1]) as store:
    for seq in range(1, 100):
        store.append("r", [create_event("r", "tool.result", seq=seq)])
        store.append(f"r{seq % 5}", [create_event(f"r{seq % 5}", "tool.result", seq=seq)])
    store.append("r", [create_event("r", "run.finished", seq=100)])
"""


@pytest.mark.exhaustive
def test_what_another_process_writes_comes_in_order_each_once(archive: Archive) -> None:
    """To followers of one run and of all runs, of a sync and of an async store; some wait before it begins."""
    url = archive.location
    expected = list(range(1, 101))

    async def follow_async() -> list[int]:
        async with await connect_async(url) as store:
            return [item.offset async for item in store.follow("r", idle_timeout=DEADLINE_SECONDS)]

    with connect(url) as store, subprocess.Popen([sys.executable, "-c", _WRITER, url]) as writer:
        given: dict[str, list[int]] = {}
        for run_id, item in store.follow_runs(idle_timeout=DEADLINE_SECONDS):
            given.setdefault(run_id, []).append(item.offset)
            if sum(map(len, given.values())) == 199:
                break
        assert asyncio.run(follow_async()) == expected
        assert writer.wait(DEADLINE_SECONDS) == 0
    assert given.pop("r") == expected
    assert [offsets == sorted(set(offsets)) for offsets in given.values()] == [True] * 5


@pytest.mark.exhaustive
def test_a_follower_wakes_for_what_another_process_writes(archive: Archive) -> None:
    """It waits already when that begins."""
    following = archive.follow("r", idle_timeout=DEADLINE_SECONDS)
    archive.save_event(make_event("r", 1))
    assert next(following).offset == 1
    script = _WRITER.replace("range(1, 100)", "range(2, 9)").replace("seq=100", "seq=9")
    with subprocess.Popen([sys.executable, "-c", script, archive.location]):
        assert [item.offset for item in following] == list(range(2, 10))


def test_a_follower_that_waits_looks_ever_more_seldom(archive: Any) -> None:
    """Five times a second at last, until something comes; then often again."""
    archive.save_event(make_event("r", 1))

    def pauses(stream: Any) -> list[float]:
        """Until there is something to give."""
        found, step = [], next(stream)
        while type(step) in (Call, Pause):
            if type(step) is Pause:
                found.append(step.seconds)
                if len(found) == 8:
                    archive.save_event(make_event("r", 2))
            step = stream.send(step.make() if type(step) is Call else None)
        return found

    stream = operations_of(archive).follow("r", FollowQuery(1))
    for _ in range(2):
        found = pauses(stream)
        least = (0.01, 0.02, 0.04, 0.08, 0.16, 0.2, 0.2, 0.2)
        assert all(pause >= shortest for pause, shortest in zip(found[:8], least, strict=True))
        assert sum(found[:3]) < 0.5  # were it not for a slow machine, 0.07


def test_a_follower_of_an_archive_that_a_worker_fills_gets_all_of_a_run_that_has_ended(
    fake: RedisBackend, archive: Any
) -> None:
    """Whatever part of it the archive has, and whatever the run's status is by then in Redis."""
    hot = open_hot(fake)
    hot.save_events(make_events("r", 5))
    states: list[tuple[int, str]] = []

    def note() -> None:
        info = archive.run_info("r")
        states.append((info.last_offset, info.status))
        if info.last_offset == 2:
            hot.save_event(make_event("r", 6, kind="run.finished"))

    watched = Watched(archive, after_write=note)
    for _ in range(2):
        DrainWorker(hot, [watched], batch=2).drain_once()
    assert states == [(2, "running"), (4, "running"), (5, "running"), (6, "completed")]
    assert [item.offset for item in archive.follow("r", idle_timeout=1.0)] == list(range(1, 7))
