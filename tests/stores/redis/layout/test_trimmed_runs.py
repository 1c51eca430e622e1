"""P10 and P4: what needs trimmed events says where the rest begins; what is missing beyond the mark is a loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from runstream.model.errors import (
    AcknowledgedWritesLost,
    EventsArchived,
    HistoryDiverged,
)
from runstream.model.events import EventKind
from runstream.stores.redis.checkpointer import RedisCheckpointer
from tests.stores.redis.layout.raw_keys import key_of, offsets
from tests.support.backends import RedisBackend, Store
from tests.support.kinds import on_every_server
from tests.support.samples import make_event, make_events, make_state


def trim(backend: RedisBackend, store: Store, upto: int) -> str:
    """Take the events up to an offset away as a drain does; gives the mark."""
    mark = list(store.read("r"))[upto - 1].cursor
    backend.raw.hset(key_of(backend, "r", "meta"), "mark", mark)
    backend.raw.xtrim(key_of(backend, "r", "events"), minid=f"{upto + 1}", approximate=False)
    return mark


@on_every_server
@pytest.mark.parametrize("upto", [1, 4, 6])
def test_what_needs_archived_events_says_where_the_rest_begins(
    redis_backend: RedisBackend, store: RedisCheckpointer[Any, Any], upto: int
) -> None:
    store.save_events(make_events("r", 6))
    mark = trim(redis_backend, store, upto)
    needs_them: list[Callable[[], Any]] = [
        lambda: list(store.read("r")),
        lambda: list(store.read("r", upto - 1)),
        lambda: next(store.read("r", limit=1)),
        lambda: next(store.read("r", reverse=True)),
        lambda: list(store.read("r", reverse=True, limit=7 - upto)),
        lambda: store.list_events("r"),
        lambda: store.recover("r"),
        lambda: list(store.follow("r", idle_timeout=1)),
    ]
    for need in needs_them:
        with pytest.raises(EventsArchived) as caught:
            need()
        assert (caught.value.run_id, caught.value.first_hot) == ("r", upto + 1)
    info = store.run_info("r")
    assert info is not None
    assert (info.last_offset, info.archived_offset, info.first_hot) == (6, upto, upto + 1)
    hot = list(range(upto + 1, 7))
    assert offsets(store.read("r", upto)) == offsets(store.read("r", mark)) == hot
    assert offsets(store.read("r", upto, reverse=True)) == hot[::-1]
    assert offsets(store.read("r", reverse=True, limit=6 - upto)) == hot[::-1]
    with pytest.raises(HistoryDiverged):
        list(store.read("r", f"{upto}-1"))
    assert store.append("r", [make_event("r", 7, kind=EventKind.RUN_FINISHED)])[:2] == (7, 7)
    assert offsets(store.follow("r", upto)) == [*hot, 7]


def test_a_run_whose_archived_events_are_covered_recovers_from_redis_alone(
    redis_backend: RedisBackend, store: RedisCheckpointer[Any, Any]
) -> None:
    store.append("r", make_events("r", 4), snapshot=make_state("r"))
    store.save_events(make_events("r", 2, first=5))
    trim(redis_backend, store, 4)
    recovery = redis_backend.open().recover("r")
    assert (recovery.offset, [item.offset for item in recovery.events]) == (4, [5, 6])


def test_a_lane_that_needs_no_archived_event_recovers(
    redis_backend: RedisBackend, store: RedisCheckpointer[Any, Any]
) -> None:
    store.append("r", [make_event("r", 1, lane_id="a")], snapshot=make_state("r"), lane_id="a")
    store.save_events(make_events("r", 3, lane_id="b"))
    trim(redis_backend, store, 3)
    recovery = store.recover("r", lane_id="a")
    assert (recovery.offset, recovery.events) == (1, [])
    with pytest.raises(EventsArchived):
        store.recover("r", lane_id="b")


READS: dict[str, Callable[[Any], Any]] = {
    "read": lambda store: list(store.read("r", 2)),
    "reverse": lambda store: list(store.read("r", 2, reverse=True)),
    "reverse with a limit": lambda store: list(store.read("r", reverse=True, limit=4)),
    "follow": lambda store: list(store.follow("r", 2, idle_timeout=1)),
}


@pytest.mark.parametrize("how", READS)
@pytest.mark.parametrize("gone", [4, 6], ids=["in the middle", "at the end"])
def test_an_event_that_is_missing_beyond_the_mark_is_a_loss(
    redis_backend: RedisBackend, store: RedisCheckpointer[Any, Any], gone: int, how: str
) -> None:
    """Nobody may have trimmed what was never archived."""
    store.save_events(make_events("r", 6))
    cursors = [item.cursor for item in store.read("r")]
    trim(redis_backend, store, 2)
    redis_backend.raw.xdel(key_of(redis_backend, "r", "events"), cursors[gone - 1])
    with pytest.raises(AcknowledgedWritesLost) as caught:
        READS[how](store)
    assert (caught.value.run_id, caught.value.last_present, caught.value.last_seen) == ("r", gone - 1, 6)


def roll_back(backend: RedisBackend, run_id: str, cursors: Sequence[str], keep: int) -> None:
    """Put a run back to where it stood after ``keep`` events, as a failover does."""
    raw, events, meta = backend.raw, key_of(backend, run_id, "events"), key_of(backend, run_id, "meta")
    kept = raw.xrange(events)[:keep]
    raw.delete(events)
    for entry_id, fields in kept:
        raw.xadd(events, fields, id=entry_id)
    raw.hset(meta, mapping={"last": cursors[keep - 1], "lane:main": f"{keep} {keep}"})


def test_a_follower_that_has_seen_more_than_is_there_is_told(
    redis_backend: RedisBackend, store: RedisCheckpointer[Any, Any]
) -> None:
    store.save_events(make_events("r", 3))
    following = store.follow("r", idle_timeout=1)
    cursors = [next(following).cursor for _ in range(3)]
    roll_back(redis_backend, "r", cursors, keep=2)
    with pytest.raises(AcknowledgedWritesLost) as caught:
        next(following)
    assert (caught.value.last_seen, caught.value.last_present) == (3, 2)


@on_every_server
def test_a_follower_is_told_even_if_others_have_filled_the_lost_offsets(
    redis_backend: RedisBackend, store: RedisCheckpointer[Any, Any]
) -> None:
    """P4: the history that it has seen is not the one that goes on."""
    store.save_events(make_events("r", 3))
    following = store.follow("r", idle_timeout=1)
    cursors = [next(following).cursor for _ in range(3)]
    roll_back(redis_backend, "r", cursors, keep=2)
    redis_backend.open().save_events(make_events("r", 2, first=100))
    with pytest.raises(HistoryDiverged):
        next(following)
