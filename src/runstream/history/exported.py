"""A run on its way out of the stores: its entries, one by one, as files of it have them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

from runstream.codec.archive_entries import entry_fields
from runstream.codec.lossless_json import dump_json
from runstream.history.merged import MergedRun
from runstream.model.archive_records import ArchiveEntry
from runstream.model.errors import CorruptRecordError

__all__ = ["Export", "json_lines"]


def _unwatched(_entries: int) -> None:
    """For who does not ask how far it is."""


class Export:
    """One run on its way into a file.

    Args:
        run: The run.
        skip: Pass over what does not read, instead of raising CorruptRecordError.
        on_progress: Called with the number of further entries that are done.

    Attributes:
        events: How many events went into the file.
        corrupt: The offsets of the records that do not read.
        skip: As it was asked for.
    """

    def __init__(self, run: MergedRun, *, skip: bool, on_progress: Callable[[int], object] = _unwatched) -> None:
        self.run = run
        self.events = 0
        self.corrupt: list[int] = []
        self.skip = skip
        self._on_progress = on_progress

    def entries(self) -> Iterator[tuple[ArchiveEntry, dict[str, Any] | None]]:
        """The entries with the events' fields: None for one that was erased, or is kept aside as bytes."""
        return self._with_fields(self.run.run_id, self.run.entries())

    def own_entries(self, run: MergedRun) -> Iterator[tuple[ArchiveEntry, dict[str, Any] | None]]:
        """The same of those that the run has itself, or one that it comes from."""
        return self._with_fields(run.run_id, run.own_entries())

    def _with_fields(
        self, run_id: str, entries: Iterator[ArchiveEntry]
    ) -> Iterator[tuple[ArchiveEntry, dict[str, Any] | None]]:
        for entry in entries:
            try:
                fields = entry_fields(run_id, entry)
                self.events += fields is not None
                yield entry, fields
            except CorruptRecordError as error:
                if not self.skip:
                    raise
                self.corrupt.append(entry.offset)
                raw = error.raw
                yield entry._replace(data=None, raw=raw, reason=entry.reason or str(error), kind=None), None
            self._on_progress(1)


def json_lines(export: Export) -> Generator[str, None, None]:
    """One line per entry: ``{"offset":…,"cursor":…,"key":…,"event":{…}}``, the event as archives have it.

    The event stands by itself, so that no field of a user's own can be taken for one of ours. That of an entry
    which was erased is null.
    """
    for entry, _ in export.entries():
        if entry.raw is not None:
            continue
        key = dump_json(entry.key)
        # between the parts of a JSON text, where another program may have put line breaks, a space is as good
        event = "null" if entry.data is None else entry.data.replace("\n", " ").replace("\r", " ")
        yield f'{{"offset":{entry.offset},"cursor":"{entry.cursor}","key":{key},"event":{event}}}\n'
