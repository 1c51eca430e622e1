"""Tags on their way from Redis into archives: what is proven, what makes a run due, and what is left of a run."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from runstream import (
    CorruptRecordError,
    DrainReport,
    DrainWorker,
    StoreUnavailable,
    TieredCheckpointer,
)
from runstream.model.archive_records import Position
from runstream.model.tags import TagSet
from runstream.operations.operation import Exchange, Operation, Replies
from runstream.repair.resolve import load_histories, resolve
from runstream.repair.restore import put_back
from runstream.repair.verify import verify_run
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.worker.sweep import BEGINNING
from runstream.stores.redis.operations.worker.tag_index import index_again, note_sweep
from tests.drain.retire.retiring_tools import ended, fit_of, retire_all, retire_now
from tests.repair.restore.restoring_tools import come_back, dumps
from tests.support.archive_check import Archive
from tests.support.backends import RedisBackend, info_of
from tests.support.drain_tools import Hooked, Hot, open_hot, parked
from tests.support.kinds import on_every_server
from tests.support.line import Line
from tests.support.random_runs import lose_redis
from tests.support.samples import make_event, make_events, make_state


@pytest.fixture
def hot(redis_backend: RedisBackend) -> Hot:
    return open_hot(redis_backend, retry_seconds=0)


def drain(hot: Hot, archives: list[Any], **options: Any) -> DrainReport:
    return DrainWorker(hot, archives, **options).drain_once()


def tags_in(archives: list[Archive], run_id: str = "r") -> list[dict[str, str]]:
    return [dict(info_of(archive, run_id).tags) for archive in archives]


def index_keys(backend: RedisBackend) -> list[str]:
    return [name for name in backend.key_names() if ":tag:" in name or name.endswith(":tags")]


def test_an_append_of_tags_alone_makes_a_run_due_and_the_drain_archives_it(
    hot: Hot, archives: list[Archive]
) -> None:
    hot.append("r", make_events("r", 3), tags={"user": "1", "env": ""})
    assert drain(hot, archives).events == 3
    assert tags_in(archives) == [{"user": "1", "env": ""}] * 2
    assert drain(hot, archives) == DrainReport()
    for change, then in (({"user": "2"}, {"user": "2", "env": ""}), ({"user": None, "env": None}, {})):
        hot.append("r", [], tags=change)
        assert drain(hot, archives).runs == 1
        assert tags_in(archives) == [then] * 2
        assert drain(hot, archives) == DrainReport()
        assert verify_run("r", hot=hot, sinks=archives).is_sound


def test_the_tags_are_proven_by_what_an_archive_holds_when_it_is_read_back(
    hot: Hot, archives: list[Archive]
) -> None:
    """Whatever an archive says that it has: the run is parked, and not retired."""

    class Forgetful(Hooked):
        def read_back_tags(self, run_id: str) -> TagSet:
            return TagSet(self._inner.read_back_tags(run_id).version, {"user": "3"})

        def position_of_lanes(self, *args: Any) -> Position | None:
            found: Position | None = self._inner.position_of_lanes(*args)
            return found

    hot.append("r", ended("r"), tags={"user": "1"})
    sinks = [Forgetful(archives[0]), archives[1]]
    assert DrainWorker(hot, sinks, retire_after_seconds=0).drain_once() == DrainReport(parked=1)
    assert "does not hold the tags as Redis does" in parked(hot)["r"]


def test_an_archive_that_was_put_back_from_a_copy_gets_the_tags_again(hot: Hot, archives: list[Archive]) -> None:
    hot.append("r", ended("r"), tags={"user": "1"})
    drain(hot, archives)
    with closing(sqlite3.connect(archives[0].location.partition(":")[2])) as file, file:
        file.execute("DELETE FROM tags WHERE run_id = 'r'")
    report = retire_all(hot, archives)
    assert (report.retired, report.parked) == (0, 1)
    assert "does not have its tags" in parked(hot)["r"]
    namespace_of(hot).unpark(["r"])
    assert retire_all(hot, archives).retired == 1
    assert tags_in(archives) == [{"user": "1"}] * 2


@pytest.mark.one_in(2)
@on_every_server
def test_the_tags_of_a_retired_run_stay_until_it_is_forgotten(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    hot.append("r", ended("r"), tags={"user": "1", "a:b%": "ü"})
    assert retire_all(hot, archives).retired == 1
    assert info_of(hot).tags == {"user": "1", "a:b%": "ü"}
    assert [info.run_id for info in hot.runs(tags={"a:b%": "ü"})] == ["r"]
    hot.append("r", [], tags={"user": "2"})
    assert retire_all(hot, archives).retired == 1
    assert tags_in(archives) == [{"user": "2", "a:b%": "ü"}] * 2
    assert verify_run("r", hot=hot, sinks=archives).is_sound
    assert retire_all(hot, archives, forget_after_seconds=0).forgotten == 1
    assert index_keys(redis_backend) == []
    tiered = TieredCheckpointer(hot, archives[0])
    assert [info.run_id for info in tiered.runs(tags={"user": "2"})] == ["r"]


def test_nothing_is_left_of_the_tags_of_a_deleted_run(redis_backend: RedisBackend, hot: Hot) -> None:
    hot.append("r", [make_event("r", 1)], tags={"user": "1", "env": "x"})
    hot.append("s", [make_event("s", 1)], tags={"user": "1"})
    hot.delete_run("r")
    assert [info.run_id for info in hot.runs(tags={"user": "1"})] == ["s"]
    hot.delete_run("s")
    assert index_keys(redis_backend) == []


@on_every_server
def test_an_append_of_tags_alone_is_applied_once_however_often_it_is_sent(
    redis_backend: RedisBackend, hot: Hot
) -> None:
    """Its reply is lost, another writer changes them, and it comes again: by the caller, and by itself."""
    other = open_hot(redis_backend)
    line = Line(hot)
    for events in ([], [make_event("r", 1)]):
        line.cut("reply")
        with pytest.raises(StoreUnavailable):
            hot.append("r", [], tags={"user": "1"})
        other.append("r", [], tags={"user": "2"})
        hot.append("r", events, tags=None if events else {"user": "1"})
        assert info_of(hot).tags == {"user": "2"}


def test_tags_that_were_given_up_are_set_again_after_others(hot: Hot) -> None:
    Line(hot).cut("reply")
    with pytest.raises(StoreUnavailable):
        hot.append("r", [], tags={"user": "1"})
    for value in ("2", "1"):
        hot.append("r", [], tags={"user": value})
        assert info_of(hot).tags == {"user": value}


def test_a_run_with_damaged_tags_holds_up_no_other(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    for run_id in ("a", "r", "z"):
        hot.append(run_id, [make_event(run_id, 1)], tags={"user": "1"})
    keys = namespace_of(hot).keys.run("r")
    for field in ("", "user"):
        redis_backend.raw.hdel(keys.tags, field)
        with pytest.raises(CorruptRecordError, match="removed") as caught:
            hot.run_info("r")
        assert caught.value.key == keys.tags
        assert sorted(info.run_id for info in hot.runs(tags={"user": "1"})) == ["a", "z"]
    with pytest.raises(CorruptRecordError, match="removed"):
        hot.append("r", [], tags={"user": "2"})
    report = drain(hot, archives)
    assert (report.events, report.parked) == (2, 1)
    assert tags_in(archives, "a") == tags_in(archives, "z") == [{"user": "1"}] * 2
    assert hot.delete_run("r")
    hot.append("r", [make_event("r", 1)], tags={"user": "3"})
    assert info_of(hot).tags == {"user": "3"}


@pytest.mark.one_in(2)
@on_every_server
def test_what_is_damaged_in_an_index_holds_up_nothing_and_is_put_right_by_a_sweep(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    """Members that are no runs, one that is missing, an index of another type: what is found is right."""
    for run_id in ("a", "r"):
        hot.append(run_id, [make_event(run_id, 1)], tags={"user": "1", "env": "x"})
    drain(hot, archives)
    raw, keys, run = redis_backend.raw, namespace_of(hot).keys, namespace_of(hot).keys.run("r")
    index = run.partition.index("user")

    def found() -> list[str]:
        return sorted(info.run_id for info in hot.runs(tags={"user": "1"}))

    raw.zadd(index, dict.fromkeys([b"1:1nobody", b"1:1\xff", b"1:1", b"junk", b"1:1" + b"x" * 600], 0))
    assert found() == ["a", "r"]
    assert raw.zrem(index, "1:1r") == 1
    assert not verify_run("r", hot=hot, sinks=archives).is_sound
    swept(hot, archives)
    assert (found(), verify_run("r", hot=hot, sinks=archives).is_sound) == (["a", "r"], True)
    raw.delete(index)
    raw.set(index, "strange")
    assert found() == ["a", "r"], "all runs of its partition are looked at"
    hot.append("r", [], tags={"user": "2"})
    hot.append("b", [], tags={"user": "1"})
    assert found() == ["a", "b"]
    swept(hot, archives)
    assert raw.get(f"{index}:damaged") == b"strange"
    assert all(raw.hget(partition.config, "tagged") == b"1" for partition in keys.partitions)
    assert raw.zscore(index, "1:2r") == 0
    assert found() == ["a", "b"]


def test_a_namespace_of_before_is_searched_whole_until_a_sweep_has_filled_its_indexes(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    run_ids = [f"r{number}" for number in range(20)]
    for run_id in run_ids:
        hot.append(run_id, [make_event(run_id, 1)], tags={"user": "1"})
    raw, keys = redis_backend.raw, namespace_of(hot).keys
    for partition in keys.partitions:
        raw.delete(partition.index("user"))
        raw.hdel(partition.config, "tagged")
    assert len(list(hot.runs(tags={"user": "1"}))) == 20
    hot.append("new", [make_event("new", 1)], tags={"user": "1"})
    assert len(list(hot.runs(tags={"user": "1"}))) == 21
    swept(hot, archives)
    assert all(raw.hget(partition.config, "tagged") == b"1" for partition in keys.partitions)
    assert sum(raw.zcard(partition.index("user")) for partition in keys.partitions) == 21
    assert len(list(hot.runs(tags={"user": "1"}))) == 21


def test_indexes_count_as_complete_only_after_a_sweep_that_nothing_has_come_between(
    redis_backend: RedisBackend, hot: Hot
) -> None:
    raw, keys = redis_backend.raw, namespace_of(hot).keys
    partition = keys.partitions[0]

    def noted(sweep: str, what: Any) -> Any:
        namespace_of(hot).run(note_sweep([partition], sweep, what))
        return raw.hget(partition.config, "tagged")

    assert noted("a", "begin") == b"1", "a partition without runs"
    assert noted("a", "again") == b"a"
    assert noted("b", "end") == b"a"
    assert noted("b", "begin") == b"b"
    assert noted("a", "end") == b"b", "another worker has begun since"
    raw.hdel(partition.config, "tagged")
    assert noted("b", "end") is None, "an append has found an index damaged"
    assert (noted("b", "begin"), noted("b", "end")) == (b"b", b"1")


@on_every_server
def test_a_run_whose_tags_change_while_a_sweep_looks_at_it_is_in_all_indexes(
    redis_backend: RedisBackend, hot: Hot
) -> None:
    hot.append("r", [make_event("r", 1)], tags={"user": "1", "team": "2", "gone": "3"})
    raw, namespace = redis_backend.raw, namespace_of(hot)
    partition = namespace.keys.run("r").partition
    raw.delete(*(partition.index(name) for name in ("user", "team", "gone")))

    def indexing() -> Operation[list[str]]:
        (run,) = namespace.load_runs(["r"])
        assert run is not None
        steps = index_again(namespace.keys, [run], "sweep")
        replies = yield next(steps)
        hot.append("r", (), tags={"team": "4", "new": "5", "gone": None})
        with pytest.raises(StopIteration) as end:
            steps.send((yield steps.send(replies)))
        missing: list[str] = end.value.value
        return missing

    assert namespace.run(indexing()) == ["r"]
    members = {name: raw.zrange(partition.index(name), 0, -1) for name in ("user", "team", "new", "gone")}
    assert members == {"user": [b"1:1r"], "team": [b"1:4r"], "new": [b"1:5r"], "gone": []}


def swept(hot: Hot, archives: list[Archive]) -> None:
    """A worker has gone through all keys."""
    worker = DrainWorker(hot, archives)
    worker._sweep._next_page = 0.0
    worker.drain_once()
    assert worker._sweep._position == BEGINNING


@pytest.mark.one_in(2)
@on_every_server
def test_a_lost_redis_gets_the_tags_back_with_their_index(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    hot.append("r", make_events("r", 3), tags={"user": "1", "env": "x"})
    drain(hot, archives)
    for archive in archives:
        hot = lose_redis(redis_backend)
        put_back(hot, archive, "r")
        assert info_of(hot).tags == {"user": "1", "env": "x"}
        assert [info.run_id for info in hot.runs(tags={"env": "x"})] == ["r"]
        assert verify_run("r", hot=hot, sinks=archives).is_sound
        drain(hot, archives)
        assert drain(hot, archives) == DrainReport()


def test_a_run_that_redis_lost_the_end_of_keeps_its_newer_tags(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    hot.append("r", make_events("r", 3), tags={"user": "1", "gone": "1"})
    before = dumps(redis_backend)
    hot.append("r", [make_event("r", 4)], tags={"user": "2"})
    drain(hot, archives)
    hot = come_back(redis_backend, before)
    hot.append("r", [], tags={"user": "3", "gone": None})
    put_back(hot, archives[0], "r")
    assert info_of(hot).tags == {"user": "3"}
    drain(hot, archives)
    assert tags_in(archives) == [{"user": "3"}] * 2
    assert verify_run("r", hot=hot, sinks=archives).is_sound


def test_a_history_with_tags_that_replaces_another_takes_its_place_in_its_session(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    hot.append("r", make_events("r", 3, session_id="s"), tags={"user": "1"})
    drain(hot, archives)
    hot = lose_redis(redis_backend)
    hot.save_event(make_event("r", 1, session_id="other"))
    drain(hot, archives)
    seen = load_histories(hot, archives, "r")
    assert seen is not None
    resolve(hot, archives, seen, "archive")
    assert info_of(hot).tags == {"user": "1"}
    assert [name.rpartition(":")[2] for name in redis_backend.key_names() if ":session:" in name] == ["s"]


def test_of_runs_with_a_tag_only_those_are_looked_at_that_were_updated_since(hot: Hot) -> None:
    """Whoever follows the runs that have a tag asks for these twice a second."""
    for run_id in ("a", "b"):
        hot.append(run_id, [make_event(run_id, 1)], tags={"user": "1"})
    at, keys = info_of(hot, "b").updated_at, list[str]()
    driver: Any = hot._driver

    def noted(one: Exchange) -> Replies:
        keys.extend(str(command[1]) for command in one.commands)
        replies: Replies = exchange(one)
        return replies

    exchange, driver.exchange_once = driver.exchange_once, noted
    assert not list(hot.runs(tags={"user": "1"}, updated_after=at + 10))
    assert not [name for name in keys if name.endswith(":meta")]
    assert len(list(hot.runs(tags={"user": "1"}, updated_after=at - 10))) == 2


def test_verify_compares_the_tags(redis_backend: RedisBackend, hot: Hot, archives: list[Archive]) -> None:
    hot.append("r", make_events("r", 3), tags={"user": "1"})
    drain(hot, archives)
    key = namespace_of(hot).keys.run("r").tags
    redis_backend.raw.hset(key, "user", "2")
    difference = verify_run("r", hot=hot, sinks=archives).difference
    assert difference is not None
    assert "tags are not the same" in str(difference) or "index" in str(difference)


def test_an_archive_has_the_tags_that_redis_has_after_redis_lost_later_ones(
    redis_backend: RedisBackend, hot: Hot, archives: list[Archive]
) -> None:
    """Their number says that what was lost is later: the clock of the server that lost it was ahead."""
    hot.append("r", make_events("r", 3), tags={"user": "1"})
    drain(hot, archives)
    before = dumps(redis_backend)
    keys = namespace_of(hot).keys.run("r")
    hot.append("r", [], tags={"user": "2"})
    for key, field in ((keys.meta, "tags"), (keys.tags, "")):
        redis_backend.raw.hset(key, field, f"{10**15 * 9}-ahead")
    drain(hot, archives)
    assert tags_in(archives) == [{"user": "2"}] * 2
    come_back(redis_backend, before)
    assert not verify_run("r", hot=hot, sinks=archives).is_sound
    hot.append("r", [], tags={"user": "3"})
    assert drain(hot, archives).parked == 0
    assert tags_in(archives) == [{"user": "3"}] * 2
    assert verify_run("r", hot=hot, sinks=archives).is_sound


def test_tags_that_change_while_a_run_is_archived_are_archived_next(hot: Hot, archives: list[Archive]) -> None:
    hot.append("r", make_events("r", 3), tags={"user": "1"})

    def change(*_: Any) -> None:
        hot.append("r", [], tags={"user": "2"})

    changing: Any = [Hooked(archives[0], write=change), archives[1]]
    DrainWorker(hot, changing).drain_runs(["r"])
    assert tags_in(archives) == [{"user": "1"}] * 2
    assert drain(hot, archives).runs == 1
    assert tags_in(archives) == [{"user": "2"}] * 2


def test_a_worker_that_stood_still_does_not_bring_former_tags_back(hot: Hot, archives: list[Archive]) -> None:
    """It has loaded them, and writes them once another worker has archived later ones: the run is not parked."""
    hot.append("r", make_events("r", 3), tags={"user": "1"})

    class Slow(Hooked):
        def read_back_tags(self, run_id: str) -> TagSet:
            return archives[0].read_back_tags(run_id)

    def overtake(*_: Any) -> None:
        if not done:
            done.append(True)
            hot.append("r", [], tags={"user": "2"})
            namespace_of(hot).unpark(["r"])
            DrainWorker(hot, archives).drain_runs(["r"])

    done: list[bool] = []
    slow: Any = [Slow(archives[0], write=overtake), archives[1]]
    assert DrainWorker(hot, slow).drain_once().parked == 0
    drain(hot, archives)
    assert tags_in(archives) == [{"user": "2"}] * 2
    assert verify_run("r", hot=hot, sinks=archives).is_sound
    assert drain(hot, archives) == DrainReport()


def test_what_is_said_to_people_goes_with_tags_in_one_append(hot: Hot, archives: list[Archive]) -> None:
    with hot.open_run("other") as run:
        run.pause("why?")
    (asks,) = (item.event for item in hot.read("other"))
    asks = replace(asks, run_id="r")
    hot.append("r", [asks], tags={"user": "1", "env": "x"}, keys=["k"], snapshots={None: make_state("r")})
    info = info_of(hot)
    assert (info.tags, info.last_offset) == ({"user": "1", "env": "x"}, 1)
    assert [question.text for question in info.waiting_for] == ["why?"]
    drain(hot, archives)
    assert verify_run("r", hot=hot, sinks=archives).is_sound


def test_a_run_whose_tags_have_changed_since_it_was_looked_at_is_neither_retired_nor_forgotten(
    hot: Hot, archives: list[Archive]
) -> None:
    hot.append("r", ended("r"), tags={"user": "1"})
    drain(hot, archives)
    (run,) = namespace_of(hot).load_runs(["r"])
    assert run is not None
    fit = fit_of(hot)._replace(tags=run.head.tags.version)
    hot.append("r", [], tags={"user": "2"})
    drain(hot, archives)
    assert [outcome.name for outcome in retire_now(hot, archives, fit)] == ["changed"]
    assert retire_all(hot, archives).retired == 1
    assert [outcome.name for outcome in namespace_of(hot).forget([fit], 0)] == ["changed"]
    assert info_of(hot).tags == {"user": "2"}
