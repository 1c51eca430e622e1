"""Retiring: a run that has ended, is archived and was quiet leaves Redis, except for a tombstone.

The tombstone, at most 250 bytes and the session id, is what is left of the run's meta: where it ended, so that a
late append goes on at the right offset, and that it was retired, so that whoever reads it is told where it went.
Callers' keys stay known as long as the tombstone is there, about 100 bytes each; producers for their window. After
another while the run is forgotten: all of it goes, and is told from a run that was lost as a deleted one is.

Settling puts the runs that have ended into `retire`, so the work is proportional to what is due, whatever else
there is. What is fit is decided by the scripts, in one step, whatever a worker believed when it looked.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from functools import partial

from runstream.drain.reach import Reach
from runstream.model.errors import ConfigurationError, RunstreamError, StoreUnavailable
from runstream.model.protocols import Sink
from runstream.model.results import DrainReport
from runstream.stores.redis.operations.worker import drain, retire
from runstream.stores.redis.operations.worker.drain import LoadedRun
from runstream.stores.redis.operations.worker.retire import Fit

__all__ = ["Retiring"]

_log = logging.getLogger("runstream.drain")

_RUNS_PER_LOOK = 16  # of each partition: a worker that has events to archive is not kept from it for long
_SECONDS_BETWEEN_LOOKS = 1.0
_NO_RUN = "~"  # an archive that cannot tell of a run is asked for one that is not there


class Retiring:
    """What one worker retires and forgets; without ``retire_after`` (seconds) it does nothing.

    ``partitions`` are the numbers of those that are the worker's, None for all. Raises ConfigurationError for a
    time below 0, and for ``forget_after`` alone.
    """

    def __init__(
        self,
        reach: Reach,
        sinks: Sequence[Sink],
        retire_after: float | None,
        forget_after: float | None,
        *,
        park_seconds: float,
        partitions: Collection[int] | None = None,
    ) -> None:
        for name, seconds in (("retire_after_seconds", retire_after), ("forget_after_seconds", forget_after)):
            if seconds is not None and not 0 <= seconds < math.inf:
                raise ConfigurationError(f"{name}={seconds}: pass seconds, 0 or more, or None")
        if forget_after is not None and retire_after is None:
            raise ConfigurationError(
                "forget_after_seconds without retire_after_seconds: only what was retired is forgotten; pass both"
            )
        self._keys = reach.keys
        self._perform = reach.perform
        self._position = reach.position
        self._sinks = sinks
        self._retire_after = retire_after
        self._forget_after = forget_after
        self._park_seconds = park_seconds
        self._partitions = partitions
        self._next_look = 0.0

    def all_due(self, stop: threading.Event | None = None) -> DrainReport:
        """Retire and forget what it is time for, or as much as can be before ``stop`` is set.

        Raises StoreUnavailable; it is safe to repeat.
        """
        report, done = DrainReport(), set[tuple[str, str]]()
        while stop is None or not stop.is_set():
            some, found = self._some_due()
            report += some
            if found <= done:  # what is left is not fit yet
                return report
            done |= found
        return report

    def some_due(self) -> DrainReport:
        """Retire and forget a few runs; looks again at once while there are any, else after a second."""
        if self._retire_after is None or time.monotonic() < self._next_look:
            return DrainReport()
        report, found = self._some_due()
        if not found:
            self._next_look = time.monotonic() + _SECONDS_BETWEEN_LOOKS
        return report

    def _some_due(self) -> tuple[DrainReport, set[tuple[str, str]]]:
        """What was done to which runs."""
        if self._retire_after is None:
            return DrainReport(), set()
        look = retire.look(self._keys, self._retire_after, self._forget_after, _RUNS_PER_LOOK, self._partitions)
        due = self._perform(look)
        report = DrainReport()
        if due.to_forget:
            report += self._apart(self._forget, due.to_forget)
        if due.to_retire:
            report += self._apart(partial(self._retire, quiet=self._retire_after), due.to_retire)
        if report != DrainReport():
            _log.info("retiring: %s", report, extra=report.to_dict())
        found = {("retire", run_id) for run_id in due.to_retire} | {("forget", run_id) for run_id in due.to_forget}
        return report, found

    def _apart(self, step: Callable[[Sequence[str]], DrainReport], run_ids: Sequence[str]) -> DrainReport:
        """Take a step with these runs together, and with each alone if that fails in a way that is not foreseen.

        Whatever is wrong with a run, it is to hold up no other, and least of all the worker.
        """
        report, groups = DrainReport(), deque([run_ids])
        while groups:
            group = groups.popleft()
            try:
                report += step(group)
            except (StoreUnavailable, ConfigurationError):
                raise
            except Exception as error:  # noqa: BLE001 - see above
                if len(group) > 1:
                    groups.extend([run_id] for run_id in group)
                else:
                    report += self._set_aside(group[0], error)
        return report

    def _set_aside(self, run_id: str, error: Exception) -> DrainReport:
        """Park a run that failed in a way that is not foreseen, and look at it again only when it comes due."""
        is_ours = isinstance(error, RunstreamError)
        reason = str(error) if is_ours else f"{type(error).__name__}: {error}; the worker's log has more"
        fields = {"run": run_id, "reason": reason}
        _log.error("run %r is parked: %s", run_id, reason, exc_info=None if is_ours else error, extra=fields)
        self._perform(drain.park_unread(self._keys, run_id, reason, self._park_seconds))
        self._perform(retire.put_off(self._keys, run_id, self._park_seconds))
        return DrainReport(parked=1)

    def _retire(self, run_ids: Sequence[str], quiet: float) -> DrainReport:
        report = DrainReport()
        fits = []
        for run_id, run in zip(run_ids, self._perform(drain.load(self._keys, run_ids)), strict=True):
            if run is not None and run.mark == run.last and (reason := self._lack(run)) is not None:
                if self._perform(retire.is_due(self._keys, run_id)) or self._has_moved(run):
                    continue  # it is archived first, as when an archive was added: it is looked at again
                # it comes due, so that it is archived there, and being due it is not retired
                _log.error("run %r is not retired: %s", run_id, reason)
                self._perform(drain.park(self._keys, run.header, reason, self._park_seconds))
                report += DrainReport(parked=1)
            fits.append(_fit(run_id, run))
        archives = [sink.archive_id for sink in self._sinks]
        for fit, outcome in zip(
            fits, self._perform(retire.retire(self._keys, fits, quiet, archives)), strict=True
        ):
            if outcome.name == "archives":
                raise ConfigurationError(
                    f"run {fit.run_id!r} must also be archived in {outcome.detail} before it is retired: start the"
                    " worker with every archive that is required"
                )
            report += DrainReport(retired=int(outcome.name == "ok"), trimmed=outcome.entries)
        return report

    def _lack(self, run: LoadedRun) -> str | None:
        """What an archive does not have of a run that was proven to be there, or None.

        It was added since, or its file was lost or put back from a copy: what is in Redis is then all there is.
        """
        for sink in self._sinks:
            try:
                position = self._position(sink, run.header.run_id)
            except StoreUnavailable as error:
                self._position(sink, _NO_RUN)  # which raises as well, if it is not for this run only
                return f"{error}; nothing was removed"
            held = run.header.start if position is None else position.cursor
            if held != run.last:
                return f"{sink.location} has it up to {held}, not up to {run.last}; nothing was removed"
            snapshots = {} if position is None else position.snapshots
            if any(snapshots.get(lane_id) != token for lane_id, token in run.tokens.items()):
                return f"{sink.location} does not have its latest snapshot; nothing was removed"
        return None

    def _has_moved(self, run: LoadedRun) -> bool:
        """Whether something was appended, or saved, since the run was loaded."""
        (now,) = self._perform(drain.load(self._keys, [run.header.run_id]))
        return now is None or (now.header.start, now.last, now.tokens) != (run.header.start, run.last, run.tokens)

    def _forget(self, run_ids: Sequence[str]) -> DrainReport:
        if self._forget_after is None:
            return DrainReport()
        runs = self._perform(drain.load(self._keys, run_ids))
        fits = [_fit(run_id, run) for run_id, run in zip(run_ids, runs, strict=True)]
        outcomes = self._perform(retire.forget(self._keys, fits, self._forget_after))
        return DrainReport(forgotten=outcomes.count("ok"))


def _fit(run_id: str, run: LoadedRun | None) -> Fit:
    return Fit(run_id, None) if run is None else Fit(run_id, run.header, run.tokens)
