"""The Run: the handle that an agent author works with, over any store."""

from runstream.run.handles import AsyncRun, Run
from runstream.run.lane import Emission

__all__ = ["AsyncRun", "Emission", "Run"]
