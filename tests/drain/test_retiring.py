"""Retiring and forgetting: what leaves Redis was proven, what is left goes on, nobody is told a wrong thing."""

from __future__ import annotations

import random
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    AcknowledgedWritesLost,
    ConcurrencyConflict,
    ConfigurationError,
    DrainReport,
    DrainWorker,
    EventKind,
    EventsArchived,
    HistoryDiverged,
    JSONLCheckpointer,
    RedisCheckpointer,
    SQLiteCheckpointer,
    StoreUnavailable,
)
from runstream.codec.chain import next_chain
from runstream.codec.record import record_crc
from runstream.drain.reach import Reach
from runstream.drain.retire import Retiring
from runstream.model.results import Cursor
from runstream.stores.redis.exchange import Exchange, Replies
from runstream.stores.redis.operations.worker import drain, retire
from runstream.stores.redis.operations.worker.retire import Fit
from runstream.stores.redis.scripts.calls import PRODUCER_WINDOW_SECONDS
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import Backend, FakeBackend, RedisBackend, ServerBackend
from tests.support.drain_tools import Hooked, open_archives
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import PROGRAMS, Servers, eventually

Hot = RedisCheckpointer[Any, Any]

TOMBSTONE_BYTES = 250
CHUNK_BYTES = 16
"""What glibc gives on top where what is left of a free piece is too small to be one."""


def open_hot(backend: Backend, **options: Any) -> Hot:
    store = backend.open(retry_seconds=0, **options)
    assert isinstance(store, RedisCheckpointer)
    return store


@pytest.fixture
def hot(redis_backend: RedisBackend) -> Hot:
    return open_hot(redis_backend)


@pytest.fixture
def raw(redis_backend: RedisBackend) -> Any:
    return redis_backend.raw


def retire_all(hot: Hot, archives: list[Archive], **options: Any) -> DrainReport:
    """Drain what is due, and retire all that has ended."""
    return DrainWorker(hot, archives, **{"retire_after_seconds": 0, **options}).drain_once()


def ended(run_id: str, count: int = 4, *, first: int = 1, **fields: Any) -> list[Any]:
    """Events of which the last ends the run."""
    events = make_events(run_id, count - 1, first=first, **fields)
    return [*events, make_event(run_id, first + count - 1, kind=EventKind.RUN_FINISHED, **fields)]


def members(raw: Any, key: str) -> list[str]:
    return [member.decode() for member in raw.zrange(key, 0, -1)]


def tamper(archive: Archive, statement: str, at_least: int = 1) -> None:
    with closing(sqlite3.connect(archive.location.removeprefix("sqlite:"))) as connection, connection:
        assert connection.execute(statement).rowcount >= at_least


class Line:
    """The line between a store and its server, which a test cuts: before a request arrives, or its reply."""

    def __init__(self, store: Hot) -> None:
        driver: Any = store._driver
        self._exchange = driver._exchange_once
        self._cuts: list[str] = []
        self.sent = 0
        driver._exchange_once = self._pass_on

    def cut(self, *where: str) -> None:
        """Lose the next requests or replies."""
        self._cuts = list(where)
        self.sent = 0

    def _pass_on(self, exchange: Exchange) -> Replies:
        self.sent += len(exchange.commands)
        where = self._cuts.pop(0) if self._cuts else ""
        if where == "request":
            raise StoreUnavailable("the request was lost")
        replies: Replies = self._exchange(exchange)
        if where == "reply":
            raise StoreUnavailable("the reply was lost")
        return replies


# -- the tombstone -----------------------------------------------------------------------------------------


def test_a_run_that_has_ended_leaves_only_a_tombstone(
    redis_backend: RedisBackend, hot: Hot, raw: Any, archives: list[Archive]
) -> None:
    """No events, no snapshots, no lanes; it is listed as before, and the archives have all of it."""
    events = ended("r", session_id="s")
    appended = hot.append("r", events, snapshot=make_state("r", status="completed", session_id="s"))
    hot.append("r", [], snapshot=make_state("r"), lane_id="main")
    before = hot.run_info("r")
    keys = hot.context.keys.run("r")
    start, producers = raw.hget(keys.meta, "start"), raw.hgetall(keys.producers)

    report = retire_all(hot, archives)

    assert (report.retired, report.forgotten, report.parked, report.trimmed) == (1, 0, 0, 4)
    meta = raw.hgetall(keys.meta)
    assert set(meta) == {b"start", b"last", b"status", b"session", b"created", b"updated", b"retired"}
    assert (meta[b"start"], meta[b"last"], meta[b"retired"]) == (start, appended.cursor.encode(), b"1 1")
    assert not raw.exists(keys.events, keys.snapshot(None), keys.snapshot("main"))
    assert raw.hgetall(keys.producers) == producers
    assert 0 < raw.pttl(keys.producers) <= PRODUCER_WINDOW_SECONDS * 1000
    partition = keys.partition
    assert members(raw, partition.retired) == members(raw, partition.runs) == ["r"]
    assert not raw.exists(partition.due, partition.retire)
    assert before is not None
    for listed in (hot.run_info("r"), *hot.runs(), *hot.runs(session_id="s", status="completed")):
        assert listed is not None
        assert (listed.last_offset, listed.archived_offset, listed.first_hot) == (4, 4, 5)
        assert (listed.created_at, listed.updated_at, listed.session_id) == (
            before.created_at,
            before.updated_at,
            "s",
        )
    assert hot.list_runs() == ["r"]
    check_archives(archives, {"r": events})
    assert retire_all(hot, archives) == DrainReport()


def unended(hot: Hot, raw: Any) -> None:
    hot.save_event(make_event("r", 5, kind=EventKind.RUN_STARTED))


def appended_since(hot: Hot, raw: Any) -> None:
    hot.save_event(make_event("r", 5))


def saved_since(hot: Hot, raw: Any) -> None:
    hot.save_snapshot("r", make_state("r", status="completed"))


def lane_saved_since(hot: Hot, raw: Any) -> None:
    hot.append("r", [], snapshot=make_state("r"), lane_id="main")


def parked(hot: Hot, raw: Any) -> None:
    (run,) = hot.perform(drain.load(hot.context.keys, ["r"]))
    assert run is not None
    hot.perform(drain.park(hot.context.keys, run.header, "why", 60))


def marked_less(hot: Hot, raw: Any) -> None:
    """As after a failover that lost the settling but not what is due."""
    raw.hset(hot.context.keys.run("r").meta, "mark", raw.hget(hot.context.keys.run("r").meta, "start"))


def not_ended(hot: Hot, raw: Any) -> None:
    raw.hset(hot.context.keys.run("r").meta, "status", "paused")


