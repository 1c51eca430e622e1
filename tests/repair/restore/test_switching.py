"""What is noted of a run stays as far as both histories have it, where one replaces the other."""

from __future__ import annotations

import time
from typing import Any

import pytest

from runstream import StoreUnavailable
from runstream.history.archived import ArchivedHistory
from runstream.repair.restore import put_back, restore_run
from runstream.stores.capabilities import archive_of
from runstream.stores.redis.append_result import TooOld
from runstream.stores.redis.namespace import namespace_of
from tests.repair.restore.restoring_tools import come_back, drain, dumps
from tests.support.archive_check import Archive
from tests.support.backends import RedisBackend
from tests.support.drain_tools import Hot, open_hot
from tests.support.line import Line
from tests.support.random_runs import lose_redis
from tests.support.samples import make_event, make_events
from tests.support.unfinished import leave_entries

pytestmark = pytest.mark.parametrize("archive", ["sqlite"], indirect=True)


def switch(hot: Hot, archive: Archive, common: int) -> None:
    """Replace the run by what the archive has, which is the same up to an offset."""
    source = ArchivedHistory.load(archive_of(archive), "r")
    assert source is not None
    (run,) = namespace_of(hot).load_runs(["r"])
    restore_run(hot, source, seen=run, common=common)


@pytest.mark.parametrize("common", [0, 2, 4])
def test_what_was_adopted_is_known_as_far_as_both_have_it(
    backend: RedisBackend, archive: Archive, common: int
) -> None:
    """Whoever sends it again is told where it lies."""
    hot, meta = open_hot(backend), namespace_of(open_hot(backend)).keys.run("r").meta
    left = [make_event("r", 1), make_event("r", 3)]
    for event in left:
        leave_entries(hot, backend.raw, [event])
        hot.append("r", [make_event("r", event.seq + 1)])
    drain(hot, archive)
    notes = backend.raw.hget(meta, "adopted").split()
    assert len(notes) == 6
    switch(hot, archive, common)
    assert (backend.raw.hget(meta, "adopted") or b"").split() == notes[: 3 * common // 2]
    there = [hot.append("r", [event]).first_offset for event in left[: common // 2]]
    assert there == [event.seq for event in left[: common // 2]]


def test_an_ordinary_append_that_both_have_is_applied_once(backend: RedisBackend, archive: Archive) -> None:
    """It came the fast way, and is sent again once the run was replaced."""
    hot = open_hot(backend, retry_seconds=0)
    hot.append("r", [make_event("r", 1)])
    Line(hot).cut("reply")
    event = make_event("r", 2)
    with pytest.raises(StoreUnavailable):
        hot.append("r", [event])
    other = open_hot(backend)
    assert backend.raw.hexists(namespace_of(other).keys.run("r").meta, "by")
    drain(other, archive)
    switch(other, archive, 2)
    assert hot.append("r", [event]).first_offset == 2
    assert len(other.list_events("r")) == 2


@pytest.mark.one_in(2)
@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("is_lost", [True, False])
def test_what_was_archived_is_not_appended_again_by_its_resend(
    backend: RedisBackend, archive: Archive, *, is_lost: bool, is_known: bool
) -> None:
    """Its reply was lost, and then all that Redis had, or what came last: nobody knows any more who sent it.

    Also where Redis still has an earlier batch of its producer.
    """
    hot, late = open_hot(backend), open_hot(backend, retry_seconds=0)
    (late if is_known else hot).append("r", [make_event("r", 1)])
    before = dumps(backend)
    assert len(late.list_events("r")) == 1
    Line(late).cut("reply")
    event = make_event("r", 2)
    with pytest.raises(StoreUnavailable):
        late.append("r", [event])
    drain(hot, archive)
    hot = lose_redis(backend) if is_lost else come_back(backend, before)
    put_back(hot, archive, "r", whole=True)
    with pytest.raises(TooOld):
        late.append("r", [event])
    assert late.append("r", [make_event("r", 3)]).first_offset == 3
    assert [event.seq for event in hot.list_events("r")] == [1, 2, 3]


@pytest.mark.parametrize("is_the_same", [True, False])
def test_its_parent_stays_with_the_very_run_and_what_was_forgotten_with_its_name(
    backend: RedisBackend, archive: Archive, *, is_the_same: bool
) -> None:
    hot, raw = open_hot(backend), backend.raw
    meta = namespace_of(hot).keys.run("r").meta
    hot.append("r", make_events("r", 2))
    drain(hot, archive)
    if not is_the_same:
        hot.delete_run("r")
        hot.append("r", make_events("r", 2))
    forgotten = b"%d" % (time.time_ns() // 1000 + 60_000_000)
    raw.hset(meta, mapping={"parent": "0:other", "forgotten": forgotten})
    switch(hot, archive, 0)
    assert raw.hmget(meta, "parent", "forgotten") == [b"0:other" if is_the_same else None, forgotten]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("lost", range(1, 7))
def test_what_is_put_back_is_there_once_whichever_reply_is_lost(
    backend: RedisBackend, archive: Archive, lost: int
) -> None:
    hot = open_hot(backend)
    hot.append("r", make_events("r", 3), keys=["a", "b", "c"], end_lanes=["main"])
    drain(hot, archive)
    hot = lose_redis(backend)
    line: Any = Line(hot)
    line.cut(*[""] * (lost - 1), "reply")
    put_back(hot, archive, "r", whole=True)
    assert [event.seq for event in hot.list_events("r")] == [1, 2, 3]
    assert not backend.raw.keys("*refilled*")
