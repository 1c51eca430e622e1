"""What lies in Redis, key by key, and what the store makes of damage, trimming and lost replies."""

from __future__ import annotations

import itertools
import selectors
import socket
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import msgpack
import pytest
import redis
import redis.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream.codec.chain import next_chain
from runstream.codec.event_codec import Codec
from runstream.codec.msgpack_values import Packer, unpack
from runstream.codec.record import ERASED, FIELDS, encode_record, record_crc, seed
from runstream.model.errors import (
    AcknowledgedWritesLost,
    ConfigurationError,
    CorruptRecordError,
    EventsArchived,
    HistoryDiverged,
    UnsupportedVersion,
)
from runstream.model.events import EventKind
from runstream.model.results import Appended
from runstream.stores.redis.async_checkpointer import AsyncRedisCheckpointer
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.exchange import Exchange, Operation
from runstream.stores.redis.operations.client import append
from tests.support.backends import RedisBackend, Store, kept_replies, latest
from tests.support.samples import make_event, make_events, make_state, same
from tests.support.servers import Server

_numbers = itertools.count()


@pytest.fixture
def store(redis_backend: RedisBackend) -> RedisCheckpointer[Any, Any]:
    """A sync store on every kind of server."""
    return cast("RedisCheckpointer[Any, Any]", redis_backend.open())


@pytest.fixture
def raw(redis_backend: RedisBackend) -> Any:
    """A client that looks at what the store wrote. Replies are bytes."""
    return redis_backend.raw


def tag_of(backend: RedisBackend, run_id: str) -> str:
    return f"{{{backend.namespace}:{zlib.crc32(run_id.encode()) % 16}}}"


def key_of(backend: RedisBackend, run_id: str, what: str) -> str:
    return f"{tag_of(backend, run_id)}:run:{run_id}:{what}"


def offsets(recorded: Iterator[Any]) -> list[int]:
    return [item.offset for item in recorded]


# -- keys ------------------------------------------------------------------------------------------------


def test_a_namespace_knows_its_partitions_in_every_one_of_them(
    redis_backend: RedisBackend, store: Store, raw: Any
) -> None:
    name = redis_backend.namespace
    expected = [f"{{{name}}}:config", *(f"{{{name}:{partition}}}:config" for partition in range(16))]
    assert redis_backend.key_names() == sorted(expected)
    assert all(raw.hgetall(key) == {b"partitions": b"16"} for key in expected)


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
    keys = store.context.keys.run(run_id)
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
        *(b"start", b"last", b"status", b"session", b"created", b"updated"),
        *(b"lane:main", b"lane:a", b"lane:b", b"since:main", b"since:a", b"since:b", b"snapshot"),
    }
    assert (meta[b"start"], meta[b"created"]) == (first[b"start"], first[b"created"])
    assert meta[b"last"] == appended.cursor.encode()
    assert (meta[b"status"], meta[b"session"]) == (b"completed", b"s")
    assert (meta[b"lane:main"], meta[b"lane:a"], meta[b"lane:b"]) == (b"1 1", b"4 4", b"3 3")
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


# -- sent twice ------------------------------------------------------------------------------------------


def send_twice(store: RedisCheckpointer[Any, Any], operation: Operation[Any], between: Callable[[], Any]) -> Any:
    """Run an operation, send its first exchange once more, and give its result from the second replies."""
    exchange: Exchange = next(operation)
    first = store._driver.exchange(exchange)
    between()
    second = store._driver.exchange(exchange)
    assert second == first
    with pytest.raises(StopIteration) as stopped:
        operation.send(second)
    return stopped.value.value


def nothing() -> None:
    pass


@pytest.mark.parametrize("how", ["at once", "after others", "trimmed"])
def test_an_append_that_is_sent_twice_is_applied_once(
    redis_backend: RedisBackend, store: RedisCheckpointer[Any, Any], raw: Any, how: str
) -> None:
    """The resend gets the first reply: also after others have appended, or its entries have been trimmed."""
    other = redis_backend.open()
    other.save_event(make_event("r", 1))
    between: Callable[[], Any] = {
        "at once": nothing,
        "after others": lambda: other.save_events(make_events("r", 2, first=4)),
        "trimmed": lambda: raw.xtrim(key_of(redis_backend, "r", "events"), maxlen=0, approximate=False),
    }[how]
    operation = append.append(store.context, "r", make_events("r", 2, first=2), expected_offset=1)
    appended = send_twice(store, operation, between).appended
    assert appended[:2] == (2, 3)
    info = store.run_info("r")
    assert info is not None
    assert info.last_offset == (5 if how == "after others" else 3)
    if how != "trimmed":
        assert [event.seq for event in store.list_events("r")] == list(range(1, info.last_offset + 1))
        assert Appended(2, 3, list(store.read("r"))[2].cursor) == appended


