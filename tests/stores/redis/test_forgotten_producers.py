"""P2: what a server has forgotten of a producer is never taken for "not applied", however its clock was moved."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    DrainWorker,
    EventKind,
    RedisCheckpointer,
    SQLiteCheckpointer,
    StoreUnavailable,
    create_event,
)
from runstream.operations.operation import Command, Exchange
from tests.support.backends import RedisBackend, info_of
from tests.support.kinds import on_every_server
from tests.support.line import Line
from tests.support.operations import session_of
from tests.support.samples import make_event, make_events
from tests.support.servers import eventually

Hot = RedisCheckpointer[Any, Any]
AHEAD_SECONDS = 660


def open_hot(backend: RedisBackend) -> Hot:
    store = backend.open(retry_seconds=0)
    assert isinstance(store, RedisCheckpointer)
    return store


def move_clock(raw: Any, hot: Hot, seconds: int = AHEAD_SECONDS) -> None:
    """As if another server had taken over, whose clock is so far ahead: all that was noted lies further back."""
    keys = session_of(hot).keys.run("r")
    by = seconds * 1_000_000
    for field in {b"updated", b"ahead"} & set(raw.hkeys(keys.meta)):
        raw.hincrby(keys.meta, field, -by)
    for producer, reply in raw.hgetall(keys.producers).items():
        words = reply.split(b" ")
        words[6] = b"%d" % (int(words[6]) - by)
        raw.hset(keys.producers, producer, b" ".join(words))
    clock = session_of(hot).server_clock
    clock._ahead -= by
    for attempts in session_of(hot).in_flight._attempts.values():
        for attempt in attempts:
            attempt.call = sent_earlier(attempt.call, by)


def sent_earlier(call: Command, microseconds: int) -> Command:
    """The call of an append, as if it had been sent so much earlier."""
    *before, words, lane, mark, record = call
    sent_at, rest = words.split(b" ", 1)
    return (*before, b"%d %b" % (int(sent_at) - microseconds, rest), lane, mark, record)


def append_kept(hot: Hot, event: Any) -> Command:
    """Append an event to the run, and give the request that did so."""
    calls: list[Command] = []
    driver: Any = hot._driver
    exchange_once = driver.exchange_once

    def keep(exchange: Exchange) -> Any:
        calls.append(exchange.commands[0])
        return exchange_once(exchange)

    driver.exchange_once = keep
    hot.append("r", [event])
    driver.exchange_once = exchange_once
    return calls[0]


def is_stale(hot: Hot, call: Command) -> bool:
    """Whether a request that comes late is refused, as nobody can tell whether it was applied."""
    driver: Any = hot._driver
    (reply,) = driver.exchange_once(Exchange([call], tolerant=True))
    return isinstance(reply, list) and reply[0] == b"stale"


@pytest.mark.one_in(2)
@on_every_server
def test_a_batch_is_not_applied_twice_where_the_next_server_s_clock_is_ahead(redis_backend: RedisBackend) -> None:
    """Its reply is lost, others append so that silent producers are forgotten, its caller repeats it."""
    hot, raw = open_hot(redis_backend), redis_backend.raw
    hot.append("r", make_events("r", 1))
    event = make_event("r", 2)
    Line(hot).cut("reply")
    with pytest.raises(StoreUnavailable):
        hot.append("r", [event])
    move_clock(raw, hot)
    for _ in range(20):
        open_hot(redis_backend).append("r", [make_event("r", 3)])
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="can no longer be told"):
            hot.append("r", [event])
    assert [item.event.span_id for item in hot.read("r")].count(event.span_id) == 1
    assert hot.append("r", [make_event("r", 4)]).last_offset == 23, "what is new is not held up"


@pytest.mark.one_in(2)
@on_every_server
def test_a_late_request_is_not_applied_where_the_clock_was_set_back_and_forth(redis_backend: RedisBackend) -> None:
    """Its producer was heard again by the clock that was behind, and so seems to have been silent for long."""
    hot, raw = open_hot(redis_backend), redis_backend.raw
    hot.append("r", make_events("r", 1))
    event = make_event("r", 2)
    call = append_kept(hot, event)
    move_clock(raw, hot, -AHEAD_SECONDS)
    hot.append("r", [make_event("r", 3)])
    move_clock(raw, hot)
    for _ in range(20):
        open_hot(redis_backend).append("r", [make_event("r", 4)])
    assert is_stale(hot, call)
    move_clock(raw, hot, -AHEAD_SECONDS)  # nor by the clock that is behind
    assert is_stale(hot, sent_earlier(call, -AHEAD_SECONDS * 1_000_000))
    assert [item.event.span_id for item in hot.read("r")].count(event.span_id) == 1
    assert open_hot(redis_backend).append("r", [make_event("r", 5)]).last_offset == 24


@pytest.mark.one_in(2)
@on_every_server
def test_a_late_request_is_not_applied_where_a_clock_ahead_forgot_others(redis_backend: RedisBackend) -> None:
    """What is noted lies an hour ahead when its producer is forgotten, which a lower clock heard."""
    hot, raw = open_hot(redis_backend), redis_backend.raw
    hot.append("r", make_events("r", 1))
    event = make_event("r", 2)
    call = append_kept(hot, event)
    move_clock(raw, hot)
    raw.hset(session_of(hot).keys.run("r").meta, "forgotten", (raw.time()[0] + 3600) * 1_000_000)
    for _ in range(20):
        open_hot(redis_backend).append("r", [make_event("r", 3)])
    assert is_stale(hot, sent_earlier(call, AHEAD_SECONDS * 1_000_000))
    assert [item.event.span_id for item in hot.read("r")].count(event.span_id) == 1


@pytest.mark.one_in(8)
@on_every_server
@pytest.mark.parametrize("then", ["", "it is heard again"])
@pytest.mark.parametrize("ahead", [500_000, AHEAD_SECONDS * 1_000_000])
def test_a_late_request_is_not_applied_that_was_sent_by_a_clock_ahead(
    redis_backend: RedisBackend, ahead: int, then: str
) -> None:
    """The clock was set back before anybody wrote to the run, or its sender's runs a little faster."""
    hot, raw = open_hot(redis_backend), redis_backend.raw
    hot.append("r", make_events("r", 1))
    clock = session_of(hot).server_clock
    assert clock._ahead is not None
    clock._ahead += ahead
    event = make_event("r", 2)
    call = append_kept(hot, event)
    if then:
        clock._ahead -= ahead
        hot.append("r", [make_event("r", 3)])
    for _ in range(2):
        move_clock(raw, hot)
    for _ in range(20):
        open_hot(redis_backend).append("r", [make_event("r", 4)])
    assert is_stale(hot, sent_earlier(call, 2 * AHEAD_SECONDS * 1_000_000))
    assert [item.event.span_id for item in hot.read("r")].count(event.span_id) == 1


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@on_every_server
def test_an_append_looks_at_a_few_producers_and_in_time_at_all(redis_backend: RedisBackend) -> None:
    """One run appended to by thousands of short processes: each append is as much work as the first."""
    hot, raw = open_hot(redis_backend), redis_backend.raw
    hot.append("r", make_events("r", 1))
    keys = session_of(hot).keys.run("r")
    heard = 1_000_000
    reply = "1 0-1 1-2 0 0 0-1 {} 0".format
    raw.hset(keys.producers, mapping={f"{number:018x}": reply(heard + number) for number in range(1000)})
    left = [raw.hlen(keys.producers)]
    while left[-1] > 150 and len(left) < 200:
        open_hot(redis_backend).append("r", [make_event("r", 2)])
        left.append(raw.hlen(keys.producers))
    assert left[-1] <= 150, "as many are forgotten as come"
    assert max(before - now for before, now in pairwise(left)) < 200
    forgotten = int(raw.hget(keys.meta, "forgotten"))
    kept = [int(one.split()[6]) for one in raw.hvals(keys.producers)]
    assert heard <= forgotten < heard + 1000 < max(kept), "those that were heard lately stay"
    raw.hset(keys.meta, "swept", "junk")
    open_hot(redis_backend).append("r", [make_event("r", 3)])


