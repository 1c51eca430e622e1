"""What the store makes of entries and snapshots that are damaged, newer than it, or another program's."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import msgpack
import pytest

from runstream.codec.chain import next_chain
from runstream.codec.record import ERASED, seed
from runstream.codec.snapshot_fields import state_checksum
from runstream.drain import DrainWorker
from runstream.model.errors import (
    CorruptRecordError,
    EventRefused,
    UnsupportedVersion,
)
from runstream.model.events import EventKind
from runstream.repair.verify import verify_run
from runstream.stores.redis.checkpointer import RedisCheckpointer
from tests.stores.redis.layout.raw_keys import encoded, key_of, offsets
from tests.support.archive_check import Archive
from tests.support.backends import RedisBackend, latest
from tests.support.kinds import on_every_server
from tests.support.operations import session_of
from tests.support.samples import make_event, make_events, make_state


def write_raw(
    store: RedisCheckpointer[Any, Any], raw: Any, run_id: str, records: Sequence[bytes], *, start: str = "0-77"
) -> list[str]:
    """Write a run with these records as a server holds it, past the store; gives the cursors."""
    keys = session_of(store).keys.run(run_id)
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


@on_every_server
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


@on_every_server
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


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("=data", msgpack.packb("two")),
        ("=data", msgpack.packb([])),
        ("=data", msgpack.packb([None, 1])),
        ("=data", msgpack.packb([[1], 2])),
        ("4:data:a", msgpack.packb([0])),
        (b"=\xff", msgpack.packb([9, 1])),
        ("=zone", msgpack.packb([9, msgpack.ExtType(4, b"[Europe]")])),
        ("=at", msgpack.packb([9, msgpack.Timestamp(1, 2)])),
        ("=deep", b"\x92\x09" + b"\x91" * 3000 + b"\x01"),
        ("offset", b"9" * 30),
        ("offset", b"-1"),
        *(("revision", value) for value in (b"9" * 5000, b"1e3", b"x", b"-1", b"")),
        ("token", b"\xff"),
    ],
)
def test_a_snapshot_that_decodes_to_nonsense_holds_up_nothing(
    redis_backend: RedisBackend,
    store: RedisCheckpointer[Any, Any],
    raw: Any,
    archives: list[Archive],
    field: str | bytes,
    value: bytes,
) -> None:
    """Its checksum holds: it is reported, the events are read and archived, and another is saved over it."""
    store.append("r", make_events("r", 2), snapshot=make_state("r", data={"a": 1, "b": 2}))
    key = key_of(redis_backend, "r", "snapshot")
    raw.hset(key, field, value)
    fields = {name: each for name, each in raw.hgetall(key).items() if name[:1].isdigit() or name[:1] == b"="}
    raw.hset(key, "checksum", state_checksum(fields))
    for load in (store.load_latest, store.load_snapshot, store.recover):
        with pytest.raises(CorruptRecordError):
            load("r")
    assert len(store.list_events("r")) == 2
    report = DrainWorker(store, archives, trim="never").drain_once()
    assert (report.events, report.snapshots, report.parked) == (2, 0, 0)
    redis_backend.open().save_snapshot("r", make_state("r", purpose="new"))
    assert latest(store, "r").purpose == "new"
    assert store.load_snapshot("r").revision == 2  # type: ignore[union-attr] # meta has the former one
    report = DrainWorker(store, archives, trim="never").drain_once()
    assert (report.snapshots, report.parked) == (1, 0)


def test_a_snapshot_whose_values_the_class_refuses_is_archived(
    store: RedisCheckpointer[Any, Any], redis_backend: RedisBackend, archives: list[Archive]
) -> None:
    """It is sound: only who asks for a state of that class is refused."""
    state = {"run_id": "r", "node_states": [1]}
    redis_backend.open(state_type=dict).append("r", make_events("r", 2), snapshot=state)
    for load in (store.load_latest, store.load_snapshot, store.recover):
        with pytest.raises(EventRefused, match="RunState refuses it") as caught:
            load("r")
        assert (caught.value.run_id, caught.value.offset) == ("r", 2)
        assert caught.value.fields == state
    report = DrainWorker(store, archives, trim="never").drain_once()
    assert (report.events, report.snapshots, report.parked) == (2, 1, 0)
    assert verify_run("r", hot=store, sinks=archives).is_sound


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
    with pytest.raises(CorruptRecordError, match="events") as caught:
        store.save_event(make_event("r"))
    assert caught.value.run_id == "r"
