"""Two histories of one run: the one that is kept is the run's, and nothing of the other one is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from purpose_agent.runtime import checkpoint

from runstream import (
    EventKind,
    PAEvent,
    RedisCheckpointer,
    create_event,
)
from runstream.codec.event_codec import Codec
from runstream.model.identifiers import check_run_id
from runstream.model.results import Cursor
from runstream.repair.branches import branch_name
from runstream.repair.resolve import Keep, resolve
from runstream.repair.restore import put_back
from runstream.repair.verify import verify_run
from runstream.stores.redis.namespace import namespace_of
from tests.repair.resolve.world import KEEPS, Hot, World, check_nothing_is_lost, emit, emit_keyed, last_seq, part
from tests.support.archive_check import check_archives
from tests.support.operations import operations_of
from tests.support.other_texts import rewrite
from tests.support.schema import UPCASTS, new_event, old_event
from tests.support.servers import eventually

SHAPES = ("behind", "new on top", "made anew")


# -- the three ways, in all shapes ---------------------------------------------------------------------


@pytest.mark.one_in(4, exhaustively=3)
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


@pytest.mark.one_in(4)
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


@pytest.mark.exhaustive
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


def test_what_a_writer_has_put_back_is_known_by_value(world: World) -> None:
    """Another process has written the archive's texts: they spell the same events in another way."""
    part(world, "new on top")
    world.hot.save_events(world.of_archive)
    for archive in world.archives:
        rewrite(archive)
    world.open_archives_anew()
    assert world.resolve("both").appended == 0
    world.of_redis, world.of_archive = world.of_redis + world.of_archive, []
    world.check("both")


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize("limit", [{"max_hot_events": 1}, {"max_event_bytes": 1}, {"require_lease": True}])
def test_a_limit_on_writers_does_not_keep_a_run_from_being_resolved(world: World, limit: dict[str, Any]) -> None:
    """Repeated however often, it would be refused each time: what is parked is not trimmed, for one."""
    part(world, "new on top")
    limited = world.backend.open(**limit)
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
    assert [namespace_of(hot).run(last_seq(hot, lane)) for lane in ("main", "side", "third")] == [11, 5, 0]
    with hot.open_run("r") as run:
        assert run.state.current_step == 9
        assert [item.event for item in run.recovered.events] == world.of_archive[4:]
        run.emit(EventKind.AGENT_PROGRESS)
    assert hot.recover("r", lane_id="side").offset == 0
    assert len(hot.recover("r", lane_id="side").events) == 5


def test_a_run_with_a_very_long_name_has_branches_with_a_name_that_a_run_may_have() -> None:
    for run_id in ("x" * 512, "ü" * 256):
        name = branch_name(run_id, Cursor(10**6, 2**43 - 58))
        assert len(name.encode()) <= 512
        assert name.endswith("~1000000-8796093022150")
        check_run_id(name)


def test_purpose_agents_own_readers_read_a_branch(world: World) -> None:
    """Its events and its state, under the branch's name."""
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
    partition = namespace_of(world.hot).keys.run("r").partition
    world.backend.raw.zadd(partition.retire, {"r": 1})
    world.resolve(keep)
    if keep == "archive":
        assert world.backend.raw.zscore(partition.retire, "r") is None
    eventually(
        lambda: world.drain(retire_after_seconds=0.001).parked == 0 and world.backend.raw.zcard(partition.retired)
    )
    assert world.backend.raw.exists(namespace_of(world.hot).keys.run("r").events) == 0
    kept = {"archive": world.of_archive, "redis": world.of_redis, "both": world.of_redis + world.of_archive}[keep]
    check_archives(world.archives, {"r": world.common + kept})
    for archive in world.archives:
        check_nothing_is_lost(archive, world.common + world.of_archive + world.of_redis)


def finish(hot: Hot) -> list[PAEvent]:
    event = create_event("r", EventKind.RUN_FINISHED, seq=9)
    hot.save_event(event)
    return [event]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("keep", KEEPS)
def test_every_event_keeps_its_schema_version(world: World, keep: Keep) -> None:
    """In the run, and in the branch that it parts with."""
    world.hot.append("r", [old_event(1)])
    world.drain()
    behind = world.remember()
    world.backend.open(upcasts=UPCASTS).append("r", [new_event(2), new_event(3)], keys=["a", "b"])
    world.drain()
    world.come_back(behind)
    world.hot = world.open()
    world.hot.append("r", [old_event(4), old_event(5)])
    assert world.drain().parked == 1
    world.resolve(keep)
    assert world.drain().parked == 0
    for archive in world.archives:
        operations_of(archive).codec = Codec(upcasts=UPCASTS)
        headers = [operations_of(archive).header(run_id) for run_id in archive.list_runs()]
        found = [item.event for one in headers for item in archive.read(one.run_id, one.start.offset)]
        assert {event.payload["arguments"][0] for event in found} == {1, 2, 3, 4, 5}
        assert {event.kind for event in found} == {EventKind.TOOL_STARTED}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("keep", ["archive", "redis"])
def test_a_branch_that_is_put_back_is_a_run_like_any_other(world: World, keep: Keep) -> None:
    """Its records were made as another run's, and it proves them in Redis as in the archives."""
    part(world, "new on top")
    (name,) = world.resolve(keep).branches
    lost = world.of_redis if keep == "archive" else world.of_archive
    for archive in world.archives:
        assert verify_run(name, sinks=[archive]).difference is None
    assert put_back(world.hot, world.archives[0], name, whole=True).outcome == "restored"
    given = list(world.hot.read(name))
    assert [item.event.payload for item in given] == [event.payload for event in lost]
    assert {item.event.run_id for item in given} == {name}
    assert [item.event for item in world.hot.read(name, reverse=True)] == [item.event for item in given[::-1]]
    emit(world.hot, name, 2, first=90)
    assert world.drain(trim="archived").parked == 0
    assert verify_run(name, hot=world.hot, sinks=world.sinks).difference is None
    for archive in world.archives:
        assert [event.payload for event in archive.list_events(name)][: len(lost)] == [
            event.payload for event in lost
        ]
        assert archive.check_integrity() == []
