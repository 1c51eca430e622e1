"""Look-ups in the runs of one machine's stores, each as one blocking call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Generic

from runstream.model.results import E, Recorded, S
from runstream.model.run_head import RunHead
from runstream.operations.arguments import ReadQuery
from runstream.operations.look_ups import in_order, keys_asked, offsets_asked, spans_of
from runstream.operations.operation import in_one_call

__all__ = ["LookUps"]


class LookUps(ABC, Generic[E, S]):
    """The part of a local store's operations that looks up events by their keys and by their offsets."""

    @abstractmethod
    def _offsets_of(self, run_id: str, keys: Sequence[str]) -> Mapping[str, int]:
        """The offsets of the events that have these keys, by key."""

    @abstractmethod
    def _load_head(self, run_id: str) -> RunHead | None:
        """The run's head, without its snapshots if so asked; None for a run that is not there."""

    @abstractmethod
    def _read(self, run_id: str, query: ReadQuery) -> Iterator[Recorded[E]]:
        """Read the events of a query, which was checked. Nothing is read before the first of them is taken."""

    @in_one_call
    def find(self, run_id: str, keys: Iterable[str]) -> list[int | None]:
        """The offsets of the events that have these keys; None for a key that the run does not know."""
        asked = keys_asked(run_id, keys)
        found = self._offsets_of(run_id, asked)
        return [found.get(key) for key in asked]

    @in_one_call
    def read_at(self, run_id: str, offsets: Iterable[int]) -> list[Recorded[E]]:
        """The events at these offsets, in the order in which they are asked for."""
        asked = offsets_asked(run_id, offsets)
        head = self._load_head(run_id) or RunHead()
        first, last = head.start.offset + 1, head.last.offset
        found: dict[int, Recorded[E]] = {}
        for low, high in spans_of(offset for offset in asked if first <= offset <= last):
            found.update((item.offset, item) for item in self._read(run_id, ReadQuery(low, before=high + 1)))
        return in_order(run_id, asked, found, first, last)
