"""The runs that a worker holds claims on."""

from __future__ import annotations

from collections.abc import Sequence

from runstream.drain.parts import WorkerParts
from runstream.model.archive_records import RunHeader
from runstream.model.clock import monotonic_seconds
from runstream.model.results import DrainReport
from runstream.stores.redis.operations.worker.drain import DueRun

__all__ = ["Claims"]


class Claims:
    """Claimed runs, of which each remains until it is finished or parked. Other threads may read what remains.

    Args:
        parts: The worker's parts.
        claimed: The runs.
    """

    def __init__(self, parts: WorkerParts, claimed: Sequence[DueRun]) -> None:
        self._parts = parts
        self._claimed = claimed
        self._claimed_at = monotonic_seconds()
        self._waited = {due.run_id: due.waited_seconds for due in claimed}
        self._finished: set[str] = set()

    def __contains__(self, run_id: str) -> bool:
        return run_id not in self._finished

    @property
    def remaining(self) -> list[DueRun]:
        """The runs that are not finished yet."""
        return [due for due in self._claimed if due.run_id in self]

    def seconds_due(self, run_id: str) -> float:
        """For how long a run has been due by now."""
        return self._waited[run_id] + monotonic_seconds() - self._claimed_at

    def finish(self, run_id: str) -> None:
        """Hold a run no longer: it is settled, parked, deleted, or another worker's."""
        self._finished.add(run_id)

    def park(
        self, run_id: str, reason: str, *, header: RunHeader | None = None, error: Exception | None = None
    ) -> None:
        """Set a run aside for a reason; see :meth:`~runstream.drain.parts.WorkerParts.park`."""
        self._parts.park(run_id, reason, header=header, error=error)
        self.finish(run_id)
        self._parts.note(DrainReport(parked=1))
