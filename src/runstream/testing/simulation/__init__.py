"""Deterministic simulation: whole histories of writers, workers and failing servers, played by a scheduler.

The code that is simulated is the real one: stores, drivers, scripts, drain worker and archives. What it waits for
is not: time, the network and the server are the simulation's, and each point at which it waits is a step. At each
step one of the tasks goes on, chosen by a :class:`Choices`, which may also lose a request or a reply, kill a
process or stop it for an hour. So one seed is one history, which replays exactly.
"""

from runstream.testing.simulation.choices import Choices
from runstream.testing.simulation.game import Game, play
from runstream.testing.simulation.plan import Finding, Plan
from runstream.testing.simulation.plans import PLANS
from runstream.testing.simulation.shrink import shrink

__all__ = ["PLANS", "Choices", "Finding", "Game", "Plan", "play", "shrink"]
