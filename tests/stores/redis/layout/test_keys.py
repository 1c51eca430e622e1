"""What lies in Redis, key by key, is what the design says, and no more is written than what changed."""

from __future__ import annotations

import itertools
import zlib
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream.codec.chain import next_chain
from runstream.codec.msgpack_values import Packer, unpack
from runstream.codec.record import FIELDS, encode_record, record_crc, seed
from runstream.model.errors import ConfigurationError
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.keys import Keys, TrialNamespace
from tests.stores.redis.layout.raw_keys import encoded, key_of, tag_of
from tests.support.backends import RedisBackend, Store, kept_replies
from tests.support.kinds import on_every_server
from tests.support.operations import session_of
from tests.support.samples import make_event, make_events, make_state, same

_numbers = itertools.count()


# -- keys ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("namespace", ["x:doctor-a", "x:0", "x}", ""])
def test_no_namespace_stands_within_another_one(namespace: str) -> None:
    """Whoever may use the keys of ``x`` may use the doctor's trials beside it, and those of no other namespace."""
    for make in (lambda: Keys(namespace, 1), lambda: TrialNamespace(namespace, "a")):
        with pytest.raises(ConfigurationError, match="use 1 to 64"):
            make()
    assert Keys(TrialNamespace("x", "a"), 1).partitions[0].tag == "{x:doctor-a:0}"


def test_a_namespace_knows_its_partitions_in_every_one_of_them(
    redis_backend: RedisBackend, store: Store, raw: Any
) -> None:
    name = redis_backend.namespace
    expected = [f"{{{name}}}:config", *(f"{{{name}:{partition}}}:config" for partition in range(16))]
    assert redis_backend.key_names() == sorted(expected)
    of_namespace, *of_partitions = [raw.hgetall(key) for key in expected]
    assert of_namespace == {b"partitions": b"16"}
    assert of_partitions == [{b"partitions": b"16", b"tagged": b"1"}] * 16


@on_every_server
def test_a_run_has_the_keys_that_the_design_lists(redis_backend: RedisBackend, store: Store, raw: Any) -> None:
    """All of them in the run's partition; '%' and ':' of the run id are encoded, those of a lane are not."""
    run_id, before = "ru:n 100%", redis_backend.key_names()
    store.append(run_id, make_events(run_id, 2, session_id="s:1"), snapshot=make_state(run_id))
    store.append(run_id, [], snapshot=make_state(run_id), lane_id="la:ne")
    tag = tag_of(redis_backend, run_id)
    run = f"{tag}:run:ru%3An 100%25"
    created = {key: raw.type(key) for key in redis_backend.key_names() if key not in before}
    assert created == {
        f"{run}:events": b"stream",
        f"{run}:meta": b"hash",
        f"{run}:producers": b"hash",
        f"{run}:snapshot": b"hash",
        f"{run}:snapshot:la:ne": b"hash",
        f"{tag}:runs": b"zset",
        f"{tag}:session:s:1": b"zset",
        f"{tag}:due": b"zset",
    }


def test_a_run_without_session_or_snapshot_has_no_keys_for_them(redis_backend: RedisBackend, store: Store) -> None:
    before = redis_backend.key_names()
    store.save_event(make_event("r"))
    created = {key.rpartition(":")[2] for key in redis_backend.key_names() if key not in before}
    assert created == {"events", "meta", "producers", "runs", "due"}


def test_deleting_the_last_run_leaves_only_the_configuration(redis_backend: RedisBackend, store: Store) -> None:
    """Every key of a run is gone, and so are sorted sets that had nothing else in them."""
    before = redis_backend.footprint()
    store.append("r", make_events("r", 2, session_id="s"), snapshot=make_state("r", session_id="s"))
    store.append("r", make_events("r", 1), snapshot=make_state("r"), lane_id="main")
    assert store.delete_run("r")
    assert redis_backend.footprint() == before
    assert all(key.endswith((":config", ":deleted")) for key in redis_backend.key_names())


def test_a_namespace_may_have_as_many_partitions_as_it_is_given(redis_backend: RedisBackend) -> None:
    store = redis_backend.open(partitions=3)
    name = redis_backend.namespace
    store.save_event(make_event("r"))
    tag = f"{{{name}:{zlib.crc32(b'r') % 3}}}"
    assert f"{tag}:run:r:events" in redis_backend.key_names()
    assert redis_backend.open().list_events("r") != []


