"""What is shown of two histories of one run: where they part, exactly, and nothing changes by looking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runstream import (
    DrainWorker,
    RunState,
)
from runstream.operations.operation import Exchange, Replies
from runstream.repair.resolve import load_histories
from runstream.stores.redis.namespace import namespace_of
from tests.repair.resolve.world import Hot, World, emit, part


@pytest.mark.exhaustive
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
    exchange = driver.exchange_once

    def counting(one: Exchange) -> Replies:
        replies: Replies = exchange(one)
        entries.extend(
            len(reply) for command, reply in zip(one.commands, replies, strict=True) if command[0] == b"XRANGE"
        )
        return replies

    driver.exchange_once = counting
    found = world.look()
    assert [side.start.offset for side in found.sides] == [3000, 3000]
    assert sum(entries) < 2 * 2 * 14


@pytest.mark.one_in(8)
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
        start = namespace_of(hot).run(_start(hot))
        hot.delete_run("r")
        world.hot = world.open()
        # the same start, and not one event in common: the replica had the lease's meta, say
        namespace_of(world.hot).run(_create(world.hot, start))
    if own[1]:
        emit(world.hot, "r", own[1])
    for side in world.look().sides:
        assert side.divergence is not None
        assert (side.divergence.cursor.offset, side.divergence.exact) == (common, True)
        assert side.has_diverged == bool(own[0])


def _start(hot: Hot) -> Any:
    (start,) = yield Exchange([(b"HGET", namespace_of(hot).keys.run("r").meta, "start")])
    return start


def _create(hot: Hot, start: bytes) -> Any:
    fields = ("start", start, "last", start, "status", "running", "created", 1, "updated", 1)
    yield Exchange([(b"HSET", namespace_of(hot).keys.run("r").meta, *fields)])


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
    assert load_histories(world.hot, world.sinks, "nobody") is None
