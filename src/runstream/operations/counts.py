"""How much a store holds, counted run by run: made of what every store gives."""

from __future__ import annotations

from typing import Any

from runstream.model.results import RunInfo
from runstream.operations.arguments import RunsQuery
from runstream.operations.interface import StoreOperations
from runstream.operations.operation import Operation, collect

__all__ = ["count_events", "count_snapshots"]


def count_events(operations: StoreOperations[Any, Any]) -> Operation[int]:
    """How many events the runs have had: the offset of each one's last event, added up."""
    found: list[RunInfo] = yield from collect(operations.runs(RunsQuery()))
    return sum(info.last_offset for info in found)


def count_snapshots(operations: StoreOperations[Any, Any]) -> Operation[int]:
    """How many runs have a snapshot of their own."""
    count = 0
    for run_id in (yield from operations.list_runs()):
        count += None in (yield from operations.snapshot_lanes(run_id))
    return count
