"""What a drain worker hands to an archive, and gets back from it.

An archive keeps JSON text, so the text is made once, by the worker, and every sink stores that same
text: what a sink reads back can then be compared with what Redis holds without decoding anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from runstream.model.values import Cursor

__all__ = ["ArchiveEntry", "ArchiveSnapshot", "EntryColumns", "Position", "RunBatch", "RunHeader"]


class EntryColumns(NamedTuple):
    """Fields of an event that an archive may want as columns; the event's JSON holds them too."""

    seq: int
    ts: float
    kind: str
    lane_id: str


class ArchiveEntry(NamedTuple):
    """One place of a run as an archive keeps it.

    An event has its JSON text in ``data``. A record that could not be decoded has None there, its
    bytes in ``raw`` and the cause in ``reason``: it goes to the quarantine and keeps its offset.
    An entry that was erased has neither. The last four are ``columns``, where they are at hand: not in a tuple of
    their own, since a drain makes these by the thousand, for Python's collector to look through.
    """

    offset: int
    chain: int
    key: str | None
    data: str | None
    raw: bytes | None = None
    reason: str = ""
    quarantined_at: float = 0.0
    """When the record was kept aside, Unix time in seconds; 0.0 where nobody has noted it yet."""
    seq: int = 0
    ts: float = 0.0
    kind: str | None = None
    lane_id: str = ""

    @property
    def columns(self) -> EntryColumns | None:
        """The event's own columns, None where they are not at hand: its JSON has them."""
        return None if self.kind is None else EntryColumns(self.seq, self.ts, self.kind, self.lane_id)

    @property
    def cursor(self) -> Cursor:
        """The entry's place."""
        return Cursor(self.offset, self.chain)

    @property
    def content(self) -> tuple[object, ...]:
        """What must come back equal when the entry is read back."""
        return self[:5]


class ArchiveSnapshot(NamedTuple):
    """A snapshot as an archive keeps it: its JSON text, and the token that names this very snapshot.

    ``lane_id`` is None for the run's own.
    """

    lane_id: str | None
    offset: int
    revision: int
    token: str
    data: str


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What an archive notes of a run besides its history. ``start`` is the place before its first event.

    ``parent`` is the run that this one is a branch of, and the offset at which it parts from it.
    """

    run_id: str
    start: Cursor
    session_id: str = ""
    status: str = "running"
    created_at: float = 0.0
    updated_at: float = 0.0
    parent: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class RunBatch:
    """What one run adds to an archive: entries that follow ``after`` without a hole, then snapshots."""

    header: RunHeader
    after: Cursor
    entries: Sequence[ArchiveEntry] = ()
    snapshots: Sequence[ArchiveSnapshot] = ()

    @property
    def end(self) -> Cursor:
        """Where the archive stands when it has this batch."""
        return self.entries[-1].cursor if self.entries else self.after


@dataclass(frozen=True, slots=True)
class Position:
    """How far an archive has a run: the place of its last entry, and the snapshots' tokens by lane."""

    cursor: Cursor
    snapshots: Mapping[str | None, str] = field(default_factory=dict)
