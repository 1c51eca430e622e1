"""The simulation can fail: each deliberate break of the protocol is found."""

from __future__ import annotations

import pytest

from runstream.testing.simulation import PLANS, Choices, play
from tests.simulation.breaks import BREAKS, Break

MOST_SEEDS = 60


@pytest.mark.one_in(3)
@pytest.mark.parametrize("one", BREAKS, ids=lambda one: one.name)
def test_a_break_is_found(one: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within so many seeds; unbroken, the same seed ends well."""
    with monkeypatch.context() as patched:
        one.make(patched)
        found = next(
            (seed for seed in range(1, MOST_SEEDS + 1) if play(PLANS[one.plan], Choices(seed)).faults), None
        )
        assert found is not None
    assert not play(PLANS[one.plan], Choices(found)).faults
