"""What a follower of many runs asks for, and when; its steps are made by hand, in a time of its own."""

from __future__ import annotations

from typing import Any

import pytest

from runstream.model.results import Recorded, RunInfo
from runstream.operations.arguments import RunsQuery
from runstream.operations.follow_runs import FollowRunsQuery, following_runs
from runstream.operations.operation import Items, Operation, Pause, Stream, Wait, WaitAny

WAIT = Wait("{ns:0}:run:a:events", 0, (b"HMGET",), bool, None)


class Scene:
    """Runs that are there, their followers, and a clock."""

    def __init__(self, idle_timeout: float | None = None) -> None:
        self.now = 100.0
        self.infos = [info("a", 50.0)]
        self.looks: list[float | None] = []
        self.followed: list[tuple[str, int | str]] = []
        self.closed: list[str] = []
        self.stream = following_runs(
            FollowRunsQuery(idle_timeout=idle_timeout),
            self._look,
            self._follow,
            self._was_deleted,
            lambda: self.now,
        )

    def _look(self, query: RunsQuery) -> Stream:
        self.looks.append(query.updated_after)
        yield Items(self.infos)

    def _follow(self, run_id: str, after: int | str) -> Stream:
        self.followed.append((run_id, after))
        try:
            yield Items([Recorded(1, "1-7", None)])
            yield Pause(0.05)
            while True:
                yield WAIT
        finally:
            self.closed.append(run_id)

    def _was_deleted(self, _: str) -> Operation[bool]:
        yield from ()
        return False

    def next(self, made: Any = None) -> Any:
        return self.stream.send(made)


def info(run_id: str, updated_at: float) -> RunInfo:
    return RunInfo(run_id, "", "running", 1, 0, 1, 0.0, updated_at)


def test_it_looks_twice_a_second_for_what_was_updated_and_each_minute_for_all() -> None:
    scene = Scene()
    assert scene.next() == Items([("a", Recorded(1, "1-7", None))])
    step = scene.next()
    assert (step.waits, round(step.seconds, 9)) == ([], 0.05)  # as long as the follower of that run pauses
    scene.now += 0.05
    step = scene.next({})
    assert (list(step.waits), round(step.seconds, 9)) == ([WAIT], 0.45)
    scene.now += 0.45
    scene.infos = [info("b", 60.0), info("a", 59.0)]
    assert scene.next({}) == Items([("b", Recorded(1, "1-7", None))])
    assert scene.looks == [None, 45.0]  # servers' clocks may differ by some seconds
    for now in (159.0, 160.0, 161.0):
        scene.now = now
        while not isinstance(scene.next({}), WaitAny):
            pass
    assert scene.looks[2:] == [55.0, None, 55.0]
    assert scene.followed == [("a", 0), ("b", 0)]


def test_a_follower_goes_on_when_what_it_waits_for_has_come_and_ends_with_the_whole() -> None:
    scene = Scene()
    scene.next()
    scene.next()
    scene.now += 0.1
    scene.next({})
    scene.now += 0.1
    assert scene.next({0: None}).waits == [WAIT]
    assert scene.closed == []
    scene.stream.close()
    assert scene.closed == ["a"]


def test_the_idle_timeout_counts_from_when_the_reader_comes_back() -> None:
    scene = Scene(idle_timeout=10.0)
    scene.next()
    scene.now += 9.0  # for which the reader was busy
    scene.next()
    for _ in range(2):
        scene.now += 4.9
        scene.next({})
    scene.now += 0.2
    with pytest.raises(TimeoutError, match=r"the runs had no event to give for 10\.0 seconds"):
        scene.next({})
