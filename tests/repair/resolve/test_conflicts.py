"""What keeps a run from being resolved, and what is told to whoever wrote the history that gives way."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    AcknowledgedWritesLost,
    ArchiveGap,
    ConcurrencyConflict,
    ConfigurationError,
    CorruptRecordError,
    HistoryDiverged,
    LeaseLost,
    RunState,
    StoreUnavailable,
    UnsupportedVersion,
    create_event,
)
from runstream.codec.chain import next_chain
from runstream.codec.event_codec import Codec
from runstream.codec.record import record_crc
from runstream.history.archived import ArchivedHistory
from runstream.history.hot import HotHistory
from runstream.model.archive_records import ArchiveEntry, RunBatch
from runstream.model.results import Cursor
from runstream.operations.operation import Exchange, Replies
from runstream.repair.resolve import Keep, Resolution, load_histories, resolve
from runstream.stores.capabilities import archive_of
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.scripts.script import script_of
from tests.repair.resolve.world import (
    KEEPS,
    Hot,
    Passing,
    Uncut,
    World,
    branch_faults,
    emit,
    emit_keyed,
    part,
)
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import kept_replies
from tests.support.checksums import forget_checksums
from tests.support.kinds import on_every_server
from tests.support.mortal import Killed
from tests.support.operations import session_of
from tests.support.samples import make_event, make_events


@pytest.mark.parametrize("keep", KEEPS)
def test_a_run_that_has_not_parted_just_comes_due(world: World, keep: Keep) -> None:
    world.common = emit(world.hot, "r", 3)
    world.drain()
    emit_keyed(world.hot, "k")
    (loaded,) = namespace_of(world.hot).load_runs(["r"])
    assert loaded is not None
    namespace_of(world.hot).park(loaded.header, "for a test", 60)
    assert world.drain().runs == 0
    assert world.resolve(keep) == Resolution()
    assert world.drain().runs == 1


# -- what stands in the way ----------------------------------------------------------------------------


@pytest.mark.one_in(2)
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
    history = ArchivedHistory.load(archive_of(archive), "r")
    assert history is not None
    (event,) = Codec[Any, Any]().encode_events("r", [create_event("r", "late")])
    cursor = Cursor(history.last.offset + 1, next_chain(history.last.chain, record_crc(event.record)))
    entry = ArchiveEntry(*cursor, None, json.dumps({"run_id": "r", "ts": 1.0, "kind": "late", "lane_id": "main"}))
    archive.write([RunBatch(history.header, history.last, [entry])])


def test_what_is_archived_while_the_histories_are_loaded_is_no_history_of_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker archives and trims after the first of them was loaded."""
    emit(world.hot, "r", 3)
    world.drain()
    loads: list[str] = []

    def then_goes_on(load: Any) -> Any:
        def wrapped(*args: Any) -> Any:
            history = load(*args)
            if not loads:
                emit(world.hot, "r", 1, first=4)
                world.drain(trim="archived")
            loads.append("one")
            return history

        return wrapped

    monkeypatch.setattr(HotHistory, "load", then_goes_on(HotHistory.load))
    monkeypatch.setattr(ArchivedHistory, "load", then_goes_on(ArchivedHistory.load))
    seen = load_histories(world.hot, world.sinks, "r")
    assert len(loads) == 3
    assert seen is not None
    assert seen.diverged == []


@pytest.mark.parametrize("keep", ["redis", "both"])
def test_a_decision_that_somebody_else_has_taken_otherwise_changes_nothing(world: World, keep: Keep) -> None:
    """Redis has the archive's history by then, and has let go of it."""
    part(world, "new on top")
    seen = load_histories(world.hot, world.sinks, "r")
    assert seen is not None
    world.resolve("archive")
    world.drain(trim="archived")
    held = [[entry.cursor for entry in archive.read_back("r", 1, 100)] for archive in world.archives]
    with pytest.raises(ConcurrencyConflict):
        resolve(world.hot, world.sinks, seen, keep)
    assert [[entry.cursor for entry in archive.read_back("r", 1, 100)] for archive in world.archives] == held
    assert not namespace_of(world.hot).status().parked


def test_a_snapshot_that_came_in_between_is_not_put_away(world: World) -> None:
    part(world, "new on top")
    seen = world.look()
    world.hot.save_snapshot("r", RunState("r", current_step=100))
    with pytest.raises(ConcurrencyConflict, match="look again"):
        resolve(world.hot, world.sinks, seen, "archive")
    state = world.hot.load_latest("r")
    assert state is not None
    assert state.current_step == 100


