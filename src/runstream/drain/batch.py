"""Archive claimed runs in batches: load, write to every archive, read back and compare, settle in Redis.

Nothing is settled before every archive has written all of it and was read back, and has shown that it still has
what is trimmed with it and was read back some time ago. A run that an archive must refuse, or that does not follow
what is archived, is parked; the others of the batch go on without it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from shlex import quote

from runstream.codec.record import ERASED
from runstream.drain.claimed_run import (
    Chunk,
    ClaimedRun,
    Erased,
    Positions,
    explain_parking,
    until_mended,
)
from runstream.drain.claims import Claims
from runstream.drain.detached import make_whole
from runstream.drain.erasing import Erasing
from runstream.drain.parts import OtherArchivesRequired, WorkerParts
from runstream.drain.readback import compare_snapshots, find_lost, find_mismatch
from runstream.drain.seq_spans import find_spans
from runstream.model.archive_records import ArchiveEntry, Position, kept_aside
from runstream.model.errors import ArchiveGap, ConfigurationError, HistoryDiverged, RunstreamError
from runstream.model.protocols import Sink
from runstream.model.results import Cursor, DrainReport
from runstream.stores.redis.operations.worker.drain import DueRun, Proven, SeqSpan, Settled
from runstream.stores.redis.operations.worker.hot_run import HotRun

__all__ = ["Batches"]

_log = logging.getLogger("runstream.drain")


class Batches:
    """Archives claimed runs together, batch after batch.

    Args:
        parts: The worker's parts.
        batch: How many events go into one transaction of an archive at most.

    Raises:
        ConfigurationError: A batch of nothing.
    """

    def __init__(self, parts: WorkerParts, *, batch: int) -> None:
        if batch < 1:
            raise ConfigurationError(f"batch={batch}: a transaction holds at least one event")
        self._parts = parts
        self._namespace = parts.namespace
        self._batch = batch
        self._erasing = Erasing(parts)

    def archive(self, runs: Sequence[DueRun], claims: Claims, stop: threading.Event) -> None:
        """Archive all that these of the claimed runs have.

        Args:
            runs: The runs.
            claims: The claims on them; each run that is through is finished there.
            stop: Once it is set, the batch in hand is the last.
        """
        queue: deque[ClaimedRun] = deque()
        loaded = self._load([due.run_id for due in runs])
        erased: dict[str, Erased] = {}
        to_erase = [run.run_id for run, positions in loaded if run is not None and _is_to_erase(run, positions)]
        if to_erase:
            erased = self._erasing.carry_out(to_erase)
            loaded = self._load([due.run_id for due in runs])
        for due, (run, positions) in zip(runs, loaded, strict=True):
            if run is None:  # deleted since it was claimed, or never there
                self._namespace.take_off(due.run_id)
                claims.finish(due.run_id)
                continue
            of_run = erased.get(run.run_id, Erased())
            try:
                claimed = self._begin(run, positions)
            except (ArchiveGap, HistoryDiverged) as error:
                if self._is_out_of_date(run, positions, of_run):
                    claims.finish(run.run_id)
                else:
                    self._park(run, explain_parking(error), claims)
            else:
                claimed.erased = of_run
                if claimed.erased.unknown:
                    self._park(run, until_mended(claimed.erased.unknown, run.run_id), claims)
                else:
                    queue.append(claimed)
        while queue and not stop.is_set():
            self._archive_batch(queue, claims)

    def _begin(self, run: HotRun, positions: Positions) -> ClaimedRun:
        """Begin to archive a run; of one that was a fork, every archive first gets what it had shared."""
        if run.head.was_fork and make_whole(self._parts, run):
            ((again, positions),) = self._load([run.run_id])
            run = again or run
        claimed = ClaimedRun.begin(run, positions)
        head = run.head
        if head.base is not None and any(position is None for _, position in positions):
            # of a fork that is one still, its parent has what it shares; of one that was, it is its own
            after = head.lowest.offset if head.fork_of is not None else 0
            claimed.former = self._namespace.erased_facts(run.run_id, after).former(after, head.base)
        return claimed

    def _load(self, run_ids: Sequence[str]) -> list[tuple[HotRun | None, Positions]]:
        """Load where these runs stand in Redis, and how far each archive has them.

        The archives are asked first: then none can be ahead of Redis because of what happens in between. Which
        snapshots they are asked for, Redis has to tell.
        """
        parts = self._parts
        found = zip(*(parts.positions(sink, run_ids) for sink in parts.sinks), strict=True)
        loaded: list[tuple[HotRun | None, Positions]] = []
        for run_id, run, positions in zip(run_ids, self._namespace.load_due(run_ids), found, strict=True):
            whole = run
            if run is not None and run.is_partial and any(_is_behind(position, run) for position in positions):
                # an archive that was added, or put back from a copy, may lack what was proven of any lane
                (whole,) = self._namespace.load_runs([run.run_id])
            lanes = () if whole is None else whole.head.snapshots
            held = [
                (sink.location, parts.with_snapshots(sink, run_id, position, lanes))
                for sink, position in zip(parts.sinks, positions, strict=True)
            ]
            loaded.append((whole, held))
        return loaded

    def _is_out_of_date(self, run: HotRun, positions: Positions, erased: Erased) -> bool:
        """Whether a run, or what an archive has of it, is not as it was loaded: it is not to be judged by that.

        Another worker has settled more of it, as a claim runs out; it was deleted and made anew; a failover lost
        some; or its beginning, or what else was asked for since, is to be erased first.
        """
        ((now, positions_now),) = self._load([run.run_id])
        if now is None or self._has_lost(now, run.head.last):
            return True
        if _is_to_erase(now, positions_now) and len(erased.notes) < now.erasures:
            return True
        return now.head.mark != run.head.mark or positions_now != positions

    def _has_lost(self, run: HotRun, last: Cursor) -> bool:
        """Whether a run has not this cursor any more, with which it ended: it may have as many events again."""
        if last in (run.head.last, run.head.mark):
            return False
        return run.head.last.offset < last.offset or self._namespace.cursor_at(run.run_id, last.offset) != last

    def _archive_batch(self, queue: deque[ClaimedRun], claims: Claims) -> None:
        """Write, read back and settle as many entries as go into one transaction."""
        chunks = self._next_chunks(queue, claims)
        # nothing is settled before every archive has written all of it and was read back
        for number, sink in enumerate(self._parts.sinks):
            self._write(sink, number, chunks, claims)
        for number, sink in enumerate(self._parts.sinks):
            self._read_back(sink, number, chunks, claims)
        self._settle(chunks, queue, claims)

    def _next_chunks(self, queue: deque[ClaimedRun], claims: Claims) -> list[Chunk]:
        """Load what goes into one transaction, and make of it what archives keep."""
        chunks: list[Chunk] = []
        chosen, room = [], self._batch
        while queue and room > 0:
            request = queue[0].next_request(room)
            room -= max(1, request.last - request.first + 1)
            chosen.append((queue.popleft(), request))
        loaded = self._namespace.load_entries([request for _, request in chosen])
        queue.extendleft(claimed for claimed, _ in chosen[len(loaded) :])  # the others were enough
        for (claimed, request), found in zip(chosen, loaded, strict=False):
            if claimed.facts is None and ERASED in found.records:
                claimed.facts = self._namespace.erased_facts(claimed.run_id, claimed.proven.offset)
            try:
                chunks.append(Chunk.make(claimed, request, found))
            except (ArchiveGap, HistoryDiverged) as error:
                if self._is_out_of_date(claimed.run, claimed.positions, claimed.erased):
                    claims.finish(claimed.run_id)
                else:
                    self._park(claimed.run, explain_parking(error), claims)
        return chunks

    def _write(self, sink: Sink, number: int, chunks: list[Chunk], claims: Claims) -> None:
        """Write the chunks in one transaction, without those of runs that the archive must refuse."""
        while chunks:
            self._parts.stats.beat()
            began = time.monotonic()
            try:
                with self._parts.outages.using(sink.location):
                    sink.write([chunk.batch(number) for chunk in chunks])
            except (ArchiveGap, HistoryDiverged) as error:
                refused = next(chunk for chunk in chunks if chunk.run_id == error.run_id)
                chunks.remove(refused)
                self._give_up(refused.claimed, explain_parking(error), claims)
            else:
                self._parts.stats.wrote(sink.location, time.monotonic() - began)
                break

    def _read_back(self, sink: Sink, number: int, chunks: list[Chunk], claims: Claims) -> None:
        """Read the chunks back, and park the runs of which the archive does not hold what it was given."""
        self._parts.stats.beat()
        mismatches: list[tuple[Chunk, str]] = []
        with self._parts.one_look(sink):
            for chunk in chunks:
                mismatch = find_mismatch(sink, chunk.run_id, chunk.entries, (), chunk.tags)
                differs, later = compare_snapshots(sink, chunk.run_id, chunk.snapshots, chunk.seen(number))
                chunk.later |= later
                if (mismatch := mismatch or differs) is not None:
                    mismatches.append((chunk, mismatch))
        for chunk, mismatch in mismatches:
            chunks.remove(chunk)
            reason = until_mended(f"{mismatch}; nothing was trimmed", chunk.run_id)
            self._give_up(chunk.claimed, reason, claims)
        if chunks:
            self._parts.outages.over(sink.location)

    def _settle(self, chunks: list[Chunk], queue: deque[ClaimedRun], claims: Claims) -> None:
        """Settle the chunks, and put the runs back into the queue of which more is left."""
        spans = find_spans(self._namespace, chunks, self._parts.trim)
        proven = []
        for chunk, span in zip(list(chunks), spans, strict=True):
            lost = self._find_lost(chunk, span)
            if lost is None:
                proven.append(self._proven(chunk, span))
            else:
                chunks.remove(chunk)
                reason = until_mended(f"{lost}; nothing was trimmed", chunk.run_id)
                self._give_up(chunk.claimed, reason, claims)
        if not chunks:
            return
        with self._parts.heartbeat.still:
            replies = self._namespace.settle(proven, self._parts.archives)
        report = DrainReport()
        refused: list[RunstreamError] = []
        for chunk, settled in zip(chunks, replies, strict=True):
            if settled.error is None:
                report += self._note_settled(chunk, settled, queue, claims)
            else:
                refused.append(settled.error)
        self._parts.stats.batches += 1
        self._parts.note(report)
        _log.debug("settled %s", report, extra=report.to_dict())
        if refused:
            raise refused[0]

    def _find_lost(self, chunk: Chunk, span: SeqSpan | None) -> str | None:
        """Say what an archive has lost of what is trimmed with a chunk and was proven before; None if nothing."""
        last = chunk.claimed.proven
        if self._parts.trim == "never" or chunk.broken:
            return None
        first_hot = self._namespace.first_hot(chunk.run_id) if span is None else span.after + 1
        upto = last.offset if span is None else min(span.upto, last.offset)
        if first_hot is None or upto < first_hot:
            return None
        end = last if upto == last.offset else self._namespace.cursor_at(chunk.run_id, upto)
        if end is None:  # another worker has trimmed it
            return None
        for sink in self._parts.sinks:
            with self._parts.outages.using(sink.location):
                lost = find_lost(sink, chunk.run_id, first_hot, end)
            if lost is not None:
                return lost
        return None

    def _proven(self, chunk: Chunk, span: SeqSpan | None) -> Proven:
        for lane_id, reason in chunk.broken.items():
            of_lane = "" if lane_id is None else f" of lane {lane_id!r}"
            fields = {"run": chunk.run_id, "lane": lane_id}
            _log.error("the snapshot%s of run %r does not read: %s", of_lane, chunk.run_id, reason, extra=fields)
        is_last = chunk.is_last
        return Proven(
            chunk.claimed.run.header,
            chunk.end,
            chunk.tokens if is_last else {},
            # a snapshot that does not read covers nothing
            "never" if chunk.broken else self._parts.trim,
            None if is_last else self._parts.claim_seconds,
            self._parts.retires_idle,
            span,
            chunk.lanes,
            list(chunk.claimed.run.ends) if is_last else (),
            chunk.tags_version if is_last else "",
            chunk.claimed.erased.number if is_last else 0,
            self._parts.claim_seconds if chunk.claimed.erased.hindrance else 0,  # it passes
        )

    def _note_settled(
        self, chunk: Chunk, settled: Settled, queue: deque[ClaimedRun], claims: Claims
    ) -> DrainReport:
        """Go on with a run or finish it, by the outcome of its settling. Returns what was done."""
        claimed = chunk.claimed
        if settled.outcome == "archives":
            raise OtherArchivesRequired(
                f"run {chunk.run_id!r} must also be archived in {settled.detail}, which is required since; nothing"
                " was trimmed: start the worker with that archive too, or see `runstream archives`"
            )
        if settled.outcome == "diverged":
            reason = "Redis lost what was being archived and has another history now; nothing was trimmed"
            error = HistoryDiverged(reason, run_id=chunk.run_id, offset=chunk.end.offset)
            claims.park(chunk.run_id, explain_parking(error), header=claimed.run.header)
            return DrainReport()
        if settled.outcome == "gone":
            claims.finish(chunk.run_id)
            return DrainReport()
        fresh = chunk.entries[max(0, claimed.run.head.mark.offset - claimed.proven.offset) :]
        aside, is_last = kept_aside(fresh), chunk.is_last
        self._parts.stats.bytes += chunk.fresh_bytes
        _log_quarantined(chunk.run_id, aside)
        if chunk.blocked:
            claims.park(chunk.run_id, until_mended(chunk.blocked, chunk.run_id), header=claimed.run.header)
        elif is_last and claimed.erased.refusal:
            claims.park(
                chunk.run_id, until_mended(claimed.erased.refusal, chunk.run_id), header=claimed.run.header
            )
        elif is_last:
            if hindrance := claimed.erased.hindrance:
                what = "what is to be erased of run %r is not yet, and is tried again: %s"
                _log.warning(what, chunk.run_id, hindrance, extra={"run": chunk.run_id, "reason": hindrance})
            self._parts.stats.archived(claims.seconds_due(chunk.run_id))
            claims.finish(chunk.run_id)
        else:
            claimed.advance(chunk.end, settled.noted_to)
            queue.appendleft(claimed)
        return DrainReport(
            runs=int(is_last),
            events=len(fresh) - len(aside),
            snapshots=len(chunk.snapshots),
            quarantined=len(aside),
            trimmed=settled.trimmed,
        )

    def _park(self, run: HotRun, reason: str, claims: Claims) -> None:
        """Park a run that an archive cannot take, if that archive is required still."""
        self._parts.check_required(run.run_id)
        claims.park(run.run_id, reason, header=run.header)

    def _give_up(self, claimed: ClaimedRun, reason: str, claims: Claims) -> None:
        """Park a run, unless what this worker has of it is out of date: another has settled it, or it is lost."""
        (run,) = self._namespace.load_due([claimed.run_id])
        is_as_it_was = run is not None and _settled_state(run) == _settled_state(claimed.run)
        if run is not None and is_as_it_was and not self._has_lost(run, claimed.run.head.last):
            self._park(claimed.run, reason, claims)
        claims.finish(claimed.run_id)


def _settled_state(run: HotRun) -> tuple[object, ...]:
    """What settling, and erasing, changes of a run."""
    return run.head.mark, run.head.tags, run.erasures


def _is_to_erase(run: HotRun, positions: Positions) -> bool:
    """Whether something is to be erased of a run: also again, where an archive was put back from a copy.

    Or where one has erased more than Redis knows, which has lost what was asked for.
    """
    held = (0 if position is None else position.erasures for _, position in positions)
    return run.erasures != run.erased or any(count != run.erasures for count in held)


def _is_behind(position: Position | None, run: HotRun) -> bool:
    """Whether an archive lacks some of what was proven of a run."""
    return position is None or position.cursor.offset < run.head.mark.offset


def _log_quarantined(run_id: str, entries: Iterable[ArchiveEntry]) -> None:
    for entry in entries:
        _log.warning(
            "%s; its bytes are kept: `runstream quarantine show %s %s`",
            entry.reason,
            quote(run_id),
            entry.offset,
            extra={"run": run_id, "offset": entry.offset, "reason": entry.reason},
        )
