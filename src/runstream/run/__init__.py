"""The Run: the handle that an agent author works with, over any store."""

from runstream.run.lane import Emission
from runstream.run.run import AsyncRun, Run

__all__ = ["AsyncRun", "Emission", "Run"]
