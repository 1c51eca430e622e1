"""Two histories of one run: what is shown of them, what becomes of them, and that nothing of either is lost.

Redis is behind the archive, with or without new events on top, or the run was lost and made anew. Every case ends
in one drain that parks nothing, in :func:`archive_check.check_archives`, and with all events of both histories in
every archive.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest

from runstream import (
    AcknowledgedWritesLost,
    ArchiveGap,
    ConcurrencyConflict,
    ConfigurationError,
    CorruptRecordError,
    DrainWorker,
    EventKind,
    HistoryDiverged,
    JSONLCheckpointer,
    LeaseLost,
    PAEvent,
    RedisCheckpointer,
    RunState,
    SQLiteCheckpointer,
    StoreUnavailable,
    UnsupportedVersion,
    connect,
    create_event,
)
from runstream.codec.archive_entries import entry_fields
from runstream.codec.chain import next_chain
from runstream.codec.event_codec import Codec, EventFields
from runstream.codec.record import record_crc
from runstream.history.hot import ArchivedHistory
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, Position, RunBatch, RunHeader
from runstream.model.identifiers import check_run_id
from runstream.model.protocols import MendableSink
from runstream.model.results import Cursor
from runstream.repair.branches import branch_name
from runstream.repair.resolve import Histories, Keep, Resolution, look, resolve
from runstream.stores.redis.connection.embedded_server import EmbeddedServer
from runstream.stores.redis.exchange import Exchange, Replies, script_of
from runstream.stores.redis.operations.admin import restore, status
from runstream.stores.redis.operations.worker import drain
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import Backend, RedisBackend, kept_replies
from tests.support.commands import run
from tests.support.servers import DEADLINE_SECONDS, PROGRAMS, Pair, eventually, primary_and_replica

Hot = RedisCheckpointer[Any, Any]
KEEPS: tuple[Keep, ...] = get_args(Keep)
SHAPES = ("behind", "new on top", "made anew")
TOUGH: dict[str, Any] = {"raw": b"\x00\xff", "pair": (1, "x"), "nan": float("inf"), "deep": {"k": {1: {2}}}}


@dataclass
class World:
    """One run in Redis and in two archives, and what was acknowledged of each of its histories."""

    backend: RedisBackend
    hot: Hot
    archives: list[Archive]
    common: list[PAEvent] = field(default_factory=list)
    of_archive: list[PAEvent] = field(default_factory=list)
    of_redis: list[PAEvent] = field(default_factory=list)
    keys: dict[str, Any] = field(default_factory=dict)

    @property
    def sinks(self) -> list[MendableSink]:
        return list(self.archives)

    def open(self) -> Hot:
        store = self.backend.open()
        assert isinstance(store, RedisCheckpointer)
        return store

    def drain(self, **options: Any) -> Any:
        return DrainWorker(self.hot, self.archives, **options).drain_once()

    def remember(self) -> dict[str, Any]:
        """All that Redis has of the namespace, as a replica would have it."""
        return {name: (kind, self._content(name, kind)) for name, kind in self._names()}

    def come_back(self, remembered: dict[str, Any]) -> None:
        """Redis has what a replica had, and nothing else."""
        raw = self.backend.raw
        if names := self.backend.key_names():
            raw.delete(*names)
        for name, (kind, content) in remembered.items():
            if kind == b"stream":
                for entry_id, fields in content:
                    raw.xadd(name, fields, id=entry_id)
            elif kind == b"hash":
                raw.hset(name, mapping=content)
            else:
                raw.zadd(name, dict(content))

    def _names(self) -> list[tuple[str, bytes]]:
        return [(name, self.backend.raw.type(name)) for name in self.backend.key_names()]

    def _content(self, name: str, kind: bytes) -> Any:
        raw = self.backend.raw
        if kind == b"stream":
            return raw.xrange(name)
        return raw.hgetall(name) if kind == b"hash" else raw.zrange(name, 0, -1, withscores=True)

    def look(self) -> Histories:
        found = look(self.hot, self.sinks, "r")
        assert found is not None
        return found

    def resolve(self, keep: Keep) -> Resolution:
        return resolve(self.hot, self.sinks, self.look(), keep)

    def parked(self) -> dict[str, str]:
        return dict(self.hot.perform(status.namespace_status(self.hot.context.keys)).parked)

    def due(self) -> int:
        found = self.hot.perform(status.namespace_status(self.hot.context.keys))
        return found.due + found.later

    def check(self, keep: Keep) -> None:
        """The run has the history that was kept; the other one's events are in every archive, by another name."""
        expected = {
            "archive": self.common + self.of_archive,
            "redis": self.common + self.of_redis,
            "both": self.common + self.of_redis + self.of_archive,
        }[keep]
        report = self.drain()
        assert (report.parked, self.parked(), self.due()) == (0, {}, 0)
        check_archives(self.archives, {"r": expected})
        for archive in self.archives:
            check_nothing_is_lost(archive, self.common + self.of_archive + self.of_redis)
        hot = self.open()
        recovery = hot.recover("r")
        for archive in self.archives:
            from_archive = archive.recover("r")
            assert (recovery.state, recovery.offset) == (from_archive.state, from_archive.offset)
            assert recovery.events == from_archive.events
        assert recovery.offset + len(recovery.events) == len(expected)
        (again,) = emit(hot, "r", 1)
        assert [item.event for item in hot.recover("r").events][-1] == again
        assert self.drain().parked == 0
        check_archives(self.archives, {"r": [*expected, again]})


def check_nothing_is_lost(archive: Archive, events: Sequence[PAEvent]) -> None:
    """Every event is in the run or in a branch of it, equal but for its name; each branch is one chain."""
    found = []
    for run_id in archive.list_runs():
        header = archive.header(run_id)
        assert header is not None
        if run_id == "r" or (header.parent is not None and header.parent[0] == "r"):
            events_there = [item.event for item in archive.read(run_id, header.start.offset, on_corrupt="skip")]
            assert {event.run_id for event in events_there} <= {run_id}
            found += [{**event.to_dict(), "run_id": "r"} for event in events_there]
        if run_id != "r":
            assert list(branch_faults(archive, run_id)) == []
    missing = [event.span_id for event in events if event.to_dict() not in found]
    assert missing == []


def branch_faults(archive: Archive, name: str) -> Iterator[str]:
    """A branch begins where it parts, is dense, and its chains follow from its records under their first name."""
    header, position = archive.header(name), archive.position(name)
    assert header is not None
    assert position is not None
    assert header.parent is not None
    assert name == f"{header.parent[0]}~{position.cursor}"
    assert header.parent[1] == header.start.offset
    info = archive.run_info(name)
    assert info is not None
    assert info.parent == header.parent
    former = header.start
    codec: Codec[Any, Any] = Codec()
    for entry in archive.read_back(name, header.start.offset + 1, position.cursor.offset):
        record = entry.raw
        if record is None:
            fields = {**(entry_fields(name, entry) or {}), "run_id": header.parent[0]}
            record = codec.encode_events(header.parent[0], [EventFields(fields)], [entry.key])[0].record
        expected = Cursor(former.offset + 1, next_chain(former.chain, record_crc(record)))
        if entry.cursor != expected:
            yield f"{entry.cursor} is there, not {expected}"
        former = entry.cursor
    if former != position.cursor:
        yield f"it ends at {former}, not at {position.cursor}"


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[[RedisBackend], World]]:
    made: list[Archive] = []

    def make(backend: RedisBackend, directory: str = "one") -> World:
        place = tmp_path / directory
        place.mkdir()
        archives: list[Archive] = [SQLiteCheckpointer(place / "a.db"), JSONLCheckpointer(place / "j")]
        made.extend(archives)
        hot = backend.open()
        assert isinstance(hot, RedisCheckpointer)
        return World(backend, hot, archives)

    yield make
    for archive in made:
        archive.close()


