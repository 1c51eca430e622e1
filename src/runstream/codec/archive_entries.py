"""Convert wire records to the entries of an archive, and entries to the fields of events."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from itertools import chain, islice
from operator import itemgetter
from typing import Any

import msgpack
import orjson

from runstream.codec.field_checks import OWN, check_all_stored, check_fields, values_in
from runstream.codec.lossless_json import dump_json, dump_plain_json, load_json, load_object, load_plain_json
from runstream.codec.pages import slices
from runstream.codec.record import (
    ERASED,
    decode_plain_records,
    decode_record,
    fields_of,
    key_noted,
    key_of,
    record_body,
)
from runstream.codec.stored import stored_record
from runstream.codec.stored_fields import check_names
from runstream.model.archive_records import ArchiveEntry, EntryColumns, PlainEntries
from runstream.model.errors import CorruptRecordError, EncodingError, InvalidRunId, RunstreamError
from runstream.model.results import Cursor
from runstream.model.run_head import Origins, stretches

__all__ = [
    "archive_entries",
    "archive_entry",
    "archive_pages",
    "entry_digest",
    "entry_fields",
    "entry_record",
    "may_be_of_lane",
    "plain_entries",
    "plain_values",
    "renamed",
    "seq_of_entry",
    "unread",
    "with_run_id",
]

_PAGE = 100  # records; so few that their values are freed before Python's collector runs


def archive_entry(run_id: str, offset: int, chain: int, record: bytes) -> ArchiveEntry:
    """Make the entry that an archive keeps of a record: what it keeps gives the record again, byte for byte.

    Args:
        run_id: The run.
        offset: The record's offset.
        chain: The chain up to there.
        record: The record. One that does not read, or that JSON would not give again, makes an entry with its
            bytes and the reason.

    Returns:
        The entry.

    Raises:
        UnsupportedVersion: A newer runstream wrote the record.
    """
    if record == ERASED:
        return ArchiveEntry(offset, chain, None, None)
    try:
        values = decode_record(run_id, offset, record)
        entry = _entry(Cursor(offset, chain), values, dump_json(fields_of(run_id, values)))
        if entry_record(run_id, entry) == record:
            return entry
        reason = (
            f"event {offset} of run {run_id!r} was encoded in another way than runstream's: JSON would not give"
            " its record again"
        )
    except (CorruptRecordError, EncodingError, InvalidRunId, ValueError) as error:
        # where the checksum held, it is a record of another program, or nested beyond JSON's depth
        reason = str(error)
    return ArchiveEntry(offset, chain, key_noted(run_id, record), None, raw=record, reason=reason)


def archive_entries(
    run_id: str, records: Sequence[tuple[Cursor, bytes]], origins: Origins = (), *, is_own: bool = False
) -> Iterator[ArchiveEntry]:
    """Make the entries that an archive keeps of records.

    Args:
        run_id: The run.
        records: The cursor and the bytes of each.
        origins: The runs as which the run's first records were made.
        is_own: Whether this process has just encoded them.

    Returns:
        What ``archive_entry`` gives for each.

    Raises:
        UnsupportedVersion: A newer runstream wrote one of them; those before it are given first.
    """
    offsets, chains = [cursor.offset for cursor, _ in records], [cursor.chain for cursor, _ in records]
    pages = archive_pages(run_id, offsets, chains, [record for _, record in records], origins, is_own=is_own)
    return chain.from_iterable(pages)


def archive_pages(
    run_id: str,
    offsets: Sequence[int],
    chains: Sequence[int],
    records: Sequence[bytes],
    origins: Origins = (),
    *,
    is_own: bool = False,
) -> Iterator[Sequence[ArchiveEntry]]:
    """Make the entries of records page by page: plain events many at once, which takes a third of the time.

    Args:
        run_id: The run.
        offsets: The offset of each record.
        chains: The chain up to each record.
        records: The records.
        origins: The runs as which the run's first records were made.
        is_own: Whether this process has just encoded them.

    Returns:
        The entries of each page: columns, if all of its records are plain events.

    Raises:
        UnsupportedVersion: A newer runstream wrote one of the records; those before it are given first.
    """
    for name, part in stretches(run_id, origins, offsets):
        made = _pages(name, offsets[part], chains[part], records[part], is_own=is_own)
        yield from made if name == run_id else ([renamed(entry, run_id) for entry in page] for page in made)


def _pages(
    run_id: str, offsets: Sequence[int], chains: Sequence[int], records: Sequence[bytes], *, is_own: bool
) -> Iterator[Sequence[ArchiveEntry]]:
    for page in slices(map(len, records), _PAGE):
        plain = plain_entries(run_id, offsets[page], chains[page], records[page], is_own=is_own)
        if plain is not None:
            yield plain
            continue
        for offset, chain_there, record in zip(offsets[page], chains[page], records[page], strict=True):
            one = plain_entries(run_id, [offset], [chain_there], [record])
            yield one or [archive_entry(run_id, offset, chain_there, record)]


def plain_entries(
    run_id: str,
    offsets: Sequence[int],
    chains: Sequence[int],
    records: Sequence[bytes],
    *,
    is_own: bool = False,
) -> PlainEntries | None:
    """Make the entries of records that are all plain events.

    Args:
        run_id: The run.
        offsets: The offset of each record.
        chains: The chain up to each record.
        records: The records.
        is_own: Whether this process has just encoded them: then what is plain gives them again.

    Returns:
        What ``archive_entry`` gives for each, as columns; None if one of them may be something else.
    """
    columns = _columns(run_id, records, is_own=is_own)
    return None if columns is None else PlainEntries([offsets, chains, *columns])


def _columns(run_id: str, records: Sequence[bytes], *, is_own: bool) -> Sequence[Sequence[Any]] | None:
    """Keys, data, seqs, times, kinds and lanes of plain events; None if one of them may be something else."""
    decoded = decode_plain_records(run_id, records)
    if decoded is None:
        return None
    try:
        texts = dump_plain_json([fields_of(run_id, values) for values in decoded])
        keys = list(map(key_of, decoded))
        lanes, _, _, seqs, times, kinds = list(zip(*decoded, strict=False))[1:7]  # some have more than the nine
        del decoded  # a payload may take a hundred times its bytes, and comes once more
        if texts is None or not (is_own or _give_again(texts, keys, records)):
            return None
    except (EncodingError, TypeError, ValueError):  # another program wrote it
        return None
    return keys, texts, seqs, list(map(float, times)), kinds, lanes


def _give_again(texts: Sequence[str], keys: Sequence[str | None], records: Sequence[bytes]) -> bool:
    """Whether these texts of plain events give their records again, as ``entry_record`` makes them; in C.

    orjson and json load the same from what orjson has dumped.
    """
    together = f"[{','.join(texts)}]"
    loaded = load_json(together) if "$" in together and '{"$' in together else orjson.loads(together)
    values = list(map(values_in, loaded))
    if set(map(len, loaded)) != {len(OWN)} or set(keys) != {None}:
        values = [
            (*own, *_further_values(fields, key)) for own, fields, key in zip(values, loaded, keys, strict=True)
        ]
    bodies = b"".join(map(record_body, records))
    return bool(msgpack.packb(values) == msgpack.Packer().pack_array_header(len(values)) + bodies)


def _further_values(fields: dict[str, Any], key: str | None) -> tuple[Any, ...]:
    """What follows an event's own values in its record."""
    more = None
    if len(fields) > len(OWN):
        more = dict(islice(fields.items(), len(OWN), None))  # as ``fields_of`` has put them
        check_names(more, is_stored=True)
    if key is not None:
        return more, key
    return () if more is None else (more,)


