"""What Redis reads for ``list_events`` since a ``seq``, and when it answers though some of the run has left it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runstream import DrainWorker, EventsArchived, RunStatus, TieredCheckpointer
from runstream.model.events import HIGHEST_SEQ
from runstream.operations.operation import Exchange
from runstream.repair.restore import put_back
from runstream.stores.redis.namespace import Namespace
from runstream.stores.redis.operations.client.reader import RunReader
from tests.stores.redis.layout.raw_keys import key_of
from tests.support.archive_check import Archive
from tests.support.backends import RedisBackend
from tests.support.drain_tools import Hooked, Hot, due, first_hot, open_hot, put_raw
from tests.support.kinds import on_every_server
from tests.support.operations import noting_steps
from tests.support.random_runs import lose_redis
from tests.support.samples import make_event, make_events, make_state
from tests.support.unfinished import leave_entries


@pytest.fixture
def hot(redis_backend: RedisBackend) -> Hot:
    """A store on every kind of server."""
    return open_hot(redis_backend)


def meta_of(backend: RedisBackend, run_id: str = "r") -> dict[bytes, bytes]:
    """A run's meta."""
    meta: dict[bytes, bytes] = backend.raw.hgetall(key_of(backend, run_id, "meta"))
    return meta


def seqs_over(hot: Hot, since_seq: int, run_id: str = "r") -> list[int]:
    """The seqs of the answer."""
    return [event.seq for event in hot.list_events(run_id, since_seq)]


def drain(hot: Hot, archive: Any, trim: Any = "covered") -> int:
    """Drain all with a worker that knows nothing; gives how many entries left Redis."""
    report = DrainWorker(hot, [archive], trim=trim).drain_once()
    assert report.parked == 0
    return report.trimmed


# -- how much is read


def test_the_end_of_a_long_run_takes_one_round_trip_and_one_page(
    hot: Hot, monkeypatch: pytest.MonkeyPatch
) -> None:
    for first in range(1, 10_000, 1000):
        hot.save_events([*make_events("r", 500, first=first), *make_events("r", 500, first=first, lane_id="b")])
    sent: list[tuple[Any, Any]] = []
    pages: list[int] = []
    run, back_page = type(hot._runner).run, RunReader._back_page

    def counted(reader: Any, meta: Any, entries: Any, high: int, count: int) -> Any:
        pages.append(len(entries))
        return back_page(reader, meta, entries, high, count)

    def counting(runner: Any, operation: Any) -> Any:
        return run(runner, noting_steps(operation, sent))

    monkeypatch.setattr(RunReader, "_back_page", counted)
    monkeypatch.setattr(type(hot._runner), "run", counting)
    assert seqs_over(hot, 9_495) == [*range(9_496, 9_501)] * 2
    assert sum(isinstance(step, Exchange) for step, _ in sent) <= 3
    assert sum(pages) <= 4 + 1000
    sent.clear()
    pages.clear()
    assert seqs_over(hot, 9_500) == []
    assert (len(sent), sum(pages)) == (1, 16)
    # of a lane that counts its events, it is known how many there are
    hot.save_events(make_events("one", 200))
    sent.clear()
    pages.clear()
    assert seqs_over(hot, 100, "one") == [*range(101, 201)]
    assert sum(isinstance(step, Exchange) for step, _ in sent) <= 3
    assert sum(pages) == 100 + 1
    # and others that came after it are passed in a few pages
    hot.save_events([*make_events("r2", 300, lane_id="b"), *make_events("r2", 299)])
    sent.clear()
    assert seqs_over(hot, 299, "r2") == [300]
    assert sum(isinstance(step, Exchange) for step, _ in sent) <= 5


def exchanges_of(store: Any, make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, int]:
    """What a call returns, and how many exchanges it takes."""
    sent: list[tuple[Any, Any]] = []
    run = type(store._runner).run
    with monkeypatch.context() as patch:
        patch.setattr(
            type(store._runner), "run", lambda runner, operation: run(runner, noting_steps(operation, sent))
        )
        return make(), sum(isinstance(step, Exchange) for step, _ in sent)


