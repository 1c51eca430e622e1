"""How two runs differ: where they part, what each has from there, and what their states differ in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias

from runstream.model.results import E, Recorded

__all__ = ["Change", "LaneDiff", "RunDiff", "StateDifference"]

Change: TypeAlias = Literal["changed", "added", "removed"]
"""What became of a part of a state: it is another, or only the second run has it, or only the first."""


@dataclass(frozen=True, slots=True)
class StateDifference:
    """One part in which two states differ.

    Attributes:
        path: The part, as in ``data.plan[3]``.
        what: ``changed``, ``added`` or ``removed``.
        old: What the first run has there; None if it has nothing.
        new: What the second run has there; None if it has nothing.
    """

    path: str
    what: Change
    old: Any = None
    new: Any = None


@dataclass(frozen=True, slots=True)
class LaneDiff(Generic[E]):
    """What two runs have of one lane from where they part.

    Attributes:
        lane_id: The lane.
        events: The first run's events.
        other_events: The second run's.
        state: What the lane's latest snapshots differ in; nothing for the main lane, whose snapshot is the run's.
    """

    lane_id: str
    events: Sequence[Recorded[E]]
    other_events: Sequence[Recorded[E]]
    state: Sequence[StateDifference] = ()


@dataclass(frozen=True, slots=True)
class RunDiff(Generic[E]):
    """How two runs differ.

    Attributes:
        run_id: The first run.
        other_run_id: The second run.
        shared_offset: They have one history up to this offset; 0: they share nothing.
        lanes: What each has from there, by lane, in the order in which the lanes appear.
        state: What the runs' latest snapshots differ in; the ``run_id`` of each is no difference.
    """

    run_id: str
    other_run_id: str
    shared_offset: int
    lanes: Sequence[LaneDiff[E]]
    state: Sequence[StateDifference]
