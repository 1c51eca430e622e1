"""States that a failover has lost, and an archive has, give way to those that are saved since."""

from __future__ import annotations

from typing import Any

import pytest

from runstream import DrainWorker, EventsArchived
from runstream.repair.verify import verify_run
from tests.support.archive_check import Archive
from tests.support.backends import RedisBackend
from tests.support.drain_tools import Hooked, Hot, due, open_hot, parked
from tests.support.failover import Failover
from tests.support.samples import make_events, make_state

LANES = pytest.mark.parametrize("lane", [None, "main"])


@pytest.fixture
def failover(redis_backend: RedisBackend) -> Failover:
    return Failover(redis_backend)


def save(hot: Hot, purpose: str, lane: str | None) -> None:
    hot.save_snapshot("r", make_state("r", purpose=purpose), lane_id=lane)


def purposes(stores: list[Any], lane: str | None) -> list[str]:
    return [store.load_snapshot("r", lane_id=lane).state.purpose for store in stores]


def lose_three(hot: Hot, archives: list[Archive], failover: Failover, lane: str | None) -> None:
    """A run of which a failover has lost three states that the archives have."""
    hot.append("r", make_events("r", 3, lane_id="main"))
    save(hot, "kept", lane)
    DrainWorker(hot, archives).drain_once()
    failover.keep()
    for number in range(3):
        save(hot, f"lost {number}", lane)
        DrainWorker(hot, archives).drain_once()
    failover.promote()


@LANES
def test_an_archive_has_the_state_that_was_saved_after_redis_lost_later_ones(
    hot: Hot, archives: list[Archive], redis_backend: RedisBackend, failover: Failover, lane: str | None
) -> None:
    lose_three(hot, archives, failover, lane)
    again = open_hot(redis_backend)
    recovered = again.recover("r", lane_id=lane).state
    assert recovered is not None
    assert recovered.purpose == "kept"
    save(again, "since", lane)
    assert DrainWorker(again, archives).drain_once().parked == 0
    assert purposes([again, *archives], lane) == ["since"] * (1 + len(archives))
    assert verify_run("r", hot=again, sinks=archives).is_sound
    assert (parked(again), due(again)) == ({}, {})
    report = DrainWorker(again, archives, retire_idle_seconds=0).drain_once()
    assert (report.retired, report.parked) == (1, 0)


@LANES
def test_an_archive_has_the_state_that_redis_has_where_nobody_has_saved_another_since(
    hot: Hot, archives: list[Archive], redis_backend: RedisBackend, failover: Failover, lane: str | None
) -> None:
    """Its history of states has it last, too."""
    lose_three(hot, archives, failover, lane)
    again = open_hot(redis_backend)
    again.append("r", make_events("r", 1, first=4, lane_id="main"))
    assert DrainWorker(again, archives).drain_once().parked == 0
    assert purposes([again, *archives], lane) == ["kept"] * (1 + len(archives))
    for archive in archives:
        found = archive.snapshot_at("r", 4, lane_id=lane)
        assert found is not None
        assert found.state.purpose == "kept"
    assert verify_run("r", hot=again, sinks=archives).is_sound


def test_the_state_of_a_lane_that_ends_after_redis_lost_later_ones_is_kept(
    hot: Hot, archives: list[Archive], redis_backend: RedisBackend, failover: Failover
) -> None:
    """It leaves Redis with the lane, once the archives have it."""
    lose_three(hot, archives, failover, "main")
    again = open_hot(redis_backend)
    again.recover("r", lane_id="main")
    ending = make_events("r", 1, first=4, lane_id="main")
    state = make_state("r", purpose="since")
    again.append("r", ending, snapshot=state, lane_id="main", end_lanes=["main"])
    assert DrainWorker(again, archives).drain_once().parked == 0
    with pytest.raises(EventsArchived):
        again.load_snapshot("r", lane_id="main")
    assert purposes(archives, "main") == ["since"] * len(archives)


def test_a_state_counts_as_archived_only_where_no_archive_has_another_that_redis_lost_meanwhile(
    hot: Hot, archives: list[Archive], redis_backend: RedisBackend, failover: Failover
) -> None:
    """A worker has loaded it; another one archives three later ones, of which the server knows nothing then."""
    hot.append("r", make_events("r", 3, lane_id="main"))
    save(hot, "kept", None)
    DrainWorker(hot, archives).drain_once()
    save(hot, "since", None)
    failover.keep()
    is_lost: list[bool] = []

    def lose(*_: Any) -> None:
        if not is_lost:
            is_lost.append(True)
            for number in range(3):
                save(hot, f"lost {number}", None)
                DrainWorker(hot, archives).drain_runs(["r"])
            failover.promote()

    slow: Any = [Hooked(archives[0], write=lose), *archives[1:]]
    DrainWorker(hot, slow).drain_once()
    again = open_hot(redis_backend)
    assert DrainWorker(again, archives).drain_once().parked == 0
    assert purposes([again, *archives], None) == ["since"] * (1 + len(archives))
    assert (parked(again), due(again)) == ({}, {})
