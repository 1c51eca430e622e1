"""The replica of a simulated server has what the server has, up to some write."""

from __future__ import annotations

from pathlib import Path

from runstream.testing.simulation import Choices, Plan
from runstream.testing.simulation.scheduler import Process
from runstream.testing.simulation.world import World
from tests.support.samples import make_event, make_events


def test_a_replica_has_what_was_written_under_a_lease(tmp_path: Path) -> None:
    """Its identity is another one: where it ran the scripts again, they would refuse."""
    world = World(Plan(), Choices(1), tmp_path)
    world.server.replicate()
    events = make_events("r", 3, lane_id="a")
    with world.open(Process("a writer"), partitions=1) as store:
        with store.lease("r", owner="me", lane_id="a") as lease:
            lease.append("r", events[:1])
            lease.append("r", events[1:])
        store.save_event(make_event("r"))
        written = list(store.read("r"))
        assert len(written) == 4
        world.server.promote(lost=1)
    with world.open(Process("another")) as store:
        assert list(store.read("r")) == written[:3]
