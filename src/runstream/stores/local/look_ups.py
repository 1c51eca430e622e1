"""Look-ups in the runs of one machine's stores, each as one blocking call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from runstream.model.results import E, Recorded, S
from runstream.model.run_head import RunHead
from runstream.operations.arguments import ReadQuery
from runstream.operations.look_ups import in_order, keys_asked, offsets_asked, spans_of
from runstream.operations.operation import in_one_call
from runstream.stores.local.lineage import Lineage

__all__ = ["LookUps"]


class LookUps(Lineage[E, S]):
    """The part of a local store's operations that looks up events by their keys and by their offsets."""

    @in_one_call
    def find(self, run_id: str, keys: Iterable[str]) -> list[int | None]:
        """The offsets of the events that have these keys; None for a key that the run does not know."""
        asked = keys_asked(run_id, keys)
        found = dict(self._own_keys(run_id, asked))
        if lacking := [key for key in asked if key not in found]:
            found |= self._inherited_keys(run_id, self._load_head(run_id), lacking)
        return [found[key].offset if key in found else None for key in asked]

    @in_one_call
    def read_at(self, run_id: str, offsets: Iterable[int]) -> list[Recorded[E]]:
        """The events at these offsets, in the order in which they are asked for."""
        asked = offsets_asked(run_id, offsets)
        found: dict[int, Recorded[E]] = {}
        head = self._load_head(run_id) or RunHead()
        first, last = self._segments(run_id, head)[0].after + 1, head.last.offset
        if wanted := sorted({offset for offset in asked if first <= offset <= last}):
            found.update((item.offset, item) for item in self._read_at(run_id, wanted, head))
        return in_order(run_id, asked, found, first, last)

    def _read_at(self, run_id: str, offsets: Sequence[int], head: RunHead) -> Iterator[Recorded[E]]:
        """Read the events at some offsets, at least one and in order, of the run that has this head."""
        for low, high in spans_of(offsets):
            yield from self._read(run_id, ReadQuery(low, before=high + 1, limit=high - low), head)
