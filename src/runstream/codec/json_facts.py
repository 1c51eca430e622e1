"""What is known of a run, and an event with its position, as plain values for JSON: for commands and for HTTP."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from runstream.model.results import Recorded, RunInfo

__all__ = ["event_facts", "iso_time", "moment", "run_facts"]


def moment(timestamp: float, *, local: bool = False) -> datetime:
    """Unix time in seconds as a moment: in UTC, or in this machine's zone.

    Raises ValueError, OverflowError or OSError for a number that is no time: a producer may write any.
    """
    found = datetime.fromtimestamp(timestamp, UTC)
    return found.astimezone() if local else found


def iso_time(timestamp: float, *, local: bool = False) -> str:
    """Unix time in seconds as ISO 8601, with milliseconds: in UTC, or in this machine's zone."""
    return moment(timestamp, local=local).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def event_facts(item: Recorded[Any]) -> dict[str, Any]:
    """An event with its offset and cursor, for JSON."""
    return {"offset": item.offset, "cursor": item.cursor, **item.event.to_dict()}


def run_facts(info: RunInfo, *, is_hot: bool) -> dict[str, Any]:
    """What is known of a run, for JSON. Only a hot store knows how far a run is archived."""
    return {
        "run_id": info.run_id,
        "session_id": info.session_id,
        "status": info.status,
        "last_offset": info.last_offset,
        "archived_offset": info.archived_offset if is_hot else None,
        "first_hot": info.first_hot if is_hot else None,
        "created_at": iso_time(info.created_at),
        "updated_at": iso_time(info.updated_at),
        "waiting_for": [asdict(question) for question in info.waiting_for],
        "tags": dict(info.tags),
        "parent": None if info.parent is None else {"run_id": info.parent[0], "offset": info.parent[1]},
    }
