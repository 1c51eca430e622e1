"""Lanes that were ended leave Redis once archived, hold up nothing, and go on through the tiered store."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    ConcurrencyConflict,
    CorruptRecordError,
    DrainWorker,
    EventsArchived,
    JSONLCheckpointer,
    RunState,
    SQLiteCheckpointer,
    TieredCheckpointer,
)
from runstream.repair.restore import put_back
from runstream.repair.verify import verify_run
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.worker.drain import Proven
from tests.support.archive_check import Archive
from tests.support.backends import RedisBackend, info_of
from tests.support.drain_tools import Hot, due, locations, open_hot
from tests.support.kinds import REAL, on_every_server
from tests.support.operations import session_of
from tests.support.samples import make_event, make_state

Tiered = TieredCheckpointer[Any, Any]


@pytest.fixture
def hot(redis_backend: RedisBackend) -> Hot:
    return open_hot(redis_backend)


@pytest.fixture(params=["sqlite", pytest.param("jsonl", marks=pytest.mark.exhaustive)])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Archive]:
    opened: Any = (
        SQLiteCheckpointer(tmp_path / "a.db") if request.param == "sqlite" else JSONLCheckpointer(tmp_path / "a")
    )
    with opened:
        yield opened


@pytest.fixture
def tiered(redis_backend: RedisBackend, archive: Any) -> Tiered:
    """Another process's view."""
    return TieredCheckpointer(open_hot(redis_backend), archive)


def drain(hot: Hot, archive: Archive, **options: Any) -> None:
    assert DrainWorker(hot, [archive], **options).drain_once().parked == 0
    assert due(hot) == {}
    assert verify_run("r", hot=hot, sinks=[archive]).difference is None


def fields_of(backend: RedisBackend, lane: str) -> list[str]:
    """What is noted of a lane in Redis, and whether its snapshot is there."""
    keys = session_of(backend.open()).keys.run("r")
    names = [name.decode() for name in backend.raw.hkeys(keys.meta)]
    found = sorted(name for name in names if name.endswith(f":{lane}") and not name.startswith("lease"))
    return found + ["its snapshot"] * backend.raw.exists(keys.snapshot(lane))


def end(store: Any, lane: str, seq: int = 1, **fields: Any) -> None:
    events = [make_event("r", seq, lane_id=lane)]
    store.append("r", events, snapshots={lane: make_state("r", **fields)}, end_lanes=[lane])


@pytest.mark.one_in(2)
@on_every_server
def test_an_ended_lane_holds_up_nothing_and_leaves(
    redis_backend: RedisBackend, hot: Hot, archive: Archive
) -> None:
    """One that was abandoned without a snapshot kept all that came after its first event in Redis."""
    hot.save_event(make_event("r", 1, lane_id="tool"))
    with hot.open_run("r", lane_id="work") as run:
        for number in range(20):
            run.emit("tool.result", n=number)
        run.checkpoint()
        drain(hot, archive)
        assert info_of(hot).first_hot == 1
        hot.append("r", (), end_lanes=["tool"])
        drain(hot, archive)
        assert (info_of(hot).first_hot, fields_of(redis_backend, "tool")) == (22, [])
        run.finish_lane()
    assert fields_of(redis_backend, "work") == [
        "end:work",
        "lane:work",
        "proven:work",
        "snapshot:work",
        "its snapshot",
    ]
    drain(hot, archive)
    assert fields_of(redis_backend, "work") == []
    assert [(lane.lane_id, lane.ended) for lane in archive.lanes("r")] == [("tool", True), ("work", True)]


