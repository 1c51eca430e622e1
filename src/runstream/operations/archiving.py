"""How the archiving of what a store has in Redis stands."""

from __future__ import annotations

from typing import Any

from runstream.model.results import ArchivingHealth
from runstream.operations.arguments import check_seconds
from runstream.operations.interface import IsArchived
from runstream.operations.operation import Operation

__all__ = ["archiving_health"]


def archiving_health(operations: Any, lag_seconds: float) -> Operation[ArchivingHealth]:
    """What the store tells; nothing waits in one that has nothing in Redis.

    Args:
        operations: The store's.
        lag_seconds: For how long a run may be due.
    """
    check_seconds("lag_seconds", lag_seconds)
    if not isinstance(operations, IsArchived):
        return ArchivingHealth()
    return (yield from operations.archiving_health(lag_seconds))
