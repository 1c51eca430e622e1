"""The runs that a run comes from: made of what every store gives."""

from __future__ import annotations

from runstream.model.identifiers import check_run_id
from runstream.model.results import E, Fork, S
from runstream.operations.interface import StoreOperations
from runstream.operations.operation import Operation

__all__ = ["ancestors"]

_MOST = 50


def ancestors(operations: StoreOperations[E, S], run_id: str) -> Operation[list[Fork]]:
    """The runs that a run comes from, the nearest first, each with the offset at which the next parts from it.

    The last of them may be one that is not there any more.
    """
    check_run_id(run_id)
    found: list[Fork] = []
    seen, at = {run_id}, run_id
    while len(found) < _MOST:
        info = yield from operations.run_info(at)
        if info is None or info.parent is None or info.parent[0] in seen:
            break
        found.append(Fork(*info.parent))
        at = info.parent[0]
        seen.add(at)
    return found
