"""The format promise, byte by byte: what tests/kept/vectors says that bytes mean is read of them, and written so.

The meaning is in the notation of tests/kept/neutral.py, which knows nothing of the codec.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from runstream import CorruptRecordError, UnsupportedVersion
from runstream.codec.archive_entries import archive_entry, entry_fields
from runstream.codec.chain import next_chain
from runstream.codec.extension_types import BY_CODE
from runstream.codec.lossless_json import dump_json, load_json
from runstream.codec.msgpack_values import unpack
from runstream.codec.record import ERASED, RECORD_VERSION, decode_record, fields_of, key_of, record_crc
from runstream.codec.snapshot_fields import PackedState, pack_state, read_saved, state_checksum
from runstream.codec.stored import STORED_PACKER, stored_record
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, RunHeader
from runstream.model.results import Cursor
from runstream.model.run_head import SnapshotHead
from runstream.stores.archive.jsonl.commit_marks import Mark
from runstream.stores.archive.jsonl.line_format import (
    CHECKSUM,
    Header,
    batch_text,
    facts_of,
    is_bare_mark,
    is_header,
    is_sound,
    load_header,
    own_entry,
    plain_entry,
)
from runstream.stores.archive.jsonl.snapshot_files import parse_snapshot, snapshot_text
from runstream.stores.archive.sqlite.row_checksums import (
    aside_checksum,
    entry_checksum,
    row_checksum,
    run_seed,
    snapshot_checksums,
)
from runstream.stores.archive.sqlite.row_values import aside_in, entry_in, snapshot_head_in
from tests.kept.neutral import neutral, text

VECTORS = Path(__file__).parents[1] / "kept" / "vectors"
CURSOR = Cursor(7, 99)


def each(name: str) -> pytest.MarkDecorator:
    """A parameter for each vector of a file, under the name that it has there."""
    rows = json.loads((VECTORS / f"{name}.json").read_text(encoding="ascii"))
    assert len({row["what"] for row in rows}) == len(rows)
    return pytest.mark.parametrize("row", [pytest.param(row, id=row["what"]) for row in rows])


# -- values ----------------------------------------------------------------------------------------------


@each("values")
def test_a_value(row: dict[str, Any]) -> None:
    found = [unpack(bytes.fromhex(row["msgpack"]))] if "msgpack" in row else []
    found += [load_json(row["json"])] if "json" in row else []
    for value in found:
        assert text(neutral(value)) == text(row["value"])
        if not row.get("written", True):
            continue
        assert len(found) == 2
        assert STORED_PACKER.pack(value).hex() == row["msgpack"]
        assert dump_json(value) == row["json"]


def test_there_is_a_value_of_every_code_and_tag() -> None:
    """In both notations; one who adds a type adds vectors for it."""
    rows = (VECTORS / "values.json").read_text(encoding="ascii")
    said = {int(code): tag for code, tag in re.findall(r'"what": "code (\d+), (\$\w+)', rows)}
    assert said == {code: kind.tag for code, kind in BY_CODE.items()}
    for tag in [*said.values(), "$bytes", "$float", "$str", "$dict"]:
        assert f'"json": "{{\\"{tag}\\":' in rows or f'{{\\"{tag}\\":' in rows


# -- records ---------------------------------------------------------------------------------------------


@each("records")
def test_a_record(row: dict[str, Any]) -> None:
    record, run_id = bytes.fromhex(row["record"]), row["run_id"]
    entry = None if row.get("refused") == "UnsupportedVersion" else archive_entry(run_id, *CURSOR, record)
    if row.get("erased"):
        assert record == ERASED
        assert entry == ArchiveEntry(*CURSOR, None, None)
    elif row.get("refused") == "UnsupportedVersion":
        for read in (lambda: decode_record(run_id, 7, record), lambda: archive_entry(run_id, *CURSOR, record)):
            with pytest.raises(UnsupportedVersion) as newer:
                read()
            assert (newer.value.found, newer.value.supported) == (row["found"], RECORD_VERSION)
            assert (newer.value.run_id, newer.value.offset) == (run_id, 7)
    elif row.get("refused"):
        with pytest.raises(CorruptRecordError) as damaged:
            decode_record(run_id, 7, record)
        assert (damaged.value.run_id, damaged.value.offset, damaged.value.raw) == (run_id, 7, record)
        assert entry is not None
        assert (entry.cursor, entry.data, entry.raw) == (CURSOR, None, record)
    else:
        assert entry is not None
        values = decode_record(run_id, 7, record)
        assert (key_of(values), record_crc(record)) == (row["key"], row["crc"])
        assert (entry.key, entry.data, entry.raw) == (row["key"], row["json"], None)
        for fields in (fields_of(run_id, values), entry_fields(run_id, entry)):
            assert fields is not None
            assert text(neutral(fields)) == text(row["fields"])
            assert stored_record(run_id, fields, row["key"]) == record


def test_a_chain() -> None:
    """Three events after a start: chain = (chain before · 1021 + the record's checksum) mod (2^43 - 57)."""
    chain = 8_796_093_022_150
    for crc, expected in ((0, 8_796_093_021_130), (2**32 - 1, 4_293_924_854), (1, 4_384_097_275_935)):
        chain = next_chain(chain, crc)
        assert chain == expected


# -- snapshots in Redis ----------------------------------------------------------------------------------


@each("snapshot_hashes")
def test_the_hash_of_a_snapshot(row: dict[str, Any]) -> None:
    saved = {name.encode(errors="surrogatepass"): bytes.fromhex(value) for name, value in row["hash"].items()}
    if row.get("refused"):
        with pytest.raises(ValueError, match=r"checksum|token"):
            read_saved(saved)
        return
    for order in (saved, dict(reversed(saved.items()))):  # a hash has none
        offset, revision, token, state, packed = read_saved(order)
        assert (offset, revision, token) == (row["offset"], row["revision"], row["token"])
        assert text(neutral(state)) == text(row["state"])
    before = row.get("before")
    ranks = None if before is None else PackedState(ranks={name.encode(): rank for name, rank in before.items()})
    made = pack_state(STORED_PACKER, state, ranks)
    assert made.fields == packed.fields
    assert {**saved, **made.fields} == saved
    assert state_checksum(made.fields) == int(saved[b"checksum"])


# -- JSONL -----------------------------------------------------------------------------------------------


@each("jsonl_lines")
def test_a_line_of_an_event_log(row: dict[str, Any]) -> None:
    line = row["line"].encode()
    facts = facts_of(line)
    if "plain" in row:
        assert facts is None
        entry = plain_entry("run-42", Cursor(*row["after"]), line)
        plain = row["plain"]
        assert (entry.cursor, entry.key, entry.data) == (
            Cursor(plain["offset"], plain["chain"]),
            plain["key"],
            plain["data"],
        )
        assert (None if entry.raw is None else entry.raw.hex()) == plain["raw"]
        return
    assert facts is not None
    at, header, entries = Cursor(int(facts[1]), int(facts[2])), None, []
    assert is_header(line) == ("header" in row)
    assert is_bare_mark(facts) == ("at" in row)
    if "header" in row:
        noted = row["header"]
        parent = noted["parent"] and tuple(noted["parent"])
        base = Cursor(*noted["base"]) if "base" in noted else None
        assert load_header(line) == Header(noted["run_id"], noted["created_at"], parent, base=base)
        assert at == Cursor(*noted["start"])
        header = RunHeader("run-42", at, created_at=noted["created_at"], parent=parent, base=base)
    elif "at" in row:
        assert at == Cursor(*row["at"])
    else:
        entry = own_entry(line, facts)
        wanted = dict(row["entry"])
        raw = wanted.pop("raw")
        assert entry == ArchiveEntry(raw=None if raw is None else bytes.fromhex(raw), **wanted)
        entries = [entry]
    mark = Mark("running", 0.0)
    if "mark" in row:
        mark = Mark.load(facts[4])
        unsaid = {"drained": False, "ended": [], "tags": ["", None], "erased": []}
        assert json.loads(json.dumps(mark._asdict())) == {**unsaid, **row["mark"]}
    assert is_sound(line, facts)
    if not row.get("written", True):
        return
    written = batch_text(header, at, entries, mark).decode()
    content = line[: line.rindex(CHECKSUM)].decode()
    assert written == f"{line.decode()}\n" if "mark" in row else written.startswith(content)


@each("jsonl_snapshots")
def test_the_file_of_a_snapshot(row: dict[str, Any]) -> None:
    snapshot = parse_snapshot("run-42", row["lane_id"], row["line"].encode())
    assert snapshot == ArchiveSnapshot(*(row[name] for name in ("lane_id", "offset", "revision", "token", "data")))
    if row.get("written", True):
        assert snapshot_text(snapshot).decode() == row["line"] + "\n"


# -- SQLite ----------------------------------------------------------------------------------------------


@each("sqlite_rows")
def test_the_checksum_of_a_row(row: dict[str, Any]) -> None:
    run_id, lane_id = row.get("run_id", ""), row.get("lane_id")
    if row["table"] == "events":
        place = run_seed(run_id), row["offset"], row["chain"]
        assert entry_checksum(*place, row["key"], row["data"]) == row["checksum"]
        data = row["data"] or None  # as an entry that was erased is read
        entry = entry_in(*place, row["key"], data, row["checksum"])
        assert entry == ArchiveEntry(row["offset"], row["chain"], row["key"], data)
        for other in (dict(row, chain=4712), dict(row, key="other"), dict(row, data="{}"), dict(row, offset=8)):
            read = entry_in(place[0], *(other[name] for name in ("offset", "chain", "key", "data", "checksum")))
            assert read.is_damaged
    elif row["table"] == "quarantine":
        at, raw, checksum = (run_id, row["offset"], row["chain"]), bytes.fromhex(row["raw"]), row["checksum"]
        reason, since = row["reason"], row["quarantined_at"]
        assert aside_checksum(*at, row["key"], raw, reason, since) == checksum
        assert not aside_in(*at, row["key"], raw, checksum, reason, since).is_damaged
        assert aside_in(*at, row["key"], raw + b"x", checksum, reason, since).is_damaged
    elif "columns" in row:
        assert row_checksum(*row["columns"]) == row["checksum"]
    else:
        noted = SnapshotHead(lane_id, row["offset"], row["revision"], row["token"])
        found = row["checksum"], row["state_checksum"]
        assert snapshot_checksums(run_id, (*noted, row["state"])) == found
        assert snapshot_head_in(run_id, *noted, *found) == noted
