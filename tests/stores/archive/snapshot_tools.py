"""Archives that keep snapshots, and what is looked at in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runstream import JSONLCheckpointer, SQLiteCheckpointer
from tests.support.archive_check import Archive
from tests.support.samples import make_event, make_state

KINDS = ["sqlite", "jsonl"]


def open_at(kind: str, path: Path, **options: Any) -> Archive:
    if kind == "sqlite":
        return SQLiteCheckpointer[Any, Any](path.with_suffix(".db"), **options)
    return JSONLCheckpointer[Any, Any](path, **options)


def opened_again(archive: Archive, **options: Any) -> Archive:
    kind, _, path = archive.location.partition(":")
    return open_at(kind, Path(path), **options)


def step_of(snapshot: Any) -> Any:
    return None if snapshot is None else snapshot.state.current_step


def history(archive: Any, run_id: str = "r", lane_id: str | None = None) -> list[tuple[int, int, int]]:
    """Offset, revision and step of each snapshot."""
    found = list(archive.snapshot_history(run_id, lane_id=lane_id))
    latest = {one.offset: one.revision for one in found}
    assert archive.kept_snapshots(run_id, lane_id=lane_id) == sorted(latest.items(), reverse=True)
    return [(one.offset, one.revision, one.state.current_step) for one in found]


def checkpoint(archive: Any, count: int, *, run_id: str = "r", first: int = 1, lane_id: str | None = None) -> None:
    """So many times an event, with a snapshot whose step is its offset in a run that has nothing else."""
    for step in range(first, first + count):
        event = make_event(run_id, step, lane_id=lane_id or "main")
        archive.append(run_id, [event], snapshot=make_state(run_id, current_step=step), lane_id=lane_id)


def checkpoint_after(archive: Archive, step: int) -> None:
    """One more, of a writer that has recovered."""
    archive.recover("r")
    checkpoint(archive, 1, first=step)
