"""Deliberate breaks of the protocol, which the simulation is to find."""

from __future__ import annotations

from collections.abc import Sequence

from tests.simulation.breaks.branches import OF_BRANCHES
from tests.simulation.breaks.clients import IN_CLIENTS
from tests.simulation.breaks.erasing import OF_ERASING
from tests.simulation.breaks.forks import AFTER_BREAKS_OFF
from tests.simulation.breaks.moments import OF_MOMENTS
from tests.simulation.breaks.one import BREAK_PLANS, Break, InScript
from tests.simulation.breaks.operators import OF_OPERATORS
from tests.simulation.breaks.scripts import IN_SCRIPTS
from tests.simulation.breaks.tags import OF_TAGS
from tests.simulation.breaks.workers import IN_WORKERS

__all__ = ["BREAKS", "BREAK_PLANS", "Break", "InScript"]

BREAKS: Sequence[Break] = (
    *(*IN_SCRIPTS, *OF_OPERATORS, *IN_CLIENTS),
    *(*IN_WORKERS, *AFTER_BREAKS_OFF, *OF_TAGS, *OF_BRANCHES, *OF_ERASING, *OF_MOMENTS),
)
