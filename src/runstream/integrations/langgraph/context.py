"""What the steps of a saver work with: the store's operations, the serializer, and what the saver knows."""

from __future__ import annotations

from typing import Any, NamedTuple

from runstream.integrations.langgraph.known import Known
from runstream.integrations.langgraph.mapping import Place
from runstream.integrations.langgraph.values import Values
from runstream.model.events import PAEvent
from runstream.operations.interface import StoreOperations

__all__ = ["Context"]


class Context(NamedTuple):
    """What the steps of a saver work with.

    Attributes:
        operations: The store's.
        values: Makes values of objects, and objects of values.
        known: What the saver knows.
        reads_archived: Whether the store reads what has left Redis, too.
    """

    operations: StoreOperations[Any, Any]
    values: Values
    known: Known
    reads_archived: bool

    def event(self, place: Place, kind: str, payload: dict[str, Any]) -> Any:
        """An event of a place, of the store's type."""
        event = PAEvent(run_id=place.thread_id, lane_id=place.lane_id, kind=kind, payload=payload)
        return self.operations.codec.as_own(event)

    def state(self, place: Place, data: dict[str, Any]) -> Any:
        """A state of a place, of the store's type."""
        return self.operations.codec.make_state(place.thread_id, {"run_id": place.thread_id, "data": data})
