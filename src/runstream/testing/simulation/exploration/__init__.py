"""Small configurations, of which every history is played."""

from runstream.testing.simulation.exploration.configurations import CONFIGURATIONS
from runstream.testing.simulation.exploration.explore import Configuration, Exploration, explore

__all__ = ["CONFIGURATIONS", "Configuration", "Exploration", "explore"]
