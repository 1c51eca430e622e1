"""One run in Redis and in two archives that do not agree about it, and a check that nothing of either is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from runstream import (
    DrainWorker,
    EventKind,
    JSONLCheckpointer,
    PAEvent,
    RedisCheckpointer,
    RunState,
    SQLiteCheckpointer,
    create_event,
)
from runstream.codec.archive_entries import entry_fields
from runstream.codec.chain import next_chain
from runstream.codec.event_codec import Codec
from runstream.codec.record import record_crc
from runstream.codec.stored_fields import EventFields
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, Position, RunBatch, RunHeader
from runstream.model.protocols import Sink
from runstream.model.results import Cursor, Fork
from runstream.model.run_head import EndedLane
from runstream.operations.operation import Exchange
from runstream.repair.resolve import Histories, Keep, Resolution, load_histories, resolve
from runstream.stores.capabilities import archive_of
from runstream.stores.redis.namespace import namespace_of
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import RedisBackend
from tests.support.mortal import Killed
from tests.support.operations import operations_of

Hot = RedisCheckpointer[Any, Any]
KEEPS: tuple[Keep, ...] = get_args(Keep)
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
    def sinks(self) -> list[Sink]:
        return list(self.archives)

    def open_archives_anew(self) -> None:
        """As another process finds them."""
        for archive in self.archives:
            archive.close()
        paths = [archive.location.partition(":")[2] for archive in self.archives]
        self.archives = [SQLiteCheckpointer(paths[0]), JSONLCheckpointer(paths[1])]

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
        found = load_histories(self.hot, self.sinks, "r")
        assert found is not None
        return found

    def resolve(self, keep: Keep) -> Resolution:
        return resolve(self.hot, self.sinks, self.look(), keep)

    def parked(self) -> dict[str, str]:
        return dict(namespace_of(self.hot).status().parked)

    def due(self) -> int:
        found = namespace_of(self.hot).status()
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
        header = operations_of(archive).header(run_id)
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
    header, position = operations_of(archive).header(name), archive.position(name)
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
        namespace_of(hot).run(forget_deletions(hot))
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
        namespace_of(world.hot).run(make_due(world.hot))
    assert world.drain().parked == 1
    assert "`runstream resolve r`" in world.parked()["r"]


def forget_deletions(hot: Hot) -> Any:
    yield Exchange([(b"DEL", partition.deleted) for partition in namespace_of(hot).keys.partitions])


def make_due(hot: Hot) -> Any:
    yield Exchange([(b"ZADD", namespace_of(hot).keys.run("r").partition.due, 1, "r")])


def emit_keyed(hot: Hot, key: str) -> PAEvent:
    event = create_event("r", EventKind.TOOL_RESULT)
    hot.append("r", [event], keys=[key])
    return event


def last_seq(hot: Hot, lane: str) -> Any:
    (found,) = yield Exchange([(b"HGET", namespace_of(hot).keys.run("r").meta, f"lane:{lane}")])
    return int(found.split()[1]) if found else 0


class Passing:
    """A sink that hands everything on."""

    def __init__(self, inner: Sink) -> None:
        self.inner = archive_of(inner)

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

    def run_ids(self) -> Iterator[str]:
        return self.inner.run_ids()

    def ended_lanes(self, run_id: str) -> Sequence[EndedLane]:
        return self.inner.ended_lanes(run_id)

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

    def delete_history(self, run_id: str, creation: int | None) -> bool:
        return self.inner.delete_history(run_id, creation)

    def forks_of(self, run_id: str, creation: int | None = None) -> Sequence[Fork]:
        return self.inner.forks_of(run_id, creation)


class Failing(Passing):
    """The worker dies when it comes to this one."""

    def write(self, batches: Sequence[RunBatch]) -> None:
        raise Killed


class Uncut(Passing):
    """Whoever resolves dies before a branch is cut."""

    def cut_back(self, header: RunHeader, to: Position, expected: Cursor) -> None:
        raise Killed


def open_anew(archive: Archive) -> Archive:
    if isinstance(archive, SQLiteCheckpointer):
        return SQLiteCheckpointer[Any, Any](archive.location.removeprefix("sqlite:"))
    return JSONLCheckpointer[Any, Any](archive.location.removeprefix("jsonl:"))