@pytest.mark.parametrize(
    "change", [unended, appended_since, saved_since, lane_saved_since, parked, marked_less, not_ended]
)
def test_a_run_that_is_not_fit_any_more_stays(
    redis_backend: RedisBackend, hot: Hot, raw: Any, archives: list[Archive], change: Callable[[Hot, Any], None]
) -> None:
    """The script decides by what is there now, whatever the worker saw: all stays, but its place in `retire`."""
    hot.append("r", ended("r"))
    DrainWorker(hot, archives, trim="never").drain_once()
    keys = hot.context.keys.run("r")
    assert members(raw, keys.partition.retire) == ["r"]
    (run,) = hot.perform(drain.load(hot.context.keys, ["r"]))
    assert run is not None
    change(hot, raw)
    before = redis_backend.footprint()
    for fit in (Fit("r", run.header, run.tokens), Fit("r", run.header, {None: "other"})):
        (outcome,) = retire_now(hot, archives, fit)
        assert outcome.name == "unfit"
    assert before.pop(keys.partition.retire)
    assert redis_backend.footprint() == before


def retire_now(hot: Hot, archives: list[Archive], fit: Fit, quiet: float = 0) -> list[retire.Outcome]:
    ids = [archive.archive_id for archive in archives]
    return hot.perform(retire.retire(hot.context.keys, [fit], quiet, ids))


def fit_of(hot: Hot, run_id: str = "r") -> Fit:
    (run,) = hot.perform(drain.load(hot.context.keys, [run_id]))
    assert run is not None
    return Fit(run_id, run.header, run.tokens)


def test_a_run_is_retired_only_after_it_was_quiet_and_while_nobody_has_a_lease_on_it(
    hot: Hot, raw: Any, archives: list[Archive]
) -> None:
    """It is looked at again when it will have been: nobody has to settle it for that."""
    hot.append("r", ended("r"))
    DrainWorker(hot, archives).drain_once()
    partition = hot.context.keys.run("r").partition
    raw.zadd(partition.retire, {"r": 5})
    assert retire_now(hot, archives, fit_of(hot), quiet=60)[0].name == "later"
    updated = raw.zscore(partition.retire, "r")
    assert updated == int(raw.hget(hot.context.keys.run("r").meta, "updated"))
    with hot.lease("r", owner="us", lane_id="main", ttl=30) as lease:
        assert retire_all(hot, archives).retired == 0
        assert raw.zscore(partition.retire, "r") > updated + 20_000_000
        lease.check()
    raw.zadd(partition.retire, {"r": 5})
    assert retire_all(hot, archives).retired == 1


def test_a_worker_looks_only_at_what_was_quiet(hot: Hot, archives: list[Archive]) -> None:
    hot.append("r", ended("r"))
    assert retire_all(hot, archives, retire_after_seconds=60).retired == 0
    worker = DrainWorker(hot, archives, retire_after_seconds=0.1)
    eventually(lambda: worker.drain_once().retired)


def retiring_of(hot: Hot, archives: list[Archive], forget_after: float | None = None) -> Retiring:
    return Retiring(Reach(hot), archives, 0, forget_after, park_seconds=60)


def test_a_run_that_another_archive_is_to_have_by_now_is_not_retired(
    hot: Hot, raw: Any, archives: list[Archive]
) -> None:
    """The partition's own set decides; and an archive that does not have the run is to get it first."""
    events = ended("r")
    hot.append("r", events)
    DrainWorker(hot, archives[:1]).drain_once()
    partition = hot.context.keys.run("r").partition
    raw.hset(partition.archives, archives[1].archive_id, archives[1].location)
    with pytest.raises(ConfigurationError, match="must also be archived in jsonl"):
        retiring_of(hot, archives[:1]).all_due()
    assert retiring_of(hot, archives).all_due() == DrainReport(parked=1)
    assert b"has it up to" in raw.hget(partition.parked, "r")
    assert hot.list_events("r") == events
    raw.zadd(partition.due, {"r": 5})  # its time has come
    for other in hot.context.keys.partitions:
        raw.hset(other.archives, mapping={archive.archive_id: archive.location for archive in archives})
    assert retire_all(hot, archives).retired == 1
    check_archives(archives, {"r": events})


@pytest.mark.parametrize("lost", ["events", "snapshots"])
def test_what_an_archive_has_lost_since_is_not_removed_from_redis(
    fake: FakeBackend, tmp_path: Path, lost: str
) -> None:
    """A file that was put back from a copy: the run is parked, says which archive lacks what, and stays."""
    hot = open_hot(fake)
    hot.append("r", ended("r"), snapshot=make_state("r", status="completed"))
    hot.append("other", ended("other"))
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "archive.db")) as archive:
        DrainWorker(hot, [archive], trim="never").drain_once()
        tamper(archive, f"DELETE FROM {lost} WHERE run_id = 'r' AND offset = 4")
        if lost == "events":
            tamper(archive, "UPDATE runs SET last_offset = 3 WHERE run_id = 'r'", at_least=0)
        assert retiring_of(hot, [archive]).all_due() == DrainReport(parked=1, retired=1, trimmed=4)
        reason = fake.raw.hget(hot.context.keys.run("r").partition.parked, "r").decode()
        assert "nothing was removed" in reason
        assert len(hot.list_events("r")) == 4
        assert hot.load_latest("r") is not None


