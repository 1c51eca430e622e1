"""P2 and P4: an append that is sent again is applied once; writes that the server has lost are seen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from runstream import (
    AcknowledgedWritesLost,
    AsyncRedisCheckpointer,
    DrainWorker,
    HistoryDiverged,
    RedisCheckpointer,
    SQLiteCheckpointer,
    StoreUnavailable,
)
from runstream.operations.operation import Exchange, Replies
from runstream.stores.redis.scripts import calls
from runstream.stores.redis.session import in_flight
from runstream.stores.redis.session.seen import ServerClock
from tests.support.backends import Backend, RedisBackend, latest
from tests.support.cluster import server_transport
from tests.support.failover import Failover
from tests.support.kinds import on_every_server
from tests.support.line import Line
from tests.support.operations import session_of
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import Server

Hot = RedisCheckpointer[Any, Any]


def open_hot(backend: Backend, **options: Any) -> Hot:
    store = backend.open(retry_seconds=0, **options)
    assert isinstance(store, RedisCheckpointer)
    return store


@pytest.fixture
def hot(redis_backend: RedisBackend) -> Hot:
    return open_hot(redis_backend)


@pytest.fixture
def line(hot: Hot) -> Line:
    return Line(hot)


@pytest.fixture(params=["request", "reply"])
def lost_part(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def spans(store: Any, run_id: str = "r") -> list[str]:
    return [item.event.span_id for item in store.read(run_id)]


@on_every_server
def test_a_single_event_and_a_batch_that_are_sent_again_are_applied_once(
    hot: Hot, line: Line, lost_part: str
) -> None:
    """Whichever part was lost; the resend gets the offsets that the first one would have got."""
    hot.append("r", make_events("r", 2))
    for batch in (make_events("r", 1), make_events("r", 5)):
        stands = len(spans(hot))
        line.cut(lost_part)
        with pytest.raises(StoreUnavailable):
            hot.append("r", batch)
        appended = hot.append("r", batch)
        assert (appended.first_offset, appended.last_offset) == (stands + 1, stands + len(batch))
        assert spans(hot)[stands:] == [event.span_id for event in batch]


def test_every_run_of_a_call_is_applied_once(hot: Hot, line: Line, lost_part: str) -> None:
    """save_events over several runs in one round trip."""
    events = [make_event(run_id, seq) for seq in range(3) for run_id in "abc"]
    line.cut(lost_part, lost_part)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            hot.save_events(events)
    hot.save_events(events)
    for run_id in "abc":
        assert spans(hot, run_id) == [event.span_id for event in events if event.run_id == run_id]


@on_every_server
def test_events_with_a_snapshot_are_applied_once(hot: Hot, line: Line, lost_part: str) -> None:
    """One revision, and it covers what it would have covered."""
    events, state = make_events("r", 3), make_state("r", purpose="once")
    line.cut(lost_part)
    with pytest.raises(StoreUnavailable):
        hot.append("r", events, snapshot=state)
    hot.append("r", events, snapshot=state)
    snapshot = hot.load_snapshot("r")
    assert snapshot is not None
    assert (snapshot.state.purpose, snapshot.revision, snapshot.offset) == ("once", 1, 3)
    assert len(spans(hot)) == 3


def test_a_snapshot_that_is_sent_again_does_not_replace_a_newer_one(
    redis_backend: RedisBackend, hot: Hot, line: Line
) -> None:
    """It was applied before the newer one was saved: its resend changes nothing."""
    old = make_state("r", purpose="old")
    line.cut("reply")
    with pytest.raises(StoreUnavailable):
        hot.save_snapshot("r", old)
    open_hot(redis_backend).save_snapshot("r", make_state("r", purpose="new"))
    hot.save_snapshot("r", old)
    state = hot.load_latest("r")
    assert state is not None
    assert state.purpose == "new"


def test_what_waits_is_resolved_before_anything_else_of_the_run(hot: Hot, line: Line, lost_part: str) -> None:
    """Another append goes out after it; the caller that repeats it later gets its own first reply."""
    first, second = make_events("r", 2), make_events("r", 3)
    line.cut(lost_part)
    with pytest.raises(StoreUnavailable):
        hot.append("r", first)
    assert hot.append("r", second).first_offset == 3
    assert hot.append("r", first)[:2] == (1, 2)
    assert spans(hot) == [event.span_id for event in first + second]


def test_other_runs_do_not_wait(hot: Hot, line: Line) -> None:
    """What is unknown of one run holds up no other."""
    line.cut("reply")
    with pytest.raises(StoreUnavailable):
        hot.save_event(make_event("r"))
    line.cut()
    hot.save_event(make_event("other"))
    assert line.sent == 1


@on_every_server
def test_a_resend_is_known_after_its_entries_were_archived_and_trimmed(
    hot: Hot, line: Line, tmp_path: Any
) -> None:
    """The producer's memory does not hang on the entries."""
    events = make_events("r", 4)
    line.cut("reply")
    with pytest.raises(StoreUnavailable):
        hot.append("r", events)
    with SQLiteCheckpointer[Any, Any](tmp_path / "a.db") as archive:
        DrainWorker(hot, [archive], trim="archived").drain_once()
        assert hot.append("r", events)[:2] == (1, 4)
        DrainWorker(hot, [archive], trim="archived").drain_once()
        assert spans(archive) == [event.span_id for event in events]


