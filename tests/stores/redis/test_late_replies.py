"""P4: what a server has lost is noticed also where its reply was taken after those of later appends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from runstream import AcknowledgedWritesLost, HistoryDiverged
from runstream.operations.arguments import AppendOptions
from runstream.operations.operation import Exchange
from runstream.stores.redis.replies import parse_offset
from runstream.stores.redis.session.seen import SeenBook
from tests.support.backends import RedisBackend
from tests.support.failover import Failover
from tests.support.operations import operations_of, session_of
from tests.support.samples import make_events


class Late:
    """An append of a store that is sent, and whose reply is taken, when the test says so."""

    def __init__(self, store: Any, count: int, *, is_sent: bool = True) -> None:
        self._store = store
        events = make_events("r", count)
        self._operation = operations_of(store).append("r", events, AppendOptions())
        step = next(self._operation)
        assert isinstance(step, Exchange)
        self._step = step
        if is_sent:
            self.send()

    def send(self) -> None:
        """Have it applied."""
        self._reply = self._store._runner._exchange(self._step)

    def take(self) -> int:
        """Take the reply; gives the last offset."""
        with pytest.raises(StopIteration) as done:
            self._operation.send(self._reply)
        return parse_offset(done.value.value.last)


def append(store: Any, count: int = 1) -> int:
    last: int = store.append("r", make_events("r", count)).last_offset
    return last


def append_twice(store: Any) -> None:
    append(store)
    append(store)


@pytest.mark.parametrize("later", [[1], [3], [1, 1], [2, 5, 1]])
@pytest.mark.parametrize("count", [1, 2])
def test_a_lost_append_is_noticed_whose_reply_comes_after_those_of_others(
    redis_backend: RedisBackend, count: int, later: Sequence[int]
) -> None:
    hot: Any = redis_backend.open()
    failover = Failover(redis_backend)
    assert append(hot, 2) == 2
    failover.keep()
    late = Late(hot, count)
    failover.promote()
    for number in later:
        append(hot, number)
    assert late.take() == 2 + count
    with pytest.raises((AcknowledgedWritesLost, HistoryDiverged)):
        append(hot)
    session_of(hot).seen.forget("r")
    assert append(hot) == 2 + sum(later) + 1


@pytest.mark.parametrize("others", [0, 1, 3])
@pytest.mark.parametrize("count", [1, 2])
def test_a_lost_append_is_noticed_that_another_one_has_been_sent_before(
    redis_backend: RedisBackend, count: int, others: int
) -> None:
    """That one does not prove it: it was made when nobody had been told of it, and applied after the failover."""
    hot: Any = redis_backend.open()
    failover = Failover(redis_backend)
    assert append(hot, 2) == 2
    failover.keep()
    late = Late(hot, 1, is_sent=False)
    assert append(hot, count) == 2 + count
    failover.promote()
    if others:
        append(redis_backend.open(), others)
    late.send()
    assert late.take() == 3 + others
    with pytest.raises((AcknowledgedWritesLost, HistoryDiverged)):
        append_twice(hot)


def test_replies_of_one_store_may_come_in_any_order_with_nothing_to_prove(
    redis_backend: RedisBackend,
) -> None:
    hot: Any = redis_backend.open()
    append(hot)
    others = [Late(hot, 1) for _ in range(4)]
    assert [others[at].take() for at in (3, 0, 2, 1)] == [5, 2, 4, 3]
    book = session_of(hot).seen
    assert book.to_prove("r") == book.get("r")
    assert append(hot) == 6


def test_what_another_has_written_in_between_is_proven_by_the_next_appends(redis_backend: RedisBackend) -> None:
    hot, other = redis_backend.open(), redis_backend.open()
    book = session_of(hot).seen
    append(hot)
    late = Late(hot, 1)
    append(other)
    append(hot)
    assert late.take() == 2
    assert book.to_prove("r") != book.get("r")
    append(hot)
    assert book.to_prove("r") == book.get("r")


def test_while_a_late_reply_is_proven_the_end_of_the_run_is_not_forgotten(redis_backend: RedisBackend) -> None:
    hot, other = redis_backend.open(), redis_backend.open()
    failover = Failover(redis_backend)
    append(hot)
    late = Late(hot, 1)
    append(other)
    failover.keep()
    append(hot, 2)
    late.take()
    failover.promote()  # what came late is there, and what came after it is not
    append(other, 4)
    append(hot)
    with pytest.raises((AcknowledgedWritesLost, HistoryDiverged)):
        append(hot)


def test_replies_in_a_row_are_of_one_history_in_whichever_order_they_come() -> None:
    book = SeenBook()
    book.note("r", b"0-1", b"1-1", 1)
    book.note("r", b"0-1", b"3-3", 3, "main", 3, b"2-2", behind=book.get("r"))
    book.note("r", b"0-1", b"2-2", 2, "main", 2, b"1-1")
    seen = book.get("r")
    assert seen is not None
    assert (seen.last, book.to_prove("r")) == (b"3-3", seen)
    book.note("r", b"0-1", b"2-9", 2, "main", 2, b"1-1")
    unsure = book.to_prove("r")
    assert unsure is not None
    assert unsure.last == b"2-9"
    book.note("r", b"0-1", b"4-4", 4, "main", 4, b"3-3", unsure)
    assert book.to_prove("r") == book.get("r")