def test_a_run_whose_snapshots_are_not_those_that_were_compared_stays(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    """Whatever the worker asked the archives for, it was not these."""
    hot.append("r", ended("r"), snapshot=make_state("r", status="completed"))
    hot.append("r", [], snapshot=make_state("r"), lane_id="main")
    DrainWorker(hot, archives).drain_once()
    fit, before = fit_of(hot), redis_backend.footprint()
    of_run: dict[str | None, str] = {None: fit.tokens[None]}
    for tokens in ({}, of_run, {**of_run, "main": "another"}):
        (outcome,) = retire_now(hot, archives, fit._replace(tokens=tokens))
        assert outcome.name == "changed"
    assert redis_backend.footprint() == before
    assert retire_now(hot, archives, fit)[0].name == "ok"


@pytest.mark.parametrize("count", [0, 4])
def test_a_tombstone_is_not_retired_again(
    redis_backend: RedisBackend, hot: Hot, raw: Any, archives: list[Archive], count: int
) -> None:
    """Or it would never be forgotten. A worker whose reply was lost sends it twice."""
    hot.append("r", ended("r")[:count], snapshot=make_state("r", status="completed"))
    DrainWorker(hot, archives).drain_once()
    fit = fit_of(hot)
    assert retire_now(hot, archives, fit)[0].name == "ok"
    before = redis_backend.footprint()
    for again in (fit, fit_of(hot)):
        raw.zadd(hot.context.keys.run("r").partition.retire, {"r": 5})
        assert retire_now(hot, archives, again)[0].name == "unfit"
        assert redis_backend.footprint() == before


# -- what comes after --------------------------------------------------------------------------------------


def test_a_late_append_goes_on_at_its_offset_and_is_archived_without_a_gap(
    redis_backend: RedisBackend, hot: Hot, raw: Any, archives: list[Archive]
) -> None:
    """By the writer that was there and by another; the chain goes on; then it is retired again, and again."""
    acknowledged = ended("r", session_id="s")
    hot.append("r", acknowledged)
    for turn in range(3):
        assert retire_all(hot, archives).retired == 1
        writer = hot if turn % 2 else open_hot(redis_backend)
        before = hot.run_info("r")
        assert before is not None
        first = len(acknowledged) + 1
        late = [make_event("r", first, kind=EventKind.RUN_STARTED), *ended("r", 3, first=first + 1)]
        appended = writer.append("r", late[:3], expected_offset=len(acknowledged))
        assert appended[:2] == (len(acknowledged) + 1, len(acknowledged) + 3)
        assert_chained(redis_backend, hot, "r", before.last_offset, archives)
        info = hot.run_info("r")
        assert info is not None
        assert (info.status, info.archived_offset, info.first_hot) == (
            "running",
            len(acknowledged),
            len(acknowledged) + 1,
        )
        partition = hot.context.keys.run("r").partition
        assert members(raw, partition.due) == ["r"]
        report = retire_all(hot, archives)
        assert (report.retired, report.events, report.parked) == (0, 3, 0)
        writer.save_event(late[3])
        acknowledged += late
    assert retire_all(hot, archives).retired == 1
    check_archives(archives, {"r": acknowledged})


def assert_chained(backend: RedisBackend, hot: Hot, run_id: str, after: int, archives: list[Archive]) -> None:
    """What is in Redis follows, record by record, from the last place that an archive has."""
    position = archives[0].position(run_id)
    assert position is not None
    assert position.cursor.offset == after
    chain = position.cursor.chain
    for offset, (entry_id, entry) in enumerate(backend.raw.xrange(hot.context.keys.run(run_id).events), after + 1):
        chain = next_chain(chain, record_crc(entry[b"e"]))
        assert entry_id.decode() == str(Cursor(offset, chain))


def test_a_conflict_is_seen_on_a_tombstone(hot: Hot, archives: list[Archive]) -> None:
    hot.append("r", ended("r"))
    retire_all(hot, archives)
    for expected in (0, 3, 5):
        with pytest.raises(ConcurrencyConflict) as conflict:
            hot.append("r", [make_event("r", 5)], expected_offset=expected)
        assert (conflict.value.expected, conflict.value.actual) == (expected, 4)
        with pytest.raises(ConcurrencyConflict):
            hot.append("r", [], expected_offset=expected)
    assert hot.append("r", [], expected_offset=4)[:2] == (5, 4)
    assert hot.append("r", [make_event("r", 5)], expected_offset=4)[:2] == (5, 5)


def test_what_is_sent_again_after_the_run_was_retired_is_applied_once(
    redis_backend: RedisBackend, hot: Hot, raw: Any, archives: list[Archive]
) -> None:
    """P2: the producer outlives the run for its window; once the run goes on, for as long as it does."""
    events = ended("r")
    line = Line(hot)
    line.cut("reply")
    with pytest.raises(StoreUnavailable):
        hot.append("r", events)
    other = open_hot(redis_backend)
    assert retire_all(other, archives).retired == 1
    producers = hot.context.keys.run("r").producers
    assert raw.pttl(producers) > 0
    assert hot.append("r", events)[:2] == (1, 4)
    assert raw.pttl(producers) > 0
    assert not raw.exists(hot.context.keys.run("r").events)

    late = make_event("r", 5)
    line.cut("reply")
    with pytest.raises(StoreUnavailable):
        hot.append("r", [late])
    assert raw.pttl(producers) == -1
    retire_all(other, archives)
    assert hot.append("r", [late])[:2] == (5, 5)
    check_archives(archives, {"r": [*events, late]})


@pytest.mark.parametrize("goes_on", [False, True], ids=["retired", "goes on"])
def test_what_was_sent_before_and_does_not_say_when_is_not_applied_twice(
    redis_backend: RedisBackend, hot: Hot, raw: Any, archives: list[Archive], goes_on: bool
) -> None:
    """A process's very first call got no reply, and its producer was forgotten since: only its caller can tell."""
    hot.append("r", make_events("r", 2))
    late, last = open_hot(redis_backend), ended("r", 1, first=3)
    Line(late).cut("reply")
    with pytest.raises(StoreUnavailable):
        late.append("r", last)
    assert retire_all(hot, archives).retired == 1
    raw.delete(hot.context.keys.run("r").producers)  # the window has passed
    stands = hot.append("r", make_events("r", 1)).last_offset if goes_on else 3
    (attempts,) = late.context.unsettled._attempts.values()
    attempts[0].begun -= PRODUCER_WINDOW_SECONDS
    with pytest.raises(StoreUnavailable, match="can no longer be told"):
        late.append("r", last)
    info = hot.run_info("r")
    assert info is not None
    assert info.last_offset == stands
    young = open_hot(redis_backend)
    assert young.append("r", [make_event("r", 9)]).last_offset == stands + 1


def test_a_callers_key_is_known_until_the_run_is_forgotten(
    redis_backend: RedisBackend, hot: Hot, raw: Any, archives: list[Archive]
) -> None:
    """Known from another process too; nothing is written for it, and the run stays retired."""
    events = ended("r")
    first = hot.append("r", events, keys=["a", None, "b", None])
    retire_all(hot, archives)
    tombstone = raw.hgetall(hot.context.keys.run("r").meta)
    other = open_hot(redis_backend)
    again = other.append("r", [make_event("r", 9), make_event("r", 10)], keys=["b", "a"])
    assert (again.first_offset, again.last_offset) == (3, 1)
    assert raw.hgetall(hot.context.keys.run("r").meta) == tombstone
    assert raw.pttl(hot.context.keys.run("r").producers) > 0
    mixed = other.append("r", [make_event("r", 9), make_event("r", 10)], keys=["a", "c"])
    assert (mixed.first_offset, mixed.last_offset) == (first.first_offset, 5)
    retire_all(hot, archives)
    assert other.append("r", [make_event("r", 9)], keys=["c"])[:2] == (5, 5)


# -- no false alarm, and no missed one ---------------------------------------------------------------------


@pytest.mark.parametrize("goes_on", [False, True], ids=["retired", "goes on"])
def test_nobody_is_told_of_a_loss_that_was_none(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive], goes_on: bool
) -> None:
    """Whoever had seen the run, in its middle or at its end: writers, readers, followers, cursors."""
    events = ended("r")
    hot.append("r", events[:2])
    middle, follower = open_hot(redis_backend), open_hot(redis_backend)
    cursors = [item.cursor for item in middle.read("r")]
    following = follower.follow("r", idle_timeout=20)
    assert [next(following).offset, next(following).offset] == [1, 2]
    hot.append("r", events[2:])
    end = open_hot(redis_backend)
    cursors = [item.cursor for item in end.read("r")]
    assert [next(following).offset, next(following).offset] == [3, 4]
    retire_all(hot, archives)
    assert list(following) == []
    late: list[Any] = []
    if goes_on:
        late = ended("r", first=5)
        open_hot(redis_backend).append("r", late)

    assert [item.event for item in end.read("r", cursors[-1])] == late
    assert [item.event for item in end.follow("r", cursors[-1])] == late
    assert [item.event for item in follower.follow("r", 4)] == late
    for reader in (hot, middle, end):
        for after in (0, cursors[0], cursors[2]):
            with pytest.raises(EventsArchived):
                list(reader.read("r", after))
    with pytest.raises(HistoryDiverged):
        list(open_hot(redis_backend).read("r", "4-1"))
    stands = 4 + len(late)
    for number, writer in enumerate((middle, end, hot), stands + 1):
        assert writer.append("r", [make_event("r", number)])[:2] == (number, number)