@pytest.fixture
def world(make_backend: Callable[[str], Backend], make_world: Callable[[RedisBackend], World]) -> World:
    """On fakeredis."""
    backend = make_backend("fake")
    assert isinstance(backend, RedisBackend)
    return make_world(backend)


@pytest.fixture
def any_world(redis_backend: RedisBackend, make_world: Callable[[RedisBackend], World]) -> World:
    """On every kind of server."""
    return make_world(redis_backend)


def emit(hot: Hot, run_id: str, count: int, *, lane_id: str = "main", first: int = 1) -> list[PAEvent]:
    events = [
        create_event(run_id, EventKind.TOOL_RESULT, lane_id=lane_id, seq=seq, session_id="s", **TOUGH)
        for seq in range(first, first + count)
    ]
    hot.save_events(events)
    return events


def part(world: World, shape: str) -> None:
    """Let the two histories part, and the worker park the run: two lanes, a snapshot, keys, part of it trimmed."""
    hot = world.hot
    if shape == "made anew":
        world.of_archive = emit(hot, "r", 7)
        hot.save_snapshot("r", RunState("r", current_step=7))
        world.of_archive += emit(hot, "r", 3, first=8)
        assert world.drain().parked == 0
        hot.delete_run("r")
        hot.perform(_forget_deletions(hot))
        world.hot = world.open()
        world.of_redis = emit(world.hot, "r", 5)
    else:
        world.common = emit(hot, "r", 6)
        hot.save_snapshot("r", RunState("r", current_step=6))
        world.common += emit(hot, "r", 4, lane_id="side")
        assert world.drain().parked == 0
        behind = world.remember()
        world.of_archive = emit(hot, "r", 3, first=7)
        keyed = [create_event("r", EventKind.TOOL_RESULT, lane_id="side", seq=5, key="k")]
        hot.append("r", keyed, keys=["k"])
        hot.save_snapshot("r", RunState("r", current_step=9))
        world.of_archive += keyed + emit(hot, "r", 2, first=10)
        assert world.drain().parked == 0
        world.come_back(behind)
        world.hot = world.open()
        if shape == "new on top":
            world.hot.recover("r")
            world.of_redis = emit(world.hot, "r", 8, first=7)
            world.hot.save_snapshot("r", RunState("r", current_step=99))
            world.of_redis += emit(world.hot, "r", 1, lane_id="third")
    if shape == "behind":
        # nothing new: nobody looks at the run before something makes it due
        world.hot.perform(_make_due(world.hot))
    assert world.drain().parked == 1
    assert "`runstream resolve r`" in world.parked()["r"]


def _forget_deletions(hot: Hot) -> Any:
    yield Exchange([(b"DEL", partition.deleted) for partition in hot.context.keys.partitions])


def _make_due(hot: Hot) -> Any:
    yield Exchange([(b"ZADD", hot.context.keys.run("r").partition.due, 1, "r")])


# -- the three ways, in all shapes ---------------------------------------------------------------------


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_run_has_the_history_that_was_kept_and_the_other_one_is_kept_too(
    any_world: World, shape: str, keep: Keep
) -> None:
    """On every kind of server, into both kinds of archive."""
    world = any_world
    part(world, shape)
    done = world.resolve(keep)
    assert world.parked() == {}
    world.check(keep)
    if keep == "both":
        assert done.appended == len(world.of_archive)
    assert all(name.startswith("r~") for name in done.branches)
    assert len(done.branches) == 1  # if Redis has nothing new, it has a snapshot that the archive has replaced
    assert [name for name in world.backend.key_names() if ":refilled:" in name] == []


def test_where_nothing_gives_way_no_branch_is_made(world: World) -> None:
    """Redis is merely behind: all that it has, the archive has."""
    world.common = emit(world.hot, "r", 3)
    behind = world.remember()
    world.of_archive = emit(world.hot, "r", 3, first=4)
    world.drain()
    world.come_back(behind)
    world.hot = world.open()
    assert world.resolve("archive").branches == []
    world.check("archive")


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("trim", ["archived", "never"])
def test_whatever_was_trimmed(world: World, trim: Any, keep: Keep) -> None:
    """Redis has only what is new, or still everything, and no snapshot at all."""
    world.common = emit(world.hot, "r", 30)
    world.drain(trim=trim)
    behind = world.remember()
    world.of_archive = emit(world.hot, "r", 20, first=31)
    world.drain(trim=trim)
    world.come_back(behind)
    world.hot = world.open()
    world.of_redis = emit(world.hot, "r", 25, first=31)
    assert world.drain(trim=trim).parked == 1
    world.resolve(keep)
    if trim == "archived" and keep != "archive":  # what recover needs is in the archive, where it was before
        assert world.drain(trim=trim).parked == 0
        kept = world.common + world.of_redis + (world.of_archive if keep == "both" else [])
        check_archives(world.archives, {"r": kept})
        for archive in world.archives:
            check_nothing_is_lost(archive, kept + world.of_archive)
    else:
        world.check(keep)


def test_a_long_run_goes_in_pieces(world: World) -> None:
    """More than one page, batch and reply of everything."""
    world.common = emit(world.hot, "r", 1300)
    world.drain()
    behind = world.remember()
    world.of_archive = emit(world.hot, "r", 1100, first=1301)
    world.drain()
    world.come_back(behind)
    world.hot = world.open()
    world.of_redis = emit(world.hot, "r", 700, first=1301)
    world.resolve("archive")
    assert {status.offset for status in world.open().read("r")} == set(range(1, 2401))
    world.check("archive")


def test_a_branch_reads_as_any_run_with_its_snapshots(world: World) -> None:
    """Its events and states name it as theirs."""
    part(world, "new on top")
    (name,) = world.resolve("redis").branches
    for archive in world.archives:
        assert [event.span_id for event in archive.list_events(name)] == [one.span_id for one in world.of_archive]
        state = archive.load_latest(name)
        assert state is not None
        assert (state.run_id, state.current_step) == (name, 9)
        assert archive.read_back_snapshots(name)[0].offset == 14
    assert world.drain().snapshots == 1
    for archive in world.archives:
        assert archive.load_latest("r") == world.hot.load_latest("r")


def test_what_a_writer_has_put_back_is_not_appended_again(world: World) -> None:
    """resend_lost did part of the work: both histories are complete, and nothing is there twice."""
    part(world, "new on top")
    world.hot.save_events(world.of_archive[1:4])
    world.of_redis += world.of_archive[1:4]
    world.of_archive = [event for event in world.of_archive if event not in world.of_redis]
    assert world.resolve("both").appended == len(world.of_archive)
    world.check("both")


