"""The wire record: one event as it lies in Redis.

====================  ======================================================================
version               1 byte: 1. A single byte 0 is an entry that was erased
checksum              4 bytes, big-endian: crc32 of run id, version byte and body
body                  msgpack array: session_id, lane_id, span_id, parent_span_id, seq, ts,
                      kind, visibility, payload, then, where there is one of the two,
                      a map of further fields (or nil) and the caller's key
====================  ======================================================================

The run id is in the key and not repeated; that it is part of the checksum shows a record that was
copied into another run. Version and checksum stand at the same place in every version to come, so a
newer record can be told from a damaged one.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from runstream.codec.msgpack_values import Packer, unpack, unpack_plain
from runstream.model.errors import CorruptRecordError, EncodingError, UnsupportedVersion
from runstream.model.identifiers import MAX_NAME_BYTES, check_name

__all__ = [
    "ERASED",
    "FIELDS",
    "RECORD_VERSION",
    "check_all_values",
    "check_values",
    "decode_plain_records",
    "decode_record",
    "encode_record",
    "fields_of",
    "key_of",
    "record_crc",
    "seed",
]

RECORD_VERSION = 1
ERASED = b"\x00"
FIELDS = (
    "session_id",
    "lane_id",
    "span_id",
    "parent_span_id",
    "seq",
    "ts",
    "kind",
    "visibility",
    "payload",
)
_HEAD = 5
_SIZES = frozenset(range(len(FIELDS), len(FIELDS) + 3))
_VERSION_BYTE = bytes((RECORD_VERSION,))


@lru_cache(maxsize=1024)  # a log is read record by record, and all of a run's have the same
def seed(run_id: str, version: int = RECORD_VERSION) -> int:
    """The checksum's start for the records of a run."""
    return zlib.crc32(bytes((version,)), zlib.crc32(run_id.encode()))


_TEXTS = tuple((name, FIELDS.index(name)) for name in ("session_id", "lane_id", "kind", "visibility"))
_SEQ, _TS = FIELDS.index("seq"), FIELDS.index("ts")


def check_values(values: list[Any]) -> None:
    """Raise EncodingError, naming the field, for values that could not be keys in Redis or columns in SQLite."""
    session_id, lane_id, _, _, _, _, kind, visibility = values[:8]
    if type(session_id) is type(lane_id) is type(kind) is type(visibility) is str:
        together = session_id + lane_id + kind + visibility
        is_sound = together.isascii() and len(together) <= MAX_NAME_BYTES  # as nearly all are
    else:
        is_sound = False
    if not is_sound:
        for name, place in _TEXTS:
            check_name(name, values[place])
    seq, ts = values[_SEQ], values[_TS]
    if not isinstance(seq, int) or not -(2**63) <= seq < 2**63:
        raise EncodingError(f"seq is an integer of 64 bits, not {seq!r:.80}", path="seq")
    if not isinstance(ts, int | float) or not math.isfinite(ts):
        raise EncodingError(f"ts is Unix time in seconds, not {ts!r:.80}", path="ts")


def check_all_values(events: Sequence[Sequence[Any]]) -> None:
    """As ``check_values`` for each event that unpacked, column by column.

    Raises TypeError too, and also for what is no fault but wants to be looked at by itself.
    """
    columns = list(zip(*events, strict=False))
    for name, place in _TEXTS:
        for value in set(columns[place]):
            check_name(name, value)
    seqs, times = columns[_SEQ], columns[_TS]
    if set(map(type, seqs)) != {int} or max(seqs) >= 2**63:  # less than 64 bits hold does not unpack as int
        raise EncodingError("seq is an integer of 64 bits", path="seq")
    if not all(map(math.isfinite, times)):
        raise EncodingError("ts is Unix time in seconds", path="ts")


