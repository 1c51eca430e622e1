"""Idle runs: what is archived and was quiet leaves Redis though it has not ended, and comes back by itself."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from runstream import ConfigurationError, DrainWorker, EventsArchived, TieredCheckpointer
from runstream.repair.verify import verify_run
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.scripts.calls import MICROSECONDS
from tests.drain.retire.retiring_tools import Hot, ended, fit_of, members, open_hot, retire_now
from tests.support.archive_check import Archive, check_archives
from tests.support.backends import RedisBackend, info_of
from tests.support.samples import make_event, make_events, make_state
from tests.support.servers import DEADLINE_SECONDS, eventually


def retire_idle(hot: Hot, archives: list[Archive], **options: Any) -> int:
    """Drain what is due, and retire all that is archived. Returns how many runs were retired."""
    report = DrainWorker(hot, archives, **{"retire_idle_seconds": 0, **options}).drain_once()
    assert report.parked == 0
    return report.retired


def test_an_idle_run_leaves_redis_and_comes_back_with_the_next_append(
    redis_backend: RedisBackend, hot: Hot, raw: Any, archives: list[Archive]
) -> None:
    """By a writer that was there and by a new one, again and again; what is archived is whole each time."""
    events = make_events("r", 4, session_id="s")
    hot.append("r", events, snapshot=make_state("r", status="running", session_id="s"))
    for turn in range(3):
        before = info_of(hot)
        assert retire_idle(hot, archives) == 1
        keys = namespace_of(hot).keys.run("r")
        assert not raw.exists(keys.events, keys.run_snapshot, keys.partition.retire, keys.partition.due)
        after = info_of(hot)
        assert (after.status, after.session_id, after.updated_at) == ("running", "s", before.updated_at)
        assert [info.run_id for info in hot.runs(status="running")] == ["r"]
        assert all(verify_run("r", hot=hot, sinks=[archive]).is_sound for archive in archives)
        with pytest.raises(EventsArchived):
            hot.recover("r")
        assert retire_idle(hot, archives) == 0
        late = make_event("r", 5 + turn, session_id="s")
        writer = hot if turn % 2 else open_hot(redis_backend)
        assert writer.append("r", [late], expected_offset=len(events)).first_offset == len(events) + 1
        events.append(late)
        assert TieredCheckpointer(hot, archives[turn % 2]).list_events("r") == events
    assert retire_idle(hot, archives) == 1
    check_archives(archives, {"r": events})


def test_a_paused_run_is_found_and_answered_after_it_left_redis(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    """Whoever asked gets the answer, be the run retired once more in between; so is a request to cancel kept."""
    tiered = TieredCheckpointer(hot, archives[0])
    with tiered.open_run("r") as run:
        run.state.purpose = "x"
        run.pause("Ship it?", key="ship")
    assert retire_idle(hot, archives) == 1
    (waiting,) = hot.runs(status="paused")
    assert [question.text for question in waiting.waiting_for] == ["Ship it?"]
    open_hot(redis_backend).answer("r", "yes")
    assert retire_idle(hot, archives) == 1
    again = TieredCheckpointer(open_hot(redis_backend), archives[1])
    with again.open_run("r") as run:
        run.pause("Ship it?", key="ship")
        assert run.wait(timeout=DEADLINE_SECONDS) == "yes"
        assert run.state.purpose == "x"
    assert open_hot(redis_backend).request_cancel("r", "too late").event.seq == 2
    assert retire_idle(hot, archives) == 1
    with pytest.raises(Exception, match="too late"), again.open_run("r") as run:
        run.emit("agent.progress")
    assert info_of(hot).status == "cancelled"


def test_followers_that_wait_go_on_after_the_append_that_brings_it_back(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    hot.save_events(make_events("r", 3))
    seen: dict[str, list[int]] = {"hot": [], "tiered": []}

    def follow(name: str, store: Any) -> None:
        for item in store.follow("r", idle_timeout=DEADLINE_SECONDS):
            seen[name].append(item.offset)

    stores = {"hot": open_hot(redis_backend), "tiered": TieredCheckpointer(open_hot(redis_backend), archives[0])}
    threads = [threading.Thread(target=follow, args=pair, daemon=True) for pair in stores.items()]
    for thread in threads:
        thread.start()
    eventually(lambda: all(found == [1, 2, 3] for found in seen.values()))
    assert retire_idle(hot, archives) == 1
    hot.save_events(ended("r", first=4))
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert all(found == [*range(1, 8)] for found in seen.values())


def test_a_run_that_is_leased_or_not_all_archived_stays(
    redis_backend: RedisBackend, hot: Hot, raw: Any, archives: list[Archive]
) -> None:
    """The script decides, whatever the worker saw."""
    hot.append("r", make_events("r", 2), snapshot=make_state("r"))
    worker = DrainWorker(hot, archives, retire_idle_seconds=3600)
    worker.drain_once()
    partition, fit = namespace_of(hot).keys.run("r").partition, fit_of(hot)
    assert members(raw, partition.retire) == ["r"]
    with hot.lease("r", owner="me", lane_id="main"):
        assert retire_now(hot, archives, fit, idle=0)[0].name == "later"
    assert retire_now(hot, archives, fit._replace(tokens={None: "other"}), idle=0)[0].name == "changed"
    assert retire_now(hot, archives, fit)[0].name == "unfit"  # a worker that retires those that have ended
    hot.save_snapshot("r", make_state("r"))
    assert retire_now(hot, archives, fit, idle=0)[0].name == "unfit"
    hot.save_events(make_events("r", 1))
    assert retire_now(hot, archives, fit, idle=0)[0].name == "unfit"
    assert raw.exists(namespace_of(hot).keys.run("r").events)


def test_who_holds_a_lane_that_is_in_the_archive_alone_is_told(hot: Hot, archives: list[Archive]) -> None:
    """Of the run, and of a fork that has the lane from it."""
    store = TieredCheckpointer(hot, archives[0])
    store.append("r", [make_event("r", 1, lane_id="a"), make_event("r", 1, lane_id="b")])
    store.fork("r", "f")
    DrainWorker(hot, archives, retire_idle_seconds=0).drain_once()
    for run_id in ("r", "f"):
        with store.lease(run_id, owner="me", lane_id="a"):
            assert [(lane.lane_id, lane.lease) for lane in store.lanes(run_id)] == [("a", "me"), ("b", None)]
        assert [lane.lease for lane in store.lanes(run_id)] == [None, None]


def test_idle_runs_keep_no_run_that_has_ended_from_being_retired(
    hot: Hot, raw: Any, archives: list[Archive]
) -> None:
    """Those that are not quiet for long enough are looked at once, and again when they are."""
    partition = namespace_of(hot).keys.run("r").partition
    run_ids = [name for name in map(str, range(1000)) if namespace_of(hot).keys.run(name).partition is partition]
    for run_id in run_ids[:40]:
        hot.save_event(make_event(run_id, 1))
    hot.append("r", ended("r"))
    report = DrainWorker(hot, archives, retire_after_seconds=0, retire_idle_seconds=3600).drain_once()
    assert report.retired == 1
    assert info_of(hot).first_hot == 5
    listed = raw.zrange(partition.retire, 0, -1, withscores=True)
    assert len(listed) == 40
    seconds, _ = raw.time()
    assert all(score > (seconds + 3000) * MICROSECONDS for _, score in listed)


def test_runs_that_were_archived_before_are_found_by_the_sweep(hot: Hot, archives: list[Archive]) -> None:
    """By a worker that is started anew, or after the set was removed."""
    hot.save_event(make_event("r", 1))
    assert DrainWorker(hot, archives).drain_once().retired == 0
    assert info_of(hot).first_hot == 1
    assert retire_idle(hot, archives) == 1


def test_only_runs_that_have_ended_are_forgotten(hot: Hot, raw: Any, archives: list[Archive]) -> None:
    """A run that waits is there for as long as it takes; once it has ended it goes as others do."""
    hot.save_event(make_event("r", 1))
    for _ in range(2):
        worker = DrainWorker(hot, archives, retire_idle_seconds=0, forget_after_seconds=0)
        assert worker.drain_once().forgotten == 0
        assert members(raw, namespace_of(hot).keys.run("r").partition.retired) == ["r"]
    hot.append("r", ended("r", first=2))
    assert worker.drain_once().forgotten == 1
    assert hot.run_info("r") is None


def test_the_times_of_retirement_are_checked(hot: Hot, archives: list[Archive]) -> None:
    with pytest.raises(ConfigurationError, match="retire_idle_seconds=-1"):
        DrainWorker(hot, archives, retire_idle_seconds=-1)
    with pytest.raises(ConfigurationError, match="retire_idle_seconds"):
        DrainWorker(hot, archives, forget_after_seconds=1)


@pytest.mark.parametrize("retires", [True, False], ids=["retired", "hot"])
def test_a_person_answers_where_lanes_were_ended_before_anybody_had_said_anything(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive], *, retires: bool
) -> None:
    """Through Redis alone: that nobody has said anything is known, though not all lanes are any more."""
    with hot.open_run("r", lane_id="done") as done:
        done.emit("agent.progress")
        done.finish_lane()
    with hot.open_run("r") as run:
        run.pause("Ship it?")
    assert retire_idle(hot, archives, retire_idle_seconds=0 if retires else 3600) == int(retires)
    with pytest.raises(EventsArchived):
        hot.lanes("r")
    assert [lane.lane_id for lane in TieredCheckpointer(hot, archives[0]).lanes("r")] == ["done", "main"]
    assert open_hot(redis_backend).answer("r", "yes").event.seq == 1
    assert open_hot(redis_backend).request_cancel("r").event.seq == 2
    assert all(verify_run("r", hot=hot, sinks=[archive]).is_sound for archive in archives)


def test_a_worker_that_trims_nothing_leaves_ended_lanes_where_they_are(
    hot: Hot, raw: Any, archives: list[Archive]
) -> None:
    with hot.open_run("r", lane_id="done") as done:
        done.emit("agent.progress")
        done.checkpoint()
        DrainWorker(hot, archives).drain_once()
        done.finish_lane()
    assert info_of(hot).first_hot > 1
    DrainWorker(hot, archives, trim="never", retire_idle_seconds=3600).drain_once()
    assert [lane.lane_id for lane in hot.lanes("r")] == ["done"]
    assert raw.exists(namespace_of(hot).keys.run("r").snapshot("done"))