def test_redis_alone_does_not_know_it_any_more(hot: Hot, archive: Archive, tiered: Tiered) -> None:
    """Neither whether a lane that it does not know is new; appends of events go on."""
    end(hot, "side")
    drain(hot, archive)
    for lane in ("side", "another"):
        for call in (hot.recover, hot.load_snapshot):
            with pytest.raises(EventsArchived, match=repr(lane)):
                call("r", lane_id=lane)
        with pytest.raises(EventsArchived):
            hot.append("r", (), snapshots={lane: make_state("r")})
        with pytest.raises(EventsArchived):
            hot.open_run("r", lane_id=lane)
    with pytest.raises(EventsArchived):
        hot.lanes("r")
    hot.append("r", [make_event("r", 2, lane_id="another"), make_event("r", 2, lane_id="side")])
    drain(hot, archive)
    assert [(lane.lane_id, lane.last_offset, lane.ended) for lane in tiered.lanes("r")] == [
        ("another", 2, False),
        ("side", 3, False),
    ]
    assert [item.offset for item in tiered.recover("r", lane_id="side").events] == [3]
    assert [item.offset for item in tiered.recover("r", lane_id="another").events] == [2]


def test_it_goes_on_through_the_tiered_store(
    redis_backend: RedisBackend, hot: Hot, archive: Archive, tiered: Tiered
) -> None:
    """With its number and its state, which follows the one in the archive; as often as it is ended."""
    for turn in range(1, 4):
        with tiered.open_run("r", lane_id="side") as run:
            assert (run.state.current_step, run.recovered.events) == (turn - 1, [])
            assert run.emit("tool.result").event.seq == turn
            run.state.current_step = turn
            run.checkpoint()
            drain(hot, archive)
            assert hot.recover("r", lane_id="side").offset == turn
            run.finish_lane()
        drain(hot, archive)
        assert fields_of(redis_backend, "side") == []
        saved = archive.load_snapshot("r", lane_id="side")
        assert saved is not None
        assert (saved.state.current_step, saved.offset) == (turn, turn)
        with tiered.open_run("r", lane_id=f"new {turn}") as other:  # one that was never there
            assert (other.state.current_step, other.recovered.events) == (0, [])
            other.checkpoint()
            other.finish_lane()
        drain(hot, archive)


def test_what_has_left_is_followed_by_nobody_who_knows_less(hot: Hot, archive: Archive, tiered: Tiered) -> None:
    """Who has recovered it goes on though other lanes have ended since, but not if this one has."""
    end(hot, "side")
    drain(hot, archive)
    first, second = tiered.open_run("r", lane_id="side"), tiered.open_run("r", lane_id="side")
    new = tiered.open_run("r", lane_id="new")
    for number in range(3):
        end(tiered, f"other {number}")
        drain(hot, archive)
    new.emit("tool.result")
    end(tiered, "other")
    drain(hot, archive)
    new.checkpoint()
    first.state.current_step = 1
    first.checkpoint()
    first.finish_lane()
    drain(hot, archive)
    with pytest.raises(ConcurrencyConflict):
        second.checkpoint()
    saved = tiered.load_snapshot("r", lane_id="side")
    assert saved is not None
    assert saved.state.current_step == 1


def test_one_that_is_opened_again_before_it_has_left_stays(
    redis_backend: RedisBackend, hot: Hot, archive: Archive
) -> None:
    """By an ordinary append, which looks at nothing but the lane, or by a state of it."""
    for lane in ("event", "state"):
        end(hot, lane)
    hot.save_event(make_event("r", 2, lane_id="event"))
    hot.save_snapshot("r", make_state("r"), lane_id="state")
    drain(hot, archive)
    assert "lane:event" in fields_of(redis_backend, "event")
    assert "its snapshot" in fields_of(redis_backend, "state")
    assert not any("end:" in name for lane in ("event", "state") for name in fields_of(redis_backend, lane))
    assert [item.event.seq for item in hot.recover("r", lane_id="event").events] == [2]
    assert [lane.ended for lane in archive.lanes("r")] == [False, False]


