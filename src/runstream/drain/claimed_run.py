"""One claimed run on its way into the archives: what is left to do, one piece after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from operator import eq
from shlex import quote
from typing import TypeAlias

from runstream.codec.archive_entries import archive_lots
from runstream.codec.chain import next_chain
from runstream.codec.record import record_crc
from runstream.model.archive_records import ArchiveEntry, ArchiveSnapshot, Position, RunBatch, joined
from runstream.model.errors import ArchiveGap, HistoryDiverged, UnsupportedVersion
from runstream.model.results import Cursor
from runstream.stores.redis.operations.worker.drain import DueRun, Loaded, LoadedRun, Wanted

__all__ = ["Piece", "Positions", "RunWork", "once_mended", "why_parked"]

Positions: TypeAlias = Sequence[tuple[str, Position | None]]
"""The location of each archive and how far it has a run, in the order of the worker's sinks."""


def why_parked(error: ArchiveGap | HistoryDiverged) -> str:
    """Why a run is parked that an archive cannot take, and what comes next."""
    if isinstance(error, HistoryDiverged):
        return f"{error}; decide which is to be the run's: `runstream resolve {quote(error.run_id)}`"
    return f"{error}; bring the archive back that has it, then: `runstream unpark {quote(error.run_id)}`"


def once_mended(reason: str, run_id: str) -> str:
    """Why a run is parked until something is put right that the reason tells, and what comes next."""
    return f"{reason}; once that is put right: `runstream unpark {quote(run_id)}`"


@dataclass(slots=True)
class RunWork:
    """A claimed run: ``at`` is the place up to which it is proven, ``lanes`` the snapshots to archive."""

    claim: DueRun
    run: LoadedRun
    positions: Positions
    at: Cursor
    lanes: Sequence[str | None]

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.run.header.run_id

    @property
    def left(self) -> int:
        """How many entries are not proven yet."""
        return self.run.last.offset - self.at.offset

    def want(self, room: int) -> Wanted:
        """What to load next, at most ``room`` entries; the snapshots come with the last of them."""
        count = min(room, self.left)
        lanes = self.lanes if count == self.left else ()
        return Wanted(self.run_id, self.at.offset + 1, self.at.offset + count, lanes)

    def settled(self, end: Cursor) -> None:
        """Go on from there: what it is compared with from now on is how this worker has left it."""
        self.at = end
        self.run = replace(self.run, mark=max(self.run.mark, end))
        self.positions = [
            (location, Position(end, {}) if held is None else replace(held, cursor=max(held.cursor, end)))
            for location, held in self.positions
        ]

    @classmethod
    def begin(cls, claim: DueRun, run: LoadedRun, positions: Positions) -> RunWork:
        """The work on a run, given how far each archive has it.

        It begins at the archived mark, or before it where an archive is behind: what others wrote
        after the mark is not proven yet, and neither are snapshots that no settling has noted as proven.
        Raises HistoryDiverged for an archive that is ahead of Redis.
        """
        at = run.mark
        held: list[Mapping[str | None, str]] = []
        for location, position in positions:
            cursor = run.header.start if position is None else position.cursor
            if cursor.offset > run.last.offset or (cursor.offset == run.last.offset and cursor != run.last):
                raise HistoryDiverged(
                    f"{location} has run {run.header.run_id!r} up to {cursor}, Redis up to {run.last}: events were"
                    " lost in Redis, or the run was deleted there and made anew; both are kept",
                    run_id=run.header.run_id,
                    offset=cursor.offset,
                )
            at = min(at, cursor)
            held.append({} if position is None else position.snapshots)
        held.append(run.proven)
        lanes = [lane for lane, token in run.tokens.items() if any(h.get(lane) != token for h in held)]
        return cls(claim, run, positions, at, lanes)


@dataclass(slots=True)
class Piece:
    """What is written, proven and settled of a run in one go."""

    work: RunWork
    entries: Sequence[ArchiveEntry]
    snapshots: list[ArchiveSnapshot] = field(default_factory=list)
    broken: Mapping[str | None, str] = field(default_factory=dict)
    blocked: str = ""
    """Why the run cannot go on after this piece: a record of a newer version."""
    fresh_bytes: int = 0
    """The size of those records that lie after the mark."""

    @property
    def end(self) -> Cursor:
        """The place up to which the archives have the run then."""
        return self.entries[-1].cursor if self.entries else self.work.at

    @property
    def is_last(self) -> bool:
        """Whether nothing that was there when the run was loaded is left after this piece."""
        return not self.blocked and self.end.offset == self.work.run.last.offset

    @property
    def tokens(self) -> dict[str | None, str]:
        """The snapshots that count as archived once this piece is."""
        return {**self.work.run.tokens, **{snapshot.lane_id: snapshot.token for snapshot in self.snapshots}}

    def batch(self) -> RunBatch:
        """What every archive gets."""
        return RunBatch(self.work.run.header, self.work.at, self.entries, self.snapshots)

    @classmethod
    def make(cls, work: RunWork, want: Wanted, loaded: Loaded) -> Piece:
        """The piece that was loaded.

        Raises ArchiveGap where entries have left Redis unarchived, and HistoryDiverged where it is not of the
        history that the work began with.
        """
        piece = cls(work, [], broken=loaded.broken)
        if loaded.start != work.run.header.start:
            raise _diverged(work)
        piece.entries, piece.blocked = _entries(work.run_id, want.first, loaded)
        # the first chain tells for all that were loaded with it; that of a damaged record tells nothing
        if piece.entries and piece.entries[0].data is not None:
            crc = record_crc(loaded.records[0])
            if piece.entries[0].chain != next_chain(work.at.chain, crc):
                raise _diverged(work)
        fresh = max(0, work.run.mark.offset + 1 - want.first)
        piece.fresh_bytes = sum(map(len, loaded.records[fresh : len(piece.entries)]))
        if piece.blocked:
            return piece
        reached = want.first - 1 + len(piece.entries)
        if reached != want.last:
            raise ArchiveGap(
                f"event {reached + 1} of run {work.run_id!r} is neither in Redis nor in every archive: it was lost"
                " there, or trimmed for an archive that is not the one at hand",
                run_id=work.run_id,
                expected=reached + 1,
                found=want.last + 1,
            )
        # one that was saved since the run was loaded may cover events that are not in this piece
        piece.snapshots = [snapshot for snapshot in loaded.snapshots if snapshot.offset <= work.run.last.offset]
        return piece


def _entries(run_id: str, first: int, loaded: Loaded) -> tuple[Sequence[ArchiveEntry], str]:
    """What was loaded without a hole, from that offset on, and why a record stops it there, if one does."""
    offsets, chains = loaded.places
    are_next = list(map(eq, offsets, count(first)))
    dense = are_next.index(False) if False in are_next else len(offsets)
    lots: list[Sequence[ArchiveEntry]] = []
    try:
        for lot in archive_lots(run_id, offsets[:dense], chains[:dense], loaded.records[:dense]):
            lots.append(lot)  # noqa: PERF402 - what came before a record of a newer version stays
    except UnsupportedVersion as error:
        return joined(lots), str(error)
    return joined(lots), ""


def _diverged(work: RunWork) -> HistoryDiverged:
    return HistoryDiverged(
        f"what Redis has of run {work.run_id!r} after {work.at} does not follow from there: the run was deleted"
        " and made anew, or events were lost in Redis; nothing of it was written",
        run_id=work.run_id,
        offset=work.at.offset,
    )