def test_a_limit_on_hot_events_does_not_keep_a_run_from_being_resolved(world: World) -> None:
    """What is parked is not trimmed: repeated however often, it would be refused each time."""
    part(world, "new on top")
    limited = world.backend.open(max_hot_events=1)
    assert isinstance(limited, RedisCheckpointer)
    assert resolve(limited, world.sinks, world.look(), "both").appended == len(world.of_archive)
    world.check("both")


def test_events_of_one_span_are_different_events(world: World) -> None:
    """A tool call and its result may share a span: the one in Redis is not taken for the other."""
    world.common = emit(world.hot, "r", 2)
    world.drain()
    behind = world.remember()
    call, result = (
        PAEvent("r", kind=kind, seq=seq, span_id="one") for seq, kind in ((3, "tool.call"), (4, "tool.result"))
    )
    world.hot.save_events([call, result, result])
    world.drain()
    world.come_back(behind)
    world.hot = world.open()
    world.hot.save_events([result])
    assert world.resolve("both").appended == 2  # what was acknowledged twice is there twice
    assert world.drain().parked == 0
    for archive in world.archives:
        assert archive.list_events("r") == [*world.common, result, call, result]


def test_a_key_that_the_run_has_given_to_another_event_stays_with_that_one(world: World) -> None:
    """The archive's event with that key is in the run all the same, without it."""
    world.common = emit(world.hot, "r", 2)
    world.drain()
    behind = world.remember()
    first, second = emit_keyed(world.hot, "a"), emit_keyed(world.hot, "b")
    world.drain()
    world.come_back(behind)
    world.hot = world.open()
    again = emit_keyed(world.hot, "a")
    assert world.resolve("both").appended == 2
    assert world.hot.append("r", [create_event("r", "x")], keys=["a"]).first_offset == 3
    assert world.hot.append("r", [create_event("r", "x")], keys=["b"]).first_offset == 5
    world.drain()
    check_archives(world.archives, {"r": [*world.common, again, first, second]})


def emit_keyed(hot: Hot, key: str) -> PAEvent:
    event = create_event("r", EventKind.TOOL_RESULT)
    hot.append("r", [event], keys=[key])
    return event


def test_after_the_archives_history_is_restored_its_keys_are_known_and_no_others(world: World) -> None:
    """An agent that repeats a step finds it where the archive has it."""
    emit_keyed(world.hot, "common")
    world.drain()
    behind = world.remember()
    emit_keyed(world.hot, "archive")
    world.drain()
    world.come_back(behind)
    world.hot = world.open()
    emit_keyed(world.hot, "redis")
    world.resolve("archive")
    hot = world.open()
    found = [hot.append("r", [create_event("r", "x")], keys=[key]) for key in ("common", "archive", "redis")]
    assert [one.last_offset for one in found] == [1, 2, 3]


def test_lanes_go_on_where_the_archive_has_them(world: World) -> None:
    """Of each lane Redis knows the last seq and what its snapshot does not cover, as if nothing had been lost."""
    part(world, "new on top")
    world.resolve("archive")
    hot = world.open()
    assert [hot.perform(_last_seq(hot, lane)) for lane in ("main", "side", "third")] == [11, 5, 0]
    with hot.open_run("r") as run:
        assert run.state.current_step == 9
        assert [item.event for item in run.recovered.events] == world.of_archive[4:]
        run.emit(EventKind.AGENT_PROGRESS)
    assert hot.recover("r", lane_id="side").offset == 0
    assert len(hot.recover("r", lane_id="side").events) == 5


def _last_seq(hot: Hot, lane: str) -> Any:
    (found,) = yield Exchange([(b"HGET", hot.context.keys.run("r").meta, f"lane:{lane}")])
    return int(found.split()[1]) if found else 0


# -- what is shown -------------------------------------------------------------------------------------


def test_where_they_part_is_found_by_looking_at_few_entries(world: World) -> None:
    """Of 3,000 common events and 1,500 of each branch, no more than a bisection takes."""
    world.common = emit(world.hot, "r", 1000)
    world.drain(trim="never")
    world.common += emit(world.hot, "r", 2000, first=1001)
    behind = world.remember()
    world.of_archive = emit(world.hot, "r", 1500, first=3001)
    world.drain(trim="never")
    world.come_back(behind)
    world.hot = world.open()
    world.of_redis = emit(world.hot, "r", 1500, first=3001)
    entries: list[int] = []
    driver: Any = world.hot._driver
    exchange = driver.exchange

    def counting(one: Exchange) -> Replies:
        replies: Replies = exchange(one)
        entries.extend(
            len(reply) for command, reply in zip(one.commands, replies, strict=True) if command[0] == b"XRANGE"
        )
        return replies

    driver.exchange = counting
    found = world.look()
    assert [side.start.offset for side in found.sides] == [3000, 3000]
    assert sum(entries) < 2 * 2 * 14


