"""A retired run goes on: offsets, keys, revisions and resends are as if it had never left."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from runstream import (
    AcknowledgedWritesLost,
    ConcurrencyConflict,
    DrainWorker,
    EventKind,
    EventsArchived,
    HistoryDiverged,
    StoreUnavailable,
)
from runstream.codec.chain import next_chain
from runstream.codec.record import record_crc
from runstream.model.results import Cursor
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.scripts.calls import PRODUCER_WINDOW_SECONDS
from tests.drain.retire.retiring_tools import Hot, ended, members, open_hot, retire_all
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import RedisBackend
from tests.support.kinds import on_every_server
from tests.support.line import Line
from tests.support.operations import last_seq, session_of
from tests.support.samples import make_event, make_events, make_state


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@on_every_server
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
        partition = namespace_of(hot).keys.run("r").partition
        assert members(raw, partition.due) == ["r"]
        report = retire_all(hot, archives)
        assert (report.retired, report.events, report.parked) == (0, 3, 0)
        writer.save_event(late[3])
        acknowledged += late
    assert retire_all(hot, archives).retired == 1
    check_archives(archives, {"r": acknowledged})


def test_a_tombstone_keeps_the_epoch(hot: Hot, raw: Any, archives: list[Archive]) -> None:
    """The server's clock may be set back, and epochs only rise."""
    with hot.lease("r", owner="me") as lease:
        lease.append("r", ended("r"))
    assert retire_all(hot, archives).retired == 1
    assert int(raw.hget(namespace_of(hot).keys.run("r").meta, "epoch")) == lease.epoch


def assert_chained(backend: RedisBackend, hot: Hot, run_id: str, after: int, archives: list[Archive]) -> None:
    """What is in Redis follows, record by record, from the last place that an archive has."""
    position = archives[0].position(run_id)
    assert position is not None
    assert position.cursor.offset == after
    chain = position.cursor.chain
    for offset, (entry_id, entry) in enumerate(
        backend.raw.xrange(namespace_of(hot).keys.run(run_id).events), after + 1
    ):
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


@pytest.mark.one_in(2)
@on_every_server
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
    producers = namespace_of(hot).keys.run("r").producers
    assert raw.pttl(producers) == -1
    assert hot.append("r", events)[:2] == (1, 4)
    assert not raw.exists(namespace_of(hot).keys.run("r").events)

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
    raw.delete(namespace_of(hot).keys.run("r").producers)  # the window has passed
    stands = hot.append("r", make_events("r", 1)).last_offset if goes_on else 3
    (attempts,) = session_of(late).in_flight._attempts.values()
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
    tombstone = raw.hgetall(namespace_of(hot).keys.run("r").meta)
    other = open_hot(redis_backend)
    again = other.append("r", [make_event("r", 9), make_event("r", 10)], keys=["b", "a"])
    assert (again.first_offset, again.last_offset) == (3, 1)
    assert raw.hgetall(namespace_of(hot).keys.run("r").meta) == tombstone
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


@on_every_server
def test_a_loss_behind_a_tombstone_is_seen(redis_backend: RedisBackend, hot: Hot, archives: list[Archive]) -> None:
    """A failover that lost a late append, and put the tombstone back."""
    hot.append("r", ended("r"))
    retire_all(hot, archives)
    keys, raw = namespace_of(hot).keys.run("r"), redis_backend.raw
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
        lambda: last_seq(hot, "r", "main"),
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
    assert last_seq(hot, "r", "second") == 5
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
    assert last_seq(other, "r", "main") == 0
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


def test_a_tombstone_that_was_written_before_lanes_were_kept_still_reads(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    """0.1.0 kept the highest revision of all lanes: that goes for each that is not saved again, for good."""
    for lane_id in ("a", "b"):
        hot.append("r", [make_event("r", lane_id=lane_id)], snapshot=make_state("r"), lane_id=lane_id)
    hot.append("r", ended("r", lane_id="a"), snapshot=make_state("r"), lane_id="a")
    assert retire_all(hot, archives).retired == 1
    meta = session_of(hot).keys.run("r").meta
    assert redis_backend.raw.hdel(meta, "gone:a", "gone:b", "unlisted") == 3
    for revision in (3, 4):
        hot.append("r", ended("r", lane_id="a"))
        hot.save_snapshot("r", make_state("r"), lane_id="a")
        saved = hot.load_snapshot("r", lane_id="a")
        assert saved is not None
        assert saved.revision == revision
        assert retire_all(hot, archives).retired == 1
    kept = redis_backend.raw.hgetall(meta)
    assert (kept[b"gone:a"], kept[b"unlisted"]) == (b"4", b"2")
    with pytest.raises(EventsArchived):
        open_hot(redis_backend).load_snapshot("r", lane_id="b")


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
