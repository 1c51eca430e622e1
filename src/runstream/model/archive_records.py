"""What a drain worker hands to an archive, and gets back from it.

An archive keeps JSON text, so the text is made once, by the worker, and every sink stores that same
text: what a sink reads back can then be compared with what Redis holds without decoding anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any, NamedTuple, overload

from runstream.model.results import Cursor

__all__ = [
    "ArchiveEntry",
    "ArchiveSnapshot",
    "EntryColumns",
    "PlainEntries",
    "Position",
    "RunBatch",
    "RunHeader",
    "contents_of",
    "joined",
    "kept_aside",
]


class EntryColumns(NamedTuple):
    """Fields of an event that an archive may want as columns; the event's JSON holds them too."""

    seq: int
    ts: float
    kind: str
    lane_id: str

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> EntryColumns:
        """Those of an event with these fields. Raises KeyError where one has no default."""
        return cls(fields.get("seq", 0), fields["ts"], fields["kind"], fields.get("lane_id", "main"))


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


class PlainEntries(Sequence[ArchiveEntry]):
    """Entries that are nothing but events, column by column; one is made when it is asked for.

    A drain has them by the thousand: it hands whole columns on, and makes none at all.
    """

    __slots__ = ("columns",)

    def __init__(self, columns: Sequence[Sequence[Any]]) -> None:
        self.columns = columns
        """Offset, chain, key, data, seq, ts, kind and lane_id; all of one length."""

    def __len__(self) -> int:
        return len(self.columns[0])

    @overload
    def __getitem__(self, index: int) -> ArchiveEntry: ...
    @overload
    def __getitem__(self, index: slice) -> PlainEntries: ...
    def __getitem__(self, index: int | slice) -> ArchiveEntry | PlainEntries:
        if isinstance(index, slice):
            return PlainEntries([column[index] for column in self.columns])
        offset, chain_there, key, data, *own = [column[index] for column in self.columns]
        return ArchiveEntry(offset, chain_there, key, data, None, "", 0.0, *own)

    def __iter__(self) -> Iterator[ArchiveEntry]:
        offsets, chains, keys, texts, *own = self.columns
        unread = repeat(None), repeat(""), repeat(0.0)
        return map(ArchiveEntry._make, zip(offsets, chains, keys, texts, *unread, *own, strict=False))


def joined(lots: Sequence[Sequence[ArchiveEntry]]) -> Sequence[ArchiveEntry]:
    """The entries of all lots: as columns still, if all of them are."""
    plain = [lot for lot in lots if isinstance(lot, PlainEntries)]
    if len(plain) < len(lots) or not lots:
        return list(chain.from_iterable(lots))
    parts = zip(*(lot.columns for lot in plain), strict=True)
    return PlainEntries([list(chain.from_iterable(part)) for part in parts])


def kept_aside(entries: Sequence[ArchiveEntry]) -> list[ArchiveEntry]:
    """Those that did not read."""
    return [] if isinstance(entries, PlainEntries) else [entry for entry in entries if entry.raw is not None]


def contents_of(entries: Iterable[ArchiveEntry]) -> Iterator[tuple[object, ...]]:
    """The ``content`` of each."""
    if isinstance(entries, PlainEntries):
        return zip(*entries.columns[:4], repeat(None), strict=False)
    return (entry.content for entry in entries)


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
