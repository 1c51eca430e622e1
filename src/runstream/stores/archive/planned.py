"""What an append to an archive itself writes, from its plan."""

from __future__ import annotations

from runstream.codec.archive_entries import archive_entries
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot
from runstream.model.errors import EncodingError
from runstream.stores.local.append_plan import AppendPlan, AppendRequest

__all__ = ["planned_entries", "planned_snapshots"]


def planned_entries(request: AppendRequest, plan: AppendPlan) -> list[ArchiveEntry]:
    """The entries that an append to this store itself writes.

    Raises:
        EncodingError: JSON cannot hold an event (nested too deeply). A record that is in Redis goes to the
            quarantine then, but one that has not been accepted yet is refused.
    """
    records = [(cursor, event.record) for cursor, event in plan.written]
    entries = list(archive_entries(request.run_id, records, is_own=True))
    for entry in entries:
        if entry.raw is not None:
            raise EncodingError(f"an event of run {request.run_id!r} cannot be archived: {entry.reason}")
    return entries


def planned_snapshots(request: AppendRequest, plan: AppendPlan) -> list[ArchiveSnapshot]:
    """The snapshots that an append to this store itself saves, with their states as it keeps them."""
    writes = request.states if plan.snapshots else ()
    return [ArchiveSnapshot(*head, write.state) for head, write in zip(plan.snapshots, writes, strict=True)]
