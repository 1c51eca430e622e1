"""Hot and archive as one: a run is read whole, wherever its events lie and while the boundary moves."""

from runstream.tiered.async_checkpointer import AsyncTieredCheckpointer
from runstream.tiered.checkpointer import TieredCheckpointer

__all__ = ["AsyncTieredCheckpointer", "TieredCheckpointer"]
