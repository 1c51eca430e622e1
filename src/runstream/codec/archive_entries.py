"""From the wire record to what an archive keeps, and from there to the event's fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
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
from runstream.model.archive_records import ArchiveEntry, PlainEntries
from runstream.model.errors import CorruptRecordError, EncodingError
from runstream.model.identifiers import check_name
from runstream.model.results import Cursor

__all__ = ["archive_entries", "archive_entry", "archive_lots", "entry_fields", "plain_entries"]

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


def archive_entries(run_id: str, records: Sequence[tuple[Cursor, bytes]]) -> Iterator[ArchiveEntry]:
    """As archive_entry for each of these (plain events many at once, which takes a third of the time)."""
    offsets, chains = [cursor.offset for cursor, _ in records], [cursor.chain for cursor, _ in records]
    return chain.from_iterable(archive_lots(run_id, offsets, chains, [record for _, record in records]))


def archive_lots(
    run_id: str, offsets: Sequence[int], chains: Sequence[int], records: Sequence[bytes]
) -> Iterator[Sequence[ArchiveEntry]]:
    """As archive_entry for each of these, in lots: as columns where all of a lot are plain events."""
    for first in range(0, len(records), _MANY):
        lot = slice(first, first + _MANY)
        plain = plain_entries(run_id, offsets[lot], chains[lot], records[lot])
        if plain is not None:
            yield plain
            continue
        for offset, chain_there, record in zip(offsets[lot], chains[lot], records[lot], strict=True):
            one = plain_entries(run_id, [offset], [chain_there], [record])
            yield one or [archive_entry(run_id, offset, chain_there, record)]


def plain_entries(
    run_id: str, offsets: Sequence[int], chains: Sequence[int], records: Sequence[bytes]
) -> PlainEntries | None:
    """As archive_entry for each of these; None where one of them wants to be looked at by itself."""
    columns = _columns(run_id, records)
    return None if columns is None else PlainEntries([offsets, chains, *columns])


def _columns(run_id: str, records: Sequence[bytes]) -> Sequence[Sequence[Any]] | None:
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
    return keys, texts, seqs, list(map(float, times)), kinds, lanes


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
