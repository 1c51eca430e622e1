"""Simulated histories end well, replay exactly, and a failing one becomes a short story."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from runstream.testing.simulation import PLANS, Choices, Plan, play, shrink
from runstream.testing.simulation.coverage import Taken, noted
from runstream.testing.simulation.players.agent import FORMS
from runstream.testing.simulation.series import play_series
from runstream.testing.simulation.server import SimulatedServer
from tests.simulation.breaks import BREAK_PLANS
from tests.simulation.games import ended_well
from tests.simulation.untaken import UNTAKEN, told_in_all, untaken

SEEDS = 1
EXHAUSTIVE_STEPS = 200_000
FIRST_SEED = int(os.environ.get("RUNSTREAM_TEST_SEED", "1"))
SMALL_GAMES = (
    *(("returns", FIRST_SEED + number) for number in range(8)),
    ("full server", 104),
    ("lanes", 3),
    ("lost erasures", 5),
    *(("together", 9), ("together", 31), ("lost together", 31)),
)
"""By plan and seed: games that take ifs of scripts for which there are few games in so many steps."""


@pytest.mark.one_in(12, exhaustively=12)  # the other plans are among the 200,000 steps
@pytest.mark.parametrize("name", PLANS)
def test_each_history_ends_well(name: str) -> None:
    """What was acknowledged is there once, in order, in Redis or in each archive; what was lost was told."""
    events = 0
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        events += ended_well(PLANS[name], seed).events
    assert events > 10 * SEEDS


@pytest.mark.exhaustive
def test_an_agent_saves_no_state_that_may_lack_what_it_gave_up() -> None:
    """It had cancelled an append, which another agent of its store resolved: the state did not have that event."""
    assert not play(PLANS["asyncio"], Choices(30011)).faults


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", [4, 11, 25])
def test_a_late_request_is_applied_once_however_the_clock_is_set(seed: int) -> None:
    """Its producer is forgotten meanwhile, having been heard by clocks that were ahead, and behind."""
    assert not play(BREAK_PLANS["many"], Choices(seed)).faults


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("branches", 830030),  # an intent to fork comes once more, after its fork was deleted
        ("lost erasures", 830036),  # one archive has what a failover has lost whole before the other one got it
        ("lost erasures", 1000004),  # a run is truncated while a worker loads it
        ("deletions", 1000011),  # a run is made anew, and archived, while a worker loads it
        ("lost branches", 2000095),  # an archive has less of a run than a fork of it shares, and is to detach it
        ("cluster", 2000074),  # a failover brings a run back that was deleted, without what had left Redis
        ("cluster", 4000025),  # an operator has both histories put together, each lane's late events after its own
        ("lost tags", 4000020),  # an archive has what a failover has lost, the tags too
        ("idle", 2000043),  # a run leaves Redis while a question is sent again, and the question is refused
        ("failovers", 1000013),  # who wrote what a failover has lost puts it back once the run is parked
    ],
)
def test_a_history_of_this_seed_ends_well(name: str, seed: int) -> None:
    ended_well(PLANS[name], seed)


@pytest.mark.exhaustive
def test_leases_are_renewed_while_the_clock_is_set() -> None:
    """As it is ahead, as it is behind, and as it is right."""
    renewed = Counter[str]()
    for seed in range(2, 8):
        skew = "+0"
        for line in play(PLANS["set clocks"], Choices(seed)).story:
            if found := re.search(r"clock is set to (\S+) s", line):
                skew = found[1]
            renewed[skew] += "sends lease renew" in line
    assert min(renewed["+0"], renewed["-60"] + renewed["-3600"], renewed["+60"] + renewed["+3600"]) > 1, renewed


@pytest.mark.exhaustive
def test_a_run_that_a_failover_has_lost_whole_is_put_back_and_goes_on() -> None:
    """Agents that have an archive beside Redis are told, and put it back; what was in flight is there once."""
    plan = Plan(
        forms=("plain", "contends", "leases"),
        loops=(("contends", "runs"),),
        runs=1,
        turns=10,
        operators=1,
        acts=("end", "restore", "trim", "lease"),
        is_tiered=True,
        retire_after_seconds=0.1,
        followers=0,
        troubles=("restart", "leap", "replicate", "replicate", "fail_over", "step_clock"),
        call_fates=(12, 1),
    )
    restored = 0
    # in the last three: nobody was told that it is put back; another has put it back meanwhile, twice
    for seed in (*range(3), 79, 234, 292):
        finding = play(plan, Choices(seed))
        assert not finding.faults, (seed, finding.faults[:3])
        restored += any(": run-0 is restored" in line for line in finding.story)
    assert restored


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_200_000_steps_end_well(capsys: pytest.CaptureFixture[str]) -> None:
    """And they take each if of the scripts both ways, but for those that are listed with the reason."""
    steps = events = losses = 0
    taken: set[Taken] = set()
    for name, finding in play_series(list(PLANS), FIRST_SEED + SEEDS, EXHAUSTIVE_STEPS, taken=taken):
        assert not finding.faults, f"{name}, seed {finding.seed}: {finding.faults[:3]}"
        steps, events, losses = steps + finding.steps, events + finding.events, losses + finding.losses
    with noted() as in_small_games:
        for name, seed in SMALL_GAMES:
            assert not (faults := play(BREAK_PLANS[name], Choices(seed)).faults), f"{name}, {seed}: {faults[:3]}"
    taken |= in_small_games
    assert steps >= EXHAUSTIVE_STEPS
    with capsys.disabled():
        print(f"\nsimulated: {steps:,} steps, {events:,} batches, {losses} failovers")
        print(told_in_all(taken))
    assert losses > 10
    assert untaken(taken) <= UNTAKEN.keys()


@pytest.mark.one_in(24, exhaustively=12)
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_history_replays_exactly(plan: Plan) -> None:
    """From its seed, and from its choices; whatever was played before."""
    first = play(plan, Choices(3))
    again = play(plan, Choices(3))
    assert (again.story, again.choices) == (first.story, first.choices)
    from_choices = play(plan, Choices(3, first.choices))
    assert from_choices.story == first.story


_PLAYS = """
import sys, zlib
from runstream.testing.simulation import PLANS, Choices, play
for seed in map(int, sys.argv[1:]):
    found = play(PLANS["cluster"], Choices(seed))
