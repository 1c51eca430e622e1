"""Resolving a run of which the archives hold different parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runstream import (
    DrainWorker,
    HistoryDiverged,
    RunState,
)
from runstream.history.archived import ArchivedHistory
from runstream.operations.operation import Exchange
from runstream.repair.resolve import Keep
from runstream.stores.redis.namespace import namespace_of
from tests.repair.resolve.world import KEEPS, Failing, Hot, World, emit
from tests.support.archive_check import Archive, check_archives
from tests.support.mortal import Killed


@pytest.mark.one_in(4)
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


@pytest.mark.one_in(4)
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
    namespace_of(world.hot).run(_forget_archives(world.hot))
    assert world.drain().parked == 0
    check_archives(world.archives, {"r": world.common + world.of_archive})


def _forget_archives(hot: Hot) -> Any:
    yield Exchange([(b"DEL", partition.archives) for partition in namespace_of(hot).keys.partitions])


def test_archives_of_which_none_is_the_one_to_keep(world: World) -> None:
    """Three histories: keeping the archive's says nothing; keeping Redis's keeps the other two as well."""
    world.common = emit(world.hot, "r", 2)
    world.drain()
    replica = world.remember()
    for archive in world.archives:
        world.come_back(replica)
        world.hot = world.open()
        world.of_archive += emit(world.hot, "r", 3, first=3)
        namespace_of(world.hot).run(_forget_archives(world.hot))
        DrainWorker(world.hot, [archive]).drain_once()
    world.come_back(replica)
    world.hot = world.open()
    world.of_redis = emit(world.hot, "r", 4, first=3)
    before = world.remember()
    with pytest.raises(HistoryDiverged, match="neither is Redis's"):
        world.resolve("archive")
    assert world.remember() == before
    parted = [side.history for side in world.look().diverged]
    world.of_archive = [item.event for one in parted for item in open_archive(world, one).read("r", 2)]
    assert len(world.resolve("both").branches) == 2
    world.check("both")


def open_archive(world: World, history: ArchivedHistory) -> Archive:
    return next(one for one in world.archives if one.location == history.location)