def is_appended(store: Hot) -> bool:
    """Whether a new event is taken."""
    with suppress(StoreUnavailable):
        store.append("r", [make_event("r", 5)])
        return True
    return False


@pytest.mark.one_in(4)
@on_every_server
@pytest.mark.parametrize("then", ["retry", "others append", "the run is retired", "its producers are cleared"])
def test_a_batch_is_not_applied_twice_where_its_producers_were_removed(
    redis_backend: RedisBackend, tmp_path: Path, then: str
) -> None:
    """Its reply is lost, and then what would tell who repeats it: by an operator, or an eviction."""
    hot, raw = open_hot(redis_backend), redis_backend.raw
    hot.append("r", make_events("r", 1))
    event = make_event("r", 2)
    Line(hot).cut("reply")
    with pytest.raises(StoreUnavailable):
        hot.append("r", [event])
    other = open_hot(redis_backend)
    other.append("r", [create_event("r", EventKind.RUN_FINISHED, seq=3)])
    keys = session_of(hot).keys.run("r")
    raw.delete(keys.producers)
    if then == "others append":
        for _ in range(2):
            open_hot(redis_backend).append("r", [make_event("r", 4)])
    elif then != "retry":
        with SQLiteCheckpointer[Any, Any](tmp_path / "a.db") as archive:
            worker = DrainWorker(other, [archive], retire_after_seconds=0)
            assert worker.drain_once().retired == 1
            if then == "its producers are cleared":
                raw.zadd(keys.partition.leftovers, {"r": 1})
                worker.drain_once()
    last = info_of(other).last_offset
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="can no longer be told"):
            hot.append("r", [event])
    assert info_of(other).last_offset == last
    for store in (other, open_hot(redis_backend), hot):
        # at once, or a round trip later than what was written last, as far as the writer knows the server's time
        eventually(partial(is_appended, store))
    assert info_of(other).last_offset == last + 3


