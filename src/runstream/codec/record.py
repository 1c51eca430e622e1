"""The wire record: the bytes of one event in Redis.

====================  ======================================================================
version               1 byte: 1. A single byte 0 is an entry that was erased
checksum              4 bytes, big-endian: CRC-32 of run id, version byte and body
body                  msgpack array: session_id, lane_id, span_id, parent_span_id, seq, ts,
                      kind, visibility, payload, then, where there is one of the two,
                      a map of further fields (or nil) and the caller's key
====================  ======================================================================

The checksum is the CRC-32 of zlib, gzip and PNG (ITU-T V.42, polynomial 0x04C11DB7 reflected). The run id is in
the key and not repeated in the record; it is part of the checksum, which so refuses a record that was copied into
another run. Every version to come has version and checksum at the same bytes, so that a newer record can
be distinguished from a damaged one.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgpack

from runstream.codec.msgpack_values import Packer, unpack, unpack_plain
from runstream.codec.stored_fields import check_names
from runstream.model.errors import CorruptRecordError, EncodingError, UnsupportedVersion
from runstream.model.events import HIGHEST_SEQ
from runstream.model.identifiers import MAX_NAME_BYTES, check_name, shown

__all__ = [
    "DEFAULTS",
    "ERASED",
    "FIELDS",
    "OWN",
    "RECORD_VERSION",
    "check_fields",
    "check_values",
    "decode_plain_records",
    "decode_record",
    "encode_record",
    "fields_of",
    "further_fields",
    "is_sound",
    "key_of",
    "lane_and_seq",
    "record_body",
    "record_crc",
    "seed",
    "seq_of_record",
]

RECORD_VERSION = 1
"""The version that this runstream writes, and the newest that it reads."""

ERASED = b"\x00"
"""The record of an entry that was erased."""

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
"""The fields of an event in the order in which the body has them."""

OWN = frozenset({"run_id", *FIELDS})
"""The names of an event's ten fields; any other is a further field."""

DEFAULTS: Mapping[str, Any] = {
    "session_id": "",
    "lane_id": "main",
    "span_id": "",
    "parent_span_id": None,
    "seq": 0,
    "visibility": "public",
    "payload": {},
}
"""What an event has for a field that it lacks."""

_HEAD = 5  # bytes of version and checksum
_SIZES = frozenset(range(len(FIELDS), len(FIELDS) + 3))
_VERSION_BYTE = bytes((RECORD_VERSION,))


@lru_cache(maxsize=1024)  # a log is read record by record, and all of a run's have the same
def seed(run_id: str, version: int = RECORD_VERSION) -> int:
    """The CRC-32 of what comes before a record's body: the run id and the version byte.

    Args:
        run_id: The run.
        version: The record's version.
    """
    return zlib.crc32(bytes((version,)), zlib.crc32(run_id.encode()))


_TEXTS = tuple((name, FIELDS.index(name)) for name in ("session_id", "lane_id", "kind", "visibility"))
_LANE, _SEQ, _TS = (FIELDS.index(name) for name in ("lane_id", "seq", "ts"))


def check_values(values: Sequence[Any]) -> None:
    """Refuse an event whose fields could not be keys in Redis or columns in SQLite.

    Whatever it is read from, an event was written under this rule, by the first version and by every later one.

    Args:
        values: The event's values in the order of FIELDS.

    Raises:
        EncodingError: One cannot be; ``path`` is its field.
    """
    session_id, lane_id, _, _, _, _, kind, visibility = values[:8]
    if type(session_id) is type(lane_id) is type(kind) is type(visibility) is str:
        together = session_id + lane_id + kind + visibility
        is_sound = together.isascii() and len(together) <= MAX_NAME_BYTES  # as nearly all are
    else:
        is_sound = False
    if not is_sound:
        for name, index in _TEXTS:
            check_name(name, values[index])
    seq, ts = values[_SEQ], values[_TS]
    if not isinstance(seq, int) or not -(2**63) <= seq < 2**63:
        raise EncodingError(f"seq is an integer of 64 bits, not {shown(seq)}", path="seq")
    if not (type(ts) is float and ts - ts == 0) and not _is_time(ts):  # nearly all are floats, and finite
        raise EncodingError(f"ts is Unix time in seconds, not {shown(ts)}", path="ts")