def test_whoever_wrote_it_last_goes_on_in_another_lane(
    redis_backend: RedisBackend, hot: Hot, archive: Archive
) -> None:
    """What it has written is not lost though nothing in Redis shows it any more, and others have gone on since."""
    hot.save_event(make_event("r", 1, lane_id="mine"))
    other = open_hot(redis_backend)
    end(other, "mine", 2)
    other.save_event(make_event("r", 1, lane_id="other"))
    drain(other, archive, trim="archived")
    assert fields_of(redis_backend, "mine") == []
    assert hot.append("r", [make_event("r", 1, lane_id="another")]).last_offset == 4


def test_what_is_noted_of_those_that_left_is_damaged(
    redis_backend: RedisBackend, hot: Hot, archive: Archive
) -> None:
    """Whoever needs it is told, and nobody else."""
    end(hot, "side")
    drain(hot, archive)
    hot.save_event(make_event("r", 1, lane_id="other"))
    redis_backend.raw.hset(session_of(hot).keys.run("r").meta, "ended", "junk")
    for call in (hot.recover, hot.load_snapshot):
        with pytest.raises(CorruptRecordError):
            call("r", lane_id="side")
    with pytest.raises(CorruptRecordError, match="ended"):
        hot.append("r", [make_event("r", 2, lane_id="side")])
    assert hot.append("r", [make_event("r", 2, lane_id="other")]).last_offset == 3


def test_it_stays_as_long_as_its_events_are_there(redis_backend: RedisBackend, hot: Hot, archive: Archive) -> None:
    """Where another lane holds up trimming, or nothing is trimmed."""
    hot.save_event(make_event("r", 1, lane_id="slow"))
    end(hot, "side")
    for trim in ("never", "covered"):
        drain(hot, archive, trim=trim)
        assert "lane:side" in fields_of(redis_backend, "side")
        assert [lane.ended for lane in hot.lanes("r")] == [True, False]
    hot.append("r", (), end_lanes=["slow"])
    drain(hot, archive)
    assert fields_of(redis_backend, "side") == []


def test_it_stays_until_every_archive_has_its_snapshot(
    redis_backend: RedisBackend, hot: Hot, archive: Archive, tmp_path: Path
) -> None:
    end(hot, "side")
    with SQLiteCheckpointer[Any, Any](tmp_path / "b.db") as other:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(other), "write", _full)
            with suppress(OSError):
                DrainWorker(hot, [archive, other]).drain_once()
        assert "its snapshot" in fields_of(redis_backend, "side")
        worker = DrainWorker(hot, [archive, other])
        worker.drain_runs(["r"])
        assert fields_of(redis_backend, "side") == []
        assert [lane.ended for lane in other.lanes("r")] == [True]


def _full(*_: Any) -> None:
    raise OSError("no room")


def test_what_was_saved_since_the_worker_looked_stays(
    redis_backend: RedisBackend, hot: Hot, archive: Archive
) -> None:
    """A lane that is opened, saved and ended again meanwhile has a snapshot that no archive has yet."""
    end(hot, "side")
    (run,) = namespace_of(hot).load_runs(["r"])
    assert run is not None
    hot.append("r", (), snapshots={"side": make_state("r", purpose="new")}, end_lanes=["side"])
    seen = Proven(run.header, run.head.last, run.head.tokens, "archived", None, ended=["side"])
    assert [one.outcome for one in namespace_of(hot).settle([seen], locations([archive]))] == ["ok"]
    assert "its snapshot" in fields_of(redis_backend, "side")
    assert due(hot)


def test_one_whose_snapshot_does_not_read_stays(redis_backend: RedisBackend, hot: Hot, archive: Archive) -> None:
    """Else the one before it would be taken for the last, as the archive has that."""
    hot.append("r", [make_event("r", 1, lane_id="side")], snapshots={"side": make_state("r")})
    drain(hot, archive)
    hot.append("r", (), snapshots={"side": make_state("r", purpose="last")}, end_lanes=["side"])
    key = session_of(hot).keys.run("r").snapshot("side")
    redis_backend.raw.hset(key, "=purpose", b"junk")
    DrainWorker(hot, [archive]).drain_once()
    assert redis_backend.raw.exists(key)
    with pytest.raises(CorruptRecordError):
        TieredCheckpointer(open_hot(redis_backend), archive).load_snapshot("r", lane_id="side")


