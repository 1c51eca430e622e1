"""A request to erase that a failover has lost holds up no run: what an archive has erased, Redis erases too."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from runstream import DrainWorker, TieredCheckpointer
from runstream.drain.erasing import Erasing
from runstream.repair.verify import verify_run
from runstream.stores.redis.namespace import namespace_of
from tests.support.archive_check import Archive
from tests.support.backends import RedisBackend
from tests.support.drain_tools import Hot, due, open_hot, parked
from tests.support.failover import Failover
from tests.support.samples import make_events, make_state
from tests.support.servers import eventually


@pytest.fixture
def failover(redis_backend: RedisBackend) -> Failover:
    return Failover(redis_backend)


def left(store: Any) -> list[int]:
    return [item.offset for item in store.read("r")]


def check(hot: Hot, archives: list[Archive], expected: list[int]) -> None:
    """Redis and each archive have these events, all is archived, and the run is sound."""
    assert (parked(hot), due(hot)) == ({}, {})
    for archive in archives:
        assert left(archive) == expected
        with closing(TieredCheckpointer(hot, archive)) as tiered:
            assert left(tiered) == expected
        assert verify_run("r", hot=hot, sinks=[archive]).is_sound


@pytest.mark.one_in(3)
@pytest.mark.parametrize("trim", ["never", "covered", "archived"])
@pytest.mark.parametrize("what", ["erase", "truncate"])
def test_what_an_archive_has_erased_is_asked_for_again(
    hot: Hot, archives: list[Archive], redis_backend: RedisBackend, failover: Failover, trim: Any, what: str
) -> None:
    """One archive of two has done so as the server loses it."""
    hot.append("r", make_events("r", 6))
    DrainWorker(hot, archives, trim="never").drain_once()
    failover.keep()
    if what == "erase":
        hot.erase("r", [2, 4])
    else:
        hot.truncate("r", before=4)
    Erasing(DrainWorker(hot, archives[:1])._parts).carry_out(["r"])
    failover.promote()
    again = open_hot(redis_backend)
    assert (left(again), again.erasures("r")) == ([*range(1, 7)], [])
    again.append("r", make_events("r", 1, first=7))
    worker = DrainWorker(again, archives, trim=trim)
    worker.drain_once()
    check(again, archives, [1, 3, 5, 6, 7] if what == "erase" else [4, 5, 6, 7])
    eventually(lambda: all(one.done for one in again.erasures("r")))
    again.append("r", make_events("r", 1, first=8))
    worker.drain_once()
    assert len(again.erasures("r")) == 1


@pytest.mark.parametrize("what", ["erase", "truncate"])
def test_states_that_have_left_redis_are_in_nobodys_way(
    hot: Hot, archives: list[Archive], redis_backend: RedisBackend, failover: Failover, what: str
) -> None:
    """What the archives have of them since holds, or needs, nothing of it."""
    hot.append("r", make_events("r", 2, lane_id="b"), snapshot=make_state("r"), lane_id="b")
    hot.append("r", make_events("r", 2, lane_id="a"))
    DrainWorker(hot, archives, retire_idle_seconds=0.0).drain_once()
    tiered = TieredCheckpointer(hot, archives[0])
    tiered.append("r", make_events("r", 2, first=3, lane_id="a"))
    DrainWorker(hot, archives).drain_once()
    failover.keep()
    if what == "erase":
        tiered.erase("r", [4])
    else:
        tiered.truncate("r", before=3)
    Erasing(DrainWorker(hot, archives)._parts).carry_out(["r"])
    failover.promote()
    again = open_hot(redis_backend)
    again.append("r", make_events("r", 1, first=7))
    DrainWorker(again, archives).drain_once()
    assert (parked(again), due(again), len(again.erasures("r"))) == ({}, {}, 1)
    with closing(TieredCheckpointer(again, archives[0])) as store:
        assert left(store) == ([1, 2, 3, 5, 6, 7] if what == "erase" else [3, 4, 5, 6, 7])
        assert store.load_snapshot("r", lane_id="b") is not None


@pytest.mark.parametrize("trim", ["never", "covered"])
def test_a_run_that_is_not_due_is_found_by_the_sweep(
    hot: Hot, archives: list[Archive], redis_backend: RedisBackend, failover: Failover, trim: Any
) -> None:
    """All of it was archived before the request that the server has lost: nothing else brings it up."""
    for run_id in ("r", "other"):
        hot.append(run_id, make_events(run_id, 4))
    DrainWorker(hot, archives, trim="never").drain_once()
    assert due(hot) == {}
    failover.keep()
    hot.erase("r", [2])
    DrainWorker(hot, archives, trim="never").drain_once()
    failover.promote()
    again = open_hot(redis_backend)
    assert (left(again), due(again)) == ([1, 2, 3, 4], {})
    DrainWorker(again, archives, trim=trim).drain_once()
    check(again, archives, [1, 3, 4])
    assert [one.spans for one in again.erasures("r")] == [((2, 2),)]
    DrainWorker(again, archives, trim=trim).drain_once()
    assert (len(again.erasures("r")), again.erasures("other")) == (1, [])


def test_what_comes_at_an_offset_that_was_lost_is_not_erased(
    hot: Hot, archives: list[Archive], redis_backend: RedisBackend, failover: Failover
) -> None:
    """The archives were told to erase it before they had it; another event is there now."""
    hot.append("r", make_events("r", 3))
    DrainWorker(hot, archives).drain_once()
    failover.keep()
    hot.append("r", make_events("r", 2, first=4))
    hot.erase("r", [2, 5])
    Erasing(DrainWorker(hot, archives)._parts).carry_out(["r"])
    failover.promote()
    again = open_hot(redis_backend)
    again.append("r", make_events("r", 3, first=14))
    DrainWorker(again, archives).drain_once()
    check(again, archives, [1, 3, 4, 5, 6])
    again.append("r", make_events("r", 1, first=17))
    DrainWorker(again, archives).drain_once()
    check(again, archives, [1, 3, 4, 5, 6, 7])


@pytest.mark.parametrize("way", ["snapshot", "lease"])
def test_the_run_waits_where_somebody_is_in_the_way(
    hot: Hot, archives: list[Archive], redis_backend: RedisBackend, failover: Failover, way: str
) -> None:
    """A snapshot that was saved since may have been made of it, and whoever holds a lease is not written to."""
    hot.append("r", make_events("r", 4))
    DrainWorker(hot, archives).drain_once()
    failover.keep()
    hot.erase("r", [2])
    DrainWorker(hot, archives).drain_once()
    failover.promote()
    again = open_hot(redis_backend)
    if way == "snapshot":
        again.recover("r")
        again.save_snapshot("r", make_state("r"))
        DrainWorker(again, archives).drain_once()
        assert "--drop-snapshots" in parked(again)["r"]
        assert [archive.load_snapshot("r") for archive in archives] == [None, None]
        again.erase("r", [2], drop_snapshots=True)
    else:
        with again.lease("r", owner="me") as lease:
            lease.append("r", make_events("r", 1, first=5))
            DrainWorker(again, archives).drain_once()
            assert "lease" in parked(again)["r"]
    namespace_of(again).unpark(["r"])
    DrainWorker(again, archives).drain_once()
    check(again, archives, [1, 3, 4, 5][: 3 + (way == "lease")])
