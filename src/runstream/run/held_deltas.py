"""Text deltas of a lane that wait to be appended together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic

from runstream.model.results import E

__all__ = ["HeldDeltas"]


@dataclass(slots=True)
class HeldDeltas(Generic[E]):
    """Deltas that wait to be appended together.

    Once that was tried and failed they are sealed: as the append may have been applied, they go out again
    as the same batch, which a store applies once, and nothing joins them.
    """

    events: list[E] = field(default_factory=list)
    text_bytes: int = 0
    is_sealed: bool = False
