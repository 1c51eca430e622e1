"""The drain worker: from Redis into every archive, proven there, then trimmed from Redis.

The worker keeps no state of its own that matters. How far an archive is, the archive says; how far it
is proven, Redis says. Whatever dies and whenever, the next worker begins at the mark, and what is
already archived is passed over. A worker that was paused for an hour can do no harm: settling does
nothing unless Redis still has the very entry that was proven.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from runstream.drain.proof import disproof
from runstream.drain.work import Piece, Positions, RunWork
from runstream.model.errors import (
    ArchiveGap,
    ConfigurationError,
    HistoryDiverged,
    RunstreamError,
    StoreUnavailable,
)
from runstream.model.protocols import Sink
from runstream.model.values import DrainReport
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.operations import draining
from runstream.stores.redis.operations.draining import DueRun, Proven, Settled
from runstream.stores.redis.pace import Pace

__all__ = ["DrainWorker", "Trim"]

Trim: TypeAlias = Literal["covered", "archived", "never"]

_log = logging.getLogger("runstream.drain")

_RUNS_PER_CLAIM = 16  # of each partition: few enough to be through before the claim runs out
_LONGEST_BACKOFF_SECONDS = 30.0


class DrainWorker:
    """Archives the runs of a Redis store into ``sinks`` and trims what is proven to be there.

    ``batch`` is how many events go into one transaction of a sink, fewer where they are large.
    ``trim`` says what leaves Redis: ``"covered"``, what is archived and covered by every snapshot of the
    run, so that ``recover`` works from Redis alone; ``"archived"``, all that is archived; ``"never"``.
    ``claim_seconds`` is how long a dead worker's runs wait for another; ``poll_seconds`` how often an
    idle worker looks for work; ``park_seconds`` after what time a parked run is tried again.

    Several workers may drain one store. All must have the same archives: those of the first worker
    become the ones that each partition requires. Raises ConfigurationError for other ones.
    """

    def __init__(
        self,
        hot: RedisCheckpointer[Any, Any],
        sinks: Sequence[Sink],
        *,
        name: str | None = None,
        batch: int = 1000,
        trim: Trim = "covered",
        claim_seconds: float = 30.0,
        poll_seconds: float = 0.2,
        park_seconds: float = 300.0,
    ) -> None:
        if not sinks:
            raise ConfigurationError("a drain needs at least one archive to drain to")
        if batch < 1:
            raise ConfigurationError(f"batch={batch}: a transaction holds at least one event")
        if trim not in ("covered", "archived", "never"):
            raise ConfigurationError(f"trim={trim!r}: use 'covered', 'archived' or 'never'")
        self.name = name or f"{socket.gethostname()}-{os.getpid()}"
        self._hot = hot
        self._keys = hot.context.keys
        self._sinks = list(sinks)
        self._archives = {sink.archive_id: sink.location for sink in sinks}
        if len(self._archives) != len(self._sinks):
            raise ConfigurationError("two of the archives are one and the same; name each once")
        self._pace = Pace(batch)
        self._trim: Trim = trim
        self._claim_seconds = claim_seconds
        self._poll_seconds = poll_seconds
        self._park_seconds = park_seconds
        self._enlisted = False

    def drain_once(self) -> DrainReport:
        """Drain what was due when this began; runs that another worker has claimed are its own.

        Raises StoreUnavailable if Redis or an archive cannot be reached: claims are given up, nothing
        is lost, and the same call is safe to repeat.
        """
        self._enlist()
        began = self._hot.perform(draining.server_time())
        report = DrainReport()
        while claimed := self._claim(began):
            report += self._drain_claimed(claimed)
        return report

    def run(self, stop: threading.Event | None = None) -> DrainReport:
        """Drain until ``stop`` is set, the batch in hand included; returns what was done in all.

        An outage of Redis or of an archive is waited out, with a growing pause.
        """
        stop = stop or threading.Event()
        report, failures = DrainReport(), 0
        while not stop.is_set():
            try:
                self._enlist()
                claimed = self._claim(None)
                if claimed:
                    report += self._drain_claimed(claimed, stop)
                failures = 0
            except StoreUnavailable as error:
                if failures == 0:
                    _log.warning("drain %s waits: %s", self.name, error)
                failures += 1
                stop.wait(self._pause(failures))
                continue
            if not claimed:
                stop.wait(self._poll_seconds)
        return report

    def _pause(self, failures: int) -> float:
        longest = min(_LONGEST_BACKOFF_SECONDS, self._poll_seconds * 2.0**failures)
        # chance keeps workers from coming back all at one moment
        return longest * random.uniform(0.5, 1)  # noqa: S311 - nothing secret hangs on it

    # -- claiming ----------------------------------------------------------------------------------

    def _enlist(self) -> None:
        if self._enlisted:
            return
        for partition, required in self._hot.perform(draining.enlist(self._keys, self._archives)).items():
            if required.keys() != self._archives.keys():
                raise ConfigurationError(
                    f"partition {partition} requires the archives {_listed(required)}; this worker has"
                    f" {_listed(self._archives)}: start it with the same ones"
                )
        self._enlisted = True

    def _claim(self, due_until: int | None) -> list[DueRun]:
        return self._hot.perform(draining.claim(self._keys, due_until, _RUNS_PER_CLAIM, self._claim_seconds))

    # -- draining ----------------------------------------------------------------------------------

    def _drain_claimed(self, claimed: list[DueRun], stop: threading.Event | None = None) -> DrainReport:
        """Drain claimed runs; with ``stop`` set, the batch in hand is finished and the rest given up."""
        report = DrainReport()
        queue: deque[RunWork] = deque()
        done: set[str] = set()
        try:
            for due, (run, positions) in zip(claimed, self._look([due.run_id for due in claimed]), strict=True):
                if run is None:  # deleted since it was claimed
                    done.add(due.run_id)
                    continue
                try:
                    queue.append(RunWork.begin(due, run, positions))
                except HistoryDiverged as error:
                    report += self._park(run, str(error), done)
            extended = time.monotonic()
            while queue and not (stop is not None and stop.is_set()):
                report += self._drain_batch(queue, done)
                if queue and time.monotonic() - extended > self._claim_seconds / 3:
                    extended = time.monotonic()
                    waiting = [work.run_id for work in queue]
                    self._hot.perform(draining.extend(self._keys, waiting, self._claim_seconds))
        finally:
            self._release([due for due in claimed if due.run_id not in done])
        return report

    def _look(self, run_ids: Sequence[str]) -> list[tuple[draining.LoadedRun | None, Positions]]:
        """How these runs stand in Redis, and how far each archive has them.

        The archives are asked first: then none can be ahead of Redis because of what happens in between.
        """
        positions = [[sink.position(run_id) for sink in self._sinks] for run_id in run_ids]
        return list(zip(self._hot.perform(draining.load(self._keys, run_ids)), positions, strict=True))

    def _has_moved(self, work: RunWork) -> bool:
        """Whether another worker has taken the run on: a claim that had run out, as it does when one is slow."""
        ((run, positions),) = self._look([work.run_id])
        return run is None or run.mark != work.run.mark or list(positions) != list(work.positions)

    def _drain_batch(self, queue: deque[RunWork], done: set[str]) -> DrainReport:
        """Write, prove and settle as many entries as go into one transaction."""
        report = DrainReport()
        pieces: list[Piece] = []
        chosen, room = [], self._pace.count
        while queue and room > 0:
            want = queue[0].want(room)
            room -= max(1, want.last - want.first + 1)
            chosen.append((queue.popleft(), want))
        loaded = self._hot.perform(draining.load_entries(self._keys, [want for _, want in chosen]))
        self._pace.saw(record for found in loaded for _, record in found.entries)
        for (work, want), found in zip(chosen, loaded, strict=True):
            try:
                pieces.append(Piece.make(work, want, found))
            except ArchiveGap as error:
                if self._has_moved(work):
                    done.add(work.run_id)
                else:
                    report += self._park(work.run, str(error), done)
        for sink in self._sinks:
            report += self._write(sink, pieces, done)
        for piece in list(pieces):
            for sink in self._sinks:
                if (reason := disproof(sink, piece.work.run_id, piece.entries, piece.snapshots)) is not None:
                    pieces.remove(piece)
                    report += self._give_up(piece.work, f"{reason}; nothing was trimmed", done)
                    break
        report += self._settle(pieces, queue, done)
        _log.info("settled %s", report)
        return report

    def _write(self, sink: Sink, pieces: list[Piece], done: set[str]) -> DrainReport:
        """Write the pieces in one transaction, without those of runs that the archive must refuse."""
        report = DrainReport()
        while pieces:
            try:
                sink.write([piece.batch() for piece in pieces])
            except (ArchiveGap, HistoryDiverged) as error:
                refused = next(piece for piece in pieces if piece.work.run_id == error.run_id)
                pieces.remove(refused)
                report += self._give_up(refused.work, str(error), done)
            else:
                break
        return report

    def _settle(self, pieces: list[Piece], queue: deque[RunWork], done: set[str]) -> DrainReport:
        report = DrainReport()
        if not pieces:
            return report
        proven = [self._proven(piece) for piece in pieces]
        for piece, settled in zip(
            pieces,
            self._hot.perform(draining.settle(self._keys, proven, list(self._archives))),
            strict=True,
        ):
            report += self._settled(piece, settled, queue, done)
        return report

    def _proven(self, piece: Piece) -> Proven:
        for lane_id, reason in piece.broken.items():
            of_lane = "" if lane_id is None else f" of lane {lane_id!r}"
            _log.error("the snapshot%s of run %r does not read: %s", of_lane, piece.work.run_id, reason)
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
                f"run {work.run_id!r} must also be archived in {settled.detail}: start the worker with every"
                " archive that is required"
            )
        if settled.outcome == "diverged":
            reason = "Redis lost what was being archived and has another history now; nothing was trimmed"
            return self._park(work.run, reason, done)
        if settled.outcome == "gone":
            done.add(work.run_id)
            return DrainReport()
        fresh = [entry for entry in piece.entries if entry.offset > work.run.mark.offset]
        report = DrainReport(
            runs=int(piece.is_last),
            events=sum(entry.raw is None for entry in fresh),
            snapshots=len(piece.snapshots),
            quarantined=sum(entry.raw is not None for entry in fresh),
            trimmed=settled.trimmed,
        )
        if piece.blocked:
            report += self._park(work.run, piece.blocked, done)
        elif piece.is_last:
            done.add(work.run_id)
        else:
            work.at = piece.end
            queue.appendleft(work)
        return report

    def _give_up(self, work: RunWork, reason: str, done: set[str]) -> DrainReport:
        """Park a run, unless another worker has settled it since: then what this one has of it is out of date."""
        (run,) = self._hot.perform(draining.load(self._keys, [work.run_id]))
        if run is not None and run.mark == work.run.mark:
            return self._park(work.run, reason, done)
        done.add(work.run_id)
        return DrainReport()

    def _park(self, run: draining.LoadedRun, reason: str, done: set[str]) -> DrainReport:
        """Set a run aside, so that it holds up no other, and say why."""
        _log.error("run %r is parked: %s", run.header.run_id, reason)
        self._hot.perform(draining.park(self._keys, run.header, reason, self._park_seconds))
        done.add(run.header.run_id)
        return DrainReport(parked=1)

    def _release(self, claimed: list[DueRun]) -> None:
        """Give up what was not settled. A claim that cannot be given up runs out by itself."""
        try:
            self._hot.perform(draining.release(self._keys, claimed))
        except RunstreamError as error:
            _log.debug("claims run out by themselves: %s", error)


def _listed(archives: dict[str, str]) -> str:
    return ", ".join(sorted(archives.values()))
