"""A run of many lanes is drained by a look at the lanes concerned, and what becomes of it is the same."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    ConcurrencyConflict,
    CorruptRecordError,
    DrainWorker,
    EventKind,
    EventsArchived,
    SQLiteCheckpointer,
    TieredCheckpointer,
    create_event,
)
from runstream.model.archive_records import Position
from runstream.model.run_head import last_unneeded
from runstream.stores.redis.keys import RunKeys
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.worker.drain import Proven, Settled
from runstream.stores.redis.scripts.calls import LanesAfter
from tests.support.archive_check import Archive
from tests.support.backends import RedisBackend
from tests.support.drain_tools import Hooked, Hot, due, locations, open_hot
from tests.support.kinds import REAL, on_every_server
from tests.support.operations import session_of
from tests.support.samples import make_event, make_state

LANES = [f"lane-{number}" for number in range(300)]


@pytest.fixture
def hot(redis_backend: RedisBackend) -> Hot:
    """A store over a run of so many lanes that settling indexes them."""
    store = open_hot(redis_backend)
    store.save_events(make_event("r", 1, lane_id=lane) for lane in LANES)
    return store


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """The archive of the drain."""
    with SQLiteCheckpointer[Any, Any](tmp_path / "a.db") as opened:
        yield opened


def keys_of(hot: Hot) -> RunKeys:
    """The keys of the run."""
    run: RunKeys = session_of(hot).keys.run("r")
    return run


def drain(hot: Hot, archive: Archive) -> None:
    """Drain all with a worker that knows nothing, and check that what it left is what is needed.

    Nothing more leaves for a lane that may need what has left before: whoever has opened one anew, of which Redis
    knows nothing any more.
    """
    before = hot.run_info("r")
    assert before is not None
    DrainWorker(hot, [archive]).drain_once()
    (run,) = namespace_of(hot).load_runs(["r"])
    info = hot.run_info("r")
    assert run is not None
    assert info is not None
    assert run.head.mark == run.head.last
    covered = {lane: snapshot.offset for lane, snapshot in run.head.snapshots.items()}
    unneeded = last_unneeded(run.head.last.offset, covered, run.since)
    assert info.first_hot == max(unneeded + 1, before.first_hot)
    assert run.proven_tokens == run.head.tokens
    position = archive.position("r")
    assert position is not None
    assert position.cursor == run.head.last
    assert position.snapshots.items() >= run.head.tokens.items()  # it has those of lanes that have left, too
    assert due(hot) == {}


def act(writers: Sequence[Hot], chance: random.Random, seq: int) -> None:
    """Write in one of the ways that there are, to some of the lanes, by one who may know little of them."""
    writer = chance.choice(writers)
    lanes = chance.sample(LANES, chance.choice((1, 2, 40)))
    way = chance.random()
    with suppress(EventsArchived, ConcurrencyConflict):  # it knows too little of the run, or of a lane
        if way < 0.5:
            writer.save_events(make_event("r", seq, lane_id=lane) for lane in lanes)
        elif way < 0.7:
            for lane in lanes:
                writer.save_snapshot("r", make_state("r"), lane_id=lane)
        elif way < 0.9:
            for lane in lanes:
                event = make_event("r", seq, lane_id=lane)
                writer.append("r", [event], keys=[f"{lane}/{seq}"], snapshot=make_state("r"), lane_id=lane)
        elif way < 0.95:
            writer.save_snapshot("r", make_state("r"))
        else:
            writer.append("r", (), end_lanes=lanes)


def forget_index(raw: Any, keys: RunKeys) -> None:
    """As after a settling by 0.1.0, which moves the mark, and knows nothing of it."""
    raw.hset(keys.meta, "indexed", "1-1")


def remove_index(raw: Any, keys: RunKeys) -> None:
    """As an operator may do, or an eviction."""
    raw.delete(keys.lanes)


def damage_index(raw: Any, keys: RunKeys) -> None:
    """It is another program's."""
    raw.delete(keys.lanes)
    raw.set(keys.lanes, "junk")


