"""What is wrong when a game is over."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import fakeredis

from runstream.stores.redis.namespace import namespace_of
from runstream.testing.judge import copies_in_archives, copy_in_stream, hear, judge
from runstream.testing.simulation.scheduler import Process
from runstream.testing.simulation.world import World

__all__ = ["faults_of"]


def faults_of(world: World) -> Iterator[str]:
    """What is wrong in Redis, in the archives, and in what anybody was told or has seen."""
    said = hear((diary.lines, diary.was_killed) for diary in world.diaries)
    losses = world.server.losses > 0
    with world.open(Process("the host")) as hot:
        parked: Collection[str] = namespace_of(hot).status().parked
        raw = fakeredis.FakeRedis(server=world.server.fake)
        for run_id in world.runs:
            stream = copy_in_stream(raw, namespace_of(hot).keys.run(run_id).events)
            copies = copies_in_archives(world.directory, run_id)
            snapshot = hot.load_snapshot(run_id)
            steps = 0 if snapshot is None else snapshot.state.current_step
            found = judge(stream, copies, said[run_id], steps, is_parked=run_id in parked, losses=losses)
            yield from (f"{run_id}: {fault}" for fault in found)
    for run_id, seen in world.followed:
        if [offset for offset, _ in seen] != list(range(1, len(seen) + 1)):
            yield f"a follower of {run_id} saw a gap: {seen}"
    for loop in world.loops:
        yield from loop.failures
