"""What a wait brings to a follower of a run: given where it is proven to come next, and read anew elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fakeredis
import pytest

from runstream import RedisCheckpointer
from runstream.codec.record import ERASED
from runstream.operations.arguments import FollowQuery
from runstream.operations.operation import Exchange, Items, News, Wait
from tests.support.operations import operations_of
from tests.support.samples import make_event, make_events


class Following:
    """A follower of a run of two events that waits, its steps made by hand, and what comes after them."""

    def __init__(self) -> None:
        self.client: Any = fakeredis.FakeRedis(server=fakeredis.FakeServer(version=(7,)))
        self.store: Any = RedisCheckpointer(self.client, partitions=1)
        self.other: Any = RedisCheckpointer(self.client, partitions=1)
        self.store.append("r", make_events("r", 2))
        self.stream = operations_of(self.store).follow("r", FollowQuery())
        self.given: list[int] = []
        self.wait = self.go_on(None)

    def go_on(self, result: Any) -> Wait:
        """Make its steps until it waits."""
        self.exchanges = 0
        step = self.stream.send(result)
        while not isinstance(step, Wait):
            result = None
            if isinstance(step, Items):
                self.given += [item.offset for item in step.items]
            elif isinstance(step, Exchange):
                self.exchanges += 1
                result = [self.client.execute_command(*command) for command in step.commands]
            step = self.stream.send(result)
        return step

    def news(self) -> News:
        """What a hub brings now."""
        key = self.wait.stream
        entries: Any = self.client.execute_command(b"XRANGE", key, str(self.wait.after + 1), "+", b"COUNT", 8)
        return News(self.client.execute_command(*self.wait.look), entries)


@pytest.fixture
def following() -> Following:
    return Following()


def test_what_is_proven_to_come_next_is_given_without_a_read(following: Following) -> None:
    """As many as came, of those that it does not know; its next wait is for what comes after them."""
    assert following.given == [1, 2]
    following.other.append("r", [make_event("r", 3)])
    overlapping = following.news().entries
    following.wait = following.go_on(following.news())
    following.other.append("r", make_events("r", 2, first=4))
    news = following.news()
    following.wait = following.go_on(News(news.look, [*overlapping, *news.entries]))
    assert (following.given, following.exchanges, following.wait.after) == ([1, 2, 3, 4, 5], 0, 5)


def test_of_what_was_brought_no_more_is_given_than_meta_notes(following: Following) -> None:
    """The rest was left by an append that was refused in its midst; what it brings is not its entries alone."""
    look = following.news().look
    following.other.append("r", [make_event("r", 3)])
    news = following.news()
    meta = following.wait.look[1]
    following.client.hset(meta, "last", look[1])
    following.wait = following.go_on(News(look, news.entries))
    assert (following.given, following.wait.after) == ([1, 2], 2)
    assert following.exchanges > 0


CHANGES: dict[str, Callable[[Any, list[Any]], tuple[Any, list[Any]]]] = {
    "another chain": lambda look, entries: (look, [[b"3-77", entries[0][1]], *entries[1:]]),
    "a gap": lambda look, entries: (look, entries[1:]),
    "another record": lambda look, entries: (look, [[entries[0][0], [b"e", b"\x01abcdefgh"]], *entries[1:]]),
    "an erased record": lambda look, entries: (look, [[entries[0][0], [b"e", ERASED]], *entries[1:]]),
    "another run of that name": lambda look, entries: ([b"0-99", *look[1:]], entries),
    "another end": lambda look, entries: ([look[0], b"4-99", *look[2:]], entries),
    "no run": lambda look, entries: ([None] * len(look), entries),
    "a head that does not parse": lambda look, entries: ([look[0], b"x", *look[2:]], entries),
    "no entry": lambda look, _: (look, []),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_is_not_proven_is_read(following: Following, change: Any) -> None:
    """Whatever it is, nothing of it is given: the follower reads for itself, with all checks."""
    following.other.append("r", make_events("r", 2, first=3))
    news = following.news()
    following.wait = following.go_on(News(*change(list(news.look), list(news.entries))))
    assert (following.given, following.exchanges > 0) == ([1, 2, 3, 4], True)


def test_large_events_come_one_at_a_time(following: Following) -> None:
    """What is sent to all followers of a connection is bounded by what is known of the largest."""
    assert following.wait.most == 8
    following.store.append("r", [make_event("r", 3, payload={"text": "x" * 20_000})])
    following.wait = following.go_on(None)
    assert following.wait.most == 2
    following.store.append("r", [make_event("r", 4, payload={"text": "x" * 200_000})])
    assert following.go_on(None).most == 1
