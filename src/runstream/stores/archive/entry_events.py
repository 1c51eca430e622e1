"""Make events of an archive's entries, list by list: many at once where all are plain."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

from runstream.codec.archive_entries import entry_fields, may_be_of_lane
from runstream.codec.event_codec import Codec
from runstream.codec.pages import TOGETHER, TOGETHER_BYTES
from runstream.codec.plain_events import events_of_entries
from runstream.model.archive_records import ArchiveEntry
from runstream.model.errors import CorruptRecordError, EventRefused
from runstream.model.results import E, S
from runstream.model.run_head import Origins, written_as
from runstream.operations.arguments import ReadQuery, in_place_of

__all__ = ["events_of"]

_GROWTH = 8


def events_of(
    codec: Codec[E, S],
    run_id: str,
    entries: Iterable[ArchiveEntry],
    offsets: Sequence[int],
    query: ReadQuery,
    first: int,
    origins: Origins = (),
) -> Generator[Sequence[tuple[ArchiveEntry, E]], None, int | None]:
    """Make the events of entries, without what was erased, is to be skipped, or is of a lane not asked for.

    Each comes with its entry. Those before an error come first.

    Args:
        codec: Makes events of the caller's type.
        run_id: The run.
        entries: The entries, in the order of the query.
        offsets: The offsets that they should have.
        query: What is asked for.
        first: How many entries the first list is of: 1 for a reader that waits for it.
        origins: The runs as which their first records were made.

    Returns:
        The offset of an entry that is missing; None for none.

    Raises:
        CorruptRecordError: With ``on_corrupt="raise"``, one does not read.
        EventRefused: Likewise, the event type refuses one.
    """
    expected, left = offsets[::-1] if query.reverse else offsets, query.limit
    may_be_wanted = None if query.lane_id is None else may_be_of_lane(query.lane_id)
    for part in _in_parts(entries, left, first):
        dense = _dense(part, expected)
        wanted = dense if may_be_wanted is None else list(filter(may_be_wanted, dense))
        for made in _made(codec, run_id, wanted, query, origins):
            yield made[:left]
            left = None if left is None else left - len(made)
            if left is not None and left <= 0:
                return None
        expected = expected[len(dense) :]
        if len(dense) < len(part):
            break
    return expected[0] if expected else None


def _dense(entries: list[ArchiveEntry], expected: Sequence[int]) -> list[ArchiveEntry]:
    """The entries up to where one is missing."""
    if list(map(_offset, entries)) == list(expected[: len(entries)]):
        return entries
    pairs = zip(entries, expected, strict=False)
    return entries[: next((n for n, (entry, offset) in enumerate(pairs) if entry.offset != offset), len(expected))]


_offset: Callable[[ArchiveEntry], int] = itemgetter(0)


def _made(
    codec: Codec[E, S], run_id: str, entries: Sequence[ArchiveEntry], query: ReadQuery, origins: Origins
) -> Iterator[list[Any]]:
    events = events_of_entries(codec, run_id, entries, query.given_as)
    if events is not None:
        yield list(zip(entries, events, strict=True))
        return
    found: list[Any] = []
    for entry in entries:
        try:
            event = _one(codec, run_id, entry, query, origins)
        except Exception:
            yield found
            raise
        if event is not None:
            found.append((entry, event))
    yield found


def _one(codec: Codec[E, S], run_id: str, entry: ArchiveEntry, query: ReadQuery, origins: Origins) -> Any:
    load = partial(_fields, run_id, entry, query.given_as, origins)
    try:
        fields = load()
        if fields is None:
            return None  # erased
        return codec.read_event(entry.offset, fields, lambda: load() or {})
    except (CorruptRecordError, EventRefused) as error:
        return in_place_of(error, query.on_corrupt)


def _fields(run_id: str, entry: ArchiveEntry, given_as: str | None, origins: Origins) -> dict[str, Any] | None:
    fields = entry_fields(run_id, entry, written_as(run_id, origins, entry.offset))
    if fields is not None and given_as is not None:
        fields["run_id"] = given_as
    return fields


def _in_parts(entries: Iterable[ArchiveEntry], limit: int | None, size: int) -> Iterator[list[ArchiveEntry]]:
    """Gather entries into lists: of few, and of few bytes, as their events take many times that.

    As many as the limit are given before the next one is fetched, which comes with many others.
    """
    part: list[ArchiveEntry] = []
    room, most = TOGETHER_BYTES, TOGETHER if limit is None else min(limit, TOGETHER)
    try:
        for count, entry in enumerate(entries, 1):
            part.append(entry)
            room -= len(entry.data or entry.raw or "")
            if len(part) == size or room <= 0 or count == limit:
                yield part
                part, room, size = [], TOGETHER_BYTES, min(size * _GROWTH, most)
    except Exception:
        yield part
        raise
    yield part
