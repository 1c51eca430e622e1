"""A run in Redis and in two archives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runstream import DrainWorker
from tests.repair.verify.world import World, open_archives_named
from tests.support.backends import Backend, RedisBackend
from tests.support.drain_tools import open_hot
from tests.support.samples import make_events, make_state


@pytest.fixture
def world(make_backend: Callable[[str], Backend], tmp_path: Path) -> Iterator[World]:
    backend = make_backend("fake")
    assert isinstance(backend, RedisBackend)
    archives = open_archives_named(tmp_path)
    hot = open_hot(backend)
    hot.save_events(make_events("r", 10, session_id="s"))
    hot.save_snapshot("r", make_state("r", current_step=10))
    hot.append("r", make_events("r", 4, lane_id="side"), keys=["k1", None, "k2", None])
    hot.save_snapshot("r", make_state("r"), lane_id="side")
    hot.save_events(make_events("r", 6, first=11))
    assert DrainWorker(hot, archives).drain_once().parked == 0
    world = World(backend, hot, archives)
    verdict = world.verify()
    assert verdict.difference is None
    assert [(one.first, one.events) for one in verdict.checked] == [(11, 10), (1, 20), (1, 20)]
    yield world
    for archive in archives:
        archive.close()
