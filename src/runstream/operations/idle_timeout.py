"""The idle timeout: how long a follower waits for an event to give."""

from __future__ import annotations

from collections.abc import Callable

from runstream.model.clock import monotonic_seconds
from runstream.operations.operation import Pause

__all__ = ["IdleTimeout"]

_UNFINISHED_SECONDS = 0.05


class IdleTimeout:
    """The time that a follower has left, from when its reader last came back for more.

    Only events that are given count, not those that the follower's filter passes over.

    Args:
        run_id: The run that is followed; None: many are.
        seconds: After how many seconds without an event to give the follower ends; None: never.
        clock: The time in seconds.
        awaits: What the run did not have in that time, for the error.
    """

    def __init__(
        self,
        run_id: str | None,
        seconds: float | None,
        clock: Callable[[], float] = monotonic_seconds,
        *,
        awaits: str = "no event to give",
    ) -> None:
        self._awaits = awaits
        self._run_id = run_id
        self._seconds = seconds
        self._clock = clock
        self._began = clock()

    def restart(self) -> None:
        """Count from now: the reader has come back for more."""
        self._began = self._clock()

    @property
    def remaining(self) -> float | None:
        """The seconds that are left, 0 at least; None without end."""
        return None if self._seconds is None else max(0.0, self._began + self._seconds - self._clock())

    def limit(self, seconds: float) -> float:
        """Shorten a wait to the time that is left."""
        remaining = self.remaining
        return seconds if remaining is None else min(seconds, remaining)

    def pause(self) -> Pause:
        """A pause before looking again at a stream that wakes at once: an append has not come to its end there."""
        return Pause(self.limit(_UNFINISHED_SECONDS))

    def check(self) -> None:
        """Raise TimeoutError if no time is left."""
        if self.remaining == 0:
            who = "the runs" if self._run_id is None else f"run {self._run_id!r}"
            text = f"{who} had {self._awaits} for {self._seconds} seconds"
            raise TimeoutError(text) from None
