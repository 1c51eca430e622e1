"""A run in two directories, as one: in that of an archive, and in the one that purpose-agent's writer has made."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence

from runstream.integrations.imported import Unreadable
from runstream.integrations.purpose_agent.source import Item, SourceRun, SourceSnapshot

__all__ = ["TwoHomes"]


class TwoHomes(SourceRun):
    """A run whose events are in two places, each in the order of writing. Together they go by their times.

    Args:
        homes: The run in each place, the archive's first: of two events of one time, its comes first.
    """

    def __init__(self, homes: Sequence[SourceRun]) -> None:
        self.run_id = homes[0].run_id
        self._homes = homes

    def events(self) -> Iterator[Item]:
        """Read the events of both."""
        return heapq.merge(*(home.events() for home in self._homes), key=_time)

    def snapshots(self) -> Iterator[SourceSnapshot | Unreadable]:
        """Read the states of both; of two of the run, or of one lane, the one that was saved last."""
        latest: dict[str | None, SourceSnapshot] = {}
        for home in self._homes:
            for found in home.snapshots():
                if isinstance(found, Unreadable):
                    yield found
                elif found.lane_id not in latest or found.saved_at > latest[found.lane_id].saved_at:
                    latest[found.lane_id] = found
        # what the other home has after it, nobody knows
        yield from (found._replace(is_older=True) for found in latest.values())


def _time(item: Item) -> float:
    """When an event was written; what does not tell comes right after what it was written after."""
    time = None if isinstance(item, Unreadable) else item.fields.get("ts")
    return time if isinstance(time, int | float) else -math.inf
