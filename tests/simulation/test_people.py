"""Agents that ask, and answer each other, over a failing server: a question is answered once, whatever happens."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runstream.testing.simulation import PLANS, Plan
from tests.simulation.games import ended_well

ASKING = Plan(forms=("asks", "asks", "asks", "runs"), runs=1, turns=14)
FEW = Plan(forms=("asks", "asks"), workers=1, followers=1, runs=1, turns=5)
FAILOVERS = replace(PLANS["failovers"], forms=("asks", "asks", "runs"))


@pytest.mark.parametrize(
    ("plan", "seeds"),
    [
        pytest.param(FEW, 1, id="few"),
        pytest.param(ASKING, 4, marks=pytest.mark.exhaustive, id="storm"),
        pytest.param(FAILOVERS, 4, marks=pytest.mark.exhaustive, id="failovers"),
    ],
)
def test_each_history_with_people_ends_well(plan: Plan, seeds: int) -> None:
    for seed in range(1, seeds + 1):
        assert sum("asks" in line for line in ended_well(plan, seed).story) > 0
