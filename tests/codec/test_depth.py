"""How deeply values may be nested, and what reading them takes: a stated limit, that every reader can hold."""

from __future__ import annotations

import sys
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from runstream.codec.archive_entries import archive_entry, entry_fields
from runstream.codec.event_codec import Codec
from runstream.codec.lossless_json import dump_json, load_json
from runstream.codec.msgpack_values import Packer, pack_stored, unpack
from runstream.codec.own_stack import with_room
from runstream.codec.plain_values import MAX_DEPTH, MAX_TAGGED_DEPTH
from runstream.codec.snapshot_fields import pack_state, unpack_state
from runstream.codec.stored import stored_record
from runstream.model.errors import EncodingError
from tests.support.samples import make_event, same

PACKER = Packer(None)

GROW: dict[str, Callable[[Any], Any]] = {
    "list": lambda inner: [inner],
    "dict": lambda inner: {"k": inner},
    "dict with other keys": lambda inner: {1: inner},
    "a tag's look": lambda inner: {"$tuple": inner},
}
TAGGED: dict[str, Callable[[Any], Any]] = {
    "tuple": lambda inner: (inner,),
    "frozenset": lambda inner: frozenset([inner]),
    "key": lambda inner: ((inner,), 1)[0],
}


def nested(grow: Callable[[Any], Any], depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = grow(value)
    return value


def stand(frames: int, call: Callable[[], Any]) -> Any:
    """What a call gives that is made this many frames down the stack."""
    return call() if frames == 0 else stand(frames - 1, call)


def frames_left() -> int:
    depth, frame = 0, sys._getframe()
    while frame.f_back is not None:
        depth, frame = depth + 1, frame.f_back
    return sys.getrecursionlimit() - depth


@pytest.mark.parametrize("name", GROW)
def test_what_is_as_deep_as_allowed_is_read_by_everybody(name: str) -> None:
    """Hot, archived and restored; 700 frames down the stack, and in a thread with a small one."""
    payload = {"x": nested(GROW[name], MAX_DEPTH - 1)}
    event = make_event("r", payload=payload)
    codec: Codec[Any, Any] = Codec()
    record = codec.encode_event("r", event).record

    def go_round() -> None:
        assert codec.decode_event("r", 1, record) == event
        entry = archive_entry("r", 1, 0, record)
        assert entry.raw is None
        fields = entry_fields("r", entry)
        assert fields is not None
        assert fields["payload"] == payload
        assert stored_record("r", fields) == record
        assert codec.encode_event("r", event).record == record
        assert load_json(dump_json(payload)) == payload

    # lists of this depth compare by a recursion of their own: the stack must have room for that alone
    stand(frames_left() - 250, go_round)
    threading.stack_size(512 * 1024)
    try:
        failed: list[BaseException] = []

        def in_thread() -> None:
            try:
                go_round()
            except BaseException as error:  # noqa: BLE001 - it is raised where it is seen
                failed.append(error)

        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join(30)
    finally:
        threading.stack_size(0)
    assert failed == []


@pytest.mark.parametrize("name", GROW)
def test_one_level_more_is_refused_by_its_path(name: str) -> None:
    payload = {"x": nested(GROW[name], MAX_DEPTH)}
    with pytest.raises(EncodingError, match=f"more than {MAX_DEPTH} deep") as caught:
        Codec[Any, Any]().encode_event("r", make_event("r", payload=payload))
    assert caught.value.path.startswith("payload.x")


@pytest.mark.parametrize("split", [True, False], ids=["split", "whole"])
def test_a_state_has_the_same_limit_however_it_is_packed(split: bool) -> None:
    """The state itself is at depth 1, as a payload is."""
    for depth, is_taken in ((MAX_DEPTH - 1, True), (MAX_DEPTH, False)):
        value: Any = nested(GROW["dict" if split else "list"], depth)
        state = {"run_id": "r", "data": value}
        if is_taken:
            loaded, _ = unpack_state(pack_state(PACKER, state).fields)
            assert loaded == state
        else:
            with pytest.raises(EncodingError, match="deep") as caught:
                pack_state(PACKER, state)
            assert caught.value.path.startswith("data")


@pytest.mark.parametrize("name", TAGGED)
def test_tuples_and_sets_have_a_limit_of_their_own(name: str) -> None:
    """Each is a msgpack value within another's bytes, and one more call of msgpack's on a stack of C."""
    value = nested(TAGGED[name], MAX_TAGGED_DEPTH)
    assert unpack(PACKER.pack(value)) == value
    assert load_json(dump_json(value)) == value
    with pytest.raises(EncodingError, match="deep"):
        PACKER.pack({"payload": TAGGED[name](value)})
    with pytest.raises(EncodingError, match="deep"):
        PACKER.pack({TAGGED[name](value): 1})


def test_the_memory_that_nested_tuples_take_is_limited() -> None:
    """Each keeps the bytes of all that it holds: eight times the record, no more."""
    large = "x" * 2**20
    value: Any = nested(lambda inner: (inner, large) if inner == 1 else (inner,), 7)
    assert same(unpack(PACKER.pack(value)), value)
    value = large
    for _ in range(12):
        value = (value,)
    with pytest.raises(EncodingError, match="each counted with all that it holds") as caught:
        Codec[Any, Any]().encode_event("r", make_event("r", payload={"x": value}))
    assert caught.value.path == "payload.x"


def test_a_record_beyond_it_is_kept_aside_as_bytes_in_bounded_memory() -> None:
    """An earlier version took such ones."""
    value: Any = "x" * 2**20
    for _ in range(60):
        value = (value,)
    record = stored_record("r", make_event("r", payload={"x": value}).to_dict())
    del value
    tracemalloc.start()
    try:
        entry = archive_entry("r", 1, 0, record)
        assert tracemalloc.get_traced_memory()[1] < 12 * len(record)
    finally:
        tracemalloc.stop()
    assert entry.raw == record
    assert "memory" in entry.reason


def test_bytes_that_nest_without_end_are_a_value_error() -> None:
    """Nobody of ours packed them, and they exhaust no stack."""
    packed = b"\x01"
    for _ in range(3000):
        packed = msgpack.packb(msgpack.ExtType(1, b"\x91" + packed))
    with pytest.raises(ValueError, match="nested too deeply"):
        unpack(packed)


def test_what_an_earlier_version_took_deeper_than_that_is_read() -> None:
    value = nested(GROW["list"], 450)
    packed = pack_stored({"x": value})
    assert unpack(packed) == {"x": value}
    assert load_json(dump_json(value)) == value


def test_a_call_gets_a_stack_of_its_own_only_where_it_needs_one() -> None:
    threads: list[threading.Thread] = []

    def deep(levels: int) -> int:
        threads.append(threading.current_thread())
        return 0 if levels == 0 else 1 + deep(levels - 1)

    assert with_room(deep, 10) == 10
    assert {*threads} == {threading.current_thread()}
    assert stand(frames_left() - 250, lambda: with_room(deep, 600)) == 600
    assert len({*threads}) == 2
    with pytest.raises(ValueError, match="nested too deeply"):
        with_room(deep, sys.getrecursionlimit())
    with pytest.raises(KeyError):
        stand(frames_left() - 250, lambda: with_room(lambda: deep(600) and {"a": 1}["no"]))