def test_a_loss_behind_a_tombstone_is_seen(redis_backend: RedisBackend, hot: Hot, archives: list[Archive]) -> None:
    """A failover that lost a late append, and put the tombstone back."""
    hot.append("r", ended("r"))
    retire_all(hot, archives)
    keys, raw = hot.context.keys.run("r"), redis_backend.raw
    tombstone = raw.hgetall(keys.meta)
    late = hot.append("r", [make_event("r", 5)])
    raw.delete(keys.meta, keys.events, keys.producers)
    raw.hset(keys.meta, mapping=tombstone)
    for call in (lambda: list(hot.read("r", late.cursor)), lambda: hot.save_event(make_event("r", 6))):
        with pytest.raises(AcknowledgedWritesLost) as loss:
            call()
        assert (loss.value.last_seen, loss.value.last_present) == (5, 4)
    open_hot(redis_backend).append("r", [make_event("r", 50)])
    for call in (lambda: list(hot.read("r", late.cursor)), lambda: hot.save_event(make_event("r", 6))):
        with pytest.raises(HistoryDiverged):
            call()


# -- reading it from Redis alone ---------------------------------------------------------------------------


def test_whatever_needs_what_was_retired_says_where_it_went(
    redis_backend: RedisBackend, archives: list[Archive]
) -> None:
    """P10: never a shorter run, never a state that is not there taken for none, never a number given twice."""
    writer = open_hot(redis_backend)
    writer.append("r", ended("r"), snapshot=make_state("r", status="completed"))
    writer.append("r", [], snapshot=make_state("r"), lane_id="main")
    retire_all(writer, archives)
    hot = open_hot(redis_backend)
    needs: list[Callable[[], Any]] = [
        lambda: list(hot.read("r")),
        lambda: list(hot.read("r", 3)),
        lambda: list(hot.read("r", reverse=True)),
        lambda: hot.list_events("r"),
        lambda: list(hot.follow("r")),
        lambda: hot.recover("r"),
        lambda: hot.recover("r", lane_id="main"),
        lambda: hot.recover("r", lane_id="new"),
        lambda: hot.load_latest("r"),
        lambda: hot.load_snapshot("r", lane_id="main"),
        lambda: hot.last_seq("r", "main"),
        lambda: hot.update_state("r", lambda state: state),
        lambda: hot.open_run("r"),
    ]
    locations = tuple(sorted(archive.location for archive in archives))
    for need in needs:
        with pytest.raises(EventsArchived) as moved:
            need()
        assert (moved.value.run_id, moved.value.first_hot, moved.value.archives) == ("r", 5, locations)
        assert all(location in str(moved.value) for location in locations)
    assert list(hot.read("r", 4)) == list(hot.follow("r", 4)) == []
    late = make_event("r", 5, lane_id="second", kind=EventKind.RUN_STARTED)
    writer.save_event(late)
    for need in needs:
        with pytest.raises(EventsArchived) as moved:
            need()
        assert moved.value.first_hot == 5
    assert hot.last_seq("r", "second") == 5
    assert [item.event for item in hot.read("r", 4)] == [late]


def test_a_run_that_had_no_snapshot_has_none(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    hot.append("r", ended("r"))
    retire_all(hot, archives)
    assert hot.load_latest("r") is None
    assert hot.load_snapshot("r", lane_id="main") is None
    for lane_id in (None, "main", "new"):
        with pytest.raises(EventsArchived):  # but it had events
            open_hot(redis_backend).recover("r", lane_id=lane_id)


def test_a_run_of_nothing_but_a_snapshot_is_retired_too(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    hot.save_snapshot("r", make_state("r", status="completed"))
    assert retire_all(hot, archives).retired == 1
    other = open_hot(redis_backend)
    for need in (lambda: other.load_latest("r"), lambda: other.recover("r")):
        with pytest.raises(EventsArchived):
            need()
    assert other.list_events("r") == []
    assert other.last_seq("r", "main") == 0
    assert other.recover("r", lane_id="main").events == []
    assert other.append("r", [make_event("r", 1)])[:2] == (1, 1)


# -- snapshots after retiring ------------------------------------------------------------------------------


@pytest.mark.parametrize("goes_on", [False, True], ids=["retired", "goes on"])
@pytest.mark.parametrize("lane_id", [None, "main"])
def test_a_snapshot_that_covers_less_than_what_is_gone_is_refused(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive], lane_id: str | None, goes_on: bool
) -> None:
    """Nobody could recover from it. A writer that knows all of the run may save one."""
    hot.append("r", ended("r"))
    retire_all(hot, archives)
    other = open_hot(redis_backend)
    late = [make_event("r", 5)] if goes_on else []
    if goes_on:
        hot.append("r", late)
    for save in (
        lambda: other.save_snapshot("r", make_state("r"), lane_id=lane_id),
        lambda: other.append("r", [make_event("r", 9)], snapshot=make_state("r"), lane_id=lane_id),
        lambda: other.update_state("r", lambda state: state),
    ):
        with pytest.raises(EventsArchived) as refused:
            save()
        assert refused.value.first_hot == 5
    hot.save_snapshot("r", make_state("r", purpose="all"), lane_id=lane_id)
    recovery = other.recover("r", lane_id=lane_id)
    assert recovery.state is not None
    assert (recovery.state.purpose, recovery.offset, recovery.events) == ("all", 4 + len(late), [])


@pytest.mark.parametrize("lane_id", [None, "main"])
def test_the_revision_goes_on_so_that_no_archive_takes_a_new_snapshot_for_an_old_one(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive], lane_id: str | None
) -> None:
    hot.append("r", ended("r"))
    for purpose in ("first", "second"):
        hot.append("r", [], snapshot=make_state("r", purpose=purpose), lane_id=lane_id)
    hot.save_event(make_event("r", 5, kind=EventKind.RUN_FINISHED))
    assert retire_all(hot, archives).retired == 1
    state = make_state("r", purpose="third", status="completed")
    with pytest.raises(EventsArchived, match="was retired"):
        hot.append("r", [], snapshot=state, lane_id=lane_id)
    hot.save_snapshot("r", state, lane_id=lane_id)
    saved = hot.load_snapshot("r", lane_id=lane_id)
    assert saved is not None
    assert saved.revision == 3
    hot.save_event(make_event("r", 6, kind=EventKind.RUN_FINISHED))
    assert retire_all(hot, archives).retired == 1
    for archive in archives:
        archived = archive.load_snapshot("r", lane_id=lane_id)
        assert archived is not None
        assert (archived.state.purpose, archived.revision) == ("third", 3)


