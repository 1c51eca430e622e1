"""The drain: archive what is in Redis, prove it, and trim."""

from runstream.drain.worker import DrainWorker, Trim

__all__ = ["DrainWorker", "Trim"]
