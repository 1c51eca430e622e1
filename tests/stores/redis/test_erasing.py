"""What is erased of a run is in no key of it any more, and all else of the run is as it was."""

from __future__ import annotations

from typing import Any

import pytest

from runstream import (
    AcknowledgedWritesLost,
    ConcurrencyConflict,
    ConfigurationError,
    EventsArchived,
    HistoryDiverged,
    LeaseHeld,
    LeaseLost,
    RunHasForks,
)
from runstream.codec.record import ERASED
from runstream.operations.erase_arguments import EraseOptions
from runstream.operations.operation import Exchange
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.scripts.erasure_calls import erase_call, rebuild_call
from tests.support.backends import RedisBackend, ServerBackend
from tests.support.drain_tools import Hot, ask, open_hot
from tests.support.failover import Failover
from tests.support.operations import operations_of, session_of
from tests.support.samples import make_events, make_state

SECRET = "a secret that nobody is to read"


@pytest.fixture
def hot(redis_backend: RedisBackend) -> Hot:
    """A store with a run of nine events; the fourth and the fifth hold a secret."""
    store = open_hot(redis_backend)
    store.append("r", make_events("r", 3), keys=["a", "b", "c"])
    store.append("r", make_events("r", 2, first=4, payload={"text": SECRET}), keys=["d", None])
    store.append("r", make_events("r", 4, first=6))
    return store


def bytes_of(backend: RedisBackend) -> bytes:
    """All that is in the namespace, as bytes; what a server keeps of a stream's nodes, too."""
    if not isinstance(backend, ServerBackend):
        return repr(backend.footprint()).encode()
    backend.raw.config_set("rdbcompression", "no")
    try:
        return b"".join(backend.raw.dump(name) or b"" for name in backend.key_names())
    finally:
        backend.raw.config_set("rdbcompression", "yes")


def left(hot: Hot) -> list[int]:
    return [item.offset for item in hot.read("r")]


def entries(backend: RedisBackend, hot: Hot) -> Any:
    return backend.raw.xrange(session_of(hot).keys.run("r").events)


def test_what_is_erased_is_in_no_key_and_offsets_and_chains_stay(redis_backend: RedisBackend, hot: Hot) -> None:
    before = entries(redis_backend, hot)
    assert SECRET.encode() in bytes_of(redis_backend)
    erasure = hot.erase("r", [5, 4])
    assert (erasure.spans, [place.place for place in erasure.places]) == (((4, 5),), ["Redis"])
    assert SECRET.encode() not in bytes_of(redis_backend)
    expected = [(at, {b"e": ERASED} if at[:2] in (b"4-", b"5-") else fields) for at, fields in before]
    assert entries(redis_backend, hot) == expected
    assert left(hot) == [1, 2, 3, 6, 7, 8, 9]
    assert hot.find("r", ["a", "d"]) == [1, 4]
    assert hot.append("r", make_events("r", 1, first=10)).first_offset == 10
    assert [item.offset for item in open_hot(redis_backend).read("r", 5)] == [6, 7, 8, 9, 10]
    with pytest.raises(ConfigurationError, match="erased"):
        hot.read_at("r", [5])
    assert not [name for name in redis_backend.key_names() if name.endswith(":rebuilt")]


def test_an_erasure_that_is_broken_off_anywhere_is_finished_by_whoever_asks(
    redis_backend: RedisBackend, hot: Hot
) -> None:
    before = entries(redis_backend, hot)
    for steps in range(1, 20):
        hot.delete_run("r")
        hot.append("r", make_events("r", 3, payload={"text": SECRET}))
        operation = operations_of(hot).erase("r", ((2, 2),), EraseOptions())
        is_over, reply = False, None
        for _ in range(steps):
            try:
                step = operation.send(reply)
            except StopIteration:
                is_over = True
                break
            reply = namespace_of(hot).run(_once(step))
        operation.close()
        found = open_hot(redis_backend).erasures("r")
        assert left(hot) == ([1, 3] if found else [1, 2, 3])
        assert [one.spans for one in found] in ([((2, 2),)], [])
        if is_over:
            assert found
            break
    else:
        pytest.fail("it never ends")
    assert before != entries(redis_backend, hot)


def _once(step: Exchange) -> Any:
    return (yield step)