def test_a_run_that_is_retired_again_still_knows_that_it_had_snapshots(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    """Its next one has the revision after theirs, however often it went on without any."""
    hot.append("r", ended("r"), snapshot=make_state("r"))
    hot.append("r", [], snapshot=make_state("r"), lane_id="main")
    hot.save_snapshot("r", make_state("r", status="completed"))
    for turn in range(2):
        assert retire_all(hot, archives).retired == 1
        other = open_hot(redis_backend)
        for load in (other.load_latest, partial(other.load_snapshot, lane_id="main")):
            with pytest.raises(EventsArchived):
                load("r")
        hot.save_event(make_event("r", 5 + turn))
    for lane_id, revision in ((None, 3), ("main", 2)):
        hot.save_snapshot("r", make_state("r"), lane_id=lane_id)
        saved = hot.load_snapshot("r", lane_id=lane_id)
        assert saved is not None
        assert saved.revision == revision


def test_no_writer_believes_that_it_knows_a_lane_whose_end_is_not_known(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    """A writer that knew its lane up to the middle, and appends later: what it saves may not cover the hole."""
    first, second = open_hot(redis_backend), open_hot(redis_backend)
    first.append("r", make_events("r", 2, lane_id="a"))
    second.append("r", ended("r", first=3, lane_id="a"))
    retire_all(hot, archives)
    first.append("r", [make_event("r", 7, lane_id="a", kind=EventKind.RUN_STARTED)])
    with pytest.raises(EventsArchived):
        first.append("r", [make_event("r", 8, lane_id="a")], snapshot=make_state("r"), lane_id="a")
    with pytest.raises(EventsArchived):
        open_hot(redis_backend).recover("r", lane_id="a")
    DrainWorker(hot, archives).drain_once()
    with pytest.raises(EventsArchived):
        open_hot(redis_backend).recover("r", lane_id="a")
    assert [item.offset for item in hot.read("r", 6)] == [7]


# -- deleting and forgetting -------------------------------------------------------------------------------


def test_deleting_a_retired_run_leaves_nothing_of_it(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    before = redis_backend.footprint()
    hot.append("r", ended("r", session_id="s"), keys=["a", None, None, None])
    retire_all(hot, archives)
    assert hot.delete_run("r") is True
    left = redis_backend.footprint()
    assert {key for key in left if key not in before} == {
        partition.archives for partition in hot.context.keys.partitions
    }
    assert hot.delete_run("r") is False
    hot.append("s", ended("s"))
    assert DrainWorker(hot, archives, trim="never").drain_once().runs == 1
    hot.delete_run("s")
    assert redis_backend.footprint().keys() == left.keys(), "nor of one that was to be retired"
    assert hot.append("r", [make_event("r", 1)])[:2] == (1, 1)


def test_a_run_is_forgotten_in_time_and_whoever_knew_it_is_not_told_of_a_loss(
    redis_backend: RedisBackend, hot: Hot, raw: Any, archives: list[Archive]
) -> None:
    """Nothing of it stays; it counts as deleted, and a run of its name is another one."""
    events = ended("r", session_id="s")
    hot.append("r", events, keys=["a", None, None, None])
    reader, writer = open_hot(redis_backend), open_hot(redis_backend)
    cursors = [item.cursor for item in reader.read("r")]
    writer.append("r", [make_event("r", 9)], keys=["a"])
    assert retire_all(hot, archives, forget_after_seconds=60).forgotten == 0
    assert hot.list_runs() == ["r"]
    assert retire_all(hot, archives, forget_after_seconds=0).forgotten == 1
    assert hot.list_runs() == []
    assert hot.run_info("r") is None
    names = (":config", ":deleted", ":archives", ":producers")
    assert all(key.endswith(names) for key in redis_backend.key_names())
    producers = hot.context.keys.run("r").producers
    assert 0 < raw.pttl(producers) <= PRODUCER_WINDOW_SECONDS * 1000
    assert list(reader.read("r")) == []
    assert writer.append("r", [make_event("r", 1)])[:2] == (1, 1)
    assert raw.pttl(producers) == -1, "they are those of a run that lives"
    with pytest.raises(HistoryDiverged):
        list(reader.read("r", cursors[0]))
    check_archives(archives, {"r": events})


def test_a_batch_that_is_sent_again_after_its_run_was_forgotten_is_not_a_new_run(
    redis_backend: RedisBackend, archives: list[Archive]
) -> None:
    """Its reply was lost, and the run was archived, retired and forgotten before it came again."""
    writer, other = open_hot(redis_backend), open_hot(redis_backend)
    events = ended("r")
    Line(writer).cut("reply")
    with pytest.raises(StoreUnavailable):
        writer.append("r", events)
    assert retire_all(other, archives, forget_after_seconds=0).forgotten == 1
    assert writer.append("r", events)[:2] == (1, 4)
    assert other.list_runs() == []
    assert retire_all(other, archives) == DrainReport()
    check_archives(archives, {"r": events})


@pytest.mark.parametrize("field", ["last", "mark", "updated", "created"])
def test_a_damaged_run_holds_up_neither_the_worker_nor_the_runs_that_are_retired_with_it(
    hot: Hot, raw: Any, archives: list[Archive], field: str
) -> None:
    """It is parked, which status shows, and not looked at again before it comes due."""
    for run_id in ("a", "r", "z"):
        hot.append(run_id, ended(run_id))
    DrainWorker(hot, archives).drain_once()
    raw.hset(hot.context.keys.run("r").meta, field, "?")
    worker = DrainWorker(hot, archives, retire_after_seconds=0)
    report = worker.drain_once()
    assert (report.retired, report.parked) == (2, 1)
    assert raw.hexists(hot.context.keys.run("r").partition.parked, "r")
    assert worker.drain_once() == DrainReport()


def test_a_damaged_tombstone_holds_up_no_other(hot: Hot, raw: Any, archives: list[Archive]) -> None:
    for run_id in ("a", "r", "z"):
        hot.append(run_id, ended(run_id))
    retire_all(hot, archives)
    raw.hset(hot.context.keys.run("r").meta, "last", "?")
    report = retire_all(hot, archives, forget_after_seconds=0)
    assert (report.forgotten, report.parked) == (2, 1)
    assert retire_all(hot, archives, forget_after_seconds=0) == DrainReport()


def test_an_archive_that_fails_for_one_run_holds_up_no_other(hot: Hot, tmp_path: Path) -> None:
    """Its files cannot be read: the others are retired, and no outage of the archive begins."""
    with JSONLCheckpointer(tmp_path / "archive") as archive:
        for run_id in ("a", "r", "z"):
            hot.append(run_id, ended(run_id))
        DrainWorker(hot, [archive]).drain_once()
    log = tmp_path / "archive" / "r" / "events.jsonl"
    log.unlink()
    log.mkdir()
    with JSONLCheckpointer(tmp_path / "archive") as archive:
        worker = DrainWorker(hot, [archive], retire_after_seconds=0)
        report = worker.drain_once()
        assert (report.retired, report.parked) == (2, 1)
        assert worker.progress.failing == {}


def test_a_worker_retires_and_forgets_in_its_own_partitions_only(
    redis_backend: RedisBackend, archives: list[Archive]
) -> None:
    """Those of others may require other archives: it would park what is sound, and end."""
    hot = open_hot(redis_backend, partitions=2)
    workers = [DrainWorker(hot, [archives[n]], partitions=[n], retire_after_seconds=0) for n in (0, 1)]
    for n in range(20):
        hot.append(f"r{n}", ended(f"r{n}", 2))
    for n in (0, 1):
        DrainWorker(hot, [archives[n]], partitions=[n]).drain_once()
    reports = [worker.drain_once() for worker in workers]
    assert [report.parked for report in reports] == [0, 0]
    assert [report.retired for report in reports] == [len(archive.list_runs()) for archive in archives]
    assert min(report.retired for report in reports) > 0
    forgetful = DrainWorker(hot, archives[:1], partitions=[0], retire_after_seconds=0, forget_after_seconds=0)
    assert forgetful.drain_once().forgotten == reports[0].retired


def test_retiring_ends_when_the_worker_is_told_to_end(
    redis_backend: RedisBackend, archives: list[Archive]
) -> None:
    """However many runs there are to retire."""
    hot, count = open_hot(redis_backend, partitions=1), 40
    for n in range(count):
        hot.append(f"r{n}", ended(f"r{n}", 2))
    DrainWorker(hot, archives).drain_once()
    stop = threading.Event()
    told = Hooked(archives[0], position=lambda _: stop.set())
    first = DrainWorker(hot, [told, archives[1]], retire_after_seconds=0).drain_once(stop)
    assert 0 < first.retired < count
    assert retire_all(hot, archives).retired == count - first.retired


@pytest.mark.parametrize("change", [appended_since, lane_saved_since, unended], ids=lambda change: change.__name__)
def test_a_run_that_went_on_is_not_forgotten(
    redis_backend: RedisBackend, hot: Hot, raw: Any, archives: list[Archive], change: Callable[[Hot, Any], None]
) -> None:
    hot.append("r", ended("r"))
    retire_all(hot, archives)
    fit = fit_of(hot)
    change(hot, raw)
    before = redis_backend.footprint()
    assert hot.perform(retire.forget(hot.context.keys, [fit], 0)) == ["unfit"]
    assert before.pop(hot.context.keys.run("r").partition.retired)
    assert redis_backend.footprint() == before


def test_a_run_that_is_leased_or_was_made_anew_is_not_forgotten(
    hot: Hot, raw: Any, archives: list[Archive]
) -> None:
    hot.append("r", ended("r"))
    retire_all(hot, archives)
    fit = fit_of(hot)
    with hot.lease("r", owner="us"):
        assert retire_all(hot, archives, forget_after_seconds=0).forgotten == 0
    assert hot.perform(retire.forget(hot.context.keys, [fit], 60)) == ["later"]
    hot.delete_run("r")
    hot.append("r", ended("r"))
    assert hot.perform(retire.forget(hot.context.keys, [fit], 0)) == ["changed"]
    assert retire_now(hot, archives, fit)[0].name == "changed"
    assert len(hot.list_events("r")) == 4


def test_a_run_that_is_gone_is_taken_off_both_lists(hot: Hot, raw: Any, archives: list[Archive]) -> None:
    """What a restored copy, or a hand, has left there is not looked at for ever."""
    partition = hot.context.keys.run("ghost").partition
    for key in (partition.retire, partition.retired):
        raw.zadd(key, {"ghost": 5})
    assert retire_all(hot, archives, forget_after_seconds=0) == DrainReport()
    assert not raw.exists(partition.retire, partition.retired)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"retire_after_seconds": -1}, "retire_after_seconds=-1"),
        ({"retire_after_seconds": float("nan")}, "retire_after_seconds=nan"),
        ({"retire_after_seconds": 1, "forget_after_seconds": -0.5}, "forget_after_seconds=-0.5"),
        ({"forget_after_seconds": 60}, "without retire_after_seconds"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    fake: FakeBackend, archives: list[Archive], options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text):
        DrainWorker(open_hot(fake), archives, **options)


# -- workers -----------------------------------------------------------------------------------------------


def test_a_worker_without_the_option_retires_nothing_and_keeps_the_list(
    hot: Hot, raw: Any, archives: list[Archive]
) -> None:
    hot.append("r", ended("r"))
    hot.append("open", make_events("open", 3))
    DrainWorker(hot, archives).drain_once()
    partitions = {hot.context.keys.run(run_id).partition for run_id in ("r", "open")}
    assert [name for partition in partitions for name in members(raw, partition.retire)] == ["r"]
    assert len(hot.list_events("r")) == 4
    assert retire_all(hot, archives) == DrainReport(retired=1, trimmed=4)


def test_a_running_worker_retires_too(redis_backend: RedisBackend, hot: Hot, archives: list[Archive]) -> None:
    hot.append("r", ended("r"))
    stop = threading.Event()
    worker = DrainWorker(
        open_hot(redis_backend), archives, poll_seconds=0.01, retire_after_seconds=0, forget_after_seconds=0
    )
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(worker.run, stop)
        try:
            eventually(lambda: running.done() or hot.run_info("r") is None)
        finally:
            stop.set()
    assert (running.result().retired, running.result().forgotten) == (1, 1)


def test_a_worker_that_is_late_finds_a_tombstone_and_leaves_it(
    redis_backend: RedisBackend, hot: Hot, raw: Any, archives: list[Archive]
) -> None:
    """Its claim ran out; another has archived and retired the run, before and after it was loaded."""
    hot.append("r", ended("r"))
    due = hot.perform(drain.claim(hot.context.keys, None, 10, 0))
    (run,) = hot.perform(drain.load(hot.context.keys, ["r"]))
    assert run is not None
    assert retire_all(hot, archives).retired == 1
    meta = hot.context.keys.run("r").meta
    tombstone = raw.hgetall(meta)
    raw.zadd(hot.context.keys.run("r").partition.due, {"r": 5})
    ids = [archive.archive_id for archive in archives]
    for cursor in (run.header.start, run.last):
        proven = drain.Proven(run.header, cursor, run.tokens, "archived", None)
        (settled,) = hot.perform(drain.settle(hot.context.keys, [proven], ids))
        assert settled.outcome == "ok"
    beyond = drain.Proven(run.header, Cursor(5, 1), run.tokens, "archived", None)
    assert hot.perform(drain.settle(hot.context.keys, [beyond], ids))[0].outcome == "diverged"
    raw.zadd(hot.context.keys.run("r").partition.due, {"r": 5})
    assert DrainWorker(hot, archives).drain_once().parked == 0
    assert due
    assert raw.hgetall(meta) == tombstone
    partition = hot.context.keys.run("r").partition
    assert not raw.exists(partition.due, partition.retire, partition.parked)


def test_an_idle_namespace_costs_a_worker_the_same_however_many_runs_it_has(
    fake: FakeBackend, archives: list[Archive]
) -> None:
    """Work is proportional to what is due for retiring."""
    hot = open_hot(fake)
    worker = DrainWorker(hot, archives, retire_after_seconds=0)
    line = Line(hot)
    costs = []
    for runs in (0, 30):
        for number in range(runs):
            hot.append(f"r{number}", ended(f"r{number}"))
        worker.drain_once()
        line.cut()
        assert worker.drain_once() == DrainReport()
        costs.append(line.sent)
    assert costs[0] == costs[1]


class Killed(BaseException):
    """The process died here. A BaseException: no handler of ours may swallow it."""


class Mortal:
    """Lets a store die at one of its exchanges with Redis: before it is sent, or after its replies have come."""

    def __init__(self, hot: Hot, die_at: int) -> None:
        driver: Any = hot._driver
        self._exchange = driver.exchange
        self._left = die_at
        driver.exchange = self._dying_exchange

    def _step(self) -> None:
        self._left -= 1
        if self._left <= 0:
            raise Killed  # the dead do not give up their claims either

    def _dying_exchange(self, exchange: Exchange) -> Replies:
        self._step()
        replies: Replies = self._exchange(exchange)
        self._step()
        return replies


def test_a_worker_that_dies_at_any_point_of_retiring_loses_nothing(
    make_backend: Callable[[str], Backend], tmp_path: Path
) -> None:
    """Every exchange, before and after; then another worker finishes: all is archived once, and retired."""
    point, died = 0, True
    while died:
        point += 1
        backend = make_backend("fake")
        assert isinstance(backend, RedisBackend)
        hot, victim = open_hot(backend), open_hot(backend)
        acknowledged = {"a": ended("a"), "b": ended("b", 3), "c": make_events("c", 2)}
        for run_id, events in acknowledged.items():
            hot.append(run_id, events, snapshot=make_state(run_id, status=None), keys=[None] * len(events))
        directory = tmp_path / str(point)
        directory.mkdir()
        archives = open_archives(directory)
        Mortal(victim, point)
        died = False
        try:
            DrainWorker(victim, archives, claim_seconds=0.05, retire_after_seconds=0).drain_once()
        except Killed:
            died = True
        late = make_event("b", 4)
        hot.save_event(late)
        acknowledged["b"].append(late)
        worker = DrainWorker(hot, archives, retire_after_seconds=0)
        eventually(partial(_finish, worker, hot, ["a", "b"]))
        check_archives(archives, acknowledged)
        assert hot.recover("c").offset == 2
        for archive in archives:
            archive.close()
    print(f"{point - 1} points")
    assert point > 15


def _finish(worker: DrainWorker, hot: Hot, run_ids: list[str]) -> bool:
    """Whether nothing is left to do, and these runs are retired."""
    if worker.drain_once() != DrainReport():
        return False
    keys = hot.context.keys
    infos = [hot.run_info(run_id) for run_id in run_ids]
    runs = hot.perform(drain.load(keys, run_ids))
    return all(info is not None and info.first_hot == info.last_offset + 1 for info in infos) and not any(
        run is None or run.tokens for run in runs
    )


@pytest.mark.parametrize("seed", range(12))
def test_whatever_comes_in_whatever_order_is_archived_once(  # noqa: C901 - one branch for each of what comes
    fake: FakeBackend, archives: list[Archive], seed: int
) -> None:
    """Appends by two writers, snapshots, drains, retirements and resends, at random."""
    choose = random.Random(seed)
    writers, hot = [open_hot(fake), open_hot(fake)], open_hot(fake)
    lines = [Line(writer) for writer in writers]
    acknowledged: dict[str, list[Any]] = {"a": [], "b": []}
    for _ in range(120):
        run_id = choose.choice("ab")
        at = choose.randrange(2)
        writer, line = writers[at], lines[at]
        known = acknowledged[run_id]
        what = choose.choice(["append", "append", "end", "lost", "snapshot", "lane", "drain", "retire", "retire"])
        new = ended(run_id, choose.randint(2, 4), first=len(known) + 1)
        if what == "append":
            new = new[:-1]
        if what in {"append", "end"}:
            assert writer.append(run_id, new)[:2] == (len(known) + 1, len(known) + len(new))
            known += new
        elif what == "lost":
            line.cut(choose.choice(["request", "reply"]))
            with pytest.raises(StoreUnavailable):
                writer.append(run_id, new)
            if choose.random() < 0.5:
                retire_all(hot, archives)
            assert writer.append(run_id, new)[:2] == (len(known) + 1, len(known) + len(new))
            known += new
        elif what in {"snapshot", "lane"}:
            try:
                status = choose.choice([None, "running", "completed"])
                state = make_state(run_id, status=status, current_step=len(known))
                writer.save_snapshot(run_id, state, lane_id="main" if what == "lane" else None)
            except EventsArchived:
                pass
        elif what == "drain":
            trim: Any = choose.choice(["covered", "archived", "never"])
            assert DrainWorker(hot, archives, trim=trim).drain_once().parked == 0
        else:
            assert retire_all(hot, archives).parked == 0
    for run_id, events in acknowledged.items():
        hot.append(run_id, ended(run_id, 2, first=len(events) + 1)[1:])
    assert retire_all(hot, archives).parked == 0
    for run_id, events in acknowledged.items():
        for archive in archives:
            assert [item.event for item in archive.read(run_id)][:-1] == events
        info = hot.run_info(run_id)
        assert info is not None
        assert info.first_hot == info.last_offset + 1


# -- memory ------------------------------------------------------------------------------------------------

SHORT_RUNS = 10_000
RUN_BYTES = 700
"""What a short run may take for good: its tombstone, and its places in three sorted sets."""


@pytest.fixture(params=[name for name in ("valkey", "redis62", "redis70") if name in PROGRAMS])
def own_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerBackend]:
    """A server that nobody else uses: its memory is measured, or bounded."""
    directory = tmp_path_factory.mktemp("server")
    with Servers() as servers:
        server = servers.get(request.param)
        backend = ServerBackend(server, "runstream")
        yield backend
        backend.close()
        assert directory


