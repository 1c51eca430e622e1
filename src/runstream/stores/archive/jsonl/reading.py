"""The entries that a run's log has between two offsets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from runstream.model.archive_records import ArchiveEntry
from runstream.model.results import Cursor
from runstream.stores.archive.jsonl.file_locks import unavailable
from runstream.stores.archive.jsonl.log_index import Span
from runstream.stores.archive.jsonl.run_log import RunLog

__all__ = ["between", "place_of"]


def place_of(log: RunLog, offset: int) -> Cursor | None:
    """What the log has at an offset, its start included, as of the last look; None for nothing."""
    start = log.history.start
    if start is not None and offset == start.offset:
        return start
    found = next(between(log, [log.span(offset - 1, offset)], offset, offset), None)
    return None if found is None else found.cursor


def between(
    log: RunLog, spans: Sequence[Span], first: int, last: int, *, reverse: bool = False, from_disk: bool = False
) -> Iterator[ArchiveEntry]:
    """The entries of these stretches of the log from ``first`` to ``last``, both included."""
    with unavailable(log.path):
        for span in spans:
            entries: Iterable[ArchiveEntry] = log.entries(span, from_disk=from_disk)
            if reverse:
                entries = reversed(list(entries))
            for entry in entries:
                if first <= entry.offset <= last:
                    yield entry
