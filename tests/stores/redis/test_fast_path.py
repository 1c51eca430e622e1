"""The ordinary append, which is written for speed, does to Redis what the general one does."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runstream.model.errors import AcknowledgedWritesLost, LeaseHeld, RunstreamError, StoreUnavailable
from runstream.model.events import EventKind
from runstream.operations.arguments import AppendOptions
from runstream.operations.operation import Exchange
from runstream.stores.redis.append_batch import Sending
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.operations.client import append
from runstream.stores.redis.operations.client.send import batch_of
from runstream.stores.redis.scripts import calls
from runstream.stores.redis.scripts.calls import append_call
from runstream.stores.redis.session import in_flight
from tests.support.backends import RedisBackend, kept_replies
from tests.support.kinds import on_every_server
from tests.support.operations import append_each, session_of
from tests.support.samples import make_event, make_state
from tests.support.servers import eventually


class Numbers(IntEnum):
    SEVEN = 7


LANES = ("main", "a", "b")
STATE = make_state("r")
KINDS = (EventKind.AGENT_PROGRESS, EventKind.TOOL_RESULT, EventKind.RUN_STARTED, EventKind.RUN_FINISHED)

SAVED = [("checkpoint", 0, "main", number) for number in range(3)]
PROGRESS = ("save", 0, "main", KINDS[0])

steps = st.lists(
    st.one_of(
        st.tuples(st.just("save"), st.integers(0, 1), st.sampled_from(LANES), st.sampled_from(KINDS)),
        st.tuples(st.just("append"), st.integers(0, 1), st.sampled_from(LANES), st.sampled_from(("", "s", "t"))),
        st.tuples(st.just("checkpoint"), st.integers(0, 1), st.sampled_from(LANES), st.integers(0, 7)),
        st.tuples(st.just("snapshot"), st.integers(0, 1), st.sampled_from((None, *LANES)), st.none()),
        st.tuples(st.just("forget"), st.integers(0, 1), st.none(), st.none()),
        st.tuples(st.just("settled"), st.integers(0, 1), st.none(), st.none()),
    ),
    max_size=15,
)


def open_two(backend: RedisBackend, namespace: str, **options: Any) -> Sequence[RedisCheckpointer[Any, Any]]:
    """Two writers of one namespace."""
    return [RedisCheckpointer(backend.raw, namespace=namespace, **options) for _ in range(2)]


def do(raw: Any, stores: Sequence[RedisCheckpointer[Any, Any]], script: Sequence[tuple[Any, ...]]) -> list[Any]:
    """What each step gives its writer, without what differs from run to run."""
    given: list[Any] = []
    for seq, (what, writer, lane, more) in enumerate(script):
        store = stores[writer]
        if what == "save":
            store.save_event(make_event("r", seq, lane_id=lane, kind=more, ts=1.0, span_id="s"))
        elif what == "append":
            event = make_event("r", seq, lane_id=lane, session_id=more, ts=1.0, span_id="s")
            placement = append_each(store, "r", [event])
            given.append((placement.appended[:2], [cursor.offset for cursor in placement.cursors]))
            assert placement.appended.cursor == str(placement.cursors[-1])
        elif what == "checkpoint":
            given.append(save_checkpoint(store, make_event("r", seq, lane_id=lane, ts=1.0, span_id="s"), more))
        elif what == "snapshot":
            store.save_snapshot("r", STATE, lane_id=lane)
        elif what == "settled":
            keys = session_of(store).keys.run("r")
            raw.zrem(keys.partition.due, "r")
            if last := raw.hget(keys.meta, "last"):
                raw.hset(keys.meta, "mark", last)
        else:
            store.forget("r")
    given += [(recorded.offset, recorded.event) for recorded in stores[0].read("r")]
    for lane in (None, *LANES):
        snapshot = stores[0].load_snapshot("r", lane_id=lane)
        given.append(snapshot and (snapshot.offset, snapshot.revision, snapshot.state))
    return given


def save_checkpoint(store: RedisCheckpointer[Any, Any], event: Any, number: int) -> Any:
    """One event with one of a few keys, and a snapshot of its lane; what that gives, or the refusal."""
    state = replace(STATE, data={f"{number % 3}": number, "large": f"{number % 2}" * 600})
    try:
        placed = store.append("r", [event], keys=[f"key {number}"], snapshot=state, lane_id=event.lane_id)
    except RunstreamError as error:
        return type(error)
    return placed[:2]


def what_lies_there(raw: Any, namespace: str) -> dict[str, Any]:
    """All keys of a namespace, without its name, times, chains, producers' names and tokens.

    What the last append notes of itself in meta stands for what its producer is remembered by.
    """
    found: dict[str, Any] = {}
    (meta,) = raw.keys(f"{{{namespace}*:run:r:meta") or [b""]
    updated = raw.hget(meta, "updated")
    for key in sorted(raw.keys(f"{{{namespace}*")):
        kind = raw.type(key)
        if kind == b"stream":
            value = [(plain(entry_id), fields) for entry_id, fields in raw.xrange(key)]
        elif kind == b"zset":
            value = [
                # right to the second; a session's is not touched by events that name none
                (member, not key.endswith(b":runs") or int(score) // 10**6 == int(updated) // 10**6)
                for member, score in raw.zrange(key, 0, -1, withscores=True)
            ]
        else:
            held = kept_replies(raw, meta, key) if key.endswith(b":producers") else raw.hgetall(key)
            held.pop(b"by", None)
            is_nameless = key.endswith((b":producers", b":deleted"))
            value = sorted((b"" if is_nameless else name, plain(text)) for name, text in held.items())
        found[key.decode().replace(namespace, "")] = value
    return found


def plain(text: bytes) -> bytes:
    """An offset without its chain; neither times nor tokens."""
    text = re.sub(rb"\b(\d+)-\d+\b", rb"\1-", text)
    return re.sub(rb"[A-Za-z0-9_-]{16,}", b"TOKEN", without_time(text))


@pytest.mark.exhaustive
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=steps)
@example(script=[SAVED[0], PROGRESS, SAVED[1], ("settled", 0, None, None), SAVED[2], PROGRESS])
@example(script=[SAVED[0], SAVED[1], SAVED[0], ("snapshot", 0, "main", None), SAVED[2]])
@example(script=[SAVED[0], SAVED[1], ("snapshot", 1, "main", None), ("save", 0, "a", KINDS[0]), SAVED[2]])
@example(script=[SAVED[0], SAVED[1], ("save", 1, "main", KINDS[0]), ("save", 0, "a", KINDS[0]), SAVED[2]])
def test_it_leaves_what_the_general_append_leaves(redis_backend: RedisBackend, script: list[Any]) -> None:
    """Two writers, lanes, sessions, statuses, snapshots; a limit, never reached, asks for the general one."""
    raw = redis_backend.raw
    namespaces = [f"{redis_backend.namespace}-{name}" for name in ("quick", "general")]
    try:
        quick = do(raw, open_two(redis_backend, namespaces[0]), script)
        general = do(raw, open_two(redis_backend, namespaces[1], max_hot_events=10**6), script)
        assert quick == general
        assert what_lies_there(raw, namespaces[0]) == what_lies_there(raw, namespaces[1])
    finally:
        raw.delete(*(key for namespace in namespaces for key in raw.keys(f"{{{namespace}*")))


def test_a_checkpoint_right_after_what_its_writer_saw_goes_the_fast_way_too(redis_backend: RedisBackend) -> None:
    """And one that is sent again gets its first reply, whatever has come since."""
    store, other = open_two(redis_backend, redis_backend.namespace)
    session, raw = session_of(store), redis_backend.raw
    keys = session.keys.run("r")
    for number in range(3):
        save_checkpoint(store, make_event("r", number), number)
        store.save_event(make_event("r", number))
    options = AppendOptions(keys=["k"], snapshot=STATE, lane_id="main")
    exchange = next(append.append(session, "r", [make_event("r", 7)], options))
    assert isinstance(exchange, Exchange)
    (call,) = exchange.commands
    replies = [raw.execute_command(*call)]
    producer, batch = call[3 + call[2] + 2 : 3 + call[2] + 4]
    assert raw.hget(keys.meta, "by") == producer.encode()
    assert replies[0].startswith(b"%d 6-" % batch)
    replies.append(raw.execute_command(*call))
    other.save_event(make_event("r", 8))
    replies.append(raw.execute_command(*call))
    assert len(set(map(without_time, replies))) == 1
    assert [recorded.offset for recorded in other.read("r")] == list(range(1, 9))


def test_a_checkpoint_is_asked_for_as_the_general_append_asks(redis_backend: RedisBackend) -> None:
    state = replace(STATE, data={"large": "x" * 600}, session_id="t")
    for seq, session_id in ((-1, "s"), (7, ""), (10**15, "")):
        store, _ = open_two(redis_backend, redis_backend.namespace)
        session, event = session_of(store), make_event("r", seq, session_id=session_id)
        store.load_snapshot("r", lane_id="main")
        save_checkpoint(store, event, seq)
        options = AppendOptions(keys=["k"], snapshot=state, lane_id="main")
        exchange: Any = next(append.append(session, "r", [event], options))
        (call,) = exchange.commands
        (encoded,) = session.codec.encode_events("r", [event], ["k"])
        base = append._own_base(session, "r", "main", compare=True)
        batch = append.with_snapshot(session, batch_of("r", [encoded], is_keyed=True), state, "main", base)
        args = call[3 + call[2] :]
        batch.snapshots[0].token = args[12]
        sending = Sending(args[2], args[3], int(args[5].split()[0]), session.seen.get("r"))
        assert append_call(session.keys, batch, sending) == call


def test_a_checkpoint_is_noted_in_the_index_of_lanes_or_that_goes(redis_backend: RedisBackend) -> None:
    store, _ = open_two(redis_backend, redis_backend.namespace)
    raw, keys = redis_backend.raw, session_of(store).keys.run("r")
    for number in range(2):
        save_checkpoint(store, make_event("r", number), number)
    raw.hset(keys.meta, "indexed", "1-1")
    save_checkpoint(store, make_event("r", 2), 2)
    assert raw.zrange(keys.lanes, 0, -1, withscores=True) == [(b"snapshot:main", 0.0), (b"since:main", math.inf)]
    raw.delete(keys.lanes)
    raw.set(keys.lanes, "of another program")
    save_checkpoint(store, make_event("r", 3), 3)
    assert not raw.hexists(keys.meta, "indexed")
    raw.delete(keys.lanes)


def without_time(reply: bytes) -> bytes:
    return re.sub(rb"\b1[6-9]\d{14}\b", b"TIME", reply)


@on_every_server
def test_what_is_in_the_way_is_seen_by_a_writer_that_goes_on(redis_backend: RedisBackend) -> None:
    """Right after an append of its own, so that nothing else is out of the ordinary."""
    one, other = open_two(redis_backend, redis_backend.namespace)
    for lane_id in ("main", None):
        one.save_event(make_event("r", 1))
        with other.lease("r", owner="o", lane_id=lane_id), pytest.raises(LeaseHeld):
            one.save_event(make_event("r", 2))
        one.save_event(make_event("r", 3))
    with other.lease("r", owner="o", lane_id="elsewhere"):
        one.save_event(make_event("r", 4))
    assert [recorded.offset for recorded in one.read("r")] == [1, 2, 3, 4, 5]


def test_a_loss_is_seen_by_a_writer_that_goes_on(redis_backend: RedisBackend) -> None:
    """Meta is put back to what it was, as a failover does it."""
    one, _ = open_two(redis_backend, redis_backend.namespace)
    raw, keys = redis_backend.raw, session_of(one).keys.run("r")
    one.save_event(make_event("r", 1))
    before = raw.hgetall(keys.meta)
    one.save_event(make_event("r", 2))
    raw.hset(keys.meta, mapping=before)
    raw.xdel(keys.events, raw.xrevrange(keys.events, count=1)[0][0])
    with pytest.raises(AcknowledgedWritesLost) as lost:
        one.save_event(make_event("r", 3))
    assert (lost.value.last_seen, lost.value.last_present) == (2, 1)


def test_the_lists_of_runs_are_right_to_the_second(redis_backend: RedisBackend) -> None:
    """What was updated in another second is listed anew; within one, each run itself tells when it was."""
    store, _ = open_two(redis_backend, redis_backend.namespace)
    raw = redis_backend.raw
    run_ids = ["a", "b", "c", "d"]
    for run_id in run_ids:
        store.save_event(make_event(run_id, 1, session_id="s"))
    keys = session_of(store).keys.run("a")
    lists = keys.partition.runs, keys.partition.session("s")
    for name in lists:
        raw.zadd(name, {"a": 1})
    now = int(raw.hget(keys.meta, "updated"))
    raw.hset(keys.meta, "updated", now - 10**6)
    store.save_event(make_event("a", 2, session_id="s"))
    assert all(raw.zscore(name, "a") >= now for name in lists)
    assert store.list_runs() == ["a", "d", "c", "b"]
    for run_id in ("c", "b", "a", "d"):
        store.save_event(make_event(run_id, 3, session_id="s"))
        assert store.list_runs()[0] == run_id
        assert [info.run_id for info in store.runs(session_id="s", limit=1)] == [run_id]
        assert [info.run_id for info in store.runs(updated_after=time.time() - 60, limit=1)] == [run_id]
    last = store.run_info("d")
    assert last is not None
    assert [info.run_id for info in store.runs(updated_after=last.updated_at - 1e-5)] == ["d"]


def test_silent_producers_are_forgotten_here_too(
    redis_backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each store is new to the run and has read it, so that it goes right on from the end."""
    monkeypatch.setattr(calls, "PRODUCER_WINDOW_SECONDS", 0)
    for _ in range(40):
        store, _ = open_two(redis_backend, redis_backend.namespace)
        assert all(recorded.offset for recorded in store.read("r"))
        store.save_event(make_event("r", 1))
    assert redis_backend.raw.hlen(session_of(store).keys.run("r").producers) <= 17
    assert len(list(store.read("r"))) == 40


