"""The clocks of this process as functions that ask for the time when they are called.

A default that names ``time.time`` itself keeps the one that was there at import; a simulation puts another in its
place.
"""

from __future__ import annotations

import time

__all__ = ["monotonic_seconds", "unix_seconds"]


def unix_seconds() -> float:
    """Unix time in seconds."""
    return time.time()


def monotonic_seconds() -> float:
    """Seconds since some moment; never less than before."""
    return time.monotonic()
