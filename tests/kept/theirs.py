"""What purpose-agent's own stores write."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

from purpose_agent.runtime import checkpoint, events, state

from tests.kept.author import BEGAN
from tests.kept.neutral import fields_of

__all__ = ["write"]


def write(target: Path) -> dict[str, Any]:
    """A database and a directory with the same runs; what they must read as."""
    target.mkdir()
    stores = [
        checkpoint.SQLiteCheckpointer(str(target / "checkpoints.db")),
        checkpoint.JSONLCheckpointer(str(target / "checkpoints")),
    ]
    runs: dict[str, Any] = {}
    for run_id in ("r", "Run Two", "a/b", "a%20b"):
        written = _events(run_id)
        ended = state.RunState(run_id=run_id, session_id="s", status=state.RunStatus.COMPLETED, current_step=8)
        ended.started_at, ended.updated_at = BEGAN, BEGAN + 9
        ended.data["values"] = {"a": [1, None, {"$set": [1]}], "b": b"\xff"}
        for store in stores:
            for event in written:
                store.save_event(event)
            store.save_snapshot(run_id, ended)
        runs[run_id] = {
            "events": [_as_written(event) for event in written],
            "state": _as_written(ended),
        }
    return {"version": importlib.metadata.version("purpose-agent"), "runs": runs}


def _events(run_id: str) -> list[Any]:
    """Two lanes that count together, so that both kinds of store keep the order of writing."""
    kinds = [events.EventKind.RUN_STARTED, *[events.EventKind.TOOL_RESULT] * 6, events.EventKind.RUN_FINISHED]
    payload = {"data": b"\xff", "text": "\ud800é", "tag": {"$tuple": [1]}, "float": 0.1}
    return [
        events.PAEvent(
            run_id,
            session_id="s",
            lane_id="main" if seq in (1, 8) else "xy"[seq % 2],
            span_id=f"span{seq}",
            seq=seq,
            ts=BEGAN + seq,
            kind=kind,
            payload={} if seq in (1, 8) else {"n": seq, **payload},
        )
        for seq, kind in enumerate(kinds, 1)
    ]


def _as_written(value: Any) -> dict[str, str]:
    """The fields as its JSON has them."""
    return fields_of(json.loads(json.dumps(value.to_dict(), default=str)))