def test_nothing_lies_outside_of_the_hash_tag_of_a_partition(redis_backend: RedisBackend, store: Store) -> None:
    """A run id with braces of its own does not change the slot: the first pair in a key is the tag."""
    for run_id in ("{x}", "}{", "a{b"):
        store.append(run_id, [make_event(run_id, session_id=run_id)], snapshot=make_state(run_id))
        for key in redis_backend.key_names():
            assert key[: key.index("}") + 1].strip("{}").startswith(redis_backend.namespace)


# -- entries ---------------------------------------------------------------------------------------------

_payloads = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=20) | st.binary(), max_size=3)


@settings(max_examples=20)
@given(
    batches=st.lists(st.lists(_payloads, min_size=1, max_size=5), min_size=1, max_size=4),
    suffix=st.text(max_size=3),
)
def test_entries_are_numbered_and_chained_as_the_design_says(
    redis_backend: RedisBackend, store: RedisCheckpointer[Any, Any], batches: list[list[Any]], suffix: str
) -> None:
    """Ids are OFFSET-CHAIN, recomputed here; each entry has one field, with a record whose checksum holds."""
    run_id = f"r{next(_numbers)} {suffix}"
    for batch in batches:
        store.save_events([make_event(run_id, payload=payload) for payload in batch])
    keys = session_of(store).keys.run(run_id)
    start = redis_backend.raw.hget(keys.meta, "start").decode()
    offset, _, chain_text = start.partition("-")
    assert (offset, 0 <= int(chain_text) < 2**43 - 57) == ("0", True)
    chain = int(chain_text)
    entries = redis_backend.raw.execute_command("XRANGE", keys.events, "-", "+")
    payloads = [payload for batch in batches for payload in batch]
    assert len(entries) == len(payloads)
    for number, ((entry_id, fields), payload) in enumerate(zip(entries, payloads, strict=True), 1):
        ((name, record),) = fields.items() if isinstance(fields, dict) else [fields]
        assert name == b"e"
        assert record[0] == 1
        assert zlib.crc32(record[5:], zlib.crc32(b"\x01", zlib.crc32(run_id.encode()))) == record_crc(record)
        values = dict(zip(FIELDS, unpack(record[5:]), strict=True))
        assert same(values["payload"], payload)
        chain = next_chain(chain, record_crc(record))
        assert entry_id == f"{number}-{chain}".encode()
    assert redis_backend.raw.hget(keys.meta, "last") == entries[-1][0]


def test_a_record_does_not_repeat_the_run_id(redis_backend: RedisBackend, store: Store, raw: Any) -> None:
    run_id = "a run id that is easily found"
    store.save_event(make_event(run_id))
    ((_, fields),) = raw.xrange(key_of(redis_backend, run_id, "events"))
    assert run_id.encode() not in fields[b"e"]
    assert b"payload" not in fields[b"e"], "fields go by their position, not by name"


# -- what is known of a run ------------------------------------------------------------------------------


def test_meta_and_the_sorted_sets_tell_how_a_run_stands(
    redis_backend: RedisBackend, store: Store, raw: Any
) -> None:
    tag = tag_of(redis_backend, "r")
    store.save_event(make_event("r", 1, session_id="s"))
    first = raw.hgetall(key_of(redis_backend, "r", "meta"))
    due = raw.zscore(f"{tag}:due", "r")
    appended = store.append(
        "r",
        [make_event("r", 2, lane_id="a"), make_event("r", 3, lane_id="b"), make_event("r", 4, lane_id="a")],
        snapshot=make_state("r", status="completed"),
    )
    meta = raw.hgetall(key_of(redis_backend, "r", "meta"))
    token = raw.hget(key_of(redis_backend, "r", "snapshot"), "token")
    assert set(meta) == {
        *(b"start", b"last", b"status", b"session", b"created", b"updated", b"largest", b"heard"),
        *(b"lane:main", b"lane:a", b"lane:b", b"since:main", b"since:a", b"since:b", b"snapshot"),
    }
    assert (meta[b"start"], meta[b"created"]) == (first[b"start"], first[b"created"])
    assert meta[b"last"] == appended.cursor.encode()
    assert (meta[b"status"], meta[b"session"]) == (b"completed", b"s")
    assert (meta[b"lane:main"], meta[b"lane:a"], meta[b"lane:b"]) == (b"1 +1", b"4 +4", b"3 +3")
    assert meta[b"snapshot"] == b"4 1 " + token
    assert int(meta[b"created"]) < int(meta[b"updated"])
    assert raw.zscore(f"{tag}:runs", "r") == int(meta[b"updated"])
    assert raw.zscore(f"{tag}:session:s", "r") == int(first[b"updated"]), "the second batch named no session"
    assert raw.zscore(f"{tag}:due", "r") == due == int(first[b"created"]), "it has been due since the first"


