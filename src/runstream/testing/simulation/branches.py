"""What is wrong with forks when a game is over."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import fakeredis

from runstream.model.errors import AcknowledgedWritesLost, EventsArchived, HistoryDiverged
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.tiered.checkpointer import TieredCheckpointer
from runstream.testing.copies import Copy, copy_in_stream, places_of
from runstream.testing.judge import faults_of_copy
from runstream.testing.simulation.world import World

__all__ = ["faults_of_branches"]


def faults_of_branches(world: World, hot: Any, archives: Sequence[Any], parked: Collection[str]) -> Iterator[str]:
    """What is wrong with the forks that somebody was told of."""
    for branch in world.branches.values():
        if branch.may_be_gone:
            continue
        if world.server.losses:
            yield from _faults_of_lost(world, hot, archives[0], branch.run_id, parked)
        else:
            yield from _faults_of_branch(world, hot, archives, branch)


def _history(world: World, hot: Any, run_id: str) -> Copy:
    """The marks of a run's events, of a fork also of those that it shares, by where they lie."""
    raw = fakeredis.FakeRedis(server=world.server.fake)
    stream = copy_in_stream(raw, namespace_of(hot).keys.run(run_id).events)
    own, info = places_of(stream, world.archive_set.copies(run_id)), hot.run_info(run_id)
    if info is None or info.parent is None:
        return own
    parent, at = info.parent
    shared = _history(world, hot, parent)
    return {**{place: mark for place, mark in shared.items() if place[0] <= at}, **own}


def _faults_of_lost(world: World, hot: Any, archive: Any, run_id: str, parked: Collection[str]) -> Iterator[str]:
    """What is wrong with a fork whose parent's end may be lost, if it reads: then it has one history, as ever."""
    related, info = [run_id], hot.run_info(run_id)
    while info is not None and info.parent is not None:
        related.append(info.parent[0])
        info = hot.run_info(related[-1])
    if info is None or any(each in parked for each in related):
        return
    try:
        items = list(TieredCheckpointer(hot, archive).read(run_id))
    except (AcknowledgedWritesLost, HistoryDiverged, EventsArchived):
        return
    places = _history(world, hot, run_id)
    if [(item.offset, item.event.payload["mark"]) for item in items] != [
        (at[0], places[at]) for at in sorted(places)
    ]:
        yield f"{run_id}: it gives {items}, and there are {places}"


def _faults_of_branch(world: World, hot: Any, archives: Sequence[Any], branch: Any) -> Iterator[str]:
    """What is wrong with a fork: it has its parent's history up to an offset, by the bytes, and then its own."""
    places = _history(world, hot, branch.run_id)
    marks = [places[place] for place in sorted(places)]
    yield from (f"{branch}: {fault}" for fault in faults_of_copy("the fork", places))
    for archive in archives:
        items = list(archive.read(branch.run_id))
        if [item.event.payload["mark"] for item in items] != marks:
            yield f"{branch}: {archive.location} gives {items}, and there are {marks}"
        if any((item.offset, item.event.run_id) != (at, branch.run_id) for at, item in enumerate(items, 1)):
            yield f"{branch}: {archive.location} gives {items}"
        info = archive.run_info(branch.run_id)
        parents = [(branch.parent, branch.at), *([None] if branch.may_be_own else [])]
        if info is None or info.parent not in parents:
            yield f"{branch}: {archive.location} says {info}"
