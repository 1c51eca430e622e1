"""The entries of a run in a SQLite archive, from its events and from its quarantine together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter

from runstream.model.archive_records import ArchiveEntry
from runstream.stores.archive.sqlite.connection import ArchiveFile
from runstream.stores.archive.sqlite.erased_rows import with_lanes
from runstream.stores.archive.sqlite.queries import GET_ASIDE, GET_EVENTS, MOST_ASKED, entries_with
from runstream.stores.archive.sqlite.row_values import entries_in

__all__ = ["entries_at", "entries_between"]

_PAGE_ROWS = 1000

_GET_ENTRIES = (GET_EVENTS, GET_ASIDE)
_GET_ENTRIES_BACK = tuple(query.replace("ORDER BY offset", "ORDER BY offset DESC") for query in _GET_ENTRIES)


def entries_between(
    file: ArchiveFile, run_id: str, low: int, high: int, *, reverse: bool
) -> Iterator[ArchiveEntry]:
    """The entries with ``low < offset <= high``, in order or newest first, page by page."""
    queries = _GET_ENTRIES_BACK if reverse else _GET_ENTRIES
    while low < high:
        page = {"run_id": run_id, "low": low, "high": high, "rows": _PAGE_ROWS}
        found = file.pages(queries, page)
        rows, aside = (rows for rows, _ in found)
        # of each, all up to there
        ends = [rows[-1][0] for rows, is_all in found if not is_all]
        end = (max if reverse else min)(ends, default=low if reverse else high)
        if aside:
            rows = sorted(rows + aside, key=itemgetter(0), reverse=reverse)
            rows = [row for row in rows if (row[0] >= end if reverse else row[0] <= end)]
        yield from with_lanes(file, run_id, entries_in(run_id, rows))
        if reverse:
            high = end - 1
        else:
            low = end


def entries_at(file: ArchiveFile, run_id: str, offsets: Sequence[int]) -> Iterator[ArchiveEntry]:
    """The entries at some offsets, which are in order."""
    for begin in range(0, len(offsets), MOST_ASKED):
        rows, aside = file.rows(*entries_with("offset", run_id, offsets[begin : begin + MOST_ASKED]))
        rows = sorted(rows + aside, key=itemgetter(0)) if aside else rows
        yield from with_lanes(file, run_id, entries_in(run_id, rows))
