"""What the tests of restoring write, archive and put back."""

from __future__ import annotations

from typing import Any

from runstream import DrainWorker
from tests.support.archive_check import Archive
from tests.support.backends import RedisBackend
from tests.support.drain_tools import Hot
from tests.support.random_runs import lose_redis
from tests.support.samples import make_events, make_state

KINDS = ("sqlite", "jsonl")


def drain(hot: Hot, *archives: Archive, **options: Any) -> Any:
    report = DrainWorker(hot, archives, **options).drain_once()
    assert report.parked == 0
    return report


def write_one(hot: Hot, run_id: str = "r") -> None:
    """Two lanes, a snapshot that covers some of it, keys, a session."""
    hot.save_events(make_events(run_id, 10, session_id="s"))
    hot.append(run_id, make_events(run_id, 3, lane_id="side"), keys=["k1", None, "k2"])
    hot.save_snapshot(run_id, make_state(run_id, current_step=13))
    hot.save_events(make_events(run_id, 4, first=11))


def come_back(backend: RedisBackend, contents: dict[str, Any]) -> Hot:
    """Redis has what it had before."""
    hot = lose_redis(backend)
    for name, dump in contents.items():
        backend.raw.delete(name)
        backend.raw.restore(name, 0, dump)
    return hot


def dumps(backend: RedisBackend) -> dict[str, Any]:
    return {name: backend.raw.dump(name) for name in backend.key_names()}
