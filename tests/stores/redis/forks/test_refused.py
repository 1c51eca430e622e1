"""What stands in the way of a fork, and what it begins with."""

from __future__ import annotations

from typing import Any

import pytest

from runstream import ConfigurationError, CorruptRecordError, HistoryDiverged, LeaseHeld, RedisCheckpointer
from runstream.model.results import Cursor
from runstream.model.run_head import RunHead
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.worker.sweep import BEGINNING
from runstream.stores.redis.scripts.fork_calls import fork_call, fork_end_call, intent_call
from tests.stores.redis.forks.forking_tools import LENGTH, make_parent, noted_at
from tests.support.backends import RedisBackend
from tests.support.drain_tools import Hot, ask, open_hot
from tests.support.operations import session_of
from tests.support.samples import make_event


@pytest.fixture
def hot(redis_backend: RedisBackend) -> Hot:
    """A store with a parent."""
    store = open_hot(redis_backend)
    make_parent(store)
    return store


def head_of(hot: Hot, run_id: str) -> RunHead:
    (run,) = namespace_of(hot).load_runs([run_id])
    assert run is not None
    return run.head


def test_what_came_between_two_steps_is_seen_by_the_scripts(redis_backend: RedisBackend, hot: Hot) -> None:
    """Each of them decides by what is there by then, and writes nothing if that is something else."""
    keys, parent = session_of(hot).keys, head_of(hot, "p")
    hot.fork("p", "f")
    fork = head_of(hot, "f")
    assert hot.delete_run("f")
    hot.append("other", [make_event("other", 1)])
    hot.append("g", [make_event("g", 1)])
    before = redis_backend.footprint()
    elsewhere = RunHead(Cursor(LENGTH, 1), Cursor(LENGTH, 1), identity=7)
    beyond = RunHead(Cursor(LENGTH + 1, 1), Cursor(LENGTH + 1, 1), identity=7)
    earlier = RunHead(Cursor(2, 1), Cursor(2, 1), identity=7)
    for head in (elsewhere, beyond, earlier):
        assert ask(hot, *intent_call(keys, "p", parent, "h", head, archived=True)) == [b"diverged"]
    former = RunHead(parent.start, identity=parent.creation)
    assert ask(hot, *intent_call(keys, "p", former, "h", fork, archived=False)) == [b"changed"]
    assert ask(hot, *intent_call(keys, "f", fork, "h", fork, archived=True)) == [b"changed"]
    assert ask(hot, *fork_call(keys, "f", fork, [], [])) == [b"given up"]
    assert ask(hot, *fork_call(keys, "g", fork, [], [])) == [b"there"]
    for run_id, creation in (("other", 1), ("nowhere", 1)):
        assert ask(hot, *fork_end_call(keys, run_id, creation, "f", fork.identity, fork.start)) == 0
    assert redis_backend.footprint() == before
    assert noted_at(redis_backend.raw, hot) == {}


def test_a_name_that_is_leased_is_no_fork_s(redis_backend: RedisBackend, hot: Hot) -> None:
    """Whoever has the lease may be about to write there; once it is given back there is nothing in the way."""
    other = open_hot(redis_backend)
    with other.lease("f", owner="other"):
        with pytest.raises(LeaseHeld, match="'f'"):
            hot.fork("p", "f")
        assert hot.run_info("f") is None
        assert noted_at(redis_backend.raw, hot) == {}
    assert hot.fork("p", "f").parent == ("p", LENGTH)


def test_a_fork_has_the_tags_that_it_is_given_and_is_found_by_them(redis_backend: RedisBackend, hot: Hot) -> None:
    """Those of its parent, or its own; where an index is damaged it is made anew."""
    hot.append("p", [], tags={"user": "42", "env": "prod"})
    assert hot.fork("p", "f").tags == {"user": "42", "env": "prod"}
    assert hot.fork("p", "g", tags={"user": "43"}).tags == {"user": "43"}
    assert hot.fork("p", "h", tags={}).tags == {}
    assert {info.run_id for info in hot.runs(tags={"user": "42"})} == {"p", "f"}
    index = session_of(hot).keys.run("i").partition.index("user")
    redis_backend.raw.delete(index)
    redis_backend.raw.set(index, "not a set")
    assert hot.fork("p", "i").tags == {"user": "42", "env": "prod"}
    redis_backend.raw.delete(index)


def test_a_fork_is_not_made_in_a_namespace_that_was_made_anew(redis_backend: RedisBackend, hot: Hot) -> None:
    """With another number of partitions it would lie where nobody looks."""
    keys = session_of(hot).keys
    redis_backend.raw.hset(keys.run("f").partition.config, "partitions", 3)
    with pytest.raises(ConfigurationError, match="partitions"):
        hot.fork("p", "f")
    assert noted_at(redis_backend.raw, hot) == {}
    redis_backend.raw.hset(keys.run("f").partition.config, "partitions", len(keys.partitions))


def test_a_damaged_note_of_forks_holds_up_that_run_alone(redis_backend: RedisBackend, hot: Hot) -> None:
    """It is not deleted, as nobody knows what forks it has; a sweep goes on."""
    hot.fork("p", "f")
    redis_backend.raw.delete(key := session_of(hot).keys.run("p").forks)
    redis_backend.raw.set(key, "no hash")
    namespace_of(hot).sweep_page(BEGINNING)
    with pytest.raises(CorruptRecordError, match="forks"):
        hot.delete_run("p")
    with pytest.raises(CorruptRecordError, match="forks"):
        hot.fork("p", "g")
    assert hot.delete_run("f")
    redis_backend.raw.delete(key)
    assert hot.delete_run("p")


def test_a_fork_whose_parent_was_made_anew_behind_its_back_says_so(redis_backend: RedisBackend, hot: Hot) -> None:
    """As by a failover that has lost the parent."""
    hot.fork("p", "f")
    keys = session_of(hot).keys.run("p")
    redis_backend.raw.delete(keys.meta, keys.events, keys.producers, keys.keys, keys.snapshot(None))
    other: RedisCheckpointer[Any, Any] = open_hot(redis_backend)
    other.append("p", [make_event("p", 1)])
    with pytest.raises(HistoryDiverged, match="made anew"):
        list(other.read("f"))
