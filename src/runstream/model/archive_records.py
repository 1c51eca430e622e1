"""The records that a drain worker writes to an archive and reads back.

An archive keeps JSON text. The worker makes the text of an event once, and every sink stores that same text: so
what a sink reads back is compared with what Redis holds without decoding anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any, NamedTuple, overload

from runstream.model.events import HIGHEST_SEQ
from runstream.model.results import Cursor
from runstream.model.run_head import EndedLane, Origins, RunHead, written_as
from runstream.model.tags import TagSet

__all__ = [
    "DAMAGED_LINE",
    "DAMAGED_ROW",
    "STRANGE_LINE",
    "ArchiveEntry",
    "ArchiveSnapshot",
    "EntryColumns",
    "ForeignEvent",
    "ForeignRows",
    "ForeignState",
    "PlainEntries",
    "Position",
    "RunBatch",
    "RunHeader",
    "contents_of",
    "highest_seq",
    "joined",
    "kept_aside",
    "last_cursor",
]

DAMAGED_LINE, DAMAGED_ROW = "its line was damaged", "its row was damaged"
STRANGE_LINE = "not an event of this run"
_NOT_READ = (DAMAGED_LINE, DAMAGED_ROW, STRANGE_LINE)
"""How the reason of an entry begins that the archive itself cannot read; of any other, its record did not read."""


class EntryColumns(NamedTuple):
    """Fields of an event that an archive may keep as columns; the event's JSON holds them too.

    Attributes:
        seq: The producer's own count within the lane.
        ts: When it happened: Unix time in seconds.
        kind: What happened.
        lane_id: The lane that it belongs to.
    """

    seq: int
    ts: float
    kind: str
    lane_id: str

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> EntryColumns:
        """Take the columns from an event's fields.

        Args:
            fields: The event as a dict.

        Returns:
            The columns.

        Raises:
            KeyError: A field is absent that has no default.
        """
        return cls(fields.get("seq", 0), fields["ts"], fields["kind"], fields.get("lane_id", "main"))


class ArchiveEntry(NamedTuple):
    """One offset of a run as an archive keeps it: an event, a record that does not read, or one that was erased.

    Attributes:
        offset: The position in the run.
        chain: The fingerprint of the history up to there.
        key: The caller's key of the event, if it has one.
        data: The event's JSON text; None where there is no event.
        raw: The bytes of a record that does not read: it is kept in the quarantine, and keeps its offset.
        reason: Why it does not read.
        quarantined_at: When it was quarantined: Unix time in seconds; 0.0 where nobody has noted it yet.
        seq: One of the event's columns, as are the next three (see :class:`EntryColumns`), where they are at hand.
            They have no tuple of their own: a drain makes entries by the thousand, and Python's collector scans
            every one.
        ts: See ``seq``.
        kind: See ``seq``; None where the columns are not at hand.
        lane_id: See ``seq``.
    """

    offset: int
    chain: int
    key: str | None
    data: str | None
    raw: bytes | None = None
    reason: str = ""
    quarantined_at: float = 0.0
    seq: int = 0
    ts: float = 0.0
    kind: str | None = None
    lane_id: str = ""

    @property
    def columns(self) -> EntryColumns | None:
        """The event's columns; None where they are not at hand and only its JSON has them."""
        return None if self.kind is None else EntryColumns(self.seq, self.ts, self.kind, self.lane_id)

    @property
    def is_erased(self) -> bool:
        """Whether its content is gone."""
        return self.data is None and self.raw is None

    @property
    def is_damaged(self) -> bool:
        """Whether it is the archive's own row or line that does not read, and not the record that was archived."""
        return self.raw is not None and self.reason.startswith(_NOT_READ)

    @property
    def cursor(self) -> Cursor:
        """The entry's position in this particular history."""
        return Cursor(self.offset, self.chain)

    @property
    def content(self) -> tuple[object, ...]:
        """What must come back equal when the entry is read back."""
        return self[:5]


class PlainEntries(Sequence[ArchiveEntry]):
    """Entries that are all events, kept as columns. An entry is made when it is asked for.

    A drain handles events by the thousand: it hands whole columns on and makes no entry at all.

    Args:
        columns: Offsets, chains, keys, data, seqs, times, kinds and lanes; all of one length.
    """

    __slots__ = ("columns",)

    def __init__(self, columns: Sequence[Sequence[Any]]) -> None:
        self.columns: Sequence[Sequence[Any]] = columns

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


def joined(pages: Sequence[Sequence[ArchiveEntry]]) -> Sequence[ArchiveEntry]:
    """The entries of all pages, one after the other; as columns still, if all pages are."""
    plain = [page for page in pages if isinstance(page, PlainEntries)]
    if len(plain) < len(pages) or not pages:
        return list(chain.from_iterable(pages))
    parts = zip(*(page.columns for page in plain), strict=True)
    return PlainEntries([list(chain.from_iterable(part)) for part in parts])


def last_cursor(entries: Sequence[ArchiveEntry]) -> Cursor:
    """The cursor of the last of some entries."""
    if isinstance(entries, PlainEntries):
        offsets, chains = entries.columns[:2]
        return Cursor(offsets[-1], chains[-1])
    return entries[-1].cursor


def highest_seq(entries: Sequence[ArchiveEntry]) -> int:
    """The highest ``seq`` of entries whose columns are at hand, 0 at the least."""
    if isinstance(entries, PlainEntries):
        return max(0, *entries.columns[4]) if len(entries) else 0
    return max((HIGHEST_SEQ if entry.raw is not None else entry.seq for entry in entries), default=0)


def kept_aside(entries: Sequence[ArchiveEntry]) -> list[ArchiveEntry]:
    """The entries whose records do not read."""
    return [] if isinstance(entries, PlainEntries) else [entry for entry in entries if entry.raw is not None]


