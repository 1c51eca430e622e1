"""One lane of a run in an agent's hands: the Run and the Lease, over any store."""

from runstream.run.async_run import AsyncRun
from runstream.run.emission import Emission
from runstream.run.lease import AsyncLease, Lease
from runstream.run.run import Run

__all__ = ["AsyncLease", "AsyncRun", "Emission", "Lease", "Run"]
