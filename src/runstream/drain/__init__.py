"""The drain: archive what is in Redis, prove it, and trim."""

from runstream.drain.seq_spans import Trim
from runstream.drain.worker import DrainWorker

__all__ = ["DrainWorker", "Trim"]
