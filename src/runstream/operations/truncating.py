"""Remove the beginning of a history, for every store alike, unless a latest snapshot needs some of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runstream.model.erasures import Erasure
from runstream.model.results import E, Recorded, S
from runstream.model.run_head import SnapshotHead
from runstream.operations.arguments import ReadQuery
from runstream.operations.erase_arguments import MayNeedEvents, TruncateOptions, held_by
from runstream.operations.filters import lane_of
from runstream.operations.interface import StoreOperations
from runstream.operations.operation import Operation, pass_on

__all__ = ["truncating"]


def truncating(
    operations: StoreOperations[E, S], run_id: str, before: int, options: TruncateOptions
) -> Operation[Erasure]:
    """Let the store truncate, and look at the events where it cannot tell whether a snapshot needs them.

    Raises EventsArchived where these have left the store.
    """
    while True:
        try:
            return (yield from operations.truncate(run_id, before, options))
        except MayNeedEvents as error:
            holding = error.holding
        needing = yield from _needing(operations, run_id, before, holding)
        if needing:
            what = f"need events before {before}"
            raise held_by(run_id, needing, what, "save newer ones first, or truncate less; nothing was truncated")
        options = options._replace(clean=options.clean | {saved.token for saved in holding})


def _needing(
    operations: StoreOperations[E, S], run_id: str, before: int, holding: Sequence[SnapshotHead]
) -> Operation[list[SnapshotHead]]:
    """Those of some snapshots after which their run, or their lane, has events that are to go."""
    needing: set[str] = set()

    def look(items: Sequence[Recorded[E]]) -> Sequence[Any]:
        for item in items:
            behind = [saved for saved in holding if saved.offset < item.offset]
            needing.update(saved.token for saved in behind if saved.lane_id in {None, lane_of(item.event)})
        return ()

    query = ReadQuery(min(saved.offset for saved in holding), before=before, on_corrupt="skip")
    yield from pass_on(operations.read(run_id, query), look)
    return [saved for saved in holding if saved.token in needing]
