"""What an archive takes as a sink, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runstream.model.archive_records import ArchiveEntry, RunBatch, RunHeader
from runstream.model.errors import ArchiveGap, ConcurrencyConflict, HistoryDiverged
from runstream.model.results import Cursor
from runstream.model.run_head import RunHead

__all__ = ["DELETED_FOR_SECONDS", "check_cut", "check_same_fork", "deleted_here", "is_same_run", "new_entries"]

DELETED_FOR_SECONDS = 7 * 86_400.0
"""For how long an archive takes nothing of a history that was deleted: as long as Redis knows of the deletion."""


def new_entries(
    batch: RunBatch, last: Cursor | None, cursor_at: Callable[[int], Cursor | None]
) -> Sequence[ArchiveEntry]:
    """The entries of a batch that an archive lacks.

    Args:
        batch: What a worker hands over.
        last: The cursor of the archive's last entry; None if it has not the run.
        cursor_at: Tells what the archive has at an offset, None for nothing; it is asked where the archive is
            further than the batch.

    Raises:
        ArchiveGap: A hole would be left.
        HistoryDiverged: The archive has another history.
    """
    run_id = batch.header.run_id
    if batch.end.offset - batch.after.offset != len(batch.entries):
        raise ArchiveGap(
            f"a batch of run {run_id!r} is not dense: nothing was written",
            run_id=run_id,
            expected=batch.after.offset + 1,
            found=batch.end.offset,
        )
    theirs = batch.header.before_first if last is None else last
    if theirs.offset < batch.after.offset:
        raise ArchiveGap(
            f"the archive has run {run_id!r} up to offset {theirs.offset}; what comes after {batch.after.offset}"
            " would leave a hole: nothing was written",
            run_id=run_id,
            expected=theirs.offset + 1,
            found=batch.after.offset + 1,
        )
    known = theirs.offset - batch.after.offset
    if known > len(batch.entries):
        # another worker has been here; its history may be that of a server that was promoted meanwhile
        known, theirs = len(batch.entries), cursor_at(batch.end.offset) or batch.end
    ours = batch.after if known == 0 else batch.entries[known - 1].cursor
    if ours != theirs:
        raise HistoryDiverged(
            f"the archive and Redis have different histories of run {run_id!r} at offset {theirs.offset} or"
            " before: nothing was written, both are kept",
            run_id=run_id,
            offset=theirs.offset,
        )
    return batch.entries[known:]


def check_cut(header: RunHeader, to: Cursor, expected: Cursor, head: RunHead | None, found: Cursor | None) -> bool:
    """Whether a run is still to be cut back to ``to``; False if that has been done.

    Args:
        header: What is to be noted of the run from then on.
        to: The cursor that it is to end at.
        expected: The cursor that it must end at before.
        head: Where the archive's run stands; None if it is not there.
        found: The cursor of the entry at the offset of ``to``; None for nothing.

    Raises:
        ConcurrencyConflict: The run does not end at ``expected``.
        HistoryDiverged: It never was at ``to``.
    """
    run_id, here = header.run_id, head or RunHead()
    if here.last == to and is_same_run(header, here):
        return False
    if head is None or here.last != expected:
        raise ConcurrencyConflict(
            f"the archive has run {run_id!r} up to {here.last}, not {expected}: nothing was changed; look again",
            expected=expected.offset,
            actual=here.last.offset,
        )
    if to != header.start and (not is_same_run(header, here) or found != to):
        raise HistoryDiverged(
            f"the archive's history of run {run_id!r} does not pass {to}: nothing was changed",
            run_id=run_id,
            offset=to.offset,
        )
    return True


def is_same_run(header: RunHeader, head: RunHead) -> bool:
    """Whether a header is of the very creation of a run that an archive has."""
    return (header.start, header.identity) == (head.start, head.identity)


def check_same_fork(header: RunHeader, head: RunHead | None) -> None:
    """Check that a batch is not of another fork than the archive's: two at one offset have the same cursors there.

    Args:
        header: What a worker hands over.
        head: Where the archive's run stands; None if it is not there.

    Raises:
        HistoryDiverged: It is.
    """
    if head is not None and header.identity != head.identity:
        raise HistoryDiverged(
            f"the archive has another run of the name {header.run_id!r} than Redis: one was deleted, and the name"
            " given to another, a fork; nothing was written, both are kept",
            run_id=header.run_id,
            offset=head.start.offset,
        )


def deleted_here(run_id: str) -> HistoryDiverged:
    """The error for a history that was deleted here, and that the archive does not take again."""
    return HistoryDiverged(
        f"run {run_id!r} was deleted, with this very history: nothing was written",
        run_id=run_id,
        offset=0,
    )