def test_a_batch_that_is_too_old_is_refused_rather_than_applied_twice(
    hot: Hot, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may have forgotten its producer: it is not sent again, and the next append goes on."""
    events = make_events("r", 2)
    line.cut("request")
    monkeypatch.setattr(calls, "PRODUCER_WINDOW_SECONDS", 0)
    monkeypatch.setattr(in_flight, "PRODUCER_WINDOW_SECONDS", 0)
    session_of(hot).server_clock.update(b"1")  # told by a reply of long ago
    with pytest.raises(StoreUnavailable):
        hot.append("r", events)
    with pytest.raises(StoreUnavailable, match="can no longer be told"):
        hot.append("r", events)
    assert hot.run_info("r") is None


def test_a_clock_that_is_behind_delays_nothing(hot: Hot) -> None:
    """A batch that only looks old is sent again at once, with the time that the server told."""
    hot.save_event(make_event("r"))
    session_of(hot).server_clock.update(b"1", reset=True)
    hot.save_event(make_event("r"))
    assert len(spans(hot)) == 2


def test_an_ordinary_append_is_known_after_ordinary_ones_of_others(
    redis_backend: RedisBackend, hot: Hot, line: Line
) -> None:
    """Two others have read the run, so that they go right on from its end; its resend gets the first reply."""
    hot.save_event(make_event("r", 1))
    event = make_event("r", 2)
    line.cut("reply")
    with pytest.raises(StoreUnavailable):
        hot.append("r", [event])
    for seq in (3, 4):
        other = open_hot(redis_backend)
        assert spans(other)
        other.save_event(make_event("r", seq))
        other.save_event(make_event("r", seq))
    appended = hot.append("r", [event])
    assert appended[:2] == (2, 2)
    assert appended.cursor == str(next(item.cursor for item in hot.read("r") if item.offset == 2))
    assert [item.event.seq for item in hot.read("r")] == [1, 2, 3, 3, 4, 4]


def test_the_last_ordinary_append_is_known_after_its_run_was_retired(hot: Hot, line: Line, tmp_path: Path) -> None:
    """Its reply is lost, the run leaves Redis, the resend gets the first reply."""
    hot.save_event(make_event("r", 1, kind="run.finished"))
    event = make_event("r", 2)
    line.cut("reply")
    with pytest.raises(StoreUnavailable):
        hot.append("r", [event])
    with SQLiteCheckpointer[Any, Any](tmp_path / "a.db") as archive:
        for _ in range(2):
            DrainWorker(hot, [archive], retire_after_seconds=0).drain_once()
        events = session_of(hot).keys.run("r").events
        assert not server_transport(hot, events)._client.exists(events)
        assert hot.append("r", [event])[:2] == (2, 2)
        assert [item.event.seq for item in archive.read("r")] == [1, 2]


def test_a_clock_is_set_within_a_second_too() -> None:
    """Of each second the first reply counts, unless what was believed is to be given up."""
    clock = ServerClock()
    clock.update(b"5000000")
    told = clock.now()
    clock.update(b"5999999")
    now = clock.now()
    assert told is not None
    assert now is not None
    assert now - told < 900_000
    clock.update(b"5999999", reset=True)
    now = clock.now()
    assert now is not None
    assert now >= 5_999_999


def test_silent_producers_are_forgotten(redis_backend: RedisBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run does not remember every process that ever wrote to it."""
    monkeypatch.setattr(calls, "PRODUCER_WINDOW_SECONDS", 0)
    for _ in range(60):
        store = open_hot(redis_backend)
        session_of(store).server_clock = NoClock()  # a process that does not know the time yet
        store.save_event(make_event("r"))
    assert redis_backend.raw.hlen(session_of(store).keys.run("r").producers) <= 17
    assert len(spans(store)) == 60


class NoClock:
    def now(self) -> None:
        return None

    def update(self, server_time: int, *, reset: bool = False) -> None:
        pass


def test_threads_of_one_store_are_applied_once_each(hot: Hot, line: Line) -> None:
    """Two of three exchanges are cut in some part; each of four threads repeats what it sent."""
    line.cut(*["request", "reply", ""] * 200)
    sent: dict[int, list[str]] = {number: [] for number in range(4)}

    def write(number: int) -> None:
        for seq in range(10):
            event = make_event("r", seq, lane_id=str(number))
            until_taken(lambda event=event: hot.save_event(event))  # type: ignore[misc] # bound now
            sent[number].append(event.span_id)

    with ThreadPoolExecutor(4) as pool:
        for written in [pool.submit(write, number) for number in range(4)]:
            written.result(30)
    line.cut()
    recorded = list(hot.read("r"))
    assert len(recorded) == 40
    for number, span_ids in sent.items():
        assert [item.event.span_id for item in recorded if item.event.lane_id == str(number)] == span_ids


def until_taken(call: Callable[[], None]) -> None:
    """Repeat a call until it gets its reply."""
    for _ in range(1000):
        try:
            return call()
        except StoreUnavailable:
            continue
    raise AssertionError("it never got a reply")


async def test_a_cancelled_append_is_resolved_before_the_next(server: Server, namespace: str) -> None:
    """Cancelled while its reply is on the way: it is there once, before what came after."""
    client = redis.asyncio.Redis(unix_socket_path=server.socket_path)
    store: AsyncRedisCheckpointer[Any, Any] = AsyncRedisCheckpointer(client, namespace=namespace)
    await store.open()
    held = asyncio.Event()
    driver: Any = store._driver
    exchange_once = driver.exchange_once

    async def hold_reply(exchange: Exchange) -> Replies:
        replies: Replies = await exchange_once(exchange)
        held.set()
        await asyncio.Event().wait()
        return replies

    driver.exchange_once = hold_reply
    first, second = make_event("r", 1), make_event("r", 2)
    task = asyncio.create_task(store.save_event(first))
    await held.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    driver.exchange_once = exchange_once
    await store.save_event(second)
    await store.save_event(first)
    assert [item.event.span_id async for item in store.read("r")] == [first.span_id, second.span_id]
    await store.delete_run("r")
    server.raw.delete(*server.raw.scan_iter(f"{{{namespace}*"))
    await client.aclose()


# -- P4 ----------------------------------------------------------------------------------------------


@pytest.fixture
def real_backend(server: Server, make_backend: Callable[[str], Backend]) -> RedisBackend:
    backend = make_backend(server.name)
    assert isinstance(backend, RedisBackend)
    return backend


@pytest.fixture
def failover(real_backend: RedisBackend) -> Failover:
    return Failover(real_backend)


def test_a_writer_is_told_that_its_acknowledged_events_are_lost(
    real_backend: RedisBackend, failover: Failover
) -> None:
    """With the offsets; nothing is written until it takes the present as it is."""
    hot = open_hot(real_backend)
    hot.append("r", make_events("r", 3))
    failover.keep()
    hot.append("r", make_events("r", 4))
    failover.promote()
    for call in (
        lambda: hot.save_event(make_event("r")),
        lambda: hot.list_events("r"),
        lambda: list(hot.read("r")),
        lambda: hot.recover("r"),
    ):
        with pytest.raises(AcknowledgedWritesLost) as caught:
            call()
        assert (caught.value.run_id, caught.value.last_seen, caught.value.last_present) == ("r", 7, 3)
    hot.forget("r")
    assert hot.append("r", make_events("r", 1)).first_offset == 4


def test_a_writer_is_told_even_if_others_have_filled_the_offsets(
    real_backend: RedisBackend, failover: Failover
) -> None:
    """The chain at the place that it saw is another one; so it is for a cursor from any process."""
    hot, other = open_hot(real_backend), open_hot(real_backend)
    hot.append("r", make_events("r", 3))
    failover.keep()
    cursor = hot.append("r", make_events("r", 2)).cursor
    failover.promote()
    for more in (2, 1, 4):  # as many as were lost, then more
        other.append("r", make_events("r", more))
        with pytest.raises(HistoryDiverged):
            hot.save_event(make_event("r"))
        with pytest.raises(HistoryDiverged):
            hot.list_events("r")
        with pytest.raises(HistoryDiverged):
            list(open_hot(real_backend).read("r", cursor))
    assert len(spans(other)) == 10


@pytest.mark.parametrize(("others", "told"), [(0, AcknowledgedWritesLost), (3, HistoryDiverged)])
def test_a_writer_is_told_though_another_caller_forgets_the_run_meanwhile(
    real_backend: RedisBackend, failover: Failover, others: int, told: type[Exception]
) -> None:
    """The reply is to what was sent: another task of the same store gets its own reply first, and forgets."""
    hot, other = open_hot(real_backend), open_hot(real_backend)
    hot.append("r", make_events("r", 3))
    failover.keep()
    hot.append("r", make_events("r", 2))
    failover.promote()
    if others:
        other.append("r", make_events("r", others))
    driver: Any = hot._driver
    exchange_once = driver.exchange_once

    def forget_meanwhile(exchange: Exchange) -> Replies:
        replies: Replies = exchange_once(exchange)
        hot.forget("r")
        return replies

    driver.exchange_once = forget_meanwhile
    with pytest.raises(told) as caught:
        hot.save_event(make_event("r"))
    assert 5 in (getattr(caught.value, "last_seen", None), getattr(caught.value, "offset", None))


def test_a_run_that_was_lost_as_a_whole_is_lost_and_not_new(
    real_backend: RedisBackend, failover: Failover
) -> None:
    """Whether it is missing, or others have created it anew."""
    hot, other = open_hot(real_backend), open_hot(real_backend)
    failover.keep()
    hot.append("r", make_events("r", 3))
    failover.promote()
    with pytest.raises(AcknowledgedWritesLost):
        hot.save_event(make_event("r"))
    other.append("r", make_events("r", 5))
    with pytest.raises(AcknowledgedWritesLost):
        hot.save_event(make_event("r"))
    with pytest.raises(AcknowledgedWritesLost):
        hot.list_events("r")


def test_there_is_no_alarm_without_a_loss(redis_backend: RedisBackend, tmp_path: Any) -> None:
    """Other writers, trimming, deleting, and creating anew after that are no loss."""
    hot, other = open_hot(redis_backend), open_hot(redis_backend)
    hot.append("r", make_events("r", 3))
    other.append("r", make_events("r", 3))
    hot.append("r", make_events("r", 1))
    with SQLiteCheckpointer[Any, Any](tmp_path / "a.db") as archive:
        DrainWorker(other, [archive], trim="archived").drain_once()
    hot.append("r", make_events("r", 1))
    assert spans_after(other, 7) == spans_after(hot, 7)
    other.delete_run("r")
    assert hot.list_events("r") == []
    assert hot.append("r", make_events("r", 1)).first_offset == 1
    hot.delete_run("r")
    other.append("r", make_events("r", 9))
    assert len(spans(hot)) == 9
    assert hot.append("r", make_events("r", 1)).first_offset == 10


def spans_after(store: Hot, offset: int) -> list[str]:
    return [item.event.span_id for item in store.read("r", offset)]


# -- callers that share a store object


@pytest.mark.one_in(3, exhaustively=3)  # they share what is here: each server keeps replies as another does
def test_threads_that_repeat_their_calls_while_connections_die_write_each_event_once(
    server: Server, namespace: str, make_backend: Callable[[str], Backend]
) -> None:
    """Each of them repeats what was in doubt, and whoever comes first settles for all."""
    backend = make_backend(server.name)
    assert isinstance(backend, RedisBackend)
    with server.client(retry=Retry(NoBackoff(), 0), client_name=namespace) as client:
        store = RedisCheckpointer[Any, Any](client, namespace=namespace, retry_seconds=0)
        in_doubt = 0

        def write(lane: int) -> None:
            nonlocal in_doubt
            for seq in range(80):
                event = make_event("r", seq, lane_id=str(lane))
                while True:
                    try:
                        store.save_event(event)
                        break
                    except StoreUnavailable:
                        in_doubt += 1

        with ThreadPoolExecutor(4) as threads:
            writing = [threads.submit(write, lane) for lane in range(4)]
            while not all(writer.done() for writer in writing):
                time.sleep(0.003)  # so that most appends come through
                for connection in server.raw.client_list():
                    if connection["name"] == namespace:
                        server.raw.client_kill_filter(_id=connection["id"])
            for writer in writing:
                writer.result()
    events = backend.open().list_events("r")
    assert in_doubt > 0
    assert len(events) == 320
    assert len({event.span_id for event in events}) == 320


def test_a_call_over_many_runs_that_is_repeated_is_applied_once(hot: Hot, line: Line) -> None:
    """However many there are, what became of each is known."""
    events = [make_event(f"r{number}") for number in range(600)]
    line.cut("reply")
    with pytest.raises(StoreUnavailable):
        hot.save_events(events)
    hot.save_events(events)
    assert [info.last_offset for info in hot.runs()] == [1] * 600


def test_a_state_that_is_saved_again_later_is_saved(hot: Hot, line: Line) -> None:
    """That an equal one got no reply long before, and was settled since, says nothing of this one."""
    first, second = make_state("r", purpose="first"), make_state("r", purpose="second")
    line.cut("reply")
    with pytest.raises(StoreUnavailable):
        hot.save_snapshot("r", first)
    hot.save_event(make_event("r"))
    hot.save_snapshot("r", second)
    hot.save_snapshot("r", first)
    assert latest(hot, "r").purpose == "first"


def test_a_deletion_that_is_repeated_spares_a_new_run_of_that_name(
    hot: Hot, line: Line, redis_backend: RedisBackend
) -> None:
    """It names the run that it began with, and gets its first reply."""
    other = open_hot(redis_backend)
    hot.save_event(make_event("r", 1))
    line.cut("", "reply")
    with pytest.raises(StoreUnavailable):
        hot.delete_run("r")
    other.save_event(make_event("r", 2))
    assert hot.delete_run("r") is True
    assert [event.seq for event in other.list_events("r")] == [2]
    assert hot.delete_run("r") is True
    assert other.list_events("r") == []


def test_what_a_full_server_refused_is_taken_when_there_is_room_again(
    server: Server, make_backend: Callable[[str], Backend]
) -> None:
    """Nothing was written, so nothing is unknown: the same call goes out anew, alone or with others."""
    backend = make_backend(server.name)
    hot, events = open_hot(backend), [make_event(run_id) for run_id in "rs"]
    hot.save_event(make_event("q"))
    server.raw.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable, match="full"):
            hot.save_event(events[0])
        with pytest.raises(StoreUnavailable, match="full"):
            hot.save_events(events)
    finally:
        server.raw.config_set("maxmemory", 0)
    hot.save_events(events)
    assert [spans(hot, event.run_id) for event in events] == [[event.span_id] for event in events]


def test_a_full_server_tells_what_it_has_applied(server: Server, make_backend: Callable[[str], Backend]) -> None:
    """Or the batch would be taken for refused, and be sent anew when there is room again."""
    hot, events = open_hot(make_backend(server.name)), make_events("r", 2)
    line = Line(hot)
    line.cut("reply")
    with pytest.raises(StoreUnavailable):
        hot.append("r", events)
    server.raw.config_set("maxmemory", 1)
    try:
        assert hot.append("r", events)[:2] == (1, 2)
    finally:
        server.raw.config_set("maxmemory", 0)
    assert len(spans(hot)) == 2
