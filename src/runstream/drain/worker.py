"""The drain worker: it archives runs from Redis in every archive, proves them there, and trims Redis.

The worker keeps no state of its own that matters. The archive itself says how far it is; Redis
says how far that is proven. Whatever dies and whenever, the next worker begins at the mark, and what is
already archived is passed over. A worker that was paused for an hour can do no harm: settling does
nothing unless Redis still has the very entry that was proven.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from runstream.drain.batch import Batches
from runstream.drain.claimed_run import until_mended
from runstream.drain.claims import Claims
from runstream.drain.enlistment import Enlistment
from runstream.drain.parts import OtherArchivesRequired, WorkerParts, describe_error
from runstream.drain.retire import Retirement
from runstream.drain.seq_spans import Trim
from runstream.drain.stats import ARCHIVES, REDIS, DrainStats
from runstream.drain.sweep import Sweep
from runstream.model.errors import ConfigurationError, RunstreamError, StoreUnavailable
from runstream.model.protocols import Sink
from runstream.model.results import DrainReport
from runstream.stores.protocol import RunStore
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.worker.drain import FARTHEST_SECONDS, DueRun, server_time

__all__ = ["DrainWorker"]

_log = logging.getLogger("runstream.drain")

_SECONDS_BETWEEN_CHECKS = 5.0
_SECONDS_BETWEEN_QUESTIONS = 1.0  # which archives are required, while they are not the worker's own
_RUNS_PER_VISIT = 100
_RUNS_PER_CLAIM = 16  # of each partition: few enough to be through before the claim runs out


class DrainWorker:
    """Archives the runs of a Redis store, and trims from Redis what is proven to be archived.

    Several workers may drain one store. All must have the same archives: those of the first worker become the ones
    that each partition requires, until ``runstream archives`` changes them; a worker that has others waits.

    Args:
        hot: The Redis store.
        sinks: The archives.
        name: The name under which the worker reports itself in Redis; None for one made of host name and process
            id.
        batch: How many events go into one transaction of an archive at most; fewer where they are large.
        trim: What leaves Redis: ``"covered"``, what is archived and covered by every snapshot of the run, so that
            ``recover`` works from Redis alone; ``"archived"``, all that is archived; ``"never"``. What another
            ``trim`` has left there is found in idle time, and leaves it too.
        partitions: The numbers of the partitions that it drains; None for all.
        claim_seconds: For how many seconds a claim lasts, and so how long a dead worker's runs wait for another.
        poll_seconds: How often, in seconds, an idle worker polls for work.
        park_seconds: After how many seconds a parked run is tried again.
        retire_after_seconds: After how many quiet seconds a run that has ended and is archived leaves Redis, all
            but a tombstone (see :mod:`~runstream.drain.retire`); None: never.
        retire_idle_seconds: After how many quiet seconds any run that is archived does so, whether it has ended or
            not; it comes back with the next append. None: only those that have ended.
        forget_after_seconds: After how many further seconds the tombstone of a run that has ended goes too: then
            nothing in Redis shows any more that there was such a run, and an append under its id starts another
            one (a tiered store refuses it: the archive has that run). None: never.

    Attributes:
        progress: What it has done and what fails now; any thread may read it.

    Raises:
        ConfigurationError: An argument does not fit.
    """

    def __init__(
        self,
        hot: RunStore[Any, Any],
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
        retire_idle_seconds: float | None = None,
        forget_after_seconds: float | None = None,
    ) -> None:
        self._namespace = namespace_of(hot)
        self._hot = hot
        self._parts = WorkerParts(
            self._namespace,
            sinks,
            name=name,
            partitions=partitions,
            claim_seconds=claim_seconds,
            poll_seconds=poll_seconds,
            park_seconds=park_seconds,
            trim=trim,
            retires_idle=retire_idle_seconds is not None,
        )
        self.progress: DrainStats = self._parts.stats
        self._outages = self._parts.outages
        self._heartbeat = self._parts.heartbeat
        self._batches = Batches(self._parts, batch=batch)
        self._retirement = Retirement(self._parts, retire_after_seconds, forget_after_seconds, retire_idle_seconds)
        self._sweep = Sweep(self._parts, self._visit)
        self._enlistment = Enlistment(self._parts)
        self._check_at = 0.0

    @property
    def name(self) -> str:
        """The name under which the worker reports itself. One made of the process id is another after a fork."""
        return self._parts.name

    def __repr__(self) -> str:
        """Its name, what it drains and where it archives."""
        archives = ", ".join(self._parts.archives.values())
        return f"<{type(self).__name__} {self.name}: {self._hot!r} to {archives}>"

    def drain_once(self, stop: threading.Event | None = None) -> DrainReport:
        """Drain what was due when this began; runs that another worker has claimed are its own.

        Args:
            stop: When it is set, this ends with the batch in hand, and leaves the rest to the next.

        Returns:
            What was done.

        Raises:
            StoreUnavailable: Redis or an archive cannot be reached: claims are given back, nothing is lost, and
                the same call is safe to repeat.
            ConfigurationError: The namespace requires other archives.
        """
        stop = stop or threading.Event()
        with self._at_work():
            began = self._namespace.run(server_time())
            while True:
                try:
                    self._drain_due(began, stop)
                except ConfigurationError:
                    if not self._namespace.set_aside_foreign_keys(self._parts.partitions):
                        raise
                else:
                    return self._parts.report

    def drain_runs(self, run_ids: Sequence[str], stop: threading.Event | None = None) -> DrainReport:
        """Drain these runs now, whether they are due or not, whoever has claimed them.

        What is archived of them, and may leave Redis by this worker's ``trim``, leaves it, proven as always.

        Args:
            run_ids: The runs; one that is not there is passed over.
            stop: When it is set, this ends with the batch in hand, and leaves the rest to the next.

        Returns:
            What was done.

        Raises:
            StoreUnavailable: As of ``drain_once``.
            ConfigurationError: Likewise.
        """
        with self._at_work():
            self._enlistment.check()
            self._visit(run_ids, stop or threading.Event())
        return self._parts.report

    def _visit(self, run_ids: Sequence[str], stop: threading.Event) -> None:
        """Claim these runs, due or not, and drain them. Where another worker has claimed one, both drain it."""
        for at in range(0, len(run_ids), _RUNS_PER_VISIT):
            if stop.is_set():
                break
            some = run_ids[at : at + _RUNS_PER_VISIT]
            now = self._namespace.run(server_time())
            self._namespace.make_due(some)
            self._namespace.extend(some, self._parts.claim_seconds)
            self._drain_claimed([DueRun(run_id, now) for run_id in some], stop)

    def _drain_due(self, began: int, stop: threading.Event) -> None:
        """Drain what was due at this time, in microseconds by the server's clock, and what a sweep finds."""
        self._enlistment.check()
        self._drain_until(began, stop)
        if self._sweep.at_once(stop):
            self._drain_until(self._namespace.run(server_time()), stop)
        self._parts.note(self._retirement.all_due(stop))

    def _drain_until(self, due_until: int, stop: threading.Event) -> None:
        while not stop.is_set() and (claimed := self._claim(due_until)):
            self._drain_claimed(claimed, stop)

    def run(self, stop: threading.Event | None = None) -> DrainReport:
        """Drain until ``stop`` is set, the batch in hand included.

        An outage of Redis or of an archive is waited out, with a growing pause; ``progress.failing`` and the
        worker's report in Redis show it meanwhile. While the namespace requires an archive more than the worker
        has, or one less when it starts, it waits likewise (see :mod:`~runstream.drain.enlistment`).

        Args:
            stop: Ends it; None: it goes on until an error.

        Returns:
            What was done in all.

        Raises:
            ConfigurationError: What waiting does not cure, as archives that are none of this namespace's.
        """
        stop = stop or threading.Event()
        with self._at_work():
            self._heartbeat.start(report_in=0)
            while not stop.is_set():
                self.progress.beat()
                stop.wait(self._round(stop))
        return self._parts.report

    def _round(self, stop: threading.Event) -> float:
        """Claim once, and drain that. Returns how many seconds to wait before the next time."""
        try:
            self._enlistment.check()
            claimed = self._claim(None)
            if claimed:
                self._drain_claimed(claimed, stop)
            self._parts.note(self._retirement.some_due())
            if not claimed:
                self._sweep.some(stop)
        except StoreUnavailable as error:
            backend = self._outages.backend_of(error)
            if backend == REDIS:
                self._enlistment.expire()  # it may come back without what it knew
            else:
                self._outages.over(REDIS)
            return self._outages.failed(backend, error.reason)
        except OtherArchivesRequired as error:
            self._enlistment.expire(is_refused=True)
            return min(_SECONDS_BETWEEN_QUESTIONS, self._outages.failed(ARCHIVES, str(error)))
        except ConfigurationError:
            if not self._namespace.set_aside_foreign_keys(self._parts.partitions):
                raise
            return 0
        self._outages.over(REDIS)
        return 0 if claimed else self._parts.poll_seconds

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self._parts.report = DrainReport()
        try:
            yield
        finally:
            self._heartbeat.stop()

    # -- claiming ----------------------------------------------------------------------------------

    def _claim(self, due_until: int | None) -> list[DueRun]:
        parts = self._parts
        if time.monotonic() >= self._check_at:
            self._namespace.check_eviction()
            self._check_at = time.monotonic() + _SECONDS_BETWEEN_CHECKS
        farthest = max(FARTHEST_SECONDS, 2 * parts.claim_seconds, 2 * parts.park_seconds)
        return self._namespace.claim(due_until, _RUNS_PER_CLAIM, parts.claim_seconds, parts.partitions, farthest)

    # -- draining ----------------------------------------------------------------------------------

    def _drain_claimed(self, claimed: Sequence[DueRun], stop: threading.Event) -> None:
        """Drain claimed runs; with ``stop`` set, the batch in hand is finished and the rest given back."""
        claims = Claims(self._parts, claimed)
        try:
            with self._heartbeat.holding(lambda: [due.run_id for due in claims.remaining]):
                drain = self._drain_one_by_one if self._outages.have_lasted else self._drain_apart
                drain(claimed, claims, stop)
        finally:
            self._release(claims.remaining)

    def _drain_one_by_one(self, claimed: Sequence[DueRun], claims: Claims, stop: threading.Event) -> None:
        """Drain claimed runs with an archive that has failed for a while: it may do so for one run only.

        A run that it fails for, before or after it works for another, is set aside. If it fails for two in a row,
        it is the archive; an attempt may take long, so none is made for the others.
        """
        suspect: tuple[DueRun, StoreUnavailable] | None = None
        works = False
        for due in random.sample(claimed, len(claimed)):  # not always the same two first
            try:
                self._drain_apart([due], claims, stop)
            except StoreUnavailable as error:
                if suspect is not None or self._outages.backend_of(error) == REDIS:
                    raise
                suspect = due, error
            else:
                works = True
            if suspect is not None and works:
                self._set_aside(suspect[0].run_id, suspect[1], claims)
                suspect, works = None, False
        if suspect is not None:
            raise suspect[1]

    def _drain_apart(self, claimed: Sequence[DueRun], claims: Claims, stop: threading.Event) -> None:
        """Drain claimed runs together, and apart if one of them fails in a way that is not foreseen.

        Whatever that is, a damaged file or a defect of ours, it is to hold up no other run: the runs are taken
        in halves until the one is found, and that one is set aside.
        """
        groups = deque([claimed])
        while groups and not stop.is_set():
            group = [due for due in groups.popleft() if due.run_id in claims]
            try:
                self._batches.archive(group, claims, stop)
            except (StoreUnavailable, ConfigurationError):
                raise
            except Exception as error:  # noqa: BLE001 - see above
                groups.extend(self._without_culprit(group, error, claims))

    def _without_culprit(
        self, group: Sequence[DueRun], error: Exception, claims: Claims
    ) -> list[Sequence[DueRun]]:
        """Set the run aside that an error comes from; if that is not known, give the halves to try."""
        middle = len(group) // 2
        culprits = [due for due in group if not middle or due.run_id == _run_of(error)]
        for due in culprits:
            self._set_aside(due.run_id, error, claims)
        return [group] if culprits else [group[:middle], group[middle:]]

    def _set_aside(self, run_id: str, error: Exception, claims: Claims) -> None:
        """Park a run that failed in a way that is not foreseen."""
        claims.park(run_id, until_mended(describe_error(error), run_id), error=error)

    def _release(self, claimed: Sequence[DueRun]) -> None:
        """Give the claims back that are left. One that cannot be given back runs out by itself."""
        if not claimed:
            return
        try:
            with self._heartbeat.still:
                self._namespace.release(claimed)
        except RunstreamError as error:
            _log.debug("claims run out by themselves: %s", error)


def _run_of(error: Exception) -> str | None:
    """The run that an error of ours names."""
    return getattr(error, "run_id", None) if isinstance(error, RunstreamError) else None
