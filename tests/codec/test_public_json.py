"""``to_json`` of events and states: what an archive has of them, and what gives them back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from runstream import EncodingError, EventKind, PAEvent, RunState, connect, create_event
from tests.support.commands import run

VALUES: dict[str, Any] = {
    "cost": Decimal("0.10"),
    "at": datetime(2026, 1, 2, tzinfo=UTC),
    "id": UUID(int=1),
    "body": b"\x00\xff",
    "pair": (1, {2, 3}),
    "nan": float("inf"),
    "big": 2**70,
    "looks": {"$decimal": "mine"},
    "keys": {1: None, "ü": True},
}


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int


def test_an_event_comes_back_equal_and_is_what_an_archive_has(tmp_path: Path) -> None:
    event = create_event("r", EventKind.TOOL_RESULT, seq=3, **VALUES)
    text = event.to_json()
    assert "\n" not in text
    assert PAEvent.from_json(text) == PAEvent.from_json(text.encode()) == event
    assert json.loads(text)["payload"]["cost"] == {"$decimal": "0.10"}
    with connect(f"sqlite:{tmp_path}/a.db") as store:
        store.save_event(event)
    exported = run("export", "r", "--url", f"sqlite:{tmp_path}/a.db", "--to", "-", "--format", "jsonl").out
    assert exported.endswith(f',"event":{text}}}\n')


def test_a_state_comes_back_equal() -> None:
    state = RunState("r", data=VALUES)
    state.mark_node_started("model")
    assert RunState.from_json(state.to_json()) == state
    assert json.loads(state.to_json())["status"] == "pending"


def test_what_a_store_makes_plain_is_plain() -> None:
    event = create_event("r", "k", colour=Colour.RED, point=Point(1))
    assert PAEvent.from_json(event.to_json()).payload == {"colour": "red", "point": {"x": 1}}


def test_what_no_store_takes_is_refused_by_name() -> None:
    with pytest.raises(EncodingError, match=r"payload\.args\[1\]"):
        create_event("r", "k", args=[1, object()]).to_json()
    with pytest.raises(EncodingError, match=r"data\.x"):
        RunState("r", data={"x": object()}).to_json()


@pytest.mark.parametrize("text", ["", "[]", '{"run_id": "r", "kind": "k", "payload": {"$decimal": "1 2"}}'])
def test_what_is_no_such_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        PAEvent.from_json(text)
