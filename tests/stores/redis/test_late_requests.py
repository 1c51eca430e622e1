"""P2: nothing of what was refused is applied, however late a request of it arrives that got no reply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runstream import LeaseHeld, LeaseLost, StoreUnavailable
from runstream.model.errors import ConcurrencyConflict, RunstreamError, TooManyHotEvents
from runstream.operations.operation import Exchange, Replies
from runstream.stores.redis.append_result import TooOld
from runstream.stores.redis.scripts.calls import lease_call
from runstream.stores.redis.session import in_flight
from tests.repair.restore.restoring_tools import come_back, dumps
from tests.support.backends import RedisBackend
from tests.support.operations import session_of
from tests.support.samples import make_event, make_events, make_state


class Late:
    """The line between a store and its server: the first request of an append arrives when the test says so."""

    def __init__(self, store: Any) -> None:
        driver = store._driver
        self._exchange = driver.exchange_once
        self.held: list[Exchange] = []
        self.lost: list[str] = []
        """What becomes of the next exchanges: held up, or their replies are lost."""
        driver.exchange_once = self._pass_on

    def _pass_on(self, exchange: Exchange) -> Replies:
        fate = self.lost.pop(0) if self.lost else ""
        if fate == "held up":
            self.held.append(exchange)
            raise StoreUnavailable("it is late")
        replies: Replies = self._exchange(exchange)
        if fate == "reply":
            raise StoreUnavailable("the reply is lost")
        return replies

    def arrive(self) -> None:
        """Let all arrive that was held up."""
        for exchange in self.held:
            self._exchange(exchange)


def test_a_late_request_to_take_a_lease_does_not_bring_it_back(redis_backend: RedisBackend) -> None:
    """Its holder, who was stopped meanwhile, has lost it to another, and finds it under another epoch."""
    store: Any = redis_backend.open(retry_seconds=5.0)
    other: Any = redis_backend.open()
    line = Late(store)
    line.lost = ["held up"]
    mine = store.lease("r", owner="me", lane_id="main", ttl=60.0)
    assert len(line.held) == 1
    other._driver.exchange_once(Exchange([lease_call(session_of(other).keys, "release", mine.grant)]))
    with other.lease("r", owner="other", lane_id="main") as lease:
        other.append("r", [make_event("r", 1)], lease=lease)
    line.arrive()
    with pytest.raises(LeaseLost):
        store.append("r", [make_event("r", 2)], lease=mine)
    renewed = store._driver.exchange_once(Exchange([lease_call(session_of(store).keys, "renew", mine.grant)]))
    assert renewed == [[b"lost"]]
    assert [item.event.seq for item in other.read("r")] == [1]


@pytest.mark.parametrize("waits", [True, False], ids=["the store repeats", "the caller repeats"])
def test_what_a_lease_refuses_is_not_applied_when_that_is_over(redis_backend: RedisBackend, waits: bool) -> None:
    """One event, as it goes the fast way."""
    store: Any = redis_backend.open(retry_seconds=5.0 if waits else 0)
    other: Any = redis_backend.open()
    store.append("r", make_events("r", 2))
    line = Late(store)
    line.lost = ["held up"]
    lease = other.lease("r", owner="other", lane_id="main")
    event = make_event("r", 3)
    if not waits:
        with pytest.raises(StoreUnavailable):
            store.append("r", [event])
    with pytest.raises(LeaseHeld):
        store.append("r", [event])
    lease.release()
    line.arrive()
    assert [item.event.seq for item in store.read("r")] == [1, 2]
    store.save_snapshot("r", make_state("r"))  # the run ends where it did
    line.arrive()
    assert [item.event.seq for item in store.read("r")] == [1, 2]
    assert store.append("r", [event]).first_offset == 3
    line.arrive()
    assert [item.event.seq for item in store.read("r")] == [1, 2, 3]


@pytest.mark.parametrize("arrives", ["before the loss is found", "after what was lost was put back"])
def test_what_was_lost_is_put_back_once_though_a_first_request_of_it_comes_late(
    redis_backend: RedisBackend, arrives: str
) -> None:
    """The server has lost that it had applied the batch, with the batch; what comes next has another producer."""
    store: Any = redis_backend.open(retry_seconds=0, resend_lost=True)
    store.append("r", make_events("r", 2))
    kept = dumps(redis_backend)
    line = Late(store)
    line.lost = ["held up"]
    events = make_events("r", 2, first=3)
    with pytest.raises(StoreUnavailable):
        store.append("r", events)
    store.append("r", events)
    store.append("r", [make_event("r", 5)])
    come_back(redis_backend, kept)
    redis_backend.open().append("r", [make_event("r", 1, lane_id="another")])
    if arrives.startswith("before"):
        line.arrive()
    store.append("r", [make_event("r", 6)])
    line.arrive()
    store.append("r", [make_event("r", 7)])
    assert [item.event.seq for item in store.read("r")] == [1, 2, 1, 3, 4, 5, 6, 7]


def test_what_was_revoked_stays_so_where_its_revocation_is_evicted(redis_backend: RedisBackend) -> None:
    """With all that was kept of producers, while the run was not written to."""
    store: Any = redis_backend.open(retry_seconds=5.0)
    other: Any = redis_backend.open()
    store.append("r", make_events("r", 2))
    line = Late(store)
    line.lost = ["held up"]
    with other.lease("r", owner="other", lane_id="main"), pytest.raises(LeaseHeld):
        store.append("r", [make_event("r", 3)])
    redis_backend.raw.delete(session_of(store).keys.run("r").producers)
    other.append("r", [make_event("r", 4)])
    line.arrive()
    assert [item.event.seq for item in store.read("r")] == [1, 2, 4]


def test_what_was_too_old_to_be_sent_again_is_not_applied_late(
    redis_backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It got no reply for so long that its producer might have been forgotten, and had not been."""
    store: Any = redis_backend.open(retry_seconds=0)
    store.append("r", make_events("r", 2))
    line = Late(store)
    line.lost = ["held up"]
    event = make_event("r", 3)
    with pytest.raises(StoreUnavailable):
        store.append("r", [event])
    redis_backend.open().append("r", [make_event("r", 1, lane_id="another")])
    with monkeypatch.context() as patched:
        patched.setattr(in_flight, "PRODUCER_WINDOW_SECONDS", 0)
        with pytest.raises(TooOld):
            store.append("r", [event])
    line.arrive()
    store.append("r", [make_event("r", 4)])
    line.arrive()
    assert [item.event.seq for item in store.read("r")] == [1, 2, 1, 4]


