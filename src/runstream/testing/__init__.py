"""Tools for tests of anything that keeps runs in Redis, this library's own tests among them.

:class:`FaultProxy` breaks the connection between a client and a real server at one chosen round trip, so that a
test can say what must hold after a lost reply, a request that never arrived, or half of either.

:mod:`~runstream.testing.simulation` plays whole histories of writers, workers and failing servers, step by step.

What is imported from here needs only the standard library, and nothing else in runstream imports it.
"""

from runstream.testing.fault_proxy.faults import Fault
from runstream.testing.fault_proxy.proxy import FaultProxy

__all__ = ["Fault", "FaultProxy"]
