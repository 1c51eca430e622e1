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

import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgpack

from runstream.codec.field_checks import FIELDS, check_all_stored, check_stored
from runstream.codec.msgpack_values import Packer, unpack
from runstream.codec.plain_msgpack import unpack_plain
from runstream.model.errors import CorruptRecordError, EncodingError, UnsupportedVersion
from runstream.model.events import HIGHEST_SEQ
from runstream.model.identifiers import check_name

__all__ = [
    "ERASED",
    "FIELDS",
    "RECORD_VERSION",
    "TRACEPARENT",
    "LaneFilter",
    "decode_plain_records",
    "decode_record",
    "encode_record",
    "fields_of",
    "further_fields",
    "is_sound",
    "key_noted",
    "key_of",
    "lane_and_seq",
    "record_body",
    "record_crc",
    "seed",
    "seq_of_record",
    "traced",
]

RECORD_VERSION = 1
"""The version that this runstream writes, and the newest that it reads."""

ERASED = b"\x00"
"""The record of an entry that was erased."""

TRACEPARENT = "traceparent"
"""The further field that has the trace context of an event (W3C Trace Context)."""

_HEAD = 5  # bytes of version and checksum
_SIZES = frozenset(range(len(FIELDS), len(FIELDS) + 3))
_VERSION_BYTE = bytes((RECORD_VERSION,))
_LANE, _SEQ = FIELDS.index("lane_id"), FIELDS.index("seq")


@lru_cache(maxsize=1024)  # a log is read record by record, and all of a run's have the same
def seed(run_id: str, version: int = RECORD_VERSION) -> int:
    """The CRC-32 of what comes before a record's body: the run id and the version byte.

    Args:
        run_id: The run.
        version: The record's version.
    """
    return zlib.crc32(bytes((version,)), zlib.crc32(run_id.encode()))


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
        check_stored(values)
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


class LaneFilter:
    """Tells which records of a run are of one lane, most of them without unpacking them.

    Args:
        run_id: The run.
        lane_id: The lane.
    """

    def __init__(self, run_id: str, lane_id: str) -> None:
        self._run_id, self._lane_id = run_id, lane_id
        self._name = msgpack.packb(lane_id)

    def has(self, record: bytes, written_as: str | None = None) -> bool:
        """Whether the event in a record is of the lane; one that was erased is of none.

        Args:
            record: The record.
            written_as: The run as which it was made; None: the filter's own.

        Raises:
            CorruptRecordError: The record fails its checksum, or has no lane.
            UnsupportedVersion: A newer runstream wrote it.
        """
        if record == ERASED:
            return False
        run_id = written_as or self._run_id
        if self._name not in record:  # then it is of another one, if it is sound
            _body(run_id, 0, record)
            return False
        return lane_and_seq(run_id, 0, record)[0] == self._lane_id


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


def decode_plain_records(
    run_id: str, records: Sequence[bytes], *, is_for_json: bool = True
) -> list[list[Any]] | None:
    """Decode many records at once, if all are sound and plain.

    Args:
        run_id: The run that they were found in.
        records: The records.
        is_for_json: Whether only what JSON has a type for is plain.

    Returns:
        What ``decode_record`` gives for each. None if one of them is damaged, of another version, or holds what
        :func:`~runstream.codec.plain_msgpack.unpack_plain` does not take for plain.
    """
    bodies = [record[_HEAD:] for record in records]
    start = seed(run_id)
    for record, body in zip(records, bodies, strict=True):
        if record[:_HEAD] != _VERSION_BYTE + zlib.crc32(body, start).to_bytes(4, "big"):
            return None
    decoded = unpack_plain(bodies, is_for_json=is_for_json)
    if decoded is None or set(map(type, decoded)) != {list} or not _SIZES.issuperset(map(len, decoded)):
        return None
    try:
        check_all_stored(decoded)
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


def key_noted(run_id: str, record: bytes) -> str | None:
    """The caller's key in a sound record that may hold no event: it is known to the run all the same.

    Args:
        run_id: The run.
        record: The record.
    """
    try:
        values = unpack(_body(run_id, 0, record))
        key = key_of(values) if type(values) is list else None
        if key is not None:
            check_name("key", key)
    except (ValueError, CorruptRecordError, EncodingError, UnsupportedVersion):
        return None
    return key


def traced(values: list[Any], context: str) -> list[Any]:
    """A record's values with a trace context among the further fields, unless the event has one of its own."""
    own, rest = values[: len(FIELDS)], values[len(FIELDS) + 1 :]
    return [*own, {TRACEPARENT: context, **further_fields(values)}, *rest]
