"""Nothing that Redis has is overwritten by what an archive has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    AcknowledgedWritesLost,
    ConcurrencyConflict,
    ConfigurationError,
    DrainWorker,
    EventKind,
    EventsArchived,
    HistoryDiverged,
    RunStatus,
    StoreUnavailable,
)
from runstream.history.hot import HotHistory
from runstream.model.archive_records import RunBatch
from runstream.operations.operation import Exchange, Replies
from runstream.repair.resolve import load_histories, resolve
from runstream.repair.restore import put_back
from runstream.repair.verify import verify_run
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.scripts.script import script_of
from tests.repair.restore.restoring_tools import come_back, drain, dumps, write_one
from tests.support.archive_check import Archive, check_drained
from tests.support.backends import RedisBackend
from tests.support.drain_tools import Hot, open_archives, open_hot
from tests.support.random_runs import lose_redis, picture
from tests.support.samples import make_events, make_state


def test_what_redis_has_further_is_left_alone(backend: RedisBackend, archive: Archive) -> None:
    """Leases too: the run is not touched."""
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, archive)
    with hot.lease("r", owner="me"):
        hot_again = open_hot(backend)
        before = backend.footprint()
        assert put_back(hot_again, archive, "r").outcome == "there already"
        assert put_back(hot_again, archive, "r", whole=True).outcome == "there already"
        assert backend.footprint() == before
    hot.recover("r")
    hot.save_snapshot("r", make_state("r", current_step=99))
    assert put_back(hot, archive, "r").outcome == "there already"
    hot.save_events(make_events("r", 3, first=15))
    assert put_back(hot, archive, "r").outcome == "there already"
    info = hot.run_info("r")
    assert info is not None
    assert info.last_offset == 20


@pytest.mark.one_in(2)
@pytest.mark.parametrize("is_resolved", [False, True])
def test_what_a_worker_trims_meanwhile_is_no_other_history(
    backend: RedisBackend, archive: Archive, monkeypatch: pytest.MonkeyPatch, *, is_resolved: bool
) -> None:
    """An archive has the run, which is not settled yet, and is while the two are compared."""
    hot = open_hot(backend)
    write_one(hot)
    redis = HotHistory.load(namespace_of(hot), "r")
    assert redis is not None
    archive.write([RunBatch(redis.header, redis.header.start, redis.page(1, 17))])
    at = HotHistory.at

    def at_late(self: HotHistory, offset: int) -> Any:
        monkeypatch.undo()
        drain(hot, archive, trim="archived")
        return at(self, offset)

    monkeypatch.setattr(HotHistory, "at", at_late)
    if is_resolved:
        seen = load_histories(hot, [archive], "r")
        assert seen is not None
        assert seen.diverged == []
    else:
        assert put_back(hot, archive, "r").outcome == "there already"
    info = hot.run_info("r")
    assert info is not None
    assert info.first_hot == 18


def test_another_history_is_not_overwritten(backend: RedisBackend, archive: Archive) -> None:
    """The run was made anew, or its events were lost and others have come: a person decides."""
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, archive)
    hot = lose_redis(backend)
    hot.save_events(make_events("r", 2))
    with pytest.raises(HistoryDiverged, match="runstream resolve r"):
        put_back(hot, archive, "r")
    assert len(hot.list_events("r")) == 2


@pytest.mark.one_in(2)
def test_a_redis_that_is_merely_behind_gets_the_rest(backend: RedisBackend, archive: Archive) -> None:
    """A failover lost the last events and snapshot; nothing came after it. Writers of before go on."""
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, archive)
    behind = dumps(backend)
    hot.recover("r")
    hot.append("r", make_events("r", 2, first=15), snapshot=make_state("r", current_step=15))
    drain(hot, archive)
    come_back(backend, behind)
    with pytest.raises(AcknowledgedWritesLost):
        hot.save_events(make_events("r", 1, first=17))
    done = put_back(open_hot(backend), archive, "r")
    assert (done.outcome, done.last.offset) == ("restored", 19)
    hot.save_events(make_events("r", 1, first=17))
    drain(hot, archive)
    check_drained(hot, [archive])
    state = hot.load_latest("r")
    assert state is not None
    assert state.current_step == 15


@pytest.mark.one_in(2)
def test_a_snapshot_that_only_redis_has_is_not_overwritten(backend: RedisBackend, archive: Archive) -> None:
    """It was saved after the failover that lost the events."""
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, archive)
    behind = dumps(backend)
    hot.save_events(make_events("r", 2, first=15))
    drain(hot, archive)
    other = come_back(backend, behind)
    other.recover("r")
    other.save_snapshot("r", make_state("r", current_step=77))
    before = backend.footprint()
    with pytest.raises(HistoryDiverged, match="runstream resolve r"):
        put_back(other, archive, "r")
    assert backend.footprint() == before


@pytest.mark.one_in(2)
def test_events_that_only_redis_has_are_not_overwritten(backend: RedisBackend, archive: Archive) -> None:
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, archive)
    behind = dumps(backend)
    hot.save_events(make_events("r", 5, first=15))
    drain(hot, archive)
    for new in (1, 9):
        other = come_back(backend, behind)
        other.save_events(make_events("r", new, first=100))
        before = backend.footprint()
        with pytest.raises(HistoryDiverged, match="runstream resolve r") as refused:
            put_back(other, archive, "r")
        assert refused.value.offset == 18
        assert backend.footprint() == before


def test_what_is_written_meanwhile_is_not_overwritten(backend: RedisBackend, archive: Archive) -> None:
    """A writer makes the run while it is put back: in one step, or not at all."""
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, archive)
    hot = lose_redis(backend)
    other = open_hot(backend)
    _before_each(hot, lambda one: other.save_events(make_events("r", 2)) if "SWITCH" in _names(one) else None)
    with pytest.raises(ConcurrencyConflict, match="look again"):
        put_back(hot, archive, "r")
    assert len(other.list_events("r")) == 2


@pytest.mark.exhaustive
@pytest.mark.one_in(2)
@pytest.mark.parametrize("what", ["events", "keys", "snapshot"])
def test_what_is_evicted_of_it_meanwhile_is_missed(backend: RedisBackend, archive: Archive, what: str) -> None:
    """What is put back expires until it is the run's, so a server that is full may take it."""
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, archive)
    hot = lose_redis(backend)

    def evict(one: Exchange) -> None:
        if "SWITCH" in _names(one):
            backend.raw.delete(*(name for name in backend.raw.keys(f"*refilled*:{what}*")))

    _before_each(hot, evict)
    with pytest.raises(StoreUnavailable, match="expired or was removed"):
        put_back(hot, archive, "r", whole=True)
    assert open_hot(backend).run_info("r") is None