@pytest.mark.exhaustive
@pytest.mark.one_in(1, exhaustively=5)
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.exhaustive) for seed in range(2, 8))])
def test_what_is_trimmed_and_proven_is_the_same(
    redis_backend: RedisBackend, hot: Hot, archive: Archive, seed: int
) -> None:
    writers, chance = [hot, open_hot(redis_backend)], random.Random(seed)
    for lane in LANES if seed % 2 else ():
        hot.save_snapshot("r", make_state("r"), lane_id=lane)
    for step in range(30):
        for _ in range(chance.choice((0, 1, 3))):
            act(writers, chance, step)
        if step % 7 == 6:
            chance.choice((forget_index, remove_index))(redis_backend.raw, keys_of(hot))
        drain(hot, archive)
    assert redis_backend.raw.hget(keys_of(hot).meta, "indexed") == redis_backend.raw.hget(
        keys_of(hot).meta, "mark"
    )


@pytest.mark.exhaustive
@pytest.mark.one_in(8)
@on_every_server
def test_a_drain_looks_at_the_lanes_concerned(redis_backend: RedisBackend, hot: Hot, archive: Archive) -> None:
    for lane in LANES:
        hot.save_snapshot("r", make_state("r"), lane_id=lane)
    drain(hot, archive)
    worker = DrainWorker(hot, [archive])
    for number in range(3):
        hot.append("r", [make_event("r", 2, lane_id="lane-7")])
        hot.save_snapshot("r", make_state("r"), lane_id=f"lane-{number}")
        (run,) = namespace_of(hot).load_due(["r"])
        assert run is not None
        assert run.is_partial
        assert set(run.head.snapshots) <= {f"lane-{number}", "lane-7"}
        assert worker.drain_once().snapshots == 1
    drain(hot, archive)
    hot.delete_run("r")
    assert not [key for key in redis_backend.key_names() if ":run:" in key]


@pytest.mark.parametrize("redis_backend", REAL, indirect=True)
def test_settling_does_not_go_through_all_of_meta(redis_backend: RedisBackend, hot: Hot, archive: Archive) -> None:
    worker = DrainWorker(hot, [archive])
    worker.drain_once()
    hot.save_event(make_event("r", 2, lane_id="lane-7"))
    redis_backend.raw.config_resetstat()
    assert worker.drain_once().events == 1
    assert redis_backend.raw.info("commandstats")["cmdstat_hgetall"]["calls"] == 1, "that of the required archives"


def test_an_archive_that_was_put_back_from_a_copy_gets_what_was_proven(hot: Hot, tmp_path: Path) -> None:
    def drain_once() -> Position | None:
        with SQLiteCheckpointer[Any, Any](tmp_path / "a.db") as archive:
            assert DrainWorker(hot, [archive], trim="never").drain_once().parked == 0
            return archive.position("r")

    hot.save_snapshot("r", make_state("r"), lane_id="lane-1")
    drain_once()
    shutil.copy(tmp_path / "a.db", tmp_path / "copy.db")
    hot.save_event(make_event("r", 2, lane_id="lane-2"))
    for lane in ("lane-1", "lane-2"):
        hot.save_snapshot("r", make_state("r"), lane_id=lane)
    drain_once()
    shutil.move(tmp_path / "copy.db", tmp_path / "a.db")
    hot.save_event(make_event("r", 2, lane_id="lane-3"))
    (run,) = namespace_of(hot).load_runs(["r"])
    assert run is not None
    assert drain_once() == Position(run.head.last, run.head.tokens)


def test_a_lane_of_many_goes_on_whose_last_event_was_erased_before_it_was_archived(
    hot: Hot, archive: Archive
) -> None:
    """Once the run has left Redis, archives alone tell its number."""
    drain(hot, archive)
    hot.append("r", [make_event("r", seq, lane_id=lane) for seq in (2, 3) for lane in ("lane-7", "new")])
    hot.erase("r", [len(LANES) + 3, len(LANES) + 4])
    stop = threading.Event()
    first = Hooked(archive, write=lambda _: stop.set())
    DrainWorker(hot, [first], trim="archived", batch=2).drain_once(stop)  # it ends before it comes to these
    (run,) = namespace_of(hot).load_due(["r"])
    assert run is not None
    assert run.is_partial
    DrainWorker(hot, [archive], trim="archived", retire_idle_seconds=0).drain_once()
    tiered = TieredCheckpointer(hot, archive)
    lasts = {lane.lane_id: lane.last_seq for lane in tiered.lanes("r")}
    assert lasts == dict.fromkeys(LANES, 1) | {"lane-7": 3, "new": 3}
    with tiered.open_run("r", lane_id="new") as opened:
        assert opened.emit("agent.message").event.seq == 4


