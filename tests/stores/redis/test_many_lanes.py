"""A run of many lanes: what is per lane costs only the lanes concerned."""

from __future__ import annotations

import random
from typing import Any

import pytest

from runstream import CorruptRecordError, HistoryDiverged, LeaseHeld, RedisCheckpointer
from runstream.stores.redis.operations.client import reader
from runstream.stores.redis.operations.client.span_reader import SpanReader
from tests.support.backends import RedisBackend, info_of
from tests.support.drain_tools import put_raw
from tests.support.kinds import REAL, on_every_server
from tests.support.operations import exchanges_in, session_of
from tests.support.samples import make_event, make_events, make_state

Hot = RedisCheckpointer[Any, Any]


def open_hot(backend: RedisBackend) -> Hot:
    store = backend.open()
    assert isinstance(store, RedisCheckpointer)
    return store


def others(count: int) -> list[Any]:
    """Events of as many other lanes."""
    return [make_event("r", 1, lane_id=f"other-{number}") for number in range(count)]


def sent_bytes(raw: Any) -> int:
    """How much the server has sent to its clients."""
    sent: int = raw.info("stats")["total_net_output_bytes"]
    return sent


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize("redis_backend", REAL, indirect=True)
def test_a_lease_and_a_page_take_little_of_a_run_of_many_lanes(redis_backend: RedisBackend) -> None:
    hot, raw = open_hot(redis_backend), redis_backend.raw
    hot.save_events(others(2000))
    hot.save_event(make_event("r", 1, lane_id="mine"))
    before = sent_bytes(raw)
    raw.hgetall(session_of(hot).keys.run("r").meta)
    whole = sent_bytes(raw) - before
    with hot.lease("other", owner="a"):  # with the first one, rights are asked for
        raw.config_resetstat()
    with hot.lease("r", owner="a", lane_id="mine"):
        pass
    with hot.lease("r", owner="a"), pytest.raises(LeaseHeld):
        hot.lease("r", owner="b", lane_id="mine")
    assert "cmdstat_hgetall" not in raw.info("commandstats")
    hot.save_event(make_event("r", 0, lane_id="mine"))  # no lane is sure to rise: the run is read to its beginning
    before = sent_bytes(raw)
    assert len(hot.list_events("r", 0)) == len(hot.list_events("r", -1)) == 2002
    every_event = sent_bytes(raw) - before
    before = sent_bytes(raw)
    assert hot.list_events("r", 1) == []
    assert sent_bytes(raw) - before < whole * 1.5 + every_event / 2


@on_every_server
def test_a_lane_is_recovered_without_what_others_wrote(redis_backend: RedisBackend) -> None:
    """In one round trip, with whatever lies between its events, and after them."""
    hot = open_hot(redis_backend)
    hot.save_events(others(100))
    for number in range(1, 4):
        hot.save_event(make_event("r", number, lane_id="mine"))
        hot.save_events(others(100))
    hot.save_events([*others(100), *(make_event("r", number, lane_id="mine") for number in (4, 5)), *others(100)])
    store = open_hot(redis_backend)
    recovery, sent = exchanges_in(store, store._operations.recover("r", "mine"))
    assert [item.event.seq for item in recovery.events] == [1, 2, 3, 4, 5]
    ((_, (*_, (_, _, *flat))),) = sent
    assert len(flat) == 2 * 5
    recovery, sent = exchanges_in(store, store._operations.recover("r", "mine"))  # it was told of their sizes
    ((_, (*_, (_, _, *flat), last)),) = sent
    assert (len(recovery.events), len(flat), len(last)) == (5, 2 * 5, 8)
    assert hot.recover("r").events[-1].offset == info_of(hot).last_offset

    hot.append("r", [], snapshot=make_state("r"), lane_id="mine")
    for left in range(3):
        recovery, sent = exchanges_in(store, store._operations.recover("r", "mine"))
        assert (len(recovery.events), len(sent)) == (left, 1)
        hot.save_events([make_event("r", 6 + left, lane_id="mine"), *others(1)])


