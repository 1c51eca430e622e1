"""Agents that share durable steps, over a failing server: each step has one result, whatever happens."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runstream.testing.simulation import PLANS, Choices, Plan, play

FEW = Plan(forms=("steps", "steps"), workers=1, followers=0, runs=1, turns=5)
FAILOVERS = replace(PLANS["failovers"], forms=("steps", "steps", "runs"))
RETIREMENTS = replace(PLANS["retirements"], forms=("steps", "steps", "plain"))
TASKS = replace(PLANS["asyncio"], loops=(("steps", "steps"), ("steps", "runs")))
FORKS = replace(PLANS["forks"], forms=("steps", "steps"), loops=(), troubles=("restart", "leave", "leap"))


@pytest.mark.parametrize(
    ("plan", "seeds"),
    [
        pytest.param(FEW, 1, id="few"),
        pytest.param(FAILOVERS, 1, marks=pytest.mark.exhaustive, id="failovers"),
        pytest.param(RETIREMENTS, 1, marks=pytest.mark.exhaustive, id="retirements"),
        pytest.param(TASKS, 1, marks=pytest.mark.exhaustive, id="asyncio"),
        pytest.param(FORKS, 1, marks=pytest.mark.exhaustive, id="forks"),
    ],
)
def test_each_history_with_steps_ends_well(plan: Plan, seeds: int) -> None:
    for seed in range(1, seeds + 1):
        finding = play(plan, Choices(seed))
        assert not finding.faults, f"seed {seed}: {finding.faults[:3]}\n" + "\n".join(finding.story[-60:])
        assert sum("steps" in line for line in finding.story) > 0
