"""Records, chains and the fields of a snapshot: what was written comes back, and any change to it is seen."""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from types import MappingProxyType, SimpleNamespace
from typing import Any

import msgpack
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from runstream.codec.archive_entries import (
    archive_entries,
    archive_entry,
    entry_fields,
    entry_record,
    plain_entries,
)
from runstream.codec.chain import CHAIN_MODULUS, next_chain
from runstream.codec.event_codec import Codec
from runstream.codec.msgpack_values import Packer
from runstream.codec.record import (
    ERASED,
    FIELDS,
    decode_plain_records,
    decode_record,
    encode_record,
    fields_of,
    lane_and_seq,
    record_crc,
    seed,
    seq_of_record,
)
from runstream.codec.snapshot_fields import PackedState, pack_state, state_checksum, unpack_state
from runstream.model.archive_records import ArchiveEntry, contents_of, kept_aside
from runstream.model.errors import ConfigurationError, CorruptRecordError, EncodingError, UnsupportedVersion
from runstream.model.events import HIGHEST_SEQ
from runstream.model.results import Cursor
from tests.support.samples import any_text, make_event, same, values

PACKER = Packer(None)
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


def _is_of_users(name: str) -> bool:
    return name not in {"", "run_id", *FIELDS} and not name.startswith("$")


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
    st.dictionaries(_names.filter(_is_of_users), values, max_size=2),
    st.none() | _names,
)
def test_a_record_comes_back(run_id: str, fields: list[Any], extra: dict[str, Any], key: str | None) -> None:
    written = fields if not extra and key is None else [*fields, extra or None, *([] if key is None else [key])]
    record = encode_record(PACKER, seed(run_id), written)
    assert same(decode_record(run_id, 1, record), written)
    assert lane_and_seq(run_id, 1, record) == (fields[FIELDS.index("lane_id")], fields[FIELDS.index("seq")])
    plain = decode_plain_records(run_id, [record])
    assert plain is None or same(plain, [written])
    assert fields_of(run_id, written).keys() == {"run_id", *FIELDS, *extra}
    entry = archive_entry(run_id, 1, 5, record)
    assert entry_record(run_id, entry) == record
    assert (entry.raw, entry.key) == (None, key)
    assert same(entry_fields(run_id, entry), fields_of(run_id, written))


@pytest.mark.one_in(2)
@given(_fields, values, st.none() | _names)
@pytest.mark.parametrize("name", ["$", "$event", "$schema", "run_id", *FIELDS])
def test_a_further_field_that_no_writer_gives_is_refused_and_archived_as_it_is(
    name: str, fields: list[Any], value: Any, key: str | None
) -> None:
    written = [*fields, {name: value}, *([] if key is None else [key])]
    assume(name != "$schema" or type(value) is not int)  # a version is one
    record = encode_record(PACKER, seed("r"), written)
    with pytest.raises(CorruptRecordError, match="it is not an event"):
        decode_record("r", 1, record)
    assert decode_plain_records("r", [record]) is None
    entry = archive_entry("r", 1, 5, record)
    assert (entry.raw, entry_record("r", entry)) == (record, record)


def test_a_text_that_is_no_text_is_refused_with_its_bytes() -> None:
    entry = ArchiveEntry(1, 0, None, "\ud800", None, "", 0.0, 0, 0.0, None, "")
    with pytest.raises(CorruptRecordError) as caught:
        entry_fields("r", entry)
    assert caught.value.raw == b"\xed\xa0\x80"


@pytest.mark.exhaustive
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
    assert [entry_record(run_id, entry) for entry in together] == records
    plain = plain_entries(run_id, offsets, chains, records)
    own = plain_entries(run_id, offsets, chains, records, is_own=True)
    assert (None if own is None else list(own)) == (None if plain is None else list(plain))
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


