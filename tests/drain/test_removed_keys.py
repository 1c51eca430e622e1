"""What somebody removed from Redis is not believed: siblings show what is missing, and a sweep puts it right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    ConfigurationError,
    CorruptRecordError,
    DrainWorker,
    EventKind,
    SQLiteCheckpointer,
)
from runstream.cli.support.exit_codes import ExitCode
from runstream.drain import sweep
from runstream.operations.operation import Exchange
from runstream.repair.verify import verify_run
from runstream.stores.redis.keys import RunKeys
from runstream.stores.redis.namespace import namespace_of
from tests.support.backends import RedisBackend, ServerBackend
from tests.support.commands import run as command_line
from tests.support.drain_tools import Hot, open_hot, parked, running, swept
from tests.support.kinds import REAL
from tests.support.operations import session_of
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import eventually, needs_server


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[SQLiteCheckpointer[Any, Any]]:
    with closing(SQLiteCheckpointer[Any, Any](tmp_path / "archive.db")) as archive:
        yield archive


@pytest.fixture
def hot(redis_backend: RedisBackend) -> Hot:
    """A run with a session, keys and snapshots."""
    hot = open_hot(redis_backend, partitions=4)
    hot.append("r", make_events("r", 3, session_id="s"), keys=["a", "b", "c"], snapshot=make_state("r"))
    hot.append("r", [make_event("r", 4)], snapshot=make_state("r"), lane_id="main")
    return hot


@pytest.fixture
def run(hot: Hot) -> RunKeys:
    run: RunKeys = session_of(hot).keys.run("r")
    return run


def test_a_run_whose_meta_was_removed_is_not_an_empty_one(
    redis_backend: RedisBackend, hot: Hot, run: RunKeys, archive: Any
) -> None:
    """Every call names the run and the key, nothing is written, the worker parks it, `verify` finds it."""
    redis_backend.raw.delete(run.meta)
    before = redis_backend.footprint()
    for store in (hot, open_hot(redis_backend)):
        for call in (
            lambda store: store.list_events("r"),
            lambda store: store.list_events("r", 2),
            lambda store: list(store.read("r")),
            lambda store: list(store.follow("r", idle_timeout=0)),
            lambda store: store.recover("r"),
            lambda store: store.load_snapshot("r"),
            lambda store: store.run_info("r"),
            lambda store: store.update_state("r", lambda state: state),
            lambda store: store.append("r", []),
        ):
            with pytest.raises(CorruptRecordError, match="was removed") as caught:
                call(store)
            assert (caught.value.run_id, caught.value.key) == ("r", run.meta)
    for events in (make_events("r", 1), make_events("r", 2)):
        with pytest.raises(CorruptRecordError, match="was removed"):
            open_hot(redis_backend).append("r", events)
    assert redis_backend.footprint() == before
    assert DrainWorker(hot, [archive]).drain_once().parked == 1
    assert run.meta in parked(hot)["r"]
    assert run.meta in str(verify_run("r", hot=hot).difference)
    redis_backend.raw.delete(run.partition.runs)
    assert namespace_of(hot).run_ids() == {"r"}
    assert hot.delete_run("r")
    assert not hot.delete_run("r")
    assert hot.append("r", make_events("r", 1)).last_offset == 1


@pytest.mark.parametrize("lane_id", [None, "main"])
def test_a_snapshot_that_was_removed_is_not_none(
    redis_backend: RedisBackend, hot: Hot, run: RunKeys, archive: Any, lane_id: str | None
) -> None:
    """It is no state to begin from; a new one that was made from the events takes its place."""
    redis_backend.raw.delete(run.snapshot(lane_id))
    other = open_hot(redis_backend)
    for call in (
        lambda: other.load_snapshot("r", lane_id=lane_id),
        lambda: other.recover("r", lane_id=lane_id),
        lambda: other.append("r", [make_event("r", 5)], snapshot=make_state("r"), lane_id=lane_id),
    ):
        with pytest.raises(CorruptRecordError, match="was removed"):
            call()
    assert "does not read" in str(verify_run("r", hot=hot).difference)
    list(other.read("r"))
    other.save_snapshot("r", make_state("r"), lane_id=lane_id)
    saved = other.load_snapshot("r", lane_id=lane_id)
    assert saved is not None
    assert saved.revision == 2
    assert verify_run("r", hot=hot).is_sound


def test_keys_that_were_removed_are_not_written_twice(redis_backend: RedisBackend, hot: Hot, run: RunKeys) -> None:
    redis_backend.raw.delete(run.keys)
    for key in ("a", "new"):
        with pytest.raises(CorruptRecordError, match="was removed") as caught:
            open_hot(redis_backend).append("r", [make_event("r", 5)], keys=[key])
        assert caught.value.key == run.keys
    assert "is not noted at its event" in str(verify_run("r", hot=hot).difference)
    assert hot.append("r", [make_event("r", 5)]).last_offset == 5


def set_of(name: str) -> Callable[[RunKeys], str]:
    return lambda run: run.partition.session("s") if name == "session" else getattr(run.partition, name)


@pytest.mark.parametrize("name", ["due", "runs", "session"])
@pytest.mark.parametrize("goes_on", [False, True])
def test_a_set_that_was_removed_is_made_anew(
    redis_backend: RedisBackend, hot: Hot, run: RunKeys, archive: Any, name: str, *, goes_on: bool
) -> None:
    """By a worker that drains once and by one that goes on, though nobody appends to the run any more."""
    redis_backend.raw.delete(set_of(name)(run))
    worker = DrainWorker(hot, [archive])
    if goes_on:
        with running(worker):
            eventually(lambda: name == "due" or redis_backend.raw.zscore(set_of(name)(run), "r"))
            eventually(lambda: (info := archive.run_info("r")) and info.last_offset == 4)
    else:
        worker.drain_once()
    assert archive.run_info("r").last_offset == 4
    assert [info.run_id for info in hot.runs(session_id="s")] == hot.list_runs() == ["r"]
    assert verify_run("r", hot=hot, sinks=[archive]).is_sound


@pytest.mark.parametrize("name", ["retire", "retired"])
def test_runs_are_retired_and_forgotten_though_their_sets_were_removed(
    redis_backend: RedisBackend, hot: Hot, run: RunKeys, archive: Any, name: str
) -> None:
    hot.append("r", [make_event("r", 5, kind=EventKind.RUN_FINISHED)])
    DrainWorker(hot, [archive], retire_after_seconds=None if name == "retire" else 0).drain_once()
    assert redis_backend.raw.delete(set_of(name)(run)) == 1
    worker = DrainWorker(hot, [archive], retire_after_seconds=0, forget_after_seconds=0)
    worker.drain_once()
    worker.drain_once()
    assert hot.run_info("r") is None


def test_a_sweep_changes_nothing_where_nothing_is_missing(
    redis_backend: RedisBackend, hot: Hot, archive: Any
) -> None:
    hot.append("ended", make_events("ended", 2))
    hot.append("ended", [make_event("ended", 3, kind=EventKind.RUN_FINISHED)])
    for seconds in (None, 0):
        DrainWorker(hot, [archive], retire_after_seconds=seconds).drain_once()
        before = redis_backend.footprint()
        page = namespace_of(hot).sweep_page(b"0")
        assert (page.relisted, page.damaged) == ([], [])
        assert redis_backend.footprint() == before


def test_a_run_that_is_settled_while_a_sweep_looks_at_it_is_not_missing(
    redis_backend: RedisBackend, hot: Hot, archive: Any
) -> None:
    """Where it stands is read before the sets are; in between another worker may archive it."""
    sweeper = open_hot(redis_backend)
    driver: Any = sweeper._driver  # where every exchange goes through
    exchange = driver.exchange_once

    def drained_meanwhile(one: Exchange) -> Any:
        replies = exchange(one)
        if any(command[0] == b"HGETALL" for command in one.commands) and not drained:
            drained.append(DrainWorker(hot, [archive], name="other").drain_once().events)
        return replies

    drained: list[int] = []
    driver.exchange_once = drained_meanwhile
    assert swept(sweeper) == ([], [])
    assert drained == [4]


def test_the_partitions_know_how_many_they_are(redis_backend: RedisBackend, hot: Hot, archive: Any) -> None:
    """The key that says it was removed: neither is another number written, nor is the namespace lost."""
    config = f"{{{redis_backend.namespace}}}:config"
    assert redis_backend.raw.delete(config) == 1
    assert open_hot(redis_backend).list_runs() == ["r"]
    assert redis_backend.raw.hget(config, "partitions") == b"4"
    redis_backend.raw.delete(config)
    with pytest.raises(ConfigurationError, match="has 4 partitions, not 16"):
        open_hot(redis_backend, partitions=16)
    assert not redis_backend.raw.exists(config)
    redis_backend.raw.delete(*(one.config for one in session_of(hot).keys.partitions[1:]))
    DrainWorker(hot, [archive]).drain_once()
    copies = [redis_backend.raw.hget(one.config, "partitions") for one in session_of(hot).keys.partitions]
    assert [redis_backend.raw.hget(config, "partitions"), *copies] == [b"4"] * 5


def test_required_archives_that_were_removed_are_required_again(
    redis_backend: RedisBackend, hot: Hot, run: RunKeys, archive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the worker that is running, before another comes that has not all of them."""
    monkeypatch.setattr(sweep, "_SECONDS_BETWEEN_SWEEPS", 0)
    worker = DrainWorker(hot, [archive])
    worker.drain_once()
    assert redis_backend.raw.delete(run.partition.archives) == 1
    worker.drain_once()
    assert namespace_of(hot).archives_of_run("r") == {archive.archive_id: archive.location}