def test_a_stream_is_made_anew_in_steps_while_it_grows_and_is_trimmed(
    redis_backend: RedisBackend, hot: Hot
) -> None:
    """Two take the steps in turn; each copies two entries of those that are there."""
    run = session_of(hot).keys.run("r")
    start = redis_backend.raw.hget(run.meta, "start").decode()
    ask(hot, *erase_call(run, start=start, token="t", what="4-5,8", lease=None))
    step = rebuild_call(run, start=start, number=1, what="4-5,8")
    step = (*step[:-3], "2 1000000", *step[-2:])
    assert ask(hot, *step) == [b"more"]
    hot.append("r", make_events("r", 1, first=10))
    assert ask(hot, *step) == [b"more"]
    redis_backend.raw.xtrim(run.events, minid="3", approximate=False)
    redis_backend.raw.hset(run.meta, "mark", redis_backend.raw.xrange(run.events, "3", "3")[0][0])
    assert redis_backend.raw.pttl(run.rebuilt) > 0
    for _ in range(3):
        assert ask(hot, *step) == [b"more"]
    assert ask(hot, *step) == [b"done"]
    assert ask(hot, *step) == [b"done"]
    assert redis_backend.raw.pttl(run.events) == -1
    assert [item.offset for item in hot.read("r", 2)] == [3, 6, 7, 9, 10]
    with pytest.raises(EventsArchived):
        left(hot)


def test_another_request_while_a_stream_is_made_anew_begins_the_copy_again(
    redis_backend: RedisBackend, hot: Hot
) -> None:
    run = session_of(hot).keys.run("r")
    start = redis_backend.raw.hget(run.meta, "start").decode()
    ask(hot, *erase_call(run, start=start, token="t", what="9", lease=None))
    step = rebuild_call(run, start=start, number=1, what="9")
    assert ask(hot, *step[:-3], "5 1000000", *step[-2:]) == [b"more"]
    hot.erase("r", [4, 5])
    assert ask(hot, *step) == [b"changed"]
    assert left(hot) == [1, 2, 3, 6, 7, 8]
    assert SECRET.encode() not in bytes_of(redis_backend)


def test_a_request_that_is_sent_twice_is_noted_once(redis_backend: RedisBackend, hot: Hot) -> None:
    run = session_of(hot).keys.run("r")
    start = redis_backend.raw.hget(run.meta, "start").decode()
    call = erase_call(run, start=start, token="t", what="4", lease=None)
    first = ask(hot, *call)
    assert ask(hot, *call) == first
    assert len(hot.erasures("r")) == 1
    assert hot.erase("r", [4]).requested_at == hot.erasures("r")[0].requested_at
    assert ask(hot, *erase_call(run, start="0-1", token="u", what="4", lease=None)) == [b"gone"]


def test_what_people_were_asked_and_have_said_goes_too(redis_backend: RedisBackend, hot: Hot) -> None:
    with hot.open_run("people") as run:
        run.pause({"text": SECRET})
        hot.answer("people", SECRET)
        asked, answered = 1, hot.run_info("people").last_offset  # type: ignore[union-attr]
    hot.request_cancel("people", SECRET)
    assert SECRET.encode().hex().encode() in bytes_of(redis_backend)
    events = list(hot.read("people"))
    spans = [item.offset for item in events if SECRET in repr(item.event)]
    assert {asked, answered} & set(spans)
    hot.erase("r", [4, 5])
    hot.erase("people", spans, drop_snapshots=True)
    kept = bytes_of(redis_backend)
    assert SECRET.encode() not in kept
    assert SECRET.encode().hex().encode() not in kept


@pytest.mark.parametrize("lane_id", [None, "main"])
def test_snapshots_that_may_hold_it_go_only_where_that_is_said(
    redis_backend: RedisBackend, hot: Hot, lane_id: str | None
) -> None:
    states: dict[str | None, Any] = {lane_id: make_state("r", data={"text": SECRET})}
    hot.recover("r", lane_id=lane_id)
    hot.append("r", [], snapshots=states)
    with pytest.raises(ConfigurationError, match="revision 1, covers 9"):
        hot.erase("r", [4, 5])
    assert left(hot) == list(range(1, 10))
    former = hot.load_snapshot("r", lane_id=lane_id)
    assert former is not None
    hot.erase("r", [4, 5], drop_snapshots=True)
    assert SECRET.encode() not in bytes_of(redis_backend)
    assert hot.load_snapshot("r", lane_id=lane_id) is None
    recovery = open_hot(redis_backend).recover("r", lane_id=lane_id)
    assert (recovery.state, [item.offset for item in recovery.events]) == (None, [1, 2, 3, 6, 7, 8, 9])
    hot.append("r", [], snapshots={lane_id: make_state("r")})
    later = hot.load_snapshot("r", lane_id=lane_id)
    assert later is not None
    assert (later.offset, later.revision) == (9, former.revision + 1)


def test_a_snapshot_that_is_given_stays(redis_backend: RedisBackend, hot: Hot) -> None:
    hot.recover("r")
    hot.append("r", [], snapshots={None: make_state("r", data={"text": SECRET})})
    hot.erase("r", [4, 5], snapshots={None: make_state("r", data={"text": "clean"})})
    assert SECRET.encode() not in bytes_of(redis_backend)
    kept = hot.load_snapshot("r")
    assert kept is not None
    assert kept.state.data == {"text": "clean"}
    other = open_hot(redis_backend)
    with pytest.raises(ConcurrencyConflict):  # it has not loaded the one that is there
        other.erase("r", [6], snapshots={None: make_state("r")})