def test_each_says_how_old_it_is(redis_backend: RedisBackend) -> None:
    """By the server's time, as the last reply told it: what has no age is sent again however late."""
    store, _ = open_two(redis_backend, redis_backend.namespace)
    store.save_event(make_event("r", 1))
    told = session_of(store).server_clock.now()
    assert told is not None
    exchange = next(append.save_event(session_of(store), make_event("r", 2)))
    assert isinstance(exchange, Exchange)
    (call,) = exchange.commands
    _, _, count, *rest = call
    sent_at, *_ = rest[count:][5].split()  # among the words: see append.lua
    assert told <= int(sent_at) < told + 60_000_000


@pytest.mark.parametrize("seq", [True, Numbers.SEVEN])
def test_a_seq_of_another_kind_of_int_is_an_int(redis_backend: RedisBackend, seq: int) -> None:
    store, _ = open_two(redis_backend, redis_backend.namespace)
    store.save_event(make_event("r", 1))
    store.save_event(make_event("r", seq))
    store.append("r", [make_event("r", seq), make_event("r", seq)])
    assert [recorded.event.seq for recorded in store.read("r")] == [1, seq, seq, seq]
    assert redis_backend.raw.hget(session_of(store).keys.run("r").meta, "lane:main") == b"4 +%d" % seq


