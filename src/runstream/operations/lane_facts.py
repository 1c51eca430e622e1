"""What a store notes of the lanes of a run, and what it tells of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from runstream.model.results import LaneInfo
from runstream.model.run_head import EndedLane, SnapshotHead

__all__ = ["HotLanes", "LaneFacts"]


class HotLanes(NamedTuple):
    """What Redis tells of the lanes of a run.

    Attributes:
        infos: The lanes that it knows, by name.
        are_all: Whether the run has no others.
        leases: Who holds which lane, also one that Redis does not know; None: the whole run.
    """

    infos: list[LaneInfo]
    are_all: bool
    leases: Mapping[str | None, str]

    @property
    def names(self) -> list[str]:
        """The lanes that it knows."""
        return [info.lane_id for info in self.infos]


class LaneFacts(NamedTuple):
    """What is noted of the lanes of a run, by lane.

    Attributes:
        lasts: Offset and ``seq`` of each lane's last event.
        snapshots: Their latest snapshots; None: the run's own.
        ends: The last end of each lane that was ever ended.
        leases: Who holds which lane; None: the whole run.
    """

    lasts: Mapping[str, tuple[int, int]] = {}
    snapshots: Mapping[str | None, SnapshotHead] = {}
    ends: Mapping[str, EndedLane] = {}
    leases: Mapping[str | None, str] = {}

    def infos(self) -> list[LaneInfo]:
        """What is known of each lane that has events or a snapshot, by name."""
        names = {lane_id for lane_id, (last, _) in self.lasts.items() if last}
        names |= {lane_id for lane_id in self.snapshots if lane_id is not None}
        return [self._info(lane_id) for lane_id in sorted(names)]

    def _info(self, lane_id: str) -> LaneInfo:
        last, seq = self.lasts.get(lane_id, (0, 0))
        snapshot, end = self.snapshots.get(lane_id), self.ends.get(lane_id)
        is_ended = end is not None and end.is_end_of(last, "" if snapshot is None else snapshot.token)
        covered = None if snapshot is None else snapshot.offset
        return LaneInfo(lane_id, last, seq, covered, is_ended, self.leases.get(lane_id))
