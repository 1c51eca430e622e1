"""The parts of a drain worker that all its steps share."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace

from runstream.drain.heartbeat import Heartbeat
from runstream.drain.outages import Outages
from runstream.drain.seq_spans import Trim
from runstream.drain.stats import DrainStats, Timing
from runstream.drain.tally import Tally
from runstream.model.archive_records import Position, RunHeader
from runstream.model.errors import ConfigurationError, RunstreamError
from runstream.model.identifiers import one_of_kind
from runstream.model.protocols import Sink, looks_once, tells_of_lanes
from runstream.model.results import DrainReport
from runstream.operations.forks import starts_anew
from runstream.stores.redis.namespace import Namespace

__all__ = ["OtherArchivesRequired", "WorkerParts", "describe_error"]

_log = logging.getLogger("runstream.drain")


class OtherArchivesRequired(ConfigurationError):
    """The namespace requires an archive that the worker has not, or does not require one that it has."""


class WorkerParts:
    """The namespace that a worker drains, its archives, its times (in seconds), and what it keeps of its work.

    Args:
        namespace: The namespace that is drained.
        sinks: The archives.
        name: The worker's name; None for one made of host name and process id.
        partitions: The numbers of the partitions that it drains; None for all.
        claim_seconds: How long a claim lasts.
        poll_seconds: How often, in seconds, an idle worker polls for work.
        park_seconds: After what time a parked run is tried again.
        trim: What leaves Redis.
        retires_idle: Whether runs that were quiet are retired though they have not ended.

    Raises:
        ConfigurationError: There is no archive, or one is named twice, or there is no such partition, or ``trim``.
    """

    def __init__(
        self,
        namespace: Namespace,
        sinks: Sequence[Sink],
        *,
        name: str | None = None,
        partitions: Collection[int] | None = None,
        claim_seconds: float = 30.0,
        poll_seconds: float = 0.2,
        park_seconds: float = 300.0,
        trim: Trim = "covered",
        retires_idle: bool = False,
    ) -> None:
        if trim not in ("covered", "archived", "never"):
            raise ConfigurationError(f"trim={trim!r}: use 'covered', 'archived' or 'never'")
        others = (
            [sinks] if hasattr(sinks, "archive_id") else [one for one in sinks if not hasattr(one, "archive_id")]
        )
        if others:
            raise ConfigurationError(
                f"a drain takes a list of archives, and {one_of_kind(others[0])} is none: pass"
                ' [SQLiteCheckpointer(path)], or what runstream.connect("sqlite:PATH") gives'
            )
        if not sinks:
            raise ConfigurationError("a drain needs at least one archive to drain to")
        self._given_name = name
        self.name = self._own_name()
        self.namespace = namespace
        self.sinks = list(sinks)
        self.archives = {sink.archive_id: sink.location for sink in sinks}
        """The archives: UUID to location."""
        if len(self.archives) != len(sinks):
            raise ConfigurationError("two of the archives are one and the same; name each once")
        self.partitions = None if partitions is None else sorted(namespace.keys.numbered(partitions))
        self.claim_seconds = claim_seconds
        self.poll_seconds = poll_seconds
        self.park_seconds = park_seconds
        self.trim: Trim = trim
        self.retires_idle = retires_idle
        self.stats = DrainStats(writes=dict.fromkeys(self.archives.values(), Timing()))
        self.report = DrainReport()
        """What the worker's present call has done."""
        self._tally = Tally(lambda: self.name)
        self.heartbeat = Heartbeat(namespace, lambda: self.name, claim_seconds, self._facts)
        self.outages = Outages(lambda: self.name, self.stats, poll_seconds, self.heartbeat.report_now)
        starts_anew(self)

    def _start_anew(self) -> None:
        """Take a name of this process's own: the parent reports itself under the one that it has."""
        self.name = self._own_name()

    def _own_name(self) -> str:
        return self._given_name or f"{socket.gethostname()}-{os.getpid()}"

    def _facts(self) -> dict[str, object]:
        """What the worker reports of itself."""
        return {
            "archives": list(self.archives.values()),
            "archive_ids": list(self.archives),
            "failing": {what: asdict(failure) for what, failure in dict(self.stats.failing).items()},
            "events": self.stats.report.events,
            "partitions": self.partitions,
            "trim": self.trim,
        }

    def note(self, report: DrainReport) -> None:
        """Add to what was done."""
        self.report += report
        self.stats.report += report
        self.stats.beat()
        self._tally.add(report)

    @contextmanager
    def one_look(self, sink: Sink) -> Iterator[None]:
        """Read of many runs what an archive has of them, all in one look where it can give that."""
        with self.outages.using(sink.location), sink.one_look() if looks_once(sink) else nullcontext():
            yield

    def positions(self, sink: Sink, run_ids: Sequence[str]) -> list[Position | None]:
        """How far an archive has each of these runs, without their snapshots where it can leave those out."""
        with self.one_look(sink):
            return [self.position(sink, run_id, lanes=()) for run_id in run_ids]

    def position(self, sink: Sink, run_id: str, lanes: Collection[str | None] | None = None) -> Position | None:
        """How far an archive has a run, at least with its snapshots of these lanes; None: of all."""
        with self.outages.using(sink.location):
            if lanes is not None and tells_of_lanes(sink):
                return sink.position_of_lanes(run_id, lanes)
            return sink.position(run_id)

    def with_snapshots(
        self, sink: Sink, run_id: str, position: Position | None, lanes: Collection[str | None]
    ) -> Position | None:
        """A position that was asked for without snapshots, with those of these lanes as they are now."""
        if position is None or not lanes or not tells_of_lanes(sink):
            return position
        now = self.position(sink, run_id, lanes)
        return position if now is None else replace(position, snapshots=now.snapshots)

    def check_required(self, run_id: str) -> None:
        """Raise OtherArchivesRequired where an archive is not required any more: what it lacks parks no run.

        Since it was dropped, workers without it trim what it does not have.
        """
        required = self.namespace.archives_of_run(run_id)
        dropped = [location for uuid, location in self.archives.items() if uuid not in required]
        if required and dropped:
            raise OtherArchivesRequired(
                f"{', '.join(dropped)} was dropped, and has not all of run {run_id!r} any more: start the worker"
                " without it, or see `runstream archives`"
            )

    def park(
        self, run_id: str, reason: str, *, header: RunHeader | None = None, error: Exception | None = None
    ) -> None:
        """Set a run aside, so that it holds up no other, and log why.

        Args:
            run_id: The run.
            reason: Why, and what a person can do about it.
            header: What was loaded of the run: another run of this name is not parked. None: it was not loaded.
            error: What was raised; one that is not of ours is logged with its traceback.
        """
        cause = None if isinstance(error, RunstreamError) else error
        fields = {"run": run_id, "reason": reason}
        _log.error("run %r is parked: %s", run_id, reason, exc_info=cause, extra=fields)
        with self.heartbeat.still:
            if header is None:
                self.namespace.park_unread(run_id, reason, self.park_seconds)
            else:
                self.namespace.park(header, reason, self.park_seconds)


def describe_error(error: Exception) -> str:
    """An error as text, for the reason why a run is parked."""
    if isinstance(error, RunstreamError):
        return str(error)
    return f"{type(error).__name__}: {error}; the worker's log has more"
