"""Ask in Redis again for what an archive has erased of a run, and Redis does not know.

A failover has lost the request; or the run was erased in the archive itself, and put back from there. Until Redis
has nothing of it either, the two do not hold the same, and nothing more of the run can be archived. It is asked
for only where the archive's last cursor is on the run's history in Redis, and only at offsets at which the archive
has no content: the same offset of another history is another event. Where a lease is in force, or a snapshot was
saved since that may hold some of it, the run waits: a person decides.
"""

from __future__ import annotations

from runstream.drain.parts import WorkerParts
from runstream.model.erasures import ErasureNote, Spans, spans_of, spans_without
from runstream.model.protocols import Sink
from runstream.model.results import Cursor
from runstream.stores.capabilities import Archive, ErasesContent, part_of
from runstream.stores.redis.noted_erasures import joined
from runstream.stores.redis.operations.worker.hot_run import HotRun

__all__ = ["ask_for_lost"]

_MOST = 2**53  # no run has so many events


def ask_for_lost(parts: WorkerParts, sink: Sink, run: HotRun) -> str | None:
    """Ask in Redis for what an archive has erased of a run and Redis does not know.

    Args:
        parts: The worker's parts.
        sink: The archive.
        run: The run, as it is in Redis.

    Returns:
        None if Redis knows all of it; '' if it does now, else why it cannot be asked for.
    """
    archive = part_of(sink, ErasesContent)
    with parts.outages.using(sink.location):
        notes = () if archive is None else archive.erasure_notes(run.run_id)
        if not notes:
            return None
        position, base = parts.position(sink, run.run_id), _base(sink, run)
    if position is None or position.cursor.offset < run.head.mark.offset:
        return None
    noted = parts.namespace.load_erasures(run.run_id)  # after the archive was asked: Redis is told before it is
    begin = max(run.head.before_first.offset, noted.base)
    lost: list[tuple[ErasureNote, Cursor | None]] = []
    if base.offset > begin and any(note.before for note in notes):
        lost.append((ErasureNote(0.0, (), base.offset + 1), base))
    known = joined([(0, max(begin, base.offset)), *noted.spans_since(0), (position.cursor.offset + 1, _MOST)])
    left = spans_without(joined(span for note in notes for span in note.spans), known)
    with parts.outages.using(sink.location):
        erased = _erased_at(sink, run.run_id, left)
    if erased:
        lost.append((ErasureNote(0.0, erased), None))
    for note, before in lost:
        why = parts.namespace.ask_again(run.header, note, position.cursor, position.snapshots, before)
        if why:
            return f"{sink.location} has erased what Redis has still, and it cannot be erased there: {why}"
    return "" if lost else None


def _base(sink: Sink, run: HotRun) -> Cursor:
    """The cursor before the first event that counts in an archive."""
    archive = part_of(sink, Archive)
    header = None if archive is None else archive.header(run.run_id)
    return run.head.before_first if header is None else header.before_first


def _erased_at(sink: Sink, run_id: str, spans: Spans) -> Spans:
    """Those of some offsets at which an archive has no content any more."""
    entries = (entry for first, last in spans for entry in sink.read_back(run_id, first, last))
    return spans_of(entry.offset for entry in entries if entry.is_erased)
