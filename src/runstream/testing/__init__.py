"""Tools for tests of anything that keeps runs on Redis, this library's own tests among them.

What it is for: breaking the connection between a client and a real server at one chosen round trip, so that a
test can say what must hold after a reply that was lost, a request that never came, or half of either.

It imports nothing but the standard library, and nothing in the rest of runstream imports it.
"""

from runstream.testing.fault_proxy.connection import Fault
from runstream.testing.fault_proxy.proxy import FaultProxy

__all__ = ["Fault", "FaultProxy"]
