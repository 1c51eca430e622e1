"""Whoever wants the latest runs does not wait for the list of all."""

from __future__ import annotations

from typing import Any

import pytest

import runstream
from tests.support.backends import RedisBackend, Store
from tests.support.kinds import REAL
from tests.support.operations import session_of
from tests.support.samples import make_event

RUNS = 1200


def fill(backend: RedisBackend, store: Store, seconds_apart: int) -> list[str]:
    """Runs of which each was updated so many seconds after the one before; the latest last."""
    run_ids = [f"r{number}" for number in range(RUNS)]
    store.save_events([make_event(run_id, 1) for run_id in run_ids])
    keys = session_of(store).keys
    with backend.raw.pipeline(transaction=False) as pipeline:
        for number, run_id in enumerate(run_ids):
            run, time = keys.run(run_id), 10**15 + number * seconds_apart * 10**6 + number
            pipeline.hset(run.meta, "updated", time)
            pipeline.zadd(run.partition.runs, {run_id: time})
        pipeline.execute()
    return run_ids


@pytest.mark.parametrize("redis_backend", REAL[:1], indirect=True)
@pytest.mark.parametrize("seconds_apart", [1, 0])
def test_the_latest_runs_are_given_before_all_are_asked_for(
    redis_backend: RedisBackend, seconds_apart: int
) -> None:
    store: Any = redis_backend.open()
    run_ids = fill(redis_backend, store, seconds_apart)
    redis_backend.raw.config_resetstat()
    listed = store.runs()
    first = next(listed)
    commands = redis_backend.raw.info("commandstats")
    assert commands["cmdstat_hmget"]["calls"] < RUNS / 10
    assert "cmdstat_zrangebyscore" not in commands or seconds_apart == 0
    assert [first.run_id, *(info.run_id for info in listed)] == run_ids[::-1]


@pytest.mark.parametrize("redis_backend", REAL[:1], indirect=True)
def test_who_may_not_ask_for_the_latest_alone_gets_the_list(redis_backend: Any, namespace: str) -> None:
    """As by a rule for a role that an earlier version has printed."""
    store: Any = redis_backend.open()
    for run_id in ("a", "b"):
        store.save_event(make_event(run_id, 1))
    raw, user = redis_backend.raw, f"u{namespace}"
    raw.execute_command("ACL", "SETUSER", user, "on", ">p", "~*", "&*", "+@all", "-zrevrangebyscore")
    try:
        url = f"unix://{user}:p@{redis_backend.server.socket_path}?namespace={redis_backend.namespace}"
        with runstream.connect(url) as of_user:
            assert [info.run_id for info in of_user.runs()] == ["b", "a"]
    finally:
        raw.execute_command("ACL", "DELUSER", user)
