"""What a store notes of the lanes of a run, and what it tells of them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from runstream.model.results import LaneInfo
from runstream.model.run_head import UNKNOWN_TOKEN, EndedLane, SnapshotHead

__all__ = ["HotLanes", "LaneFacts"]


class LaneFacts(NamedTuple):
    """What is noted of the lanes of a run, by lane.

    Attributes:
        lasts: Offset and ``seq`` of each lane's last event.
        snapshots: Their latest snapshots; None: the run's own.
        ends: The last end of each lane that was ever ended.
        leases: Who holds which lane; None: the whole run.
        bare: Lanes that have no snapshot, whatever an archive has of them: one may have been dropped.
    """

    lasts: Mapping[str, tuple[int, int]] = {}
    snapshots: Mapping[str | None, SnapshotHead] = {}
    ends: Mapping[str, EndedLane] = {}
    leases: Mapping[str | None, str] = {}
    bare: Collection[str] = ()

    @property
    def names(self) -> set[str]:
        """The lanes that have events or a snapshot."""
        names = {lane_id for lane_id, (last, _) in self.lasts.items() if last}
        return names | {lane_id for lane_id in self.snapshots if lane_id is not None}

    def infos(self) -> list[LaneInfo]:
        """What is known of each lane, by name."""
        return [self._info(lane_id) for lane_id in sorted(self.names)]

    def ended(self) -> list[EndedLane]:
        """The ends of the lanes that are ended."""
        return [self.ends[info.lane_id] for info in self.infos() if info.ended]

    def _info(self, lane_id: str) -> LaneInfo:
        last, seq = self.lasts.get(lane_id, (0, 0))
        snapshot, end = self.snapshots.get(lane_id), self.ends.get(lane_id)
        is_ended = end is not None and end.is_end_of(last, "" if snapshot is None else snapshot.token)
        covered = None if snapshot is None else snapshot.offset
        return LaneInfo(lane_id, last, seq, covered, is_ended, self.leases.get(lane_id))

    def beside(self, archived: LaneFacts) -> LaneFacts:
        """These, which Redis has, and what an archive has: of a lane, too, of which some has left Redis."""
        bare = {*self.bare, *(lane for lane, end in self.ends.items() if not end.token)}
        away = {lane: head for lane, head in archived.snapshots.items() if lane not in {*bare, *self.snapshots}}
        ends = {
            lane: end._replace(token=away[lane].token) if end.token == UNKNOWN_TOKEN and lane in away else end
            for lane, end in {**archived.ends, **self.ends}.items()
        }
        snapshots = {**away, **self.snapshots}
        return LaneFacts({**archived.lasts, **self.lasts}, snapshots, ends, self.leases)


class HotLanes(NamedTuple):
    """What Redis tells of the lanes of a run.

    Attributes:
        facts: What it notes of those that it knows. Leases also of a lane that it does not know.
        are_all: Whether the run has no others.
    """

    facts: LaneFacts
    are_all: bool