def test_a_run_is_recovered_in_one_round_trip_with_a_page_of_events(redis_backend: RedisBackend) -> None:
    """And in one more for each further page."""
    hot = open_hot(redis_backend)
    hot.append("r", make_events("r", 200), snapshot=make_state("r"))
    for count, trips in ((0, 1), (9, 1), (991, 1), (1, 2), (1000, 3)):
        hot.save_events(make_events("r", count))
        store = open_hot(redis_backend)
        recovery, sent = exchanges_in(store, store._operations.recover("r", None))
        assert [item.offset for item in recovery.events] == [*range(201, info_of(hot).last_offset + 1)]
        assert len(sent) == trips


def test_a_damaged_event_is_not_taken_for_one_of_another_lane(redis_backend: RedisBackend) -> None:
    """Be it of this lane or of any: nobody can tell."""
    hot = open_hot(redis_backend)
    hot.save_events([make_event("r", 1, lane_id="mine"), *others(20)])
    put_raw(hot, "r", lambda record: record.replace(b"main", b"mine"[::-1]))
    hot.save_events([*others(20), make_event("r", 2, lane_id="mine"), *others(20)])
    with pytest.raises(CorruptRecordError, match="event 22"):
        open_hot(redis_backend).recover("r", lane_id="mine")


def test_a_lane_is_recovered_whole_however_it_lies_among_others(redis_backend: RedisBackend) -> None:
    """Among few others or many, far apart or near, with more gaps than are kept, from any snapshot on."""
    hot, chance = open_hot(redis_backend), random.Random(7)
    written: list[int] = []
    for number in range(1, 60):
        hot.save_events(others(chance.choice((0, 1, 30, 65, 66, 150))))
        if number % 41 == 0:
            hot.save_snapshot("r", make_state("r"), lane_id="mine")
            written.clear()
        several = chance.choice((1, 1, 1, 3))
        events = [make_event("r", number, lane_id="mine") for _ in range(several)]
        hot.save_events(events if number % 3 else [others(1)[0], *events, *others(2)])
        written += [number] * several
        recovery = hot.recover("r", lane_id="mine")
        assert [item.event.seq for item in recovery.events] == written
    (gaps,) = redis_backend.raw.hmget(session_of(hot).keys.run("r").meta, "gaps:mine")
    assert len(gaps.split()) <= 32


def test_a_history_that_is_replaced_between_two_events_of_a_lane_is_seen(
    redis_backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies between them is not read, but the one before must be there still."""
    hot, other = open_hot(redis_backend), open_hot(redis_backend)
    for number in (1, 2):
        hot.save_events([make_event("r", number, lane_id="mine"), *others(100)])
    monkeypatch.setattr(reader, "PAGE", 1)
    spans = SpanReader.spans

    def replaced(reading: Any, *args: Any) -> Any:
        assert other.delete_run("r")
        other.save_events(others(300))
        yield from spans(reading, *args)

    monkeypatch.setattr(SpanReader, "spans", replaced)
    with pytest.raises(HistoryDiverged):
        hot.recover("r", lane_id="mine")


def test_what_others_wrote_last_is_not_read_with_a_lane(redis_backend: RedisBackend) -> None:
    """It comes with the snapshot and is not given: what this store wrote does not depend on it."""
    hot, other = redis_backend.open(resend_lost=True), open_hot(redis_backend)
    hot.append("r", [make_event("r", 1, lane_id="mine")], snapshot=make_state("r"), lane_id="mine")
    other.save_events(others(3))
    recent = session_of(hot).recent
    assert not hot.recover("r", lane_id="mine").events
    assert not recent.has_read_others("r", 1, [])
    other.save_events([make_event("r", 2, lane_id="mine"), *others(1)])
    assert len(hot.recover("r", lane_id="mine").events) == 1
    assert recent.has_read_others("r", 1, [])
    assert not recent.has_read_others("r", 5, [])