def test_a_snapshot_that_is_sent_twice_is_saved_once(
    redis_backend: RedisBackend, store: RedisCheckpointer[Any, Any]
) -> None:
    store.save_snapshot("r", make_state("r", data={"a": 1}))
    operation = append.append(
        store.context, "r", make_events("r", 2), snapshot=make_state("r", data={"a": 2, "b": 3})
    )
    assert send_twice(store, operation, nothing).appended[:2] == (1, 2)
    snapshot = store.load_snapshot("r")
    assert snapshot is not None
    assert (snapshot.revision, snapshot.offset, snapshot.state.data) == (2, 2, {"a": 2, "b": 3})
    store.save_snapshot("r", make_state("r", data={"b": 3}))
    assert latest(store, "r").data == {"b": 3}


def test_batches_of_several_runs_that_are_sent_twice_are_applied_once(store: RedisCheckpointer[Any, Any]) -> None:
    events = [event for run_id in "abc" for event in make_events(run_id, 2)]
    send_twice(store, append.save_events(store.context, events), nothing)
    assert [len(store.list_events(run_id)) for run_id in "abc"] == [2, 2, 2]


def test_a_call_that_was_broken_off_does_not_lend_its_number_to_another(
    store: RedisCheckpointer[Any, Any],
) -> None:
    """What was sent last may have been applied or not; the next append is another batch all the same."""
    operation = append.append(store.context, "r", [make_event("r", 1)])
    store._driver.exchange(next(operation))
    operation.close()
    assert store.append("r", [make_event("r", 2)])[:2] == (2, 2)
    assert [event.seq for event in store.list_events("r")] == [1, 2]


def test_a_script_that_the_server_does_not_know_is_sent_to_it(
    store: RedisCheckpointer[Any, Any], raw: Any
) -> None:
    store.save_event(make_event("r", 1))
    raw.script_flush()
    store.save_events([make_event("r", 2), make_event("q", 1)])
    raw.script_flush()
    store.append("r", [make_event("r", 3)], snapshot=make_state("r"))
    assert [event.seq for event in store.list_events("r")] == [1, 2, 3]


