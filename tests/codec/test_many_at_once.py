"""What is done many at once, in C, gives just what is done one by one; or says that it is not for these."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgpack
import purpose_agent.runtime as theirs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runstream.codec import lossless_json
from runstream.codec.archive_entries import archive_entry, entry_fields
from runstream.codec.event_codec import Codec
from runstream.codec.kept_states import plain_state, state_text
from runstream.codec.lossless_json import dump_json, dump_plain_json, load_json, load_object, load_plain_json
from runstream.codec.msgpack_values import Packer, unpack, unpack_all
from runstream.codec.plain_events import events_of_entries, events_of_records
from runstream.codec.plain_values import MAX_DEPTH, is_json, is_plain, plain_copy
from runstream.codec.snapshot_fields import PackedState, pack_state, read_saved, unpack_state
from runstream.codec.upcasts import Upcasts
from runstream.model.archive_records import ArchiveEntry
from runstream.model.errors import EncodingError, EventRefused, RunstreamError
from runstream.model.events import PAEvent
from tests.support.exhaustive import ROUNDS
from tests.support.samples import RICH_VALUES, any_text, make_event, same, sealed, values

PACKER = Packer(None)
PLAIN: dict[str, Any] = {"a": [1, -1.5, None, True, "ü"], "b": {"c": "\x00"}, "long": "x" * 1000, "n": 2**63}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(2**66), 2**66) | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=12,
)
"""What JSON has types for, and some that no JSON has."""

states = st.dictionaries(
    any_text, values | st.dictionaries(any_text, values, min_size=1, max_size=5) | json_values, max_size=5
)


def outcome(call: Callable[[], Any], refusal: type[Exception]) -> Any:
    """What it gives, or the error that it raises."""
    try:
        return call()
    except refusal:
        return refusal


def nested(depth: int, kind: Callable[[Any], Any] = lambda inner: [inner]) -> Any:
    """An empty list, with so many levels in all."""
    value: Any = []
    for _ in range(depth - 1):
        value = kind(value)
    return value


# -- values ----------------------------------------------------------------------------------------------


@given(st.lists(values | json_values, max_size=4))
@example(list(RICH_VALUES.values()))
@example([{1: "a key that is no string"}, {"x": 1}])
def test_values_are_packed_and_unpacked_as_one_by_one(several: list[Any]) -> None:
    one_by_one = outcome(lambda: [PACKER.pack(value, level=2) for value in several], EncodingError)
    together = PACKER.pack_all(several, level=2)
    assert together in (None, one_by_one)
    if isinstance(one_by_one, list):
        assert same(unpack_all(one_by_one), several)


def test_plain_values_are_packed_together() -> None:
    """Or it would be no way at all."""
    several = [PLAIN, 1, "x", nested(MAX_DEPTH - 1), b"bytes"]
    assert PACKER.pack_all(several, level=2) == [PACKER.pack(value, level=2) for value in several]
    assert PACKER.pack_all([*several, bytearray(b"x")], level=2) is None
    assert PACKER.pack_all([*several, nested(MAX_DEPTH)], level=2) is None
    assert (
        PACKER.pack_all([nested(60, lambda inner: (inner, "x" * 40_000))], level=2) is None
    )  # more than it may take
    assert Packer(None, limits=False).pack_all([nested(MAX_DEPTH + 9)]) is not None


@given(st.lists(st.binary(max_size=12), max_size=3), values)
@example([b"\x92\x01", b"\x01"], 0)  # which would be read as one, if they were not told apart
@example([b"\xd6\xff\x00\x00\x00\x00"], 0)
def test_bytes_that_do_not_unpack_are_refused_together_too(damaged: list[bytes], value: Any) -> None:
    packed = [PACKER.pack(value), *damaged]
    assert same(
        outcome(lambda: unpack_all(packed), ValueError), outcome(lambda: list(map(unpack, packed)), ValueError)
    )


@given(values | json_values, st.sampled_from([1, 2, MAX_DEPTH - 2, MAX_DEPTH - 1, MAX_DEPTH]))
@example([], MAX_DEPTH)
@example([[]], MAX_DEPTH)
@example([0], MAX_DEPTH)
@example({(): {1: [b""]}}, MAX_DEPTH - 1)
def test_what_is_plain_is_its_own_copy(value: Any, level: int) -> None:
    copy = outcome(lambda: plain_copy(value, None, level=level), EncodingError)
    if is_plain(value, level):
        assert same(copy, value)
    if is_json(value, level):
        assert is_plain(value, level)


@pytest.mark.parametrize("value", [[0], {"a": 0}, (0,), {0}, frozenset({0}), {(0,): 0}], ids=repr)
def test_depth_is_counted_through_every_container(value: Any) -> None:
    levels = 2 if isinstance(value, dict) and "a" not in value else 1
    assert is_plain(value, MAX_DEPTH - levels + 1)
    assert not is_plain(value, MAX_DEPTH - levels + 2)


@given(json_values | values)
@example(math.nan)
@example([2**64])
@example({"$tuple": []})
@example([b"x", {"$bytes": "eA=="}])
def test_what_json_has_types_for_is_dumped_as_it_is_or_not_at_all(value: Any) -> None:
    texts = dump_plain_json([value]) if is_json(value, with_bytes=True) else None
    if texts is not None:
        assert same(load_json(texts[0]), value)
        assert dump_plain_json([value], with_bytes=False) == (texts if is_json(value) else None)
    if texts is not None and is_json(value):
        assert same(json.loads(texts[0]), value)


# -- JSON ------------------------------------------------------------------------------------------------


def loaded_slowly(text: str) -> Any:
    try:
        return json.loads(text, object_hook=lossless_json._untag)
    except (ValueError, TypeError, ArithmeticError, AttributeError):  # a broken tag, or no JSON at all
        return ValueError


INTEGERS = [0, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**18, 10**19, 10**20, 1790000000123456789]


@given(st.lists(json_values | values, min_size=1, max_size=3))
@example([sign * number + near for number in INTEGERS for sign in (1, -1) for near in (-1, 0, 1)])
@example(["1" * 30, {"-" + "9" * 40: "0" * 19}])
def test_texts_are_loaded_as_one_by_one(several: list[Any]) -> None:
    """Texts of ours, and of other programs, which have integers of any size and what is no JSON."""
    for dump in (dump_json, json.dumps):
        try:
            texts = [dump(value) for value in several]
        except (TypeError, ValueError):  # json has not all types
            continue
        found = load_plain_json(texts)
        if found is not None:
            assert same(found, list(map(loaded_slowly, texts)))
            assert same(found, load_plain_json([text.encode() for text in texts]))
        for text in texts:
            fast = outcome(partial(load_json, text), ValueError)
            assert same(fast, loaded_slowly(text))


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30, -(10**19), -(10**18) * 9 - 2**60])
def test_no_integer_becomes_a_float(number: int) -> None:
    for before in range(20):  # wherever it is
        assert load_plain_json(["1", f'{" " * before}{{"a":[{number}]}}']) is None
    assert same(load_json(f'{{"a":[{number}]}}'), {"a": [number]})


def test_plain_texts_are_loaded_together() -> None:
    assert same(
        load_plain_json([dump_json(PLAIN), dump_json(1790000000123456789), "-1"]), [PLAIN, 1790000000123456789, -1]
    )


@given(st.text(st.sampled_from('{}[]",:0123456789-.eE $aNul\\')))
@example("1e400")
@example("-0")
@example('"\\ud800"')
def test_a_text_that_does_not_read_is_refused_likewise(text: str) -> None:
    fast, slow = outcome(lambda: load_json(text), ValueError), loaded_slowly(text)
    assert same(fast, slow)


# -- states ----------------------------------------------------------------------------------------------


@settings(max_examples=15 * ROUNDS)
@given(states)
def test_an_archive_keeps_the_text_of_what_memory_keeps(state: dict[str, Any]) -> None:
    text = outcome(lambda: state_text(PACKER, state), EncodingError)
    plain = outcome(lambda: plain_state(PACKER, state), EncodingError)
    assert same(load_object(text) if isinstance(text, str) else text, plain)


def test_the_text_of_a_plain_state_needs_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runstream.codec.kept_states.plain_state", None)
    assert same(load_object(state_text(PACKER, PLAIN)), PLAIN)


@settings(max_examples=15 * ROUNDS)
@given(states, states)
def test_a_state_has_the_fields_that_it_has_one_by_one(state: dict[str, Any], before: dict[str, Any]) -> None:
    class Slow(Packer):
        def pack_all(self, values: list[Any], level: int = 1) -> None:
            del values, level

    former = outcome(lambda: pack_state(PACKER, before), EncodingError)
    known = former if isinstance(former, PackedState) else None
    fast = outcome(lambda: pack_state(PACKER, state, known), EncodingError)
    slow = outcome(lambda: pack_state(Slow(None), state, known), EncodingError)
    assert fast == slow
    if isinstance(fast, PackedState):
        again, packed = unpack_state(dict(reversed(fast.fields.items())))
        assert same(again, dict(state))
        assert packed == fast
        for _ in range(3):
            assert same(fast.unpack(), dict(state))


def test_many_fields_with_one_that_is_not_plain() -> None:
    state = {"many": {f"k{number}": number for number in range(1000)} | {"odd": (1, 2)}, "x": {1, 2}}
    packed = pack_state(PACKER, state)
    assert same(unpack_state(packed.fields)[0], state)
    assert packed.fields[b"4:many:odd"] == PACKER.pack([1000, (1, 2)])


def test_many_fields_of_several_dicts_in_any_order() -> None:
    many = {f"ü{number}": number for number in range(500)}
    state = {"a": many, "=": {**many, "x\0001:=:y": 1, "\0": 2}, "x\0=y": [], "\ud800": {}, "b": {"\ud800": 1}}
    state["x\0003"] = {"\0003:x": 1, "": 2}  # with what stands between them, names overlap
    fields = list(pack_state(PACKER, state).fields.items())
    for _ in range(5):
        random.shuffle(fields)
        again, packed = unpack_state(dict(fields))
        assert same(again, state)
        assert [*again, *again["a"], *again["="]] == [*state, *state["a"], *state["="]]
        assert packed == pack_state(PACKER, state)


def test_what_is_the_same_as_a_known_state_is_proven_too() -> None:
    packed = pack_state(PACKER, PLAIN)
    saved = {b"offset": b"1", b"revision": b"2", b"token": b"t", b"checksum": b"%d" % packed.checksum}
    for _ in range(3):
        read = read_saved({**saved, **packed.fields}, packed)
        assert (read.offset, read.revision, read.token, read.packed) == (1, 2, "t", packed)
        assert same(read.state, PLAIN)
        read.state["b"]["c"] = "changed"
    with pytest.raises(ValueError, match="checksum"):
        read_saved({**saved, **packed.fields, b"checksum": b"%d" % (packed.checksum ^ 1)}, packed)
    with pytest.raises(ValueError, match="checksum"):
        read_saved({**saved, **packed.fields, b"=n": PACKER.pack([3, 1])}, packed)


def test_what_contains_itself_many_times_is_refused_by_its_path() -> None:
    """As nodes of a tree do that know their parents: there are more ways through it than fit into memory."""
    root: dict[str, Any] = {}
    root["nodes"] = [{"parent": root} for _ in range(100)]
    for save in (pack_state, state_text):
        with pytest.raises(EncodingError, match="contains itself") as caught:
            save(PACKER, {"run_id": "r", "tree": [root]})
        assert caught.value.path.startswith("tree[0].nodes[0].parent.nodes[0]")


def test_a_dict_that_is_changed_as_it_is_packed_keeps_each_value_under_its_key() -> None:
    many: dict[str, Any] = {f"k{number}": f"k{number}" for number in range(1000)}
    many["k0"] = object()

    def change(_value: Any) -> str:
        del many["k500"]
        many["new"] = "new"
        return "k0"

    stored, _ = unpack_state(pack_state(Packer(change), {"many": many}).fields)
    assert [key for key, value in stored["many"].items() if key != value] == []


@pytest.mark.parametrize("damaged", [[0], [], "x", [None, 1], [1.5, 0]], ids=repr)
def test_a_field_without_rank_or_value_is_refused(damaged: Any) -> None:
    fields = pack_state(PACKER, {"a": {f"k{number}": number for number in range(300)}}).fields
    with pytest.raises((ValueError, IndexError, TypeError)):
        unpack_state({**fields, b"1:a:k7": PACKER.pack(damaged)})


# -- events ----------------------------------------------------------------------------------------------

CODECS: list[Codec[Any, Any]] = [
    Codec(fallback=None),
    Codec(theirs.PAEvent, theirs.RunState, fallback=None),
    Codec(fallback=None, upcasts=Upcasts(1)),
    Codec(fallback=None, upcasts=Upcasts(2)),
]
events = st.builds(
    make_event,
    st.just("r"),
    st.integers(-(2**63), 2**63 - 1),
    payload=st.dictionaries(any_text, values | json_values, max_size=3),
    kind=st.sampled_from(["tool.result", "my.own", "x" * 200]),
    lane_id=st.sampled_from(["main", "ünï"]),
    ts=st.sampled_from([0.5, 1790000000.123456, 3]),
)


def read(codec: Codec[Any, Any], entries: Sequence[ArchiveEntry]) -> list[Any]:
    return [codec.read_event(one.offset, entry_fields("r", one) or {}, dict) for one in entries]


@settings(max_examples=15 * ROUNDS)
@given(st.lists(events, min_size=1, max_size=3), st.sampled_from(CODECS))
def test_events_are_made_as_one_by_one(several: list[PAEvent], codec: Codec[Any, Any]) -> None:
    with suppress(EncodingError):
        records = [one.record for one in codec.encode_events("r", several)]
        entries = [archive_entry("r", n, 0, record) for n, record in enumerate(records, 1)]
        one_by_one = [codec.decode_event("r", n, record) for n, record in enumerate(records, 1)]
        for found in (events_of_records(codec, "r", records), events_of_entries(codec, "r", entries)):
            if found is not None:
                assert same([one.to_dict() for one in found], [one.to_dict() for one in one_by_one])
                assert set(map(type, found)) == {codec.event_type}
                assert [type(one.kind) for one in found] == [type(one.kind) for one in one_by_one]
        assert same([one.to_dict() for one in read(codec, entries)], [one.to_dict() for one in one_by_one])


@pytest.mark.parametrize("codec", CODECS[:3], ids=["ours", "theirs", "upcasts"])
def test_plain_events_are_made_together(codec: Codec[Any, Any]) -> None:
    records = [
        one.record for one in codec.encode_events("r", [make_event("r", n, payload=PLAIN) for n in range(9)])
    ]
    entries = [archive_entry("r", n, 0, record) for n, record in enumerate(records, 1)]
    made = [events_of_records(codec, "r", records), events_of_entries(codec, "r", entries)]
    assert [[one.seq for one in found or ()] for found in made] == [list(range(9))] * 2


FIELDS = make_event("r", 1).to_dict()
ODD: list[dict[str, Any]] = [
    {**FIELDS, "run_id": "another"},
    {**FIELDS, "seq": True},
    {**FIELDS, "seq": 2**63},
    {**FIELDS, "seq": -(2**63) - 1},
    {**FIELDS, "seq": 1.0},
    {**FIELDS, "ts": "now"},
    {**FIELDS, "ts": None},
    {**FIELDS, "kind": 1},
    {**FIELDS, "kind": ""},
    {**FIELDS, "lane_id": "x" * 600},
    {**FIELDS, "session_id": ["unhashable"]},
    {**FIELDS, "further": 1},
    {**FIELDS, "$schema": 2},
    {name: part for name, part in FIELDS.items() if name != "ts"},
    {name: part for name, part in FIELDS.items() if name != "payload"} | {"further": 1},
]


@pytest.mark.parametrize(
    "fields", ODD, ids=lambda fields: repr({k: fields[k] for k in fields if fields[k] != FIELDS.get(k)})
)
def test_what_is_no_plain_event_is_left_to_the_slow_path(fields: dict[str, Any]) -> None:
    """Among others, as it would be found in an archive: each with the outcome that it has by itself."""
    codec = CODECS[0]
    sound = ArchiveEntry(1, 0, None, dump_json(FIELDS))
    odd = ArchiveEntry(2, 0, None, dump_json(fields))
    made = events_of_entries(codec, "r", [sound, odd])
    alone = outcome(lambda: read(codec, [odd]), RunstreamError)
    assert made is None or same([made[1]], alone)
    assert events_of_entries(codec, "r", [sound]) == read(codec, [sound])


@pytest.mark.parametrize(
    "entry", [ArchiveEntry(2, 0, None, None), ArchiveEntry(2, 0, None, None, b"raw", "kept aside")]
)
def test_entries_without_an_event_are_left_to_the_slow_path(entry: ArchiveEntry) -> None:
    assert events_of_entries(CODECS[0], "r", [ArchiveEntry(1, 0, None, dump_json(FIELDS)), entry]) is None


def test_a_record_of_another_run_or_a_damaged_one_is_left_to_the_slow_path() -> None:
    codec = CODECS[0]
    record = codec.encode_event("r", event := make_event("r", 1)).record
    assert events_of_records(codec, "r", [record]) == [event]
    moments = [[*unpack(record[5:])[:8], {"at": msgpack.Timestamp(seconds, 1)}] for seconds in (0, 2**40)]
    others = [sealed(2, record[5:]), sealed(1, b"\x90"), *(sealed(1, msgpack.packb(moment)) for moment in moments)]
    for odd in (record[:-1], record[:-1] + b"\xff", b"\x00", b"", *others):
        assert events_of_records(codec, "r", [record, odd]) is None
    assert events_of_records(codec, "another", [record]) is None


def test_events_of_an_older_version_are_left_to_the_rules() -> None:
    record = CODECS[0].encode_event("r", make_event("r", 1)).record
    assert events_of_records(CODECS[3], "r", [record]) is None
    assert events_of_entries(CODECS[3], "r", [archive_entry("r", 1, 0, record)]) is None


def test_a_class_of_the_callers_own_is_asked() -> None:
    class Own(PAEvent):
        @classmethod
        def from_dict(cls, data: Mapping[str, Any]) -> Own:
            raise ValueError("not mine")

    codec: Codec[Any, Any] = Codec(Own, fallback=None)
    record = CODECS[0].encode_event("r", make_event("r", 1)).record
    assert events_of_records(codec, "r", [record]) is None
    with pytest.raises(EventRefused):
        codec.decode_event("r", 1, record)