def test_a_damaged_index_is_made_anew(redis_backend: RedisBackend, hot: Hot, archive: Archive) -> None:
    drain(hot, archive)
    damage_index(redis_backend.raw, keys_of(hot))
    hot.save_snapshot("r", make_state("r"), lane_id="lane-1")
    drain(hot, archive)
    damage_index(redis_backend.raw, keys_of(hot))
    hot.save_event(make_event("r", 2, lane_id="lane-1"))
    with suppress(CorruptRecordError):
        DrainWorker(hot, [archive], park_seconds=0).drain_once()
    drain(hot, archive)


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize("redis_backend", ["fake"], indirect=True)
@pytest.mark.parametrize("score", [1, 2**52 + 1], ids=["with a snapshot", "without"])
def test_what_others_need_stays_though_the_index_has_many_that_are_gone(
    redis_backend: RedisBackend, hot: Hot, archive: Archive, score: int
) -> None:
    """As appends leave them that were refused in their midst: the first of them show nothing of the rest."""
    drain(hot, archive)
    for lane in LANES[:20]:
        hot.save_snapshot("r", make_state("r"), lane_id=lane)
    gone = {f"since:gone-{number}": score for number in range(150)}
    redis_backend.raw.zadd(keys_of(hot).lanes, gone)
    for turn in range(3):
        hot.append("r", [make_event("r", 2 + turn, lane_id=LANES[0])])
        DrainWorker(hot, [archive]).drain_once()
        info = hot.run_info("r")
        assert info is not None
        assert info.first_hot <= 21, "the first event of a lane that has no snapshot"
    drain(hot, archive)
    assert not {name.decode() for name in redis_backend.raw.zrange(keys_of(hot).lanes, 0, -1)} & set(gone)


@pytest.mark.parametrize("redis_backend", ["fake"], indirect=True)
def test_a_run_stays_due_though_the_index_has_many_snapshots_that_are_gone(
    redis_backend: RedisBackend, hot: Hot, archive: Archive
) -> None:
    drain(hot, archive)
    gone = {f"snapshot:gone-{number}": 0 for number in range(150)}
    redis_backend.raw.zadd(keys_of(hot).lanes, gone)
    (run,) = namespace_of(hot).load_runs(["r"])
    assert run is not None
    hot.save_snapshot("r", make_state("r"), lane_id=LANES[0])  # whoever settles has not seen it
    seen = Proven(run.header, run.head.last, {}, "never", None, lanes=LanesAfter(run.head.last.offset, ()))
    assert namespace_of(hot).settle([seen], locations([archive])) == [Settled("ok")]
    assert due(hot)
    while due(hot):
        DrainWorker(hot, [archive]).drain_once()
    drain(hot, archive)
    assert not {name.decode() for name in redis_backend.raw.zrange(keys_of(hot).lanes, 0, -1)} & set(gone)


def test_a_retired_run_of_many_lanes_goes_on(hot: Hot, archive: Archive) -> None:
    hot.save_snapshot("r", make_state("r"), lane_id="lane-1")
    drain(hot, archive)
    hot.save_event(create_event("r", EventKind.RUN_FINISHED, seq=1))
    assert DrainWorker(hot, [archive], retire_after_seconds=0).drain_once().retired == 1
    hot.save_event(make_event("r", 2, lane_id="lane-1"))
    DrainWorker(hot, [archive]).drain_once()
    position = archive.position("r")
    assert position is not None
    assert position.cursor.offset == len(LANES) + 2
