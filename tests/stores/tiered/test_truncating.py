"""A run is truncated of which some is in an archive alone: a snapshot there that needs what goes is in the way."""

from __future__ import annotations

from typing import Any

import pytest

from runstream import ConfigurationError, DrainWorker, EventsArchived
from runstream.repair.verify import verify_run
from runstream.stores.archive.facade import ArchiveStore
from runstream.stores.tiered import TieredCheckpointer
from tests.stores.tiered.tiers import Hot, Tiered, drain
from tests.support.operations import hooked
from tests.support.samples import make_event, make_events, make_state


def retire(hot: Hot, archive: ArchiveStore[Any, Any]) -> None:
    worker = DrainWorker(hot, [archive], trim="never", retire_idle_seconds=0.0)
    for _ in range(2):
        assert worker.drain_once().parked == 0


@pytest.mark.parametrize("goes_on", [False, True], ids=["retired", "back again"])
def test_what_a_snapshot_needs_that_was_retired_is_not_truncated(
    hot: Hot, archive: ArchiveStore[Any, Any], tiered: Tiered, goes_on: bool
) -> None:
    """Redis alone does not know what it needs, and says so; with the archive it is seen."""
    for lane in "ab":
        hot.append("r", [make_event("r", 1, lane_id=lane)], snapshot=make_state("r"), lane_id=lane)
    hot.append("r", [make_event("r", 2, lane_id="b")])
    retire(hot, archive)
    if goes_on:
        tiered.append("r", [make_event("r", 2, lane_id="a")])
    with pytest.raises(EventsArchived):
        hot.truncate("r", before=3)
    with pytest.raises(ConfigurationError, match=r"before 4: that of lane 'b' \(revision 1, covers 2\); save"):
        tiered.truncate("r", before=4)
    assert [item.offset for item in tiered.recover("r", lane_id="b").events] == [3]
    tiered.truncate("r", before=3)
    assert [item.offset for item in tiered.read("r")] == [3, 4][: 1 + goes_on]
    assert tiered.recover("r", lane_id="a").offset == 1


def test_a_lane_that_was_opened_again_goes_on_from_a_snapshot_that_needs_events(
    hot: Hot, archive: ArchiveStore[Any, Any], tiered: Tiered
) -> None:
    hot.append("r", [make_event("r", 1, lane_id="a")], snapshot=make_state("r"), lane_id="a")
    hot.append("r", [make_event("r", 2, lane_id="a")])
    hot.append("r", (), end_lanes=["a"])
    hot.append("r", [make_event("r", 1, lane_id="b")])
    assert DrainWorker(hot, [archive], trim="archived").drain_once().parked == 0
    tiered.append("r", [make_event("r", 3, lane_id="a")])
    with pytest.raises(EventsArchived):
        hot.truncate("r", before=3)
    with pytest.raises(ConfigurationError, match="that of lane 'a'"):
        tiered.truncate("r", before=3)
    assert [item.offset for item in tiered.recover("r", lane_id="a").events] == [2, 4]


def test_a_lane_that_was_opened_again_needs_its_events_once_the_run_is_retired(
    hot: Hot, archive: ArchiveStore[Any, Any], tiered: Tiered
) -> None:
    """Its snapshot left Redis as it was ended; one that is ended once more needs nothing."""
    for lane in "ab":
        hot.append(
            "r", [make_event("r", 1, lane_id=lane)], snapshot=make_state("r"), lane_id=lane, end_lanes=[lane]
        )
    assert DrainWorker(hot, [archive], trim="archived").drain_once().parked == 0
    tiered.append("r", [make_event("r", 2, lane_id=lane) for lane in "ab"])
    tiered.append("r", (), end_lanes=["b"])
    retire(hot, archive)
    with pytest.raises(EventsArchived):
        hot.truncate("r", before=4)
    with pytest.raises(ConfigurationError, match=r"before 4: that of lane 'a' \(revision 1, covers 1\); save"):
        tiered.truncate("r", before=4)
    assert [item.offset for item in tiered.recover("r", lane_id="a").events] == [3]
    tiered.truncate("r", before=3)
    assert [item.offset for item in tiered.recover("r", lane_id="a").events] == [3]


def test_what_leaves_redis_while_the_archive_is_looked_at_is_not_truncated(
    hot: Hot, archive: ArchiveStore[Any, Any]
) -> None:
    """What was looked at was another snapshot; that which is away by now needs an event that would go."""
    for lane in "ab":
        hot.append("r", [make_event("r", 1, lane_id=lane)], snapshot=make_state("r"), lane_id=lane)
    retire(hot, archive)
    tiered = TieredCheckpointer(hot, archive)
    tiered.append("r", [make_event("r", 2, lane_id="b")], snapshot=make_state("r"), lane_id="b")
    tiered.append("r", [make_event("r", 3, lane_id="b")])

    def leave(*args: Any) -> None:
        if args[-1].away:
            retire(hot, archive)

    looking = hooked(hot, truncate_beside=leave)
    with pytest.raises(ConfigurationError, match=r"that of lane 'b' \(revision 2, covers 3\); save"):
        TieredCheckpointer(looking, archive).truncate("r", before=5)
    assert [item.offset for item in tiered.recover("r", lane_id="b").events] == [4]


def test_whether_a_snapshot_needs_what_left_redis_is_told_by_the_archive_alone(
    hot: Hot, archive: ArchiveStore[Any, Any], tiered: Tiered
) -> None:
    hot.append("r", [make_event("r", 1)], snapshot=make_state("r"))
    hot.append("r", [make_event("r", 2)])
    drain(hot, archive)
    hot.append("r", [make_event("r", 3)])
    with pytest.raises(EventsArchived, match="have left Redis"):
        hot.truncate("r", before=3)
    with pytest.raises(ConfigurationError, match=r"its own \(revision 1, covers 1\); save"):
        tiered.truncate("r", before=3)


def test_a_fork_that_was_retired_begins_with_its_own_events(
    hot: Hot, archive: ArchiveStore[Any, Any], tiered: Tiered
) -> None:
    """As it has none, whoever has made it saw no other cursor than that at which it was forked."""
    hot.append("r", make_events("r", 2))
    tiered.fork("r", "f")
    retire(hot, archive)
    tiered.truncate("f", before=3)
    assert list(tiered.read("f")) == []
    assert [item.offset for item in tiered.read("r")] == [1, 2]


@pytest.mark.parametrize("by", ["worker", "tiered store"])
def test_an_archive_gets_the_copy_of_a_fork_that_shares_nothing_of_what_was_truncated(
    hot: Hot, archive: ArchiveStore[Any, Any], tiered: Tiered, by: str
) -> None:
    hot.append("r", make_events("r", 4))
    hot.fork("r", "f", at=0)
    hot.truncate("r", before=3)
    hot.append("f", make_events("f", 2, first=7))
    worker = DrainWorker(hot, [archive], trim="never")
    worker.drain_once()
    assert (hot if by == "worker" else tiered).delete_run("r", detach=True)
    assert worker.drain_once().parked == 0
    if by == "worker":
        assert archive.delete_run("r")
    assert [item.offset for item in archive.read("f")] == [1, 2]
    assert verify_run("f", hot=hot, sinks=[archive]).is_sound
