"""Which snapshots of a run are kept: what every store does alike to tell it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from runstream.model.identifiers import check_name, check_run_id
from runstream.model.results import SnapshotInfo
from runstream.model.run_head import SnapshotHead

__all__ = ["check_snapshot_of", "highest_first"]


def check_snapshot_of(run_id: str, lane_id: str | None) -> None:
    """Raise InvalidRunId or ConfigurationError for what cannot name a run or, unless it is None, a lane."""
    check_run_id(run_id)
    if lane_id is not None:
        check_name("lane_id", lane_id)


def highest_first(saved: Iterable[SnapshotHead | SnapshotInfo]) -> list[SnapshotInfo]:
    """Snapshots by the offsets that they cover, the highest first; of one offset the last of them alone.

    Args:
        saved: The snapshots of a run, or of one lane of it, in the order in which they were saved.
    """
    latest = {one.offset: SnapshotInfo(one.offset, one.revision) for one in saved}
    return sorted(latest.values(), reverse=True)
