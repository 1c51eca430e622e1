"""The statistics of a worker: what it has done and what fails, written by the worker, read by any thread."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

from runstream.model.clock import monotonic_seconds
from runstream.model.results import DrainReport, Failure

__all__ = ["ARCHIVES", "BOUNDS", "REDIS", "DrainStats", "Failure", "Timing"]

REDIS = "redis"
"""The name of Redis as a backend; an archive's name is its location."""
ARCHIVES = "archives"
"""What fails while the namespace requires other archives than the worker has."""


BOUNDS = tuple(step * 10.0**power for power in range(-3, 4) for step in (1, 2, 5))
"""The seconds up to which durations are counted: from a millisecond, by 1, 2 and 5, to more than an hour."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things took: the seconds together, and how many took up to each of the bounds, or longer."""

    seconds: float = 0.0
    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def plus(self, seconds: float) -> Timing:
        """The same with one more."""
        at = bisect_left(BOUNDS, seconds)
        counts = (*self.counts[:at], self.counts[at] + 1, *self.counts[at + 1 :])
        return Timing(self.seconds + seconds, counts)


@dataclass(slots=True)
class DrainStats:
    """The sum of what one worker has done since it was made, and what fails now.

    Values are replaced, never changed; a reader on another thread copies a dict before it walks through it.

    Attributes:
        report: What was settled.
        bytes: The size of the archived records as they were in Redis.
        batches: The number of transactions that were settled.
        retries: The number of attempts at an archive or at Redis that failed and were made again.
        writes: How long the writes of each archive took, by its location.
        archived_after: How long runs had been due when all that they had was archived and proven.
        failing: What is wrong with what fails now, by an archive's location, ``"redis"`` or ``"archives"``: the
            namespace requires others.
        held: How many events the last sweep has found that are archived and still in Redis, by what holds them;
            None before that.
        last_beat: ``time.monotonic()`` when the worker last made progress: between two of them pass at most the
            longest write of a batch, or the longest pause after a failure.
    """

    report: DrainReport = field(default_factory=DrainReport)
    bytes: int = 0
    batches: int = 0
    retries: int = 0
    writes: dict[str, Timing] = field(default_factory=dict)
    archived_after: Timing = field(default_factory=Timing)
    failing: dict[str, Failure] = field(default_factory=dict)
    held: Mapping[str, int] | None = None
    last_beat: float = field(default_factory=monotonic_seconds)

    def beat(self) -> None:
        """Give a sign of life."""
        self.last_beat = time.monotonic()

    def wrote(self, location: str, seconds: float) -> None:
        """Note one write of an archive."""
        self.writes[location] = self.writes.get(location, Timing()).plus(seconds)

    def archived(self, seconds: float) -> None:
        """Note that all of a run is archived that had been due for so long."""
        self.archived_after = self.archived_after.plus(seconds)