def _is_time(ts: Any) -> bool:
    try:
        return isinstance(ts, int | float) and math.isfinite(ts)
    except OverflowError:  # an integer beyond what a column of floats holds
        return False


def _check_further(further: Mapping[str, Any]) -> None:
    """Refuse further fields that no event can have had."""
    check_names(further, is_stored=True)
    if not OWN.isdisjoint(further):
        raise EncodingError("a further field has the name of one of the ten")


def _check_stored(values: Sequence[Any]) -> None:
    """Refuse what was unpacked unless it is an event, further fields and key included."""
    check_values(values)
    if len(values) > len(FIELDS):  # as few are
        further, *keys = values[len(FIELDS) :]
        if further is not None:
            if type(further) is not dict:
                raise EncodingError("its further fields are no map")
            _check_further(further)
        for key in keys:
            if key is not None:
                check_name("key", key)


def _check_all_stored(events: Sequence[Sequence[Any]]) -> None:
    """Refuse events as ``_check_stored`` does, many at once and column by column.

    Raises:
        EncodingError: One of them may be at fault: check each by itself.
        TypeError: Likewise.
    """
    columns = list(zip(*events, strict=False))
    for name, index in _TEXTS:
        for value in set(columns[index]):
            check_name(name, value)
    seqs, times = columns[_SEQ], columns[_TS]
    if set(map(type, seqs)) != {int} or max(seqs) >= 2**63:  # less than 64 bits hold does not unpack as int
        raise EncodingError("seq is an integer of 64 bits", path="seq")
    if not all(map(math.isfinite, times)):
        raise EncodingError("ts is Unix time in seconds", path="ts")
    for values in events:
        if len(values) > len(FIELDS):
            _check_stored(values)


def check_fields(run_id: str, fields: Mapping[str, Any]) -> None:
    """Refuse fields that were read from an archive unless they are an event's.

    Args:
        run_id: The run that they were found in.
        fields: The fields by name; absent ones count as their defaults.

    Raises:
        EncodingError: They are not; ``path`` is the field at fault.
    """
    if fields.get("run_id") != run_id:
        raise EncodingError(f"it is an event of run {shown(fields.get('run_id'))}", path="run_id")
    check_values([fields[name] if name in fields else DEFAULTS.get(name) for name in FIELDS])
    if len(fields) > len(OWN) or not OWN.issuperset(fields):
        _check_further({name: part for name, part in fields.items() if name not in OWN})


def encode_record(packer: Packer, crc_seed: int, values: list[Any]) -> bytes:
    """Encode an event as a record.

    Args:
        packer: Packs its values.
        crc_seed: What ``seed`` gives for its run.
        values: Its values in the order of FIELDS, then further fields and key where there are any.

    Returns:
        The record.

    Raises:
        EncodingError: A value cannot be stored.
    """
    try:
        body = packer.pack(values, level=0)  # the payload is at depth 1
    except EncodingError:
        named = dict(zip(FIELDS, values, strict=False))
        more = values[len(FIELDS)] if len(values) > len(FIELDS) else None
        packer.pack(named | (more or {}), level=0)  # the same failure, with the field's name in its path
        raise
    return _VERSION_BYTE + zlib.crc32(body, crc_seed).to_bytes(4, "big") + body


def record_crc(record: bytes) -> int:
    """The checksum in a record: what it adds to the chain."""
    return int.from_bytes(record[1:_HEAD], "big")


def record_body(record: bytes) -> bytes:
    """The body of a record, unchecked: its values, packed."""
    return record[_HEAD:]


def _body(run_id: str, offset: int, record: bytes) -> bytes:
    """The record's body, once its checksum and version were checked."""
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
            run_id=run_id,
            offset=offset,
        )
    return body