@pytest.mark.one_in(2)
@on_every_server
def test_writers_of_the_branch_that_gave_way_are_told(any_world: World) -> None:
    """One that saw it, one that holds a lease, one whose batch was applied to it, and one that knew no more."""
    world = any_world
    part(world, "new on top")
    knew, fresh = world.hot, world.open()
    holder = world.open()
    lease = holder.lease("r", owner="me", lane_id="second")
    # given out by a server whose clock was ahead
    ahead = lease.epoch + 10**12
    world.backend.raw.hset(namespace_of(world.hot).keys.run("r").meta, "epoch", ahead)
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


@on_every_server
def test_a_writer_is_told_though_its_lane_goes_on_beyond_what_has_left_redis(any_world: World) -> None:
    """By the lane's highest seq: what the writer has sent came after all that the lane has."""
    world = any_world
    emit(world.hot, "r", 3)
    world.drain()
    behind = world.remember()
    emit(world.hot, "r", 5, first=4)
    world.drain()
    world.come_back(behind)
    writer = world.open()
    writer.save_events(make_events("r", 2, first=9))
    world.resolve("archive")
    world.drain(trim="archived")
    assert world.backend.raw.xlen(namespace_of(world.hot).keys.run("r").events) == 0
    with pytest.raises(HistoryDiverged):
        writer.save_event(make_event("r", 11))
    writer.forget("r")
    writer.save_event(make_event("r", 11))


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
    assert world.backend.raw.hexists(namespace_of(world.hot).keys.run("r").meta, "by")
    world.resolve("archive")
    assert producers(world) == common
    assert not world.backend.raw.hexists(namespace_of(world.hot).keys.run("r").meta, "by")


def producers(world: World) -> dict[bytes, bytes]:
    keys = namespace_of(world.hot).keys.run("r")
    found = kept_replies(world.backend.raw, keys.meta, keys.producers)
    return {name: sent.split()[2] for name, sent in found.items()}


def test_a_required_archive_must_be_at_hand(world: World) -> None:
    part(world, "new on top")
    before = world.remember()
    with pytest.raises(ConfigurationError, match="jsonl:"):
        resolve(world.hot, world.sinks[:1], world.look(), "redis")
    assert world.remember() == before


def trim_redis(world: World, upto: int) -> None:
    world.backend.raw.xtrim(namespace_of(world.hot).keys.run("r").events, minid=str(upto + 1), approximate=False)


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
    forget_checksums(path)
    (before,) = namespace_of(world.hot).load_runs(["r"])
    with pytest.raises(CorruptRecordError, match="does not give the chain") as damaged:
        world.resolve("archive")
    assert damaged.value.offset == 12
    assert namespace_of(world.hot).load_runs(["r"]) == [before]
    assert [item.event.span_id for item in world.hot.read("r", 10)] == [event.span_id for event in world.of_redis]


def test_a_record_of_a_newer_version_is_kept_by_whoever_reads_it(world: World) -> None:
    """It cannot go into a branch yet: the archive's history does not take its place."""
    part(world, "new on top")
    body = b"\x90"
    record = b"\x02" + zlib.crc32(body, zlib.crc32(b"\x02", zlib.crc32(b"r"))).to_bytes(4, "big") + body
    poison(world.hot, record)
    with pytest.raises(UnsupportedVersion):
        world.resolve("archive")
    stream = world.backend.raw.xrange(namespace_of(world.hot).keys.run("r").events)
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
    assert world.backend.raw.xrange(namespace_of(world.hot).keys.run("r").events, 4, 4)[0][1] == {
        b"e": b"of the archive"
    }
    assert world.drain().parked == 0
    check_archives(world.archives, {"r": world.common + world.of_archive}, kept_aside=1)
    world.hot = world.open()


def poison(hot: Hot, record: bytes) -> None:
    codec: Any = session_of(hot).codec
    encode = codec.encode_events
    codec.encode_events = lambda *args: [one._replace(record=record) for one in encode(*args)]
    try:
        hot.append("r", [create_event("r", "x")])
    finally:
        del codec.encode_events


@pytest.mark.one_in(4)
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
    (before,) = namespace_of(world.hot).load_runs(["r"])
    with pytest.raises(StoreUnavailable, match="does not hold"):
        resolve(world.hot, sinks, world.look(), keep)
    assert [archive.position("r") for archive in world.archives] == positions
    assert namespace_of(world.hot).load_runs(["r"]) == [before]
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
    namespace_of(world.hot).unpark(["r"])
    world.check("archive")


def test_an_append_of_a_former_attempt_that_arrives_late_is_not_repeated(world: World) -> None:
    """It was sent before the kill and applied after the run was looked through: so that is done once more."""
    part(world, "new on top")
    driver: Any = world.hot._driver
    exchange = driver.exchange_once
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
    seen = load_histories(former, uncut, "r")
    assert seen is not None
    shown = seen
    driver.exchange_once = late
    assert world.resolve("both").appended == 0
    driver.exchange_once = exchange
    assert overtaken
    world.check("both")