@pytest.mark.parametrize("redis_backend", REAL[:1], indirect=True)
def test_hundreds_of_them_leave_nothing(redis_backend: RedisBackend, hot: Hot, archive: Archive) -> None:
    """Also where settling looks only at the lanes concerned: a few fields stay, however many they were."""
    lanes = [f"lane-{number}" for number in range(300)]
    hot.save_events(make_event("r", 1, lane_id=lane) for lane in lanes)
    for lane in lanes[:150]:
        hot.save_snapshot("r", make_state("r"), lane_id=lane)
    drain(hot, archive)
    for part in (lanes[:20], lanes[20:290], lanes[290:]):
        hot.append("r", (), end_lanes=part)
        drain(hot, archive)
        kept = redis_backend.raw.hgetall(session_of(hot).keys.run("r").meta)
        assert not [name for name in kept if name.partition(b":")[2].decode() in part]
    assert len(kept) < 15
    assert redis_backend.raw.zcard(session_of(hot).keys.run("r").lanes) <= 1
    assert len(archive.lanes("r")) == 300


def test_a_tombstone_has_nothing_of_ended_lanes(redis_backend: RedisBackend, hot: Hot, archive: Archive) -> None:
    for number in range(20):
        end(hot, f"side {number}")
    hot.save_snapshot("r", make_state("r"), lane_id="open")
    hot.save_event(make_event("r", 1, kind="run.finished"))
    assert DrainWorker(hot, [archive], retire_after_seconds=0, trim="never").drain_once().retired == 1
    kept = redis_backend.raw.hgetall(session_of(hot).keys.run("r").meta)
    assert [name for name in kept if b"gone" in name] == [b"gone:open"]
    tiered = TieredCheckpointer(open_hot(redis_backend), archive)
    for lane in ("side 3", "open", "new"):
        with tiered.open_run("r", lane_id=lane) as run:
            run.emit("tool.result")
            run.checkpoint()
    DrainWorker(hot, [archive]).drain_once()
    saved = [archive.load_snapshot("r", lane_id=lane) for lane in ("side 3", "open", "new")]
    assert [one and one.offset for one in saved] == [22, 23, 24]


def test_a_run_that_is_put_back_has_its_ended_lanes_ended(
    redis_backend: RedisBackend, hot: Hot, archive: Archive
) -> None:
    """They need none of their events there, and leave again."""
    end(hot, "side")
    with hot.open_run("r", lane_id="work") as run:
        run.emit("tool.result")
    drain(hot, archive)
    assert put_back(hot, archive, "r").outcome == "there already"
    hot.delete_run("r")
    put_back(hot, archive, "r")
    assert "end:side" in fields_of(redis_backend, "side")
    assert info_of(hot).first_hot == 2
    drain(hot, archive)
    assert fields_of(redis_backend, "side") == []


def test_one_that_ended_without_a_state_is_sound_where_the_run_is_put_back_whole(
    hot: Hot, archive: Archive
) -> None:
    hot.append("r", [make_event("r", seq, lane_id=lane) for seq, lane in [(1, "main"), (1, "side"), (2, "side")]])
    hot.append("r", (), end_lanes=["side"])
    drain(hot, archive, trim="never")
    hot.delete_run("r")
    put_back(hot, archive, "r", whole=True)
    assert verify_run("r", hot=hot, sinks=[archive]).difference is None
    hot.append("r", [make_event("r", 3, lane_id="side")])
    drain(hot, archive, trim="never")


def test_an_ended_lane_is_no_part_of_the_backlog(hot: Hot, archive: Archive) -> None:
    hot.save_event(make_event("r", 1, lane_id="slow"))
    drain(hot, archive, trim="never")
    hot.append("r", (), end_lanes=["slow"])
    (run,) = namespace_of(hot).load_runs(["r"])
    assert run is not None
    assert (run.since, [one.lane_id for one in run.ended]) == ({}, ["slow"])