@pytest.mark.parametrize("is_drained", [False, True])
def test_a_resume_takes_one_exchange_for_its_last_events(
    redis_backend: RedisBackend,
    hot: Hot,
    archives: list[Archive],
    monkeypatch: pytest.MonkeyPatch,
    is_drained: bool,
) -> None:
    """As ``load_latest`` has told how large the events may be; with an archive beside it, too."""
    hot.save_events(make_events("r", 100))
    hot.save_snapshot("r", make_state("r", current_step=100))
    if is_drained:
        drain(hot, archives[0])
    hot.save_events(make_events("r", 10, first=101))
    tiered = TieredCheckpointer(open_hot(redis_backend), archives[0])
    assert tiered.load_latest("r") is not None
    found, count = exchanges_of(tiered, lambda: tiered.list_events("r", 100), monkeypatch)
    assert [event.seq for event in found] == [*range(101, 111)]
    assert count == 1
    for first, more in ((111, 3), (114, 30)):  # what has come since is listed, too, however much it is
        hot.save_events(make_events("r", more, first=first))
        assert [event.seq for event in tiered.list_events("r", 100)] == [*range(101, first + more)]


def test_what_no_append_has_come_to_its_end_with_is_not_listed(redis_backend: RedisBackend, hot: Hot) -> None:
    """Nor taken for a hole, be it few or many entries."""
    for run_id, left in (("r", 2), ("r2", 40)):
        hot.save_events(make_events(run_id, 30))
        leave_entries(hot, redis_backend.raw, make_events(run_id, left, first=31))
        for since in (5, 29, 30):
            assert seqs_over(hot, since, run_id) == [*range(since + 1, 31)]


def test_lanes_are_noted_to_rise_until_they_fall(redis_backend: RedisBackend, hot: Hot) -> None:
    """By every path of an append; what is noted no more never comes back."""

    def mark(lane_id: str = "main") -> bytes:
        return meta_of(redis_backend)[f"lane:{lane_id}".encode()].partition(b" ")[2]

    hot.save_event(make_event("r", 0))
    hot.save_event(make_event("r", 0))
    assert mark() == b"+0"
    hot.save_events(make_events("r", 3, first=5))
    assert mark() == b"+7"
    hot.append("r", make_events("r", 2, first=7), expected_offset=5)
    hot.append("r", make_events("r", 2, first=8), keys=["a", "b"])
    hot.append("r", make_events("r", 3, first=8), keys=["a", "b", "c"])
    assert mark() == b"+10"
    for lane_id, seqs in {
        "single": [5, 4],
        "negative": [-1],
        "large": [10**15],
        "huge": [2**53 + 1, 2**53],
    }.items():
        for seq in seqs:
            hot.save_event(make_event("r", seq, lane_id=lane_id))
        assert mark(lane_id) == b"%d" % seqs[-1]
    hot.save_events([make_event("r", seq, lane_id="batch") for seq in (5, 3, 9)])
    assert mark("batch") == b"9"
    hot.append("r", make_events("r", 2, lane_id="batch", first=10), keys=["d", None])
    assert mark("batch") == b"11"
    hot.save_event(make_event("r", 10, lane_id="lower"))
    hot.save_events([make_event("r", seq, lane_id="lower") for seq in (3, 12)])
    assert mark("lower") == b"12"
    hot.save_event(make_event("r", 9))
    hot.save_event(make_event("r", 10))
    hot.save_events(make_events("r", 3, first=11))
    assert mark() == b"13"
    with hot.open_run("r", lane_id="batch") as run:  # the number alone counts
        assert run.emit("own.kind").event.seq == 12


