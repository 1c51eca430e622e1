"""Runs that were forks, and have copies of their own of all that they had shared: what archives get of that."""

from __future__ import annotations

from runstream.codec.archive_entries import archive_entries
from runstream.model.archive_records import ArchiveEntry, RunHeader
from runstream.operations.operation import Operation
from runstream.stores.redis.keys import Keys
from runstream.stores.redis.operations.worker.erased_facts import erased_facts
from runstream.stores.redis.operations.worker.load import LoadRequest, load_entries, load_runs

__all__ = ["detached_header", "once_shared"]


def detached_header(keys: Keys, run_id: str) -> Operation[RunHeader | None]:
    """The header of a run that was a fork, and is none any more; None for any other run."""
    (run,) = yield from load_runs(keys, [run_id])
    return run.header if run is not None and run.head.was_fork else None


def once_shared(keys: Keys, header: RunHeader, after: int) -> Operation[list[ArchiveEntry]]:
    """The entries after an offset that such a run had shared, as far as Redis has them."""
    entries: list[ArchiveEntry] = []
    begin = after
    while after < header.start.offset:
        request = LoadRequest(header.run_id, after + 1, header.start.offset)
        (loaded,) = yield from load_entries(keys, [request])
        entries += archive_entries(header.run_id, loaded.entries, header.origins)
        after = loaded.upto
    if any(entry.is_erased for entry in entries):
        facts = yield from erased_facts(keys, header.run_id, begin)
        return facts.complete(entries)
    return entries