def test_what_is_refused_is_sent_once(redis_backend: RedisBackend) -> None:
    """And where the partition's list of runs is damaged, the event is written all the same, once."""
    store, _ = open_two(redis_backend, redis_backend.namespace, retry_seconds=0)
    store.save_event(make_event("r", 1))
    operation = append.save_event(session_of(store), make_event("r", 2))
    next(operation)
    with pytest.raises(LeaseHeld):
        operation.send([[b"held", b"lease", b"o", b"1000"]])
    raw, keys = redis_backend.raw, session_of(store).keys.run("r")
    raw.delete(keys.partition.runs)
    raw.set(keys.partition.runs, "of another program")
    raw.hincrby(keys.meta, "updated", -(10**6))  # so that it is listed anew
    store.save_event(make_event("r", 3))
    raw.delete(keys.partition.runs)
    assert raw.xlen(keys.events) == 2


def test_what_was_on_its_way_for_too_long_is_not_as_good_as_new(
    redis_backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may have applied it and forgotten its producer since: it gets no other time put on it."""
    monkeypatch.setattr(in_flight, "PRODUCER_WINDOW_SECONDS", 0.2)
    store, _ = open_two(redis_backend, redis_backend.namespace)
    operation = append.save_event(session_of(store), make_event("r", 1))
    next(operation)
    late = time.monotonic() + 0.2
    eventually(lambda: time.monotonic() > late)
    with pytest.raises(StoreUnavailable, match="can no longer be told"):
        operation.send([[b"stale", b"1"]])
