"""Retiring: a run that is archived and was quiet leaves Redis, except for a tombstone.

One that has ended does so, and where the worker is told so, any other, as one that waits for a person or was given
up. Such a tombstone has what people were asked and have said beside it, so that the run is found by its status and
can be answered, and it is never forgotten.

The tombstone, at most 250 bytes and the session id, is with the tags what is left of the run: where it ended, so
that a late append goes on at the right offset, and that it was retired, so that a reader gets an error that names
the archives; and, in at most 48 bytes each, the revisions of its lanes' snapshots, so that the writer of a lane
can go on from its own. Callers' keys stay known as long as the tombstone is there, about 100 bytes each; producers
for their window. After another while the run is forgotten: all of it goes, and counts as deleted, not as lost.

Settling puts the runs that may be retired into `retire`, so the work is proportional to what is due, whatever else
there is. Which run may be retired is decided by the scripts, in one step, whatever a worker had found before.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from runstream.drain.parts import OtherArchivesRequired, WorkerParts, describe_error
from runstream.drain.readback import find_lost
from runstream.model.errors import ConfigurationError, CorruptRecordError, StoreUnavailable
from runstream.model.protocols import keeps_tags
from runstream.model.results import DrainReport
from runstream.stores.redis.operations.worker.hot_run import HotRun
from runstream.stores.redis.operations.worker.retire import Quiet, RetireCandidate, RetireOutcome

__all__ = ["Retirement"]

_log = logging.getLogger("runstream.drain")

_RUNS_PER_ROUND = 16  # of each partition: a worker that has events to archive is not kept from it for long
_SECONDS_BETWEEN_ROUNDS = 1.0
_NO_RUN = "~"  # to check whether an archive works, it is asked for a run that is not there


class Retirement:
    """Retires runs of one worker's partitions, and forgets those that were retired.

    Args:
        parts: The worker's parts.
        retire_after: For how many seconds a run that has ended must have been quiet; None: as any other.
        forget_after: For how many seconds it must have been retired to be forgotten; None: nothing is forgotten.
        retire_idle: For how many seconds any run must have been quiet; None: others are not retired.

    Raises:
        ConfigurationError: A time below 0, or ``forget_after`` alone.
    """

    def __init__(
        self,
        parts: WorkerParts,
        retire_after: float | None,
        forget_after: float | None,
        retire_idle: float | None = None,
    ) -> None:
        for name, seconds in (
            ("retire_after_seconds", retire_after),
            ("retire_idle_seconds", retire_idle),
            ("forget_after_seconds", forget_after),
        ):
            if seconds is not None and not 0 <= seconds < math.inf:
                raise ConfigurationError(f"{name}={seconds}: pass seconds, 0 or more, or None")
        of_ended = [seconds for seconds in (retire_after, retire_idle) if seconds is not None]
        if forget_after is not None and not of_ended:
            raise ConfigurationError(
                "forget_after_seconds without retire_after_seconds or retire_idle_seconds: only what was retired"
                " is forgotten; pass one of them, too"
            )
        self._parts = parts
        self._namespace = parts.namespace
        self._quiet = Quiet(min(of_ended), retire_idle) if of_ended else None
        self._forget_after = forget_after
        self._next_round = 0.0

    def all_due(self, stop: threading.Event | None = None) -> DrainReport:
        """Retire and forget all runs that it is time for, or as many as can be before ``stop`` is set.

        Raises:
            StoreUnavailable: Redis cannot be reached, or an archive; it is safe to repeat.
        """
        report, done = DrainReport(), set[tuple[str, str]]()
        while self._clear_leftovers() and not (stop is not None and stop.is_set()):
            pass
        while stop is None or not stop.is_set():
            some, found = self._some_due()
            report += some
            if found <= done:  # what is left is not fit yet
                return report
            done |= found
        return report

    def some_due(self) -> DrainReport:
        """Clear leftovers of, retire and forget a few runs; where there were none, do nothing for a second."""
        if time.monotonic() < self._next_round:
            return DrainReport()
        cleared = self._clear_leftovers()
        report, found = self._some_due()
        if not found and not cleared:
            self._next_round = time.monotonic() + _SECONDS_BETWEEN_ROUNDS
        return report

    def _clear_leftovers(self) -> int:
        """Clear what a few retired or absent runs have left. Returns how many were looked at."""
        return self._namespace.clear_leftovers(_RUNS_PER_ROUND, self._parts.partitions)

    def _some_due(self) -> tuple[DrainReport, set[tuple[str, str]]]:
        """Retire and forget a few runs. Returns what was done, and to which runs."""
        if self._quiet is None:
            return DrainReport(), set()
        due = self._namespace.find_quiet(
            self._quiet.ended_seconds, self._forget_after, _RUNS_PER_ROUND, self._parts.partitions
        )
        report = DrainReport()
        if due.to_forget:
            report += self._apart(self._forget, due.to_forget)
        if due.to_retire:
            report += self._apart(partial(self._retire, quiet=self._quiet), due.to_retire)
        if report != DrainReport():
            _log.debug("retiring: %s", report, extra=report.to_dict())
        found = {("retire", run_id) for run_id in due.to_retire} | {("forget", run_id) for run_id in due.to_forget}
        return report, found

    def _apart(self, step: Callable[[Sequence[str]], DrainReport], run_ids: Sequence[str]) -> DrainReport:
        """Retire or forget these runs together, and each alone if that fails in a way that is not foreseen.

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
        """Park a run that failed in a way that is not foreseen, and find it again only when it comes due."""
        self._parts.park(run_id, describe_error(error), error=error)
        self._namespace.put_off(run_id, self._parts.park_seconds)
        return DrainReport(parked=1)

    def _retire(self, run_ids: Sequence[str], quiet: Quiet) -> DrainReport:
        report = DrainReport()
        candidates = []
        for run_id, run in zip(run_ids, self._namespace.load_runs(run_ids), strict=True):
            is_due, reason = False, None
            if run is not None and run.head.mark == run.head.last:
                is_due = self._namespace.is_due(run_id)
                reason = self._lack(run, is_due=is_due)
            if run is not None and reason is not None:
                if is_due or self._namespace.is_due(run_id) or self._has_moved(run):
                    continue  # it is archived first, as when an archive was added: it is found again
                self._parts.check_required(run_id)
                # it comes due, so that it is archived there, and being due it is not retired
                _log.error("run %r is not retired: %s", run_id, reason)
                self._namespace.park(run.header, reason, self._parts.park_seconds)
                report += DrainReport(parked=1)
            candidates.append(_candidate(run_id, run))
        outcomes = self._namespace.retire(candidates, quiet, self._parts.archives)
        for candidate, outcome in zip(candidates, outcomes, strict=True):
            if outcome.name == "archives":
                raise OtherArchivesRequired(
                    f"run {candidate.run_id!r} must also be archived in {outcome.detail} before it is retired:"
                    " start the worker with every archive that is required"
                )
            report += self._note_refused(candidate, outcome)
            report += DrainReport(retired=int(outcome.name == "ok"), trimmed=outcome.entries)
        return report

    def _note_refused(self, candidate: RetireCandidate, outcome: RetireOutcome) -> DrainReport:
        """Park a run that the server could not retire or forget. Raises what is no fault of the run."""
        if outcome.error is None:
            return DrainReport()
        if not isinstance(outcome.error, CorruptRecordError):
            raise outcome.error
        return self._set_aside(candidate.run_id, outcome.error)

    def _lack(self, run: HotRun, *, is_due: bool) -> str | None:
        """Say what an archive lacks of a run that was proven to be there; None if nothing.

        It was added since, or its file was lost, changed or put back from a copy: what is in Redis is then all
        there is.
        """
        head = run.head
        # one that is due is not retired: there is no need to read what it has
        first_hot = None if is_due else self._namespace.first_hot(run.run_id)
        for sink in self._parts.sinks:
            try:
                position = self._parts.position(sink, run.run_id)
            except StoreUnavailable:
                self._parts.position(sink, _NO_RUN)  # this raises too, unless the failure is of this run only
                try:
                    position = self._parts.position(sink, run.run_id)
                except StoreUnavailable as error:  # it is, and has not passed
                    return f"{error}; nothing was removed"
            held = head.start if position is None else position.cursor
            if held != head.last:
                return f"{sink.location} has it up to {held}, not up to {head.last}; nothing was removed"
            snapshots = {} if position is None else position.snapshots
            if any(snapshots.get(lane_id) != token for lane_id, token in head.tokens.items()):
                return f"{sink.location} does not have its latest snapshot; nothing was removed"
            if keeps_tags(sink) and head.tags.version not in ("", position and position.tags):
                return f"{sink.location} does not have its tags; nothing was removed"
            if first_hot is not None:
                with self._parts.outages.using(sink.location):
                    lost = find_lost(sink, run.run_id, first_hot, head.last)
                if lost is not None:
                    return f"{lost}; nothing was removed"
        return None

    def _has_moved(self, run: HotRun) -> bool:
        """Whether something was appended, or saved, since the run was loaded."""
        (now,) = self._namespace.load_runs([run.run_id])
        if now is None:
            return True
        return _state_of(now) != _state_of(run)

    def _forget(self, run_ids: Sequence[str]) -> DrainReport:
        if self._forget_after is None:
            return DrainReport()
        runs = self._namespace.load_runs(run_ids)
        candidates = [_candidate(run_id, run) for run_id, run in zip(run_ids, runs, strict=True)]
        report = DrainReport()
        for candidate, outcome in zip(
            candidates, self._namespace.forget(candidates, self._forget_after), strict=True
        ):
            report += self._note_refused(candidate, outcome)
            report += DrainReport(forgotten=int(outcome.name == "ok"))
        return report


def _state_of(run: HotRun) -> tuple[object, ...]:
    return run.head.creation, run.head.last, run.head.tokens, run.head.tags


def _candidate(run_id: str, run: HotRun | None) -> RetireCandidate:
    if run is None:
        return RetireCandidate(run_id, None)
    return RetireCandidate(run_id, run.header, run.head.tokens, run.head.tags.version)