@needs_server
@pytest.mark.parametrize("redis_backend", REAL[:1], indirect=True)
def test_verify_finds_a_run_that_is_not_listed(redis_backend: ServerBackend, hot: Hot, run: RunKeys) -> None:
    redis_backend.raw.delete(run.partition.runs)
    url = f"unix://{redis_backend.server.socket_path}?namespace={redis_backend.namespace}"
    said = command_line("verify", "--url", url)
    assert said.code == ExitCode.DOES_NOT_HOLD
    assert "the run is not in the list of runs" in said.out


def test_events_that_were_removed_are_not_gone_on_from(
    redis_backend: RedisBackend, hot: Hot, run: RunKeys, archive: Any
) -> None:
    """Unless the archive has them all: then nothing is lost, and what comes after them is archived too."""
    hot.append("r", [make_event("r", 5)])
    redis_backend.raw.delete(run.events)
    before = redis_backend.footprint()
    for store in (hot, open_hot(redis_backend)):
        with pytest.raises(CorruptRecordError, match="was removed") as caught:
            store.append("r", [make_event("r", 6)])
        assert caught.value.key == run.events
    assert redis_backend.footprint() == before
    hot.delete_run("r")
    hot.append("r", make_events("r", 3))
    DrainWorker(hot, [archive]).drain_once()
    redis_backend.raw.delete(run.events)
    for seq in (4, 5):
        assert hot.append("r", [make_event("r", seq)]).last_offset == seq
    DrainWorker(hot, [archive]).drain_once()
    assert len(archive.list_events("r")) == 5


def test_verify_finds_that_the_producers_were_removed(redis_backend: RedisBackend, hot: Hot, run: RunKeys) -> None:
    """What they would tell is unknown from then on; the next append notes that, and all is well again."""
    assert verify_run("r", hot=hot).difference is None
    redis_backend.raw.delete(run.producers)
    assert "producers" in str(verify_run("r", hot=hot).difference)
    open_hot(redis_backend).append("r", [make_event("r", 5)])
    assert verify_run("r", hot=hot).difference is None
