"""The games that are played by default."""

from __future__ import annotations

from runstream.testing.simulation.plan import Plan

__all__ = ["PLANS"]

PLANS = {
    # replies lost, processes killed or stopped, disks that fail, a server that restarts, leaves, sets its clock
    "storm": Plan(),
    # a server that loses what it has acknowledged, over and over
    "failovers": Plan(
        forms=("plain", "leases", "runs", "resends"),
        troubles=("restart", "leave", "leap", "replicate", "replicate", "fail_over"),
    ),
    # agents that share an event loop, and break off some of their calls
    "asyncio": Plan(
        forms=(),
        loops=(("plain", "leases", "runs"), ("plain", "counts", "resends")),
        workers=1,
        followers=0,
        async_followers=1,
        call_fates=(12, 1),
    ),
}
"""Plans by name."""
