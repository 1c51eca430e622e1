"""Play a game that is to end well."""

from __future__ import annotations

from runstream.testing.simulation import Choices, Finding, Plan, play

__all__ = ["ended_well"]


def ended_well(plan: Plan, seed: int) -> Finding:
    """What came of the game of this seed, in which nothing is wrong."""
    finding = play(plan, Choices(seed))
    assert not finding.faults, f"seed {seed}: {finding.faults[:3]}\n" + "\n".join(finding.story[-60:])
    return finding
