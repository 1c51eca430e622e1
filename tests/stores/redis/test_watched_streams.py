"""What one blocking connection asks for, and whom a reply wakes."""

from __future__ import annotations

from typing import Any

import pytest

from runstream.operations.operation import Command, News, Wait
from runstream.stores.redis.connection.watched_streams import (
    CALM_SECONDS,
    IDLE_SECONDS,
    JOIN_SECONDS,
    Question,
    Waiter,
    WatchedStreams,
)

LOOK_SECONDS = 2.0
LOOK: Command = (b"HMGET", "{ns:0}:run:a:meta")
A, B = "{ns:0}:run:a:events", "{ns:0}:run:b:events"


class Scene:
    """A connection's streams, the followers that wait, and a clock."""

    def __init__(self) -> None:
        self.streams = WatchedStreams(LOOK_SECONDS)
        self.woken: list[str] = []
        self.now = 0.0

    def join(
        self,
        name: str,
        stream: str = A,
        after: int = 0,
        known: str = "known",
        look: Command = LOOK,
        most: int = 0,
    ) -> bool:
        wait = Wait(stream, after, look, lambda reply: bool(reply != known), None, most)
        self.waiter = Waiter(wait, lambda: self.woken.append(name))
        return self.streams.join(self.waiter, self.now)

    def ask(self) -> Question:
        question = self.streams.ask(self.now, 60.0)
        assert question is not None
        return question

    def asks(self) -> dict[str, int]:
        """After which offset the next XREAD asks for each stream."""
        *_, (*_, streams, ids) = [self._split(self.ask())]
        return {name: int(one.partition("-")[0]) for name, one in zip(streams, ids, strict=True)}

    @staticmethod
    def _split(question: Question) -> tuple[Any, Any]:
        (news,) = (command for command in question.commands if command[0] == b"XREAD")
        named = news[news.index(b"STREAMS") + 1 :]
        return named[: len(named) // 2], named[len(named) // 2 :]

    def come(self, *news: tuple[str, int]) -> list[str]:
        """The XREAD gives these entries, or nothing; whom that wakes."""
        self.woken.clear()
        arrivals = [(name, [[f"{offset}-1".encode(), [b"e", b"x"]]]) for name, offset in news]
        self.streams.take_news(arrivals, {}, self.now)
        return sorted(self.woken)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_followers_of_one_stream_share_it(scene: Scene) -> None:
    """It is asked for once, after the least that one of them knows; those who know what comes sleep on."""
    assert scene.join("one", after=5)
    assert scene.join("two", after=6)
    assert scene.join("other", B, 3)
    assert scene.asks() == {A: 5, B: 3}
    assert scene.come((A, 6)) == ["one"]
    assert scene.asks() == {A: 6, B: 3}
    assert scene.come((A, 7)) == ["two"]


def test_what_is_asked_for_already_need_not_be_asked_for_again(scene: Scene) -> None:
    """A follower that comes back finds its stream in the XREAD under way, unless that asks after more."""
    scene.join("one", after=5)
    scene.ask()
    assert not scene.join("two", after=5)
    assert not scene.join("three", after=6)
    assert scene.join("four", B)
    assert scene.come((A, 6)) == ["one", "two"]
    assert scene.join("five", after=6), "nothing is under way now"
    scene.ask()
    assert not scene.join("six", after=5)
    assert scene.woken[-1] == "six"
    assert scene.join("six", after=5), "it asks after 6"


def test_a_follower_that_was_busy_when_something_came_is_woken_at_once(scene: Scene) -> None:
    """Once: if nothing is there, the run may be another by now, with less in it."""
    scene.join("one", after=5)
    scene.ask()
    scene.come((A, 6))
    assert not scene.join("late", after=5)
    assert scene.woken == ["one", "late"]
    assert scene.join("late", after=5)
    assert scene.woken == ["one", "late"]
    assert scene.asks() == {A: 5}


def test_what_comes_for_nobody_is_asked_for_no_more(scene: Scene) -> None:
    """A stream whose followers are slow to come back costs one reply."""
    scene.join("slow", after=5)
    scene.join("other", B)
    scene.asks()
    assert scene.come((A, 6)) == ["slow"]
    assert scene.asks() == {A: 6, B: 0}
    assert scene.come((A, 7)) == []
    assert scene.asks() == {B: 0}
    assert scene.join("slow", after=9)
    assert scene.asks() == {A: 9, B: 0}


def test_a_stream_is_kept_for_a_moment_after_its_last_follower(scene: Scene) -> None:
    """Woken or gone, it may come back."""
    scene.join("one")
    scene.ask()
    scene.streams.leave(scene.waiter, 0.0)
    scene.now = IDLE_SECONDS
    assert scene.asks() == {A: 0}
    scene.now += 0.1
    assert scene.streams.ask(scene.now, 60.0) is None


def test_it_blocks_briefly_after_a_stream_has_come(scene: Scene) -> None:
    """Twice as long each time that nothing came; after a while, up to the time between two looks."""
    scene.join("one")
    for longest in (JOIN_SECONDS, LOOK_SECONDS):
        blocks = []
        for _ in range(10):
            blocks.append(scene.ask().seconds)
            scene.come()
        assert blocks[-1] == longest
        assert blocks[1] == 2 * blocks[0]
        scene.now += CALM_SECONDS
    scene.join("two", B)
    assert scene.ask().seconds == 0.01
    assert scene.streams.ask(0.0, 0.005) is not None


def test_each_run_is_looked_at_now_and_then(scene: Scene) -> None:
    """Once for all of its followers; whoever knows something else is woken, and by an error everybody."""
    for name, known in (("one", "known"), ("two", "known"), ("three", "newer")):
        scene.join(name, known=known)
    question = scene.ask()
    assert question.looks == [(A, LOOK)]
    assert question.commands[0] == LOOK
    scene.streams.take_look((A, LOOK), "known", 0.0)
    assert scene.woken == ["three"]
    scene.come()
    assert scene.ask().looks == []
    scene.now = LOOK_SECONDS
    assert scene.ask().looks == [(A, LOOK)]
    scene.streams.take_look((A, LOOK), ValueError("refused"), 0.0)
    assert sorted(scene.woken) == ["one", "two"]


def test_each_is_told_what_it_looks_at_itself(scene: Scene) -> None:
    """Who follows a run and who waits for an answer in it look at other fields of it."""
    other: Command = (b"HMGET", "{ns:0}:run:a:meta", b"questions")
    scene.join("follows", known="1")
    scene.join("waits for an answer", known="2", look=other)
    question = scene.ask()
    assert sorted(question.looks) == sorted([(A, LOOK), (A, other)])
    assert len(question.commands) == 3
    scene.streams.take_look((A, LOOK), "1", 0.0)
    scene.streams.take_look((A, other), "2", 0.0)
    assert scene.woken == []
    scene.streams.take_look((A, other), "1", 0.0)
    assert scene.woken == ["waits for an answer"]


def test_what_comes_is_brought_to_those_who_take_it(scene: Scene) -> None:
    """With where the run stands after that; no more of it than each of them takes."""
    scene.join("takes 8", after=5, most=8)
    first = scene.waiter
    scene.join("takes 2", after=6, most=2)
    second = scene.waiter
    scene.join("waits for an answer", after=6, look=(b"HMGET", b"questions"))
    third = scene.waiter
    question = scene.ask()
    *_, news, head = question.commands
    assert (news[:3], head, question.heads) == ((b"XREAD", b"COUNT", 2), LOOK, [(A, LOOK)])
    entries = [[f"{offset}-1".encode(), [b"e", b"x"]] for offset in (6, 7)]
    scene.streams.take_news([(A, entries)], {(A, LOOK): ["head"]}, 0.0)
    assert sorted(scene.woken) == ["takes 2", "takes 8", "waits for an answer"]
    assert first.news == second.news == News(["head"], entries)
    assert third.news is None
    assert scene.asks() == {A: 7}
    scene.join("takes 8", after=7, most=8)
    scene.streams.take_news([(A, [[b"8-1", [b"e", b"x"]]])], {(A, LOOK): ValueError("refused")}, 0.0)
    assert scene.waiter.news is None


def test_of_many_runs_those_are_looked_at_in_which_something_came(scene: Scene) -> None:
    """Which costs a round trip more, and no look at all the others."""
    for number in range(5):
        scene.join(str(number), f"{{ns:0}}:run:{number}:events", most=8, look=(b"HMGET", number))
    question = scene.ask()
    assert (question.commands[-1][:3], question.heads) == ((b"XREAD", b"COUNT", 1), [])
    assert scene.streams.heads_of([("{ns:0}:run:3:events", [])]) == [("{ns:0}:run:3:events", (b"HMGET", 3))]


def test_the_end_wakes_all_and_says_why(scene: Scene) -> None:
    """A failure, a refusal, or an error that nobody expected."""
    error = ValueError("unexpected")
    for is_refused, why in ((False, None), (True, None), (False, error)):
        scene.join("one")
        first = scene.waiter
        scene.join("two", B)
        scene.streams.end(is_refused=is_refused, error=why)
        assert (first.is_refused, first.error) == (is_refused, why)
        assert not scene.streams
    assert scene.woken == ["one", "two"] * 3