def _entry(at: Cursor, values: list[Any], data: str) -> ArchiveEntry:
    _, lane_id, _, _, seq, ts, kind, *_ = values
    return ArchiveEntry(*at, key_of(values), data, None, "", 0.0, int(seq), float(ts), kind, lane_id)


def entry_fields(run_id: str, entry: ArchiveEntry, written_as: str | None = None) -> dict[str, Any] | None:
    """Load the event of an entry.

    Args:
        run_id: The run.
        entry: The entry.
        written_as: The run whose record it was, if that is another one.

    Returns:
        The event's fields, those with their defaults that another program's text leaves out; None for an entry
        that was erased. Bytes that are kept aside and read, as those that JSON would not give again, are read; not
        what is left of a row or a line of the archive's own that was damaged.

    Raises:
        CorruptRecordError: The entry is in the quarantine and does not read, or its text no longer reads.
    """
    if entry.is_damaged:
        raise unread(run_id, entry, entry.reason)
    if entry.raw is not None:
        try:
            return fields_of(run_id, decode_record(written_as or run_id, entry.offset, entry.raw))
        except (RunstreamError, TypeError, ValueError) as error:
            raise unread(run_id, entry, entry.reason) from error
    if entry.data is None:
        return None
    try:
        fields = load_object(entry.data)
        check_fields(run_id, fields)
    except (ValueError, EncodingError) as error:
        raise unread(run_id, entry, str(error)) from error
    return fields if fields.keys() >= OWN else _complete(run_id, entry, fields)


def seq_of_entry(run_id: str, entry: ArchiveEntry) -> int:
    """The ``seq`` of the event of an entry; where that was erased, the one that is noted of it, 0 for none.

    Args:
        run_id: The run.
        entry: The entry.

    Raises:
        CorruptRecordError: As of ``entry_fields``.
    """
    fields = entry_fields(run_id, entry)
    return entry.seq if fields is None else EntryColumns.of(fields).seq


