"""P12: a damaged key or member holds up no other run, worker or command, and is reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    ConfigurationError,
    CorruptRecordError,
    DrainReport,
    DrainWorker,
    EventKind,
    RunstreamError,
    SQLiteCheckpointer,
    TieredCheckpointer,
)
from runstream.repair.verify import verify_run
from runstream.stores.redis.keys import PartitionKeys, RunKeys
from runstream.stores.redis.namespace import namespace_of
from tests.support.backends import RedisBackend, info_of
from tests.support.drain_tools import Hot, open_hot, parked
from tests.support.kinds import REAL
from tests.support.operations import session_of
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import needs_server

pytestmark = [
    needs_server,
    pytest.mark.parametrize(
        "redis_backend",
        [pytest.param(name, marks=() if name == "valkey" else pytest.mark.exhaustive) for name in REAL],
        indirect=True,
    ),
]

HEALTHY = ("ok0", "ok1", "ok2")
BINARY = b"\xff\xfe\x00"


@dataclass
class World:
    """A damaged run among healthy ones, all of one partition, half archived."""

    backend: RedisBackend
    hot: Hot
    raw: Any
    archive: SQLiteCheckpointer[Any, Any]

    @property
    def run(self) -> RunKeys:
        run: RunKeys = session_of(self.hot).keys.run("evil")
        return run

    @property
    def partition(self) -> PartitionKeys:
        return self.run.partition

    def drain(self, **options: Any) -> DrainReport:
        return DrainWorker(self.hot, [self.archive], **{"trim": "never", **options}).drain_once()


@pytest.fixture
def world(redis_backend: RedisBackend, tmp_path: Path) -> Iterator[World]:
    hot = open_hot(redis_backend, partitions=1, retry_seconds=0.2)
    with closing(SQLiteCheckpointer(tmp_path / "archive.db")) as archive:
        world = World(redis_backend, hot, redis_backend.raw, archive)
        for run_id in ("evil", *HEALTHY):
            hot.append(run_id, make_events(run_id, 3), keys=["a", "b", "c"], snapshot=make_state(run_id))
            hot.append(run_id, [make_event(run_id, 4)], snapshot=make_state(run_id), lane_id="main")
        world.drain()
        for run_id in ("evil", *HEALTHY):
            hot.append(run_id, [make_event(run_id, 5, kind=EventKind.RUN_FINISHED)])
        yield world


def text_instead(name: str) -> Callable[[World], None]:
    def damage(world: World) -> None:
        key = getattr(world.run, name)
        world.raw.delete(key)
        world.raw.set(key, "x")

    return damage


def field(name: str | bytes, value: str | bytes) -> Callable[[World], None]:
    return lambda world: world.raw.hset(world.run.meta, name, value)


def without(name: str) -> Callable[[World], None]:
    return lambda world: world.raw.hdel(world.run.meta, name)


KEYS_OF_RUN = ("events", "meta", "producers", "keys", "run_snapshot")
JUNK: list[str | bytes] = ["x", BINARY, "", "3", "9" * 400, "-1", "99999999999999999999-1"]
FIELDS = ["start", "last", "mark", "status", "created", "updated", "snapshot", "snapshot:main", "lane:main"]
FIELDS += ["since:main", "lease", "lease:main", "retired", "by", "proven", "parent", "session", "epoch", "peak"]
FIELDS += ["trimmed"]
DAMAGES = {f"{name} is a text": text_instead(name) for name in KEYS_OF_RUN}
DAMAGES |= {f"a field {name!r}": field(name + BINARY, b"1 1") for name in (b"lane:", b"snapshot:", b"")}
DAMAGES |= {f"{name} is gone": without(name) for name in ("start", "last", "status", "created", "updated")}
DAMAGES |= {"the mark is ahead": field("mark", "999-1")}
BY_DEFAULT = {*DAMAGES, "start is 'x'", "last is '3'", "mark is ''", "created is b'\\xff\\xfe\\x00'"}
BY_DEFAULT |= {f"{name} is 'x'" for name in ("snapshot", "lease", "retired", "by")} | {"lane:main is ''"}
DAMAGES |= {f"{name} is {value!r:.20}": field(name, value) for name in FIELDS for value in JUNK}


@pytest.mark.one_in(10, exhaustively=7)
@pytest.mark.parametrize(
    "how", [pytest.param(name, marks=() if name in BY_DEFAULT else pytest.mark.exhaustive) for name in DAMAGES]
)
def test_a_damaged_key_of_a_run_holds_up_no_other(world: World, how: str) -> None:
    """The worker archives and retires the others; every command goes on; what concerns the run is typed."""
    DAMAGES[how](world)
    for _ in range(2):
        world.drain()
    assert [info_of(world.archive, run_id).last_offset for run_id in HEALTHY] == [5, 5, 5]
    for run_id in HEALTHY:
        world.hot.append(run_id, [make_event(run_id, 6)])
        assert len(list(world.hot.read(run_id))) == 6
    namespace_of(world.hot).status()
    assert set(HEALTHY) <= {info.run_id for info in world.hot.runs()} <= {"evil", *HEALTHY}
    assert set(world.hot.list_runs()) == {"evil", *HEALTHY}
    fresh = open_hot(world.backend, retry_seconds=0.2)
    for call in calls(fresh) + calls(world.hot):
        with suppress(RunstreamError, TimeoutError):  # and nothing else
            call()
    verify_run("evil", hot=world.hot, sinks=[world.archive])
    assert all(verify_run(run_id, hot=world.hot, sinks=[world.archive]).is_sound for run_id in HEALTHY)
    for run_id in HEALTHY:
        world.hot.append(run_id, [make_event(run_id, 7, kind=EventKind.RUN_FINISHED)])
    assert world.drain(retire_after_seconds=0).retired >= len(HEALTHY)
    world.hot.delete_run("evil")
    assert world.hot.run_info("evil") is None
    assert not [key for key in world.raw.keys(f"{world.partition.tag}:run:evil:*") if b"producers" not in key]


def calls(hot: Hot) -> list[Callable[[], Any]]:
    state = make_state("evil")
    return [
        lambda: list(hot.read("evil")),
        lambda: hot.list_events("evil"),
        lambda: hot.list_events("evil", 3),
        lambda: hot.run_info("evil"),
        lambda: hot.load_snapshot("evil"),
        lambda: hot.load_snapshot("evil", lane_id="main"),
        lambda: hot.recover("evil"),
        lambda: hot.recover("evil", lane_id="main"),
        lambda: hot.lease("evil", owner="o").release(),
        lambda: hot.lease("evil", owner="o", lane_id="main").release(),
        lambda: hot.append("evil", []),
        lambda: hot.append("evil", [make_event("evil", 8)]),
        lambda: hot.append("evil", [make_event("evil", 9)], keys=["a"]),
        lambda: hot.save_snapshot("evil", state),
        lambda: hot.append("evil", [make_event("evil", 9)], snapshot=state),
        lambda: hot.update_state("evil", lambda one: one),
        lambda: list(hot.follow("evil", idle_timeout=0.01)),
    ]


def test_what_concerns_the_damaged_run_names_run_key_and_the_next_step(world: World) -> None:
    """Whatever the server says, WRONGTYPE or an error of a script: CorruptRecordError."""
    more = [make_event("evil", 9)]
    for damage, key, call in (
        (text_instead("events"), world.run.events, lambda hot: list(hot.read("evil"))),
        (text_instead("events"), world.run.events, lambda hot: hot.append("evil", more)),
        (text_instead("producers"), world.run.producers, lambda hot: hot.append("evil", more)),
        (
            text_instead("keys"),
            world.run.keys,
            lambda hot: hot.append("evil", [make_event("evil", 9)], keys=["z"]),
        ),
        (text_instead("run_snapshot"), world.run.run_snapshot, lambda hot: hot.load_snapshot("evil")),
        (text_instead("run_snapshot"), world.run.run_snapshot, lambda hot: hot.recover("evil")),
        (field("lease", "x"), world.run.meta, lambda hot: hot.append("evil", more)),
        (field("last", "x"), world.run.meta, lambda hot: hot.run_info("evil")),
        (without("start"), world.run.meta, lambda hot: hot.recover("evil")),
        (text_instead("meta"), world.run.meta, lambda hot: hot.lease("evil", owner="o")),
        (text_instead("meta"), world.run.meta, lambda hot: list(hot.follow("evil"))),
    ):
        saved = {name: world.raw.dump(name) for name in world.raw.keys(f"{world.partition.tag}:run:evil:*")}
        damage(world)
        with pytest.raises(CorruptRecordError) as caught:
            call(open_hot(world.backend, retry_seconds=0.2))
        assert caught.value.run_id == "evil"
        assert key in str(caught.value)
        assert "runstream verify evil" in str(caught.value)
        for name, content in saved.items():
            world.raw.restore(name, 0, content, replace=True)


def test_a_damaged_run_is_parked_with_its_reason_and_verify_reports_it(world: World) -> None:
    text_instead("meta")(world)
    report = world.drain()
    assert (report.parked, report.runs) == (1, 3)
    assert world.run.meta in parked(world.hot)["evil"]
    verdict = verify_run("evil", hot=world.hot, sinks=[world.archive])
    assert world.run.meta in str(verdict.difference)


def test_a_damaged_run_is_deleted_from_both_tiers(world: World) -> None:
    for damage in (text_instead("meta"), without("start"), field("start", BINARY)):
        damage(world)
        assert TieredCheckpointer(world.hot, world.archive).delete_run("evil")
        assert world.hot.run_info("evil") is world.archive.run_info("evil") is None
        world.hot.append("evil", make_events("evil", 3))
        world.drain()


@pytest.mark.one_in(4)
@pytest.mark.parametrize("member", [BINARY, b"", b"x" * 100_000, b"no-such-run"])
@pytest.mark.parametrize("name", ["due", "retire", "retired", "runs"])
def test_a_member_that_is_no_run_holds_up_nothing(world: World, name: str, member: bytes) -> None:
    """It is taken out of the set, and everything else goes on."""
    key = getattr(world.partition, name)
    world.raw.zadd(key, {member: 1})
    world.drain(retire_after_seconds=0, forget_after_seconds=100)
    assert [info_of(world.archive, run_id).last_offset for run_id in HEALTHY] == [5, 5, 5]
    assert {info.run_id for info in world.hot.runs()} == {"evil", *HEALTHY}
    assert {"evil", *HEALTHY} <= set(world.hot.list_runs()) <= {"evil", *HEALTHY, "no-such-run"}
    namespace_of(world.hot).status()
    assert name == "runs" or world.raw.zscore(key, member) is None


def test_an_infinite_due_time_is_one(world: World) -> None:
    world.raw.zadd(world.partition.due, {"evil": float("inf"), "ok0": float("-inf")})
    assert world.drain().runs == 4
    namespace_of(world.hot).status()


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", ["due", "runs", "retire", "retired", "deleted", "parked"])
def test_a_set_of_another_type_is_set_aside_and_made_anew(world: World, name: str) -> None:
    """Writers are acknowledged meanwhile, the worker goes on, and what was in the way is kept."""
    key = getattr(world.partition, name)
    world.raw.delete(key)
    world.raw.set(key, "x")
    assert world.hot.append("ok0", [make_event("ok0", 6)]).last_offset == 6
    other = open_hot(world.backend)
    assert other.append("ok0", [make_event("ok0", 7)]).last_offset == 7
    other.save_snapshot("ok0", make_state("ok0"))
    assert key in namespace_of(world.hot).status().damaged
    world.drain(retire_after_seconds=0)
    world.hot.append("ok0", [make_event("ok0", 8)])
    world.drain(retire_after_seconds=0)
    assert info_of(world.archive, "ok0").last_offset == 8
    assert world.raw.get(f"{key}:damaged") == b"x"


def test_archives_of_another_type_are_an_error_of_configuration(world: World) -> None:
    """Which archives are required is nothing to guess."""
    world.raw.delete(world.partition.archives)
    world.raw.set(world.partition.archives, "x")
    with pytest.raises(ConfigurationError, match="archives"):
        world.drain()
    namespace_of(world.hot).status()
