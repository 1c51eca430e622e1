"""The simulation can fail: each deliberate break of the protocol is found."""

from __future__ import annotations

import pytest

from runstream.stores.redis.scripts.library import SCRIPT
from runstream.testing.simulation import Choices, play
from tests.simulation import test_exploration
from tests.simulation.breaks import BREAK_PLANS, BREAKS, Break, InScript

MOST_SEEDS = 300


@pytest.mark.one_in(60, exhaustively=4)
@pytest.mark.parametrize("one", BREAKS, ids=lambda one: one.name)
def test_a_break_is_found(one: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within so many seeds, of which one that has found it is tried first; unbroken, the same seed ends well."""
    plan = BREAK_PLANS[one.plan]
    with monkeypatch.context() as patched:
        one.make(patched)
        seeds = dict.fromkeys([one.seed, *range(1, MOST_SEEDS + 1)])
        found = next((seed for seed in seeds if play(plan, Choices(seed)).faults), None)
        assert found is not None
        assert found <= MOST_SEEDS
    assert not play(plan, Choices(found)).faults


def test_there_are_so_many_breaks() -> None:
    assert len({one.name for one in BREAKS}) == len(BREAKS) >= 30


def test_there_is_one_of_each_script() -> None:
    """Of all but those that write nothing, two whose check saves work alone, and one whose note settling makes."""
    broken = {one.make.script for one in BREAKS if isinstance(one.make, InScript)}
    broken |= {make.script for _, make in test_exploration.BREAKS.values()}
    assert broken == SCRIPT.keys() - {"load", "note_erasure", "revisit", "tagged", "uncovered"}