# -- whatever is done with lanes, their states and numbers are those that were recorded last


@pytest.mark.exhaustive
@pytest.mark.one_in(1, exhaustively=14)
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.exhaustive) for seed in range(2, 9))])
def test_lanes_that_come_and_go_lose_nothing(
    redis_backend: RedisBackend, hot: Hot, archive: Any, tiered: Tiered, seed: int
) -> None:
    """Beside plain dicts: by writers that know much or little, with all that a worker may do in between."""
    chance, model = random.Random(seed), _Lanes()
    writers: Sequence[Tiered] = [tiered, TieredCheckpointer(open_hot(redis_backend), archive)]
    for step in range(1, 20 if seed == 1 else 60):
        lane = f"lane {chance.randrange(6)}"
        noted = redis_backend.raw.hkeys(session_of(hot).keys.run("r").meta)
        hot_lanes = {
            name.partition(b":")[2].decode() for name in noted if name.startswith((b"lane:", b"snapshot:"))
        }
        model.act(chance.choice(writers), lane, step, chance, hot_lanes)
        if chance.random() < 0.6:
            trim = chance.choice(["covered", "covered", "archived", "never"])
            drain(hot, archive, trim=trim, retire_after_seconds=chance.choice([None, 0]))
        model.check(TieredCheckpointer(open_hot(redis_backend), archive))
    drain(hot, archive, trim="covered")
    model.check(archive)


class _Lanes:
    """What was recorded of each lane: its numbers, its state's step, and whether it was ended."""

    def __init__(self) -> None:
        self.seqs: dict[str, list[int]] = {}
        self.steps: dict[str, int] = {}
        self.ended: set[str] = set()

    def act(self, store: Tiered, lane: str, step: int, chance: random.Random, hot_lanes: Collection[str]) -> None:
        """Do one of the things that can be done to a lane."""
        way = chance.randrange(6)
        if way == 0:
            store.append("r", [make_event("r", step, lane_id=lane)])
            self.note(lane, step)
        elif way == 1:
            if lane in hot_lanes:  # else it has left with its run, and stays as it was
                store.append("r", (), end_lanes=[lane])
                self.ended.add(lane)
        elif way == 2:
            kind = chance.choice(["run.finished", "run.started"])
            store.append("r", [make_event("r", step, kind=kind, lane_id="main")])
            self.note("main", step)
        else:
            with store.open_run("r", lane_id=lane) as run:
                assert run.state.current_step == self.steps.get(lane, 0)
                recorded = run.emit("tool.result")
                assert recorded.event.seq == (self.seqs.get(lane) or [0])[-1] + 1
                self.note(lane, recorded.event.seq)
                if way > 3:
                    run.state.current_step = self.steps[lane] = step
                    run.checkpoint() if way == 4 else run.finish_lane()
                    self.ended |= {lane} if way == 5 else set()

    def note(self, lane: str, seq: int) -> None:
        self.seqs.setdefault(lane, []).append(seq)
        self.ended.discard(lane)

    def check(self, store: Any) -> None:
        """Compare all that can be asked."""
        infos = {one.lane_id: one for one in store.lanes("r")}
        assert infos.keys() == self.seqs.keys() | self.steps.keys()
        for lane, info in infos.items():
            assert info.last_seq == (self.seqs.get(lane) or [0])[-1], lane
            assert info.ended == (lane in self.ended), lane
            recovery = store.recover("r", lane_id=lane)
            state = recovery.state or RunState("r")
            assert state.current_step == self.steps.get(lane, 0)
            found = [item.event.seq for item in recovery.events]
            assert found == self.seqs.get(lane, [])[len(self.seqs.get(lane, [])) - len(found) :]
            assert recovery.state is not None or len(found) == len(self.seqs[lane])
        found = [item.event.seq for item in store.read("r")]
        assert len(found) == sum(map(len, self.seqs.values()))