def test_what_is_new_is_taken_however_the_clock_was_moved(redis_backend: RedisBackend) -> None:
    """Ahead, or back after producers were noted that were last heard in what is now the future."""
    hot, raw = open_hot(redis_backend), redis_backend.raw
    hot.append("r", make_events("r", 1))
    move_clock(raw, hot)
    hot.append("r", [make_event("r", 2)])
    keys = session_of(hot).keys.run("r")
    seconds, _ = raw.time()
    raw.hset(keys.meta, "forgotten", (seconds + 3600) * 1_000_000)
    raw.delete(keys.producers)
    raw.hdel(keys.meta, "by")
    open_hot(redis_backend).append("r", [make_event("r", 3)])
    raw.delete(keys.producers)
    raw.hdel(keys.meta, "by")
    hot.append("r", [make_event("r", 4)])  # refused, as nobody can tell, but for its one sender: it is sent again
    assert [item.event.seq for item in hot.read("r")] == [1, 2, 3, 4]


@on_every_server
def test_no_key_carries_a_ttl(redis_backend: RedisBackend) -> None:
    """A server with a volatile policy would evict it: then another owner gets a lease that is held."""
    hot, raw = open_hot(redis_backend), redis_backend.raw
    hot.append("r", make_events("r", 2), keys=["a", "b"])
    with hot.lease("not there yet", owner="a"), hot.lease("r", owner="a"):
        assert [key for key in redis_backend.key_names() if raw.pttl(key) != -1] == []


def test_what_leases_noted_of_runs_that_never_came_is_cleared(redis_backend: RedisBackend, tmp_path: Path) -> None:
    """Once the last of them has run out; a run that came meanwhile keeps all that it has."""
    hot, raw = open_hot(redis_backend), redis_backend.raw
    held, over, came = (hot.lease(run_id, owner="a", ttl=60) for run_id in ("held", "over", "came"))
    came.save_event(make_event("came"))
    over.release()
    for run_id in ("held", "over", "came"):
        keys = session_of(hot).keys.run(run_id)
        raw.zadd(keys.partition.leftovers, {run_id: 1})
    with SQLiteCheckpointer[Any, Any](tmp_path / "a.db") as archive:
        DrainWorker(hot, [archive]).drain_once()
    held.check()
    came.check()
    metas = [key for key in redis_backend.key_names() if key.endswith(":meta")]
    assert sorted(key.split(":")[-2] for key in metas) == ["came", "held"]
    assert [
        raw.zscore(session_of(hot).keys.run(name).partition.leftovers, name) is None for name in ("held", "came")
    ] == [False, True]
