"""Deleting and forgetting retired runs, and damaged ones, which hold up no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runstream import (
    DrainReport,
    DrainWorker,
    HistoryDiverged,
    RunHasForks,
    StoreUnavailable,
)
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.worker.retire import RetireOutcome
from tests.drain.retire.retiring_tools import (
    Hot,
    appended_since,
    ended,
    fit_of,
    lane_saved_since,
    open_hot,
    retire_all,
    retire_now,
    unended,
)
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import RedisBackend
from tests.support.kinds import on_every_server
from tests.support.line import Line
from tests.support.samples import make_event


def test_deleting_a_retired_run_leaves_nothing_of_it(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    before = redis_backend.footprint()
    hot.append("r", ended("r", session_id="s"), keys=["a", None, None, None])
    retire_all(hot, archives)
    assert hot.delete_run("r") is True
    left = redis_backend.footprint()
    assert {key for key in left if key not in before} == {
        partition.archives for partition in namespace_of(hot).keys.partitions
    }
    assert hot.delete_run("r") is False
    hot.append("s", ended("s"))
    assert DrainWorker(hot, archives, trim="never").drain_once().runs == 1
    hot.delete_run("s")
    assert redis_backend.footprint().keys() == left.keys(), "nor of one that was to be retired"
    assert hot.append("r", [make_event("r", 1)])[:2] == (1, 1)


def test_a_fork_is_not_forgotten_before_what_it_shares_is_archived(
    hot: Hot, raw: Any, archives: list[Archive]
) -> None:
    """Else whoever deletes the run that it comes from, in Redis, takes that from it; also of a fork of a fork."""
    keys = namespace_of(hot).keys
    hot.append("r", [make_event("r", 1)])
    hot.fork("r", "f")
    hot.append("f", ended("f"))
    hot.fork("f", "g")
    hot.append("g", ended("g"))

    def retire(claimed: str) -> None:
        for run_id in "rf":  # by a worker that does not come to it
            due = int((raw.time()[0] + 50) * 1e6) if run_id in claimed else 1
            raw.zadd(keys.run(run_id).partition.due, {run_id: due}, xx=True)
        for run_id in "fg":
            raw.zadd(keys.run(run_id).partition.retired, {run_id: 1}, xx=True)
        DrainWorker(hot, archives, retire_after_seconds=0, forget_after_seconds=0).drain_once()

    for claimed in ("rf", "r"):
        retire(claimed)
        for run_id in "rf":
            with pytest.raises(RunHasForks):
                hot.delete_run(run_id)
    for _ in range(3):  # the forks first
        retire("")
    assert hot.run_info("g") is hot.run_info("f") is None
    assert hot.delete_run("r")
    last = 1 + 2 * len(ended("f"))
    assert all([item.offset for item in archive.read("g")] == [*range(1, last + 1)] for archive in archives)


@pytest.mark.one_in(2)
@on_every_server
def test_a_run_is_forgotten_in_time_and_whoever_knew_it_is_not_told_of_a_loss(
    redis_backend: RedisBackend, hot: Hot, raw: Any, archives: list[Archive]
) -> None:
    """Nothing of it stays; it counts as deleted, and a run of its name is another one."""
    events = ended("r", session_id="s")
    hot.append("r", events, keys=["a", None, None, None])
    reader, writer = open_hot(redis_backend), open_hot(redis_backend)
    cursors = [item.cursor for item in reader.read("r")]
    writer.append("r", [make_event("r", 9)], keys=["a"])
    assert retire_all(hot, archives, forget_after_seconds=60).forgotten == 0
    assert hot.list_runs() == ["r"]
    assert retire_all(hot, archives, forget_after_seconds=0).forgotten == 1
    assert hot.list_runs() == []
    assert hot.run_info("r") is None
    names = (":config", ":deleted", ":archives", ":leftovers", ":producers")
    assert all(key.endswith(names) for key in redis_backend.key_names())
    producers = namespace_of(hot).keys.run("r").producers
    assert raw.pttl(producers) == -1, "nothing that a promise needs may be evicted"
    assert list(reader.read("r")) == []
    assert writer.append("r", [make_event("r", 1)])[:2] == (1, 1)
    assert raw.pttl(producers) == -1, "they are those of a run that lives"
    with pytest.raises(HistoryDiverged):
        list(reader.read("r", cursors[0]))
    check_archives(archives, {"r": events})


def test_a_batch_that_is_sent_again_after_its_run_was_forgotten_is_not_a_new_run(
    redis_backend: RedisBackend, archives: list[Archive]
) -> None:
    """Its reply was lost, and the run was archived, retired and forgotten before it came again."""
    writer, other = open_hot(redis_backend), open_hot(redis_backend)
    events = ended("r")
    Line(writer).cut("reply")
    with pytest.raises(StoreUnavailable):
        writer.append("r", events)
    assert retire_all(other, archives, forget_after_seconds=0).forgotten == 1
    assert writer.append("r", events)[:2] == (1, 4)
    assert other.list_runs() == []
    assert retire_all(other, archives) == DrainReport()
    check_archives(archives, {"r": events})


@pytest.mark.parametrize("field", ["last", "mark", "updated", "created"])
def test_a_damaged_run_holds_up_neither_the_worker_nor_the_runs_that_are_retired_with_it(
    hot: Hot, raw: Any, archives: list[Archive], field: str
) -> None:
    """It is parked, which status shows, and not looked at again before it comes due."""
    for run_id in ("a", "r", "z"):
        hot.append(run_id, ended(run_id))
    DrainWorker(hot, archives).drain_once()
    raw.hset(namespace_of(hot).keys.run("r").meta, field, "?")
    worker = DrainWorker(hot, archives, retire_after_seconds=0)
    report = worker.drain_once()
    assert (report.retired, report.parked) == (2, 1)
    assert raw.hexists(namespace_of(hot).keys.run("r").partition.parked, "r")
    assert worker.drain_once() == DrainReport()


def test_a_damaged_tombstone_holds_up_no_other(hot: Hot, raw: Any, archives: list[Archive]) -> None:
    for run_id in ("a", "r", "z"):
        hot.append(run_id, ended(run_id))
    retire_all(hot, archives)
    raw.hset(namespace_of(hot).keys.run("r").meta, "last", "?")
    report = retire_all(hot, archives, forget_after_seconds=0)
    assert (report.forgotten, report.parked) == (2, 1)
    assert retire_all(hot, archives, forget_after_seconds=0) == DrainReport()


@pytest.mark.parametrize("change", [appended_since, lane_saved_since, unended], ids=lambda change: change.__name__)
def test_a_run_that_went_on_is_not_forgotten(
    redis_backend: RedisBackend, hot: Hot, raw: Any, archives: list[Archive], change: Callable[[Hot, Any], None]
) -> None:
    hot.append("r", ended("r"))
    retire_all(hot, archives)
    fit = fit_of(hot)
    change(hot, raw)
    before = redis_backend.footprint()
    assert namespace_of(hot).forget([fit], 0) == [RetireOutcome("unfit")]
    assert before.pop(namespace_of(hot).keys.run("r").partition.retired)
    assert redis_backend.footprint() == before


def test_a_run_that_is_leased_or_was_made_anew_is_not_forgotten(
    hot: Hot, raw: Any, archives: list[Archive]
) -> None:
    hot.append("r", ended("r"))
    retire_all(hot, archives)
    fit = fit_of(hot)
    with hot.lease("r", owner="us"):
        assert retire_all(hot, archives, forget_after_seconds=0).forgotten == 0
    assert namespace_of(hot).forget([fit], 60) == [RetireOutcome("later")]
    hot.delete_run("r")
    hot.append("r", ended("r"))
    assert namespace_of(hot).forget([fit], 0) == [RetireOutcome("changed")]
    assert retire_now(hot, archives, fit)[0].name == "changed"
    assert len(hot.list_events("r")) == 4


def test_a_run_that_is_gone_is_taken_off_both_lists(hot: Hot, raw: Any, archives: list[Archive]) -> None:
    """What a restored copy, or a hand, has left there is not looked at for ever."""
    partition = namespace_of(hot).keys.run("ghost").partition
    for key in (partition.retire, partition.retired):
        raw.zadd(key, {"ghost": 5})
    assert retire_all(hot, archives, forget_after_seconds=0) == DrainReport()
    assert not raw.exists(partition.retire, partition.retired)