class LossyProxy:
    """Stands between a client and a server; when told to, swallows the next reply and hangs up."""

    def __init__(self, server: Server, path: Path) -> None:
        self._server = server
        self.path = str(path)
        self.swallow = threading.Event()
        self.swallowed = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as upstream, selectors.DefaultSelector() as selector:
            upstream.connect(self._server.socket_path)
            selector.register(client, selectors.EVENT_READ, upstream)
            selector.register(upstream, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    source = cast("socket.socket", key.fileobj)
                    try:
                        data = source.recv(65536)
                        if not data:
                            return
                        if source is upstream and self.swallow.is_set():
                            self.swallow.clear()
                            self.swallowed += 1
                            return
                        key.data.sendall(data)
                    except ConnectionError:
                        return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


@contextmanager
def lossy_proxy(server: Server, tmp_path: Path) -> Iterator[LossyProxy]:
    with closing(LossyProxy(server, tmp_path / "s")) as proxy:
        yield proxy


WRITES: dict[str, Callable[[Any], Any]] = {
    "save_event": lambda store: store.save_event(make_event("r", 2)),
    "save_events": lambda store: store.save_events([make_event("r", 2), make_event("other", 1)]),
    "append": lambda store: store.append("r", [make_event("r", 2)], expected_offset=1, snapshot=make_state("r")),
}


@pytest.mark.parametrize("how", WRITES)
def test_an_append_whose_reply_is_lost_is_applied_once(
    server: Server, namespace: str, tmp_path: Path, how: str
) -> None:
    """redis-py sends a command again, of its own accord, when a connection ends before the reply."""
    with (
        lossy_proxy(server, tmp_path) as proxy,
        redis.Redis(unix_socket_path=proxy.path) as client,
        clean(server, namespace),
    ):
        store = RedisCheckpointer[Any, Any](client, namespace=namespace)
        store.save_event(make_event("r", 1))
        proxy.swallow.set()
        WRITES[how](store)
        assert proxy.swallowed == 1
        assert [event.seq for event in store.list_events("r")] == [1, 2]
        if how == "append":
            snapshot = store.load_snapshot("r")
            assert snapshot is not None
            assert (snapshot.revision, snapshot.offset) == (1, 2)
        if how == "save_events":
            assert len(store.list_events("other")) == 1


@pytest.mark.parametrize("how", WRITES)
async def test_an_append_whose_reply_is_lost_is_applied_once_by_the_async_store(
    server: Server, namespace: str, tmp_path: Path, how: str
) -> None:
    with lossy_proxy(server, tmp_path) as proxy, clean(server, namespace):
        async with (
            redis.asyncio.Redis(unix_socket_path=proxy.path) as client,
            AsyncRedisCheckpointer[Any, Any](client, namespace=namespace) as store,
        ):
            await store.save_event(make_event("r", 1))
            proxy.swallow.set()
            await WRITES[how](store)
            assert proxy.swallowed == 1
            assert [event.seq for event in await store.list_events("r")] == [1, 2]


@contextmanager
def clean(server: Server, namespace: str) -> Iterator[None]:
    """Remove the keys of a namespace in the end."""
    yield
    for pattern in (f"{{{namespace}:*", f"{{{namespace}}}*"):
        if keys := list(server.raw.scan_iter(pattern, count=1000)):
            server.raw.delete(*keys)


# -- damage ----------------------------------------------------------------------------------------------


def encoded(run_id: str, number: int) -> bytes:
    (event,) = Codec[Any, Any]().encode_events(run_id, [make_event(run_id, number, ts=1.5, span_id="span")])
    return event.record


def write_raw(
    store: RedisCheckpointer[Any, Any], raw: Any, run_id: str, records: Sequence[bytes], *, start: str = "0-77"
) -> list[str]:
    """Write a run with these records as a server holds it, past the store; gives the cursors."""
    keys = store.context.keys.run(run_id)
    offset, _, text = start.partition("-")
    number, chain = int(offset), int(text)
    cursors = []
    for record in records:
        number, chain = number + 1, next_chain(chain, int.from_bytes(record[1:5].ljust(4, b"\0"), "big"))
        cursors.append(f"{number}-{chain}")
        raw.xadd(keys.events, {"e": record}, id=cursors[-1])
    raw.hset(
        keys.meta,
        mapping={
            "start": start,
            "last": cursors[-1] if cursors else start,
            "status": "running",
            "created": 1_000_000,
            "updated": 1_000_000,
            "lane:main": f"{number} {number}",
        },
    )
    return cursors


def test_every_damaged_byte_is_reported_and_its_neighbours_are_not(
    store: RedisCheckpointer[Any, Any], raw: Any
) -> None:
    """Each record is damaged in another byte, or cut off at another, with an intact one after it."""
    whole = encoded("r", 0)
    damaged = [whole[:at] + bytes([byte ^ (1 << at % 8)]) + whole[at + 1 :] for at, byte in enumerate(whole)]
    damaged += [whole[:size] for size in range(len(whole))]
    records = [record for number, bad in enumerate(damaged, 1) for record in (bad, encoded("r", number))]
    write_raw(store, raw, "r", records)
    for number, bad in enumerate(damaged):
        with pytest.raises(CorruptRecordError) as caught:
            list(store.read("r", 2 * number, limit=1))
        assert (caught.value.run_id, caught.value.offset, caught.value.raw) == ("r", 2 * number + 1, bad)
    intact = list(range(1, len(damaged) + 1))
    assert [item.event.seq for item in store.read("r", on_corrupt="skip")] == intact
    assert [item.event.seq for item in store.read("r", on_corrupt="skip", reverse=True)] == intact[::-1]
    assert [item.event.seq for item in store.read("r", on_corrupt="skip", limit=3)] == intact[:3]
    for strict in (lambda: store.list_events("r"), lambda: store.recover("r"), lambda: list(store.follow("r"))):
        with pytest.raises(CorruptRecordError):
            strict()


def test_what_comes_before_a_damaged_record_is_given_first(store: RedisCheckpointer[Any, Any], raw: Any) -> None:
    write_raw(store, raw, "r", [encoded("r", 1), encoded("r", 2), b"\x01damaged", encoded("r", 4)])
    for reading in (store.read("r"), store.follow("r")):
        assert [next(reading).offset, next(reading).offset] == [1, 2]
        with pytest.raises(CorruptRecordError):
            next(reading)


def sealed(run_id: str, body: Any, version: int = 1) -> bytes:
    """A record whose checksum is right, whatever it holds."""
    packed = body if isinstance(body, bytes) else msgpack.packb(body)
    return bytes([version]) + zlib.crc32(packed, seed(run_id, version)).to_bytes(4, "big") + packed


@pytest.mark.parametrize(
    "record",
    [
        encoded("another run", 1),
        sealed("r", {"not": "an event"}),
        sealed("r", [1, 2, 3]),
        sealed("r", b"\xc1 no msgpack"),
        sealed("r", msgpack.packb([0] * 9) + b"and more"),
        sealed("r", [msgpack.ExtType(99, b"of a type that nobody knows")] * 9),
        b"",
    ],
    ids=["of another run", "a map", "too short", "no msgpack", "too long", "unknown type", "empty"],
)
def test_a_record_that_is_no_event_of_this_run_is_reported(
    store: RedisCheckpointer[Any, Any], raw: Any, record: bytes
) -> None:
    write_raw(store, raw, "r", [encoded("r", 1), record, encoded("r", 3)])
    with pytest.raises(CorruptRecordError) as caught:
        store.list_events("r")
    assert (caught.value.run_id, caught.value.offset, caught.value.raw) == ("r", 2, record)
    assert offsets(store.read("r", on_corrupt="skip")) == [1, 3]


def test_an_entry_of_another_program_is_reported(
    redis_backend: RedisBackend, store: RedisCheckpointer[Any, Any], raw: Any
) -> None:
    cursors = write_raw(store, raw, "r", [encoded("r", 1)])
    raw.xadd(key_of(redis_backend, "r", "events"), {"name": "value", "more": "still"}, id="2-5")
    raw.hset(key_of(redis_backend, "r", "meta"), "last", "2-5")
    with pytest.raises(CorruptRecordError) as caught:
        list(store.read("r", cursors[0]))
    assert caught.value.offset == 2
    assert offsets(store.read("r", on_corrupt="skip")) == [1]


def test_a_record_of_a_newer_version_is_never_passed_over(store: RedisCheckpointer[Any, Any], raw: Any) -> None:
    write_raw(
        store, raw, "r", [encoded("r", 1), sealed("r", ["fields", "to", "come"], version=2), encoded("r", 3)]
    )
    for read in (
        lambda: list(store.read("r")),
        lambda: list(store.read("r", on_corrupt="skip")),
        lambda: store.list_events("r"),
        lambda: store.recover("r"),
        lambda: list(store.follow("r")),
    ):
        with pytest.raises(UnsupportedVersion) as caught:
            read()
        assert (caught.value.found, caught.value.supported) == (2, 1)
    assert offsets(store.read("r", 2)) == [3]


def test_an_erased_entry_leaves_no_gap(store: RedisCheckpointer[Any, Any], raw: Any) -> None:
    records = [encoded("r", 1), ERASED, encoded("r", 3), ERASED]
    cursors = write_raw(store, raw, "r", records)
    assert offsets(store.read("r")) == [1, 3]
    assert offsets(store.read("r", reverse=True)) == [3, 1]
    assert offsets(store.read("r", cursors[1])) == [3]
    assert offsets(store.read("r", limit=2)) == [1, 3]
    assert len(store.list_events("r")) == 2
    assert len(store.recover("r").events) == 2
    assert store.append("r", [make_event("r", 5, kind=EventKind.RUN_FINISHED)])[:2] == (5, 5)
    assert offsets(store.follow("r", 1)) == [3, 5]


def test_a_run_may_start_after_a_base(store: RedisCheckpointer[Any, Any], raw: Any) -> None:
    """Nothing writes such runs yet; every reader takes them."""
    cursors = write_raw(store, raw, "r", [encoded("r", n) for n in (1, 2, 3)], start="10-77")
    assert offsets(store.read("r")) == offsets(store.read("r", 3)) == [11, 12, 13]
    assert offsets(store.read("r", reverse=True)) == [13, 12, 11]
    assert offsets(store.read("r", cursors[0])) == [12, 13]
    assert offsets(store.read("r", "10-77")) == [11, 12, 13]
    recovery = store.recover("r")
    assert (recovery.offset, len(recovery.events)) == (10, 3)
    assert store.append("r", [make_event("r", 4, kind=EventKind.RUN_FINISHED)])[:2] == (14, 14)
    assert offsets(store.follow("r")) == [11, 12, 13, 14]
    info = store.run_info("r")
    assert info is not None
    assert (info.last_offset, info.archived_offset, info.first_hot) == (14, 10, 11)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("=data", b"\xc1"),
        ("=purpose", msgpack.packb([3, "changed"])),
        ("4:data:a", msgpack.packb([0, "changed"])),
        ("checksum", b"1"),
        ("offset", b"x"),
        ("=added", msgpack.packb([30, 1])),
        ("9:data", msgpack.packb([0, 1])),
    ],
)
def test_a_damaged_snapshot_is_reported_and_the_events_are_not(
    redis_backend: RedisBackend, store: RedisCheckpointer[Any, Any], raw: Any, field: str, value: bytes
) -> None:
    store.append("r", make_events("r", 2), snapshot=make_state("r", data={"a": 1, "b": 2}))
    raw.hset(key_of(redis_backend, "r", "snapshot"), field, value)
    for load in (store.load_latest, store.load_snapshot, store.recover):
        with pytest.raises(CorruptRecordError) as caught:
            load("r")
        assert caught.value.run_id == "r"
    assert len(store.list_events("r")) == 2
    redis_backend.open().save_snapshot("r", make_state("r", purpose="new"))
    assert latest(store, "r").purpose == "new"


