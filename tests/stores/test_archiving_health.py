"""Every store tells how the archiving of what it has in Redis stands; in one that has none nothing waits."""

from __future__ import annotations

from pathlib import Path

import pytest

import runstream
from runstream import ArchivingHealth, ConfigurationError
from tests.support.backends import Backend, FileBackend, MemoryBackend, Store
from tests.support.samples import make_events


def test_what_waits_in_redis_is_told_and_nothing_waits_elsewhere(backend: Backend, store: Store) -> None:
    store.save_events(make_events("secret", 3))
    health = store.archiving_health()
    if isinstance(backend, MemoryBackend | FileBackend):
        assert health == ArchivingHealth()
    else:
        assert (health.workers, health.due, health.backlog_events) == (0, 1, 3)
        assert health.alarms == ["no-worker"]
        assert "backlog" in store.archiving_health(lag_seconds=0).alarms
    with pytest.raises(ConfigurationError, match="lag_seconds"):
        store.archiving_health(lag_seconds=-1)


async def test_a_store_for_asyncio_tells_the_same_and_none_once_it_is_archived(tmp_path: Path) -> None:
    name = f"fake:{tmp_path}"
    with runstream.connect(name) as hot, runstream.SQLiteCheckpointer(tmp_path / "a.db") as archive:
        hot.save_events(make_events("r", 3))
        async with runstream.connect_async(name, archive=f"sqlite:{tmp_path}/a.db") as store:
            assert (await store.archiving_health()).backlog_events == 3
            runstream.DrainWorker(hot, [archive]).drain_once()
            assert (await store.archiving_health()).backlog_events == 0