@pytest.mark.timeout(300)
def test_ten_thousand_short_runs_leave_little_behind(own_server: ServerBackend, tmp_path: Path) -> None:
    """A day of short runs, drained and retired: bytes per run, before and after their producers are forgotten."""
    raw, hot = own_server.raw, open_hot(own_server)
    run_ids = [str(uuid.UUID(int=number)) for number in range(SHORT_RUNS)]

    def used() -> int:
        return int(raw.info("memory")["used_memory"])

    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "archive.db")) as archive:
        worker = DrainWorker(hot, [archive], batch=5000, trim="archived", retire_after_seconds=0)
        worker.drain_once()
        empty = used()
        for at in range(0, SHORT_RUNS, 100):
            hot.save_events([event for run_id in run_ids[at : at + 100] for event in ended(run_id, 10)])
        full = used()
        report = worker.drain_once()
    assert (report.retired, report.events) == (SHORT_RUNS, SHORT_RUNS * 10)
    retired = used()
    keys = hot.context.keys
    tombstones = [raw.memory_usage(keys.run(run_id).meta) for run_id in run_ids[::97]]
    ttls = [raw.pttl(keys.run(run_id).producers) for run_id in run_ids[::97]]
    assert all(0 < ttl <= PRODUCER_WINDOW_SECONDS * 1000 for ttl in ttls)
    for at in range(0, SHORT_RUNS, 1000):  # as if the window had passed
        raw.delete(*(keys.run(run_id).producers for run_id in run_ids[at : at + 1000]))
    quiet = used()
    per_run = [(at - empty) / SHORT_RUNS for at in (full, retired, quiet)]
    print(
        f"{own_server.server.name}: bytes per run: {per_run[0]:.0f} before, {per_run[1]:.0f} retired,"
        f" {per_run[2]:.0f} without producers; a tombstone {min(tombstones)} to {max(tombstones)}"
    )
    assert max(tombstones) <= tombstone_bytes(raw)
    assert per_run[2] <= RUN_BYTES
    assert per_run[2] < per_run[1] < per_run[0] / 4