def test_a_run_of_an_older_version_is_read_to_its_beginning(redis_backend: RedisBackend, hot: Hot) -> None:
    """Its marks have no plus sign, and neither has one that a process of that version writes meanwhile."""
    hot.save_events([make_event("r", seq) for seq in (9, 1, 2)])
    redis_backend.raw.hset(key_of(redis_backend, "r", "meta"), "lane:main", "3 2")
    assert seqs_over(hot, 2) == [9]
    hot.save_event(make_event("r", 3))
    hot.save_events([make_event("r", 4), make_event("r", 5)])
    assert seqs_over(hot, 4) == [9, 5]


# -- what has left Redis


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@on_every_server
def test_what_comes_after_a_snapshot_is_answered_after_every_drain(
    redis_backend: RedisBackend, archives: list[Archive]
) -> None:
    """Whoever drains, and whenever: before the snapshot, after it, or both."""
    hot = open_hot(redis_backend)
    trimmed = 0
    for step in range(10, 60, 10):
        hot.save_events(make_events("r", 10, first=step - 9))
        if step % 20:
            drain(hot, archives[0])
        hot.save_snapshot("r", make_state("r", current_step=step))
        hot.save_events(make_events("r", 3, first=step + 1))
        trimmed += drain(hot, archives[0])
        state = open_hot(redis_backend).load_latest("r")
        assert state is not None
        assert seqs_over(open_hot(redis_backend), state.current_step) == [*range(step + 1, step + 4)]
        with pytest.raises(EventsArchived):
            hot.list_events("r", state.current_step - 1)
    assert trimmed == first_hot(hot, "r") - 1 > 0