def is_sound(run_id: str, record: bytes) -> bool:
    """Whether a record of any version, written for this run, is as it was: its checksum is that of its bytes."""
    try:
        _body(run_id, 0, record)
    except UnsupportedVersion:
        return True
    except CorruptRecordError:
        return False
    return True


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
    try:
        _check_stored(values)
    except EncodingError as error:
        raise _corrupt(run_id, offset, record, f"it is not an event: {error}") from error
    return values


def decode_record(run_id: str, offset: int, record: bytes) -> list[Any]:
    """Decode a record.

    Args:
        run_id: The run that it was found in.
        offset: The offset that it was found at, for the errors.
        record: The record.

    Returns:
        The event's values in the order of FIELDS, then further fields and key where there are any.

    Raises:
        CorruptRecordError: It fails its checksum, or holds no event.
        UnsupportedVersion: A newer runstream wrote it.
    """
    body = _body(run_id, offset, record)
    try:
        return _checked(run_id, offset, record, unpack(body))
    except ValueError as error:
        raise _corrupt(run_id, offset, record, str(error)) from error


def lane_and_seq(run_id: str, offset: int, record: bytes) -> tuple[str, int]:
    """The lane and the ``seq`` of a record's event: what comes after them is not unpacked.

    Args:
        run_id: The run that it was found in.
        offset: The offset that it was found at, for the errors.
        record: The record, not one that was erased.

    Raises:
        CorruptRecordError: It fails its checksum, or has no such fields.
        UnsupportedVersion: A newer runstream wrote it.
    """
    body = _body(run_id, offset, record)
    unpacker = msgpack.Unpacker(read_size=64, max_buffer_size=len(body) + 64, unicode_errors="surrogatepass")
    unpacker.feed(body)
    try:
        unpacker.read_array_header()
        fields = [unpacker.unpack() for _ in range(_SEQ + 1)]
    except (msgpack.UnpackException, ValueError) as error:
        raise _corrupt(run_id, offset, record, str(error)) from error
    lane_id, seq = fields[_LANE], fields[_SEQ]
    if not isinstance(lane_id, str) or not isinstance(seq, int):
        raise _corrupt(run_id, offset, record, "it is not an event")
    return lane_id, seq


def seq_of_record(run_id: str, record: bytes) -> int:
    """The ``seq`` of a record's event; the highest for a record that does not read, the lowest for one erased.

    Args:
        run_id: The run that it was found in.
        record: The record.
    """
    if record == ERASED:
        return -HIGHEST_SEQ
    try:
        return lane_and_seq(run_id, 0, record)[1]
    except (CorruptRecordError, UnsupportedVersion):
        return HIGHEST_SEQ


def decode_plain_records(run_id: str, records: Sequence[bytes]) -> list[list[Any]] | None:
    """Decode many records at once, if all are sound and plain.

    Args:
        run_id: The run that they were found in.
        records: The records.

    Returns:
        What ``decode_record`` gives for each. None if one of them is damaged, of another version, or holds what
        :func:`~runstream.codec.msgpack_values.unpack_plain` does not take for plain.
    """
    bodies = [record[_HEAD:] for record in records]
    start = seed(run_id)
    for record, body in zip(records, bodies, strict=True):
        if record[:_HEAD] != _VERSION_BYTE + zlib.crc32(body, start).to_bytes(4, "big"):
            return None
    decoded = unpack_plain(bodies)
    if decoded is None or set(map(type, decoded)) != {list} or not _SIZES.issuperset(map(len, decoded)):
        return None
    try:
        _check_all_stored(decoded)
    except (EncodingError, TypeError):
        return None
    return decoded


def fields_of(run_id: str, values: list[Any]) -> dict[str, Any]:
    """An event as a dict: the ten fields, then the further ones.

    Args:
        run_id: The run.
        values: What ``decode_record`` gave.
    """
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


def further_fields(values: list[Any]) -> dict[str, Any]:
    """The fields that an event has besides the ten."""
    return (values[len(FIELDS)] or {}) if len(values) > len(FIELDS) else {}


def key_of(values: list[Any]) -> str | None:
    """The caller's key of an event; None if it has none."""
    return values[len(FIELDS) + 1] if len(values) > len(FIELDS) + 1 else None