def test_what_was_applied_late_is_told(redis_backend: RedisBackend) -> None:
    """It arrives between the refusal and its revocation."""
    store: Any = redis_backend.open(retry_seconds=5.0)
    other: Any = redis_backend.open()
    store.append("r", make_events("r", 2))
    line = Late(store)
    line.lost = ["held up"]
    lease, pass_on = other.lease("r", owner="other", lane_id="main"), line._exchange

    def arrive_before_it_is_revoked(exchange: Exchange) -> Replies:
        if (
            len(line.held) == 1
            and exchange is not line.held[0]
            and exchange.commands[0] != line.held[0].commands[0]
        ):
            lease.release()
            line.arrive()
        replies: Replies = pass_on(exchange)
        return replies

    line._exchange = arrive_before_it_is_revoked
    assert store.append("r", [make_event("r", 3)]).first_offset == 3
    assert [item.event.seq for item in store.read("r")] == [1, 2, 3]


def test_where_the_revocation_gets_no_reply_the_outcome_is_unknown(redis_backend: RedisBackend) -> None:
    """And known with the next call; what was revoked is not taken for applied."""
    store: Any = redis_backend.open(retry_seconds=0)
    other: Any = redis_backend.open()
    store.append("r", make_events("r", 2))
    line = Late(store)
    line.lost = ["held up", "", "reply"]
    lease = other.lease("r", owner="other", lane_id="main")
    event = make_event("r", 3)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            store.append("r", [event])
    lease.release()
    assert store.append("r", [event]).first_offset == 3
    line.arrive()
    assert [item.event.seq for item in store.read("r")] == [1, 2, 3]


def test_a_lost_revocation_tells_what_refused_the_batch(redis_backend: RedisBackend) -> None:
    """Its caller sends it again by what the error carries."""
    store: Any = redis_backend.open(retry_seconds=0)
    other: Any = redis_backend.open()
    run = store.open_run("r")
    run.emit("tool_result", {})
    line = Late(store)
    line.lost = ["held up"]
    lease = other.lease("r", owner="other", lane_id="main")
    with pytest.raises(StoreUnavailable) as caught:
        run.emit("tool_result", {"late": True})
    again = caught.value.resend
    assert again is not None
    line.lost = ["", "reply"]
    with pytest.raises(StoreUnavailable):
        again()
    lease.release()
    with pytest.raises(LeaseHeld):
        again()
    line.arrive()
    assert store.run_info("r").last_offset == 1


@pytest.mark.parametrize("kind", ["offset", "full", "own lease"])
def test_every_refusal_is_for_good(redis_backend: RedisBackend, kind: str) -> None:
    store: Any = redis_backend.open(retry_seconds=5.0, max_hot_events=4 if kind == "full" else None)
    other: Any = redis_backend.open()
    store.append("r", make_events("r", 2), snapshot=make_state("r"))
    line = Late(store)
    event, lane = make_event("r", 9), make_event("r", 9, lane_id="other")
    call: Callable[[], Any]
    refused: type[RunstreamError] = ConcurrencyConflict
    if kind == "own lease":
        lease = store.lease("r", owner="us", lane_id="main", ttl=600)
        meta, field = session_of(store).keys.run("r").meta, "lease:main"
        value = redis_backend.raw.hget(meta, field)
        redis_backend.raw.hdel(meta, field)
        refused, call = LeaseLost, lambda: lease.append("r", [event])
    elif kind == "offset":
        call = lambda: store.append("r", [event], expected_offset=3)  # noqa: E731 - as the others
    else:
        other.append("r", make_events("r", 2, first=3))
        refused, call = TooManyHotEvents, lambda: store.append("r", [event])
    line.lost = ["held up"]
    with pytest.raises(refused):
        call()
    if kind == "own lease":
        redis_backend.raw.hset(meta, field, value)
    elif kind == "offset":
        other.append("r", [lane])
    else:
        redis_backend.raw.xtrim(session_of(store).keys.run("r").events, maxlen=3)
    before = store.run_info("r").last_offset
    line.arrive()
    assert store.run_info("r").last_offset == before
