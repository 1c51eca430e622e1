"""How two runs differ: made of what every store gives.

Two events with one cursor prove that all before them is the same, so where two runs part is found in a few reads.
A run that names another as its parent has that one's history up to the offset at which it parts from it, whether
or not it can be read there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Generic, NamedTuple

from runstream.codec.differences import differences
from runstream.model.errors import ConfigurationError, EventsArchived
from runstream.model.identifiers import MAIN_LANE, check_run_id
from runstream.model.results import E, Recorded, S, Snapshot
from runstream.model.run_diff import LaneDiff, RunDiff, StateDifference
from runstream.operations.arguments import ReadQuery
from runstream.operations.filters import lane_of
from runstream.operations.interface import StoreOperations
from runstream.operations.operation import Operation, collect

__all__ = ["diffing"]


class _Pair(NamedTuple, Generic[E, S]):
    """Two runs of a store."""

    operations: StoreOperations[E, S]
    run_ids: tuple[str, str]


class _Compared(NamedTuple):
    """Two runs at an offset, where one or both have an event that tells; offset 0: neither has.

    They are the same up to there, or known to differ, or neither.
    """

    offset: int
    is_same: bool = False
    is_other: bool = False


def diffing(operations: StoreOperations[E, S], run_id: str, other_run_id: str) -> Operation[RunDiff[E]]:
    """Find where two runs part, and what differs from there."""
    pair = _Pair(operations.for_one_writer(), (run_id, other_run_id))  # whose snapshots nobody goes on from
    ends, pedigrees = [], []
    for each in pair.run_ids:
        pedigree = yield from _pedigree(pair, each)
        pedigrees.append(pedigree)
        ends.append(pedigree[each])
    shared = yield from _shared_offset(pair, min(ends), _common(*pedigrees))
    sides = []
    for each, end in zip(pair.run_ids, ends, strict=True):
        recorded: list[Recorded[E]] = yield from collect(
            pair.operations.read(each, ReadQuery(shared, before=end + 1))
        )
        lanes: dict[str, list[Recorded[E]]] = {}
        for item in recorded:
            lanes.setdefault(lane_of(item.event), []).append(item)
        sides.append(lanes)
    found = []
    for lane_id in dict.fromkeys((*sides[0], *sides[1])):
        state = () if lane_id == MAIN_LANE else (yield from _of_states(pair, lane_id))
        found.append(LaneDiff(lane_id, sides[0].get(lane_id, ()), sides[1].get(lane_id, ()), state))
    own = yield from _of_states(pair, None)
    return RunDiff(run_id, other_run_id, shared, found, own)


def _pedigree(pair: _Pair[Any, Any], run_id: str) -> Operation[dict[str, int]]:
    """A run and those that it comes from, each with the offset up to which it has that one's history."""
    check_run_id(run_id)
    info = yield from pair.operations.run_info(run_id)
    if info is None:
        raise ConfigurationError(f"there is no run {run_id!r} here to compare: see its id (list_runs)")
    found = {run_id: info.last_offset}
    upto = info.last_offset
    while info is not None and info.parent is not None and info.parent[0] not in found:
        parent, offset = info.parent
        upto = min(upto, offset)
        found[parent] = upto
        info = yield from pair.operations.run_info(parent)
    return found


def _common(pedigree: Mapping[str, int], other: Mapping[str, int]) -> int:
    """Up to where two runs have the history of one that both come from; 0 without one."""
    return next((min(upto, other[run_id]) for run_id, upto in pedigree.items() if run_id in other), 0)


def _shared_offset(pair: _Pair[Any, Any], high: int, common: int) -> Operation[int]:
    """The last offset up to which the two have one history."""
    low = min(common, high)
    if low:  # as they say; but a parent may have been deleted, and made anew
        with suppress(EventsArchived):
            compared = yield from _compare(pair, 0, low, low)
            low = 0 if compared.is_other else low
    while low < high:
        middle = (low + high + 1) // 2
        compared = yield from _compare_hot(pair, low, middle, high)
        if compared.is_same:
            low = compared.offset
        elif compared.offset:
            high = min(high, compared.offset) - 1
        else:
            break
    return low


def _compare_hot(pair: _Pair[Any, Any], low: int, at: int, high: int) -> Operation[_Compared]:
    """Compare at an offset; where that has left the store, at the first that has not, which proves as much."""
    while True:
        try:
            return (yield from _compare(pair, low, at, high))
        except EventsArchived as moved:
            if not at < moved.first_hot <= high:
                raise
            at = moved.first_hot


def _compare(pair: _Pair[Any, Any], low: int, at: int, high: int) -> Operation[_Compared]:
    """Compare two runs by their last events up to an offset, or, if those were erased, by the first after it."""
    backward = ReadQuery(low, before=at + 1, limit=1, reverse=True, on_corrupt="raw")
    forward = ReadQuery(at, before=high + 1, limit=1, on_corrupt="raw")
    for query in (backward, forward):
        items = []
        for run_id in pair.run_ids:
            items += yield from collect(pair.operations.read(run_id, query))
        if items:
            cursors, offsets = {item.cursor for item in items}, {item.offset for item in items}
            is_same = len(items) == 2 and len(cursors) == 1
            return _Compared(min(offsets), is_same, len(items) == 2 and len(offsets) == 1 and not is_same)
    return _Compared(0)


def _of_states(pair: _Pair[Any, Any], lane_id: str | None) -> Operation[list[StateDifference]]:
    states: list[dict[str, Any]] = []
    for run_id in pair.run_ids:
        snapshot = yield from pair.operations.load_snapshot(run_id, lane_id)
        states.append(dict(_fields_of(snapshot)))
    return differences(*states)


def _fields_of(snapshot: Snapshot[Any] | None) -> Iterator[tuple[str, Any]]:
    """The fields of a state; the run's own id tells nothing."""
    stored = {} if snapshot is None else snapshot.stored
    return ((name, value) for name, value in stored.items() if name != "run_id")
