"""One batch's way: out of Redis, into every archive, proven there, and settled in Redis.

Nothing is settled before every archive has written and shown all of it. A run that an archive must refuse, or
that does not follow from what is archived, is parked; the others of the batch go on without it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from shlex import quote
from typing import Literal, TypeAlias

from runstream.drain.claimed_run import Piece, Positions, RunWork, once_mended, why_parked
from runstream.drain.heartbeat import Heartbeat
from runstream.drain.outages import Episodes
from runstream.drain.reach import Reach
from runstream.drain.readback import disproof
from runstream.drain.stats import Progress
from runstream.model.archive_records import ArchiveEntry, kept_aside
from runstream.model.errors import ArchiveGap, ConfigurationError, HistoryDiverged
from runstream.model.protocols import Sink
from runstream.model.results import DrainReport
from runstream.stores.redis.operations.worker import drain
from runstream.stores.redis.operations.worker.drain import DueRun, Proven, Settled
from runstream.stores.redis.page_size import Pace

__all__ = ["Batches", "Trim"]

Trim: TypeAlias = Literal["covered", "archived", "never"]

_log = logging.getLogger("runstream.drain")


class Batches:
    """Drains claimed runs together, batch after batch of at most ``batch`` events.

    ``note`` is told what was done. ``done`` is, throughout, the runs that are off the worker's hands: settled,
    parked, or gone. The other options are the worker's (see :class:`~runstream.drain.DrainWorker`). Raises
    ConfigurationError for a batch of nothing and for a ``trim`` that there is not.
    """

    def __init__(
        self,
        reach: Reach,
        sinks: Sequence[Sink],
        heartbeat: Heartbeat,
        episodes: Episodes,
        progress: Progress,
        note: Callable[[DrainReport], None],
        *,
        batch: int,
        trim: Trim,
        claim_seconds: float,
        park_seconds: float,
    ) -> None:
        if batch < 1:
            raise ConfigurationError(f"batch={batch}: a transaction holds at least one event")
        if trim not in ("covered", "archived", "never"):
            raise ConfigurationError(f"trim={trim!r}: use 'covered', 'archived' or 'never'")
        self._keys = reach.keys
        self._perform = reach.perform
        self._position = reach.position
        self._using = reach.using
        self._sinks = sinks
        self._archives = [sink.archive_id for sink in sinks]
        self._heartbeat = heartbeat
        self._episodes = episodes
        self._progress = progress
        self._note = note
        self._pace = Pace(batch)
        self._trim: Trim = trim
        self._claim_seconds = claim_seconds
        self._park_seconds = park_seconds

    def drain_together(self, claimed: list[DueRun], done: set[str], stop: threading.Event) -> None:
        """Drain all that these runs have, until ``stop`` is set: then the batch in hand is the last."""
        queue: deque[RunWork] = deque()
        for due, (run, positions) in zip(claimed, self._look([due.run_id for due in claimed]), strict=True):
            if run is None:  # deleted since it was claimed
                done.add(due.run_id)
                continue
            try:
                queue.append(RunWork.begin(due, run, positions))
            except HistoryDiverged as error:
                self._park(run, why_parked(error), done)
        while queue and not stop.is_set():
            self._drain_batch(queue, done)

    def _look(self, run_ids: Sequence[str]) -> list[tuple[drain.LoadedRun | None, Positions]]:
        """How these runs stand in Redis, and how far each archive has them.

        The archives are asked first: then none can be ahead of Redis because of what happens in between.
        """
        found = [[self._position(sink, run_id) for run_id in run_ids] for sink in self._sinks]
        runs = self._perform(drain.load(self._keys, run_ids))
        locations = [sink.location for sink in self._sinks]
        return [
            (run, list(zip(locations, positions, strict=True)))
            for run, *positions in zip(runs, *found, strict=True)
        ]

    def _has_moved(self, work: RunWork) -> bool:
        """Whether another worker has taken the run on: a claim that had run out, as it does when one is slow."""
        ((run, positions),) = self._look([work.run_id])
        return run is None or run.mark != work.run.mark or positions != work.positions

    def _drain_batch(self, queue: deque[RunWork], done: set[str]) -> None:
        """Write, prove and settle as many entries as go into one transaction."""
        pieces = self._next_pieces(queue, done)
        # nothing is settled before every archive has written and shown all of it
        for sink in self._sinks:
            self._write(sink, pieces, done)
        for sink in self._sinks:
            self._prove(sink, pieces, done)
        self._settle(pieces, queue, done)

    def _next_pieces(self, queue: deque[RunWork], done: set[str]) -> list[Piece]:
        """Load what goes into one transaction, and make of it what archives keep."""
        pieces: list[Piece] = []
        chosen, room = [], self._pace.count
        while queue and room > 0:
            want = queue[0].want(room)
            room -= max(1, want.last - want.first + 1)
            chosen.append((queue.popleft(), want))
        loaded = self._perform(drain.load_entries(self._keys, [want for _, want in chosen]))
        self._pace.saw(record for found in loaded for record in found.records)
        for (work, want), found in zip(chosen, loaded, strict=True):
            try:
                pieces.append(Piece.make(work, want, found))
            except (ArchiveGap, HistoryDiverged) as error:
                if self._has_moved(work):
                    done.add(work.run_id)
                else:
                    self._park(work.run, why_parked(error), done)
        return pieces

    def _write(self, sink: Sink, pieces: list[Piece], done: set[str]) -> None:
        """Write the pieces in one transaction, without those of runs that the archive must refuse."""
        while pieces:
            self._progress.beat()
            began = time.monotonic()
            try:
                with self._using(sink.location):
                    sink.write([piece.batch() for piece in pieces])
            except (ArchiveGap, HistoryDiverged) as error:
                refused = next(piece for piece in pieces if piece.work.run_id == error.run_id)
                pieces.remove(refused)
                self._give_up(refused.work, why_parked(error), done)
            else:
                self._progress.wrote(sink.location, time.monotonic() - began)
                break

    def _prove(self, sink: Sink, pieces: list[Piece], done: set[str]) -> None:
        """Read the pieces back, and park the runs of which the archive does not hold what it was given."""
        self._progress.beat()
        for piece in list(pieces):
            with self._using(sink.location):
                reason = disproof(sink, piece.work.run_id, piece.entries, piece.snapshots)
            if reason is not None:
                pieces.remove(piece)
                run_id = piece.work.run_id
                self._give_up(piece.work, once_mended(f"{reason}; nothing was trimmed", run_id), done)
        if pieces:
            self._episodes.over(sink.location)

    def _settle(self, pieces: list[Piece], queue: deque[RunWork], done: set[str]) -> None:
        if not pieces:
            return
        proven = [self._proven(piece) for piece in pieces]
        with self._heartbeat.still:
            replies = self._perform(drain.settle(self._keys, proven, self._archives))
        report = DrainReport()
        for piece, settled in zip(pieces, replies, strict=True):
            report += self._settled(piece, settled, queue, done)
        self._progress.batches += 1
        self._note(report)
        _log.info("settled %s", report, extra=report.to_dict())

    def _proven(self, piece: Piece) -> Proven:
        for lane_id, reason in piece.broken.items():
            of_lane = "" if lane_id is None else f" of lane {lane_id!r}"
            _log.error(
                "the snapshot%s of run %r does not read: %s",
                of_lane,
                piece.work.run_id,
                reason,
                extra={"run": piece.work.run_id, "lane": lane_id},
            )
        return Proven(
            piece.work.run.header,
            piece.end,
            piece.tokens,
            # a snapshot that does not read covers nothing
            "never" if piece.broken else self._trim,
            None if piece.is_last else self._claim_seconds,
        )

    def _settled(self, piece: Piece, settled: Settled, queue: deque[RunWork], done: set[str]) -> DrainReport:
        work = piece.work
        if settled.outcome == "archives":
            raise ConfigurationError(
                f"run {work.run_id!r} must also be archived in {settled.detail}, which is required since; nothing"
                " was trimmed: start the worker with that archive too, or see `runstream archives`"
            )
        if settled.outcome == "diverged":
            reason = "Redis lost what was being archived and has another history now; nothing was trimmed"
            error = HistoryDiverged(reason, run_id=work.run_id, offset=piece.end.offset)
            self._park(work.run, why_parked(error), done)
            return DrainReport()
        if settled.outcome == "gone":
            done.add(work.run_id)
            return DrainReport()
        fresh = piece.entries[max(0, work.run.mark.offset - work.at.offset) :]
        aside = kept_aside(fresh)
        self._progress.bytes += piece.fresh_bytes
        _log_quarantined(work.run_id, aside)
        if piece.blocked:
            self._park(work.run, once_mended(piece.blocked, work.run_id), done)
        elif piece.is_last:
            done.add(work.run_id)
        else:
            work.settled(piece.end)
            queue.appendleft(work)
        return DrainReport(
            runs=int(piece.is_last),
            events=len(fresh) - len(aside),
            snapshots=len(piece.snapshots),
            quarantined=len(aside),
            trimmed=settled.trimmed,
        )

    def _give_up(self, work: RunWork, reason: str, done: set[str]) -> None:
        """Park a run, unless another worker has settled it since: then what this one has of it is out of date."""
        (run,) = self._perform(drain.load(self._keys, [work.run_id]))
        if run is not None and run.mark == work.run.mark:
            self._park(work.run, reason, done)
        done.add(work.run_id)

    def _park(self, run: drain.LoadedRun, reason: str, done: set[str]) -> None:
        """Set a run aside, so that it holds up no other, and say why."""
        run_id = run.header.run_id
        _log.error("run %r is parked: %s", run_id, reason, extra={"run": run_id, "reason": reason})
        with self._heartbeat.still:
            self._perform(drain.park(self._keys, run.header, reason, self._park_seconds))
        done.add(run_id)
        self._note(DrainReport(parked=1))


def _log_quarantined(run_id: str, entries: Iterable[ArchiveEntry]) -> None:
    for entry in entries:
        _log.warning(
            "%s; its bytes are kept: `runstream quarantine show %s %s`",
            entry.reason,
            quote(run_id),
            entry.offset,
            extra={"run": run_id, "offset": entry.offset, "reason": entry.reason},
        )