@pytest.mark.parametrize(
    "further", [(), ({"a": 1, "b": [0.5]},), (None, "key"), ({"a": None, "$schema": 3}, "key")]
)
@pytest.mark.parametrize("again", ["not what it holds", "a float of 32 bits"])
def test_one_that_would_not_be_given_again_is_kept_aside_among_others(
    again: str, further: tuple[Any, ...]
) -> None:
    """A page of plain events is looked at in one go: one of them is found, and it alone."""
    values: list[Any] = ["", "main", "s", None, 1, 0.5, "run.started", "public", {}, *further]
    body = PACKER.pack(values)
    if again == "a float of 32 bits":
        body = body.replace(b"\xcb\x3f\xe0\x00\x00\x00\x00\x00\x00", b"\xca\x3f\x00\x00\x00", 1)
    else:
        body = PACKER.pack([*values[:8], {"k": 1, "l": 2}, *further]).replace(b"\xa1l", b"\xa1k")  # a key twice
    other = b"\x01" + zlib.crc32(body, seed("r")).to_bytes(4, "big") + body
    plain = encode_record(PACKER, seed("r"), values)
    records = [plain, other, plain]
    assert plain_entries("r", [1, 2, 3], [7, 7, 7], records) is None
    entries = list(archive_entries("r", [(Cursor(offset, 7), each) for offset, each in enumerate(records, 1)]))
    assert kept_aside(entries) == [entries[1]]
    assert "encoded in another way" in entries[1].reason
    assert [entry_record("r", entry) for entry in entries] == records


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
    with pytest.raises(UnsupportedVersion):
        lane_and_seq("r", 3, newer)
    assert seq_of_record("r", newer) == HIGHEST_SEQ
    before = encode_record(PACKER, seed("r"), ["", "main", "s", None, 1, 0.0, "run.started", "public", {}])
    entries = archive_entries("r", [(Cursor(2, 0), before), (Cursor(3, 0), newer)])
    assert next(entries).offset == 2
    with pytest.raises(UnsupportedVersion):
        next(entries)


_heads = st.lists(
    st.none() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary() | st.lists(st.booleans()), max_size=6
)


@given(st.binary(min_size=1) | st.tuples(_heads.map(msgpack.packb), st.binary(max_size=20)).map(b"".join))
def test_whatever_a_record_holds_its_seq_is_found_or_the_record_is_corrupt(body: bytes) -> None:
    record = b"\x01" + zlib.crc32(body, seed("r")).to_bytes(4, "big") + body
    found = seq_of_record("r", record)
    with suppress(CorruptRecordError):
        lane_id, found_too = lane_and_seq("r", 3, record)
        assert (type(lane_id), found_too) == (str, found)
        return
    assert found == HIGHEST_SEQ
    with pytest.raises(CorruptRecordError):
        lane_and_seq("r", 3, record[:-1])


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


_LARGE = ["x" * 2000, b"y" * 2000, "z" * 1000, ["w" * 2000], 1]
_large_states = st.dictionaries(
    st.sampled_from("abcd"),
    st.sampled_from(_LARGE) | st.dictionaries(st.sampled_from("abcd"), st.sampled_from(_LARGE)),
)


@given(st.lists(_large_states, min_size=2, max_size=5))
def test_large_values_that_stay_are_not_packed_again(states: list[dict[str, Any]]) -> None:
    """The fields are those that they would be otherwise, and so is the checksum."""
    before = pack_state(PACKER, states[0])
    for state in states[1:]:
        packed = pack_state(PACKER, state, before)
        assert packed == pack_state(PACKER, state, replace(before, large={}))
        assert packed.checksum == state_checksum(packed.fields)
        for key, value in state.items():
            name = b"=" + key.encode()
            if type(value) in (str, bytes) and len(value) == 2000 and name in before.fields:
                is_kept = packed.fields[name] is before.fields[name]
                assert is_kept == (packed.fields[name] == before.fields[name])
        before = packed


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
