"""Write a run's log anew with entries in front of those that it has itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from runstream.model.archive_records import ArchiveEntry, RunHeader
from runstream.stores.archive.integrity import pages_of
from runstream.stores.archive.jsonl.commit_marks import Mark
from runstream.stores.archive.jsonl.growing_files import until_cut
from runstream.stores.archive.jsonl.line_format import batch_text, facts_of, is_header
from runstream.stores.archive.jsonl.run_log import RunLog
from runstream.stores.archive.jsonl.spans import outside

__all__ = ["put_in_front"]


def put_in_front(log: RunLog, header: RunHeader, entries: Iterable[ArchiveEntry]) -> None:
    """Write a run's log anew with entries in front of those that it has itself, and with this header."""
    log.make_ready()
    with log.path.open("rb") as file:
        log.replace(file, _with_copied(log, file, header, entries))


def _with_copied(
    log: RunLog, file: BinaryIO, header: RunHeader, entries: Iterable[ArchiveEntry]
) -> Iterator[bytes]:
    """The content of the log, as of its last refresh, with another header, and these entries behind that.

    Args:
        log: The log.
        file: Its file, open.
        header: The run's header, as it is from then on.
        entries: The entries, in order; they come before all that the log has.
    """
    bare = Mark(header.status, header.updated_at, header.session_id)
    first: RunHeader | None = header
    at = max(header.start, header.before_first)
    for page in pages_of(entries):
        yield batch_text(first, at, page, bare)
        first = None
    if first is not None:
        yield batch_text(first, at, (), bare)
    counts, position = outside(log.index.holes), 0
    file.seek(0)
    for raw in until_cut(file):
        begin, position = position, position + len(raw)
        if position > log.index.end:
            return
        if not counts(begin) or not is_header(raw):
            yield raw if raw.endswith(b"\n") else raw + b"\n"
            continue
        facts = facts_of(raw.rstrip(b"\r\n"))
        if facts is not None and facts[4] is not None:  # what it says counts all the same
            yield batch_text(None, at, (), Mark.load(facts[4]))
