"""The statistics of a worker: what it has done and what fails, written by the worker, read by any thread."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from runstream.model.clock import monotonic_seconds
from runstream.model.results import DrainReport, Failure

__all__ = ["ARCHIVES", "REDIS", "DrainStats", "Failure", "Timing"]

REDIS = "redis"
"""The name of Redis as a backend; an archive's name is its location."""
ARCHIVES = "archives"
"""What fails while the namespace requires other archives than the worker has."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The number of calls, and the seconds that they took together."""

    count: int = 0
    seconds: float = 0.0


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
    failing: dict[str, Failure] = field(default_factory=dict)
    held: Mapping[str, int] | None = None
    last_beat: float = field(default_factory=monotonic_seconds)

    def beat(self) -> None:
        """Give a sign of life."""
        self.last_beat = time.monotonic()

    def wrote(self, location: str, seconds: float) -> None:
        """Note one write of an archive."""
        so_far = self.writes.get(location, Timing())
        self.writes[location] = Timing(so_far.count + 1, so_far.seconds + seconds)
