"""Values to bytes and text and back: nothing is lost, changed, or taken for something else."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from contextlib import suppress
from datetime import datetime, time, timedelta, timezone
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runstream.codec.lossless_json import dump_json, dump_plain_json, load_json
from runstream.codec.msgpack_values import Packer, unpack
from runstream.codec.plain_msgpack import unpack_plain
from tests.support.samples import BERLIN, RICH_VALUES, any_text, hashables, same, values

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
    assert dump_plain_json([{"b": [b"hi"]}]) == ['{"b":[{"$bytes":"aGk="}]}']


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


@pytest.mark.exhaustive
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
@example(msgpack.packb([1, {"at": msgpack.Timestamp(1, 2)}]))
def test_any_bytes_are_a_value_or_a_value_error(packed: bytes) -> None:
    with suppress(ValueError):
        dump_json(unpack(packed))
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


@pytest.mark.exhaustive
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