def tombstone_bytes(raw: Any) -> int:
    """How much a tombstone may take here."""
    return TOMBSTONE_BYTES + (CHUNK_BYTES if raw.info("memory")["mem_allocator"] == "libc" else 0)


def test_a_tombstone_is_small_whatever_the_run_was(own_server: ServerBackend, tmp_path: Path) -> None:
    """Many lanes, leases and snapshots, long: its hash had another form by then, and gets its small one back."""
    raw, hot = own_server.raw, open_hot(own_server)
    run_id = str(uuid.uuid4())
    events = [make_event(run_id, seq, lane_id=f"lane-{seq % 300}") for seq in range(1, 2000)]
    for lane in range(5):
        hot.append(run_id, events[lane::5], snapshot=make_state(run_id), lane_id=f"lane-{lane}")
        with hot.lease(run_id, owner="o" * 100, lane_id=f"lane-{lane}"):
            pass
    hot.append(run_id, ended(run_id, 2), snapshot=make_state(run_id, status="cancelled"))
    meta = hot.context.keys.run(run_id).meta
    assert raw.memory_usage(meta) > 10_000
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "archive.db")) as archive:
        assert retire_all(hot, [archive]).retired == 1
        assert raw.memory_usage(meta) <= tombstone_bytes(raw)
        hot.save_event(make_event(run_id, 5))
        assert retire_all(hot, [archive]).retired == 1
    assert raw.memory_usage(meta) <= tombstone_bytes(raw)


