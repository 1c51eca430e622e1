"""Hot and archive as one: a run is read whole, wherever its events lie and while the boundary moves."""

from runstream.stores.tiered.async_checkpointer import AsyncTieredCheckpointer
from runstream.stores.tiered.checkpointer import TieredCheckpointer

__all__ = ["AsyncTieredCheckpointer", "TieredCheckpointer"]
