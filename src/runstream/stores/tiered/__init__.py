"""Redis and an archive as one store: a run is read whole, also while a worker moves the boundary."""

from runstream.stores.tiered.checkpointer import AsyncTieredCheckpointer, TieredCheckpointer

__all__ = ["AsyncTieredCheckpointer", "TieredCheckpointer"]