def encode_record(packer: Packer, crc_seed: int, values: list[Any]) -> bytes:
    """The record of an event whose fields, in the order of FIELDS, are ``values``.

    Raises EncodingError for a value that cannot be stored.
    """
    try:
        body = packer.pack(values)
    except EncodingError:
        packer.pack(dict(zip(FIELDS, values, strict=False)))  # the same failure, with the field's name in its path
        raise
    return _VERSION_BYTE + zlib.crc32(body, crc_seed).to_bytes(4, "big") + body


def record_crc(record: bytes) -> int:
    """The checksum that a record carries: what it adds to the chain."""
    return int.from_bytes(record[1:_HEAD], "big")


def _body(run_id: str, offset: int, record: bytes) -> bytes:
    """The record's body, checked. Raises CorruptRecordError or UnsupportedVersion."""
    body = record[_HEAD:]
    version = record[0] if record else 0
    if len(record) <= _HEAD or zlib.crc32(body, seed(run_id, version)) != record_crc(record):
        raise _corrupt(run_id, offset, record, "its checksum does not match")
    if version != RECORD_VERSION:
        raise UnsupportedVersion(
            f"event {offset} of run {run_id!r} has record version {version}; this runstream reads up to"
            f" {RECORD_VERSION}: upgrade it",
            found=version,
            supported=RECORD_VERSION,
        )
    return body


def _corrupt(run_id: str, offset: int, record: bytes, why: str) -> CorruptRecordError:
    return CorruptRecordError(
        f"event {offset} of run {run_id!r} does not read: {why}; its neighbours are not affected"
        ' (read with on_corrupt="skip" passes over it)',
        run_id=run_id,
        offset=offset,
        raw=record,
    )


def _checked(run_id: str, offset: int, record: bytes, values: Any) -> list[Any]:
    if type(values) is not list or not len(FIELDS) <= len(values) <= len(FIELDS) + 2:
        raise _corrupt(run_id, offset, record, "it is not an event")
    return values


def decode_record(run_id: str, offset: int, record: bytes) -> list[Any]:
    """The values of an event in the order of FIELDS, then further fields and key where there are any.

    Raises CorruptRecordError for a record that fails its checksum or does not decode, and
    UnsupportedVersion for one of a newer version.
    """
    body = _body(run_id, offset, record)
    try:
        return _checked(run_id, offset, record, unpack(body))
    except ValueError as error:
        raise _corrupt(run_id, offset, record, str(error)) from error


def decode_plain_records(run_id: str, records: Sequence[bytes]) -> list[list[Any]] | None:
    """As decode_record for each, if all are sound and plain (see ``packing.unpack_plain``); otherwise None."""
    bodies = [record[_HEAD:] for record in records]
    start = seed(run_id)
    for record, body in zip(records, bodies, strict=True):
        if record[:_HEAD] != _VERSION_BYTE + zlib.crc32(body, start).to_bytes(4, "big"):
            return None
    decoded = unpack_plain(bodies)
    if decoded is None or set(map(type, decoded)) != {list} or not _SIZES.issuperset(map(len, decoded)):
        return None
    return decoded


def fields_of(run_id: str, values: list[Any]) -> dict[str, Any]:
    """The event as a dict: the ten fields, then the further ones."""
    # written out: it takes a third of the time of dict(zip(...)), for every event that is read or archived
    session_id, lane_id, span_id, parent_span_id, seq, ts, kind, visibility, payload, *more = values
    fields = {
        "run_id": run_id,
        "session_id": session_id,
        "lane_id": lane_id,
        "span_id": span_id,
        "parent_span_id": parent_span_id,
        "seq": seq,
        "ts": ts,
        "kind": kind,
        "visibility": visibility,
        "payload": payload,
    }
    if more and more[0]:
        fields.update(more[0])
    return fields


def key_of(values: list[Any]) -> str | None:
    """The caller's key of an event, or None."""
    return values[len(FIELDS) + 1] if len(values) > len(FIELDS) + 1 else None