def test_a_lease_that_is_in_force_must_be_carried(redis_backend: RedisBackend, hot: Hot) -> None:
    lease = hot.lease("r", owner="agent", lane_id="main")
    with pytest.raises(LeaseHeld):
        hot.erase("r", [4])
    with pytest.raises(LeaseHeld):
        hot.truncate("r", before=3)
    hot.erase("r", [4], lease=lease)
    hot.truncate("r", before=3, lease=lease)
    lease.release()
    with pytest.raises(LeaseLost):
        hot.erase("r", [5], lease=lease)
    with pytest.raises(ConfigurationError, match="require_lease"):
        open_hot(redis_backend, require_lease=True).erase("r", [5])
    assert left(hot) == [3, 5, 6, 7, 8, 9]


def test_a_run_with_forks_is_not_truncated_and_what_they_share_is_erased_there(
    redis_backend: RedisBackend, hot: Hot
) -> None:
    hot.fork("r", "f", at=5)
    with pytest.raises(RunHasForks) as caught:
        hot.truncate("r", before=3)
    assert list(caught.value.forks) == ["f"]
    hot.erase("r", [4, 5])
    assert [item.offset for item in hot.read("f")] == [1, 2, 3]
    with pytest.raises(ConfigurationError, match="erased"):
        hot.erase("f", [2])
    hot.append("f", make_events("f", 2, first=6, payload={"text": SECRET}))
    hot.erase("f", [7])
    assert [item.offset for item in open_hot(redis_backend).read("f")] == [1, 2, 3, 6]
    hot.delete_run("f")
    hot.truncate("r", before=3)
    assert left(hot) == [3, 6, 7, 8, 9]


def test_snapshots_of_forks_that_may_hold_it_go_with_it(redis_backend: RedisBackend, hot: Hot) -> None:
    hot.recover("r")
    hot.append("r", [], snapshot=make_state("r", data={"text": SECRET}))
    hot.fork("r", "f", at=9)
    hot.fork("f", "g", at=9)
    hot.recover("r")
    hot.append("r", [], snapshot=make_state("r"))
    for fork in ("f", "g"):
        assert hot.load_snapshot(fork) is not None
    with pytest.raises(ConfigurationError, match="run 'f'"):
        hot.erase("r", [4, 5], snapshots={None: make_state("r")})
    assert left(hot) == list(range(1, 10))
    hot.erase("r", [4, 5], drop_snapshots=True)
    assert SECRET.encode() not in bytes_of(redis_backend)
    for fork in ("f", "g"):
        assert hot.load_snapshot(fork) is None
        assert [item.offset for item in hot.recover(fork).events] == [1, 2, 3, 6, 7, 8, 9]


@pytest.mark.parametrize(("others", "told"), [(0, AcknowledgedWritesLost), (4, HistoryDiverged)])
def test_nothing_is_erased_of_another_history_than_its_caller_saw(
    redis_backend: RedisBackend, others: int, told: type[Exception]
) -> None:
    """A failover has lost the offsets that are named, and they are others' events by now."""
    mine, other, failover = open_hot(redis_backend), open_hot(redis_backend), Failover(redis_backend)
    mine.append("r", make_events("r", 3))
    failover.keep()
    mine.append("r", make_events("r", 3))
    failover.promote()
    if others:
        other.append("r", make_events("r", others))
    with pytest.raises(told):
        mine.erase("r", [4, 6])
    with pytest.raises(told):
        mine.truncate("r", before=6)
    assert len(left(other)) == 3 + others
    mine.forget("r")
    mine.erase("r", [2])
    assert left(other) == [1, *range(3, 4 + others)]


def test_nothing_of_an_erasure_is_left_of_a_run_that_is_deleted(redis_backend: RedisBackend, hot: Hot) -> None:
    run = session_of(hot).keys.run("r")
    start = redis_backend.raw.hget(run.meta, "start").decode()
    ask(hot, *erase_call(run, start=start, token="t", what="4", lease=None))
    step = rebuild_call(run, start=start, number=1, what="4")
    ask(hot, *step[:-3], "5 1000000", *step[-2:])
    assert redis_backend.raw.exists(run.rebuilt, run.erasures) == 2
    hot.delete_run("r")
    assert not [name for name in redis_backend.key_names() if ":run:" in name]
    assert ask(hot, *step) == [b"gone"]


def test_what_is_not_there_cannot_be_erased(hot: Hot) -> None:
    for offsets in ([10], [0], [3, 12]):
        with pytest.raises(ConfigurationError):
            hot.erase("r", offsets)
    with pytest.raises(ConfigurationError):
        hot.erase("another", [1])
    with pytest.raises(ConfigurationError):
        hot.truncate("r", before=11)
    assert hot.erasures("r") == hot.erasures("another") == []
