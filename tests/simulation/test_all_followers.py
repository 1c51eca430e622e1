"""Followers of all runs at once, over a failing server: they see each run's events in order, each once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runstream.testing.simulation import PLANS, Choices, Plan, play

FEW = Plan(forms=("plain", "runs"), workers=1, followers=0, all_followers=1, runs=2, turns=3)
STORM = replace(
    PLANS["storm"], forms=("plain", "runs", "leases"), followers=0, all_followers=1, async_all_followers=1
)
FAILOVERS = replace(PLANS["failovers"], followers=0, all_followers=1, async_all_followers=1)
RETIREMENTS = replace(PLANS["retirements"], readers=0, all_followers=1, async_all_followers=1)


@pytest.mark.parametrize(
    ("plan", "seeds"),
    [
        pytest.param(FEW, 1, id="few"),
        pytest.param(STORM, 1, marks=pytest.mark.exhaustive, id="storm"),
        pytest.param(FAILOVERS, 1, marks=pytest.mark.exhaustive, id="failovers"),
        pytest.param(RETIREMENTS, 1, marks=pytest.mark.exhaustive, id="retirements"),
    ],
)
def test_each_history_with_followers_of_all_ends_well(plan: Plan, seeds: int) -> None:
    for seed in range(1, seeds + 1):
        finding = play(plan, Choices(seed))
        assert not finding.faults, f"seed {seed}: {finding.faults[:3]}\n" + "\n".join(finding.story[-60:])