def _names(one: Exchange) -> str:
    return " ".join(script.name.upper() for command in one.commands if (script := script_of(command)))


def _before_each(hot: Hot, hook: Callable[[Exchange], object]) -> None:
    driver: Any = hot._driver
    exchange = driver.exchange_once

    def hooked(one: Exchange) -> Replies:
        hook(one)
        replies: Replies = exchange(one)
        return replies

    driver.exchange_once = hooked


def test_a_retired_run_is_made_hot_again(redis_backend: RedisBackend, archive: Archive) -> None:
    """What a tombstone knows goes on: a writer of before resends, and gets its first reply."""
    hot = open_hot(redis_backend)
    write_one(hot)
    hot.recover("r")
    hot.save_snapshot("r", make_state("r", status=RunStatus.COMPLETED, current_step=17))
    before = picture(redis_backend, hot)
    drain(hot, archive, retire_after_seconds=0.0)
    with pytest.raises(EventsArchived):
        hot.load_latest("r")
    done = put_back(open_hot(redis_backend), archive, "r")
    assert (done.outcome, done.first_hot) == ("restored", 18)
    found = picture(redis_backend, hot)
    assert {**found["r"], "events": []} == {**before["r"], "events": []}
    state = hot.load_latest("r")
    assert state is not None
    assert state.current_step == 17
    with hot.open_run("r") as agent:
        assert agent.emit(EventKind.RUN_STARTED).offset == 18
    drain(hot, archive, retire_after_seconds=0.0)
    check_drained(hot, [archive])
    info = hot.run_info("r")
    assert info is not None
    assert (info.status, info.last_offset) == ("running", 18)


def test_a_retired_run_is_not_put_back_from_an_archive_that_is_behind(
    backend: RedisBackend, tmp_path: Path
) -> None:
    """The tombstone knows that there was more."""
    ahead, behind = open_archives(tmp_path)
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, ahead, behind)
    backend.raw.delete(*[partition.archives for partition in namespace_of(hot).keys.partitions])
    hot.recover("r")
    hot.append("r", make_events("r", 2), snapshot=make_state("r", status=RunStatus.COMPLETED))
    drain(hot, ahead, retire_after_seconds=0.0)
    with pytest.raises(ConcurrencyConflict, match="restore it from the archive that has all of it"):
        put_back(hot, behind, "r")
    assert put_back(hot, ahead, "r").outcome == "restored"
    for archive in (ahead, behind):
        archive.close()


def test_a_namespace_that_requires_other_archives_gets_all_or_nothing(
    backend: RedisBackend, tmp_path: Path
) -> None:
    """What stays in this one would be missing in those; whole, it goes into them."""
    old, new = open_archives(tmp_path)
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, old)
    hot = lose_redis(backend)
    drain(hot, new)
    with pytest.raises(ConfigurationError, match="--whole"):
        put_back(hot, old, "r")
    assert hot.list_runs() == []
    put_back(hot, old, "r", whole=True)
    drain(hot, new)
    check_drained(hot, [new])
    assert [item.cursor for item in new.read("r")] == [item.cursor for item in old.read("r")]
    for archive in (old, new):
        archive.close()


def test_an_archive_that_is_behind_catches_up_from_a_whole_run(backend: RedisBackend, tmp_path: Path) -> None:
    ahead, behind = open_archives(tmp_path)
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, ahead, behind)
    backend.raw.delete(*[partition.archives for partition in namespace_of(hot).keys.partitions])
    hot.recover("r")
    hot.append("r", make_events("r", 5, first=15), snapshot=make_state("r"))
    drain(hot, ahead)
    hot = lose_redis(backend)
    put_back(hot, ahead, "r", whole=True)
    drain(hot, ahead, behind)
    check_drained(hot, [ahead, behind])
    for archive in (ahead, behind):
        archive.close()


@pytest.mark.one_in(2)
def test_a_branch_is_put_back_as_it_is_named(backend: RedisBackend, archive: Archive) -> None:
    """It is none of the runs that a lost Redis had."""
    hot = open_hot(backend)
    write_one(hot)
    drain(hot, archive)
    hot = lose_redis(backend)
    hot.save_events(make_events("r", 2))
    assert DrainWorker(hot, [archive]).drain_once().parked == 1
    found = load_histories(hot, [archive], "r")
    assert found is not None
    (branch,) = resolve(hot, [archive], found, "redis").branches
    assert put_back(hot, archive, branch).outcome == "restored"
    assert verify_run(branch, hot=hot, sinks=[archive]).difference is None
    with pytest.raises(ConfigurationError, match="no events"):
        put_back(hot, archive, "nobody")
