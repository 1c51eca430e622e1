"""P12: whatever a decoder is given, it gives a value or a documented error, soon and in bounded memory.

Each decoder gets sound input that was damaged, and input that was made up of the parts of its format. By default a
few examples are tried; ``python -m pytest -m exhaustive tests/codec/test_fuzzing.py -s`` tries many, and prints
how many there were of each; with ``RUNSTREAM_TEST_ROUNDS=7`` so many times as many.
"""

from __future__ import annotations

import io
import json
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from random import Random
from typing import Any, NamedTuple

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runstream.codec.archive_entries import archive_entry, entry_fields, plain_entries
from runstream.codec.event_codec import Codec
from runstream.codec.extension_types import CONTAINERS, SCALARS
from runstream.codec.foreign_json import encode_foreign_event, load_foreign_json
from runstream.codec.lossless_json import dump_json, load_json
from runstream.codec.msgpack_values import Packer, unpack
from runstream.codec.record import decode_record
from runstream.codec.snapshot_fields import pack_state, read_saved, state_checksum
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, RunHeader
from runstream.model.errors import CorruptRecordError, EncodingError, InvalidRunId
from runstream.model.results import Cursor
from runstream.stores.archive.jsonl.commit_marks import Mark
from runstream.stores.archive.jsonl.line_format import (
    batch_text,
    facts_of,
    is_bare_mark,
    is_header,
    lane_and_seq_of,
    load_header,
    own_entry,
    plain_entry,
    readmitted_line,
)
from runstream.stores.archive.jsonl.log_index import LogIndex
from runstream.stores.archive.jsonl.snapshot_files import facts_of_snapshot, parse_snapshot, snapshot_text
from runstream.stores.archive.jsonl.spans import entries_in
from runstream.stores.archive.sqlite.row_values import (
    aside_in,
    entry_in,
    head_in,
    lane_offset_in,
    snapshot_head_in,
)
from tests.support.exhaustive import ROUNDS
from tests.support.samples import RICH_VALUES, make_event, sealed

EXAMPLES = 150 * ROUNDS
"""How many examples of each decoder are tried exhaustively, each with a hundred variants."""

LONGEST_SECONDS = 1.0
"""How long one example may take a processor; they are of a few kilobytes at most."""

PACKER = Packer(None)
CODEC: Codec[Any, Any] = Codec()


# -- input that is damaged, or made up -----------------------------------------------------------------------

_PIECES = [
    *(b"\0", b"\xff", b"\xc3", b"\x80", b"\n", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"null", b"true"),
    *(b"-1", b"9" * 20, b"9" * 5000, b"1e999", b"NaN", b'"$offset":', b'"$chain":', b'"$commit":{"status":'),
    *(b'{"$set":[[]]}', b'{"$dict":1}', b'{"$datetime":"x"}', b'{"$int":"-"}', b'"\\ud800"', b"[" * 2000),
    *(
        b"\x90",
        b"\x80",
        b"\x81",
        b"\xc0",
        b"\xc1",
        b"\xc7\x02\x02",
        b"\xd4\x03",
        b"\xd6\xff",
        b"\xdd\xff\xff\xff\xff",
    ),
]


def varied(rng: Random, data: bytes) -> bytes:
    """The data with up to three changes: by chance alone, which is a hundred times as fast as to draw them."""
    for _ in range(rng.randint(1, 3)):
        at, size = rng.randint(0, len(data)), rng.randint(0, 8)
        piece = rng.choice((rng.choice(_PIECES), rng.randbytes(rng.randint(1, 2))))
        data = rng.choice(
            (
                data[:at] + piece + data[at + len(piece) :],
                data[:at] + piece + data[at:],
                data[:at] + data[at + size :],
                data[: at + size] + data[at:],
            )
        )
    return data


