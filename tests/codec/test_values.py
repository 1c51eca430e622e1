"""Values to bytes and text and back: nothing is lost, changed, or taken for something else."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import threading
import zlib
from collections import OrderedDict, defaultdict
from contextlib import suppress
from datetime import datetime, time, timedelta, timezone
from enum import Enum, IntEnum
from pathlib import Path, PurePosixPath
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import msgpack
import numpy as np
import pydantic
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runstream.codec.archive_entries import archive_entries, archive_entry, entry_fields, plain_entries
from runstream.codec.chain import CHAIN_MODULUS, next_chain
from runstream.codec.event_codec import Codec
from runstream.codec.fallback import plain_data
from runstream.codec.lossless_json import dump_json, dump_plain_json, load_json
from runstream.codec.msgpack_values import Packer, unpack, unpack_plain
from runstream.codec.record import (
    ERASED,
    FIELDS,
    decode_plain_records,
    decode_record,
    encode_record,
    fields_of,
    record_crc,
    seed,
)
from runstream.codec.snapshot_fields import PackedState, pack_state, state_checksum, unpack_state
from runstream.model.archive_records import ArchiveEntry, contents_of, kept_aside
from runstream.model.errors import ConfigurationError, CorruptRecordError, EncodingError, UnsupportedVersion
from runstream.model.results import Cursor
from tests.support.samples import BERLIN, RICH_VALUES, any_text, hashables, make_event, same, values

PACKER = Packer(None)

# what is neither found by chance nor forgiven: every case of P11 that has gone wrong somewhere before
EDGE_CASES: list[Any] = [
    *RICH_VALUES.values(),
    10**4300,  # one digit more than Python converts
    -(10**5000) + 1,
    2**20000,
    {2**70: 2**70},
    [math.nan, {"x": -math.inf}],
    {("a", 1): {frozenset({("b",)}): [b"", ()]}},
    datetime(2026, 3, 29, 2, 30, tzinfo=BERLIN),  # a time that the clocks skip
    datetime(1, 1, 1, tzinfo=BERLIN),  # local mean time: an offset with seconds
    datetime(2000, 1, 1, tzinfo=timezone(timedelta(microseconds=1))),
    time(8, 30, tzinfo=timezone(timedelta(microseconds=-1))),
]


# -- values ----------------------------------------------------------------------------------------------


@given(values)
def test_a_value_comes_back_equal_and_of_the_same_types_through_msgpack(value: Any) -> None:
    assert same(unpack(PACKER.pack(value)), value)


@given(values)
def test_a_value_comes_back_equal_and_of_the_same_types_through_json(value: Any) -> None:
    text = dump_json(value)
    assert same(load_json(text), value)
    assert same(load_json(text.encode()), value)


def check_fast_path(value: Any) -> None:
    """It gives the value as it is, or says that it is not for it: alone, and beside others."""
    for packed in ([PACKER.pack(value)], [PACKER.pack(0), PACKER.pack(value), PACKER.pack("x")]):
        found = unpack_plain(packed)
        if found is not None:
            assert same(found[len(packed) // 2], value)
        texts = dump_plain_json(found)
        if texts is not None:
            assert same(load_json(texts[len(packed) // 2]), value)


def test_the_fast_path_is_for_what_is_plain() -> None:
    """Or it would be no way at all."""
    value = {"a": [1, -1.5, None, True, "ü"], "b": {"c": "\x00"}}
    texts = dump_plain_json(unpack_plain([PACKER.pack(value)]))
    assert texts == ['{"a":[1,-1.5,null,true,"ü"],"b":{"c":"\\u0000"}}']


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=repr)
def test_no_float_becomes_null(value: float) -> None:
    """Of either size: other programs write the shorter one."""
    for single in (False, True):
        packed = msgpack.packb({"a": [value]}, use_single_float=single)
        assert unpack_plain([packed]) is None
        assert "null" not in dump_json(unpack(packed))


@given(values)
def test_a_value_comes_back_equal_by_way_of_the_fast_path(value: Any) -> None:
    """From Redis to an archive: what msgpack found to be plain is dumped at C speed, and is the same."""
    check_fast_path(value)


@pytest.mark.parametrize("value", EDGE_CASES, ids=lambda value: type(value).__name__)
def test_an_edge_case_comes_back_too(value: Any) -> None:
    assert same(unpack(PACKER.pack(value)), value)
    assert same(load_json(dump_json(value)), value)
    check_fast_path(value)


@given(values)
def test_json_text_is_json_that_utf8_can_carry(value: Any) -> None:
    """Any other program can read it: no NaN, no lone surrogates, one line."""
    text = dump_json(value)
    assert "\n" not in text

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(text.encode(), parse_constant=refuse)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.text()
        | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text().filter(lambda key: not key.startswith("$")), inner)
        ),
    )
)
def test_what_json_has_a_type_for_is_plain_json(value: Any) -> None:
    assert json.loads(dump_json(value)) == value
    assert msgpack.unpackb(PACKER.pack(value)) == value


tags = st.sampled_from(
    [
        *("$tuple", "$set", "$frozenset", "$dict", "$str", "$bytes", "$float", "$int", "$datetime", "$date"),
        *("$time", "$timedelta", "$decimal", "$uuid", "$", "$other", "plain"),
    ]
)


@given(
    st.recursive(
        any_text | st.integers() | tags,
        lambda inner: st.dictionaries(tags, inner, max_size=2) | st.lists(inner, max_size=3),
    )
)
@example({"$tuple": [1, 2]})
@example({"$dict": [[{"$dict": []}, 1]]})
@example({"$str": "\ud800"})
def test_no_dict_of_a_user_is_taken_for_a_tag(value: Any) -> None:
    check_fast_path(value)
    assert same(load_json(dump_json(value)), value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1,",
        '{"$tuple": 5}',
        '{"$bytes": "not base64!"}',
        '{"$datetime": "yesterday"}',
        '{"$int": "x y"}',
        '{"$decimal": "one"}',
        '{"$decimal": {"a": 1, "b": 2}}',
        '{"$uuid": 5}',
        '{"$float": []}',
        '{"$str": 5}',
        '{"$dict": [1]}',
        '{"$dict": [[[1], 2]]}',
        '{"$set": [[1]]}',
        '{"$timedelta": "1 day"}',
        "\xff",
    ],
)
def test_broken_text_is_a_value_error(text: str) -> None:
    for form in (text, text.encode("latin-1")):
        with pytest.raises(ValueError):  # noqa: PT011 - json's own says what is wrong in words that vary
            load_json(form)


@given(st.binary(max_size=40))
@example(b"\xc1")
@example(msgpack.packb(msgpack.ExtType(8, b"no number")))
@example(msgpack.packb(msgpack.ExtType(2, msgpack.packb([[1]]))))
@example(msgpack.packb(msgpack.ExtType(50, b"")))
@example(b"\x81\x90\x01")  # a list as a key
@example(b"\x91" * 2000)
def test_any_bytes_are_a_value_or_a_value_error(packed: bytes) -> None:
    with suppress(ValueError):
        unpack(packed)
    dump_plain_json(unpack_plain([packed]))


def test_an_hour_that_comes_twice_is_told_apart() -> None:
    first, second = (datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=fold) for fold in (0, 1))
    for loaded in (unpack(PACKER.pack([first, second])), load_json(dump_json([first, second]))):
        assert [moment.utcoffset() for moment in loaded] == [first.utcoffset(), second.utcoffset()]
        assert loaded[0].timestamp() + 3600 == loaded[1].timestamp()
        assert all(moment.tzinfo is BERLIN for moment in loaded)


def test_a_zone_that_this_machine_does_not_know_gives_the_same_instant() -> None:
    loaded = load_json('{"$datetime": "2026-11-23T08:00:00+01:00[Moon/Tranquility]"}')
    assert loaded == datetime.fromisoformat("2026-11-23T08:00:00+01:00")


# -- canonical bytes -------------------------------------------------------------------------------------


@given(st.lists(hashables, max_size=8), st.randoms(use_true_random=False))
def test_equal_sets_have_equal_bytes(members: list[Any], shuffle: Any) -> None:
    """Whatever the order in which they were filled; dicts keep theirs, which is part of their content."""
    once = frozenset(members)
    again = list(once)
    shuffle.shuffle(again)
    assert PACKER.pack(frozenset(again)) == PACKER.pack(once)
    assert PACKER.pack(set(again)) == PACKER.pack(set(once))


def test_sets_have_the_same_bytes_in_every_process() -> None:
    script = (
        "from runstream.codec.msgpack_values import Packer;"
        "print(Packer().pack({'abc', 'def', ('x', 1), frozenset({'q', 'r'}), None, b'y'}).hex())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        ).stdout
        for hash_seed in ("1", "2", "3")
    }
    assert len(outputs) == 1


# -- what P11 does not list ------------------------------------------------------------------------------


class Colour(Enum):
    RED = "red"
    PAIR = (1, "two")


class Level(IntEnum):
    HIGH = 3


class Large(IntEnum):
    HUGE = 2**70


class Word(str, Enum):
    YES = "yes"


@dataclasses.dataclass
class Point:
    x: int
    label: Any = None


class Model(pydantic.BaseModel):
    name: str
    colour: Colour = Colour.RED
    inner: Any = None


class Pair(NamedTuple):
    left: int
    right: str


class Text(str):
    """A string that says something else of itself."""

    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


PLAIN: dict[str, tuple[Any, Any]] = {
    "enum": (Colour.RED, "red"),
    "enum of a tuple": (Colour.PAIR, (1, "two")),
    "int enum": (Level.HIGH, 3),
    "str enum": (Word.YES, "yes"),
    "dataclass": (Point(1, Point(2, Colour.RED)), {"x": 1, "label": {"x": 2, "label": "red"}}),
    "pydantic": (
        Model(name="n", inner=Model(name="m")),
        {"name": "n", "colour": "red", "inner": {"name": "m", "colour": "red", "inner": None}},
    ),
    "numpy int": (np.int64(-5), -5),
    "numpy uint": (np.uint64(2**64 - 1), 2**64 - 1),
    "numpy float": (np.float32(0.5), 0.5),
    "numpy double": (np.float64(0.1), 0.1),
    "numpy bool": (np.bool_(True), True),
    "numpy text": (np.str_("text"), "text"),
    "numpy bytes": (np.bytes_(b"bytes"), b"bytes"),
    "path": (PurePosixPath("/a/b"), "/a/b"),
    "exception": (ValueError("no", 1), {"type": "ValueError", "message": "('no', 1)"}),
    "named tuple": (Pair(1, "r"), (1, "r")),
    "ordered dict": (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    "default dict": (defaultdict(int, a=1), {"a": 1}),
    "str subclass": (Text("text"), "text"),
    "as a key": ({Colour.RED: 1, Level.HIGH: 2, Pair(1, "x"): 3}, {"red": 1, 3: 2, (1, "x"): 3}),
    "in a set": ({Colour.RED, Word.YES}, {"red", "yes"}),
    "large int enum": (Large.HUGE, 2**70),
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_not_listed_becomes_plain_data(name: str) -> None:
    value, expected = PLAIN[name]
    packer = Packer()
    assert same(unpack(packer.pack(value)), expected)
    assert same(unpack(packer.pack({"deep": [(value,)]})), {"deep": [(expected,)]})


@pytest.mark.parametrize(
    "value",
    [object(), int, Point, Model, lambda: 0, np.array([1, 2]), complex(1, 2), range(3), iter([])],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_anything_else_is_refused_with_its_place(value: Any) -> None:
    with pytest.raises(EncodingError, match=r"payload\.args\[3\]") as caught:
        Packer().pack({"args": [0, 1, 2, value]}, "payload")
    assert caught.value.path == "payload.args[3]"


@pytest.mark.parametrize("value", [Colour.RED, Path("x"), ValueError(), Point(1), np.int64(1)], ids=repr)
def test_a_strict_packer_takes_only_what_is_listed(value: Any) -> None:
    with pytest.raises(EncodingError) as caught:
        PACKER.pack({"a": {"b": (value,)}})
    assert caught.value.path == "a.b[0]"


@pytest.mark.parametrize("value", [bytearray(b"x"), memoryview(b"x")], ids=["bytearray", "memoryview"])
def test_bytes_that_can_change_come_back_as_bytes(value: Any) -> None:
    """They are equal to what went in, as a named tuple is to the tuple that it comes back as."""
    assert same(unpack(PACKER.pack({"a": value})), {"a": b"x"})
    assert value == b"x"


def test_subclasses_of_listed_types_are_listed_even_for_a_strict_packer() -> None:
    assert same(
        unpack(PACKER.pack([Pair(1, "r"), Text("t"), Level.HIGH, OrderedDict(a=1)])), [(1, "r"), "t", 3, {"a": 1}]
    )


def test_a_fallback_is_asked_until_it_gives_what_can_be_stored() -> None:
    assert unpack(Packer(str).pack({"x": object})) == {"x": "<class 'object'>"}
    assert unpack(Packer(lambda value: [plain_data(value)]).pack(Colour.RED)) == ["red"]
    for endless in (lambda value: value, lambda _: object()):
        with pytest.raises(EncodingError, match="fallback") as caught:
            Packer(endless).pack({"x": object()})
        assert caught.value.path == "x"


def test_a_fallback_that_fails_is_an_encoding_error() -> None:
    def fail(_: Any) -> Any:
        raise ValueError("no idea")

    with pytest.raises(EncodingError, match="no idea"):
        Packer(fail).pack([object()])


# -- records ---------------------------------------------------------------------------------------------

_names = st.text(max_size=20)
_fields = st.tuples(
    _names,
    _names,
    _names,
    st.none() | _names,
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    _names,
    _names,
    st.dictionaries(any_text, values, max_size=3),
).map(list)


def test_fields_of_its_own_are_kept_of_an_event_that_lacks_some_of_ours() -> None:
    class Short:
        def to_dict(self) -> dict[str, Any]:
            return {"run_id": "r", "kind": "x", "ts": 1.0, "tags": {"a"}}

    codec: Codec[Any, Any] = Codec()
    (encoded,) = codec.encode_events("r", [Short()])
    fields = fields_of("r", decode_record("r", 1, encoded.record))
    assert (fields["tags"], fields["lane_id"], fields["seq"]) == ({"a"}, "main", 0)


@given(
    st.text(min_size=1, max_size=20),
    _fields,
    st.dictionaries(_names.filter(bool), values, max_size=2),
    st.none() | _names,
)
def test_a_record_comes_back(run_id: str, fields: list[Any], extra: dict[str, Any], key: str | None) -> None:
    written = fields if not extra and key is None else [*fields, extra or None, *([] if key is None else [key])]
    record = encode_record(PACKER, seed(run_id), written)
    assert same(decode_record(run_id, 1, record), written)
    plain = decode_plain_records(run_id, [record])
    assert plain is None or same(plain, [written])
    assert fields_of(run_id, written).keys() == {"run_id", *FIELDS, *extra}
    entry = archive_entry(run_id, 1, 5, record)
    assert entry.raw is None
    assert entry.key == key
    if not set(extra) & {"run_id", *FIELDS}:
        assert same(entry_fields(run_id, entry), fields_of(run_id, written))


@given(
    st.text(min_size=1, max_size=9),
    st.lists(st.tuples(_fields, st.none() | _names), min_size=1, max_size=5),
)
def test_many_at_once_are_what_each_is_by_itself(run_id: str, events: list[tuple[list[Any], str | None]]) -> None:
    records = [
        encode_record(PACKER, seed(run_id), fields if key is None else [*fields, None, key])
        for fields, key in events
    ]
    offsets = list(range(5, 5 + len(records)))
    chains = [offset * 7 for offset in offsets]
    places = list(zip(offsets, chains, records, strict=True))
    single = [archive_entry(run_id, *place) for place in places]
    together = list(archive_entries(run_id, [(Cursor(offset, chain), record) for offset, chain, record in places]))

    def told(entries: list[ArchiveEntry]) -> Any:
        """JSON may spell one value in two ways."""
        return [(entry._replace(data=None), entry.data and entry_fields(run_id, entry)) for entry in entries]

    assert same(told(together), told(single))
    plain = plain_entries(run_id, offsets, chains, records)
    if plain is not None:
        assert (list(plain), len(plain), plain[-1]) == (together, len(together), together[-1])
        assert list(plain[1:]) == together[1:]
        assert list(contents_of(plain)) == list(contents_of(together))
        assert kept_aside(plain) == kept_aside(single) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("seq", value) for value in (2**63, -(2**63) - 1, 1.0, "1", None, [1])),
        *(("ts", value) for value in (math.nan, -math.inf, "1", None)),
        *((name, value) for name in ("lane_id", "kind") for value in (None, 1, "x" * 513, [1])),
    ],
)
def test_what_another_program_wrote_is_kept_aside_among_others_too(name: str, value: Any) -> None:
    values: list[Any] = ["", "main", "s", None, 1, 0.0, "run.started", "public", {}]
    record = encode_record(PACKER, seed("r"), values)
    values[FIELDS.index(name)] = value
    records = [record, encode_record(PACKER, seed("r"), values), record]
    assert plain_entries("r", [1, 2, 3], [7, 7, 7], records) is None
    entries = list(archive_entries("r", [(Cursor(offset, 7), each) for offset, each in enumerate(records, 1)]))
    assert entries == [archive_entry("r", offset, 7, each) for offset, each in enumerate(records, 1)]
    assert kept_aside(entries) == [entries[1]]


class Told(Enum):
    """Its value is what a property of its own says."""

    A = "a"

    @property
    def value(self) -> str:
        return f"kind-{self.name}"


class Late(dict[str, Any]):
    """Makes its values when they are asked for."""

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        return value() if callable(value) else value

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default

    def items(self) -> Any:
        return [(name, self[name]) for name in self]


@pytest.mark.parametrize(
    "fields",
    [
        {"run_id": "r", "kind": Told.A, "ts": 1.0},
        Late(run_id="r", kind=lambda: "kind-A", ts=lambda: 1.0),
        MappingProxyType({"run_id": "r", "kind": "kind-A", "ts": 1.0}),
        defaultdict(lambda: "made up", {"run_id": "r", "kind": "kind-A", "ts": 1.0}),
    ],
    ids=["enum", "late", "proxy", "defaultdict"],
)
def test_the_fields_of_an_event_come_in_many_shapes(fields: Any) -> None:
    (encoded,) = Codec[Any, Any]().encode_events("r", [SimpleNamespace(to_dict=lambda: fields)])
    assert decode_record("r", 1, encoded.record) == ["", "main", "", None, 0, 1.0, "kind-A", "public", {}]


@given(st.text(min_size=1, max_size=9), _fields, st.data())
def test_one_changed_byte_of_a_record_is_always_detected(
    run_id: str, fields: list[Any], data: st.DataObject
) -> None:
    record = encode_record(PACKER, seed(run_id), fields)
    at = data.draw(st.integers(0, len(record) - 1))
    changed = record[:at] + bytes([record[at] ^ data.draw(st.integers(1, 255))]) + record[at + 1 :]
    with pytest.raises(CorruptRecordError) as caught:
        decode_record(run_id, 7, changed)
    assert (caught.value.run_id, caught.value.offset, caught.value.raw) == (run_id, 7, changed)
    assert archive_entry(run_id, 7, 0, changed).raw == changed
    (between, _, _) = [
        *archive_entries(run_id, [(Cursor(7, 0), changed), (Cursor(8, 0), record), (Cursor(9, 0), record)])
    ]
    assert between.raw == changed


@given(st.text(min_size=1, max_size=9), _fields, st.data())
def test_a_record_that_was_cut_off_is_always_detected(run_id: str, fields: list[Any], data: st.DataObject) -> None:
    record = encode_record(PACKER, seed(run_id), fields)
    cut = record[: data.draw(st.integers(0, len(record) - 1))]
    with pytest.raises(CorruptRecordError):
        decode_record(run_id, 7, cut)
    assert archive_entry(run_id, 7, 0, cut).raw == cut


@given(st.text(min_size=1, max_size=9), st.text(min_size=1, max_size=9), _fields)
def test_a_record_of_another_run_is_detected(run_id: str, other: str, fields: list[Any]) -> None:
    record = encode_record(PACKER, seed(run_id), fields)
    if run_id == other:
        assert same(decode_record(other, 1, record), fields)
        return
    with pytest.raises(CorruptRecordError):
        decode_record(other, 1, record)


@given(st.integers(2, 255), st.binary(min_size=1))
def test_a_record_of_a_newer_version_is_told_from_a_damaged_one(version: int, body: bytes) -> None:
    checksum = zlib.crc32(body, seed("r", version)).to_bytes(4, "big")
    newer = bytes([version]) + checksum + body
    with pytest.raises(UnsupportedVersion) as caught:
        decode_record("r", 3, newer)
    assert caught.value.found == version
    with pytest.raises(UnsupportedVersion):
        archive_entry("r", 3, 0, newer)
    before = encode_record(PACKER, seed("r"), ["", "main", "s", None, 1, 0.0, "run.started", "public", {}])
    entries = archive_entries("r", [(Cursor(2, 0), before), (Cursor(3, 0), newer)])
    assert next(entries).offset == 2
    with pytest.raises(UnsupportedVersion):
        next(entries)


def test_an_erased_entry_has_neither_text_nor_bytes() -> None:
    entry = archive_entry("r", 3, 4, ERASED)
    assert (entry.data, entry.raw, entry.offset, entry.chain) == (None, None, 3, 4)
    assert entry_fields("r", entry) is None


def test_a_value_that_cannot_be_stored_is_named_by_its_field() -> None:
    for payload, path in [({"a": [object()]}, "payload.a[0]"), ({"a": {1: object()}}, "payload.a[1]")]:
        with pytest.raises(EncodingError) as caught:
            Codec[Any, Any]().encode_events("r", [make_event("r", payload=payload)])
        assert caught.value.path == path


# -- the chain -------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1), st.integers(0, CHAIN_MODULUS - 1), st.data())
def test_two_histories_that_differ_once_differ_from_there_on(
    crcs: list[int], start: int, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(crcs) - 1))
    other = data.draw(st.integers(0, 2**32 - 1).filter(lambda crc: crc != crcs[at]))
    one, two = start, start
    for index, crc in enumerate(crcs):
        one, two = next_chain(one, crc), next_chain(two, other if index == at else crc)
        assert (one == two) == (index < at)
        assert 0 <= one < CHAIN_MODULUS


@given(st.integers(0, CHAIN_MODULUS - 1), st.integers(0, 2**32 - 1))
def test_the_chain_is_exact_in_luas_doubles(chain: int, crc: int) -> None:
    assert int(math.fmod(float(chain) * 1021.0 + float(crc), float(CHAIN_MODULUS))) == next_chain(chain, crc)
    assert chain * 1021 + crc < 2**53


def test_the_checksum_of_a_record_is_what_the_chain_takes() -> None:
    assert record_crc(b"\x01\x00\x00\x01\x02rest") == 258


# -- snapshots -------------------------------------------------------------------------------------------

_states = st.dictionaries(
    any_text, st.integers() | st.dictionaries(any_text, values, max_size=4) | values, max_size=4
)


@given(st.lists(_states, min_size=1, max_size=4))
def test_differences_of_states_add_up(states: list[dict[str, Any]]) -> None:
    """Each is made from the one before; the fields that result are those that hold the last state."""
    stored: dict[bytes, bytes] = {}
    before = None
    for state in states:
        packed = pack_state(PACKER, state, before)
        sets, removes = packed.changes_from(before or PackedState())
        stored.update(sets)
        for name in removes:
            del stored[name]
        assert stored == packed.fields
        loaded, before = unpack_state(stored)
        assert same(loaded, state)
        assert before == packed
        assert state_checksum(before.fields) == state_checksum(dict(reversed(stored.items())))


def test_what_is_added_at_the_end_changes_no_other_field() -> None:
    state: dict[str, Any] = {"data": {f"k{n}": n for n in range(100)}, "step": 1}
    packed = pack_state(PACKER, state)
    state["data"]["new"] = 0
    sets, removes = pack_state(PACKER, state, packed).changes_from(packed)
    assert list(sets) == [b"4:data:new"]
    assert removes == []
    del state["data"]["k50"]
    sets, removes = pack_state(PACKER, state, packed).changes_from(packed)
    assert (list(sets), removes) == ([b"4:data:new"], [b"4:data:k50"])


# -- types -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"event_type": int}, {"state_type": object}, {"state_type": list}], ids=str)
def test_a_type_that_cannot_be_read_is_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="from_dict"):
        Codec[Any, Any](**options)


def test_deep_tuples_are_refused_before_they_could_exhaust_a_readers_stack() -> None:
    """What is accepted is read in a thread with a small stack too."""
    value: Any = 1
    for _ in range(60):
        value = (value,)
    packed = PACKER.pack(value)
    read: list[Any] = []
    threading.stack_size(512 * 1024)
    try:
        thread = threading.Thread(target=lambda: read.append(unpack(packed)))
        thread.start()
        thread.join(30)
    finally:
        threading.stack_size(0)
    assert same(read, [value])
    for _ in range(10):
        value = (value,)
    with pytest.raises(EncodingError, match="deep"):
        PACKER.pack({"payload": value})


def test_bytes_that_nest_without_end_are_a_value_error() -> None:
    """Nobody of ours packed them, and they exhaust no stack."""
    packed = b"\x01"
    for _ in range(3000):
        packed = msgpack.packb(msgpack.ExtType(1, b"\x91" + packed))
    with pytest.raises(ValueError, match="RecursionError"):
        unpack(packed)