@pytest.mark.parametrize("field", ["=data", "4:data:a", "token", "revision"])
def test_a_snapshot_that_lacks_a_field_is_reported(
    redis_backend: RedisBackend, store: RedisCheckpointer[Any, Any], raw: Any, field: str
) -> None:
    store.save_snapshot("r", make_state("r", data={"a": 1, "b": 2}))
    raw.hdel(key_of(redis_backend, "r", "snapshot"), field)
    with pytest.raises(CorruptRecordError):
        store.load_latest("r")


def test_a_key_that_holds_data_of_another_program_is_reported(
    redis_backend: RedisBackend, store: RedisCheckpointer[Any, Any], raw: Any
) -> None:
    raw.set(key_of(redis_backend, "r", "events"), "a string")
    with pytest.raises(ConfigurationError, match="another program"):
        store.save_event(make_event("r"))


# -- events that have moved, and events that are lost ----------------------------------------------------


def trim(backend: RedisBackend, store: Store, upto: int) -> str:
    """Take the events up to an offset away as a drain does; gives the mark."""
    mark = list(store.read("r"))[upto - 1].cursor
    backend.raw.hset(key_of(backend, "r", "meta"), "mark", mark)
    backend.raw.xtrim(key_of(backend, "r", "events"), minid=f"{upto + 1}", approximate=False)
    return mark