print(found.steps, zlib.crc32(repr(found.choices).encode()))
"""


@pytest.mark.exhaustive
def test_a_seed_is_one_history_in_every_process() -> None:
    """Wherever its objects lie in memory, and in whatever order its sets have them."""
    histories = {
        subprocess.run(
            [sys.executable, "-c", _PLAYS, *seeds],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
        ).stdout
        for hash_seed, seeds in (("1", ["4000006"]), ("2", ["4000000", "4000006"]))
    }
    assert len(histories) == 1


@pytest.mark.exhaustive
def test_a_failing_history_becomes_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrunk, it has few troubles left, and fails of the same."""
    # a server that loses what it had, where nobody expects it
    monkeypatch.setattr(SimulatedServer, "restart", _lose_all)
    plan = Plan(forms=("plain",), workers=1, followers=0, runs=1, turns=5, most_steps=2_000)
    failing = next(found for seed in range(1, 60) if (found := play(plan, Choices(seed))).faults)
    tries: list[int] = []

    def fails(choices: Any) -> bool:
        tries.append(1)
        return bool(play(plan, Choices(failing.seed, choices)).faults)

    shrunk = shrink(failing.choices, fails, most_tries=20)
    found = play(plan, Choices(failing.seed, shrunk))
    assert found.faults
    assert sum(map(bool, shrunk)) < sum(map(bool, failing.choices)) / 3
    assert any("restart" in line for line in found.story)


def _lose_all(server: SimulatedServer) -> None:
    for database in server.fake.dbs.values():
        for key in [key for key in database._dict if not key.endswith(b":workers")]:  # whose loss shows at once
            del database._dict[key]


def test_the_plans_have_all_forms_of_agents() -> None:
    assert {form for plan in PLANS.values() for form in plan.forms} == set(FORMS) - {"async"}