@pytest.mark.parametrize("common", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("own", [(0, 1), (1, 1), (5, 2), (2, 5), (0, 0)])
@pytest.mark.parametrize("trimmed", [False, True])
def test_the_parting_is_exact(world: World, common: int, own: tuple[int, int], trimmed: bool) -> None:
    """Short histories of every kind: with nothing but a start in common, with one that has nothing of its own."""
    if common + own[0] == 0 or common + own[1] == 0 or (trimmed and not common):
        return
    hot = world.hot
    if common:
        # the replica had more than was archived: the mark is no help beyond the half
        emit(hot, "r", (common + 1) // 2)
        DrainWorker(hot, world.archives, trim="never").drain_once()
        if trimmed:
            hot.save_snapshot("r", RunState("r"))
            DrainWorker(hot, world.archives).drain_once()
        if common > 1:
            emit(hot, "r", common // 2)
        behind = world.remember()
        if own[0]:
            emit(hot, "r", own[0])
        DrainWorker(hot, world.archives, trim="never").drain_once()
        world.come_back(behind)
        world.hot = world.open()
    else:
        emit(hot, "r", own[0])
        DrainWorker(hot, world.archives, trim="never").drain_once()
        start = hot.perform(_start(hot))
        hot.delete_run("r")
        world.hot = world.open()
        # the same start, and not one event in common: the replica had the lease's meta, say
        world.hot.perform(_create(world.hot, start))
    if own[1]:
        emit(world.hot, "r", own[1])
    for side in world.look().sides:
        assert side.parting is not None
        assert (side.parting.place.offset, side.parting.exact) == (common, True)
        assert side.has_parted == bool(own[0])


def _start(hot: Hot) -> Any:
    (start,) = yield Exchange([(b"HGET", hot.context.keys.run("r").meta, "start")])
    return start


def _create(hot: Hot, start: bytes) -> Any:
    fields = ("start", start, "last", start, "status", "running", "created", 1, "updated", 1)
    yield Exchange([(b"HSET", hot.context.keys.run("r").meta, *fields)])


def test_looking_changes_nothing(world: World, tmp_path: Path) -> None:
    part(world, "new on top")
    before = (world.remember(), files(tmp_path))
    world.look()
    assert (world.remember(), files(tmp_path)) == before


def files(directory: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and "-shm" not in path.name
    }


def test_nothing_to_look_at_in_a_run_that_redis_does_not_have(world: World) -> None:
    assert look(world.hot, world.sinks, "nobody") is None


@pytest.mark.parametrize("keep", KEEPS)
def test_a_run_that_has_not_parted_just_comes_due(world: World, keep: Keep) -> None:
    world.common = emit(world.hot, "r", 3)
    world.drain()
    emit_keyed(world.hot, "k")
    (loaded,) = world.hot.perform(drain.load(world.hot.context.keys, ["r"]))
    assert loaded is not None
    world.hot.perform(drain.park(world.hot.context.keys, loaded.header, "for a test", 60))
    assert world.drain().runs == 0
    assert world.resolve(keep) == Resolution()
    assert world.drain().runs == 1


# -- what stands in the way ----------------------------------------------------------------------------


@pytest.mark.parametrize("keep", KEEPS)
def test_what_came_in_between_is_looked_at_first(world: World, keep: Keep) -> None:
    """The archive's history is not put over events that nobody was shown; nor is a branch cut that went on."""
    part(world, "new on top")
    seen = world.look()
    if keep == "archive":
        world.of_redis += emit(world.hot, "r", 1)
    else:
        extend_archive(world.archives[1])
    with pytest.raises(ConcurrencyConflict, match="look again"):
        resolve(world.hot, world.sinks, seen, keep)
    if keep != "archive":
        return
    assert [item.offset for item in world.hot.read("r", 6)] == list(range(7, 21))
    world.resolve(keep)
    world.check(keep)


def extend_archive(archive: Archive) -> None:
    """As another resolver, or a worker that was paused for an hour, would."""
    history = ArchivedHistory.look(archive, "r")
    assert history is not None
    (event,) = Codec[Any, Any]().encode_events("r", [create_event("r", "late")])
    cursor = Cursor(history.last.offset + 1, next_chain(history.last.chain, record_crc(event.record)))
    entry = ArchiveEntry(*cursor, None, json.dumps({"run_id": "r", "ts": 1.0, "kind": "late", "lane_id": "main"}))
    archive.write([RunBatch(history.header, history.last, [entry])])


def test_a_snapshot_that_came_in_between_is_not_put_away(world: World) -> None:
    part(world, "new on top")
    seen = world.look()
    world.hot.save_snapshot("r", RunState("r", current_step=100))
    with pytest.raises(ConcurrencyConflict, match="look again"):
        resolve(world.hot, world.sinks, seen, "archive")
    state = world.hot.load_latest("r")
    assert state is not None
    assert state.current_step == 100


def test_writers_of_the_branch_that_gave_way_are_told(any_world: World) -> None:
    """One that saw it, one that holds a lease, one whose batch was applied to it, and one that knew no more."""
    world = any_world
    part(world, "new on top")
    knew, fresh = world.hot, world.open()
    holder = world.open()
    lease = holder.lease("r", owner="me", lane_id="second")
    # given out by a server whose clock was ahead
    ahead = lease.epoch + 10**12
    world.backend.raw.hset(world.hot.context.keys.run("r").meta, "epoch", ahead)
    world.resolve("archive")
    with pytest.raises((HistoryDiverged, AcknowledgedWritesLost)):
        knew.save_event(create_event("r", "x"))
    with pytest.raises(LeaseLost):
        fresh.append("r", [create_event("r", "x", lane_id="second")], lease=lease)
    fresh.append("r", [create_event("r", "x", lane_id="second")])
    later = fresh.lease("r", owner="you")
    assert later.epoch > ahead
    later.release()


def fall_behind(world: World) -> None:
    """Two more events come and are archived, and the server comes back without them."""
    world.drain()
    behind = world.remember()
    world.of_archive = emit(world.hot, "r", 2, first=4)
    world.drain()
    world.come_back(behind)


def test_a_resend_finds_its_first_reply_where_both_histories_have_it(world: World) -> None:
    """The producer of a batch in the common part is remembered, that of a batch that gave way is not."""
    world.common = emit(world.hot, "r", 3)
    fall_behind(world)
    common = producers(world)
    world.hot = world.open()
    world.of_redis = emit(world.hot, "r", 1, first=4)
    assert len(producers(world)) == 2
    world.resolve("archive")
    assert producers(world) == common


def test_a_resend_finds_its_first_reply_where_the_archive_only_has_more(world: World) -> None:
    """The run's last append is in both histories, and noted in the run still."""
    world.common = emit(world.hot, "r", 3)
    world.hot.save_event(create_event("r", "x"))
    fall_behind(world)
    common = producers(world)
    assert world.backend.raw.hexists(world.hot.context.keys.run("r").meta, "by")
    world.resolve("archive")
    assert producers(world) == common
    assert not world.backend.raw.hexists(world.hot.context.keys.run("r").meta, "by")


def producers(world: World) -> dict[bytes, bytes]:
    keys = world.hot.context.keys.run("r")
    found = kept_replies(world.backend.raw, keys.meta, keys.producers)
    return {name: sent.split()[2] for name, sent in found.items()}


def test_a_required_archive_must_be_at_hand(world: World) -> None:
    part(world, "new on top")
    before = world.remember()
    with pytest.raises(ConfigurationError, match="jsonl:"):
        resolve(world.hot, world.sinks[:1], world.look(), "redis")
    assert world.remember() == before


def trim_redis(world: World, upto: int) -> None:
    world.backend.raw.xtrim(world.hot.context.keys.run("r").events, minid=str(upto + 1), approximate=False)


@pytest.mark.parametrize("keep", ["redis", "both"])
def test_what_redis_has_trimmed_it_cannot_give(world: World, keep: Keep) -> None:
    """The archives would lack what lies between: nothing is changed, and the other way is open."""
    part(world, "new on top")
    trim_redis(world, 14)
    before = world.remember()
    with pytest.raises(ArchiveGap, match="keep archive") as gap:
        world.resolve(keep)
    assert (gap.value.expected, gap.value.found) == (11, 15)
    assert world.remember() == before
    (name,) = world.resolve("archive").branches
    assert world.drain().parked == 0
    check_archives(world.archives, {"r": world.common + world.of_archive})
    for archive in world.archives:
        assert [item.offset for item in archive.read(name, 14)] == [15, 16, 17, 18, 19]
        assert list(branch_faults(archive, name)) == []


def test_an_archive_that_cannot_prove_its_chains_is_not_put_over_redis(world: World) -> None:
    """Its text was changed by somebody: refused with the place, and Redis is as it was."""
    part(world, "new on top")
    path = world.archives[0].location.removeprefix("sqlite:")
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE events SET data = replace(data, 'AP8=', 'AP4=') WHERE offset = 12 AND run_id = 'r'")
    (before,) = world.hot.perform(drain.load(world.hot.context.keys, ["r"]))
    with pytest.raises(CorruptRecordError, match="does not give the chain") as damaged:
        world.resolve("archive")
    assert damaged.value.offset == 12
    assert world.hot.perform(drain.load(world.hot.context.keys, ["r"])) == [before]
    assert [item.event.span_id for item in world.hot.read("r", 10)] == [event.span_id for event in world.of_redis]


def test_a_record_of_a_newer_version_is_kept_by_whoever_reads_it(world: World) -> None:
    """It cannot go into a branch yet: the archive's history does not take its place."""
    part(world, "new on top")
    body = b"\x90"
    record = b"\x02" + zlib.crc32(body, zlib.crc32(b"\x02", zlib.crc32(b"r"))).to_bytes(4, "big") + body
    poison(world.hot, record)
    with pytest.raises(UnsupportedVersion):
        world.resolve("archive")
    stream = world.backend.raw.xrange(world.hot.context.keys.run("r").events)
    assert [fields[b"e"] for _, fields in stream][-1] == record
    assert len(stream) == 14


def test_poison_in_either_branch_stays_what_it_is(world: World) -> None:
    """It is kept aside in every archive, in the run or in the branch; and is put back into Redis as it was."""
    world.common = emit(world.hot, "r", 3)
    world.drain()
    behind = world.remember()
    poison(world.hot, b"of the archive")
    world.of_archive = emit(world.hot, "r", 2, first=4)
    world.drain()
    world.come_back(behind)
    world.hot = world.open()
    poison(world.hot, b"of redis")
    world.of_redis = emit(world.hot, "r", 2, first=4)
    done = world.resolve("archive")
    assert done.unreadable == 0
    for archive in world.archives:
        kept = dict(archive.quarantine())
        assert {run_id: entry.raw for run_id, entry in kept.items()} == {
            "r": b"of the archive",
            done.branches[0]: b"of redis",
        }
        assert {entry.offset for entry in kept.values()} == {4}
    assert world.backend.raw.xrange(world.hot.context.keys.run("r").events, 4, 4)[0][1] == {
        b"e": b"of the archive"
    }
    assert world.drain().parked == 0
    check_archives(world.archives, {"r": world.common + world.of_archive}, kept_aside=1)
    world.hot = world.open()


def poison(hot: Hot, record: bytes) -> None:
    codec: Any = hot.context.codec
    encode = codec.encode_events
    codec.encode_events = lambda *args: [one._replace(record=record) for one in encode(*args)]
    try:
        hot.append("r", [create_event("r", "x")])
    finally:
        del codec.encode_events


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("liar", [0, 1])
def test_a_branch_that_an_archive_does_not_hold_gives_nothing_up(world: World, keep: Keep, liar: int) -> None:
    """It is read back in every archive before anything is taken out of the run."""
    part(world, "new on top")

    class Liar(Passing):
        def write(self, batches: Sequence[RunBatch]) -> None:
            super().write([replace(batch, entries=(), snapshots=()) for batch in batches])

    sinks = world.sinks
    sinks[liar] = Liar(sinks[liar])
    positions = [archive.position("r") for archive in world.archives]
    (before,) = world.hot.perform(drain.load(world.hot.context.keys, ["r"]))
    with pytest.raises(StoreUnavailable, match="does not hold"):
        resolve(world.hot, sinks, world.look(), keep)
    assert [archive.position("r") for archive in world.archives] == positions
    assert world.hot.perform(drain.load(world.hot.context.keys, ["r"])) == [before]
    world.resolve(keep)
    world.check(keep)


def test_what_was_put_back_is_proven_again_in_every_archive(world: World) -> None:
    """Nobody has compared the other archive with what Redis has now: nothing is trimmed before that is done."""
    part(world, "new on top")
    world.resolve("archive")
    log = Path(world.archives[1].location.removeprefix("jsonl:")) / "r" / "events.jsonl"
    text = log.read_bytes()
    log.write_bytes(text.replace(b'"$bytes":"AP8="', b'"$bytes":"AP4="'))
    report = world.drain(trim="archived")
    assert (report.parked, report.trimmed) == (1, 0)
    assert "does not hold" in world.parked()["r"]
    log.write_bytes(text)
    world.hot.perform(restore.unpark(world.hot.context.keys, ["r"]))
    world.check("archive")


def test_an_append_of_a_former_attempt_that_arrives_late_is_not_repeated(world: World) -> None:
    """It was sent before the kill and applied after the run was looked through: so that is done once more."""
    part(world, "new on top")
    driver: Any = world.hot._driver
    exchange = driver.exchange
    overtaken: list[int] = []

    def late(one: Exchange) -> Replies:
        scripts = [script.name for each in one.commands if (script := script_of(each))]
        if "append" in scripts and not overtaken:
            overtaken.append(1)
            with pytest.raises(Killed):
                resolve(former, uncut, shown, "both")
        replies: Replies = exchange(one)
        return replies

    former, uncut = world.open(), [Uncut(archive) for archive in world.archives]
    seen = look(former, uncut, "r")
    assert seen is not None
    shown = seen
    driver.exchange = late
    assert world.resolve("both").appended == 0
    driver.exchange = exchange
    assert overtaken
    world.check("both")


# -- archives that differ among themselves -------------------------------------------------------------


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("behind", [0, 1])
def test_an_archive_that_is_behind_the_other_catches_up(world: World, keep: Keep, behind: int) -> None:
    """The worker died between the two: one has the whole branch, the other a part of it, and neither is lost."""
    world.common = emit(world.hot, "r", 4)
    world.drain()
    replica = world.remember()
    world.of_archive = emit(world.hot, "r", 2, first=5)
    world.drain()
    world.of_archive += emit(world.hot, "r", 2, first=7)
    with pytest.raises(Killed):
        DrainWorker(world.hot, [world.archives[1 - behind], Failing(world.archives[behind])]).drain_once()
    world.come_back(replica)
    world.hot = world.open()
    world.of_redis = emit(world.hot, "r", 3, first=5)
    done = world.resolve(keep)
    assert len(done.branches) == 1
    world.check(keep)


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("first", [0, 1])
def test_an_archive_that_has_taken_the_new_branch_already(world: World, keep: Keep, first: int) -> None:
    """It was behind, so it saw no divergence, and was written before the other one refused."""
    world.common = emit(world.hot, "r", 4)
    world.drain()
    replica = world.remember()
    world.of_archive = emit(world.hot, "r", 2, first=5)
    with pytest.raises(Killed):
        DrainWorker(world.hot, [world.archives[1 - first], Failing(world.archives[first])]).drain_once()
    world.come_back(replica)
    world.hot = world.open()
    world.of_redis = emit(world.hot, "r", 3, first=5)
    world.hot.save_snapshot("r", RunState("r", current_step=7))
    world.archives = [world.archives[first], world.archives[1 - first]]
    assert world.drain().parked == 1
    position = world.archives[0].position("r")
    assert position is not None
    assert position.cursor.offset == 7
    world.resolve(keep)
    world.check(keep)


def test_an_archive_that_has_nothing_of_the_run_gets_all_of_it(world: World, tmp_path: Path) -> None:
    """It was added, or deleted: what Redis gets back begins where the emptiest of them stands."""
    world.common = emit(world.hot, "r", 6)
    only = world.archives[:1]
    DrainWorker(world.hot, only, trim="archived").drain_once()
    replica = world.remember()
    world.of_archive = emit(world.hot, "r", 2, first=7)
    DrainWorker(world.hot, only, trim="archived").drain_once()
    world.come_back(replica)
    world.hot = world.open()
    world.resolve("archive")
    world.hot.perform(_forget_archives(world.hot))
    assert world.drain().parked == 0
    check_archives(world.archives, {"r": world.common + world.of_archive})


def _forget_archives(hot: Hot) -> Any:
    yield Exchange([(b"DEL", partition.archives) for partition in hot.context.keys.partitions])


def test_archives_of_which_none_is_the_one_to_keep(world: World) -> None:
    """Three histories: keeping the archive's says nothing; keeping Redis's keeps the other two as well."""
    world.common = emit(world.hot, "r", 2)
    world.drain()
    replica = world.remember()
    for archive in world.archives:
        world.come_back(replica)
        world.hot = world.open()
        world.of_archive += emit(world.hot, "r", 3, first=3)
        world.hot.perform(_forget_archives(world.hot))
        DrainWorker(world.hot, [archive]).drain_once()
    world.come_back(replica)
    world.hot = world.open()
    world.of_redis = emit(world.hot, "r", 4, first=3)
    before = world.remember()
    with pytest.raises(HistoryDiverged, match="neither is Redis's"):
        world.resolve("archive")
    assert world.remember() == before
    parted = [side.history for side in world.look().parted]
    world.of_archive = [item.event for one in parted for item in open_archive(one).read("r", 2)]
    assert len(world.resolve("both").branches) == 2
    world.check("both")


def open_archive(history: ArchivedHistory) -> Archive:
    assert isinstance(history.sink, SQLiteCheckpointer | JSONLCheckpointer)
    return history.sink


class Killed(BaseException):
    """The process died here. A BaseException: no handler of ours may swallow it."""


class Passing:
    """A sink that hands everything on."""

    def __init__(self, inner: MendableSink) -> None:
        self.inner = inner

    @property
    def archive_id(self) -> str:
        return self.inner.archive_id

    @property
    def location(self) -> str:
        return self.inner.location

    def position(self, run_id: str) -> Position | None:
        return self.inner.position(run_id)

    def header(self, run_id: str) -> RunHeader | None:
        return self.inner.header(run_id)

    def write(self, batches: Sequence[RunBatch]) -> None:
        self.inner.write(batches)

    def read_back(self, run_id: str, first: int, last: int) -> Iterator[ArchiveEntry]:
        return self.inner.read_back(run_id, first, last)

    def read_back_snapshots(self, run_id: str) -> Sequence[ArchiveSnapshot]:
        return self.inner.read_back_snapshots(run_id)

    def quarantine(self, run_id: str | None = None) -> Iterator[tuple[str, ArchiveEntry]]:
        return self.inner.quarantine(run_id)

    def readmit(self, run_id: str, entry: ArchiveEntry) -> bool:
        return self.inner.readmit(run_id, entry)

    def cut_back(self, header: RunHeader, to: Position, expected: Cursor) -> None:
        self.inner.cut_back(header, to, expected)


class Failing(Passing):
    """The worker dies when it comes to this one."""

    def write(self, batches: Sequence[RunBatch]) -> None:
        raise Killed


class Uncut(Passing):
    """Whoever resolves dies before a branch is cut."""

    def cut_back(self, header: RunHeader, to: Position, expected: Cursor) -> None:
        raise Killed


# -- killed at any point -------------------------------------------------------------------------------


class Mortal:
    """Counts steps, and dies at one of them."""

    def __init__(self, die_at: int) -> None:
        self.steps = 0
        self.die_at = die_at

    def step(self) -> None:
        self.steps += 1
        if self.steps >= self.die_at:
            raise Killed


class MortalSink(Passing):
    """Every call of a sink is two points: before it and after it."""

    def __init__(self, inner: MendableSink, mortal: Mortal) -> None:
        super().__init__(inner)
        self._mortal = mortal

    def write(self, batches: Sequence[RunBatch]) -> None:
        self._mortal.step()
        super().write(batches)
        self._mortal.step()

    def read_back(self, run_id: str, first: int, last: int) -> Iterator[ArchiveEntry]:
        self._mortal.step()
        return super().read_back(run_id, first, last)

    def cut_back(self, header: RunHeader, to: Position, expected: Cursor) -> None:
        self._mortal.step()
        super().cut_back(header, to, expected)
        self._mortal.step()


@pytest.mark.parametrize("first", range(1, 5))
@pytest.mark.parametrize(
    ("shape", "keep"), [*(("new on top", keep) for keep in KEEPS), ("made anew", "archive"), ("made anew", "both")]
)
def test_killed_at_any_point_and_repeated_it_ends_the_same(
    make_backend: Callable[[str], Backend], make_world: Callable[..., World], shape: str, keep: Keep, first: int
) -> None:
    """Every exchange with Redis, every call of a sink, before and after; a worker may drain in between."""
    point, died = first - 4, True
    while died:
        point += 4
        backend = make_backend("fake")
        assert isinstance(backend, RedisBackend)
        world = make_world(backend, f"{keep}{point}")
        part(world, shape)
        mortal = Mortal(point)
        victim = world.open()
        driver: Any = victim._driver

        def dying(one: Exchange, exchange: Any = driver.exchange, mortal: Mortal = mortal) -> Replies:
            mortal.step()
            replies: Replies = exchange(one)
            mortal.step()
            return replies

        driver.exchange = dying
        sinks = [MortalSink(archive, mortal) for archive in world.archives]
        died = False
        try:
            found = look(victim, sinks, "r")
            assert found is not None
            resolve(victim, sinks, found, keep)
        except Killed:
            died = True
        if (point // 4) % 2:
            world.drain()
        world.resolve(keep)
        world.check(keep)
        for archive in world.archives:
            archive.close()
    print(f"every fourth of {point} points, {shape}, keep {keep}")
    assert point > 25


@pytest.mark.parametrize("keep", KEEPS)
def test_no_worker_takes_the_run_while_it_is_resolved(world: World, keep: Keep) -> None:
    """It is parked meanwhile, and says why; whoever looks at the status knows."""
    part(world, "new on top")
    world.hot.perform(restore.unpark(world.hot.context.keys, ["r"]))
    seen: list[str] = []

    class Looking(Passing):
        def write(self, batches: Sequence[RunBatch]) -> None:
            assert world.drain().parked == 0
            seen.append(world.parked()["r"])
            super().write(batches)

    found = world.look()
    resolve(world.hot, [Looking(archive) for archive in world.archives], found, keep)
    assert seen
    assert all("being resolved" in reason and "`runstream resolve r`" in reason for reason in seen)
    world.check(keep)


# -- a worker in flight --------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "is_kept"), [("archive", True), *((keep, False) for keep in KEEPS)])
def test_a_worker_that_settles_late_trims_only_what_is_archived(world: World, keep: Keep, is_kept: bool) -> None:
    """It proved one of the branches, slept, and settles after the run has been resolved."""
    part(world, "new on top")
    keys = world.hot.context.keys
    (before,) = world.hot.perform(drain.load(keys, ["r"]))
    assert before is not None
    position = world.archives[0].position("r")
    assert position is not None
    cursor = position.cursor if is_kept == (keep == "archive") else before.last
    late = drain.Proven(before.header, cursor, before.tokens, "covered", None)
    world.resolve(keep)
    first = world.hot.run_info("r")
    (settled,) = world.hot.perform(drain.settle(keys, [late], [one.archive_id for one in world.archives]))
    assert settled.outcome == ("ok" if is_kept else "diverged")
    if not is_kept:
        assert world.hot.run_info("r") == first
    world.check(keep)


def test_a_worker_that_writes_late_is_refused_by_the_archive(world: World) -> None:
    """It loaded Redis's branch, slept, and writes after the archive's history was restored: the run has moved."""
    part(world, "new on top")
    resolved: list[Resolution] = []

    class Slow(Passing):
        def write(self, batches: Sequence[RunBatch]) -> None:
            if not resolved:
                resolved.append(world.resolve("archive"))
            super().write(batches)

    world.hot.perform(restore.unpark(world.hot.context.keys, ["r"]))
    report = DrainWorker(world.hot, [Slow(one) for one in world.archives]).drain_once()
    assert (resolved != [], report.parked, report.trimmed) == (True, 0, 0)
    world.check("archive")


def test_workers_and_writers_at_it_all_the_while(any_world: World) -> None:
    """Nothing that anybody was acknowledged is missing anywhere, whoever was quicker."""
    world = any_world
    part(world, "new on top")
    stop = threading.Event()

    def drain() -> None:
        hot, own = world.open(), [open_anew(archive) for archive in world.archives]
        DrainWorker(hot, own, poll_seconds=0.005, park_seconds=0.05, claim_seconds=0.3).run(stop)
        for archive in own:
            archive.close()

    def write() -> None:
        hot = world.open()
        while not stop.is_set():
            world.of_redis += emit(hot, "r", 2, lane_id="busy", first=len(world.of_redis))
            stop.wait(0.02)

    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(drain), pool.submit(drain), pool.submit(write)]
        try:
            eventually(partial(_resolved, world))
        finally:
            stop.set()
        for other in others:
            other.result(DEADLINE_SECONDS)
    eventually(lambda: world.drain().parked == 0 and world.due() == 0)
    for archive in world.archives:
        check_nothing_is_lost(archive, world.common + world.of_archive + world.of_redis)
        spans = [event.span_id for event in archive.list_events("r")]
        assert len(set(spans)) == len(spans) == len(world.common + world.of_archive + world.of_redis)


def _resolved(world: World) -> bool:
    try:
        world.resolve("both")
    except ConcurrencyConflict:
        return False
    return not world.look().parted


def open_anew(archive: Archive) -> Archive:
    if isinstance(archive, SQLiteCheckpointer):
        return SQLiteCheckpointer[Any, Any](archive.location.removeprefix("sqlite:"))
    return JSONLCheckpointer[Any, Any](archive.location.removeprefix("jsonl:"))


# -- a real failover, through the command line -----------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[Pair]:
    with primary_and_replica(next(iter(PROGRAMS))) as pair:
        yield pair


@pytest.fixture
def failed_over(pair: Pair, tmp_path: Path) -> Iterator[World]:
    """A primary is lost with what its replica had not got; agents went on, and the worker has parked the run."""
    archives: list[Archive] = [SQLiteCheckpointer(tmp_path / "a.db"), JSONLCheckpointer(tmp_path / "j")]
    backend = OnPair(pair)
    world = World(backend, backend.open_hot(), archives)
    hot = world.hot
    world.common = emit(hot, "r", 8)
    hot.save_snapshot("r", RunState("r", current_step=8))
    assert world.drain().parked == 0
    with pair.losing():
        world.of_archive = emit(hot, "r", 5, first=9) + emit(hot, "r", 2, lane_id="side")
        hot.save_snapshot("r", RunState("r", current_step=13))
        assert world.drain().parked == 0
    pair.renew()
    backend.raw = pair.primary.raw
    world.hot = world.open()
    world.hot.recover("r")
    world.of_redis = emit(world.hot, "r", 12, first=9)
    assert world.drain().parked == 1
    yield world
    for archive in archives:
        archive.close()
    backend.close()


class OnPair(RedisBackend):
    """The one address of a pair, under a namespace of its own."""

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair.primary.raw, "runstream")
        self.pair = pair

    def client(self) -> Any:
        return self.pair.client()

    def open_hot(self) -> Hot:
        store = self.open()
        assert isinstance(store, RedisCheckpointer)
        return store

    def close(self) -> None:
        self._opened.close()


needs_server = pytest.mark.skipif(not PROGRAMS, reason="needs a server program")


@needs_server
@pytest.mark.parametrize("keep", KEEPS)
def test_after_a_real_failover_the_command_shows_both_and_does_as_told(
    failed_over: World, pair: Pair, keep: Keep
) -> None:
    world = failed_over
    places = ["--url", pair.url, *(part for one in world.archives for part in ("--to", one.location))]
    shown = run("resolve", "r", *places, "--json")
    assert shown.code == 0
    facts = shown.document
    assert facts["parted"]
    assert (facts["redis"]["own_events"], len(facts["redis"]["events"])) == (12, 12)
    for of_archive in facts["archives"]:
        assert of_archive["parts_after"].startswith("8-")
        assert [event["offset"] for event in of_archive["events"]] == list(range(9, 16))
        assert [event["span_id"] for event in of_archive["events"]] == [one.span_id for one in world.of_archive]
    text = run("resolve", "r", *places).out
    assert facts["archives"][0]["parts_after"] in text
    assert facts["archives"][0]["events"][0]["cursor"] in text
    assert "--keep" in text

    said = run("resolve", "r", "--keep", keep, *places, "--json")
    assert said.code == 0
    assert said.document["keep"] == keep
    assert said.document["appended"] == (7 if keep == "both" else 0)
    (name,) = said.document["branches"]
    assert name in run("runs", "--url", world.archives[0].location).out
    assert name.split("~")[1] in text
    parent = run("show", name, "--url", world.archives[1].location, "--json").document["run"]["parent"]
    assert parent == {"run_id": "r", "offset": 8}
    world.check(keep)
    pair.replicate()
    assert pair.replica.raw.xlen(world.hot.context.keys.run("r").events) == pair.primary.raw.xlen(
        world.hot.context.keys.run("r").events
    )
    again = run("resolve", "r", "--keep", keep, *places)
    assert (again.code, "nothing was to be decided" in again.err) == (0, True)


@needs_server
def test_a_full_server_unparks_and_keeps_its_own_history(failed_over: World, pair: Pair) -> None:
    """What must get it going again needs no memory."""
    world = failed_over
    pair.primary.raw.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable, match="full"):
            world.resolve("archive")
        assert run("unpark", "r", "--url", pair.url).code == 0
        assert world.drain().parked == 1
        world.resolve("redis")
        assert world.parked() == {}
        assert world.drain().parked == 0
    finally:
        pair.primary.raw.config_set("maxmemory", 0)
    world.check("redis")


@needs_server
def test_what_was_refilled_and_never_put_in_place_goes_by_itself(failed_over: World) -> None:
    """Killed before the switch: the run is as it was, and what lies beside it has an end."""
    world = failed_over
    driver: Any = world.hot._driver
    exchange = driver.exchange

    def dying(one: Exchange) -> Replies:
        if any((script := script_of(command)) and script.name == "switch" for command in one.commands):
            raise Killed
        replies: Replies = exchange(one)
        return replies

    driver.exchange = dying
    with pytest.raises(Killed):
        world.resolve("archive")
    left = [name for name in world.backend.key_names() if ":refilled:" in name]
    assert left
    assert all(0 < world.backend.raw.ttl(name) <= 3600 for name in left)
    driver.exchange = exchange
    world.resolve("archive")
    assert [name for name in world.backend.key_names() if world.backend.raw.ttl(name) > 0] == left
    world.check("archive")


# -- the command line ----------------------------------------------------------------------------------


@needs_server
def test_unpark_lets_runs_come_due_and_says_which_were_not_parked(tmp_path: Path) -> None:
    url = f"embedded:{tmp_path}/server"
    with EmbeddedServer(tmp_path / "server"), connect(url) as hot:
        assert isinstance(hot, RedisCheckpointer)
        for run_id in ("a", "b", "c"):
            emit(hot, run_id, 1)
        keys = hot.context.keys
        for loaded in hot.perform(drain.load(keys, ["a", "b"])):
            assert loaded is not None
            hot.perform(drain.park(keys, loaded.header, "for a test", 600))
        said = run("unpark", "a", "c", "nobody", "--url", url, "--json")
        assert (said.code, said.document) == (4, {"unparked": ["a"]})
        assert "'c', 'nobody'" in said.err
        facts = run("status", "--url", url, "--json").document
        assert (facts["due"], facts["later"], facts["parked"]) == (2, 1, {"b": "for a test"})
        said = run("unpark", "--all", "--url", url)
        assert (said.code, said.out.split()) == (0, ["unparked", "run", "b"])
        assert run("unpark", "--all", "--url", url, "--json").document == {"unparked": []}
        said = run("unpark", "--all", "--url", url)
        assert (said.code, said.out, said.err) == (0, "", "runstream: no run is parked\n")
        assert run("unpark", "--url", url).code == 2
        assert run("unpark", "a", "--all", "--url", url).code == 2
        assert run("unpark", "a", "--url", f"sqlite:{tmp_path}/a.db").code == 2


@needs_server
def test_resolve_says_what_it_cannot_do(tmp_path: Path) -> None:
    url, archive = f"embedded:{tmp_path}/server", f"sqlite:{tmp_path}/a.db"
    with EmbeddedServer(tmp_path / "server"), connect(url) as hot, connect(archive):
        assert isinstance(hot, RedisCheckpointer)
        emit(hot, "r", 1)
        assert run("resolve", "nobody", "--url", url, "--to", archive).code == 4
        said = run("resolve", "r", "--url", url)
        assert (said.code, "requires no archive yet" in said.err) == (2, True)
        assert run("resolve", "r", "--url", archive, "--to", archive).code == 2
        assert run("resolve", "r", "--url", url, "--to", f"sqlite:{tmp_path}/none.db").code == 2
        assert run("resolve", "r", "--url", url, "--to", "memory:").code == 2
        assert run("resolve", "r", "--url", url, "--to", archive, "--keep", "neither").code == 2
        said = run("resolve", "r", "--url", url, "--to", archive)
        assert (said.code, "nothing is to be decided" in said.err) == (0, True)
        assert run("resolve", "r", "--url", url, "--to", archive, "--json").document["parted"] is False


@needs_server
def test_resolve_looks_at_the_required_archives_unless_it_is_told_which(tmp_path: Path) -> None:
    """So that the command that the reason for parking names does it; a path may have any character."""
    url, directory = f"embedded:{tmp_path}/server", tmp_path / "100% sure?"
    directory.mkdir()
    with (
        EmbeddedServer(tmp_path / "server"),
        connect(url) as hot,
        SQLiteCheckpointer(directory / "a.db") as archive,
    ):
        assert isinstance(hot, RedisCheckpointer)
        emit(hot, "r", 1)
        assert DrainWorker(hot, [archive]).drain_once().runs == 1
        hot.delete_run("r")
        emit(hot, "r", 2)
        assert DrainWorker(hot, [archive]).drain_once().parked == 1
        said = run("resolve", "r", "--url", url, "--json")
        assert (said.code, said.document["parted"]) == (0, True)
        assert [one["location"] for one in said.document["archives"]] == [archive.location]
        (directory / "a.db").rename(directory / "b.db")
        said = run("resolve", "r", "--url", url)
        assert (said.code, "nothing at that path" in said.err) == (2, True)


def test_a_run_with_a_very_long_name_has_branches_with_a_name_that_a_run_may_have() -> None:
    for run_id in ("x" * 512, "ü" * 256):
        name = branch_name(run_id, Cursor(10**6, 2**43 - 58))
        assert len(name.encode()) <= 512
        assert name.endswith("~1000000-8796093022150")
        check_run_id(name)


def test_purpose_agents_own_readers_read_a_branch(world: World) -> None:
    """Its events and its state, under the branch's name."""
    checkpoint = pytest.importorskip("purpose_agent.runtime.checkpoint")
    world.common = emit_plain(world.hot, 3)
    world.drain()
    behind = world.remember()
    world.of_archive = emit_plain(world.hot, 2)
    world.drain()
    world.come_back(behind)
    world.hot = world.open()
    (name,) = world.resolve("redis").branches
    of_sqlite = checkpoint.SQLiteCheckpointer(world.archives[0].location.removeprefix("sqlite:"))
    of_jsonl = checkpoint.JSONLCheckpointer(world.archives[1].location.removeprefix("jsonl:"))
    assert len(of_sqlite.list_events(name)) == 2
    of_name = [event.span_id for event in of_sqlite.list_events(name)]
    assert of_name == [event.span_id for event in world.of_archive]
    assert (Path(world.archives[1].location.removeprefix("jsonl:")) / "r" / "events.jsonl").exists()
    assert len(of_jsonl.list_events("r")) == 3


def emit_plain(hot: Hot, count: int) -> list[PAEvent]:
    events = [create_event("r", EventKind.TOOL_RESULT, seq=seq) for seq in range(1, count + 1)]
    hot.save_events(events)
    return events


@pytest.mark.parametrize("keep", KEEPS)
def test_an_ended_run_is_retired_once_it_is_resolved(any_world: World, keep: Keep) -> None:
    """Not before: what was noted for retiring was of the history that gave way."""
    world = any_world
    world.common = emit(world.hot, "r", 3)
    world.drain()
    behind = world.remember()
    world.of_archive = finish(world.hot)
    world.drain()
    world.come_back(behind)
    world.hot = world.open()
    world.of_redis = emit(world.hot, "r", 2, first=4) + finish(world.hot)
    partition = world.hot.context.keys.run("r").partition
    world.backend.raw.zadd(partition.retire, {"r": 1})
    world.resolve(keep)
    if keep == "archive":
        assert world.backend.raw.zscore(partition.retire, "r") is None
    eventually(
        lambda: world.drain(retire_after_seconds=0.001).parked == 0 and world.backend.raw.zcard(partition.retired)
    )
    assert world.backend.raw.exists(world.hot.context.keys.run("r").events) == 0
    kept = {"archive": world.of_archive, "redis": world.of_redis, "both": world.of_redis + world.of_archive}[keep]
    check_archives(world.archives, {"r": world.common + kept})
    for archive in world.archives:
        check_nothing_is_lost(archive, world.common + world.of_archive + world.of_redis)


def finish(hot: Hot) -> list[PAEvent]:
    event = create_event("r", EventKind.RUN_FINISHED, seq=9)
    hot.save_event(event)
    return [event]