@pytest.mark.parametrize("upto", [1, 4, 6])
def test_what_needs_archived_events_says_where_the_rest_begins(
    redis_backend: RedisBackend, store: RedisCheckpointer[Any, Any], upto: int
) -> None:
    store.save_events(make_events("r", 6))
    mark = trim(redis_backend, store, upto)
    needs_them: list[Callable[[], Any]] = [
        lambda: list(store.read("r")),
        lambda: list(store.read("r", upto - 1)),
        lambda: next(store.read("r", limit=1)),
        lambda: next(store.read("r", reverse=True)),
        lambda: list(store.read("r", reverse=True, limit=7 - upto)),
        lambda: store.list_events("r"),
        lambda: store.recover("r"),
        lambda: list(store.follow("r", idle_timeout=1)),
    ]
    for need in needs_them:
        with pytest.raises(EventsArchived) as caught:
            need()
        assert (caught.value.run_id, caught.value.first_hot) == ("r", upto + 1)
    info = store.run_info("r")
    assert info is not None
    assert (info.last_offset, info.archived_offset, info.first_hot) == (6, upto, upto + 1)
    hot = list(range(upto + 1, 7))
    assert offsets(store.read("r", upto)) == offsets(store.read("r", mark)) == hot
    assert offsets(store.read("r", upto, reverse=True)) == hot[::-1]
    assert offsets(store.read("r", reverse=True, limit=6 - upto)) == hot[::-1]
    with pytest.raises(HistoryDiverged):
        list(store.read("r", f"{upto}-1"))
    assert store.append("r", [make_event("r", 7, kind=EventKind.RUN_FINISHED)])[:2] == (7, 7)
    assert offsets(store.follow("r", upto)) == [*hot, 7]


