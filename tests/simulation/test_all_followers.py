"""Followers of all runs at once, over a failing server: they see each run's events in order, each once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runstream.testing.simulation import PLANS, Plan
from tests.simulation.games import ended_well

FEW = Plan(forms=("plain", "runs"), workers=1, followers=0, all_followers=1, runs=2, turns=3)
STORM = replace(
    PLANS["storm"], forms=("plain", "runs", "leases"), followers=0, all_followers=1, async_all_followers=1
)
FAILOVERS = replace(PLANS["failovers"], followers=0, all_followers=1, async_all_followers=1)
RETIREMENTS = replace(PLANS["retirements"], readers=0, all_followers=1, async_all_followers=1)


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(FEW, id="few"),
        pytest.param(STORM, marks=pytest.mark.exhaustive, id="storm"),
        pytest.param(FAILOVERS, marks=pytest.mark.exhaustive, id="failovers"),
        pytest.param(RETIREMENTS, marks=pytest.mark.exhaustive, id="retirements"),
    ],
)
def test_a_history_with_followers_of_all_ends_well(plan: Plan) -> None:
    ended_well(plan, 1)
