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
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from runstream.drain.batch import Batches, Trim
from runstream.drain.claimed_run import once_mended
from runstream.drain.heartbeat import Heartbeat
from runstream.drain.outages import Episodes
from runstream.drain.reach import Reach
from runstream.drain.retire import Retiring
from runstream.drain.stats import REDIS, Progress, Timing
from runstream.model.errors import ConfigurationError, RunstreamError, StoreUnavailable
from runstream.model.protocols import Sink
from runstream.model.results import DrainReport
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.operations.worker import drain
from runstream.stores.redis.operations.worker.drain import DueRun

__all__ = ["DrainWorker"]

_log = logging.getLogger("runstream.drain")

_RUNS_PER_CLAIM = 16  # of each partition: few enough to be through before the claim runs out


class DrainWorker:
    """Archives the runs of a Redis store into ``sinks`` and trims what is proven to be there.

    ``batch`` is how many events go into one transaction of a sink, fewer where they are large.
    ``trim`` says what leaves Redis: ``"covered"``, what is archived and covered by every snapshot of the
    run, so that ``recover`` works from Redis alone; ``"archived"``, all that is archived; ``"never"``.
    ``partitions`` are the numbers of those that it drains, None for all. ``claim_seconds`` is how long a dead
    worker's runs wait for another; ``poll_seconds`` how often an idle worker looks for work; ``park_seconds``
    after what time a parked run is tried again.

    With ``retire_after_seconds`` a run that has ended, is archived and was quiet for so long leaves Redis but for
    a tombstone (see :mod:`~runstream.drain.retire`), and with ``forget_after_seconds`` that one too, so long
    after: then nothing in Redis tells any more that there was such a run, and an append under its id starts
    another one. None: it stays.

    Several workers may drain one store. All must have the same archives: those of the first worker
    become the ones that each partition requires, until ``runstream archives`` changes them. Raises
    ConfigurationError for other ones.

    ``progress`` tells any thread how it fares; ``name`` is the name under which it reports itself in Redis.
    """

    def __init__(
        self,
        hot: RedisCheckpointer[Any, Any],
        sinks: Sequence[Sink],
        *,
        name: str | None = None,
        batch: int = 1000,
        trim: Trim = "covered",
        partitions: Collection[int] | None = None,
        claim_seconds: float = 30.0,
        poll_seconds: float = 0.2,
        park_seconds: float = 300.0,
        retire_after_seconds: float | None = None,
        forget_after_seconds: float | None = None,
    ) -> None:
        if not sinks:
            raise ConfigurationError("a drain needs at least one archive to drain to")
        self.name = name or f"{socket.gethostname()}-{os.getpid()}"
        self._hot = hot
        self._keys = hot.context.keys
        self._archives = {sink.archive_id: sink.location for sink in sinks}
        if len(self._archives) != len(sinks):
            raise ConfigurationError("two of the archives are one and the same; name each once")
        self._partitions = None if partitions is None else sorted(self._keys.numbered(partitions))
        self._claim_seconds = claim_seconds
        self._poll_seconds = poll_seconds
        self._park_seconds = park_seconds
        self._enlisted = False
        self.progress = Progress(writes=dict.fromkeys(self._archives.values(), Timing()))
        self._report = DrainReport()
        self._reach = Reach(hot)
        self._perform = self._reach.perform
        self._heartbeat = Heartbeat(hot, self.name, claim_seconds, self._said)
        self._episodes = Episodes(self.name, self.progress, poll_seconds, self._heartbeat.report_now)
        self._batches = Batches(
            self._reach,
            list(sinks),
            self._heartbeat,
            self._episodes,
            self.progress,
            self._note,
            batch=batch,
            trim=trim,
            claim_seconds=claim_seconds,
            park_seconds=park_seconds,
        )
        self._retiring = Retiring(
            self._reach,
            list(sinks),
            retire_after_seconds,
            forget_after_seconds,
            park_seconds=park_seconds,
            partitions=self._partitions,
        )

    def drain_once(self, stop: threading.Event | None = None) -> DrainReport:
        """Drain what was due when this began; runs that another worker has claimed are its own.

        When ``stop`` is set it ends with the batch in hand, and leaves the rest to the next. Raises
        StoreUnavailable if Redis or an archive cannot be reached: claims are given up, nothing is lost, and the
        same call is safe to repeat.
        """
        stop = stop or threading.Event()
        with self._at_work():
            self._enlist()
            began = self._perform(drain.server_time())
            while not stop.is_set() and (claimed := self._claim(began)):
                self._drain_claimed(claimed, stop)
            self._note(self._retiring.all_due(stop))
        return self._report

    def run(self, stop: threading.Event | None = None) -> DrainReport:
        """Drain until ``stop`` is set, the batch in hand included; returns what was done in all.

        An outage of Redis or of an archive is waited out, with a growing pause; ``progress.failing`` and the
        worker's report in Redis tell of it meanwhile. Raises ConfigurationError for what waiting does not cure.
        """
        stop = stop or threading.Event()
        with self._at_work():
            self._heartbeat.start(report_in=0)
            while not stop.is_set():
                self.progress.beat()
                stop.wait(self._round(stop))
        return self._report

    def _round(self, stop: threading.Event) -> float:
        """Claim once, and drain that; tells how many seconds to wait before the next time."""
        try:
            self._enlist()
            claimed = self._claim(None)
            if claimed:
                self._drain_claimed(claimed, stop)
            self._note(self._retiring.some_due())
        except StoreUnavailable as error:
            if self._reach.failed == REDIS:
                self._enlisted = False  # it may come back without what it knew
            else:
                self._episodes.over(REDIS)
            return self._episodes.failed(self._reach.failed, error)
        self._episodes.over(REDIS)
        return 0 if claimed else self._poll_seconds

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self._report = DrainReport()
        try:
            yield
        finally:
            self._heartbeat.stop()

    def _said(self) -> dict[str, object]:
        """What the worker reports of itself."""
        return {
            "archives": list(self._archives.values()),
            "failing": {what: asdict(failure) for what, failure in dict(self.progress.failing).items()},
            "events": self.progress.report.events,
            "partitions": self._partitions,
        }

    def _note(self, done: DrainReport) -> None:
        self._report += done
        self.progress.report += done
        self.progress.beat()

    # -- claiming ----------------------------------------------------------------------------------

    def _enlist(self) -> None:
        if self._enlisted:
            return
        found = self._perform(drain.enlist(self._keys, self._archives, self._partitions))
        for partition, required in found.items():
            if required.keys() != self._archives.keys():
                raise ConfigurationError(
                    f"partition {partition} requires the archives {_listed(required)}; this worker has"
                    f" {_listed(self._archives)}: start it with the same ones, or change what is required with"
                    " `runstream archives`"
                )
        self._enlisted = True

    def _claim(self, due_until: int | None) -> list[DueRun]:
        return self._perform(
            drain.claim(
                self._keys,
                due_until,
                _RUNS_PER_CLAIM,
                self._claim_seconds,
                self._partitions,
                max(drain.FARTHEST_SECONDS, 2 * self._claim_seconds, 2 * self._park_seconds),
            )
        )

    # -- draining ----------------------------------------------------------------------------------

    def _drain_claimed(self, claimed: list[DueRun], stop: threading.Event) -> None:
        """Drain claimed runs; with ``stop`` set, the batch in hand is finished and the rest given up."""
        done: set[str] = set()
        try:
            with self._heartbeat.holding(lambda: [due.run_id for due in claimed if due.run_id not in done]):
                drain = self._drain_one_by_one if self._episodes.have_lasted else self._drain_apart
                drain(claimed, done, stop)
        finally:
            self._release([due for due in claimed if due.run_id not in done])

    def _drain_one_by_one(self, claimed: list[DueRun], done: set[str], stop: threading.Event) -> None:
        """Drain claimed runs with an archive that has failed for a while: it may do so for one run only.

        A run that it fails for, before or after it works for another, is set aside. If it fails for two in a row,
        it is the archive; an attempt may take long, so none is made for the others.
        """
        suspect: tuple[DueRun, StoreUnavailable] | None = None
        works = False
        for due in random.sample(claimed, len(claimed)):  # not always the same two first
            try:
                self._drain_apart([due], done, stop)
            except StoreUnavailable as error:
                if suspect is not None or self._reach.failed == REDIS:
                    raise
                suspect = due, error
            else:
                works = True
            if suspect is not None and works:
                self._set_aside(suspect[0].run_id, suspect[1], done)
                suspect, works = None, False
        if suspect is not None:
            raise suspect[1]

    def _drain_apart(self, claimed: list[DueRun], done: set[str], stop: threading.Event) -> None:
        """Drain claimed runs together, and apart if one of them fails in a way that is not foreseen.

        Whatever that is, a damaged file or a defect of ours, it is to hold up no other run: the runs are taken
        in halves until the one is found, and that one is set aside.
        """
        groups = deque([claimed])
        while groups and not stop.is_set():
            group = [due for due in groups.popleft() if due.run_id not in done]
            try:
                self._batches.drain_together(group, done, stop)
            except (StoreUnavailable, ConfigurationError):
                raise
            except Exception as error:  # noqa: BLE001 - see above
                groups.extend(self._without_culprit(group, error, done))

    def _without_culprit(self, group: list[DueRun], error: Exception, done: set[str]) -> list[list[DueRun]]:
        """Set the run aside that an error comes from; where that is not known, tell the halves to try."""
        middle = len(group) // 2
        culprits = [due for due in group if not middle or due.run_id == _run_of(error)]
        for due in culprits:
            self._set_aside(due.run_id, error, done)
        return [group] if culprits else [group[:middle], group[middle:]]

    def _set_aside(self, run_id: str, error: Exception, done: set[str]) -> None:
        """Park a run that failed in a way that is not foreseen."""
        is_ours = isinstance(error, RunstreamError)
        reason = str(error) if is_ours else f"{type(error).__name__}: {error}; the worker's log has more"
        reason = once_mended(reason, run_id)
        fields = {"run": run_id, "reason": reason}
        _log.error("run %r is parked: %s", run_id, reason, exc_info=None if is_ours else error, extra=fields)
        with self._heartbeat.still:
            self._perform(drain.park_unread(self._keys, run_id, reason, self._park_seconds))
        done.add(run_id)
        self._note(DrainReport(parked=1))

    def _release(self, claimed: list[DueRun]) -> None:
        """Give up what was not settled. A claim that cannot be given up runs out by itself."""
        if not claimed:
            return
        try:
            with self._heartbeat.still:
                self._hot.perform(drain.release(self._keys, claimed))
        except RunstreamError as error:
            _log.debug("claims run out by themselves: %s", error)


def _listed(archives: dict[str, str]) -> str:
    return ", ".join(sorted(archives.values()))


def _run_of(error: Exception) -> str | None:
    """The run that an error of ours names."""
    return getattr(error, "run_id", None) if isinstance(error, RunstreamError) else None