def test_a_batch_leaves_its_reply_with_its_producer(redis_backend: RedisBackend, store: Store, raw: Any) -> None:
    first = store.append("r", make_events("r", 2))
    keys = [key_of(redis_backend, "r", name) for name in ("meta", "producers")]
    ((producer, reply),) = kept_replies(raw, *keys).items()
    assert reply.split()[0] == b"1"
    assert reply.split()[2] == first.cursor.encode()
    second = store.append("r", make_events("r", 1))
    ((again, reply),) = kept_replies(raw, *keys).items()
    assert again == producer, "one call after the other is one producer"
    assert reply.split()[:3] == [b"2", first.cursor.encode(), second.cursor.encode()]


# -- snapshots -------------------------------------------------------------------------------------------

HEADER = {b"offset", b"revision", b"token", b"checksum", b"saved"}


def test_a_snapshot_is_one_field_per_key_each_valid_msgpack(redis_backend: RedisBackend, raw: Any) -> None:
    store = redis_backend.open(state_type=dict)
    state = {
        "run_id": "r",
        "data": {"a": 1, "bé": [2], "": {"deep": 3}},
        "none": None,
        "empty": {},
        "mixed": {1: 2},
    }
    store.append("r", make_events("r", 3), snapshot=state)
    saved = raw.hgetall(key_of(redis_backend, "r", "snapshot"))
    assert set(saved) >= HEADER
    assert (saved[b"offset"], saved[b"revision"]) == (b"3", b"1")
    fields = {
        name: msgpack.unpackb(value, strict_map_key=False) for name, value in saved.items() if name not in HEADER
    }
    assert {name: value[1:] for name, value in fields.items()} == {
        b"=run_id": ["r"],
        b"=data": [],  # it is split: its parts follow
        b"4:data:a": [1],
        "4:data:bé".encode(): [[2]],
        b"4:data:": [{"deep": 3}],
        b"=none": [None],
        b"=empty": [{}],
        b"=mixed": [{1: 2}],
    }
    order = sorted((value[0], name) for name, value in fields.items() if name.startswith(b"="))
    assert [name for _, name in order] == [b"=run_id", b"=data", b"=none", b"=empty", b"=mixed"]


@on_every_server
def test_only_what_changed_is_written(redis_backend: RedisBackend, raw: Any) -> None:
    """A second save of the same writer changes the fields that differ and no other."""
    store = redis_backend.open(state_type=dict)
    key = key_of(redis_backend, "r", "snapshot")
    state = {"run_id": "r", "step": 1, "data": {f"k{n}": "x" * 100 for n in range(50)}, "gone": 1}
    store.save_snapshot("r", state)
    before = raw.hgetall(key)
    raw.hset(key, "=probe", "left alone by a difference, removed by a whole")
    changed = {**state, "step": 2, "data": {**state["data"], "k7": "y", "k50": "new"}}  # type: ignore[dict-item] # it is one
    del changed["gone"]
    store.save_snapshot("r", changed)
    after = raw.hgetall(key)
    assert after.pop(b"=probe")
    assert {name for name in before if before[name] != after.get(name)} - HEADER == {
        b"=step",
        b"4:data:k7",
        b"=gone",
    }
    assert after.keys() - before.keys() == {b"4:data:k50"}
    assert before.keys() - after.keys() == {b"=gone"}
    raw.hdel(key, "=probe")
    assert store.load_latest("r") == changed


def test_a_snapshot_that_another_has_replaced_is_written_whole(redis_backend: RedisBackend, raw: Any) -> None:
    store, other = redis_backend.open(state_type=dict), redis_backend.open(state_type=dict)
    store.save_snapshot("r", {"a": 1, "b": 1})
    other.save_snapshot("r", {"c": 1})
    store.save_snapshot("r", {"a": 1, "b": 2})
    assert raw.hgetall(key_of(redis_backend, "r", "snapshot")).keys() == {b"=a", b"=b", *HEADER}
    assert other.load_latest("r") == {"a": 1, "b": 2}


def test_the_record_of_a_packer_is_the_record_of_the_store() -> None:
    record = encode_record(
        Packer(), seed("r"), ["", "main", "span", None, 1, 1.5, "agent.progress", "public", {"n": 1}]
    )
    assert record == encoded("r", 1)
