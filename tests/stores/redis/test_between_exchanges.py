"""A script that is called with what was so a moment ago changes nothing, and says what has become of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runstream import (
    ConcurrencyConflict,
    ConfigurationError,
    CorruptRecordError,
    DrainWorker,
    EventKind,
    SQLiteCheckpointer,
    TieredCheckpointer,
)
from runstream.operations.operation import Exchange, Replies
from runstream.stores.redis.append_batch import Sending
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.worker.hot_run import HotRun
from runstream.stores.redis.operations.worker.retire import RetireCandidate, RetireOutcome
from runstream.stores.redis.scripts.calls import RELIST, revoke_call
from runstream.stores.redis.scripts.queue_calls import revisit_call
from runstream.stores.redis.scripts.removal_calls import delete_call
from runstream.stores.redis.scripts.script import script_call
from tests.support.backends import RedisBackend
from tests.support.drain_tools import Hot, ask, due, open_hot, swept
from tests.support.operations import session_of
from tests.support.samples import make_event, make_events, make_state

LONG = "a lane whose name is longer than twenty-four bytes"


@pytest.fixture
def hot(redis_backend: RedisBackend) -> Hot:
    """A store with a run."""
    store = open_hot(redis_backend)
    store.append("r", make_events("r", 2))
    return store


def run_of(hot: Hot) -> HotRun:
    """The run as it is now."""
    (run,) = namespace_of(hot).load_runs(["r"])
    assert run is not None
    return run


@pytest.mark.parametrize("since", ["a snapshot", "a session"])
def test_a_run_is_not_deleted_in_part(redis_backend: RedisBackend, hot: Hot, since: str) -> None:
    """What it got since whoever deletes it has looked would stay."""
    call = delete_call(session_of(hot).keys, "r", start=str(run_of(hot).head.start), session_id="", lanes=[])
    if since == "a snapshot":
        hot.save_snapshot("r", make_state("r"))
    else:
        hot.append("r", [make_event("r", 3, session_id="s")])
    before = redis_backend.footprint()
    assert ask(hot, *call) == -1
    assert redis_backend.footprint() == before
    assert hot.delete_run("r")
    assert not [name for name in redis_backend.key_names() if ":run:" in name or ":session:" in name]


def test_a_run_that_got_a_session_since_is_not_forgotten(
    redis_backend: RedisBackend, hot: Hot, tmp_path: Path
) -> None:
    """It would stay in the set of its session."""
    with SQLiteCheckpointer[Any, Any](tmp_path / "a.db") as archive:
        worker = DrainWorker(hot, [archive], retire_after_seconds=0)
        for session_id in ("", "s"):
            hot.append("r", [make_event("r", 3, kind=EventKind.RUN_FINISHED, session_id=session_id)])
            assert worker.drain_once().retired == 1
            if not session_id:
                former = run_of(hot)
    before = redis_backend.footprint()
    fit = RetireCandidate("r", former.header, former.head.tokens)
    assert namespace_of(hot).forget([fit], 0) == [RetireOutcome("changed")]
    assert redis_backend.footprint() == before


@pytest.mark.parametrize("belongs", ["due", "retired", ""])
def test_a_run_that_was_made_anew_since_is_not_listed_as_the_former(
    redis_backend: RedisBackend, hot: Hot, belongs: str
) -> None:
    keys, start = session_of(hot).keys, run_of(hot).head.start
    run, partition = keys.run("r"), keys.run("r").partition
    hot.delete_run("r")
    hot.append("r", [make_event("r", 3)])
    names = (run.meta, partition.runs, partition.session("s"), partition.due, partition.retired)
    redis_backend.raw.delete(partition.runs, partition.due)
    before = redis_backend.footprint()
    assert ask(hot, *script_call(RELIST, names, ("r", str(start), "s", belongs))) == 0
    assert redis_backend.footprint() == before


def test_a_run_of_no_session_is_listed_in_none(redis_backend: RedisBackend, hot: Hot) -> None:
    partition = session_of(hot).keys.run("r").partition
    redis_backend.raw.delete(partition.runs, partition.due)
    before = set(redis_backend.key_names())
    assert swept(hot) == (["r"], [])
    assert set(redis_backend.key_names()) - before == {partition.runs, partition.due}


def test_a_snapshot_does_not_follow_a_retired_one_after_which_another_was_retired(
    redis_backend: RedisBackend, hot: Hot, tmp_path: Path
) -> None:
    """Its writer has the former one from the archive."""
    with SQLiteCheckpointer[Any, Any](tmp_path / "a.db") as archive:
        store, other = (TieredCheckpointer(one, archive) for one in (hot, open_hot(redis_backend)))
        for turn in range(2):
            other.recover("r")
            end = make_event("r", turn, kind=EventKind.RUN_FINISHED)
            other.append("r", [end], snapshot=make_state("r", current_step=turn, status="completed"))
            assert DrainWorker(hot, [archive], retire_after_seconds=0).drain_once().retired == 1
            if turn == 0:
                store.recover("r")
        with pytest.raises(ConcurrencyConflict):
            store.append("r", [], snapshot=make_state("r"))
        saved = store.load_latest("r")
    assert saved is not None
    assert saved.current_step == 1


def test_a_run_that_is_not_there_is_not_made_due(redis_backend: RedisBackend, hot: Hot) -> None:
    """Else it would count as one that waits."""
    hot.delete_run("r")
    before = redis_backend.footprint()
    assert ask(hot, *revisit_call(session_of(hot).keys, "r")) == 0
    assert redis_backend.footprint() == before
    assert due(hot) == {}


def test_of_a_batch_before_the_last_nobody_can_tell_what_became_of_it(
    redis_backend: RedisBackend, hot: Hot
) -> None:
    """Its producer has gone on, and only its last reply is kept: neither is it told as applied, nor revoked."""
    session = session_of(hot)
    producer = session.producers.take("r")
    calls = [revoke_call(session.keys, "r", Sending(producer.name, number, None, None)) for number in (1, 2)]
    assert ask(hot, *calls[1]) == [b"revoked"]
    before = redis_backend.footprint()
    assert ask(hot, *calls[0])[0] == b"stale"
    assert redis_backend.footprint() == before


def test_of_a_batch_whose_producer_may_be_forgotten_nobody_can_tell_either(
    redis_backend: RedisBackend, hot: Hot
) -> None:
    session = session_of(hot)
    before = redis_backend.footprint()
    for sent_at in (0, 5):
        redis_backend.raw.hset(session.keys.run("r").partition.config, "forgotten", 6)
        reply = ask(hot, *revoke_call(session.keys, "r", Sending("another", 1, sent_at, None)))
        assert reply[0] == b"stale"
        redis_backend.raw.hdel(session.keys.run("r").partition.config, "forgotten")
    assert redis_backend.footprint() == before


def test_a_key_whose_cursor_does_not_read_is_reported(redis_backend: RedisBackend, hot: Hot) -> None:
    hot.append("r", [make_event("r", 3)], keys=["k"])
    redis_backend.raw.hset(session_of(hot).keys.run("r").keys, "k", "junk")
    with pytest.raises(CorruptRecordError, match="key k does not read"):
        hot.append("r", [make_event("r", 4)], keys=["k"])
    assert len(hot.list_events("r")) == 3


def test_a_run_does_not_begin_where_the_partitions_are_others(redis_backend: RedisBackend, hot: Hot) -> None:
    redis_backend.raw.hset(session_of(hot).keys.run("new").partition.config, "partitions", 7)
    with pytest.raises(ConfigurationError, match="7 partitions"):
        hot.append("new", [make_event("new")])
    assert hot.run_info("new") is None


def test_the_size_of_records_is_known_that_came_the_fast_way(redis_backend: RedisBackend, hot: Hot) -> None:
    """Whoever reads asks for no more at once than it takes."""
    meta = session_of(hot).keys.run("r").meta
    hot.append("r", [make_event("r", 3)])
    assert redis_backend.raw.hget(meta, "largest") == b"4096"
    hot.append("r", [make_event("r", 4, payload={"text": "x" * 9000})])
    assert redis_backend.raw.hexists(meta, "by"), "it came the fast way"
    assert redis_backend.raw.hget(meta, "largest") == b"16384"


def test_the_snapshot_of_a_lane_with_a_long_name_goes_on_where_it_was_retired(hot: Hot, tmp_path: Path) -> None:
    """A tombstone keeps a fingerprint of the name, and no other lane's."""
    for lane in (LONG, LONG + "!"):
        hot.append("r", [make_event("r", 3, lane_id=lane)])
    for number in range(3):
        hot.save_snapshot("r", make_state("r", current_step=number), lane_id=LONG)
    hot.save_snapshot("r", make_state("r"), lane_id=LONG + "!")
    hot.append("r", [make_event("r", 4, kind=EventKind.RUN_FINISHED)])
    with SQLiteCheckpointer[Any, Any](tmp_path / "a.db") as archive:
        assert DrainWorker(hot, [archive], retire_after_seconds=0).drain_once().retired == 1
        store = TieredCheckpointer(hot, archive)
        for lane in (LONG, LONG + "!"):
            store.recover("r", lane_id=lane)
            store.append("r", [make_event("r", 5, lane_id=lane)], snapshot=make_state("r"), lane_id=lane)
    revisions = {lane: one.revision for lane, one in run_of(hot).head.snapshots.items()}
    assert revisions == {LONG: 4, LONG + "!": 2}


def test_an_index_of_tags_that_is_found_to_lack_runs_since_it_was_chosen_hides_none(
    redis_backend: RedisBackend, hot: Any
) -> None:
    """The partition is scanned, as it would have been from the first."""
    hot.append("r", (), tags={"user": "42"})
    partition, exchange_once = session_of(hot).keys.run("r").partition, hot._driver.exchange_once

    def then_it_goes(exchange: Exchange) -> Replies:
        replies: Replies = exchange_once(exchange)
        if any(command[0] == b"ZLEXCOUNT" for command in exchange.commands):
            redis_backend.raw.hdel(partition.config, "tagged")
            redis_backend.raw.delete(partition.index("user"))
        return replies

    hot._driver.exchange_once = then_it_goes
    assert [info.run_id for info in hot.runs(tags={"user": "42"})] == ["r"]
