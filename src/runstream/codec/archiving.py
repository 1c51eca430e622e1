"""From the wire record to what an archive keeps, and from there to the event's fields."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from runstream.codec.lossless_json import dump_json, dump_plain_json, load_json
from runstream.codec.record import (
    ERASED,
    check_all_values,
    check_values,
    decode_plain_records,
    decode_record,
    fields_of,
    key_of,
)
from runstream.model.archive import ArchiveEntry, PlainEntries
from runstream.model.errors import CorruptRecordError, EncodingError
from runstream.model.names import check_name
from runstream.model.values import Cursor

__all__ = ["archive_entries", "archive_entry", "entry_fields", "plain_entries"]

_MANY = 100  # so few that their values go before Python's collector looks for them


def archive_entry(run_id: str, offset: int, chain: int, record: bytes) -> ArchiveEntry:
    """What an archive keeps of a record. One that does not read is kept aside as bytes, with the reason.

    Raises UnsupportedVersion for a record of a newer version.
    """
    if record == ERASED:
        return ArchiveEntry(offset, chain, None, None)
    try:
        values = decode_record(run_id, offset, record)
        check_values(values)
        return _entry(Cursor(offset, chain), values, dump_json(fields_of(run_id, values)))
    except (CorruptRecordError, EncodingError, ValueError, RecursionError) as error:
        # where the checksum held, it is a record of another program, or nested beyond JSON's depth
        return ArchiveEntry(offset, chain, None, None, raw=record, reason=str(error))


def archive_entries(run_id: str, records: Iterable[tuple[Cursor, bytes]]) -> Iterator[ArchiveEntry]:
    """As archive_entry for each of these (plain events many at once, which takes a third of the time)."""
    left = iter(records)
    while some := list(islice(left, _MANY)):
        entries = _together(run_id, some)
        if entries is not None:
            yield from entries
            continue
        for one in some:
            cursor, record = one
            yield from _together(run_id, [one]) or [archive_entry(run_id, *cursor, record)]


def plain_entries(
    run_id: str, offsets: Sequence[int], chains: Sequence[int], records: Sequence[bytes]
) -> PlainEntries | None:
    """As archive_entry for each of these; None where there is none, or one wants to be looked at by itself."""
    parts = []
    for first in range(0, len(records), _MANY):
        part = _columns(run_id, records[first : first + _MANY])
        if part is None:
            return None
        parts.append(part)
    columns = [list(chain.from_iterable(column)) for column in zip(*parts, strict=True)]
    return PlainEntries([offsets, chains, *columns]) if columns else None


def _together(run_id: str, entries: Sequence[tuple[Cursor, bytes]]) -> PlainEntries | None:
    places, records = zip(*entries, strict=True)
    offsets, chains = zip(*places, strict=True)
    return plain_entries(run_id, offsets, chains, records)


def _columns(run_id: str, records: Sequence[bytes]) -> Sequence[Iterable[Any]] | None:
    """Key, data, seq, ts, kind and lane_id of plain events."""
    decoded = decode_plain_records(run_id, records)
    if decoded is None:
        return None
    try:
        check_all_values(decoded)
        texts = dump_plain_json([fields_of(run_id, values) for values in decoded])
        keys = list(map(key_of, decoded))
        for key in set(keys) - {None}:
            check_name("key", key)
    except (EncodingError, TypeError, ValueError):  # of another program
        return None
    if texts is None:
        return None
    _, lanes, _, _, seqs, times, kinds, *_ = zip(*decoded, strict=False)  # some have more than the nine
    return keys, texts, seqs, map(float, times), kinds, lanes


def _entry(at: Cursor, values: list[Any], data: str) -> ArchiveEntry:
    key = key_of(values)
    if key is not None:
        check_name("key", key)
    _, lane_id, _, _, seq, ts, kind, *_ = values
    return ArchiveEntry(*at, key, data, None, "", 0.0, int(seq), float(ts), kind, lane_id)


def entry_fields(run_id: str, entry: ArchiveEntry) -> dict[str, Any] | None:
    """The event's fields, or None for an entry that was erased.

    Raises CorruptRecordError for one that was kept aside or whose text no longer reads.
    """
    if entry.data is None and entry.raw is None:
        return None
    reason = entry.reason
    if entry.data is not None:
        try:
            fields = load_json(entry.data)
            if isinstance(fields, dict):
                return fields
            reason = "its text is not an object"
        except ValueError as error:
            reason = str(error)
    raise CorruptRecordError(
        f"event {entry.offset} of run {run_id!r} does not read: {reason}",
        run_id=run_id,
        offset=entry.offset,
        raw=entry.raw if entry.raw is not None else (entry.data or "").encode(),
    )
