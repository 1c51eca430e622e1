"""The tiered store: Redis and an archive as one store, also while a worker moves the boundary between them."""

from runstream.stores.tiered.checkpointer import AsyncTieredCheckpointer, TieredCheckpointer

__all__ = ["AsyncTieredCheckpointer", "TieredCheckpointer"]