def varied_hash(rng: Random, fields: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The hash with one of its fields changed."""
    name = rng.choice([*fields])
    return {**fields, (varied(rng, name) if rng.random() < 0.2 else name): varied(rng, fields[name])}


def varied_row(rng: Random, columns: list[Any]) -> list[Any]:
    """The same columns in another order."""
    return rng.sample(columns, len(columns))


@st.composite
def damaged(draw: st.DrawFn, sound: list[bytes]) -> bytes:
    """Sound input with bytes of it changed, removed, repeated or put in."""
    data = draw(st.sampled_from(sound))
    for _ in range(draw(st.integers(0, 3))):
        at, size = draw(st.integers(0, len(data))), draw(st.integers(0, 8))
        piece = draw(st.sampled_from(_PIECES) | st.binary(max_size=3))
        how = draw(st.integers(0, 3))
        if how == 0:
            data = data[:at] + piece + data[at + len(piece) :]
        elif how == 1:
            data = data[:at] + piece + data[at:]
        elif how == 2:
            data = data[:at] + data[at + size :]
        else:
            data = data[: at + size] + data[at:]
    return data


_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(st.characters(exclude_categories=()), max_size=8),
    st.binary(max_size=8),
)
_TEXTS = [
    *(
        "",
        "[",
        "2026-11-23",
        "2026-11-23T08:00:00+00:00[Europe]",
        f"2026-11-23T08:00:00+00:00[{'x' * 300}]",
        "[a\0b]",
    ),
    *(
        "2026-11-23T08:00:00[../../etc]",
        "08:00:00+00:00:00.000001",
        "24:00",
        "P1DT2.000003S",
        f"P{'9' * 5000}DT1.000000S",
    ),
    *(
        "P999999999999DT1.000000S",
        "NaN",
        "sNaN",
        "1E+999999999999",
        "-" * 9,
        "f" * 400,
        "0x1",
        "1_0",
        "{}",
        "\udcff",
    ),
]
# parts in msgpack, as bytes: so a map may have keys that Python has no dict for, and a key twice
_extensions = st.builds(
    lambda code, text: _packed(msgpack.ExtType(code, text)),
    st.integers(0, 12) | st.integers(0, 127),
    st.binary(max_size=12) | st.sampled_from([text.encode(errors="surrogatepass") for text in _TEXTS]),
)


def _packed(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    return packed


def _packed_list(parts: list[bytes]) -> bytes:
    return bytes((0x90 + len(parts),)) + b"".join(parts)


def _packed_map(pairs: list[tuple[bytes, bytes]]) -> bytes:
    return bytes((0x80 + len(pairs),)) + b"".join(map(b"".join, pairs))


_values = st.recursive(
    _scalars.map(_packed) | _extensions,
    lambda values: st.one_of(
        st.lists(values, max_size=4).map(_packed_list),
        st.lists(st.tuples(values, values), max_size=3).map(_packed_map),
        st.builds(lambda code, value: _packed(msgpack.ExtType(code, value)), st.integers(1, 3), values),
    ),
    max_leaves=8,
)
_NAMES = [
    "run_id",
    "session_id",
    "lane_id",
    "seq",
    "ts",
    "kind",
    "visibility",
    "payload",
    "$offset",
    "$schema",
    "x",
]
_SOUND = ["s", "main", "span", None, 1, 1.5, "agent.progress", "public", {"n": 1}]
_further = st.lists(st.tuples(st.sampled_from(_NAMES).map(_packed) | _values, _values), max_size=3).map(
    _packed_map
)


@st.composite
def near_events(draw: st.DrawFn) -> bytes:
    """The body of an event of which some values are others, and which has others behind them."""
    parts = [_packed(value) for value in _SOUND]
    for at in draw(st.sets(st.integers(0, 8), max_size=2)):
        parts[at] = draw(_values)
    return _packed_list(parts + draw(st.lists(_further | _values, max_size=3)))


_TAGS = [kind.tag[1:] for kind in (*SCALARS, *CONTAINERS)] + ["bytes", "float", "str", "dict", "unknown"]
_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(_TEXTS),
    lambda values: st.one_of(
        st.lists(values, max_size=4),
        st.dictionaries(st.sampled_from(_NAMES) | st.text(max_size=4), values, max_size=4),
        st.builds(
            lambda tag, value: {f"${tag}": value},
            st.sampled_from(_TAGS),
            values | st.lists(st.lists(values, max_size=3), max_size=3),
        ),
    ),
    max_leaves=10,
)
_json_texts = _json_values.map(lambda value: json.dumps(value).encode())


# -- the decoders, and sound input of each --------------------------------------------------------------------

_EVENTS = [
    make_event("r", 1, payload={"values": list(RICH_VALUES.values())}),
    make_event("r", 2, payload={"text": "plain", "n": [1, 2.5, None, {"a": b"\xff"}]}),
    make_event("r", -3, lane_id="bahn ü", kind="my.kind", payload={}),
]
_RECORDS = [one.record for one in CODEC.encode_events("r", _EVENTS, [None, "key", "schlüssel"])]
_BODIES = [record[5:] for record in _RECORDS]
_ENTRIES = [archive_entry("r", number, 7 * number, record) for number, record in enumerate(_RECORDS, 1)]
_SNAPSHOTS = [
    ArchiveSnapshot(None, 3, 2, "token", dump_json({"run_id": "r", "data": {"a": (1, {2})}})),
    ArchiveSnapshot("bahn ü", 0, 1, "t", "{}"),
]
_MARK = Mark("running", 2.5, "s", ((None, "token"), ("bahn ü", "t")), ("gone",), ("token",))
_LOG = batch_text(
    RunHeader("r", Cursor(0, 5), "s", "running", 1.0, 2.0, ("parent", 3)),
    Cursor(0, 5),
    [
        *_ENTRIES,
        ArchiveEntry(4, 28, None, None),
        ArchiveEntry(5, 35, "key", None, b"\x01raw", "why", 1.5),
    ],
    _MARK,
)
_PLAIN = [
    b'{"run_id":"r","kind":"run.started","ts":1.0,"payload":{"a":[1]}}',
    b'{"run_id":"r","kind":"x","payload":{"$offset":1,"$chain":2,"$commit":{"status":"running"}}}',
]
_LINES = [
    *_LOG.splitlines(),
    *_PLAIN,
    _LOG,
    _LOG + b"\n".join(_PLAIN) + b"\n" + _LOG.replace(b'"$offset":', b'"$offset":1'),
]
_PACKED = pack_state(PACKER, {"run_id": "r", "data": {"a": 1, "b": (2, {3})}, "list": [1, "x"], "empty": {}})
_columns = _scalars | st.integers() | st.binary(max_size=40) | st.sampled_from([entry.data for entry in _ENTRIES])


def _read_body(body: bytes) -> None:
    """A record by itself, for an archive, among others, and as an event: all agree whether it reads."""
    record = sealed(1, body)
    plain = plain_entries("r", [1], [7], [record])
    entry = archive_entry("r", 1, 7, record)  # UnsupportedVersion is all that it may raise
    assert plain is None or entry.raw is None
    try:
        decode_record("r", 1, record)
    except CorruptRecordError:
        assert entry.raw == record or entry.data is None
        raise
    CODEC.decode_event("r", 1, record)
    if entry.data is not None:
        entry_fields("r", entry)


def _read_hash(fields: dict[bytes, bytes]) -> None:
    saved = {**fields, b"offset": b"1", b"revision": b"2", b"token": b"t"}
    saved |= {name: value for name, value in fields.items() if name in (b"offset", b"revision", b"token")}
    packed = {name: value for name, value in saved.items() if name[:1].isdigit() or name[:1] == b"="}
    saved[b"checksum"] = b"%d" % state_checksum(packed)
    dump_json(read_saved(saved).state)


def _read_lines(text: bytes) -> None:
    """Each line by all that reads one, then all of them as a log."""
    for raw in io.BytesIO(text):
        line = raw.rstrip(b"\r\n")
        lane_and_seq_of(line)
        entry = plain_entry("r", Cursor(3, 9), line)
        facts = facts_of(line)
        if facts is None:
            continue
        is_header(line), is_bare_mark(facts)
        entry = own_entry(line, facts)
        readmitted_line(entry, raw)
        for read in (lambda: load_header(line), lambda: Mark.load(facts[4] or b"")):  # noqa: B023 - called at once
            with suppress(ValueError):
                read()
        with suppress(CorruptRecordError):
            entry_fields("r", entry)
    index = LogIndex("r")
    index.scan(io.BytesIO(text))
    _ = index.tokens
    if index.start is not None and index.last.offset < 10**6:
        list(entries_in("r", index.span(index.start.offset, index.last.offset), io.BytesIO(text)))
        list(index.spans_back(index.start.offset, index.last.offset))


def _read_row(columns: list[Any]) -> None:
    """The same columns as an event's row, as one of the quarantine, a run's, a snapshot's."""
    chain, key, data, checksum, *more = columns
    entry_in(7, 1, chain, key, data, checksum)
    entry = entry_in(7, 1, chain, key, data, None)
    aside_in("r", 1, chain, key, data, checksum, *more[:2])
    refused = []
    for read in (
        lambda: entry_fields("r", entry),
        lambda: head_in(["r", *columns, *columns[:4], None]),
        lambda: snapshot_head_in("r", chain, key, data, checksum, None, None),
        lambda: lane_offset_in("r", "main", *columns[:2]),
    ):
        try:
            read()
        except CorruptRecordError as error:
            refused.append(error)
    if len(refused) == 4:
        raise refused[0]


def _read_foreign(text: bytes) -> None:
    encode_foreign_event("r", load_foreign_json(text))


class Decoder(NamedTuple):
    """What decodes, what it is given, and the errors that its documentation names."""

    decode: Callable[[Any], object]
    inputs: st.SearchStrategy[Any]
    documented: tuple[type[Exception], ...]
    vary: Callable[[Random, Any], Any] = varied


_bodies = damaged(_BODIES) | near_events() | _values | st.binary(max_size=60)
DECODERS: dict[str, Decoder] = {
    "value in msgpack": Decoder(unpack, _bodies, (ValueError,)),
    "wire record": Decoder(_read_body, _bodies, (CorruptRecordError,)),
    "value in JSON": Decoder(
        load_json, damaged([(entry.data or "").encode() for entry in _ENTRIES]) | _json_texts, (ValueError,)
    ),
    "snapshot's hash": Decoder(
        _read_hash,
        st.dictionaries(
            st.sampled_from([*_PACKED.fields, b"offset", b"revision", b"token"]) | damaged(list(_PACKED.fields)),
            damaged(list(_PACKED.fields.values())) | _bodies | st.sampled_from([b"-1", b"1" * 30, b"x", b"\xff"]),
            max_size=8,
        ).map(lambda changed: {**_PACKED.fields, **changed}),
        (ValueError,),
        varied_hash,
    ),
    "JSONL lines": Decoder(_read_lines, damaged(_LINES), ()),
    "JSONL snapshot": Decoder(
        lambda content: (facts_of_snapshot(content), parse_snapshot("r", None, content)),
        damaged([snapshot_text(one) for one in _SNAPSHOTS] + [b'{"run_id":"r","$token":"t","$offset":1}'])
        | _json_texts,
        (CorruptRecordError,),
    ),
    "SQLite row": Decoder(
        _read_row, st.lists(_columns, min_size=12, max_size=12), (CorruptRecordError,), varied_row
    ),
    "foreign JSON": Decoder(
        _read_foreign, damaged(_PLAIN) | _json_texts, (ValueError, EncodingError, InvalidRunId)
    ),
}

_tried: dict[str, Counter[str]] = {name: Counter() for name in DECODERS}


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """Print what was tried of each decoder, for whoever asks with -s."""
    yield
    print(f"\n{'decoder':<20}{'examples':>10}{'values':>10}{'refused':>10}{'longest':>12}")
    for name, counts in _tried.items():
        examples = counts["values"] + counts["refused"]
        print(f"{name:<20}{examples:>10}{counts['values']:>10}{counts['refused']:>10}{counts['longest']:>9} ms")


def try_one(name: str, given_input: Any) -> None:
    """Decode it, and count what came of it."""
    decoder, counts = DECODERS[name], _tried[name]
    began = time.process_time()
    try:
        decoder.decode(given_input)
        counts["values"] += 1
    except decoder.documented:
        counts["refused"] += 1
    except Exception as error:
        raise AssertionError(f"{name}: {type(error).__name__} for {given_input!r}") from error
    took = time.process_time() - began
    counts["longest"] = max(counts["longest"], int(1000 * took))
    assert took < LONGEST_SECONDS, given_input


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(
    ("examples", "variants"), [(6, 3), pytest.param(EXAMPLES, 100, marks=pytest.mark.exhaustive)]
)
@pytest.mark.timeout(3600)
def test_a_decoder_gives_a_value_or_a_documented_error(name: str, examples: int, variants: int) -> None:
    decoder = DECODERS[name]

    @settings(max_examples=examples, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(decoder.inputs, st.integers(0, 2**32))
    def decode(given_input: Any, seed: int) -> None:
        try_one(name, given_input)
        rng = Random(seed)
        for _ in range(variants):
            try_one(name, decoder.vary(rng, given_input))

    decode()


@pytest.mark.parametrize(
    "body",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff\xc0",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\xdc\x27\x10" + b"\x90" * 10_000,
        b"\xdc\x13\x88" + b"\xd4\x02\x90" * 5_000,
        _packed(msgpack.ExtType(10, b"f" * 100_000)),
        _packed(msgpack.ExtType(8, b"1E+999999999")),
        _packed(msgpack.ExtType(7, b"P" + b"9" * 100_000 + b"DT1.000000S")),
    ],
    ids=["list", "map", "bytes", "deep", "many lists", "many sets", "int", "decimal", "duration"],
)
def test_the_memory_of_a_decoder_is_bounded_by_what_it_is_given(body: bytes) -> None:
    """A claim to hold more than there is costs nothing; a container of one byte is a Python object."""
    for decode in (unpack, _read_body):
        tracemalloc.start()
        try:
            with suppress(ValueError, CorruptRecordError):
                decode(body)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 200 * len(body) + 2**20


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"$tuple":[' * 50_000,
        b"9" * 100_000,
        b'{"$int":"%b"}' % (b"f" * 100_000),
    ],
    ids=["lists", "dicts", "tuples", "digits", "int"],
)
def test_the_memory_of_a_reader_of_json_is_bounded_too(text: bytes) -> None:
    for decode in (load_json, load_foreign_json, _read_lines):
        tracemalloc.start()
        try:
            with suppress(ValueError):
                decode(text)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 200 * len(text) + 2**20
