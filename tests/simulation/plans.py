"""The games that the tests play."""

from __future__ import annotations

from runstream.testing.simulation import Plan

__all__ = ["FAILOVERS", "PLANS", "STORM"]

STORM = Plan()
"""Replies lost, processes killed or stopped, disks that fail, a server that restarts, leaves, sets its clock."""
FAILOVERS = Plan(
    forms=("plain", "leases", "runs", "resends"),
    troubles=("restart", "leave", "leap", "replicate", "replicate", "fail_over"),
)
"""A server that loses what it has acknowledged, over and over."""
PLANS = {"storm": STORM, "failovers": FAILOVERS}
