"""What a deliberate break is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import pytest

from runstream.stores.redis.scripts.library import SCRIPT
from runstream.testing.simulation import PLANS, Plan
from runstream.testing.simulation.server import SimulatedServer

__all__ = ["BREAK_PLANS", "Break", "in_script"]

BREAK_PLANS: Mapping[str, Plan] = {
    **PLANS,
    # workers who stand still while others take their runs
    "rivals": replace(PLANS["lapses"], troubles=("leap",), fates=(60, 1, 1, 0, 0, 6, 1, 1)),
    # a state that many change, and nothing else
    "counters": Plan(forms=("counts",) * 3, followers=0, runs=1),
}
"""The games in which breaks are looked for, by name."""


class Break(NamedTuple):
    """A break of the protocol.

    Attributes:
        name: What it is.
        plan: In which games it is looked for; see :data:`BREAK_PLANS`.
        make: Makes it.
        seed: One that finds it: it is tried first.
    """

    name: str
    plan: str
    make: Callable[[pytest.MonkeyPatch], None]
    seed: int = 1


def in_script(script: str, *changes: tuple[str, str]) -> Callable[[pytest.MonkeyPatch], None]:
    """Put other text in the place of some of a script's."""

    def make(patched: pytest.MonkeyPatch) -> None:
        source = SCRIPT[script].source
        for text, other in changes:
            assert source.count(text) == 1, (script, text)
            source = source.replace(text, other)
        patched.setattr(SimulatedServer, "broken", {script: source})

    return make