def test_seqs_that_fall_are_answered_over_the_highest_that_was_trimmed(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    hot.append("r", [make_event("r", seq) for seq in (5, 40, 2)], snapshot=make_state("r"))
    hot.save_events([make_event("r", seq) for seq in (30, 41, 3)])
    drain(hot, archives[0])
    assert meta_of(redis_backend)[b"peak"] == b"3 40"
    assert seqs_over(hot, 40) == [41]
    assert seqs_over(hot, 41) == []
    with pytest.raises(EventsArchived) as caught:
        hot.list_events("r", 39)
    assert caught.value.first_hot == 4


def test_what_was_trimmed_before_that_was_noted_is_not_answered(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    """An older worker has trimmed; nobody can tell any more what."""
    hot.append("r", [make_event("r", seq) for seq in (5, 40, 2)], snapshot=make_state("r"))
    hot.save_events([make_event("r", seq) for seq in (30, 41, 3)])
    drain(hot, archives[0])
    meta = key_of(redis_backend, "r", "meta")
    redis_backend.raw.hdel(meta, "peak")
    for _ in range(2):
        with pytest.raises(EventsArchived):
            hot.list_events("r", 41)
        hot.save_snapshot("r", make_state("r"))
        hot.save_event(make_event("r", 7))
        assert drain(hot, archives[0]) > 0  # it is trimmed on all the same
    assert b"peak" not in meta_of(redis_backend)
    hot.append("s", make_events("s", 4), snapshot=make_state("s"))
    hot.save_events(make_events("s", 4, first=5))
    drain(hot, archives[0])
    assert meta_of(redis_backend, "s")[b"peak"] == b"4 4"
    redis_backend.raw.xtrim(key_of(redis_backend, "s", "events"), minid="7", approximate=False)
    redis_backend.raw.hset(key_of(redis_backend, "s", "meta"), "lane:main", "8 8")
    with pytest.raises(EventsArchived):
        hot.list_events("s", 6)


@pytest.mark.parametrize("moment", ["loaded", "written"])
def test_no_more_is_trimmed_than_is_noted(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A snapshot comes while the worker archives: what it covers more stays for the next time, which is due."""
    hot.append("r", make_events("r", 4), snapshot=make_state("r"))
    hot.save_events(make_events("r", 4, first=5))

    def save(*_: Any) -> None:
        hot.save_snapshot("r", make_state("r", current_step=8))

    def save_and_load(namespace: Any, *args: Any) -> Any:
        save()
        return load(namespace, *args)

    load = Namespace.load_entries
    with monkeypatch.context() as during:
        if moment == "loaded":
            during.setattr(Namespace, "load_entries", save_and_load)
        hooks = {"write": save} if moment == "written" else {}
        assert drain(hot, Hooked(archives[0], **hooks)) == 4
    assert "r" in due(hot)
    assert drain(hot, archives[0]) == 4
    assert meta_of(redis_backend)[b"peak"] == b"8 8"
    assert "r" not in due(hot)
    hot.save_event(make_event("r", 9))
    assert seqs_over(hot, 8) == [9]


def test_a_record_that_did_not_read_may_have_had_any_seq(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    hot.save_events(make_events("r", 2))
    put_raw(hot, "r", lambda record: record[:-1])
    drain(hot, archives[0])  # some time before it is trimmed
    hot.append("r", [make_event("r", 1)], snapshot=make_state("r"))
    assert drain(hot, archives[0]) == 4
    assert meta_of(redis_backend)[b"peak"] == b"4 %d" % HIGHEST_SEQ
    hot.save_events([make_event("r", 300)])
    with pytest.raises(EventsArchived):
        hot.list_events("r", 200)


def test_a_run_that_goes_on_after_it_was_retired(hot: Hot, archives: list[Archive]) -> None:
    """Nothing is known any more of the lanes that it had."""
    hot.append("r", make_events("r", 3), snapshot=make_state("r", status=RunStatus.COMPLETED))
    DrainWorker(hot, [archives[0]], retire_after_seconds=0.0).drain_once()
    with pytest.raises(EventsArchived):
        hot.list_events("r", 1)
    hot.save_events(make_events("r", 2, lane_id="b", first=100))
    for since_seq in (1, 99, 101):
        with pytest.raises(EventsArchived):
            hot.list_events("r", since_seq)


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_run_that_was_put_back_is_noted_as_its_events_are(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive], is_damaged: bool
) -> None:
    """Of a record that does not read, neither lane nor seq is known."""
    if is_damaged:
        put_raw(hot, "r", lambda record: record[:-1])
    hot.save_events([make_event("r", seq) for seq in (1, 50, 3)])
    hot.append("r", make_events("r", 2, lane_id="b"), snapshot=make_state("r"))
    hot.save_events([make_event("r", 51), *make_events("r", 2, first=3, lane_id="b")])
    drain(hot, archives[0])
    hot = lose_redis(redis_backend)
    assert put_back(hot, archives[0], "r").first_hot == 6 + is_damaged
    meta, end = meta_of(redis_backend), 8 + is_damaged
    signs = b"" if is_damaged else b"+"
    assert (meta[b"lane:main"], meta[b"lane:b"]) == (b"%d 51" % (end - 2), b"%d %b4" % (end, signs))
    assert meta[b"peak"] == b"%d %d" % (end - 3, HIGHEST_SEQ if is_damaged else 50)
    if not is_damaged:
        assert seqs_over(hot, 50) == [51]
    with pytest.raises(EventsArchived):
        hot.list_events("r", 49)


def test_what_a_lane_still_needs_is_put_back_with_the_highest_seq_before_it(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    hot.save_events([*(make_event("r", seq) for seq in (1, 50, 3)), make_event("r", 9, lane_id="a")])
    hot.append("r", [make_event("r", 60)], snapshot=make_state("r"), lane_id="main")
    assert drain(hot, archives[0]) == 3
    assert meta_of(redis_backend)[b"peak"] == b"3 50"
    hot = lose_redis(redis_backend)
    assert put_back(hot, archives[0], "r").first_hot == 4
    assert meta_of(redis_backend)[b"peak"] == b"3 50"


def test_a_run_that_was_deleted_and_made_anew_meanwhile(hot: Hot, redis_backend: RedisBackend) -> None:
    hot.save_events(make_events("r", 3))
    hot.delete_run("r")
    assert hot.list_events("r", 1) == []
    open_hot(redis_backend).save_events(make_events("r", 2))
    assert seqs_over(hot, 1) == [2]
