"""P4, P7: what a store object remembers of many runs and snapshots takes the memory that it is meant to take."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

import runstream
from runstream.codec.msgpack_values import Packer
from runstream.codec.snapshot_fields import pack_state
from runstream.model.errors import AcknowledgedWritesLost, ConcurrencyConflict
from runstream.stores.redis.append_batch import Seen
from runstream.stores.redis.session import seen, snapshot_cache
from runstream.stores.redis.session.packed_cursors import PackedCursors
from runstream.stores.redis.session.seen import SeenBook
from runstream.stores.redis.session.snapshot_cache import SnapshotCache
from tests.support.backends import RedisBackend
from tests.support.samples import make_event, make_state
from tests.support.servers import Server, needs_server


def _held_by(make: Callable[[], Any]) -> tuple[Any, int]:
    gc.collect()
    tracemalloc.start()
    try:
        made = make()
        return made, tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "fields", [pytest.param(0, marks=pytest.mark.exhaustive), 5, pytest.param(5_000, marks=pytest.mark.exhaustive)]
)
def test_snapshots_take_no_more_than_they_may(monkeypatch: pytest.MonkeyPatch, fields: int) -> None:
    """Also where they have thousands of small fields, which take ten times their bytes, or no state at all."""
    monkeypatch.setattr(snapshot_cache, "_MAX_BYTES", 2**21)
    monkeypatch.setattr(snapshot_cache, "_MOST_KNOWN", 5_000)
    packer = Packer()

    def fill() -> SnapshotCache:
        cache = SnapshotCache()
        for number in range(6_000 if fields < 100 else 10):
            state = pack_state(packer, {"data": {f"k{i}": i + number for i in range(fields)}}) if fields else None
            if state is not None:
                state.unpack()
            cache.put(f"run {number}", "a lane", f"{number:020x}", number, state)
        return cache

    cache, held = _held_by(fill)
    assert 2**20 < held < 1.2 * (2**21 + 400 * 5_000)
    assert cache.get("run 0", "a lane") == (("", 0, None) if fields < 100 else (f"{0:020x}", 0, None))


def test_a_snapshot_is_the_base_of_the_next_one_also_when_its_state_is_not_held_any_more(
    redis_backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_cache, "_MAX_BYTES", 2_000)
    one, other = redis_backend.open(), redis_backend.open()
    for step in range(2):
        for run_id in ("a", "b", "c"):
            state = make_state(run_id, purpose="long" * 500, current_step=step)
            assert one.append(run_id, [make_event(run_id, step + 1)], snapshot=state).last_offset == step + 1
    recovered = other.recover("a").state
    assert recovered is not None
    assert (recovered.purpose, recovered.current_step) == ("long" * 500, 1)
    other.append("a", [make_event("a", 3)], snapshot=make_state("a", current_step=2))
    with pytest.raises(ConcurrencyConflict, match="snapshot 3 was saved by another"):
        one.append("a", [make_event("a", 4)], snapshot=make_state("a", current_step=3))


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("runs", "bytes_each"), [(20_000, 100), pytest.param(80_000, 68, marks=pytest.mark.exhaustive)]
)
def test_the_cursors_of_many_runs_are_packed(runs: int, bytes_each: int) -> None:
    """Each is the one that was put last, until it is forgotten; it takes some 60 bytes."""
    ids = [f"run-{number}" for number in range(5_000)]
    book = SeenBook()
    for number, run_id in enumerate(ids):
        book.note(run_id, b"0-%d" % number, b"7-%d" % number, 7)
    book.note("run-3", b"0-3", b"6-1", 6)
    assert [book.get(run_id) for run_id in ids] == [
        Seen(b"0-%d" % number, b"7-%d" % number, 7) for number in range(len(ids))
    ]
    book.note("run-3", b"0-3", b"9-4", 9)
    book.note("run-5", b"3-5-77", b"9-4", 9)
    book.note("new", b"0-1", b"1-1", 1)
    book.forget("run-4")
    assert book.get("run-5") == Seen(b"3-5-77", b"9-4", 9)
    assert (book.get("run-3"), book.get("run-4"), book.get("other")) == (Seen(b"0-3", b"9-4", 9), None, None)

    def pack() -> PackedCursors:
        packed = PackedCursors(10**6)
        for number in range(runs):
            packed.put(f"run-{number}", Seen(b"0-5", b"%d-8796093022150" % number, number))
        return packed

    packed, held = _held_by(pack)
    assert packed.get(f"run-{runs - 1}") == Seen(b"0-5", b"%d-8796093022150" % (runs - 1), runs - 1)
    assert held < bytes_each * runs


@needs_server
def test_a_loss_is_noticed_in_the_oldest_of_many_runs(
    server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of runs since."""
    monkeypatch.setattr(seen, "_MAX_SEEN", 2)
    with runstream.connect(f"{server.url}?namespace={namespace}") as hot:
        for number in range(5):
            hot.append(f"r{number}", [make_event(f"r{number}", 1)])
        server.raw.flushall()
        for number in range(5):
            with pytest.raises(AcknowledgedWritesLost):
                hot.append(f"r{number}", [make_event(f"r{number}", 2)])


def test_where_a_run_is_forgotten_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A loss in that run would not be noticed any more."""
    monkeypatch.setattr(seen, "_MAX_SEEN", 2)
    monkeypatch.setattr(seen, "_MAX_OLDER", 0)  # one in each bucket
    book = SeenBook()
    for number in range(5_000):
        book.note(f"run-{number}", b"0-1", b"1-2", 1)
    assert sum("forgets the cursors of the oldest" in record.message for record in caplog.records) == 1
    assert book.get("run-4999") is not None