def test_a_full_server_refuses_neither_to_retire_nor_to_forget(own_server: ServerBackend, tmp_path: Path) -> None:
    """Not one byte is free, and nothing was trimmed before: each script begins with what makes room."""
    raw, hot = own_server.raw, open_hot(own_server)
    hot.append("r", ended("r"), snapshot=make_state("r", status="completed"))
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "archive.db")) as archive:
        DrainWorker(hot, [archive], trim="never").drain_once()
        fit = fit_of(hot)
        raw.config_set("maxmemory", 1)
        assert retire_now(hot, [archive], fit, quiet=60)[0].name == "later"
        assert retiring_of(hot, [archive]).all_due() == DrainReport(retired=1, trimmed=4)
        tombstone = fit_of(hot)
        raw.config_set("maxmemory", 0)
        with hot.lease("r", owner="us"):
            raw.config_set("maxmemory", 1)
            assert hot.perform(retire.forget(hot.context.keys, [tombstone], 0)) == ["later"]
        raw.config_set("maxmemory", 0)
        raw.zadd(hot.context.keys.run("r").partition.retired, {"r": 5})  # when the lease would have run out
        raw.config_set("maxmemory", 1)
        assert hot.perform(retire.forget(hot.context.keys, [tombstone], 0)) == ["ok"]
        assert hot.list_runs() == []


def test_a_full_server_is_drained_and_takes_writes_again(own_server: ServerBackend, tmp_path: Path) -> None:
    """It refuses every append; draining, retiring and forgetting are not refused, and make room."""
    raw, hot = own_server.raw, open_hot(own_server)
    acknowledged: dict[str, list[Any]] = {}
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "archive.db")) as archive:
        worker = DrainWorker(hot, [archive], trim="archived", retire_after_seconds=0)
        worker.drain_once()
        raw.config_set("maxmemory", int(raw.info("memory")["used_memory"]) + 4_000_000)
        refused: list[Any] = []
        try:
            for number in range(100_000):
                refused = ended(f"r{number}", 10, payload={"text": "x" * 100})
                hot.append(refused[0].run_id, refused)
                acknowledged[refused[0].run_id] = refused
        except StoreUnavailable as error:
            assert "full" in str(error)  # noqa: PT017 - which of them it is to be is not known
        assert len(acknowledged) > 100
        with pytest.raises(StoreUnavailable, match="full"):
            hot.append(refused[0].run_id, refused)
        report = worker.drain_once()
        assert (report.retired, report.parked) == (len(acknowledged), 0)
        hot.append(refused[0].run_id, refused)
        acknowledged[refused[0].run_id] = refused
        forgetful = DrainWorker(hot, [archive], retire_after_seconds=0, forget_after_seconds=0)
        forgetful.drain_once()
        assert hot.list_runs() == []
        check_archives([archive], acknowledged)