def contents_of(entries: Iterable[ArchiveEntry]) -> Iterator[tuple[object, ...]]:
    """The ``content`` of each entry."""
    if isinstance(entries, PlainEntries):
        return zip(*entries.columns[:4], repeat(None), strict=False)
    return (entry.content for entry in entries)


class ArchiveSnapshot(NamedTuple):
    """A snapshot as an archive keeps it.

    Attributes:
        lane_id: The lane whose snapshot it is; None: the run's own.
        offset: It covers the history up to this offset.
        revision: How many times a snapshot of this run or lane was saved, this one included.
        token: Names this very snapshot: a revision can be given out twice after a failover.
        data: The state as JSON text.
    """

    lane_id: str | None
    offset: int
    revision: int
    token: str
    data: str


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What an archive stores of a run besides its history.

    Attributes:
        run_id: The run.
        start: The cursor before its first event.
        session_id: The session that it belongs to.
        status: ``pending``, ``running``, ``paused``, ``completed``, ``failed`` or ``cancelled``.
        created_at: When it was created: Unix time in seconds.
        updated_at: When it was last written to: Unix time in seconds.
        parent: The run that this one is a branch of, and the offset at which they part; None for no branch.
        tags: Its tags; None: nothing is said of them, and what the archive has stays.
        identity: As of :class:`~runstream.model.run_head.RunHead`, as are the next.
        parent_identity: See there.
        base: See there.
        origins: See there.
    """

    run_id: str
    start: Cursor
    session_id: str = ""
    status: str = "running"
    created_at: float = 0.0
    updated_at: float = 0.0
    parent: tuple[str, int] | None = None
    tags: TagSet | None = None
    identity: int = 0
    parent_identity: int = 0
    base: Cursor | None = None
    origins: Origins = ()

    @property
    def creation(self) -> int:
        """The number that names this very creation of the run."""
        return self.identity or self.start.chain

    @property
    def before_first(self) -> Cursor:
        """The cursor before the first event that is there."""
        return self.base or self.start

    @property
    def lowest(self) -> Cursor:
        """The cursor before all that it has, or had, itself."""
        return min(self.start, self.before_first)

    @property
    def begins_after(self) -> int:
        """The offset before the history's first event; 0 for a fork, whose history begins with what it shares."""
        return 0 if self.identity else self.start.offset

    def written_as(self, offset: int) -> str:
        """The run as which the record at an offset was made.

        Args:
            offset: The offset.
        """
        return written_as(self.run_id, self.origins, offset)

    @classmethod
    def of(cls, run_id: str, head: RunHead) -> RunHeader:
        """The header of a run that stands there."""
        facts = head.session_id, head.status, head.created_at, head.updated_at, head.parent
        tags = head.tags if head.tags.version else None
        return cls(run_id, head.start, *facts, tags, head.identity, head.parent_identity, head.base, head.origins)


@dataclass(frozen=True, slots=True)
class RunBatch:
    """What one run adds to an archive.

    Attributes:
        header: What the archive is to note of the run.
        after: The cursor that the entries follow, without a hole.
        entries: The entries to add, in order.
        snapshots: The snapshots to keep, once the entries are there.
        drained: Whether more of the run may come: then its next offsets are not the archive's to give, and what
            another program adds to it there is no part of it.
        ended: Lanes that were ended.
        tags_seen: The version of the tags that the archive had before those of the header were loaded; None: that
            is not known.
        erasures_seen: How many erasures of the run the archive had noted before this was loaded. Where it has
            noted another since, the entries that were to go are written as erased, and the snapshots, which may
            hold something of them, are passed over. None: unknown.
        snapshots_seen: The tokens of the latest snapshots that the archive had before these were loaded, by lane,
            as far as that is known. Where one is there still, the one to keep is later, whatever its revision: the
            server has lost those in between.
        former: What is left of entries before the base of the history, for an archive that has not the run yet.
    """

    header: RunHeader
    after: Cursor
    entries: Sequence[ArchiveEntry] = ()
    snapshots: Sequence[ArchiveSnapshot] = ()
    drained: bool = True
    ended: Sequence[EndedLane] = ()
    tags_seen: str | None = None
    erasures_seen: int | None = None
    snapshots_seen: Mapping[str | None, str] = field(default_factory=dict)
    former: Sequence[ArchiveEntry] = ()

    @property
    def end(self) -> Cursor:
        """The cursor that the archive is at once it has this batch."""
        return last_cursor(self.entries) if self.entries else self.after


@dataclass(frozen=True, slots=True)
class Position:
    """How far an archive has a run.

    Attributes:
        cursor: The cursor of its last entry.
        snapshots: The tokens of its latest snapshots, by lane; None: the run's own.
        tags: The version of its tags; '' for none.
        erasures: How many erasures of the run it has noted.
    """

    cursor: Cursor
    snapshots: Mapping[str | None, str] = field(default_factory=dict)
    tags: str = ""
    erasures: int = 0


class ForeignRows(NamedTuple):
    """What another program did, in an archive, to a run that came by a drain; it is no part of the run's history.

    Attributes:
        run_id: The run.
        events: How many events it has added that the run does not have.
        has_state: Whether it has put a state in the place of the run's.
        has_deleted: Whether it has deleted rows that the archive had.
    """

    run_id: str
    events: int = 0
    has_state: bool = False
    has_deleted: bool = False


class ForeignEvent(NamedTuple):
    """An event that another program has added: its JSON text, and the key that it is to have in the run."""

    key: str
    data: bytes


class ForeignState(NamedTuple):
    """A state of another program: its JSON text, and when it was saved, Unix time in seconds."""

    data: bytes
    saved_at: float
