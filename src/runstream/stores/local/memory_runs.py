"""What stores in memory keep: runs, and the last lease of each lane and each run."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from runstream.codec.record import decode_record, fields_of
from runstream.model.results import Cursor
from runstream.model.run_head import EndedLane, RunHead
from runstream.operations.forks import HeldLock, held_over_fork
from runstream.stores.local.given_leases import GivenLeases

__all__ = ["MEMORIES", "Memory", "MemoryRun"]


@dataclass(slots=True)
class MemoryRun:
    """One run: its head, its own records with their cursors, its packed states by lane, its own lanes and keys.

    ``peaks`` has the highest ``seq`` up to each offset, 0 at the least, from that of its start on.
    """

    head: RunHead
    entries: list[tuple[Cursor, bytes]] = field(default_factory=list)
    peaks: list[int] = field(default_factory=lambda: [0])
    states: dict[str | None, Mapping[bytes, bytes]] = field(default_factory=dict)
    lanes: dict[str, int] = field(default_factory=dict)
    ended: dict[str, EndedLane] = field(default_factory=dict)
    keys: dict[str, Cursor] = field(default_factory=dict)

    def seq_at(self, run_id: str, offset: int) -> int:
        """The ``seq`` of the run's own event at an offset."""
        _, record = self.entries[offset - 1 - self.head.start.offset]
        return int(fields_of(run_id, decode_record(run_id, offset, record))["seq"])


class Memory:
    """What stores in memory keep: the runs, and the last lease of each lane and each run. A fork has a copy."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.runs: dict[str, MemoryRun] = {}
        self.leases = GivenLeases()
        self._held = HeldLock(self.changed)
        held_over_fork(self._held)


MEMORIES: dict[str, Memory] = {}
"""Those that have a name."""
