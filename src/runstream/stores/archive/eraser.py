"""Erase in an archive: as its own callers ask it to, and as a drain worker does. What goes is planned here."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from runstream.codec.archive_entries import entry_digest, entry_fields
from runstream.model.archive_records import ArchiveEntry, EntryColumns, RunHeader
from runstream.model.erasures import ErasureNote, Spans
from runstream.model.errors import CorruptRecordError, HistoryDiverged, RunstreamError
from runstream.model.results import Cursor, Fork
from runstream.model.run_head import RunHead, SnapshotHead
from runstream.stores.capabilities import ErasesContent
from runstream.stores.local.erase_plan import EraseOrder, ErasePlan, check_unneeded

__all__ = [
    "Eraser",
    "branch_plan",
    "digests_of",
    "erased",
    "left_of",
    "plan_drained_base",
    "plan_drained_spans",
    "without_erased",
]


class Eraser(ErasesContent):
    """The part of an archive that erases."""

    @abstractmethod
    def carry_out(self, order: EraseOrder) -> tuple[ErasureNote, ErasePlan]:
        """Plan an erasure that a caller of the archive asks for, make it and note it, in one atomic step."""


def erased(entry: ArchiveEntry) -> ArchiveEntry:
    """What is left of an entry whose content goes: lane and ``seq`` are as little content as the caller's key."""
    return ArchiveEntry(entry.offset, entry.chain, entry.key, None, seq=entry.seq, lane_id=entry.lane_id)


def left_of(run_id: str, entry: ArchiveEntry, written_as: str) -> ArchiveEntry:
    """The same of an entry of which lane and ``seq`` are not at hand.

    Args:
        run_id: The run.
        entry: The entry.
        written_as: The run as which its record was made.
    """
    if not entry.is_erased:
        with suppress(CorruptRecordError):
            columns = EntryColumns.of(entry_fields(run_id, entry, written_as) or {})
            entry = entry._replace(seq=columns.seq, lane_id=columns.lane_id)
    return erased(entry)


def without_erased(entries: Sequence[ArchiveEntry], notes: Sequence[ErasureNote]) -> Sequence[ArchiveEntry]:
    """Some entries, without the content of those that were asked to be erased."""
    if not notes:
        return entries
    return [erased(entry) if any(note.has(entry.offset) for note in notes) else entry for entry in entries]


def plan_drained_spans(
    header: RunHeader,
    head: RunHead,
    latest: Iterable[SnapshotHead],
    note: ErasureNote,
    clean: Collection[str],
) -> ErasePlan:
    """Plan what goes of a run as a worker asks.

    Args:
        header: The run that the worker means.
        head: Where the archive has it.
        latest: The latest snapshots of the run and its lanes.
        note: What is to be erased.
        clean: The tokens of snapshots that hold nothing of it.

    Raises:
        HistoryDiverged: The archive has another run of that name.
    """
    _check_same(header, head, head.start == header.start)
    plan = ErasePlan(head.begin, note.spans, clean=frozenset(clean))
    return replace(plan, dropped=frozenset(saved.token for saved in latest if not plan.keeps(saved)))


def plan_drained_base(
    header: RunHeader,
    head: RunHead,
    latest: Iterable[SnapshotHead],
    base: Cursor,
    found: Cursor | None,
    forks: Iterable[Fork],
) -> ErasePlan:
    """Plan the removing of all up to a cursor, as a worker asks.

    Args:
        header: The run that the worker means.
        head: Where the archive has it.
        latest: The latest snapshots of the run and its lanes.
        base: The cursor before the first event that stays.
        found: The cursor of what the archive has at that offset; None for nothing.
        forks: The forks of the run that the archive has.

    Raises:
        HistoryDiverged: The archive has another run of that name, or another history.
        RunHasForks: Forks need some of what is to go.
    """
    is_known = head.before_first.offset < base.offset <= head.last.offset
    _check_same(header, head, head.start == header.start and (not is_known or found == base))
    check_unneeded(header.run_id, head, base.offset, forks)
    return ErasePlan(head.begin, base=base.offset, clean=frozenset(saved.token for saved in latest))


def _check_same(header: RunHeader, head: RunHead, is_same: bool) -> None:
    if not is_same or head.creation != header.creation:
        raise HistoryDiverged(
            f"the archive has another history of run {header.run_id!r}: nothing was erased",
            run_id=header.run_id,
            offset=0,
        )


def digests_of(
    run_id: str, entries: Iterable[ArchiveEntry], written_as: str | None = None
) -> dict[bytes, list[int]]:
    """Digests of all of the events of some entries but their keys, each with the offsets of those that have it."""
    found: dict[bytes, list[int]] = {}
    for entry in entries:
        if entry.is_erased:
            continue
        try:
            digest = entry_digest(run_id, entry, written_as)
        except (RunstreamError, ValueError):
            continue  # its text does not read: it is like no other
        found.setdefault(digest, []).append(entry.offset)
    return found


def branch_plan(head: RunHead, spans: Spans, same: Iterable[int]) -> ErasePlan:
    """Plan what goes of a branch of a run of which content is erased.

    Args:
        head: Where the branch stands.
        spans: What is erased of the run.
        same: The offsets of the events in the branch that are the same as one of those.
    """
    offsets = sorted(same)
    shared = [first for first, _ in spans if first <= head.start.offset]
    first = min([*offsets[:1], *shared], default=None)
    if first is None:
        return ErasePlan(head.begin)
    return ErasePlan(head.begin, tuple((offset, offset) for offset in offsets), first_held=first)