def plain_values(run_id: str, entries: Sequence[ArchiveEntry]) -> Sequence[Sequence[Any]] | None:
    """Load the events of many entries at once, if all are plain events.

    Args:
        run_id: The run.
        entries: The entries.

    Returns:
        The values of the ten fields that ``entry_fields`` gives for each but the run id, in the order of a record;
        None if one of them may be something else.
    """
    texts = [entry.data for entry in entries if entry.data is not None and entry.raw is None]
    if len(texts) < len(entries):
        return None
    try:
        loaded = load_plain_json(texts)
        is_plain = loaded is not None
        loaded = loaded or list(map(load_json, texts))
        # what looks like a tag may be the mark of a schema version, which is a further field
        if set(map(type, loaded)) != {dict} or not (is_plain or set(map(len, loaded)) == {len(OWN)}):
            return None
        values = list(map(values_in, loaded))
        check_all_stored(values)
        return values if set(map(_RUN_ID, loaded)) == {run_id} else None
    except (EncodingError, KeyError, TypeError, ValueError):
        return None


_RUN_ID = itemgetter("run_id")

_TEXT = r'"(?:[^"\\]|\\.)*+"'
_LANE = re.compile(rf'\{{"run_id":{_TEXT},"session_id":{_TEXT},"lane_id":({_TEXT})')  # as all are written here


def may_be_of_lane(lane_id: str) -> Callable[[ArchiveEntry], bool]:
    """Make the test of whether an entry may be of a lane, most of which are told by their first bytes.

    Args:
        lane_id: The lane.

    Returns:
        The test. It is False for sound events of other lanes, but not for all of them.
    """
    name = dump_json(lane_id)

    def may_be(entry: ArchiveEntry) -> bool:
        found = None if entry.data is None else _LANE.match(entry.data)
        return found is None or found[1] == name or "\\" in found[1]

    return may_be


def unread(run_id: str, entry: ArchiveEntry, reason: str) -> CorruptRecordError:
    """The error for an entry that does not read.

    Args:
        run_id: The run.
        entry: The entry.
        reason: Why it does not.
    """
    return CorruptRecordError(
        f"event {entry.offset} of run {run_id!r} does not read: {reason}",
        run_id=run_id,
        offset=entry.offset,
        raw=entry.raw if entry.raw is not None else (entry.data or "").encode(errors="surrogatepass"),
    )


def _complete(run_id: str, entry: ArchiveEntry, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields as the event's record has them; as they are, where they are no event."""
    try:
        return fields_of(run_id, decode_record(run_id, entry.offset, stored_record(run_id, fields, entry.key)))
    except RunstreamError:
        return fields


def entry_record(run_id: str, entry: ArchiveEntry, written_as: str | None = None) -> bytes:
    """Make the wire record of an entry again, from all that an archive keeps of it.

    Records have one form, and JSON texts have many (a set's members in any order, spaces, fields left out that
    have their defaults): so two entries are compared by their records.

    Args:
        run_id: The run.
        entry: The entry.
        written_as: The run whose record it was, if that is another one (see
            :class:`~runstream.model.run_head.Origin`).

    Returns:
        The record; that of an entry that is kept aside is the bytes of it.

    Raises:
        CorruptRecordError: Its text does not read.
        InvalidRunId: Its text is an event of another run.
        EncodingError: Its text is no event.
    """
    if entry.raw is not None:
        return entry.raw
    fields = entry_fields(run_id, entry)
    if fields is None:
        return ERASED
    if written_as is not None and fields.get("run_id") == run_id:
        fields["run_id"] = written_as
    return stored_record(written_as or run_id, fields, entry.key)


def entry_digest(run_id: str, entry: ArchiveEntry, written_as: str | None = None) -> bytes:
    """A digest of all of an event but its key: a common ``span_id`` does not make two events one.

    Args:
        run_id: As of ``entry_record``, as is the rest.
        entry: See there.
        written_as: See there.
    """
    return blake2b(entry_record(run_id, entry._replace(key=None), written_as), digest_size=16).digest()


def renamed(entry: ArchiveEntry, run_id: str) -> ArchiveEntry:
    """The entry with its event as one of another run. What has no text, or does not read, stays as it is."""
    return entry if entry.data is None else entry._replace(data=with_run_id(entry.data, run_id))


def with_run_id(text: str, run_id: str) -> str:
    """The same JSON object with another run id, if it has one. What does not read stays as it is."""
    try:
        fields = load_object(text)
    except ValueError:
        return text
    return dump_json({**fields, "run_id": run_id}) if "run_id" in fields else text