def test_a_run_whose_archived_events_are_covered_recovers_from_redis_alone(
    redis_backend: RedisBackend, store: RedisCheckpointer[Any, Any]
) -> None:
    store.append("r", make_events("r", 4), snapshot=make_state("r"))
    store.save_events(make_events("r", 2, first=5))
    trim(redis_backend, store, 4)
    recovery = redis_backend.open().recover("r")
    assert (recovery.offset, [item.offset for item in recovery.events]) == (4, [5, 6])


def test_a_lane_that_needs_no_archived_event_recovers(
    redis_backend: RedisBackend, store: RedisCheckpointer[Any, Any]
) -> None:
    store.append("r", [make_event("r", 1, lane_id="a")], snapshot=make_state("r"), lane_id="a")
    store.save_events(make_events("r", 3, lane_id="b"))
    trim(redis_backend, store, 3)
    recovery = store.recover("r", lane_id="a")
    assert (recovery.offset, recovery.events) == (1, [])
    with pytest.raises(EventsArchived):
        store.recover("r", lane_id="b")


READS: dict[str, Callable[[Any], Any]] = {
    "read": lambda store: list(store.read("r", 2)),
    "reverse": lambda store: list(store.read("r", 2, reverse=True)),
    "reverse with a limit": lambda store: list(store.read("r", reverse=True, limit=4)),
    "follow": lambda store: list(store.follow("r", 2, idle_timeout=1)),
}


@pytest.mark.parametrize("how", READS)
@pytest.mark.parametrize("gone", [4, 6], ids=["in the middle", "at the end"])
def test_an_event_that_is_missing_beyond_the_mark_is_a_loss(
    redis_backend: RedisBackend, store: RedisCheckpointer[Any, Any], gone: int, how: str
) -> None:
    """Nobody may have trimmed what was never archived."""
    store.save_events(make_events("r", 6))
    cursors = [item.cursor for item in store.read("r")]
    trim(redis_backend, store, 2)
    redis_backend.raw.xdel(key_of(redis_backend, "r", "events"), cursors[gone - 1])
    with pytest.raises(AcknowledgedWritesLost) as caught:
        READS[how](store)
    assert (caught.value.run_id, caught.value.last_present, caught.value.last_seen) == ("r", gone - 1, 6)


def roll_back(backend: RedisBackend, run_id: str, cursors: Sequence[str], keep: int) -> None:
    """Put a run back to where it stood after ``keep`` events, as a failover does."""
    raw, events, meta = backend.raw, key_of(backend, run_id, "events"), key_of(backend, run_id, "meta")
    kept = raw.xrange(events)[:keep]
    raw.delete(events)
    for entry_id, fields in kept:
        raw.xadd(events, fields, id=entry_id)
    raw.hset(meta, mapping={"last": cursors[keep - 1], "lane:main": f"{keep} {keep}"})


def test_a_follower_that_has_seen_more_than_is_there_is_told(
    redis_backend: RedisBackend, store: RedisCheckpointer[Any, Any]
) -> None:
    store.save_events(make_events("r", 3))
    following = store.follow("r", idle_timeout=1)
    cursors = [next(following).cursor for _ in range(3)]
    roll_back(redis_backend, "r", cursors, keep=2)
    with pytest.raises(AcknowledgedWritesLost) as caught:
        next(following)
    assert (caught.value.last_seen, caught.value.last_present) == (3, 2)


def test_a_follower_is_told_even_if_others_have_filled_the_lost_offsets(
    redis_backend: RedisBackend, store: RedisCheckpointer[Any, Any]
) -> None:
    """P4: the history that it has seen is not the one that goes on."""
    store.save_events(make_events("r", 3))
    following = store.follow("r", idle_timeout=1)
    cursors = [next(following).cursor for _ in range(3)]
    roll_back(redis_backend, "r", cursors, keep=2)
    redis_backend.open().save_events(make_events("r", 2, first=100))
    with pytest.raises(HistoryDiverged):
        next(following)


def test_the_record_of_a_packer_is_the_record_of_the_store() -> None:
    record = encode_record(
        Packer(), seed("r"), ["", "main", "span", None, 1, 1.5, "agent.progress", "public", {"n": 1}]
    )
    assert record == encoded("r", 1)
