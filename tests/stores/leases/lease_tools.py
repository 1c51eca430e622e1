"""What the tests of leases share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from runstream.model.results import LeaseGrant
from tests.support.backends import Store
from tests.support.kinds import BACKENDS, SHARED
from tests.support.samples import make_event, make_state
from tests.support.servers import DEADLINE_SECONDS

LEASING = [name for name in BACKENDS if name != "jsonl"]
SHARED_LEASING = [name for name in SHARED if name != "jsonl"]

on_every_leasing_pair = pytest.mark.parametrize("two_stores", SHARED_LEASING, indirect=True)
"""For a test that is the short form of P6 on every store with leases: none is left out by default."""


def seqs(store: Store, run_id: str = "r") -> list[int]:
    return [event.seq for event in store.list_events(run_id)]


def carrying(grant: Any) -> Any:
    """What carries a lease that nobody renews."""
    return SimpleNamespace(grant=grant)


def abandoned(store: Store, ttl: float, **options: Any) -> LeaseGrant:
    """A lease that is held by nobody any more: it is not renewed, and runs out."""
    grant: LeaseGrant = store.lease("r", owner="gone", ttl=ttl, **options).grant
    return grant


def eventually(attempt: Callable[[], Any], *errors: type[Exception]) -> Any:
    """What this gives in the end: until then it raises one of these."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            return attempt()
        except errors:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def writes(store: Store, run_id: str, lane_id: str) -> list[Callable[..., Any]]:
    """Every way to write to a lane, given ``lease=`` or not."""
    event = make_event(run_id, 7, lane_id=lane_id)
    state = make_state(run_id, current_step=7)
    return [
        lambda **lease: store.append(run_id, [event], **lease),
        lambda **lease: store.append(run_id, [event], keys=["k"], **lease),
        lambda **lease: store.append(run_id, [event], snapshot=state, lane_id=lane_id, **lease),
        lambda **lease: store.save_snapshot(run_id, state, lane_id=lane_id, **lease),
    ]


def content(store: Store, run_id: str = "r", lanes: Sequence[str | None] = (None, "main", "a", "b")) -> Any:
    """All that a run holds."""
    return (
        [item[:2] for item in store.read(run_id)],
        [store.load_snapshot(run_id, lane_id=lane) for lane in lanes],
        store.run_info(run_id),
    )
