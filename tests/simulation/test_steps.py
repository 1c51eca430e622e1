"""Agents that share durable steps, over a failing server: each step has one result, whatever happens."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runstream.testing.simulation import PLANS, Plan
from tests.simulation.games import ended_well

FEW = Plan(forms=("steps", "steps"), workers=1, followers=0, runs=1, turns=5)
FAILOVERS = replace(PLANS["failovers"], forms=("steps", "steps", "runs"))
RETIREMENTS = replace(PLANS["retirements"], forms=("steps", "steps", "plain"))
TASKS = replace(PLANS["asyncio"], loops=(("steps", "steps"), ("steps", "runs")))
FORKS = replace(PLANS["forks"], forms=("steps", "steps"), loops=(), troubles=("restart", "leave", "leap"))


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(FEW, id="few"),
        pytest.param(FAILOVERS, marks=pytest.mark.exhaustive, id="failovers"),
        pytest.param(RETIREMENTS, marks=pytest.mark.exhaustive, id="retirements"),
        pytest.param(TASKS, marks=pytest.mark.exhaustive, id="asyncio"),
        pytest.param(FORKS, marks=pytest.mark.exhaustive, id="forks"),
    ],
)
def test_a_history_with_steps_ends_well(plan: Plan) -> None:
    assert sum("steps" in line for line in ended_well(plan, 1).story) > 0
